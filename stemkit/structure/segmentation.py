"""Segmentation of the columns into grains: crystals of different lattice or orientation in one table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.statistics import median_spacing
from stemkit.structure.bases import matching_basis
from stemkit.structure.boundaries import MIN_INNER_COLUMNS, Similarity, compare_clusters
from stemkit.structure.local_bases import LocalBases, all_local_bases
from stemkit.structure.region_growing import GrownLattice

__all__ = ["fill_enclosed", "segment"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the segmentation."""

    #: Largest radius of a cluster of local bases, fraction of the mismatch (chosen).
    radius: float = 0.4
    #: Clusters per grown lattice at most (chosen).
    clusters: int = 24
    #: Times that the centres of the clusters are moved to the means of their members (chosen).
    center_moves: int = 5
    #: Times that each column takes the most frequent label of its neighbours (chosen).
    votes: int = 3
    #: Deviation of the basis of a column from that of its cluster above which it is in none (chosen).
    deviation: float = 0.15
    #: Least fraction of the labelled neighbours with the same label for a column inside its grain (chosen).
    inside: float = 0.75
    #: Least number of columns inside a grain, fraction of ``min_columns`` (chosen).
    inner: float = 0.25
    #: Nearest columns that decide whether a column without a label is enclosed by a grain (chosen).
    nearest: int = 6
    #: Least number of these in the grain (chosen).
    enclosing: int = 4
    #: Layers of columns that may be added to a grain at its boundary (chosen).
    added_rows: int = 5
    #: Fewest columns of a grain that predict the position of a column at its boundary (chosen).
    predicting: int = 4
    #: Largest distance of an added column from its predicted position, nearest distances of columns (chosen).
    distance: float = 0.25


CONSTANTS = _Constants()


def segment(
    positions: NDArray, mismatch: float, min_columns: int, first: GrownLattice | None = None
) -> NDArray[np.int64]:
    """Number of the grain of each column, ``(n,)``: -1 for none, 0 for the grain of most columns.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
    mismatch : float
        Lattices are different if their vectors differ by this fraction of their length.
    min_columns : int
        Fewest columns of a grain.
    first : GrownLattice, optional
        ``first_lattice(positions)`` if it is known.

    Notes
    -----
    A lattice is grown over the columns, and others over the columns that are not on it. Grown from neighbour to
    neighbour, a lattice can follow a crystal across a boundary. Therefore each is divided where the local basis jumps.
    Local bases, from planes through 13 columns, are clustered. Two clusters in contact are parts of one crystal if the
    crystal is continuous at their boundary, or if its vectors on both sides differ by less than ``mismatch``. Clusters
    of equal bases, in contact or not, are one grain. Columns at a boundary belong to the grain that predicts their
    position best.
    """
    bases = all_local_bases(positions, min_columns, first)
    label = _divide_lattices(positions, bases, mismatch)
    label, bases = _merge_clusters(positions, bases, label, mismatch)
    label, bases = _merge_clusters(positions, bases, label, mismatch, border=False)
    label = _keep_large_grains(label, min_columns, bases.neighbors)
    label = _add_boundary_columns(positions, bases, label)
    return _keep_large_grains(label, min_columns, bases.neighbors)


def fill_enclosed(positions: NDArray, label: NDArray) -> NDArray[np.int64]:
    """Labels in which columns without one have that of the grain whose columns surround them.

    A lattice that was grown with a multiple of the true cell may lack one of its sites.
    """
    k = min(CONSTANTS.nearest + 1, len(positions))
    free = np.flatnonzero(label < 0)
    nearby = label[cKDTree(positions).query(positions[free], k=[*range(2, k + 1)])[1]]
    label = label.copy()
    for grain in np.unique(label[label >= 0]):
        label[free[(nearby == grain).sum(axis=1) >= CONSTANTS.enclosing]] = grain
    return label


