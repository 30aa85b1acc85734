"""Which columns share a lattice: crystals of different lattice or orientation in one table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.structure.growing import Growth, grow, unit_cell
from stemkit.structure.significance import NEEDED, evidence
from stemkit.structure.tables import counted
from stemkit.structure.vectors import find_vectors, matched, nearest_distance

__all__ = ["best_growth", "segment"]

#: Columns of the patches that show a lattice, tried in this order: small grains are lost in large patches. Chosen.
PATCHES = (200, 60, 25)
#: Growths over the columns that those before left. Chosen.
PIECES = 12
#: A local basis is used where the columns around it, to this RMS of the shortest distance, agree with it, and this
#: fraction of them is on the lattice. Chosen.
AGREE, ON_LATTICE = 0.12, 0.6
#: The same where the growth as a whole is no more than chance. Chosen.
AGREE_WELL = 0.06
#: Times that a local basis is replaced by the median of those around it. Chosen.
SMOOTHED = 3
#: Clusters of local bases have at most this radius, as a fraction of the misfit, and there are at most so many. Chosen.
RADIUS, CLUSTERS = 0.4, 24
#: A cluster is more than the blurred border of others where it holds so many columns among their own. Chosen.
INNER = 10
#: Columns within this range of a border, in units of the square root of the cell's area, give the jump across it: where
#: the border is, is known to a cell or two. Chosen.
NEAR, FAR = 1.5, 9.0
#: A polynomial describes the columns near a border where the mean squared distance from it is at most the square of
#: this times that from the planes through 13 columns. Chosen.
FITTED = 1.7
#: Planes describe the indices where the RMS distance per axis is below this fraction of the nearest distance. Chosen.
WRONG = 0.1
#: A jump is beyond chance where two planes instead of one increase the log-likelihood of one component of the positions
#: by half of this: chi squared of three degrees of freedom exceeds it in 0.7 % of the cases.
SURE = 12.0
#: Where no plane describes the columns near a border, bases differ by more than this many of their median deviations.
#: Chosen.
SPREADS = 5.0
#: A column is not in the cluster around it where its basis differs by more than this from the cluster's. Chosen.
SLIPPED = 0.15
#: Rows of columns that may join a grain at its boundary. Chosen.
JOINED = 5
#: A column is among its own where this fraction of the columns around it has its label. Chosen.
AMONG = 0.75
#: A column joins a grain within this fraction of the shortest distance from the predicted place. Chosen.
JOINS = 0.25


def best_growth(positions: NDArray) -> Growth:
    """The lattice that patches of decreasing size show, grown over the positions: the first significant one.

    Raises
    ------
    ValueError
        If none is significant. The message says what was found and what is needed.
    """
    found = "no two directions repeat"
    for size in PATCHES:
        if size != PATCHES[0] and len(positions) <= size:
            continue
        try:
            vectors, place = find_vectors(positions, size)
        except ValueError:
            continue
        growth = grow(positions, vectors, unit_cell(positions, vectors, place), place)
        weight, placed = evidence(growth), int((growth.site >= 0).sum())
        if weight >= NEEDED:
            return growth
        found = (
            f"the best one, with {counted(len(growth.sites), 'site')} per cell, holds {placed} of them with evidence "
            f"of {weight:.1f} nats, where {NEEDED:g} are needed to exclude chance"
        )
        # a lattice may end within the field, and the growth go on into matter without order
        _, residual, fits = _local_bases(growth)
        fits &= np.sqrt(np.where(fits, residual, np.inf)) < AGREE_WELL * growth.shortest
        among = fits[growth.neighbours[:, :8]].mean(axis=1)
        growth.remove(~fits | (among < 0.5))
        if evidence(growth, among_all=True) >= NEEDED:
            return growth
    raise ValueError(
        f"table must show a lattice, but among its {len(positions)} columns {found}: measure a larger field, remove "
        "false columns, or give vectors= if the lattice is known"
    )


def segment(positions: NDArray, misfit: float, least: int, first: Growth | None = None) -> NDArray[np.int64]:
    """Number of the grain of each column, ``(n,)``: -1 for none, 0 for the grain of most columns.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
    misfit : float
        Lattices are different where vectors differ by this fraction of their length.
    least : int
        Fewest columns of a grain.
    first : Growth, optional
        ``best_growth(positions)`` where it is known.

    Notes
    -----
    A lattice is grown over the columns, and others over the columns that it leaves. Grown from neighbour to neighbour,
    it can follow a crystal across a boundary: so each is divided where the local basis jumps. Local bases, of the
    planes through 13 columns, are clustered. Two neighbouring clusters are parts of one crystal where the positions of
    the columns near their border are fitted better by one parabola of the ideal places (a basis that varies steadily)
    than by two planes (a basis that jumps), which have as many parameters, or where the planes differ by less than
    ``misfit``. Clusters of equal bases, in contact or not, are one grain. Columns at a boundary go to the grain that
    predicts their position best.
    """
    bases = _all_bases(positions, least, first)
    group = _one_per_lattice(positions, bases, _divided(positions, bases, misfit), misfit)
    group = _one_per_lattice(positions, bases, group, misfit, border=False)
    group = _large_enough(group, least, bases.neighbours)
    group = _completed(positions, bases, group)
    return _large_enough(group, least, bases.neighbours)


@dataclass
class _Bases:
    """Local bases ``(n, 2, 2)``, rows ``(y, x)``, of the columns with ``good``.

    ``piece`` is the growth of each, and ``ideal`` ``(n, 2)`` its place in the undistorted lattice of that growth;
    ``residual`` is the mean squared distance of the columns around it from the plane that gave the basis.
    """

    basis: NDArray[np.float64]
    good: NDArray[np.bool_]
    piece: NDArray[np.int64]
    ideal: NDArray[np.float64]
    residual: NDArray[np.float64]
    growths: list[Growth]
    neighbours: NDArray[np.intp]


def _all_bases(positions: NDArray, least: int, first: Growth | None) -> _Bases:
    n = len(positions)
    k = min(13, n)
    neighbours = cKDTree(positions).query(positions, k=k)[1].reshape(n, k)
    basis, good = np.zeros((n, 2, 2)), np.zeros(n, dtype=bool)
    piece, ideal, residual = np.full(n, -1), np.zeros((n, 2)), np.zeros(n)
    growths: list[Growth] = []
    rest = np.arange(n)
    while len(rest) >= least and len(growths) < PIECES:
        try:
            growth = first if first is not None and not growths else best_growth(positions[rest])
        except ValueError:
            break
        own, rest_of, fits = _local_bases(growth)
        if not fits.any():
            break
        rows = rest[fits]
        basis[rows], good[rows], piece[rows] = own[fits], True, len(growths)
        residual[rows] = rest_of[fits]
        ideal[rows] = (growth.sites[growth.site] + growth.cell @ growth.vectors)[fits]
        growths.append(growth)
        rest = rest[~fits]
    return _Bases(basis, good, piece, ideal, residual, growths, neighbours)


def _local_bases(growth: Growth) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Basis at each column, from the window of columns near it that agree best, with the mean squared distance of these
    from its plane, and where there is one.

    Among the windows that hold a column, the one with the smallest residual does not extend across a boundary [1]_.

    References
    ----------
    .. [1] Kuwahara et al., in Digital Processing of Biomedical Images (1976),
       https://doi.org/10.1007/978-1-4684-0769-3_13
    """
    around = np.column_stack([np.arange(len(growth.positions)), growth.neighbours])
    ideal = growth.sites[np.maximum(growth.site, 0)] + growth.cell @ growth.vectors
    weight = (growth.site[around] >= 0) & (growth.site >= 0)[:, None]
    steps = (ideal[around] - ideal[:, None]) / growth.scale
    design = np.concatenate([np.ones((*steps.shape[:2], 1)), steps], axis=2) * weight[..., None]
    at = (growth.positions[around] - growth.positions[:, None]) * weight[..., None]
    normal = np.einsum("nki,nkj->nij", design, design)
    count = weight.sum(axis=1)
    fixed = (count >= 6) & (weight[:, 1:].mean(axis=1) >= ON_LATTICE)
    fixed &= np.linalg.det(normal) > 1e-3 * np.maximum(count, 1) ** 3 * 0.1
    normal[~fixed] = np.eye(3)
    plane = np.linalg.solve(normal, np.einsum("nki,nkj->nij", design, at))
    residual = np.einsum("nkj->n", (at - design @ plane) ** 2) / (2 * np.maximum(count - 3, 1))
    residual[~fixed] = np.inf
    best = around[np.arange(len(around)), np.argmin(np.where(weight, residual[around], np.inf), axis=1)]
    fits = (growth.site >= 0) & (np.sqrt(residual[best]) < AGREE * growth.shortest)
    basis = growth.vectors @ plane[:, 1:] / growth.scale
    chosen = np.where(fits[around], best[around], -1)
    values = basis
    for _ in range(SMOOTHED):
        near = np.where((chosen >= 0)[..., None, None], values[chosen], np.nan)
        near[~fits] = 0.0
        values, chosen = np.nanmedian(near, axis=1), np.where(fits[around], around, -1)
    return values, residual[best], fits


