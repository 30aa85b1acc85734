"""The noise model of an image: the one attached to it, or one that is calibrated."""

from __future__ import annotations

import xarray as xr

from stemkit.images.containers import Images
from stemkit.images.provenance import check_noise_attr
from stemkit.noise.calibration import NoiseCalibrator
from stemkit.noise.model import NoiseModel

__all__ = ["resolve_noise"]


def resolve_noise(image: xr.DataArray, mode: str | None, calibrate_on: Images | None = None) -> NoiseModel:
    """Noise model from ``attrs["noise"]``; without that entry it is calibrated.

    Parameters
    ----------
    image : DataArray of shape (n_y, n_x)
    mode : {"haadf", "bf"} or None
        Bright or dark columns; None: that of the image, or inferred from it.
    calibrate_on : DataArray, ndarray or list of them, optional
        Images on which the noise is calibrated; None: ``image``.

    Returns
    -------
    NoiseModel

    Raises
    ------
    ValueError
        If the attached model is of another pixel size or mode.
    """
    attached = check_noise_attr(image, mode)
    if attached:
        return NoiseModel.from_dict(attached)
    return NoiseCalibrator(mode=mode).fit(image if calibrate_on is None else calibrate_on).noise_model_
