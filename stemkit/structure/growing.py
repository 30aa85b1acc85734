"""Which cell and which site each column belongs to: from neighbour to neighbour, so that a crystal may bend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from stemkit.structure.vectors import SAME_PLACE, nearest_distance, shortest_distance

__all__ = ["Growth", "grow", "unit_cell"]

#: Columns around the start whose places in the cell make the unit cell.
CORE = 80
#: Neighbours that predict where a column should be.
NEIGHBOURS = 12
#: Columns with so many neighbours on the lattice are placed before those with fewer.
SURE = 5
#: A place of the cell is a site where it is taken this often, relative to the place that is taken most often.
OCCUPIED = 0.4
#: A column joins the lattice within this fraction of the shortest distance of sites from the predicted place.
JOINS = 0.36
#: A column is taken back where it is this many spreads, and this fraction of the shortest distance, from the place
#: that its neighbours predict.
STRAYS, STRAYS_AT_LEAST = 6.0, 0.12
#: Fewest columns of a detached piece: at its own offset, a single column fits anywhere.
PIECE = 4
#: Detached pieces of crystal that are looked for, and the share of a piece that must fit.
PIECES, FITS = 200, 0.6


def unit_cell(positions: NDArray, vectors: NDArray, place: NDArray) -> NDArray[np.float64]:
    """Sites of the cell ``(n_sites, 2)``, ``(y, x)`` in the unit of the positions: most often taken first.

    The columns around a place are laid over each other modulo the lattice; where many meet is a site.
    """
    core = positions[cKDTree(positions).query(place, k=min(CORE, len(positions)))[1]]
    tolerance = SAME_PLACE * min(nearest_distance(core), np.hypot(*vectors.T).min())
    apart = wrapped(core[None] - core[:, None], vectors)
    near = np.hypot(apart[..., 0], apart[..., 1]) <= tolerance
    sites: list[NDArray] = []
    sizes: list[int] = []
    free = np.ones(len(core), dtype=bool)
    while free.any():
        best = int(np.argmax(np.where(free, (near & free).sum(axis=1), -1)))
        members = near[best] & free
        if sizes and members.sum() < max(OCCUPIED * sizes[0], 2):
            break
        sites.append(core[best] + apart[best, members].mean(axis=0))
        sizes.append(int(members.sum()))
        free &= ~members
    return np.array(sites)


def wrapped(difference: NDArray, vectors: NDArray) -> NDArray[np.float64]:
    """Differences ``(..., 2)`` without whole lattice vectors."""
    cells = difference @ np.linalg.inv(vectors)
    return (cells - np.round(cells)) @ vectors


@dataclass
class Growth:
    """A lattice as it spreads over the columns.

    ``site`` is -1 for those not reached; ``cell`` ``(n, 2)`` are whole lattice vectors; ``shift`` ``(n, 2)`` is what
    separates a column from its place in the perfect lattice, and ``gradient`` ``(n, 2, 2)`` how this changes around
    it: shift at r + d is ``shift + gradient @ d``.
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
        k = min(NEIGHBOURS + 1, n)
        self.distance, self.neighbours = (found[:, 1:] for found in self.tree.query(self.positions, k=k))
        self.shortest = shortest_distance(self.sites, self.vectors)
        self.scale = float(np.median(self.distance[:, -1]))
        self.seen_from = _reverse(self.neighbours)
        self.known = np.zeros(n, dtype=np.int64)
        self.taken: set[int] = set()

    @property
    def tolerance(self) -> float:
        return JOINS * self.shortest

    def nearest_place(self, at: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Site, cell and place ``(m, 2)`` of the perfect lattice nearest to each position ``(m, 2)``."""
        inverse = np.linalg.inv(self.vectors)
        cells = np.round((at[:, None] - self.sites) @ inverse)
        places = self.sites + cells @ self.vectors
        site = np.argmin(((at[:, None] - places) ** 2).sum(axis=-1), axis=1)
        rows = np.arange(len(at))
        return site, cells[rows, site].astype(np.int64), places[rows, site]

    def accept(self, rows: NDArray, shift: NDArray) -> int:
        """Take in those rows that stand at a free place of the lattice, given the shift expected there."""
        site, cell, place = self.nearest_place(self.positions[rows] - shift)
        off = np.hypot(*(self.positions[rows] - shift - place).T)
        key = self._key(site, cell)
        order = np.argsort(off)
        first = order[np.unique(key[order], return_index=True)[1]]
        free = np.array([k not in self.taken for k in key[first].tolist()], dtype=bool)
        good = first[(off[first] < self.tolerance) & free]
        self.site[rows[good]], self.cell[rows[good]] = site[good], cell[good]
        self.shift[rows[good]] = self.positions[rows[good]] - place[good]
        self.taken.update(key[good].tolist())
        np.add.at(self.known, self.seen_from[rows[good]].indices, 1)
        self._update_gradient(rows[good])
        return len(good)

    def predict(self, rows: NDArray) -> NDArray[np.float64]:
        """Shift that the neighbours of some rows expect there, NaN where they have none: ``(m, 2)``."""
        around = self.neighbours[rows]
        away = self.positions[rows][:, None] - self.positions[around]
        expected = self.shift[around] + np.einsum("nkij,nkj->nki", self.gradient[around], away)
        expected[self.site[around] < 0] = np.nan
        return _median(expected)

    def spread(self) -> None:
        """Grow until no column joins, those with most neighbours first."""
        tried = np.zeros(len(self.positions), dtype=np.int64)
        while True:
            rows = np.flatnonzero((self.site < 0) & (self.known > tried))
            most = self.known[rows].max(initial=0)
            if most < min(3, self.neighbours.shape[1]):
                return
            rows = rows[self.known[rows] >= min(most, SURE)]
            tried[rows] = self.known[rows]
            self.accept(rows, self.predict(rows))

    def start(self, rows: NDArray, shift: NDArray) -> bool:
        """Begin with some rows, at the common offset from the expected shift that suits most of them."""
        if len(rows) < PIECE:
            return False
        at = self.positions[rows] - shift
        for _ in range(3):
            offset = np.median(at - self.nearest_place(at)[2], axis=0)
            at, shift = at - offset, shift + offset
        off = np.hypot(*(at - self.nearest_place(at)[2]).T)
        if (off < self.tolerance).mean() < FITS:
            return False
        return self.accept(rows, shift) > 0

    def take_back_strays(self) -> None:
        """Remove columns that stand where their neighbours do not expect them, and those without neighbours."""
        for _ in range(2):
            rows = np.flatnonzero(self.site >= 0)
            self._update_gradient(rows)
            with np.errstate(invalid="ignore"):
                off = np.hypot(*(self.shift[rows] - self.predict(rows)).T)
            limit = max(STRAYS * float(np.nanmedian(off)), STRAYS_AT_LEAST * self.shortest)
            stray = np.zeros(len(self.site), dtype=bool)
            stray[rows[~(off <= limit)]] = True
            self.remove(stray)

    def remove(self, which: NDArray) -> None:
        """Take columns ``(n,)`` off the lattice."""
        self.site[which] = -1
        self.cell[which] = 0
        self.taken = set(self._key(self.site, self.cell)[self.site >= 0].tolist())
        self.known = (self.site[self.neighbours] >= 0).sum(axis=1)

    def _update_gradient(self, rows: NDArray) -> None:
        """Least squares over the neighbours, held near what those already know."""
        around = self.neighbours[rows]
        weight = (self.site[around] >= 0).astype(np.float64)
        away = self.positions[around] - self.positions[rows][:, None]
        change = self.shift[around] - self.shift[rows][:, None]
        before = (weight[..., None, None] * self.gradient[around]).sum(axis=1)
        before /= np.maximum(weight.sum(axis=1), 1)[:, None, None]
        hold = 2 * self.scale**2
        normal = np.einsum("nk,nki,nkj->nij", weight, away, away) + hold * np.eye(2)
        moment = np.einsum("nk,nki,nkj->nij", weight, away, change) + hold * before.transpose(0, 2, 1)
        self.gradient[rows] = np.linalg.solve(normal, moment).transpose(0, 2, 1)

    def _key(self, site: NDArray, cell: NDArray) -> NDArray[np.int64]:
        wide = 1 << 24
        return ((cell[:, 0] + wide // 2) * wide + cell[:, 1] + wide // 2) * len(self.sites) + site


def grow(positions: NDArray, vectors: NDArray, sites: NDArray, place: NDArray) -> Growth:
    """Spread a lattice from a place over all columns, and over detached pieces of the same crystal."""
    growth = Growth(positions, vectors, sites)
    core = growth.tree.query(place, k=min(CORE // 2, len(positions)))[1]
    growth.accept(core, np.zeros((len(core), 2)))
    growth.spread()
    looked_at = growth.site >= 0
    for _ in range(PIECES):
        lonely = ~looked_at & ((growth.site[growth.neighbours] < 0).mean(axis=1) > 0.8)
        if not lonely.any() or looked_at.all():
            break
        piece = _nearest_piece(growth, np.flatnonzero(lonely))
        looked_at[piece] = True
        if growth.start(piece, _extrapolated(growth, piece)):
            growth.spread()
        looked_at |= growth.site >= 0
    growth.take_back_strays()
    growth.spread()
    return growth


def _nearest_piece(growth: Growth, lonely: NDArray) -> NDArray[np.intp]:
    """A column far from the lattice, the nearest to it, with its neighbours that are no part of the lattice, either."""
    known = cKDTree(growth.positions[growth.site >= 0])
    seed = lonely[np.argmin(known.query(growth.positions[lonely])[0])]
    around = growth.neighbours[seed]
    return np.concatenate([[seed], around[growth.site[around] < 0]])


def _extrapolated(growth: Growth, rows: NDArray) -> NDArray[np.float64]:
    """Shift expected far from the lattice, ``(m, 2)``: a plane through that of the 200 nearest columns."""
    known = np.flatnonzero(growth.site >= 0)
    distance = ((growth.positions[known] - growth.positions[rows[0]]) ** 2).sum(axis=1)
    known = known[np.argsort(distance)[:200]]
    design = np.column_stack([np.ones(len(known)), growth.positions[known]])
    plane = np.linalg.lstsq(design, growth.shift[known], rcond=None)[0]
    return np.column_stack([np.ones(len(rows)), growth.positions[rows]]) @ plane


def _reverse(neighbours: NDArray) -> sparse.csr_array:
    """Row i holds the columns that have column i among their neighbours."""
    n, k = neighbours.shape
    ones = np.ones(n * k, dtype=np.int8)
    return sparse.csr_array((ones, (neighbours.ravel(), np.repeat(np.arange(n), k))), shape=(n, n))


def _median(values: NDArray) -> NDArray[np.float64]:
    """Median along axis 1 of ``(n, k, 2)``, NaN left out; NaN where nothing is left."""
    ordered = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(ordered[..., 0]).sum(axis=1)
    rows = np.arange(len(values))
    low, high = np.maximum(count - 1, 0) // 2, np.maximum(count // 2, 0)
    high = np.minimum(high, values.shape[1] - 1)
    return (ordered[rows, low] + ordered[rows, high]) / 2
