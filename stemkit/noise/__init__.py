"""The noise of a microscope: what it is (model), how it is drawn (drawing), how it is measured (calibration)."""

from stemkit.noise.calibration import NoiseCalibrator
from stemkit.noise.model import BackgroundNoise, Detector, NoiseModel, PointwiseNoise, ScanNoise

__all__ = ["BackgroundNoise", "Detector", "NoiseCalibrator", "NoiseModel", "PointwiseNoise", "ScanNoise"]