def _divided(positions: NDArray, bases: _Bases, misfit: float) -> NDArray[np.int64]:
    """Part of a crystal that each column belongs to; -1 for those without a basis."""
    label = np.full(len(positions), -1)
    for number, growth in enumerate(bases.growths):
        rows = np.flatnonzero(bases.piece == number)
        strain = (np.linalg.inv(growth.vectors) @ bases.basis[rows]).reshape(-1, 4)
        label[rows] = label.max() + 1 + _clusters(strain, RADIUS * misfit)
    for _ in range(3):
        label = _majority(label, bases.neighbours)
    label = _without_borders(positions, label, bases.neighbours)
    for kind in np.unique(label[label >= 0]):
        # where indices slipped, the basis is not that of the cluster around
        rows = np.flatnonzero(label == kind)
        change = np.linalg.inv(np.median(bases.basis[rows], axis=0)) @ bases.basis[rows] - np.eye(2)
        label[rows[np.linalg.norm(change, axis=(1, 2)) > SLIPPED]] = -1
    return label


def _clusters(points: NDArray, radius: float) -> NDArray[np.int64]:
    """Label of each point ``(n, 4)``: centres are spread until all points are near one, and then moved to the means."""
    centres = [np.median(points, axis=0)]
    distance = np.linalg.norm(points - centres[0], axis=1)
    while len(centres) < CLUSTERS and distance.max() > radius:
        centres.append(points[int(np.argmax(distance))])
        distance = np.minimum(distance, np.linalg.norm(points - centres[-1], axis=1))
    label = np.zeros(len(points), dtype=np.int64)
    for _ in range(5):
        label = cKDTree(np.array(centres)).query(points)[1]
        centres = [points[label == c].mean(axis=0) if (label == c).any() else old for c, old in enumerate(centres)]
    return label