def _divide_lattices(positions: NDArray, bases: LocalBases, mismatch: float) -> NDArray[np.int64]:
    """Cluster of each column; -1 for those without a basis."""
    label = np.full(len(positions), -1)
    for number, lattice in enumerate(bases.lattices):
        rows = np.flatnonzero(bases.number == number)
        deformation = (np.linalg.inv(lattice.vectors) @ bases.basis[rows]).reshape(-1, 4)
        label[rows] = label.max() + 1 + _clusters(deformation, CONSTANTS.radius * mismatch)
    for _ in range(CONSTANTS.votes):
        label = _majority(label, bases.neighbors)
    label = _without_thin_clusters(positions, label, bases.neighbors)
    for kind in np.unique(label[label >= 0]):
        # where indices are wrong, the basis is not that of the surrounding cluster
        rows = np.flatnonzero(label == kind)
        change = np.linalg.inv(bases.median(rows)) @ bases.basis[rows] - np.eye(2)
        label[rows[np.linalg.norm(change, axis=(1, 2)) > CONSTANTS.deviation]] = -1
    return label


def _clusters(points: NDArray, radius: float) -> NDArray[np.int64]:
    """Cluster of each point ``(n, 4)``: centres are added until all points are near one, then moved to the means."""
    centers = [np.median(points, axis=0)]
    distance = np.linalg.norm(points - centers[0], axis=1)
    while len(centers) < CONSTANTS.clusters and distance.max() > radius:
        centers.append(points[int(np.argmax(distance))])
        distance = np.minimum(distance, np.linalg.norm(points - centers[-1], axis=1))
    label = np.zeros(len(points), dtype=np.int64)
    for _ in range(CONSTANTS.center_moves):
        label = cKDTree(np.array(centers)).query(points)[1]
        centers = [points[label == c].mean(axis=0) if (label == c).any() else old for c, old in enumerate(centers)]
    return label


def _majority(label: NDArray, neighbors: NDArray) -> NDArray[np.int64]:
    """The most frequent label among the neighbours of each column, which include itself.

    Of labels that are equally frequent, its own is taken if it is one of them, otherwise that of the nearest neighbour.
    """
    nearby = label[neighbors]
    votes = ((nearby[:, :, None] == nearby[:, None, :]) & (nearby >= 0)[:, :, None]).sum(axis=2) + 0.5 * (
        nearby == label[:, None]
    )
    chosen = nearby[np.arange(len(label)), np.argmax(np.where(nearby >= 0, votes, -1), axis=1)]
    return np.where(label >= 0, chosen, -1)


def _without_thin_clusters(positions: NDArray, label: NDArray, neighbors: NDArray) -> NDArray[np.int64]:
    """Labels without clusters that are only a boundary of others, whose columns are added to the nearest cluster."""
    label = label.copy()
    while (label >= 0).any():
        nearby = label[neighbors]
        inner = ((nearby == label[:, None]) | (nearby < 0)).all(axis=1) & (label >= 0)
        kinds = np.unique(label[label >= 0])
        depth = np.array([inner[label == kind].sum() for kind in kinds])
        if len(kinds) == 1 or depth.min() >= MIN_INNER_COLUMNS:
            break
        thin = label == kinds[np.argmin(depth)]
        others = np.flatnonzero((label >= 0) & ~thin)
        nearest = others[cKDTree(positions[others]).query(positions[thin])[1]]
        label[thin] = label[nearest]
    return label


