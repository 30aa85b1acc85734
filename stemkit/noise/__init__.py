"""The noise of a microscope: what it is (model), how it is drawn (drawing), how it is measured (calibration), and rows
put back in their places (rows).
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