def _majority(label: NDArray, neighbours: NDArray) -> NDArray[np.int64]:
    """The label that most columns around each one have, its own where two are as frequent."""
    around = label[neighbours]
    votes = ((around[:, :, None] == around[:, None, :]) & (around >= 0)[:, :, None]).sum(axis=2) + 0.5 * (
        around == label[:, None]
    )
    chosen = around[np.arange(len(label)), np.argmax(np.where(around >= 0, votes, -1), axis=1)]
    return np.where(label >= 0, chosen, -1)


def _without_borders(positions: NDArray, label: NDArray, neighbours: NDArray) -> NDArray[np.int64]:
    """Labels without clusters that are but the border of others: their columns join the nearest that is more."""
    label = label.copy()
    while (label >= 0).any():
        around = label[neighbours]
        inner = ((around == label[:, None]) | (around < 0)).all(axis=1) & (label >= 0)
        kinds = np.unique(label[label >= 0])
        depth = np.array([inner[label == kind].sum() for kind in kinds])
        if len(kinds) == 1 or depth.min() >= INNER:
            break
        thin = label == kinds[np.argmin(depth)]
        others = np.flatnonzero((label >= 0) & ~thin)
        nearest = others[cKDTree(positions[others]).query(positions[thin])[1]]
        label[thin] = label[nearest]
    return label


