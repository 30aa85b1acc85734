"""Noise of the microscope: its model, drawing it, measuring it in an image, and alignment of displaced rows.

- ``model`` and ``scan`` contain the dataclasses of the noise model, ``drawing`` draws the noise of a batch of images,
  ``resolve`` takes the model of an image: attached or calibrated.
- ``calibration`` is the estimator, ``image_calibration`` the calibration of one image.
- ``separation`` separates specimen and noise: columns are fitted, and the displacement of each row is estimated at each
  column (``shift_estimates``) and combined over the columns (``registration`` with ``posterior``, ``row_information``,
  ``symmetric_matrix`` and ``lattice_prior``). ``column_search`` and ``valid_pixels`` prepare it.
- ``components`` divides the noise into pointwise noise and streaks by its covariance along the row (``lag_covariance``,
  with ``differences``, ``displacement_correction`` and ``variance_line``); ``distribution``, ``background`` and
  ``scale`` measure the rest of the model; ``constants`` are shared.
- ``spectrum``, ``spectrum_fit`` and ``hum`` divide the displacements into jitter, drift and hum
  (``displacement_parts``, ``pair_covariance``).
- ``fault_detection`` detects faults of an image that are not noise.
- ``filter_residuals`` is the method of the paper by Li et al., for comparison; ``plots`` draws a calibration.
- ``row_alignment`` shifts displaced rows back.
"""

from stemkit.noise.calibration import NoiseCalibrator
from stemkit.noise.model import BackgroundNoise, Digitization, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.row_alignment import RowAligner

__all__ = [
    "BackgroundNoise",
    "Digitization",
    "NoiseCalibrator",
    "NoiseModel",
    "PointwiseNoise",
    "RowAligner",
    "ScanNoise",
]
