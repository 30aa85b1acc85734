"""The planar graph of columns and their edges: Delaunay edges, half-edges and the faces they enclose.

A half-edge is an edge in one direction. The half-edges of each column are sorted by angle: a path that leaves each
column by the half-edge next to the one by which it has arrived follows the border of one face.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay, QhullError

__all__ = ["HalfEdges", "delaunay_edges"]


def delaunay_edges(positions: NDArray) -> NDArray[np.intp]:
    """Edges ``(m, 2)`` of the Delaunay triangulation, the smaller row number first; none for positions on a line."""
    if len(positions) < 3:
        return np.array([[0, 1]][: max(len(positions) - 1, 0)], dtype=np.intp).reshape(-1, 2)
    try:
        simplices = Delaunay(positions).simplices.astype(np.intp)
    except QhullError:
        return np.empty((0, 2), dtype=np.intp)
    low, high = np.sort(simplices[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1).T
    key = np.unique(low * len(positions) + high)
    return np.column_stack([key // len(positions), key % len(positions)])


class HalfEdges:
    """Both directions of the edges from i to j, sorted by their start and by their angle around it.

    Of each half-edge, ``start`` and ``end`` ``(2 m,)`` are the row numbers of its columns, ``edge`` is its edge,
    ``reverse`` the opposite half-edge, and ``next_around`` the next one at the same column, from +x towards +y.
    """

    def __init__(self, positions: NDArray, i: NDArray, j: NDArray):
        m = len(i)
        start, end = np.concatenate([i, j]), np.concatenate([j, i])
        y, x = (positions[end] - positions[start]).T
        order = np.lexsort([np.arctan2(y, x), start])
        place = np.empty(2 * m, dtype=np.intp)
        place[order] = np.arange(2 * m)
        self.start, self.end = start[order], end[order]
        self.edge = order % max(m, 1)
        self.reverse = place[(order + m) % max(2 * m, 1)]
        self.next_around = np.arange(1, 2 * m + 1)
        last = np.flatnonzero(np.diff(self.start, append=-1))
        self.next_around[last] = np.concatenate([[0], last[:-1] + 1])[: len(last)]

    @property
    def next_of_face(self) -> NDArray[np.intp]:
        """The half-edge that follows each one on the border of the face at its clockwise side on the screen."""
        return self.next_around[self.reverse]

    def faces(self) -> NDArray[np.intp]:
        """Face of each half-edge, numbered from 0."""
        m = len(self.start)
        follows = csr_array((np.ones(m, dtype=np.int8), (np.arange(m), self.next_of_face)), shape=(m, m))
        return connected_components(follows)[1].astype(np.intp)
