"""Measuring atomic columns."""

from stemkit.detection.detector import AtomDetector
from stemkit.detection.fitted import fitted_image
from stemkit.detection.table import Quality, good_columns

__all__ = ["AtomDetector", "Quality", "fitted_image", "good_columns"]
