"""Measuring atomic columns."""

from stemkit.detection.detector import AtomDetector
from stemkit.detection.quality import Quality, good_columns
from stemkit.detection.reconstruction import fitted_image

__all__ = ["AtomDetector", "Quality", "fitted_image", "good_columns"]
