"""Whether columns at the same site differ from cell to cell in an ordered way, so that the true cell is larger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stemkit.structure.bases import reduced_basis, superlattices

__all__ = ["AssignedColumns", "brightness_order", "displacement_order"]


@dataclass(frozen=True)
class OrderConstants:
    """When order is accepted: constants of the analysis of variance, all chosen."""

    #: Smallest RMS difference between the classes of cells.
    difference: float
    #: Largest probability of such order by chance (F test).
    probability: float


#: Cells of the largest superlattice that is tried (chosen).
MAX_CELLS = 4
#: Least fraction of the variance that order explains (chosen).
MIN_EXPLAINED_FRACTION = 0.5
#: Fewest columns among which order is searched for (chosen).
MIN_COLUMNS = 8
#: Fewest columns from which a slow variation is subtracted (chosen).
MIN_COLUMNS_FOR_TREND = 24
#: Limits for the logarithm of the brightness.
BRIGHTNESS_CONSTANTS = OrderConstants(difference=0.05, probability=1e-6)
#: Limits for displacements, in shortest distances of sites. The degrees of freedom are those of lines of columns, since
#: the jitter of the beam displaces whole lines.
DISPLACEMENT_CONSTANTS = OrderConstants(difference=0.03, probability=1e-4)


def brightness_order(cell: NDArray, site: NDArray, brightness: NDArray) -> NDArray[np.int64] | None:
    """Vectors of the smallest superlattice that explains the brightness, as rows of small vectors; None without one.

    Parameters
    ----------
    cell : ndarray of shape (n, 2)
    site : ndarray of shape (n,)
        Columns of -1 are omitted.
    brightness : ndarray of shape (n,)
        Columns without a positive brightness are omitted.
    """
    used = (site >= 0) & np.isfinite(brightness) & (brightness > 0)
    cell, site, values = cell[used], site[used], np.log(brightness[used])
    for s in np.unique(site):
        values[site == s] -= np.median(values[site == s])
    values = np.clip(values, -1.0, 1.0)
    return _smallest(cell, site, values, BRIGHTNESS_CONSTANTS, len(values))


def displacement_order(cell: NDArray, site: NDArray, shift: NDArray, shortest: float) -> NDArray[np.int64] | None:
    """As :func:`brightness_order`, for displacements ``shift`` ``(n, 2)`` of columns, in the unit of ``shortest``."""
    used = site >= 0
    cell, site, shift = cell[used], site[used], shift[used] / shortest
    n_lines = min((len(np.unique(line)) for line in cell.T), default=0)
    for k in range(2):
        order = _smallest(cell, site, shift[:, k], DISPLACEMENT_CONSTANTS, n_lines)
        if order is not None:
            return order
    return None


@dataclass(frozen=True)
class AssignedColumns:
    """Cells ``(n, 2)`` and sites ``(n,)`` of columns in a lattice with reduced vectors ``(2, 2)``; site -1: none."""

    cell: NDArray[np.int64]
    site: NDArray[np.int64]
    vectors: NDArray[np.float64]

    def in_superlattice(self, order: NDArray) -> AssignedColumns:
        """The columns in the superlattice with the rows of ``order`` times the vectors."""
        vectors = reduced_basis(order @ self.vectors)
        multiples = np.round(vectors @ np.linalg.inv(self.vectors)).astype(np.int64)
        cell = np.floor(self.cell @ np.linalg.inv(multiples) + 1e-6).astype(np.int64)
        within = np.column_stack([self.cell - cell @ multiples, self.site])
        site = np.full(len(self.site), -1)
        assigned = self.site >= 0
        site[assigned] = np.unique(within[assigned], axis=0, return_inverse=True)[1].ravel()
        return AssignedColumns(cell, site, vectors)


def _smallest(
    cell: NDArray, site: NDArray, values: NDArray, constants: OrderConstants, n_independent: int
) -> NDArray | None:
    """The superlattice with the fewest cells that explains the values, of which some are independent."""
    if len(values) < MIN_COLUMNS:
        return None
    values = _without_trend(cell, values)
    for n in range(2, MAX_CELLS + 1):
        lattices = superlattices(n)
        explained = [
            _explained_fraction(_classes(cell, site, h), site, values, constants, n_independent) for h in lattices
        ]
        if max(explained) > 0:
            return lattices[int(np.argmax(explained))]
    return None


def _classes(cell: NDArray, site: NDArray, order: NDArray) -> NDArray[np.int64]:
    """Number of the cell within the larger one, separately for each site."""
    (p, q), (_, r) = order
    row = cell[:, 0] // p
    column = (cell[:, 1] - row * q) % r
    return ((cell[:, 0] % p) * r + column) * (site.max() + 1) + site


def _without_trend(cell: NDArray, values: NDArray) -> NDArray[np.float64]:
    """Values less their slow variation over the crystal (thickness, tilt, bending), a parabola."""
    if len(values) < MIN_COLUMNS_FOR_TREND:
        return values
    i, j = ((cell - cell.mean(axis=0)) / np.maximum(np.ptp(cell, axis=0), 1)).T
    design = np.column_stack([np.ones_like(i), i, j, i * i, i * j, j * j])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def _explained_fraction(
    classes: NDArray, site: NDArray, values: NDArray, constants: OrderConstants, n_independent: int
) -> float:
    """Fraction of the variance within the sites that the classes explain; 0 if it is too small or may be chance."""
    fine, coarse = _group_means(classes, values), _group_means(site, values)
    freedom = n_independent - len(np.unique(classes))
    parameters = len(np.unique(classes)) - len(np.unique(site))
    between, total = ((fine - coarse) ** 2).sum(), ((values - coarse) ** 2).sum()
    too_small = between < constants.difference**2 * len(values) or between < MIN_EXPLAINED_FRACTION * total
    if freedom < 3 or parameters < 1 or too_small:
        return 0.0
    ratio = (between / parameters) / max((total - between) / freedom, 1e-300)
    return float(between / total) if stats.f.sf(ratio, parameters, freedom) < constants.probability else 0.0


def _group_means(group: NDArray, values: NDArray) -> NDArray[np.float64]:
    _, label = np.unique(group, return_inverse=True)
    return (np.bincount(label, values) / np.bincount(label))[label]
