"""Dislocations: Burgers vectors from circuits around each triangle of neighbouring columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay, QhullError, cKDTree

from stemkit.structure.covariance import PositionCovariance
from stemkit.structure.lattice import Lattice, check_lattice
from stemkit.structure.tables import column_positions

__all__ = ["find_dislocations"]

#: Columns whose steps determine a local basis, and over which it is smoothed (chosen: two shells).
WINDOW = 13
#: Times that steps and local bases are determined from each other (chosen).
ITERATIONS = 3
#: Weight of the mean lattice in a local basis, steps squared (chosen: decides only if all neighbours are in one line).
WEAK = 1e-3
#: Largest difference of a step from whole lattice vectors on a circuit, in lattice vectors (chosen: 0.5 is arbitrary).
UNCERTAIN = 0.35
#: Longest edge of a triangle, longer vector of the lattice (chosen: across a missing column and a diagonal).
LONGEST = 2.8
NAMES = ("y", "x", "burgers_a", "burgers_b", "burgers_y", "burgers_x", "length", "angle")


def find_dislocations(table: pd.DataFrame, lattice: Lattice) -> pd.DataFrame:
    """Find the dislocations of a crystal, and their Burgers vectors, from circuits around their cores.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    lattice : Lattice
        ``fit_lattice(table)``, or one of ``find_grains(table).lattices``. Columns that are not on it are not used.

    Returns
    -------
    DataFrame
        One row per dislocation: ``y, x`` (its core), ``burgers_a, burgers_b`` (Burgers vector in whole vectors a and b
        of the lattice), ``burgers_y, burgers_x`` and ``length`` (the same in the table's unit), ``angle`` (its
        direction, degrees from +x towards +y), ``margin`` (the least certain step of the circuit: its distance from
        the next possible step, 0.5 at best and at least 0.15, in lattice vectors) and ``significance``, this distance
        divided by its error. ``attrs["units"]`` contains the unit of each column.

    Raises
    ------
    ValueError
        If the lattice is that of another table.

    See Also
    --------
    ring_pairs : Dislocations of graphene, which are rings of five and seven.

    Notes
    -----
    Steps between neighbouring columns are compared with the lattice vectors around them, which follow a bent and
    strained crystal, and rounded to whole vectors. Around a triangle of a perfect crystal the steps sum to zero.
    Triangles in which they do not, or in which a step is uncertain, are combined if they touch; the sum over them is
    that of the circuit around all. It is a lattice vector whatever the strain. Circuits are clockwise on the screen,
    and the Burgers vector is minus the sum of the steps of the perfect lattice, or the increase of the displacement
    along the circuit: the convention FS/RH [1]_ for a dislocation line into the screen. It is the component
    perpendicular to the beam: screw dislocations along the beam are invisible.

    Only the columns of the most frequent site are used. The core is the mean centre of the triangles that do not close.
    Dislocations that are so near that their triangles touch are one, with the sum of their vectors; those at the border
    of the crystal, or in a hole, are not found, since no circuit encloses them. Partial dislocations are found only if
    their vectors are those of the lattice in projection.

    References
    ----------
    .. [1] Hirth and Lothe, Theory of Dislocations, 2nd ed., Wiley (1982)

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import find_dislocations, fit_lattice
    >>> y, x = np.mgrid[-8:9, -8:9].reshape(2, -1) + 0.5
    >>> half_plane = (y > 0) & (np.abs(x) < 1)  # two rows above the core are one below it
    >>> x = np.where(y > 0, x - np.sign(x) * 0.5 * np.exp(-np.abs(x) / 4), x)
    >>> table = pd.DataFrame({"y": y, "x": x})[~(half_plane & (x < 0))]
    >>> len(find_dislocations(table, fit_lattice(table, vectors=[[0, 1], [1, 0]])))
    1
    """
    check_lattice(lattice, table)
    columns = column_positions(table)
    rows = _rows_of_one_site(lattice, columns.measured)
    found = _circuits(columns.positions[rows], lattice.indices[rows], lattice.vectors)
    covariance = PositionCovariance.of(columns, table)
    burgers = -found.steps
    vectors = burgers @ lattice.vectors
    result = pd.DataFrame(
        np.column_stack(
            [
                found.cores,
                burgers,
                vectors,
                np.hypot(vectors[:, 0], vectors[:, 1]),
                np.degrees(np.arctan2(vectors[:, 0], vectors[:, 1])),
            ]
        ),
        columns=list(NAMES),
    ).astype({"burgers_a": np.int64, "burgers_b": np.int64})
    margins = [
        _margin(covariance, rows[edges], *steps) for edges, steps in zip(found.edges, found.relative, strict=True)
    ]
    result[["margin", "significance"]] = np.array(margins).reshape(-1, 2)
    units = dict.fromkeys(("y", "x", "burgers_y", "burgers_x", "length"), columns.unit)
    units |= {"burgers_a": "1", "burgers_b": "1", "angle": "degree", "margin": "1", "significance": "1"}
    result.attrs.update(unit=columns.unit, units=units)
    return result


@dataclass(frozen=True)
class _Circuits:
    """Circuits that do not close.

    ``steps`` ``(m, 2)`` are their sums in whole lattice vectors, clockwise on the screen, and ``cores`` ``(m, 2)``
    their centres. Of each circuit, ``edges`` ``(k, 2)`` are the columns, and ``relative`` the steps ``(k, 2)`` in local
    lattice vectors with the inverse local bases ``(k, 2, 2)``.
    """

    steps: NDArray[np.int64]
    cores: NDArray[np.float64]
    edges: list[NDArray[np.intp]]
    relative: list[tuple[NDArray[np.float64], NDArray[np.float64]]]


def _rows_of_one_site(lattice: Lattice, measured: NDArray) -> NDArray[np.intp]:
    """Rows of the columns at the site that has most of them."""
    used = (lattice.site >= 0) & measured
    if not used.any():
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero(used & (lattice.site == np.bincount(lattice.site[used]).argmax()))


def _circuits(positions: NDArray, indices: NDArray, vectors: NDArray) -> _Circuits:
    nothing = _Circuits(np.empty((0, 2), np.int64), np.empty((0, 2)), [], [])
    if len(positions) <= WINDOW:
        return nothing
    try:
        mesh = Delaunay(positions)
    except QhullError:
        return nothing
    triangles, neighbors = _clockwise(mesh)
    inverse = np.linalg.inv(_local_bases(positions, indices, vectors))
    edges = triangles[:, [[0, 1], [1, 2], [2, 0]]]
    step = positions[edges[..., 1]] - positions[edges[..., 0]]
    # the mean of both ends, so that a step and the opposite one are rounded to the same vectors
    local = (inverse[edges[..., 0]] + inverse[edges[..., 1]]) / 2
    relative = np.einsum("tei,teij->tej", step, local)
    whole = np.round(relative)
    closure = whole.sum(axis=1)
    uncertain = np.abs(relative - whole).max(axis=(1, 2)) > UNCERTAIN
    outside = np.hypot(step[..., 0], step[..., 1]).max(axis=1) > LONGEST * np.hypot(*vectors.T).max()
    odd = np.flatnonzero(((closure != 0).any(axis=1) | uncertain) & ~outside)
    region = _touching(triangles[odd], len(positions))
    total = np.column_stack([np.bincount(region, closure[odd, k]) for k in range(2)]) if len(odd) else np.empty((0, 2))
    found = nothing
    steps, cores = [], []
    for number in np.flatnonzero((total != 0).any(axis=1)):
        members = odd[region == number]
        border = ~np.isin(neighbors[members], members)
        beyond = neighbors[members][border]
        if (beyond < 0).any() or outside[beyond].any():
            continue
        open_ones = members[(closure[members] != 0).any(axis=1)]
        steps.append(total[number])
        cores.append(positions[triangles[open_ones]].mean(axis=(0, 1)))
        found.edges.append(edges[members][border])
        found.relative.append((relative[members][border], local[members][border]))
    if not steps:
        return nothing
    return _Circuits(np.array(steps).astype(np.int64), np.array(cores), found.edges, found.relative)


def _clockwise(mesh: Delaunay) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Corners of triangles, clockwise on the screen (from +x towards +y), and the triangles beyond their edges.

    Edges lead from each corner to the next one. Beyond those at the border is -1.
    """
    corners, opposite = mesh.simplices.astype(np.intp), mesh.neighbors.astype(np.intp)
    a, b, c = (mesh.points[corners[:, k]] for k in range(3))
    area = (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]) - (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1])
    order = np.where((area > 0)[:, None], [0, 1, 2], [2, 1, 0])
    corners, opposite = (np.take_along_axis(values, order, axis=1) for values in (corners, opposite))
    return corners, opposite[:, [2, 0, 1]]  # neighbour k is opposite to corner k


