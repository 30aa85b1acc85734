"""The two vectors of a lattice from positions alone, whatever stands in its cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["find_vectors", "nearest_distance", "shortest_distance", "standard"]

#: Columns whose surroundings are compared, and how many such patches are tried over the crystal.
PATCH, PATCHES = 200, 7
#: Differences of positions are looked at up to this many mean distances of columns.
REACH = 4.5
#: Two positions are the same within this fraction of the distance of nearest columns.
SAME_PLACE = 0.3
#: A vector belongs to the lattice where it meets a column nearly as often as the best one; and at all, this often.
AS_OFTEN, OFTEN = 0.8, 0.4
#: Two vectors are equally short within this factor.
AS_SHORT = 1.06
#: Tallest peaks of the density of differences that are tried.
TRIED = 40
#: A place is inside the crystal where columns stand around it without a gap wider than this, degrees.
WIDEST_GAP = 150.0


def nearest_distance(positions: NDArray) -> float:
    """Median distance of nearest positions ``(n, 2)``."""
    return float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))


def shortest_distance(sites: NDArray, vectors: NDArray) -> float:
    """Shortest distance of two places of a lattice whose sites stand at ``(n_sites, 2)``."""
    whole = np.mgrid[-1:2, -1:2].reshape(2, -1).T @ vectors
    apart = (sites[:, None] - sites[None])[:, :, None] + whole
    length = np.hypot(apart[..., 0], apart[..., 1])
    return float(length[length > 1e-9 * length.max()].min())


def find_vectors(positions: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vectors of a lattice and a place where they hold.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)

    Returns
    -------
    vectors : ndarray of shape (2, 2)
        Two shortest independent vectors as rows ``(y, x)``: the first along x, the second downwards.
    place : ndarray of shape (2,)
        Middle of the patch that shows them best.

    Raises
    ------
    ValueError
        If nothing repeats.

    Notes
    -----
    A vector of the lattice leads from nearly every column to another one; a vector between the columns of one cell
    does so from some columns only. Peaks of the density of all differences within a patch are candidates, and each
    is judged by how many of the places it leads to, inside the crystal, are taken.
    """
    tree = cKDTree(positions)
    found = [(_patch_vectors(tree, place), place) for place in _places(positions)]
    (vectors, _), place = max(found, key=lambda item: item[0][1])
    if vectors is None:
        raise ValueError(
            f"table must show a lattice, but no two directions repeat among its {len(positions)} columns: give "
            "vectors=, or a table with fewer false columns"
        )
    return standard(vectors), place