def _one_per_lattice(
    positions: NDArray, bases: _Bases, label: NDArray, misfit: float, border: bool = True
) -> NDArray[np.int64]:
    """Labels of clusters that share a lattice put together, the most similar ones first.

    Those in contact are compared at their border, where a crystal that bends is continuous, or all as a whole. The
    bases of those that are put together are expressed by the same vectors.
    """
    label = label.copy()
    known: dict[tuple[int, int], tuple[float, bool]] = {}
    while True:
        kinds = np.unique(label[label >= 0]).tolist()
        pairs = [(p, q) for i, p in enumerate(kinds) for q in kinds[i + 1 :]]
        for p, q in pairs:
            if (p, q) not in known:
                known[p, q] = _difference(positions, bases, label, p, q, border)
        alike = [pair for pair in pairs if known[pair][0] < misfit or known[pair][1]]
        if not alike:
            return label
        p, q = min(alike, key=lambda pair: known[pair])
        first, second = (np.median(bases.basis[label == kind], axis=0) for kind in (p, q))
        change = np.round(matched(first, second)[0] @ np.linalg.inv(second))
        bases.basis[label == q] = change @ bases.basis[label == q]
        label[label == q] = p
        known = {pair: value for pair, value in known.items() if p not in pair and q not in pair}


def _difference(positions: NDArray, bases: _Bases, label: NDArray, p: int, q: int, border: bool) -> tuple[float, bool]:
    """By which fraction of their length the vectors of two clusters differ, and whether they are continuous.

    With ``border``, those of clusters in contact are compared near their border.
    """
    rows, other = np.flatnonzero(label == p), np.flatnonzero(label == q)
    if not (border and (label[bases.neighbours[rows, :9]] == q).any()):
        return matched(np.median(bases.basis[rows], axis=0), np.median(bases.basis[other], axis=0))[1], False
    sides = [_near(positions, bases, own, theirs) for own, theirs in ((rows, other), (other, rows))]
    planes = [_polynomial(positions[r], bases.ideal[r], 1) for r in sides]
    both = np.concatenate(sides)
    flat = _usual(np.concatenate([square for _, square in planes]))
    limit = FITTED**2 * 2 * _usual(bases.residual[both])
    # wrong indices are wrong by cells, jitter of the scan by less
    fitted = flat.sum() <= max(limit, 2 * (WRONG * nearest_distance(positions[both])) ** 2)
    local = [bases.growths[bases.piece[r[0]]].vectors @ slope for r, (slope, _) in zip(sides, planes, strict=True)]
    if not fitted or not np.isfinite(local).all():
        # indices slip along a boundary that is not coherent: no plane fits them
        local = [np.median(bases.basis[r], axis=0) for r in sides]
    difference = matched(*local)[1]
    if bases.piece[sides[0][0]] != bases.piece[sides[1][0]]:
        return difference, False
    if not fitted:
        return difference, bool(difference < SPREADS * max(_spread(bases.basis[r]) for r in sides))
    smooth = _usual(_polynomial(positions[both], bases.ideal[both], 2)[1])
    single = _usual(_polynomial(positions[both], bases.ideal[both], 1)[1])
    # columns in a line may be displaced together, by the scan's jitter: lines are independent, not columns; offset and
    # slope of the two planes across them are four parameters
    lines = _lines(bases.ideal[both], bases.growths[bases.piece[both[0]]].vectors)
    gain = max(lines - 4, 0) * np.log(np.maximum(single, 1e-300) / np.maximum(flat, 1e-300)).max()
    return difference, bool(smooth.sum() <= min(flat.sum(), limit) or gain < SURE)


def _spread(basis: NDArray) -> float:
    """Median deviation of bases ``(n, 2, 2)`` from their median, as a fraction."""
    change = np.linalg.inv(np.median(basis, axis=0)) @ basis - np.eye(2)
    return float(np.median(np.linalg.norm(change, axis=(1, 2))))


def _lines(ideal: NDArray, vectors: NDArray) -> int:
    """Number of lines of cells that places are in, along the vector that has fewer."""
    cell = np.floor(ideal @ np.linalg.inv(vectors) + 0.1)
    return min(len(np.unique(line)) for line in cell.T)


