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

#: Names of the columns of the table.
NAMES = ("y", "x", "burgers_a", "burgers_b", "burgers_y", "burgers_x", "length", "angle")


@dataclass(frozen=True)
class _Constants:
    """Constants of the circuits."""

    #: Columns whose steps determine a local basis, and over which it is smoothed (chosen: two shells).
    n_basis_columns: int = 13
    #: Times that steps and local bases are determined from each other (chosen).
    n_iterations: int = 3
    #: Columns over which rotations are averaged, and around a core those that determine its Burgers vector (chosen:
    #: about three cells in all directions).
    n_rotation_columns: int = 40
    #: Largest strain of local vectors (chosen: beyond it they may be other combinations of the lattice vectors).
    max_local_strain: float = 0.2
    #: Weight of the mean lattice in a local basis, steps squared (chosen: decides only if all neighbours are in one
    #: line).
    mean_lattice_weight: float = 1e-3
    #: Longest edge of a triangle, longer vector of the lattice (chosen: across a missing column and a diagonal).
    max_edge: float = 2.8


CONSTANTS = _Constants()


def find_dislocations(table: pd.DataFrame, lattice: Lattice) -> pd.DataFrame:
    """Find the dislocations of a crystal, and their Burgers vectors, from circuits around their cores.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    lattice : Lattice
        ``fit_lattice(table, order=False)``. Columns that are not on it are not used. In a crystal with many
        dislocations, such as on both sides of a low-angle boundary, give it the vectors of one grain and an origin
        inside this grain.

    Returns
    -------
    DataFrame
        One row per dislocation: ``y, x`` (its core), ``burgers_a, burgers_b`` (Burgers vector in whole vectors a and b
        of the lattice), ``burgers_y, burgers_x`` and ``length`` (the same in the table's unit, with the vectors a and b
        of the crystal around the core), ``angle`` (its direction, degrees from +x towards +y), ``margin`` (the least
        certain step of the circuit: its distance from the next possible step, 0.5 at best and 0 at worst, in lattice
        vectors) and ``significance``, this distance divided by its error. ``attrs["units"]`` contains the unit of each
        column.

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
    Triangles in which they do not are combined if they touch: a step that is rounded wrongly opens the two triangles on
    both of its sides, and cancels in their sum. The sum is that of any circuit around all, and a lattice vector
    for any strain. Circuits are clockwise on the screen, and the Burgers vector is minus the sum of the steps of
    the perfect lattice, or the increase of the displacement along the circuit: the convention FS/RH [1]_ for a
    dislocation line into the screen. It is the component perpendicular to the beam: screw dislocations along the beam
    are invisible.

    Only the columns of the most frequent site are used. The core is the mean position of the triangles that do not
    close. Dislocations whose triangles touch are one, with the sum of their vectors; those at the border of the
    crystal, or in a hole, are not found, since no circuit encloses them. Partial dislocations are found only if their
    vectors are those of the lattice in projection.

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
    covariance = PositionCovariance.from_table(columns, table)
    burgers = -found.steps
    vectors = np.einsum("mi,mij->mj", burgers, found.local)
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
    their centres, ``local`` ``(m, 2, 2)`` the lattice vectors around these. Of each circuit, ``edges`` ``(k, 2)`` are
    the columns, and ``relative`` the steps ``(k, 2)`` in local lattice vectors with the inverse local bases
    ``(k, 2, 2)``.
    """

    steps: NDArray[np.int64]
    cores: NDArray[np.float64]
    local: NDArray[np.float64]
    edges: list[NDArray[np.intp]]
    relative: list[tuple[NDArray[np.float64], NDArray[np.float64]]]


def _rows_of_one_site(lattice: Lattice, measured: NDArray) -> NDArray[np.intp]:
    """Rows of the columns at the site that has most of them."""
    used = (lattice.site >= 0) & measured
    if not used.any():
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero(used & (lattice.site == np.bincount(lattice.site[used]).argmax()))


def _circuits(positions: NDArray, indices: NDArray, vectors: NDArray) -> _Circuits:
    empty = _Circuits(np.empty((0, 2), np.int64), np.empty((0, 2)), np.empty((0, 2, 2)), [], [])
    if len(positions) <= CONSTANTS.n_basis_columns:
        return empty
    try:
        mesh = Delaunay(positions)
    except QhullError:
        return empty
    triangles, beyond = _clockwise(mesh)
    bases = _local_bases(positions, indices, vectors)
    inverse = np.linalg.inv(bases)
    edges = triangles[:, [[0, 1], [1, 2], [2, 0]]]
    step = positions[edges[..., 1]] - positions[edges[..., 0]]
    # the mean of both ends, so that a step and the opposite one are rounded to the same vectors
    local = (inverse[edges[..., 0]] + inverse[edges[..., 1]]) / 2
    relative = np.einsum("tei,teij->tej", step, local)
    closure = np.round(relative).sum(axis=1)
    outside = np.hypot(step[..., 0], step[..., 1]).max(axis=1) > CONSTANTS.max_edge * np.hypot(*vectors.T).max()
    is_open = (closure != 0).any(axis=1) & ~outside
    opened = np.flatnonzero(is_open)
    corners = _triangles_at_corners(triangles, len(positions))
    region = _touching(corners, opened)
    sums = np.column_stack([np.bincount(region, closure[opened, k], minlength=1) for k in range(2)])
    steps, cores, circuits = [], [], []
    for number in np.flatnonzero((sums != 0).any(axis=1)):
        members = opened[region == number]
        around = np.unique(corners[np.unique(triangles[members])].indices)
        # the circuit around all triangles that touch, unless it contains another dislocation or leaves the crystal
        alone = np.array_equal(np.flatnonzero(is_open[around]), np.flatnonzero(np.isin(around, members)))
        for inside in ([around] if alone else []) + [members]:
            border = ~np.isin(beyond[inside], inside)
            neighbors = beyond[inside][border]
            if outside[inside].any() or (neighbors < 0).any() or outside[neighbors].any():
                continue
            steps.append(sums[number])
            cores.append(positions[triangles[members]].mean(axis=(0, 1)))
            circuits.append((edges[inside][border], relative[inside][border], local[inside][border]))
            break
    if not steps:
        return empty
    nearest = cKDTree(positions).query(cores, k=min(CONSTANTS.n_rotation_columns, len(positions)))[1]
    return _Circuits(
        np.array(steps).astype(np.int64),
        np.array(cores),
        np.median(bases[nearest], axis=1),
        [circuit[0] for circuit in circuits],
        [circuit[1:] for circuit in circuits],
    )


