"""Measuring atomic columns."""

from stemkit.detection.detector import AtomDetector

__all__ = ["AtomDetector"]
