"""Contacts of grains: connected regions of columns, and the lines between the columns of two grains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import QhullError, Voronoi, cKDTree

__all__ = ["Contacts", "connected_regions", "find_contacts", "inner_columns", "straight_lengths", "typical_distance"]

#: Longest distance of columns in contact, typical distances of neighbours in a grain (chosen: across a missing column).
MAX_DISTANCE = 2.2
#: Distance within which lines determine the local direction of a boundary, typical distances (chosen).
DIRECTION_RADIUS = 4.0


@dataclass(frozen=True)
class Contacts:
    """Lines between neighbouring columns i and j ``(m,)`` of different grains.

    ``ends`` ``(m, 2, 2)`` are the two ends (y, x) of the line, the common border of the Voronoi cells of the columns.
    """

    i: NDArray[np.intp]
    j: NDArray[np.intp]
    ends: NDArray[np.float64]

    @property
    def centers(self) -> NDArray[np.float64]:
        """Middles of the lines, ``(m, 2)``."""
        return self.ends.mean(axis=1)


def connected_regions(positions: NDArray, label: NDArray, fewest: int) -> NDArray[np.int64]:
    """Number of the connected region of each column, -1 for none: columns of one label that are neighbours.

    Regions are numbered by decreasing number of columns; those of fewer than ``fewest`` are none.
    """
    region = np.full(len(positions), -1)
    rows = np.flatnonzero(label >= 0)
    if len(rows) == 0:
        return region
    pairs = cKDTree(positions[rows]).query_pairs(_longest(positions, label), output_type="ndarray")
    pairs = pairs[label[rows[pairs[:, 0]]] == label[rows[pairs[:, 1]]]]
    ones = np.ones(len(pairs), dtype=np.int8)
    found = connected_components(csr_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(rows),) * 2), directed=False)[
        1
    ]
    count = np.bincount(found)
    order = np.argsort(-count, kind="stable")
    number = np.empty(len(count), dtype=np.int64)
    number[order] = np.arange(len(count))
    number[count < fewest] = -1
    region[rows] = number[found]
    return region


def find_contacts(positions: NDArray, grain: NDArray) -> Contacts:
    """Lines between the grains; columns of none are left out, so that grains on both sides of them are in contact."""
    none = Contacts(np.empty(0, np.intp), np.empty(0, np.intp), np.empty((0, 2, 2)))
    rows = np.flatnonzero(grain >= 0)
    if len(np.unique(grain[rows])) < 2:
        return none
    try:
        cells = Voronoi(positions[rows])
    except QhullError:
        return none
    i, j = rows[cells.ridge_points].T
    between = np.flatnonzero(grain[i] != grain[j])
    i, j = i[between], j[between]
    step = positions[j] - positions[i]
    distance = np.hypot(step[:, 0], step[:, 1])
    near = distance <= _longest(positions, grain)
    i, j, step, between = i[near], j[near], step[near], between[near]
    vertices = np.array([cells.ridge_vertices[k] for k in between], dtype=np.intp).reshape(-1, 2)
    middle = (positions[i] + positions[j]) / 2
    across = step[:, ::-1] * [1, -1] / np.maximum(np.hypot(*step.T), 1e-300)[:, None]
    # lines end where the next ones begin; at the edge of the field, where there is none, they are limited
    reach = np.where(vertices >= 0, np.einsum("mkj,mj->mk", cells.vertices[vertices] - middle[:, None], across), np.nan)
    limit = distance[near] / 2
    reach = np.where(np.isnan(reach), -np.sign(reach[:, ::-1]) * limit[:, None], reach)
    reach = np.clip(np.nan_to_num(reach), -limit[:, None], limit[:, None])
    return Contacts(i, j, middle[:, None] + reach[..., None] * across[:, None])


def inner_columns(positions: NDArray, grain: NDArray) -> NDArray[np.bool_]:
    """Columns ``(n,)`` of grains that have only columns of their own grain around them."""
    inner = grain >= 0
    pairs = cKDTree(positions).query_pairs(_longest(positions, grain), output_type="ndarray")
    apart = pairs[grain[pairs[:, 0]] != grain[pairs[:, 1]]]
    inner[apart] = False
    return inner


def straight_lengths(contacts: Contacts, spacing: float) -> NDArray[np.float64]:
    """Length ``(m,)`` of each line along the boundary, which is less than that of the line where these zigzag."""
    if len(contacts.i) == 0:
        return np.empty(0)
    centers, step = contacts.centers, contacts.ends[:, 1] - contacts.ends[:, 0]
    pairs = cKDTree(centers).query_pairs(DIRECTION_RADIUS * spacing, output_type="ndarray")
    n = len(centers)
    near = csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    near = near + near.T
    # the direction of a boundary has no sign: the mean is that of doubled angles, weighted with the lengths
    double = (step[:, 1] + 1j * step[:, 0]) ** 2 / np.maximum(np.hypot(*step.T), 1e-300)
    angle = np.angle(double + near @ double) / 2
    return np.abs(step[:, 1] * np.cos(angle) + step[:, 0] * np.sin(angle))


def _longest(positions: NDArray, label: NDArray) -> float:
    """Longest distance of columns in contact."""
    return MAX_DISTANCE * typical_distance(positions[label >= 0])


def typical_distance(positions: NDArray) -> float:
    """Median distance of the four nearest neighbours, which contains those in both directions of a cell."""
    k = min(5, len(positions))
    return float(np.median(cKDTree(positions).query(positions, k=k)[0][:, 1:])) if k > 1 else 1.0
