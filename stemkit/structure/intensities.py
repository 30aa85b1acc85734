"""Sums of a signal over the pixels nearest to each column."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from stemkit.images import single_image
from stemkit.parameters import check_number, check_positive
from stemkit.statistics import median_spacing
from stemkit.structure.tables import positions_in_image

__all__ = ["voronoi_intensities"]

#: Default of ``max_radius``, median distances of nearest columns (chosen: the corners of the cells of a square lattice
#: are at 0.71, those of a hexagonal one at 0.58).
RADIUS = 0.75


def voronoi_intensities(
    image: xr.DataArray | NDArray,
    table: pd.DataFrame,
    *,
    background: float = 0.0,
    variance: ArrayLike | None = None,
    max_radius: float | None = None,
) -> pd.DataFrame:
    """Sum a signal over the Voronoi cell of each column: the pixels that are nearer to it than to any other one.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        The image in which the columns were measured, or another signal of the same scan, such as a map of X-ray counts.
    table : DataFrame
        Columns of this image. All of them, as a column that is left out gives its pixels to its neighbours.
    background : float, default=0.0
        Intensity that is subtracted from each pixel.
    variance : float or array-like of shape (n_y, n_x), optional
        Variance of the noise of each pixel, such as the image itself for counted events, or
        ``noise_model.variance(image)``. Pixels are assumed to be independent.
    max_radius : float, optional
        Largest distance of a pixel from its column, in the unit of the table. By default 0.75 median distances of
        nearest columns, which limits the cells at the border of a particle.

    Returns
    -------
    DataFrame
        With the table's index: ``voronoi`` (sum times the area of a pixel, as the detector's ``intensity``),
        ``voronoi_err`` (NaN without a variance), ``area`` (unit of the table squared), ``n_pixels`` and ``at_border``
        (whether the cell contains pixels at the border of the image, so that a part of it is missing).

    Raises
    ------
    ValueError
        If the image is a stack, or the variance has another shape.

    Notes
    -----
    Sums do not depend on the shape of columns, and contain everything between them [1]_. Intensities of Gaussians are
    more precise if columns are Gaussian, and separate columns that overlap.

    References
    ----------
    .. [1] E et al., Ultramicroscopy 133, 109 (2013), https://doi.org/10.1016/j.ultramic.2013.07.002

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import voronoi_intensities
    >>> table = pd.DataFrame({"y": [4.0, 4.0], "x": [4.0, 11.0]})
    >>> voronoi_intensities(np.ones((9, 15)), table, max_radius=20)["voronoi"].tolist()
    [72.0, 63.0]
    """
    one = single_image(image)
    check_number("background", background)
    check_positive("max_radius", max_radius, optional=True)
    positions, size = positions_in_image(table, one)
    if max_radius is None:
        max_radius = RADIUS * median_spacing(positions) if len(positions) > 1 else max(one.shape)
    else:
        max_radius = max_radius / float(np.sqrt(np.prod(size)))
    nearest = _nearest_column(positions, one.shape, max_radius)
    inside, area = nearest >= 0, float(np.prod(size))

    def total(values: NDArray) -> NDArray[np.float64]:
        return np.asarray(np.bincount(nearest[inside], values[inside], len(table)), dtype=np.float64)

    sums = total(one.values.astype(np.float64) - background) * area
    errors = np.full(len(table), np.nan)
    if variance is not None:
        errors = np.sqrt(total(_variance(variance, one.shape))) * area
    border = np.ones(one.shape)
    border[1:-1, 1:-1] = 0
    n_pixels = total(np.ones(one.shape)).astype(np.int64)
    result = {"voronoi": sums, "voronoi_err": errors, "area": n_pixels * area, "n_pixels": n_pixels}
    return pd.DataFrame(result | {"at_border": total(border) > 0}, index=table.index)


def _nearest_column(positions: NDArray, shape: tuple[int, ...], radius: float) -> NDArray[np.int64]:
    """Row of the column nearest to each pixel ``(n_y, n_x)``, -1 beyond a radius."""
    # pixel by pixel of a window around all columns at once: faster than a tree for millions of pixels
    nearest, least = np.full(shape, -1, dtype=np.int64), np.full(shape, radius**2)
    center = np.round(positions).astype(np.int64)
    reach = int(np.ceil(min(radius, max(shape)) + 1))
    collide = len(np.unique(center, axis=0)) < len(center)  # two columns in one pixel
    steps = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    for step in steps[np.hypot(*steps.T) <= reach]:
        at = center + step
        square = ((at - positions) ** 2).sum(axis=1)
        rows = np.flatnonzero(((at >= 0) & (at < shape)).all(axis=1))
        if collide:
            rows = rows[np.argsort(-square[rows], kind="stable")]  # the nearest is written last
        y, x = at[rows].T
        nearer = square[rows] <= least[y, x]
        least[y[nearer], x[nearer]] = square[rows][nearer]
        nearest[y[nearer], x[nearer]] = rows[nearer]
    return nearest


def _variance(variance: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    values = np.asarray(variance, dtype=np.float64)
    if values.shape not in ((), shape) or not (values >= 0).all():
        raise ValueError(
            f"variance must be a number or have the image's shape, {shape}, and not be negative, but has shape "
            f"{values.shape}"
        )
    return np.broadcast_to(values, shape)
