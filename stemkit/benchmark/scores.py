"""Scores of enhanced images, one small function each.

PSNR and SSIM are in :mod:`stemkit.metrics`. Lengths are in px unless stated otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from stemkit.columns import find_peaks
from stemkit.images.mode import mode_sign
from stemkit.metrics import Match, match_columns

__all__ = [
    "Judged",
    "image_maxima",
    "intensity_slope",
    "match_tables",
    "position_error_limit",
    "remaining_contrast",
    "select_judged",
    "shift_errors",
    "values_at",
]

#: Columns are matched within this fraction of their spacing (chosen).
MATCH_RADIUS = 1 / 3
#: A maximum counts as a column from this fraction of the image's range (chosen).
MIN_MAXIMUM_HEIGHT = 0.2
#: Quantiles of the intensities that are taken as the image's range (chosen).
RANGE_QUANTILES = (0.05, 0.995)
#: Maxima closer to each other than this fraction of the spacing are one (chosen).
MIN_MAXIMA_DISTANCE = 0.5
#: Half the edge of the square on which the Fisher information is integrated, sigmas (chosen).
INTEGRATION_RADIUS = 8.0
#: Step of this integration, sigmas (chosen).
INTEGRATION_STEP = 0.05
#: Columns of a table with the positions, px.
POSITION = ["y_px", "x_px"]


def match_tables(found: pd.DataFrame, true: pd.DataFrame, spacing: float) -> Match:
    """Match found to true columns by ``y_px`` and ``x_px``, within a third of the spacing."""
    return match_columns(found[POSITION].to_numpy(), true[POSITION].to_numpy(), MATCH_RADIUS * spacing)


@dataclass(frozen=True)
class Judged:
    """Columns on which a detection is scored.

    Attributes
    ----------
    found, true : DataFrame
        With ``y_px`` and ``x_px``.
    """

    found: pd.DataFrame
    true: pd.DataFrame


def select_judged(
    found: pd.DataFrame, true: pd.DataFrame, true_maxima: pd.DataFrame, spacing: float, shape: tuple[int, ...]
) -> Judged:
    """Select the columns on which a detection is scored: those resolved in the true image, away from the border.

    True columns count if they are maxima of the true image and at least half a spacing from the border. Found columns
    at maxima of the true image that are not true columns, such as two columns that overlap to one, count neither for
    nor against a method, so that a perfect method has F1 = 1. A found column beyond the limit still counts if its true
    column is inside it, and conversely.

    Parameters
    ----------
    found, true, true_maxima : DataFrame
        With ``y_px`` and ``x_px``: columns found in a method's image, true columns, and maxima of the true image.
    spacing : float
    shape : (int, int)
        ``(n_y, n_x)`` of the image.

    Returns
    -------
    Judged
    """
    match = match_tables(true_maxima, true, spacing)
    resolved = true.iloc[np.sort(match.true)]
    unmatched = np.delete(true_maxima[POSITION].to_numpy(), match.found, axis=0)
    if len(unmatched) and len(found):
        found = found[cKDTree(unmatched).query(found[POSITION].to_numpy())[0] > MATCH_RADIUS * spacing]
    is_inside = _inside(resolved, spacing, shape)
    judged, near_border = resolved[is_inside], resolved[~is_inside]
    if len(found) == 0 or len(judged) == 0:
        return Judged(found[_inside(found, spacing, shape)], judged)
    of_judged, of_border = (_is_matched(found, each, spacing) for each in (judged, near_border))
    return Judged(found[of_judged | (_inside(found, spacing, shape) & ~of_border)], judged)


def _inside(table: pd.DataFrame, spacing: float, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    positions, last = table[POSITION].to_numpy(), np.array(shape) - 1 - spacing / 2
    return ((positions > spacing / 2) & (positions < last)).all(axis=1)


def _is_matched(found: pd.DataFrame, true: pd.DataFrame, spacing: float) -> NDArray[np.bool_]:
    out = np.zeros(len(found), dtype=bool)
    if len(true):
        out[match_tables(found, true, spacing).found] = True
    return out


def image_maxima(
    image: xr.DataArray | NDArray, spacing: float, *, contrast: float | None = None, sign: float = 1
) -> pd.DataFrame:
    """Find the maxima of an enhanced image above a fifth of its range, the same way for all methods.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
    spacing : float
        Distance of nearest columns, px; no two maxima are closer than half of it.
    contrast : float, optional
        Contrast of the columns. Default: the range from the 5 % to the 99.5 % quantile of the image.
    sign : int
        -1 in bright field.

    Returns
    -------
    DataFrame
        ``y_px, x_px``, with sub-pixel precision by a parabola.
    """
    values = sign * np.asarray(image, dtype=np.float64)
    low, high = np.quantile(values, RANGE_QUANTILES)
    threshold = low + MIN_MAXIMUM_HEIGHT * (high - low if contrast is None else contrast)
    found = find_peaks(values, threshold=threshold, min_distance=MIN_MAXIMA_DISTANCE * spacing)
    return pd.DataFrame(found, columns=POSITION)


def values_at(image: xr.DataArray | NDArray, positions: ArrayLike, *, sign: float = 1) -> NDArray[np.float64]:
    """Intensities at positions ``(n, 2)`` (y, x), px, interpolated linearly, times ``sign``."""
    values = np.asarray(image, dtype=np.float64)
    return sign * map_coordinates(values, np.asarray(positions, dtype=float).T, order=1, mode="nearest")


def remaining_contrast(
    image: xr.DataArray | NDArray,
    empty: ArrayLike,
    full: ArrayLike,
    between: ArrayLike,
    *,
    contrast: float | None = None,
    sign: float = 1,
) -> float:
    """Contrast of an image at vacancies, relative to that of a column: 0 is correct, 1 means that they are filled in.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
    empty, full, between : array-like of shape (n, 2)
        Positions (y, x), px, of the vacancies, of columns of the same kind, and of the darkest points between columns.
    contrast : float, optional
        True contrast between columns and those points. Default: that of the image, which is meaningless if the image
        has no contrast.
    sign : int
        -1 in bright field.

    Returns
    -------
    float
        NaN if the contrast is zero.
    """
    low, high, at_empty = (float(np.mean(values_at(image, each, sign=sign))) for each in (between, full, empty))
    contrast = high - low if contrast is None else contrast
    return (at_empty - low) / contrast if contrast else np.nan


def shift_errors(found: ArrayLike, true: ArrayLike, direction: ArrayLike) -> tuple[float, float]:
    """Bias and RMS error of positions along a direction (y, x), px."""
    unit = np.asarray(direction, dtype=float) / np.linalg.norm(direction)
    error = (np.asarray(found, dtype=float) - np.asarray(true, dtype=float)) @ unit
    return float(error.mean()), float(np.sqrt((error**2).mean()))


def position_error_limit(dose: float, *, background: float = 0.0, mode: str = "haadf") -> float:
    """Cramér-Rao bound of the position of a Gaussian column along one axis, px, for counted electrons.

    Parameters
    ----------
    dose : float
        Expected electrons per pixel that the column adds at its centre, or removes in bright field.
    background : float
        Expected electrons per pixel without the column.
    mode : {"haadf", "bf"}

    Returns
    -------
    float
        Smallest RMS error of an unbiased position.

    Raises
    ------
    ValueError
        If, in bright field, the column removes more electrons than there are.

    Notes
    -----
    Without background a Gaussian of ``N = 2 pi sigma^2 dose`` electrons is located to ``sigma / sqrt(N)``
    ``= 1 / sqrt(2 pi dose)``, independently of its width [1]_. With a background it is the inverse square root of the
    Fisher information, the sum over pixels of ``(ds/dx)^2 / (s + background)`` with the signal s of the column, which
    is negative in bright field; the width cancels in it, too.

    References
    ----------
    .. [1] N. Bobroff, Rev. Sci. Instrum. 57, 1152 (1986), https://doi.org/10.1063/1.1138619
    """
    if mode == "bf" and background < dose:
        raise ValueError(f"background must be at least the dose, {dose:g}, in bright field, but is {background!r}")
    if background == 0:
        return float(1 / np.sqrt(2 * np.pi * dose))
    # half a step off the centre, where no electrons may be left in bright field
    at = np.arange(-INTEGRATION_RADIUS, INTEGRATION_RADIUS, INTEGRATION_STEP) + INTEGRATION_STEP / 2
    y, x = np.meshgrid(at, at, indexing="ij")
    column = dose * np.exp(-(y**2 + x**2) / 2)
    # lengths in sigmas: the squared slope is 1 / sigma^2 as large and the area sigma^2
    information = float(((x * column) ** 2 / (mode_sign(mode) * column + background)).sum() * INTEGRATION_STEP**2)
    return float(1 / np.sqrt(information))


def intensity_slope(measured: ArrayLike, true: ArrayLike) -> float:
    """Slope of measured on true intensities of columns: below 1 where a method equalises or weakens columns."""
    y, x = (np.asarray(v, dtype=float) for v in (measured, true))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
