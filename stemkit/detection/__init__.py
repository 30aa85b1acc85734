"""Measuring atomic columns."""

from stemkit.detection.detector import AtomDetector
from stemkit.detection.table import Quality

__all__ = ["AtomDetector", "Quality"]