def _places(positions: NDArray) -> NDArray[np.float64]:
    """The column nearest the middle, and others spread over the crystal: each the farthest from those before."""
    chosen = [int(np.argmin(((positions - np.median(positions, axis=0)) ** 2).sum(axis=1)))]
    distance = np.full(len(positions), np.inf)
    while len(chosen) < min(PATCHES, 1 + len(positions) // PATCH):
        distance = np.minimum(distance, ((positions - positions[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(np.argmax(distance)))
    return positions[chosen]


def _patch_vectors(tree: cKDTree, place: NDArray) -> tuple[NDArray[np.float64] | None, float]:
    """The shortest pair of lattice vectors around a place, and how often the worse of them meets a column."""
    sources = tree.data[tree.query(place, k=min(PATCH, tree.n))[1]]
    nearest = nearest_distance(sources)
    candidates = _frequent_differences(tree, sources, nearest)
    if len(candidates) < 2:
        return None, 0.0
    score = np.array([_taken(tree, sources, v, SAME_PLACE * nearest) for v in candidates])
    good = score >= max(OFTEN, AS_OFTEN * score.max())
    pair = _two_shortest(candidates[good])
    if pair is None:
        return None, 0.0
    return candidates[good][pair], float(score[good][pair].min())


def _frequent_differences(tree: cKDTree, sources: NDArray, nearest: float) -> NDArray[np.float64]:
    """Peaks of the density of differences in the lower half plane, tallest first."""
    k = min(9, tree.n)
    around = tree.query(sources, k=k)[0][:, -1]
    reach = REACH * float(np.median(around)) * np.sqrt(np.pi / (k - 1))
    partners = tree.query_ball_point(sources, reach)
    difference = tree.data[np.concatenate(partners)] - np.repeat(sources, [len(p) for p in partners], axis=0)
    difference = difference[np.hypot(*difference.T) > SAME_PLACE * nearest]
    if len(difference) == 0:
        return np.empty((0, 2))
    start = _peaks(difference, reach, 0.08 * nearest)
    clouds = cKDTree(difference)
    for _ in range(2):
        members = clouds.query_ball_point(start, SAME_PLACE * nearest)
        start = np.array([difference[m].mean(axis=0) if m else s for m, s in zip(members, start, strict=True)])
    return start


def _peaks(difference: NDArray, reach: float, step: float) -> NDArray[np.float64]:
    edges = np.arange(-reach - 4 * step, reach + 5 * step, step)
    density = ndimage.gaussian_filter(np.histogram2d(difference[:, 0], difference[:, 1], bins=[edges, edges])[0], 1.3)
    tall = (density == ndimage.maximum_filter(density, size=5)) & (density > 0.08 * density.max())
    at = np.argwhere(tall)
    at = at[np.argsort(-density[tall])]
    places = edges[0] + (at + 0.5) * step
    lower = (places[:, 0] > step) | ((np.abs(places[:, 0]) <= step) & (places[:, 1] > 0))
    return places[lower][:TRIED]


def _taken(tree: cKDTree, sources: NDArray, vector: NDArray, tolerance: float) -> float:
    """Fraction of the places a vector leads to from columns that hold a column, of those inside the crystal."""
    targets = sources + vector
    k = min(11, tree.n)
    distance, neighbours = tree.query(targets, k=k)
    hit = distance[:, 0] <= tolerance
    away = tree.data[neighbours] - targets[:, None]
    angle = np.degrees(np.arctan2(away[..., 0], away[..., 1]))
    angle[:, 0] = np.where(hit, angle[:, 1], angle[:, 0])  # a column at the place itself surrounds nothing
    angle.sort(axis=1)
    gap = np.diff(angle, axis=1, append=angle[:, :1] + 360).max(axis=1)
    counted = hit | (gap < WIDEST_GAP)
    enough = hit.sum() >= max(3, 0.2 * len(sources))
    return float(hit.sum() / counted.sum()) if enough else 0.0


def _two_shortest(vectors: NDArray) -> NDArray[np.intp] | None:
    order = np.argsort(np.hypot(*vectors.T))
    for second in order[1:]:
        a, b = vectors[order[0]], vectors[second]
        if abs(a[0] * b[1] - a[1] * b[0]) > 0.4 * np.hypot(*a) * np.hypot(*b):
            return np.array([order[0], second])
    return None


def standard(vectors: NDArray) -> NDArray[np.float64]:
    """The same lattice's reduced vectors: a the one along x, to the right, b pointing down.

    Where a third vector is as short, as in a hexagonal lattice, a is chosen from the three, and b at 120 degrees.
    """
    a, b = vectors[np.argsort(np.hypot(*vectors.T))]
    while True:
        b = b - np.round(a @ b / (a @ a)) * a
        if b @ b >= (1 - 1e-6) * (a @ a):
            break
        a, b = b, a
    third = a - b if a @ b > 0 else a + b
    short = np.array([a, b, third] if np.hypot(*third) < AS_SHORT * np.hypot(*b) else [a, b])
    along = np.abs(short[:, 1]) / np.hypot(*short.T)
    first = short[np.argmax(along)]
    others = np.delete(short, np.argmax(along), axis=0)
    first = first * (1 if first[1] >= 0 else -1)
    others = others * np.where(others[:, :1] >= 0, 1, -1)
    return np.array([first, others[np.argmin(others @ first / np.hypot(*others.T))]])
