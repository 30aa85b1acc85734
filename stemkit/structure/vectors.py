"""The two vectors of a lattice from positions alone, whatever stands in its cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["corresponding", "find_vectors", "matched", "nearest_distance", "shortest_distance", "standard"]

#: Columns whose surroundings are compared, and how many such patches are tried over the crystal.
PATCH, PATCHES = 200, 7
#: Differences of positions are looked at up to this many mean distances of columns.
REACH = 4.5
#: Two positions are the same within this fraction of the distance of nearest columns.
SAME_PLACE = 0.3
#: A vector belongs to the lattice where it meets a column nearly as often as the best one; and at all, this often.
AS_OFTEN, OFTEN = 0.8, 0.4
#: Lengths that agree within this factor are taken for equal: scans distort by up to some per cent. Chosen.
AS_SHORT = 1.04
#: A cell is that of a centred rectangle where ``a . b / |a|^2`` is this close to 1/2. Chosen.
CENTRED = 0.01
#: Tallest peaks of the density of differences that are tried.
TRIED = 40
#: A place is inside the crystal where columns stand around it without a gap wider than this, degrees.
WIDEST_GAP = 150.0


def _unimodular(reach: int) -> NDArray[np.int64]:
    """Matrices ``(n, 2, 2)`` of determinant 1 or -1 with elements up to ``reach``."""
    values = np.arange(-reach, reach + 1)
    matrices = np.stack(np.meshgrid(*[values] * 4, indexing="ij"), axis=-1).reshape(-1, 2, 2)
    determinant = matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]
    return matrices[np.abs(determinant) == 1]


UNIMODULAR = _unimodular(2)


def nearest_distance(positions: NDArray) -> float:
    """Median distance of nearest positions ``(n, 2)``."""
    return float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))


def shortest_distance(sites: NDArray, vectors: NDArray) -> float:
    """Shortest distance of two places of a lattice whose sites stand at ``(n_sites, 2)``."""
    whole = np.mgrid[-1:2, -1:2].reshape(2, -1).T @ vectors
    apart = (sites[:, None] - sites[None])[:, :, None] + whole
    length = np.hypot(apart[..., 0], apart[..., 1])
    return float(length[length > 1e-9 * length.max()].min())


def matched(vectors: NDArray, other: NDArray) -> tuple[NDArray[np.float64], float]:
    """The basis of another lattice that corresponds to some vectors, and by which fraction the two differ.

    Parameters
    ----------
    vectors, other : ndarray of shape (2, 2)
        Rows ``(y, x)``.

    Returns
    -------
    basis : ndarray of shape (2, 2)
        The combination of ``other`` by whole numbers, of determinant 1 or -1, that is nearest to ``vectors``.
    difference : float
        The largest singular value of F - 1, F being the deformation of ``basis`` into ``vectors``: the largest relative
        change of any vector. Above about 0.5 the choice of the basis is arbitrary, and it is infinite where none was
        found.

    Notes
    -----
    Both bases are reduced [1]_; the reduced basis of the other lattice is combined by all matrices of determinant 1 or
    -1 with elements of -2 to 2, which include every change between nearly reduced bases.

    References
    ----------
    .. [1] Nguyen and Stehle, ACM Trans. Algorithms 5, 46 (2009), https://doi.org/10.1145/1597036.1597050
    """
    own, rows = np.array(_gauss(vectors)), np.array(_gauss(other))
    candidates = UNIMODULAR @ rows
    change = np.linalg.solve(candidates, np.broadcast_to(own, candidates.shape)) - np.eye(2)
    difference = np.linalg.norm(change, ord=2, axis=(1, 2))
    best = int(np.argmin(difference))
    back = np.round(vectors @ np.linalg.inv(own))
    return back @ candidates[best], float(difference[best])


def corresponding(vectors: NDArray, reference: NDArray) -> tuple[NDArray[np.float64], float]:
    """The basis of an unstrained lattice that corresponds to some vectors, and the largest strain between the two.

    Parameters
    ----------
    vectors, reference : ndarray of shape (2, 2)
        Rows ``(y, x)``.

    Returns
    -------
    basis : ndarray of shape (2, 2)
        A combination of ``reference`` by whole numbers of determinant 1 or -1.
    strain : float
        Largest deviation from 1 of the singular values of the deformation F of ``basis`` into ``vectors``, whatever its
        rotation (the polar decomposition ``F = R U``).

    Notes
    -----
    Among all such bases without a mirror operation, the one of the smallest strain plus a tenth of the rotation in
    radians: symmetry makes several of them equal but for a rotation, the smallest of which is meant.
    """
    own, rows = np.array(_gauss(vectors)), np.array(_gauss(reference))
    candidates = UNIMODULAR @ rows
    # row vectors: candidates @ F = own
    change = np.linalg.solve(candidates, np.broadcast_to(own, candidates.shape))
    strain = np.abs(np.linalg.svd(change, compute_uv=False) - 1).max(axis=1)
    turn = np.abs(np.arctan2(change[:, 0, 1] - change[:, 1, 0], change[:, 0, 0] + change[:, 1, 1]))
    cost = np.where(np.linalg.det(change) > 0, strain + 0.1 * turn, np.inf)
    best = int(np.argmin(cost))
    back = np.round(vectors @ np.linalg.inv(own))
    return back @ candidates[best], float(strain[best])


def find_vectors(positions: NDArray, patch: int = PATCH) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vectors of a lattice and a place where they hold.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
    patch : int
        Columns whose surroundings are compared.

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
    found = [(_patch_vectors(tree, place, patch), place) for place in _places(positions, patch)]
    (vectors, _), place = max(found, key=lambda item: item[0][1])
    if vectors is None:
        raise ValueError(
            f"table must show a lattice, but no two directions repeat among its {len(positions)} columns: give "
            "vectors=, or a table with fewer false columns"
        )
    return standard(vectors), place


def _places(positions: NDArray, patch: int) -> NDArray[np.float64]:
    """The column nearest the middle, and others spread over the crystal: each the farthest from those before."""
    chosen = [int(np.argmin(((positions - np.median(positions, axis=0)) ** 2).sum(axis=1)))]
    distance = np.full(len(positions), np.inf)
    while len(chosen) < min(PATCHES, 1 + len(positions) // patch):
        distance = np.minimum(distance, ((positions - positions[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(np.argmax(distance)))
    return positions[chosen]


def _patch_vectors(tree: cKDTree, place: NDArray, patch: int) -> tuple[NDArray[np.float64] | None, float]:
    """The shortest pair of lattice vectors around a place, and how often the worse of them meets a column."""
    sources = tree.data[tree.query(place, k=min(patch, tree.n))[1]]
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
    """Reduced vectors of the same lattice, in the order and with the signs that :class:`Lattice` states.

    Parameters
    ----------
    vectors : ndarray of shape (2, 2)
        Rows ``(y, x)``.

    Notes
    -----
    Lagrange-Gauss reduction [1]_: the shorter vector is subtracted from the longer one until
    ``|a . b| <= |a|^2 / 2``, which makes a and b the two shortest independent vectors, at 60 to 120 degrees.

    References
    ----------
    .. [1] Nguyen and Stehle, ACM Trans. Algorithms 5, 46 (2009), https://doi.org/10.1145/1597036.1597050
    """
    a, b = _gauss(vectors)
    third = a - b if a @ b > 0 else a + b
    length = np.hypot(*np.array([a, b, third]).T)
    if length[2] < AS_SHORT * length[0]:
        # hexagonal within the scan's distortions: the vector nearest to x, and the next one at 120 degrees
        short = np.array([a, b, third])
        nearest = int(np.argmax(np.abs(short[:, 1]) / length))
        first = _forward(short[nearest])
        others = [_clockwise(first, v) for v in np.delete(short, nearest, axis=0)]
        return np.array([first, min(others, key=lambda v: float(first @ v))])
    if length[1] < AS_SHORT * length[0] and abs(a[1]) * length[1] < abs(b[1]) * length[0]:
        a, b = b, a
    a = _forward(a)
    b = _clockwise(a, b)
    if a @ b > (0.5 - CENTRED) * (a @ a):
        b = b - a  # a centred rectangle: as short, but at an obtuse angle
    return np.array([a, b])


def _gauss(vectors: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two shortest independent vectors of a lattice, the shorter one first."""
    a, b = vectors[np.argsort(np.hypot(*vectors.T))].astype(np.float64)
    while True:
        b = b - np.round(a @ b / (a @ a)) * a
        if b @ b >= (1 - 1e-12) * (a @ a):
            return a, b
        a, b = b, a


def _forward(vector: NDArray) -> NDArray[np.float64]:
    """The vector or its opposite, whichever points right, or down where it is steeper than 45 degrees."""
    return vector if vector.sum() >= 0 else -vector


def _clockwise(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """The vector b or its opposite, whichever is clockwise from a on the screen."""
    return b if a[1] * b[0] >= a[0] * b[1] else -b