def _merge_clusters(
    positions: NDArray, bases: LocalBases, label: NDArray, mismatch: float, border: bool = True
) -> tuple[NDArray[np.int64], LocalBases]:
    """Merge clusters of the same lattice, the most similar ones first; labels and bases.

    Those in contact are compared at their boundary, where a bent crystal is continuous, or all as a whole. The bases
    of merged clusters are expressed by the same vectors.
    """
    bases = replace(bases, basis=bases.basis.copy())
    label = label.copy()
    known: dict[tuple[int, int], Similarity] = {}
    while True:
        kinds = np.unique(label[label >= 0]).tolist()
        pairs = [(p, q) for i, p in enumerate(kinds) for q in kinds[i + 1 :]]
        for pair in pairs:
            if pair not in known:
                known[pair] = compare_clusters(positions, bases, label, pair, border)
        same = [pair for pair in pairs if known[pair].difference < mismatch or known[pair].continuous]
        if not same:
            return label, bases
        p, q = min(same, key=lambda pair: known[pair])
        first, second = (bases.median(label == kind) for kind in (p, q))
        change = np.round(matching_basis(first, second)[0] @ np.linalg.inv(second))
        bases.basis[label == q] = change @ bases.basis[label == q]
        label[label == q] = p
        known = {pair: value for pair, value in known.items() if p not in pair and q not in pair}


def _keep_large_grains(label: NDArray, min_columns: int, neighbors: NDArray) -> NDArray[np.int64]:
    """Labels of grains that are large enough, with enough columns inside, numbered by decreasing size."""
    nearby = label[neighbors[:, 1:]]
    n_labeled = np.maximum((nearby >= 0).sum(axis=1), 1)
    inside = ((nearby == label[:, None]).sum(axis=1) >= CONSTANTS.inside * n_labeled) & (label >= 0)
    kinds, count = np.unique(label[label >= 0], return_counts=True)
    inner = np.array([inside[label == kind].sum() for kind in kinds])
    count = np.where(inner >= CONSTANTS.inner * min_columns, count, 0)
    number = np.full(max(int(label.max(initial=-1)), 0) + 2, -1)
    order = [kind for kind, n in sorted(zip(kinds, count, strict=True), key=lambda p: -p[1]) if n >= min_columns]
    number[order] = np.arange(len(order))
    return np.where(label >= 0, number[label], -1)


def _add_boundary_columns(positions: NDArray, bases: LocalBases, label: NDArray) -> NDArray[np.int64]:
    """Labels with the columns at boundaries, each in the grain that predicts its position best."""
    label, bases = label.copy(), replace(bases, basis=bases.basis.copy(), known=bases.known.copy())
    for _ in range(CONSTANTS.added_rows):
        free = np.flatnonzero(label < 0)
        grains = np.unique(label[label >= 0])
        if len(free) == 0 or len(grains) == 0:
            break
        found = [_distance_from_prediction(positions, bases, label, free, grain) for grain in grains]
        distance, basis = np.array([f[0] for f in found]), np.array([f[1] for f in found])
        best, columns = np.argmin(distance, axis=0), np.arange(len(free))
        added = distance[best, columns] < CONSTANTS.distance * median_spacing(positions)
        if not added.any():
            break
        rows = free[added]
        label[rows] = grains[best[added]]
        bases.basis[rows], bases.known[rows] = basis[best, columns][added], True
    return label


def _distance_from_prediction(
    positions: NDArray, bases: LocalBases, label: NDArray, free: NDArray, grain: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of columns from the position that neighbouring columns of a grain predict, and the basis of these.

    The distance is infinite if they are fewer than ``predicting``. A column predicts positions of its own site only;
    the nearest of all predicted positions counts.
    """
    neighbors = bases.neighbors[free]
    own = (label[neighbors] == grain) & bases.known[neighbors]
    enough = own.sum(axis=1) >= CONSTANTS.predicting
    result, basis = np.full(len(free), np.inf), np.zeros((len(free), 2, 2))
    neighbors, own = neighbors[enough], own[enough]
    if len(neighbors) == 0:
        return result, basis
    vectors = np.nanmedian(np.where(own[..., None, None], bases.basis[neighbors], np.nan), axis=1)
    difference = positions[free[enough]][:, None] - positions[neighbors]
    cells = np.einsum("nki,nij->nkj", difference, np.linalg.inv(vectors))
    residual = np.einsum("nki,nij->nkj", cells - np.round(cells), vectors)
    result[enough] = np.where(own, np.hypot(residual[..., 0], residual[..., 1]), np.inf).min(axis=1)
    basis[enough] = vectors
    return result, basis
