"""Misfit: the systematic residual around fitted columns.

It is what displaced rows, tails of the probe and other non-Gaussian shapes leave, and is neither noise of the pixels
nor another column. Its variance as a function of the distance from a column is measured on the columns of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits
from stemkit.columns.peaks import BACKGROUND_RATIO, pixel_subset

__all__ = ["RESPONSE", "Misfit", "measure_misfit"]

#: Response of the matched filter to a column of amplitude 1 (derived: 1/2 after the Gaussian of the column's width,
#: 1 / (1 + r^2) after the one that is r times wider).
RESPONSE = 0.5 - 1 / (1 + BACKGROUND_RATIO**2)
#: Median over mean of the mean square of the pixels of a ring (derived: chi-square with 4 degrees of freedom).
MEDIAN_OVER_MEAN = 0.84


@dataclass(frozen=True)
class _Constants:
    """Constants of the misfit (all chosen)."""

    #: Width of the rings around a column in which its residual is measured, in widths of the column.
    ring: float = 0.5
    #: Radius of the largest ring, in widths.
    max_radius: float = 5.0
    #: Variance of the misfit as a fraction of that of the noise, below which it is neglected (5 % of the heights).
    negligible: float = 0.1
    #: Largest number of columns whose residuals are added at a position (chosen: neighbours within five widths).
    n_neighbors: int = 8
    #: Largest number of columns on which it is measured.
    max_columns: int = 400
    #: Least number of columns.
    min_columns: int = 8
    #: Least significance of these columns, standard errors: the noise of their residual is then small.
    min_significance: float = 10.0
    #: Least amplitude of these columns, as a fraction of the median: the misfit of a brighter neighbour is not theirs.
    min_amplitude: float = 0.5


CONSTANTS = _Constants()


@dataclass(frozen=True)
class Misfit:
    """Mean square residual around a column of amplitude 1.

    It is the mean square, by distance from the column, of the amplitude that a column would need to leave the same
    filter response.

    Parameters
    ----------
    mean_square : ndarray of shape (n_rings,)
        Mean square of the residual in rings of half a width around the column, from the centre outwards.
    """

    mean_square: NDArray[np.float64]

    def __bool__(self) -> bool:
        return bool(self.mean_square.any())

    def variance(self, fits: ColumnFits, width: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Variance of the misfit of these columns after the matched filter, at each pixel of an image."""
        from stemkit.columns.compiled import add_radial_profiles

        total = np.zeros(shape)
        if not self or len(fits) == 0:
            return total
        add_radial_profiles(
            total,
            np.ascontiguousarray(fits.positions),
            (RESPONSE * fits.amplitude) ** 2,
            np.ascontiguousarray(self.mean_square, dtype=np.float64),
            CONSTANTS.ring * width,
            math.ceil(CONSTANTS.max_radius * width),
        )
        return total

    def at(self, distance: NDArray) -> NDArray[np.float64]:
        """Mean square amplitude at distances from a column of amplitude 1, which are in widths."""
        ring = (np.arange(len(self.mean_square)) + 0.5) * CONSTANTS.ring
        return np.interp(distance, ring, self.mean_square, right=0.0)

    def amplitude(self, positions: NDArray, fits: ColumnFits, width: float) -> NDArray[np.float64]:
        """RMS amplitude of the misfit of the fitted columns at positions ``(n, 2)``, px."""
        if not self or len(fits) == 0 or len(positions) == 0:
            return np.zeros(len(positions))
        k = min(CONSTANTS.n_neighbors, len(fits))
        distance, nearest = cKDTree(fits.positions).query(positions, k=[*range(1, k + 1)])
        return np.sqrt((self.at(distance / width) * fits.amplitude[nearest] ** 2).sum(axis=1))


def measure_misfit(residual: NDArray, variance: NDArray, fits: ColumnFits, width: float) -> Misfit:
    """Measure the misfit on the residual around bright columns.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
        The image minus the fitted columns, after the matched filter.
    variance : ndarray of shape (n_y, n_x)
        Variance of its noise.
    fits : ColumnFits
    width : float
        Width of the columns, px.

    Returns
    -------
    Misfit
        The median over the columns, which is not affected by the few with an overlooked neighbour; zero if there are
        too few bright columns.
    """
    nothing = Misfit(np.zeros(round(CONSTANTS.max_radius / CONSTANTS.ring)))
    which = _clear_columns(fits, math.ceil(CONSTANTS.max_radius * width), residual.shape)
    if len(which) < CONSTANTS.min_columns:
        return nothing
    mean_square = _ring_medians(residual**2 - variance, fits, which, width)
    usual = float(np.median(fits.amplitude[which])) ** 2 * RESPONSE**2
    is_relevant = usual * mean_square.max() > CONSTANTS.negligible * float(np.median(pixel_subset(variance)))
    return Misfit(mean_square) if is_relevant else nothing


def _clear_columns(fits: ColumnFits, margin: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Numbers of the significant and bright columns further than a margin (px) from the border; at most 400 of them."""
    with np.errstate(invalid="ignore"):
        clear = ~fits.failed & (fits.amplitude > CONSTANTS.min_significance * fits.amplitude_err)
    clear &= (np.minimum(fits.y, fits.x) > margin) & (fits.y < shape[0] - 1 - margin) & (fits.x < shape[1] - 1 - margin)
    if not clear.any():
        return np.zeros(0, dtype=np.int64)
    which = np.flatnonzero(clear & (fits.amplitude > CONSTANTS.min_amplitude * np.median(fits.amplitude[clear])))
    return which[np.linspace(0, len(which) - 1, min(len(which), CONSTANTS.max_columns)).astype(int)]


def _ring_medians(excess: NDArray, fits: ColumnFits, which: NDArray, width: float) -> NDArray[np.float64]:
    """Mean squares ``(n_rings,)`` around some of the columns, from the squared residual minus its noise."""
    margin = math.ceil(CONSTANTS.max_radius * width)
    span = np.arange(-margin, margin + 1)
    rows = fits.y[which].round().astype(int)[:, None] + span
    cols = fits.x[which].round().astype(int)[:, None] + span
    relative = excess[rows[:, :, None], cols[:, None, :]] / (fits.amplitude[which] ** 2)[:, None, None]
    ring = (np.hypot(span[:, None], span) / (CONSTANTS.ring * width)).astype(int)
    out = np.zeros(round(CONSTANTS.max_radius / CONSTANTS.ring))
    for i in range(len(out)):
        on_ring = ring == i
        if on_ring.any():
            out[i] = max(0.0, float(np.median(relative[:, on_ring].mean(axis=1))) / (MEDIAN_OVER_MEAN * RESPONSE**2))
    return out
