"""Residuals of Gaussian fits around real columns: torn rows, tails, shapes that are not Gaussian.

It is not noise of the pixels, and not another column either. Its size is learnt from the columns themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits, pixel_subset
from stemkit.columns.peaks import BACKGROUND_RATIO

__all__ = ["Misfit", "measure_misfit"]

#: Rings around a column on which its residual is measured: their width and the largest radius, in column widths
#: (chosen: a filter of the columns' width blurs the residual over about one).
RING, FARTHEST_RING = 0.5, 5.0
#: A misfit whose variance is less than this part of the noise's is none (chosen: it would change heights by 5 %).
NEGLIGIBLE = 0.1
#: Columns whose residuals meet at a place, at most (those within five widths of it).
NEIGHBORS = 8
#: Columns that are measured on, at most (chosen), and at least (a median of fewer is not one).
MOST_COLUMNS, FEWEST_COLUMNS = 400, 8
#: Amplitude of the columns that are measured on, in their standard deviations: noise is small in what they leave.
CLEAR = 10.0
#: A column of amplitude 1 through the filter of its width: 1/2 through the Gaussian, 1 / (1 + BACKGROUND_RATIO^2) through the
#: wider one.
RESPONSE = 0.5 - 1 / (1 + BACKGROUND_RATIO**2)
#: A mean square over some pixels of a ring has its median below its mean: by this factor for a few independent pixels
#: (chi-square of 4 degrees of freedom).
MEDIAN_OF_RING = 0.84


@dataclass(frozen=True)
class Misfit:
    """Mean square amplitude of what looks like columns around a column of amplitude 1.

    Parameters
    ----------
    mean_square : ndarray of shape (n_rings,)
        On rings of half a width.
    """

    mean_square: NDArray[np.float64]

    def __bool__(self) -> bool:
        return bool(self.mean_square.any())

    def variance(self, fits: ColumnFits, width: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """The misfit's variance at each pixel of an image with these columns, through the filter of their width."""
        from stemkit.columns.compiled import add_radial_profiles

        total = np.zeros(shape)
        if not self or len(fits) == 0:
            return total
        add_radial_profiles(
            total,
            np.ascontiguousarray(fits.positions),
            (RESPONSE * fits.amplitude) ** 2,
            np.ascontiguousarray(self.mean_square, dtype=np.float64),
            RING * width,
            math.ceil(FARTHEST_RING * width),
        )
        return total

    def at(self, distance: NDArray) -> NDArray[np.float64]:
        """Mean square amplitude at a distance from a column of amplitude 1, in widths."""
        ring = (np.arange(len(self.mean_square)) + 0.5) * RING
        return np.interp(distance, ring, self.mean_square, right=0.0)

    def amplitude(self, places: NDArray, fits: ColumnFits, width: float) -> NDArray[np.float64]:
        """RMS amplitude at places ``(n, 2)``, px, of what fitted columns leave there."""
        if not self or len(fits) == 0 or len(places) == 0:
            return np.zeros(len(places))
        k = min(NEIGHBORS, len(fits))
        distance, which = cKDTree(fits.positions).query(places, k=[*range(1, k + 1)])
        return np.sqrt((self.at(distance / width) * fits.amplitude[which] ** 2).sum(axis=1))


def measure_misfit(residual: NDArray, variance: NDArray, fits: ColumnFits, width: float) -> Misfit:
    """Learn the misfit from what clear columns leave.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
        The image without the fitted columns, through the filter of the columns' width.
    variance : ndarray of shape (n_y, n_x)
        Of the noise in it.
    fits : ColumnFits
    width : float
        Of the columns, px.

    Returns
    -------
    Misfit
        The median over the columns, so that the few that have an overlooked neighbour do not count; zero where there
        are too few clear columns.
    """
    n_rings = round(FARTHEST_RING / RING)
    nothing = Misfit(np.zeros(n_rings))
    reach = int(np.ceil(FARTHEST_RING * width))
    n_y, n_x = residual.shape
    with np.errstate(invalid="ignore"):
        clear = ~fits.failed & (fits.amplitude > CLEAR * fits.amplitude_err)
    clear &= (np.minimum(fits.y, fits.x) > reach) & (fits.y < n_y - 1 - reach) & (fits.x < n_x - 1 - reach)
    # the misfit of a bright neighbour is not the column's own
    clear &= fits.amplitude > 0.5 * np.median(fits.amplitude[clear]) if clear.any() else clear
    which = np.flatnonzero(clear)
    if len(which) < FEWEST_COLUMNS:
        return nothing
    which = which[np.linspace(0, len(which) - 1, min(len(which), MOST_COLUMNS)).astype(int)]
    span = np.arange(-reach, reach + 1)
    rows = fits.y[which].round().astype(int)[:, None] + span
    cols = fits.x[which].round().astype(int)[:, None] + span
    excess = (residual**2 - variance)[rows[:, :, None], cols[:, None, :]] / (fits.amplitude[which] ** 2)[:, None, None]
    ring = (np.hypot(span[:, None], span) / (RING * width)).astype(int)
    found = np.zeros(n_rings)
    for i in range(n_rings):
        on_ring = ring == i
        if on_ring.any():
            found[i] = max(0.0, float(np.median(excess[:, on_ring].mean(axis=1))) / (MEDIAN_OF_RING * RESPONSE**2))
    usual = float(np.median(fits.amplitude[which])) ** 2 * RESPONSE**2
    return Misfit(found) if usual * found.max() > NEGLIGIBLE * float(np.median(pixel_subset(variance))) else nothing
