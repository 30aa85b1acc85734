"""The noise of a microscope: what it is (model), how it is drawn (drawing), how it is measured, and rows put back in
their places (rows).

Measuring reads in this order: calibration (the estimator), measuring (one image), specimen (its columns, taken off)
with readings and registration (where each row stood), then rowwise (streaks and pointwise noise), shape (their law),
background, and faults (of the pixels and of the scan). figure3 is the paper's method, and figures draws it.
"""

from stemkit.noise.calibration import NoiseCalibrator
from stemkit.noise.model import BackgroundNoise, Detector, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.rows import RowAligner

__all__ = [
    "BackgroundNoise",
    "Detector",
    "NoiseCalibrator",
    "NoiseModel",
    "PointwiseNoise",
    "RowAligner",
    "ScanNoise",
]
