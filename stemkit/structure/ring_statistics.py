"""Rings of bonds: their sizes, areas and neighbours, and pairs of rings such as five and seven."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from stemkit.structure.bonding import bonds as find_bonds
from stemkit.structure.bonding import pair_rows
from stemkit.structure.covariance import PositionCovariance
from stemkit.structure.pair_errors import gradient_variance
from stemkit.structure.planar_graph import HalfEdges
from stemkit.structure.tables import ColumnPositions, column_positions
from stemkit.tables import check_columns, unit_of_table

__all__ = ["ring_pairs", "rings"]


def rings(table: pd.DataFrame, bonds: pd.DataFrame | None = None) -> pd.DataFrame:
    """Find the rings that bonds enclose, such as hexagons in graphene.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    bonds : DataFrame, optional
        ``bonds(table)``, which is the default.

    Returns
    -------
    DataFrame
        One row per ring: ``size`` (number of columns), ``y, x`` (mean of their positions), ``area`` and ``area_err``
        (the table's unit squared), ``atoms`` (tuple of their index in the table, in the order around the ring) and
        ``neighbors`` (tuple of the rings, as index of this table, that share a bond with it). A hole is a large ring.
        ``attrs["units"]`` contains the unit of each column.

    Raises
    ------
    ValueError
        If ``bonds`` are those of another table.

    See Also
    --------
    ring_pairs : Pairs of rings of two sizes, such as the 5-7 pairs of dislocations.
    stemkit.plotting.show_rings : The rings on the image, coloured by size.

    Notes
    -----
    Rings are the faces of the planar graph of bonds: a path that leaves each column by the bond next to the one by
    which it came encloses a face. Bonds that end at a column without another bond are removed first. The surroundings
    of all bonds are no ring. The area is that of the polygon, ``sum (y_k x_k+1 - x_k y_k+1) / 2``.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import rings
    >>> angle = np.arange(6) * np.pi / 3
    >>> benzene = pd.DataFrame({"y": 0.14 * np.sin(angle), "x": 0.14 * np.cos(angle)})
    >>> rings(benzene)["size"].tolist()
    [6]
    """
    columns = column_positions(table)
    bonds = find_bonds(table) if bonds is None else bonds
    i, j = _in_rings(len(table), *pair_rows(table, bonds))
    edges = HalfEdges(columns.positions, i, j)
    face, members = _inner_faces(columns.positions, edges)
    size = np.array([len(rows) for rows in members], dtype=np.int64)
    center = np.array([columns.positions[rows].mean(axis=0) for rows in members]).reshape(-1, 2)
    area, variance = _areas(columns, table, members, size)
    result = pd.DataFrame({"size": size, "y": center[:, 0], "x": center[:, 1], "area": area})
    result["area_err"] = np.sqrt(variance)
    labels = table.index.to_numpy()
    result["atoms"] = _objects([tuple(labels[rows]) for rows in members])
    result["neighbors"] = _objects(_neighbors(edges, face, len(size)))
    square = f"{columns.unit}^2"
    units = {"size": "1", "y": columns.unit, "x": columns.unit, "area": square, "area_err": square}
    result.attrs.update(unit=columns.unit, units=units)
    return result


def ring_pairs(rings: pd.DataFrame, sizes: tuple[int, int] = (5, 7)) -> pd.DataFrame:
    """Pair neighbouring rings of two sizes: a ring of five next to one of seven is a dislocation of graphene.

    Parameters
    ----------
    rings : DataFrame
        ``rings(table)``.
    sizes : (int, int), default=(5, 7)
        Sizes of the first and of the second ring of a pair, which must differ.

    Returns
    -------
    DataFrame
        One row per pair: ``i, j`` (rings of the first and of the second size, as index of ``rings``), ``y, x`` (mean of
        the two centres) and ``angle`` (from the first to the second, from +x towards +y, degrees).

    Raises
    ------
    ValueError
        If the two sizes are equal.

    Notes
    -----
    A ring is in one pair at most. Along a boundary of alternating rings several assignments are possible; one with the
    largest number of pairs is returned [1]_.

    References
    ----------
    .. [1] Hopcroft and Karp, SIAM J. Comput. 2, 225 (1973), https://doi.org/10.1137/0202019
    """
    if np.shape(sizes) != (2,) or sizes[0] == sizes[1]:
        raise ValueError(f"sizes must be two different numbers of columns, but are {sizes!r}")
    check_columns("rings", rings, ("size", "neighbors"), "rings(table)")
    of_first, of_second = (rings.index[rings["size"] == size] for size in sizes)
    place = {ring: k for k, ring in enumerate(of_second)}
    pairs = [(k, place[n]) for k, ring in enumerate(of_first) for n in rings.at[ring, "neighbors"] if n in place]
    # indices of 64 bits are refused by older releases of SciPy
    rows, cols = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    graph = csr_array((np.ones(len(rows), dtype=np.int8), (rows, cols)), shape=(len(of_first), len(of_second)))
    partner = maximum_bipartite_matching(graph, perm_type="column") if len(rows) else np.full(len(of_first), -1)
    i, j = of_first[partner >= 0], of_second[partner[partner >= 0]]
    start, end = (rings.loc[ring, ["y", "x"]].to_numpy(dtype=np.float64) for ring in (i, j))
    middle, difference = (start + end) / 2, end - start
    result = pd.DataFrame({"i": i, "j": j, "y": middle[:, 0], "x": middle[:, 1]})
    result["angle"] = np.degrees(np.arctan2(difference[:, 0], difference[:, 1]))
    unit = unit_of_table(rings)
    result.attrs.update(unit=unit, units={"y": unit, "x": unit, "angle": "degree"})
    return result


def _in_rings(n: int, i: NDArray, j: NDArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Bonds without those that end at a column with a single bond, repeatedly."""
    while len(i):
        count = np.bincount(np.concatenate([i, j]), minlength=n)
        kept = (count[i] > 1) & (count[j] > 1)
        if kept.all():
            break
        i, j = i[kept], j[kept]
    return i, j


def _inner_faces(positions: NDArray, edges: HalfEdges) -> tuple[NDArray[np.intp], list[NDArray[np.intp]]]:
    """Ring of each half-edge, -1 for those around the outside, and the rows of the columns of each ring."""
    if len(edges.start) == 0:
        return np.empty(0, dtype=np.intp), []
    face = edges.faces()
    at = positions - positions.mean(axis=0)
    double = at[edges.start, 1] * at[edges.end, 0] - at[edges.start, 0] * at[edges.end, 1]
    # the face is on the right of its border as x points right and y up: borders are followed clockwise inside
    inner = np.bincount(face, double) < 0
    number = np.where(inner, np.cumsum(inner) - 1, -1)
    return number[face], _walk(edges, face, inner)


def _walk(edges: HalfEdges, face: NDArray, inner: NDArray) -> list[NDArray[np.intp]]:
    """Rows of the columns of each inner face in the order of its border."""
    size = np.bincount(face)[inner]
    first = np.unique(face, return_index=True)[1][inner]
    following = edges.next_of_face
    members: list[NDArray[np.intp]] = [np.empty(0, dtype=np.intp)] * len(size)
    for n in np.unique(size):
        which = np.flatnonzero(size == n)
        half_edge, order = first[which], np.empty((len(which), n), dtype=np.intp)
        for k in range(n):
            order[:, k] = edges.start[half_edge]
            half_edge = following[half_edge]
        for k, rows in zip(which.tolist(), order, strict=True):
            members[k] = rows
    return members


def _areas(
    columns: ColumnPositions, table: pd.DataFrame, members: list[NDArray[np.intp]], size: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas of rings and their variances."""
    area, variance = np.full(len(size), np.nan), np.full(len(size), np.nan)
    covariance = PositionCovariance.from_table(columns, table)
    for n in np.unique(size):
        which = np.flatnonzero(size == n)
        rows = np.array([members[k] for k in which])
        at = columns.positions[rows]
        before, after = np.roll(at, 1, axis=1), np.roll(at, -1, axis=1)
        gradient = (after - before)[..., ::-1] / 2 * [1, -1]  # of the area, which is half the sum of y (x+ - x-)
        signed = (at[..., 0] * gradient[..., 0]).sum(axis=1)
        area[which] = np.abs(signed)
        variance[which] = gradient_variance(covariance, rows, gradient)
    return area, variance


def _neighbors(edges: HalfEdges, face: NDArray, n: int) -> list[tuple[int, ...]]:
    """Rings that share a bond with each ring, in increasing order."""
    if n == 0:
        return []
    other = face[edges.reverse]
    shared = (face >= 0) & (other >= 0) & (face != other)
    pairs = np.unique(np.column_stack([face[shared], other[shared]]), axis=0)
    ends = np.searchsorted(pairs[:, 0], np.arange(1, n))
    return [tuple(part) for part in np.split(pairs[:, 1], ends)]


def _objects(values: list) -> NDArray[np.object_]:
    """Tuples as elements of an array of objects."""
    return np.fromiter(values, dtype=object, count=len(values))
