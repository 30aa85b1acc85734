"""Which column stands in which cell, and what stands around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stemkit.structure.lattice import Lattice
from stemkit.structure.tables import robust_spread

__all__ = ["CellIndex", "local_brightness", "ring"]


def ring(reach: int = 1) -> NDArray[np.int64]:
    """Cells around a cell, ``(n, 2)``: 8 with a reach of 1, 24 with 2."""
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
        """Row of the column in each cell ``(..., 2)`` at each site, -1 where there is none."""
        at = cells - self.first
        size = np.array(self.row.shape[1:])
        inside = ((at >= 0) & (at < size)).all(axis=-1)
        at = np.where(inside[..., None], at, 0)
        return np.where(inside, self.row[site, at[..., 0], at[..., 1]], -1)

    def around(self, cells: NDArray, site: NDArray, reach: int = 1) -> NDArray[np.int64]:
        """Rows ``(m, n)`` of the columns at the same site of the cells around each cell ``(m, 2)``."""
        return self.rows(cells[:, None] + ring(reach), site[:, None])


def local_brightness(
    around: NDArray, site: NDArray, values: NDArray, errors: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median brightness of the columns around each place, and their real spread: each ``(m,)``.

    The spread is a robust standard deviation less the median error in quadrature, and nowhere less than is usual for
    the site: that of few neighbours is small by chance now and then.
    """
    known = np.where(around >= 0, values[around], np.nan)
    noise = np.where(np.isfinite(known), errors[around], np.nan)
    enough = np.isfinite(known).sum(axis=1) >= 3
    expected, spread = np.full(len(site), np.nan), np.full(len(site), np.nan)
    if not enough.any():
        return expected, spread
    expected[enough] = np.nanmedian(known[enough], axis=1)
    beyond = robust_spread(known[enough], axis=1) ** 2 - np.nanmedian(noise[enough] ** 2, axis=1)
    spread[enough] = np.sqrt(np.maximum(np.nan_to_num(beyond), 0.0))
    for s in np.unique(site[enough]):
        here = enough & (site == s)
        spread[here] = np.maximum(spread[here], np.median(spread[here]))
    return expected, spread