def _local_bases(positions: NDArray, indices: NDArray, vectors: NDArray) -> NDArray[np.float64]:
    """Lattice vectors ``(n, 2, 2)`` around each column: least squares over its neighbours, smoothed by medians.

    Steps to the neighbours are first those of the indices, which have a jump along a line that ends at a dislocation,
    and then those that the local vectors imply.
    """
    neighbors = cKDTree(positions).query(positions, k=WINDOW)[1]
    difference = positions[neighbors] - positions[:, None]
    steps = (indices[neighbors] - indices[:, None]).astype(np.float64)
    for _ in range(ITERATIONS):
        normal = np.einsum("nki,nkj->nij", steps, steps) + WEAK * np.eye(2)
        moment = np.einsum("nki,nkj->nij", steps, difference) + WEAK * vectors
        bases = np.median(np.linalg.solve(normal, moment)[neighbors], axis=1)
        bases = np.median(bases[neighbors], axis=1)
        steps = np.round(np.einsum("nki,nij->nkj", difference, np.linalg.inv(bases)))
    return bases


def _touching(triangles: NDArray, n: int) -> NDArray[np.intp]:
    """Number of the group of each triangle ``(m, 3)``: those that share a corner, directly or through others."""
    m = len(triangles)
    rows = np.repeat(np.arange(m), 3)
    ones = np.ones(3 * m, dtype=np.int8)
    graph = csr_array((ones, (rows, m + triangles.ravel())), shape=(m + n, m + n))
    label = connected_components(graph, directed=False)[1][:m]
    return np.unique(label, return_inverse=True)[1].reshape(-1)


def _margin(covariance: PositionCovariance, edges: NDArray, relative: NDArray, inverse: NDArray) -> tuple[float, float]:
    """Distance of the least certain step from the next one, and the smallest such distance divided by its error."""
    distance = 0.5 - np.abs(relative - np.round(relative))
    variance = np.einsum("ki,kij->kj", covariance.of_few(edges, np.array([-1.0, 1.0])), inverse**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(distance.min()), float((distance / np.sqrt(variance)).min())