def _triangles_at_corners(triangles: NDArray, n: int) -> csr_array:
    """Row i contains the triangles with the corner i."""
    m = len(triangles)
    ones = np.ones(3 * m, dtype=np.int8)
    return csr_array((ones, (triangles.ravel(), np.repeat(np.arange(m), 3))), shape=(n, m))


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

    Steps to the neighbours are first those of the lattice, rotated like the crystal around the column, and then those
    that the local vectors imply. Vectors that differ much from the rotated ones, such as a, a + b for a, b, are
    replaced by these.
    """
    neighbors = cKDTree(positions).query(
        positions,
        k=CONSTANTS.n_rotation_columns if len(positions) > CONSTANTS.n_rotation_columns else CONSTANTS.n_basis_columns,
    )[1]
    difference = positions[neighbors[:, : CONSTANTS.n_basis_columns]] - positions[:, None]
    by_indices = _least_squares(
        indices[neighbors[:, : CONSTANTS.n_basis_columns]] - indices[:, None], difference, vectors
    )
    rotated = vectors @ _mean_rotations(np.linalg.inv(vectors) @ by_indices, neighbors)
    bases, neighbors = rotated, neighbors[:, : CONSTANTS.n_basis_columns]
    for _ in range(CONSTANTS.n_iterations):
        steps = np.round(np.einsum("nki,nij->nkj", difference, np.linalg.inv(bases)))
        bases = np.median(_least_squares(steps, difference, vectors)[neighbors], axis=1)
        far = np.linalg.norm(np.linalg.inv(rotated) @ bases - np.eye(2), axis=(1, 2)) > CONSTANTS.max_local_strain
        bases[far] = rotated[far]
    return bases


def _least_squares(steps: NDArray, difference: NDArray, vectors: NDArray) -> NDArray[np.float64]:
    """Vectors ``(n, 2, 2)`` for which steps ``(n, k, 2)`` lead over the differences of positions."""
    steps = steps.astype(np.float64)
    normal = np.einsum("nki,nkj->nij", steps, steps) + CONSTANTS.mean_lattice_weight * np.eye(2)
    return np.linalg.solve(
        normal, np.einsum("nki,nkj->nij", steps, difference) + CONSTANTS.mean_lattice_weight * vectors
    )


def _mean_rotations(deformation: NDArray, neighbors: NDArray) -> NDArray[np.float64]:
    """Rotations ``(n, 2, 2)`` of rows: the mean over neighbours of that of deformations ``(n, 2, 2)``.

    Deformations with a large strain are left out: the indices of a grown lattice jump along a line that ends at a
    dislocation.
    """
    strain = np.abs(np.linalg.svd(deformation, compute_uv=False) - 1).max(axis=1)
    (yy, yx), (xy, xx) = deformation.transpose(1, 2, 0)
    turn = np.exp(1j * np.arctan2(xy - yx, xx + yy)) * (strain < CONSTANTS.max_local_strain)
    mean = turn[neighbors].sum(axis=1) + CONSTANTS.mean_lattice_weight  # no rotation without any
    cos, sin = mean.real / np.abs(mean), mean.imag / np.abs(mean)
    return np.array([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)


def _touching(corners: csr_array, chosen: NDArray) -> NDArray[np.intp]:
    """Number of the group of each chosen triangle: those that share a corner, directly or through others."""
    if len(chosen) == 0:
        return np.empty(0, dtype=np.intp)
    of_chosen = corners[:, chosen].astype(np.int64)
    return connected_components(of_chosen.T @ of_chosen, directed=False)[1].astype(np.intp)


def _margin(covariance: PositionCovariance, edges: NDArray, relative: NDArray, inverse: NDArray) -> tuple[float, float]:
    """Distance of the least certain step from the next one, and the smallest such distance divided by its error."""
    distance = 0.5 - np.abs(relative - np.round(relative))
    variance = np.einsum("ki,kij->kj", covariance.of_few(edges, np.array([-1.0, 1.0])), inverse**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(distance.min()), float((distance / np.sqrt(variance)).min())
