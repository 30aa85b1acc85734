"""Cell and site of each column by region growing, from neighbour to neighbour, so that a crystal may be bent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from stemkit.statistics import median_spacing
from stemkit.structure.bases import shortest_distance
from stemkit.structure.vector_search import CONSTANTS as SEARCH_CONSTANTS

__all__ = ["GrownLattice", "grow", "median_of_known", "unit_cell"]


@dataclass(frozen=True)
class _Constants:
    """Constants of region growing."""

    #: Columns around the start from whose positions the sites of the cell follow (chosen).
    core: int = 80
    #: Least number of columns at a site, fraction of that at the most frequent site (chosen).
    frequency: float = 0.4
    #: Neighbours that predict the position of a column (chosen).
    neighbors: int = 12
    #: Neighbours on the lattice with which a column is assigned before those with fewer (chosen).
    first: int = 5
    #: Largest distance of a column from its predicted position, shortest distances of sites (chosen).
    distance: float = 0.36
    #: Distance from the predicted position at which a column is removed, medians of this distance (chosen).
    outlier: float = 6.0
    #: Least such distance, shortest distances of sites (chosen).
    outlier_distance: float = 0.12
    #: Least fraction of the neighbours of a detached column that are not on the lattice (chosen).
    detached: float = 0.8
    #: Detached regions that are tried at most (chosen).
    regions: int = 200
    #: Fewest columns of a detached region (chosen: a single column fits at any offset).
    region: int = 4
    #: Least fraction of the columns of a detached region that fit the lattice (chosen).
    fitting: float = 0.6
    #: Columns nearest to a detached region, from which the lattice is extrapolated (chosen).
    extrapolated_from: int = 200


CONSTANTS = _Constants()


def unit_cell(positions: NDArray, vectors: NDArray, center: NDArray) -> NDArray[np.float64]:
    """Sites of the cell ``(n_sites, 2)``, ``(y, x)`` in the unit of the positions, the most frequent first.

    The columns around ``center`` are reduced to one cell; sites are where many of them coincide.
    """
    core = positions[cKDTree(positions).query(center, k=min(CONSTANTS.core, len(positions)))[1]]
    tolerance = SEARCH_CONSTANTS.same_position * min(median_spacing(core), np.hypot(*vectors.T).min())
    difference = _modulo_lattice(core[None] - core[:, None], vectors)
    near = np.hypot(difference[..., 0], difference[..., 1]) <= tolerance
    sites: list[NDArray] = []
    sizes: list[int] = []
    free = np.ones(len(core), dtype=bool)
    while free.any():
        best = int(np.argmax(np.where(free, (near & free).sum(axis=1), -1)))
        members = near[best] & free
        if sizes and members.sum() < max(CONSTANTS.frequency * sizes[0], 2):
            break
        sites.append(core[best] + difference[best, members].mean(axis=0))
        sizes.append(int(members.sum()))
        free &= ~members
    return np.array(sites)


def _modulo_lattice(difference: NDArray, vectors: NDArray) -> NDArray[np.float64]:
    """Differences ``(..., 2)`` reduced by lattice vectors to the shortest ones along a and b."""
    cells = difference @ np.linalg.inv(vectors)
    return (cells - np.round(cells)) @ vectors


@dataclass(frozen=True)
class _IdealPlaces:
    """Places in an undistorted lattice: ``site`` ``(m,)``, ``cell`` ``(m, 2)``, ``position`` ``(m, 2)``."""

    site: NDArray[np.int64]
    cell: NDArray[np.int64]
    position: NDArray[np.float64]


@dataclass
class GrownLattice:
    """A lattice that is grown over the columns.

    ``site`` ``(n,)`` is -1 for columns that were not reached, ``cell`` ``(n, 2)`` counts lattice vectors. ``shift``
    ``(n, 2)`` is the displacement of a column from its position in the undistorted lattice, and ``gradient``
    ``(n, 2, 2)`` how this varies: the shift at r + d is ``shift + gradient @ d``.
    """

    positions: NDArray[np.float64]
    vectors: NDArray[np.float64]
    sites: NDArray[np.float64]

    def __post_init__(self) -> None:
        n = len(self.positions)
        self.site = np.full(n, -1)
        self.cell = np.zeros((n, 2), dtype=np.int64)
        self.shift = np.zeros((n, 2))
        self.gradient = np.zeros((n, 2, 2))
        self.tree = cKDTree(self.positions)
        k = min(CONSTANTS.neighbors + 1, n)
        self.distance, self.neighbors = (found[:, 1:] for found in self.tree.query(self.positions, k=k))
        self.shortest = shortest_distance(self.sites, self.vectors)
        self.scale = float(np.median(self.distance[:, -1]))
        self.neighbor_of = _reversed(self.neighbors)
        self.n_assigned_neighbors = np.zeros(n, dtype=np.int64)
        self.occupied: set[int] = set()

    @property
    def tolerance(self) -> float:
        """Largest distance of a column from its predicted position."""
        return CONSTANTS.distance * self.shortest

    @property
    def ideal(self) -> NDArray[np.float64]:
        """Position ``(n, 2)`` of each column in the undistorted lattice; meaningless if ``site`` is -1."""
        return self.sites[np.maximum(self.site, 0)] + self.cell @ self.vectors

    def nearest_ideal(self, positions: NDArray) -> _IdealPlaces:
        """Places in the undistorted lattice that are nearest to positions ``(m, 2)``."""
        inverse = np.linalg.inv(self.vectors)
        cells = np.round((positions[:, None] - self.sites) @ inverse)
        ideal = self.sites + cells @ self.vectors
        site = np.argmin(((positions[:, None] - ideal) ** 2).sum(axis=-1), axis=1)
        rows = np.arange(len(positions))
        return _IdealPlaces(site, cells[rows, site].astype(np.int64), ideal[rows, site])

    def assign(self, rows: NDArray, shift: NDArray) -> int:
        """Assign those rows that are near an unoccupied site of the lattice with the shift expected there."""
        ideal = self.nearest_ideal(self.positions[rows] - shift)
        distance = np.hypot(*(self.positions[rows] - shift - ideal.position).T)
        key = self._key(ideal.site, ideal.cell)
        order = np.argsort(distance)
        first = order[np.unique(key[order], return_index=True)[1]]
        free = np.array([k not in self.occupied for k in key[first].tolist()], dtype=bool)
        good = first[(distance[first] < self.tolerance) & free]
        self.site[rows[good]], self.cell[rows[good]] = ideal.site[good], ideal.cell[good]
        self.shift[rows[good]] = self.positions[rows[good]] - ideal.position[good]
        self.occupied.update(key[good].tolist())
        np.add.at(self.n_assigned_neighbors, self.neighbor_of[rows[good]].indices, 1)
        self._update_gradient(rows[good])
        return len(good)

    def predict(self, rows: NDArray) -> NDArray[np.float64]:
        """Shift of some rows as predicted by their neighbours, NaN without any: ``(m, 2)``."""
        neighbors = self.neighbors[rows]
        difference = self.positions[rows][:, None] - self.positions[neighbors]
        expected = self.shift[neighbors] + np.einsum("nkij,nkj->nki", self.gradient[neighbors], difference)
        expected[self.site[neighbors] < 0] = np.nan
        return median_of_known(expected)

    def grow(self) -> None:
        """Assign columns until none fits, those with most assigned neighbours first."""
        tried = np.zeros(len(self.positions), dtype=np.int64)
        while True:
            rows = np.flatnonzero((self.site < 0) & (self.n_assigned_neighbors > tried))
            most = self.n_assigned_neighbors[rows].max(initial=0)
            if most < min(3, self.neighbors.shape[1]):
                return
            rows = rows[self.n_assigned_neighbors[rows] >= min(most, CONSTANTS.first)]
            tried[rows] = self.n_assigned_neighbors[rows]
            self.assign(rows, self.predict(rows))

    def start(self, rows: NDArray, shift: NDArray) -> bool:
        """Assign the columns of a detached region, with the common offset from the expected shift that fits most."""
        if len(rows) < CONSTANTS.region:
            return False
        unshifted = self.positions[rows] - shift
        for _ in range(3):
            offset = np.median(unshifted - self.nearest_ideal(unshifted).position, axis=0)
            unshifted, shift = unshifted - offset, shift + offset
        distance = np.hypot(*(unshifted - self.nearest_ideal(unshifted).position).T)
        if (distance < self.tolerance).mean() < CONSTANTS.fitting:
            return False
        return self.assign(rows, shift) > 0

    def remove_outliers(self) -> None:
        """Remove columns that are far from where their neighbours predict them, and those without neighbours."""
        for _ in range(2):
            rows = np.flatnonzero(self.site >= 0)
            self._update_gradient(rows)
            with np.errstate(invalid="ignore"):
                distance = np.hypot(*(self.shift[rows] - self.predict(rows)).T)
            limit = max(CONSTANTS.outlier * float(np.nanmedian(distance)), CONSTANTS.outlier_distance * self.shortest)
            outlier = np.zeros(len(self.site), dtype=bool)
            outlier[rows[~(distance <= limit)]] = True
            self.remove(outlier)

    def remove(self, which: NDArray) -> None:
        """Remove columns ``(n,)`` from the lattice."""
        self.site[which] = -1
        self.cell[which] = 0
        self.occupied = set(self._key(self.site, self.cell)[self.site >= 0].tolist())
        self.n_assigned_neighbors = (self.site[self.neighbors] >= 0).sum(axis=1)

    def _update_gradient(self, rows: NDArray) -> None:
        """Least squares over the neighbours, regularised towards the mean of their gradients."""
        neighbors = self.neighbors[rows]
        weight = (self.site[neighbors] >= 0).astype(np.float64)
        difference = self.positions[neighbors] - self.positions[rows][:, None]
        change = self.shift[neighbors] - self.shift[rows][:, None]
        prior = (weight[..., None, None] * self.gradient[neighbors]).sum(axis=1)
        prior /= np.maximum(weight.sum(axis=1), 1)[:, None, None]
        strength = 2 * self.scale**2
        normal = np.einsum("nk,nki,nkj->nij", weight, difference, difference) + strength * np.eye(2)
        moment = np.einsum("nk,nki,nkj->nij", weight, difference, change) + strength * prior.transpose(0, 2, 1)
        self.gradient[rows] = np.linalg.solve(normal, moment).transpose(0, 2, 1)

    def _key(self, site: NDArray, cell: NDArray) -> NDArray[np.int64]:
        """One integer for each cell and site."""
        size = 1 << 24
        return ((cell[:, 0] + size // 2) * size + cell[:, 1] + size // 2) * len(self.sites) + site


def grow(positions: NDArray, vectors: NDArray, sites: NDArray, center: NDArray) -> GrownLattice:
    """Grow a lattice from ``center`` over all columns, and over detached regions of the same crystal."""
    lattice = GrownLattice(positions, vectors, sites)
    core = lattice.tree.query(center, k=min(CONSTANTS.core // 2, len(positions)))[1]
    lattice.assign(core, np.zeros((len(core), 2)))
    lattice.grow()
    tried = lattice.site >= 0
    for _ in range(CONSTANTS.regions):
        detached = ~tried & ((lattice.site[lattice.neighbors] < 0).mean(axis=1) > CONSTANTS.detached)
        if not detached.any() or tried.all():
            break
        region = _nearest_region(lattice, np.flatnonzero(detached))
        tried[region] = True
        if lattice.start(region, _extrapolated(lattice, region)):
            lattice.grow()
        tried |= lattice.site >= 0
    lattice.remove_outliers()
    lattice.grow()
    return lattice


def _nearest_region(lattice: GrownLattice, detached: NDArray) -> NDArray[np.intp]:
    """The detached column that is nearest to the lattice, with its neighbours that are not on the lattice."""
    assigned = cKDTree(lattice.positions[lattice.site >= 0])
    seed = detached[np.argmin(assigned.query(lattice.positions[detached])[0])]
    neighbors = lattice.neighbors[seed]
    return np.concatenate([[seed], neighbors[lattice.site[neighbors] < 0]])


def _extrapolated(lattice: GrownLattice, rows: NDArray) -> NDArray[np.float64]:
    """Shift expected outside the lattice, ``(m, 2)``: a plane fitted to the shifts of the nearest columns on it."""
    assigned = np.flatnonzero(lattice.site >= 0)
    distance = ((lattice.positions[assigned] - lattice.positions[rows[0]]) ** 2).sum(axis=1)
    assigned = assigned[np.argsort(distance)[: CONSTANTS.extrapolated_from]]
    design = np.column_stack([np.ones(len(assigned)), lattice.positions[assigned]])
    plane = np.linalg.lstsq(design, lattice.shift[assigned], rcond=None)[0]
    return np.column_stack([np.ones(len(rows)), lattice.positions[rows]]) @ plane


def _reversed(neighbors: NDArray) -> sparse.csr_array:
    """Row i contains the columns that have column i among their neighbours."""
    n, k = neighbors.shape
    ones = np.ones(n * k, dtype=np.int8)
    return sparse.csr_array((ones, (neighbors.ravel(), np.repeat(np.arange(n), k))), shape=(n, n))


def median_of_known(values: NDArray) -> NDArray[np.float64]:
    """Median along axis 1 of ``(n, k, m)`` without NaN; NaN if all are. All m values are NaN together."""
    ordered = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(ordered[..., 0]).sum(axis=1)
    rows = np.arange(len(values))
    low, high = np.maximum(count - 1, 0) // 2, np.maximum(count // 2, 0)
    high = np.minimum(high, values.shape[1] - 1)
    return (ordered[rows, low] + ordered[rows, high]) / 2
