"""The image of fitted columns from their table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits, render_columns
from stemkit.images import recorded_image, single_image
from stemkit.images.mode import mode_sign, resolve_mode
from stemkit.images.pixel_size import mean_pixel_size

__all__ = ["fitted_image"]

#: Number of the nearest columns whose backgrounds are averaged at a pixel (chosen).
N_NEAREST = 4


def fitted_image(table: pd.DataFrame, image: xr.DataArray | NDArray, *, mode: str | None = None) -> xr.DataArray:
    """Image of the fitted columns on their backgrounds, for a comparison with the recorded image.

    Parameters
    ----------
    table : DataFrame
        The table of :class:`~stemkit.AtomDetector` for this image.
    image : DataArray or ndarray of shape (n_y, n_x)
    mode : {"haadf", "bf"} or None, default=None
        None: the mode of the image; if it has none, the mode is inferred.

    Returns
    -------
    DataArray of shape (n_y, n_x)
        In the image's units, with its coordinates. The background of a pixel is the mean of the backgrounds of the four
        nearest columns, weighted by the inverse square of their distance.

    Raises
    ------
    ValueError
        If `image` is a stack.

    Examples
    --------
    >>> import numpy as np
    >>> from stemkit import AtomDetector
    >>> from stemkit.detection import fitted_image
    >>> y, x = np.mgrid[:40, :40]
    >>> image = 1 + np.exp(-((y - 20) ** 2 + (x - 19) ** 2) / 18) + np.random.default_rng(0).normal(0, 0.01, (40, 40))
    >>> table = AtomDetector(mode="haadf").fit_transform(image)
    >>> bool(np.abs(image - fitted_image(table, image, mode="haadf")).mean() < 0.02)
    True
    """
    recorded = recorded_image(single_image(image))
    sign = mode_sign(resolve_mode(recorded, mode))
    good = table[np.isfinite(table["y_err"])]
    size = mean_pixel_size(recorded)
    n_y, n_x = recorded.shape
    drawn = sign * render_columns(_fits(good, size), (n_y, n_x))
    return recorded.copy(data=drawn + _background(good, recorded))


def _fits(table: pd.DataFrame, size: float) -> ColumnFits:
    values: dict[str, NDArray] = {
        "y": table["y_px"].to_numpy(),
        "x": table["x_px"].to_numpy(),
        "amplitude": table["amplitude"].to_numpy(),
        "sigma": table["sigma"].to_numpy() / size,
    }
    if "angle" in table:
        major, minor = table["sigma_major"] ** 2, table["sigma_minor"] ** 2
        e, double_angle = ((major - minor) / (major + minor)).to_numpy(), np.radians(2 * table["angle"].to_numpy())
        values |= {"e1": -e * np.cos(double_angle), "e2": e * np.sin(double_angle)}
    return ColumnFits.from_values(len(table), **values)


def _background(table: pd.DataFrame, image: xr.DataArray) -> NDArray[np.float64]:
    if len(table) == 0:
        return np.full(image.shape, float(np.median(image.values)))
    pixels = np.indices(image.shape).reshape(2, -1).T
    k = min(N_NEAREST, len(table))
    distance, nearest = cKDTree(table[["y_px", "x_px"]].to_numpy()).query(pixels, k=[*range(1, k + 1)])
    weight = 1 / (distance**2 + 1)
    level = (weight * table["background"].to_numpy()[nearest]).sum(axis=1) / weight.sum(axis=1)
    return level.reshape(image.shape)
