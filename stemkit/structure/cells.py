"""The column in each cell, and those in the cells around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemkit.statistics import robust_std
from stemkit.structure.lattice import Lattice

__all__ = ["CellIndex", "LocalBrightness", "local_brightness", "ring"]

#: Fewest neighbours with a brightness from which that of a column is predicted (chosen).
MIN_NEIGHBORS = 3


def ring(reach: int = 1) -> NDArray[np.int64]:
    """Cells around a cell, ``(n, 2)``: 8 for a reach of 1, 24 for 2."""
    cells = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    return cells[(cells != 0).any(axis=1)]


class CellIndex:
    """Rows of a table by cell and site."""

    def __init__(self, lattice: Lattice):
        rows = np.flatnonzero(lattice.site >= 0)
        cells = lattice.indices[rows]
        self.first = cells.min(axis=0)
        self.row = np.full((len(lattice.sites), *(np.ptp(cells, axis=0) + 1)), -1)
        self.row[lattice.site[rows], *(cells - self.first).T] = rows

    def rows(self, cells: NDArray, site: NDArray) -> NDArray[np.int64]:
        """Row of the column in each cell ``(..., 2)`` at each site, -1 if there is none."""
        at = cells - self.first
        size = np.array(self.row.shape[1:])
        inside = ((at >= 0) & (at < size)).all(axis=-1)
        at = np.where(inside[..., None], at, 0)
        return np.where(inside, self.row[site, at[..., 0], at[..., 1]], -1)

    def neighbors(self, cells: NDArray, site: NDArray, reach: int = 1) -> NDArray[np.int64]:
        """Rows ``(m, n)`` of the columns at the same site of the cells around each cell ``(m, 2)``."""
        return self.rows(cells[:, None] + ring(reach), site[:, None])


@dataclass(frozen=True)
class LocalBrightness:
    """Brightness expected from the neighbours, and its standard deviation beyond the errors: each ``(m,)``."""

    expected: NDArray[np.float64]
    spread: NDArray[np.float64]


def local_brightness(neighbors: NDArray, site: NDArray, values: NDArray, errors: NDArray) -> LocalBrightness:
    """Median brightness of the neighbours ``(m, n)`` of each site, and the spread of the true values.

    The spread is a robust standard deviation less the median error in quadrature, but at least the median of all
    columns at the same site: that of few neighbours is small by chance now and then.
    """
    known = np.where(neighbors >= 0, values[neighbors], np.nan)
    noise = np.where(np.isfinite(known), errors[neighbors], np.nan)
    enough = np.isfinite(known).sum(axis=1) >= MIN_NEIGHBORS
    expected, spread = np.full(len(site), np.nan), np.full(len(site), np.nan)
    if not enough.any():
        return LocalBrightness(expected, spread)
    expected[enough] = np.nanmedian(known[enough], axis=1)
    excess = robust_std(known[enough], axis=1) ** 2 - np.nanmedian(noise[enough] ** 2, axis=1)
    spread[enough] = np.sqrt(np.maximum(np.nan_to_num(excess), 0.0))
    for s in np.unique(site[enough]):
        same = enough & (site == s)
        spread[same] = np.maximum(spread[same], np.median(spread[same]))
    return LocalBrightness(expected, spread)
