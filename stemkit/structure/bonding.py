"""Bonds between neighbouring columns or atoms, and the angles between bonds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit.parameters import check_positive
from stemkit.statistics import median_spacing
from stemkit.structure.covariance import PositionCovariance
from stemkit.structure.pair_errors import angle_variance, axis_angle, direction_variance, distance_variance
from stemkit.structure.planar_graph import HalfEdges, delaunay_edges
from stemkit.structure.tables import ColumnPositions, check_index, column_positions
from stemkit.tables import check_columns

__all__ = ["bond_angles", "bonds", "pair_rows", "pair_table"]

#: Longest bond, typical bonds (chosen: between a bond and the diagonal of a square, 1.414).
MAX_BOND = 1.3
#: Times that the typical bond is determined from the bonds (chosen).
N_ITERATIONS = 3


def bonds(table: pd.DataFrame, *, max_distance: float | None = None) -> pd.DataFrame:
    """Find bonds: pairs of neighbouring columns, whose connecting lines do not cross.

    Parameters
    ----------
    table : DataFrame
        Columns of one image. Without errors of the positions, the results have none.
    max_distance : float, optional
        Longest bond, in the table's unit. By default 1.3 times the typical bond, which is the median of all bonds.

    Returns
    -------
    DataFrame
        One row per bond: ``i, j`` (index in the table), ``y, x`` (its centre), ``distance`` and ``distance_err`` (the
        table's unit), ``angle`` (from +x towards +y, which points down, 0 to 180 degrees) and ``angle_err``.
        ``attrs["units"]`` contains the unit of each column.

    Raises
    ------
    ValueError
        If the index of the table is not unique, or ``max_distance`` is not positive.

    See Also
    --------
    bond_angles : Angles between bonds.
    rings : The rings that bonds enclose.
    mean_distances : Mean bonds of regions, with errors.

    Notes
    -----
    Bonds are those edges of the Delaunay triangulation that are not longer than ``max_distance``. They do not cross. In
    a lattice of hexagons, second neighbours are at 1.73 bonds; in a square and a pentagon, diagonals at 1.41 and 1.62.
    Errors are those of the positions, with the jitter that both columns share if they are in the same scan lines.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import bonds
    >>> angle = np.arange(6) * np.pi / 3
    >>> benzene = pd.DataFrame({"y": 0.14 * np.sin(angle), "x": 0.14 * np.cos(angle)})
    >>> bonds(benzene)["distance"].round(3).tolist()
    [0.14, 0.14, 0.14, 0.14, 0.14, 0.14]
    """
    columns = column_positions(table)
    check_index(table)
    check_positive("max_distance", max_distance, optional=True, unit=columns.unit)
    return pair_table(table, columns, *_pairs(columns, max_distance), axis_angle)


def pair_table(
    table: pd.DataFrame, columns: ColumnPositions, i: NDArray, j: NDArray, angle: Callable[[NDArray], NDArray]
) -> pd.DataFrame:
    """Distances and directions of pairs of columns; ``angle`` computes degrees from vectors ``(n, 2)`` from i to j."""
    difference = columns.positions[j] - columns.positions[i]
    middle = (columns.positions[j] + columns.positions[i]) / 2
    covariance = PositionCovariance.from_table(columns, table)
    result = pd.DataFrame({"i": table.index[i], "j": table.index[j], "y": middle[:, 0], "x": middle[:, 1]})
    result["distance"] = np.hypot(difference[:, 0], difference[:, 1])
    result["distance_err"] = np.sqrt(distance_variance(covariance, difference, i, j))
    result["angle"] = angle(difference)
    result["angle_err"] = np.degrees(np.sqrt(direction_variance(covariance, difference, i, j)))
    units = dict.fromkeys(("y", "x", "distance", "distance_err"), columns.unit)
    result.attrs.update(unit=columns.unit, units=units | dict.fromkeys(("angle", "angle_err"), "degree"))
    return result


def bond_angles(table: pd.DataFrame, bonds: pd.DataFrame) -> pd.DataFrame:
    """Measure the angles between adjacent bonds of each column.

    Parameters
    ----------
    table : DataFrame
        The columns.
    bonds : DataFrame
        ``bonds(table)``.

    Returns
    -------
    DataFrame
        One row per angle: ``center`` (index of the column that both bonds share), ``i, j`` (index of the columns at
        their other ends; the angle is measured from i over +x towards +y to j, clockwise on the screen), ``angle`` and
        ``angle_err`` (degrees). A column with n bonds has n angles, which sum to 360 degrees; one with two bonds has
        the inner and the outer angle, and one with a single bond has none.

    Raises
    ------
    ValueError
        If ``bonds`` are those of another table.

    Notes
    -----
    The error accounts for the column that both bonds share: with errors e of all positions along y and x, and bonds d,
    it is ``e / d sqrt(4 - 2 cos angle)``, 0.707 times that of two independent lines at 0 degrees and 1.22 times at 180.
    """
    columns = column_positions(table)
    edges = HalfEdges(columns.positions, *pair_rows(table, bonds))
    several = np.flatnonzero(edges.next_around != np.arange(len(edges.start)))
    center, i, j = edges.start[several], edges.end[several], edges.end[edges.next_around[several]]
    to_i, to_j = (columns.positions[k] - columns.positions[center] for k in (i, j))
    turn = np.arctan2(to_j[:, 0], to_j[:, 1]) - np.arctan2(to_i[:, 0], to_i[:, 1])
    variance = angle_variance(
        PositionCovariance.from_table(columns, table), to_i, to_j, np.column_stack([center, i, j])
    )
    result = pd.DataFrame({"center": table.index[center], "i": table.index[i], "j": table.index[j]})
    result["angle"] = np.degrees(turn) % 360
    result["angle_err"] = np.degrees(np.sqrt(variance))
    result.attrs.update(unit=columns.unit, units=dict.fromkeys(("angle", "angle_err"), "degree"))
    return result


def pair_rows(table: pd.DataFrame, pairs: pd.DataFrame, name: str = "bonds") -> tuple[NDArray, NDArray]:
    """Rows of the table of the two columns of each pair.

    Raises
    ------
    ValueError
        If the pairs are not between columns of this table.
    """
    check_index(table)
    check_columns(name, pairs, ("i", "j"), "a table of pairs of columns")
    i, j = (table.index.get_indexer(pairs[side]) for side in ("i", "j"))
    if (i < 0).any() or (j < 0).any():
        raise ValueError(f"{name} must be pairs of columns of this table, but some are not in its index")
    return i, j


def _pairs(columns: ColumnPositions, max_distance: float | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    edges = delaunay_edges(columns.positions)
    length = np.hypot(*(columns.positions[edges[:, 1]] - columns.positions[edges[:, 0]]).T)
    if max_distance is None and len(length):
        typical = median_spacing(columns.positions)
        for _ in range(N_ITERATIONS):
            typical = float(np.median(length[length <= MAX_BOND * typical]))
        max_distance = MAX_BOND * typical
    i, j = edges[length <= (max_distance or 0.0)].T
    return i, j
