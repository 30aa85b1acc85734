"""The two vectors of a lattice from the positions of columns alone, for any number of columns per cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.statistics import median_spacing
from stemkit.structure.bases import reduced_basis

__all__ = ["CONSTANTS", "find_vectors"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the search."""

    #: Columns of a patch, from which differences of positions are taken (chosen).
    patch: int = 200
    #: Patches that are tried at most (chosen).
    patches: int = 7
    #: Longest difference, mean distances of columns (chosen).
    longest: float = 4.5
    #: Largest distance of two positions that are considered the same, nearest distances of columns (chosen).
    same_position: float = 0.3
    #: Step of the histogram of differences, nearest distances of columns (chosen).
    step: float = 0.08
    #: Sigma of the filter of the histogram, steps (chosen).
    smoothing: float = 1.3
    #: Least height of a peak of the histogram, fraction of the highest (chosen).
    height: float = 0.08
    #: Peaks that are tried at most, highest first (chosen).
    peaks: int = 40
    #: Least fraction of the columns from which a lattice vector leads to a column (chosen).
    occupied: float = 0.4
    #: The same relative to the best vector (chosen).
    occupied_of_best: float = 0.8
    #: Least fraction of the columns of a patch from which a vector leads to a column at all (chosen).
    sources: float = 0.2
    #: Widest angle without a column as seen from a position inside the crystal, degrees (chosen).
    widest_gap: float = 150.0
    #: Least sine of the angle between the two vectors (chosen: 24 degrees).
    sine: float = 0.4


CONSTANTS = _Constants()


def find_vectors(positions: NDArray, patch: int = CONSTANTS.patch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vectors of a lattice, and a position around which they were found.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
    patch : int
        Columns of a patch.

    Returns
    -------
    vectors : ndarray of shape (2, 2)
        Reduced basis as rows ``(y, x)``.
    center : ndarray of shape (2,)
        Centre of the patch in which they are most frequent.

    Raises
    ------
    ValueError
        If the positions are not periodic.

    Notes
    -----
    A lattice vector connects nearly every column with another one; a vector between the columns of one cell does so for
    a part of the columns only. Candidates are the peaks of the density of all differences within a patch. They are
    accepted by the fraction of occupied positions among those at one candidate vector from a column inside the crystal.
    """
    tree = cKDTree(positions)
    found = [(_vectors_of_patch(tree, center, patch), center) for center in _patch_centers(positions, patch)]
    (vectors, _), center = max(found, key=lambda item: item[0][1])
    if vectors is None:
        raise ValueError(
            f"table must contain a lattice, but its {len(positions)} columns are not periodic in two directions: give "
            "vectors=, or a table with fewer false columns"
        )
    return reduced_basis(vectors), center


def _patch_centers(positions: NDArray, patch: int) -> NDArray[np.float64]:
    """The column nearest to the median, and others, each the farthest from those before."""
    chosen = [int(np.argmin(((positions - np.median(positions, axis=0)) ** 2).sum(axis=1)))]
    distance = np.full(len(positions), np.inf)
    while len(chosen) < min(CONSTANTS.patches, 1 + len(positions) // patch):
        distance = np.minimum(distance, ((positions - positions[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(np.argmax(distance)))
    return positions[chosen]


def _vectors_of_patch(tree: cKDTree, center: NDArray, patch: int) -> tuple[NDArray[np.float64] | None, float]:
    """The shortest pair of lattice vectors around a position, and the smaller of their occupied fractions."""
    sources = tree.data[tree.query(center, k=min(patch, tree.n))[1]]
    nearest = median_spacing(sources)
    candidates = _frequent_differences(tree, sources, nearest)
    if len(candidates) < 2:
        return None, 0.0
    score = _occupied_fractions(tree, sources, candidates, CONSTANTS.same_position * nearest)
    good = score >= max(CONSTANTS.occupied, CONSTANTS.occupied_of_best * score.max())
    pair = _two_shortest(candidates[good])
    if pair is None:
        return None, 0.0
    return candidates[good][pair], float(score[good][pair].min())


def _frequent_differences(tree: cKDTree, sources: NDArray, nearest: float) -> NDArray[np.float64]:
    """Peaks of the density of differences in the lower half plane, highest first."""
    k = min(9, tree.n)
    radius = tree.query(sources, k=k)[0][:, -1]
    longest = CONSTANTS.longest * float(np.median(radius)) * np.sqrt(np.pi / (k - 1))
    partners = tree.query_ball_point(sources, longest)
    difference = tree.data[np.concatenate(partners)] - np.repeat(sources, [len(p) for p in partners], axis=0)
    difference = difference[np.hypot(*difference.T) > CONSTANTS.same_position * nearest]
    if len(difference) == 0:
        return np.empty((0, 2))
    centers = _peaks(difference, longest, CONSTANTS.step * nearest)
    differences = cKDTree(difference)
    for _ in range(2):
        members = differences.query_ball_point(centers, CONSTANTS.same_position * nearest)
        centers = np.array([difference[m].mean(axis=0) if m else c for m, c in zip(members, centers, strict=True)])
    return centers


def _peaks(difference: NDArray, longest: float, step: float) -> NDArray[np.float64]:
    edges = np.arange(-longest - 4 * step, longest + 5 * step, step)
    counts = np.histogram2d(difference[:, 0], difference[:, 1], bins=[edges, edges])[0]
    density = ndimage.gaussian_filter(counts, CONSTANTS.smoothing)
    is_peak = (density == ndimage.maximum_filter(density, size=5)) & (density > CONSTANTS.height * density.max())
    bins = np.argwhere(is_peak)[np.argsort(-density[is_peak])]
    peaks = edges[0] + (bins + 0.5) * step
    lower = (peaks[:, 0] > step) | ((np.abs(peaks[:, 0]) <= step) & (peaks[:, 1] > 0))
    return peaks[lower][: CONSTANTS.peaks]


def _occupied_fractions(tree: cKDTree, sources: NDArray, vectors: NDArray, tolerance: float) -> NDArray[np.float64]:
    """Fraction of occupied positions among those that are one vector from a source and inside the crystal, ``(n,)``."""
    targets = sources + vectors[:, None]
    occupied = np.isfinite(tree.query(targets, distance_upper_bound=tolerance)[0])
    n_occupied = occupied.sum(axis=1)
    enough = n_occupied >= max(3, CONSTANTS.sources * len(sources))
    # an empty position is inside if there are columns in all directions; tested only for vectors that can be accepted
    is_empty = ~occupied & enough[:, None]
    empty = targets[is_empty]
    difference = tree.data[tree.query(empty, k=min(11, tree.n))[1]] - empty[:, None]
    angle = np.sort(np.degrees(np.arctan2(difference[..., 0], difference[..., 1])), axis=1)
    gap = np.diff(angle, axis=1, append=angle[:, :1] + 360).max(axis=1)
    is_empty[is_empty] = gap < CONSTANTS.widest_gap
    return np.where(enough, n_occupied / np.maximum(n_occupied + is_empty.sum(axis=1), 1), 0.0)


def _two_shortest(vectors: NDArray) -> NDArray[np.intp] | None:
    """Indices of the shortest vector and of the shortest one that is not nearly parallel to it."""
    order = np.argsort(np.hypot(*vectors.T))
    for second in order[1:]:
        a, b = vectors[order[0]], vectors[second]
        if abs(a[0] * b[1] - a[1] * b[0]) > CONSTANTS.sine * np.hypot(*a) * np.hypot(*b):
            return np.array([order[0], second])
    return None
