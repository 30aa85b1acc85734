"""Pixels of an image from which noise is measured: of the crystal, away from columns that are not fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.columns import ColumnFits
from stemkit.statistics import robust_rms

__all__ = ["nearest_pixels", "valid_pixels"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the choice."""

    #: Distance to which columns beyond the border extend into the image, column widths (chosen).
    border: float = 2.5
    #: Distance from the nearest column beyond which a pixel can be vacuum or support, spacings (chosen).
    vacuum_distance: float = 0.9
    #: Difference between the level of vacuum or support and the median background of the columns, at least, standard
    #: deviations of these backgrounds (chosen).
    vacuum_level: float = 5.0
    #: Fraction of the image far from all columns above which vacuum or support is searched for (chosen).
    min_vacuum: float = 2e-3
    #: Fraction of the image above which the pixels of the crystal are used alone; below, all valid pixels (chosen).
    min_crystal: float = 0.05


CONSTANTS = _Constants()


def valid_pixels(
    residual: NDArray, faulty: NDArray, fits: ColumnFits, spacing: float, displacement: float
) -> NDArray[np.bool_]:
    """Pixels of the crystal that are not faulty, and that no column beyond the border or in a faulty area reaches.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
        The image without the rendered fits.
    faulty : ndarray of bool, shape (n_y, n_x)
    fits : ColumnFits
    spacing : float
        Spacing of the columns, px.
    displacement : float
        RMS displacement along x, px.
    """
    margin = CONSTANTS.border * float(np.median(fits.sigma))
    valid = _away_from_border(residual.shape, margin, margin + 2 * displacement) & _away_from_faults(faulty, margin)
    return _inside_crystal(residual, valid, fits, spacing)


def nearest_pixels(fits: ColumnFits, shape: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """Rows and columns of the pixels at the columns' centres."""
    y, x = (p.round().astype(int).clip(0, n - 1) for p, n in zip((fits.y, fits.x), shape, strict=True))
    return y, x


def _away_from_border(shape: tuple[int, ...], margin_y: float, margin_x: float) -> NDArray[np.bool_]:
    inside = np.zeros(shape, dtype=bool)
    y, x = (min(math.ceil(m), n // 8) for m, n in zip((margin_y, margin_x), shape, strict=True))
    inside[y : shape[0] - y, x : shape[1] - x] = True
    return inside


def _away_from_faults(bad: NDArray, margin: float) -> NDArray[np.bool_]:
    """Pixels that are not faulty and that no column with its centre in an area of faulty pixels reaches."""
    if not bad.any():
        return ~bad
    # single pixels and rows hide no column
    area = ndimage.binary_opening(bad, np.ones((3, 3)))
    return ~bad & (ndimage.distance_transform_edt(~area) > margin) if area.any() else ~bad


def _inside_crystal(residual: NDArray, valid: NDArray, fits: ColumnFits, spacing: float) -> NDArray[np.bool_]:
    """The valid pixels without vacuum or support: pixels far from all columns, with a level that the backgrounds of the
    columns do not have, and those within a spacing of such pixels.

    A step to the vacuum is not background noise, and the noise in the vacuum is not that of the specimen.
    """
    if not valid.any():
        return valid
    no_column = np.ones(residual.shape, dtype=bool)
    no_column[nearest_pixels(fits, residual.shape)] = False
    far = ndimage.distance_transform_edt(no_column) > CONSTANTS.vacuum_distance * spacing
    if far.mean() < CONSTANTS.min_vacuum:
        return valid
    level = float(np.median(fits.background))
    local = ndimage.gaussian_filter(residual, 0.25 * spacing)
    other_level = np.abs(local - level) > CONSTANTS.vacuum_level * robust_rms(fits.background - level)
    outside = ndimage.binary_opening(far & other_level, np.ones((3, 3)))
    if not outside.any():
        return valid
    inside = valid & (ndimage.distance_transform_edt(~outside) > spacing)
    return inside if inside.mean() > CONSTANTS.min_crystal else valid