def _usual(squares: NDArray) -> NDArray[np.float64]:
    """Mean along the first axis of all but the largest fifth: a few wrong columns do not count."""
    return np.sort(squares, axis=0)[: max(1, 4 * len(squares) // 5)].mean(axis=0)


def _near(positions: NDArray, bases: _Bases, rows: NDArray, other: NDArray) -> NDArray[np.intp]:
    """Columns of a cluster near its border to another one, those of the growth that holds most of them."""
    spacing = np.sqrt(abs(np.linalg.det(np.median(bases.basis[rows], axis=0))))
    away = cKDTree(positions[other]).query(positions[rows])[0] / spacing
    near = rows[(away > NEAR) & (away < FAR)]
    near = near if len(near) >= INNER else rows
    return near[bases.piece[near] == np.bincount(bases.piece[near]).argmax()]


def _polynomial(positions: NDArray, ideal: NDArray, degree: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes ``(2, 2)`` and squared residuals ``(n, 2)`` of positions fitted by a polynomial of their ideal places.

    The slopes turn rows of ideal vectors into rows of vectors; NaN where the places do not fix them.
    """
    scale = max(float(np.abs(ideal - ideal.mean(axis=0)).max()), 1e-300)
    i, j = (ideal - ideal.mean(axis=0)).T / scale
    terms = [np.ones_like(i), i, j] + [i * i, i * j, j * j] * (degree == 2)
    design = np.column_stack(terms)
    solution, _, rank, _ = np.linalg.lstsq(design, positions, rcond=1e-6)
    slope = solution[1:3] / scale if rank == design.shape[1] else np.full((2, 2), np.nan)
    freedom = max(1 - design.shape[1] / len(ideal), 0.1)
    return slope, (positions - design @ solution) ** 2 / freedom


def _large_enough(label: NDArray, least: int, neighbours: NDArray) -> NDArray[np.int64]:
    """Labels of so many columns at least, a quarter of them among their own, numbered by falling number."""
    around = label[neighbours[:, 1:]]
    own = ((around == label[:, None]).sum(axis=1) >= AMONG * np.maximum((around >= 0).sum(axis=1), 1)) & (label >= 0)
    kinds, count = np.unique(label[label >= 0], return_counts=True)
    inner = np.array([own[label == kind].sum() for kind in kinds])
    count = np.where(inner >= least / 4, count, 0)
    number = np.full(max(int(label.max(initial=-1)), 0) + 2, -1)
    order = [kind for kind, size in sorted(zip(kinds, count, strict=True), key=lambda p: -p[1]) if size >= least]
    number[order] = np.arange(len(order))
    return np.where(label >= 0, number[label], -1)


def _completed(positions: NDArray, bases: _Bases, label: NDArray) -> NDArray[np.int64]:
    """Labels with the columns at boundaries, each in the grain whose columns around it predict its place best."""
    label = label.copy()
    for _ in range(JOINED):
        free = np.flatnonzero(label < 0)
        grains = np.unique(label[label >= 0])
        if len(free) == 0 or len(grains) == 0:
            break
        found = [_off_places(positions, bases, label, free, grain) for grain in grains]
        off, basis = np.array([f[0] for f in found]), np.array([f[1] for f in found])
        best, columns = np.argmin(off, axis=0), np.arange(len(free))
        joins = off[best, columns] < JOINS * nearest_distance(positions)
        if not joins.any():
            break
        rows = free[joins]
        label[rows] = grains[best[joins]]
        bases.basis[rows], bases.good[rows] = basis[best, columns][joins], True
    return label


def _off_places(
    positions: NDArray, bases: _Bases, label: NDArray, free: NDArray, grain: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of columns from the place that a grain's columns around them predict, and the basis of these.

    The distance is infinite where they are fewer than 4. A column predicts only places of its own site, so that the
    nearest of the predicted ones counts.
    """
    around = bases.neighbours[free]
    own = (label[around] == grain) & bases.good[around]
    enough = own.sum(axis=1) >= 4
    result, basis = np.full(len(free), np.inf), np.zeros((len(free), 2, 2))
    around, own = around[enough], own[enough]
    if len(around) == 0:
        return result, basis
    vectors = np.nanmedian(np.where(own[..., None, None], bases.basis[around], np.nan), axis=1)
    apart = positions[free[enough]][:, None] - positions[around]
    cells = np.einsum("nki,nij->nkj", apart, np.linalg.inv(vectors))
    rest = np.einsum("nki,nij->nkj", cells - np.round(cells), vectors)
    result[enough] = np.where(own, np.hypot(rest[..., 0], rest[..., 1]), np.inf).min(axis=1)
    basis[enough] = vectors
    return result, basis
