"""Scores of what a method makes of an image: one small function each.

PSNR and SSIM are in :mod:`stemkit.metrics`. Lengths are in px unless stated.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from stemkit.columns import find_peaks
from stemkit.images import mode_sign
from stemkit.metrics import Match, match_columns

__all__ = ["contrast_left", "heights", "intensity_slope", "located", "peaks", "photon_limit", "shift_errors", "visible"]

#: Columns are matched within this part of their spacing.
RADIUS = 1 / 3
#: A maximum is a column from this part of the image's range.
VISIBLE = 0.2


def located(found: pd.DataFrame, true: pd.DataFrame, spacing: float) -> Match:
    """Found columns matched to true ones: precision, recall, F1, bias and RMS error."""
    names = ["y_px", "x_px"]
    return match_columns(found[names].to_numpy(), true[names].to_numpy(), RADIUS * spacing)


def visible(
    found: pd.DataFrame, true: pd.DataFrame, shown: pd.DataFrame, spacing: float, shape: tuple[int, ...]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What detection is judged on: found and true columns half a spacing or more from the border, and of the true ones
    those that the clean image shows as maxima (``shown``). What is found at a maximum of the clean image that is no
    column's, such as two columns in one, counts neither for nor against a method: a perfect one has F1 = 1.
    """
    names = ["y_px", "x_px"]
    match = located(shown, true, spacing)
    strange = np.delete(shown[names].to_numpy(), match.found, axis=0)
    judged = true.iloc[np.sort(match.true)]
    if len(strange) and len(found):
        found = found[cKDTree(strange).query(found[names].to_numpy())[0] > RADIUS * spacing]
    last = np.array(shape) - 1 - spacing / 2
    inner = [((t[names] > spacing / 2) & (t[names] < last)).all(axis=1) for t in (found, judged)]
    # a column may be found on the other side of the line
    near = cKDTree(found[names].to_numpy()) if len(found) else None
    kept = judged[inner[1]]
    if near is None or len(kept) == 0:
        return found[inner[0]], kept
    ours = np.zeros(len(found), dtype=bool)
    ours[located(found, kept, spacing).found] = True
    beyond = np.zeros(len(found), dtype=bool)
    rest = judged[~inner[1]]
    if len(rest):
        beyond[located(found, rest, spacing).found] = True
    return found[ours | (inner[0].to_numpy() & ~beyond)], kept


def peaks(
    image: xr.DataArray | NDArray, spacing: float, *, contrast: float | None = None, sign: float = 1
) -> pd.DataFrame:
    """The columns that an enhanced image shows to a plain eye: ``y_px, x_px`` of its maxima above a fifth of its range.

    The same for every method: maxima of the image, no two nearer than half the spacing, to a part of a pixel by a
    parabola. The range is from the 5th to the 99.5th percentile, or the contrast, where it is known.
    """
    values = sign * np.asarray(image, dtype=np.float64)
    low, high = np.quantile(values, [0.05, 0.995])
    least = low + VISIBLE * (high - low if contrast is None else contrast)
    found = find_peaks(values, threshold=least, min_distance=0.5 * spacing)
    return pd.DataFrame(found, columns=["y_px", "x_px"])


def heights(image: xr.DataArray | NDArray, places: ArrayLike, *, sign: float = 1) -> NDArray[np.float64]:
    """What an image shows at places ``(n, 2)`` (y, x), interpolated linearly, times ``sign``."""
    from scipy.ndimage import map_coordinates

    values = np.asarray(image, dtype=np.float64)
    return sign * map_coordinates(values, np.asarray(places, dtype=float).T, order=1, mode="nearest")


def contrast_left(
    image: xr.DataArray | NDArray,
    empty: ArrayLike,
    full: ArrayLike,
    between: ArrayLike,
    *,
    contrast: float | None = None,
    sign: float = 1,
) -> float:
    """How much of a column an image shows where there is none: 0 is the truth, 1 means that vacancies are filled in.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
    empty, full, between : array-like of shape (n, 2)
        Places (y, x) of vacancies, of columns of their kind, and of the darkest points between columns.
    contrast : float, optional
        By how much the columns stand above those points in truth. None takes what the image shows of it: no measure of
        an image without contrast.
    sign : int
        -1 in bright field.
    """
    low, high, gone = (float(np.mean(heights(image, p, sign=sign))) for p in (between, full, empty))
    contrast = high - low if contrast is None else contrast
    return (gone - low) / contrast if contrast else np.nan


def shift_errors(found: ArrayLike, true: ArrayLike, direction: ArrayLike) -> tuple[float, float]:
    """Bias and RMS of positions along a direction (y, x), px: what becomes of a planted shift."""
    unit = np.asarray(direction, dtype=float) / np.linalg.norm(direction)
    error = (np.asarray(found, dtype=float) - np.asarray(true, dtype=float)) @ unit
    return float(error.mean()), float(np.sqrt((error**2).mean()))


def photon_limit(dose: float, *, background: float = 0.0, mode: str = "haadf") -> float:
    """The smallest RMS error of a column's position along one axis, px, that counted electrons allow.

    Without background a Gaussian of ``N = 2 pi sigma^2 dose`` electrons is located to ``sigma / sqrt(N)``
    ``= 1 / sqrt(2 pi dose)``, whatever its width (Bobroff, Rev. Sci. Instrum. 57, 1152 (1986),
    https://doi.org/10.1063/1.1138619). With one it is the inverse root of the Fisher information, the sum over pixels
    of ``(ds/dx)^2 / (s + background)``, where s is the column, of negative sign in bright field; it does not depend on
    the width either.

    Parameters
    ----------
    dose, background : float
        Electrons per pixel that the column adds, in bright field takes away, and those where there is no column.
    mode : {"haadf", "bf"}

    Raises
    ------
    ValueError
        If there are too few electrons for the column to take away, in bright field.
    """
    if mode == "bf" and background < dose:
        raise ValueError(f"background must be at least the dose, {dose:g}, in bright field, but is {background!r}")
    if background == 0:
        return float(1 / np.sqrt(2 * np.pi * dose))
    # not in the middle, where in bright field all electrons may be gone
    at = np.arange(-8, 8, 0.05) + 0.025
    y, x = np.meshgrid(at, at, indexing="ij")
    column = dose * np.exp(-(y**2 + x**2) / 2)
    # in units of sigma, which cancels: the slope is 1 / sigma as large, the area sigma^2
    information = float(((x * column) ** 2 / (mode_sign(mode) * column + background)).sum() * 0.05**2)
    return float(1 / np.sqrt(information))


def intensity_slope(measured: ArrayLike, true: ArrayLike) -> float:
    """Slope of measured on true intensities of columns, in the same units: below 1 where a method makes columns alike,
    or faint.
    """
    y, x = (np.asarray(v, dtype=float) for v in (measured, true))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
