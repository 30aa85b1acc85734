"""Dumbbells: pairs of columns such as those of silicon and GaAs along [110], their distance, angle and polarity."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.parameters import check_fraction
from stemkit.structure.bonding import pair_table
from stemkit.structure.pair_errors import axis_angle
from stemkit.structure.tables import amplitudes, check_index, column_positions

__all__ = ["dumbbells"]


def dumbbells(table: pd.DataFrame, *, max_ratio: float = 0.75, by: str = "amplitude") -> pd.DataFrame:
    """Find pairs of columns that are much nearer to each other than to any other column, and compare the two.

    Parameters
    ----------
    table : DataFrame
        Columns of one image. Without errors of positions or brightness, the corresponding results have none.
    max_ratio : float, default=0.75
        Largest distance of the two columns, as a fraction of the distance from each of them to its next column. In
        the structures of diamond and zincblende along [110] it is 0.58.
    by : str, default="amplitude"
        Column of the table that is the brightness, such as ``"intensity"``. Without it, there is no polarity.

    Returns
    -------
    DataFrame
        One row per dumbbell: ``i, j`` (index in the table), ``y, x`` (its centre), ``distance`` and ``distance_err``
        (the table's unit), ``angle`` (from i to j, from +x towards +y, which points down, degrees) and ``angle_err``;
        ``polarity``, ``polarity_err`` and ``significance``, the polarity divided by its error. Columns that are in no
        dumbbell, such as those at the border whose partner is outside, are not listed. ``attrs["units"]`` contains the
        unit of each column.

        In all dumbbells the vector from i to j points to the same side of the line across their common axis: right, or
        down if the axis is steeper than 45 degrees. The polarity is ``(J - I) / (J + I)`` with the brightness I and J
        of the two columns. It is positive if the column on the right is brighter, and 0 in silicon.

    Raises
    ------
    ValueError
        If the index of the table is not unique, or ``max_ratio`` is not between 0 and 1.

    See Also
    --------
    mean_distances : Means over regions, with errors: of the whole image, of grains.

    Notes
    -----
    Two columns are a dumbbell if each is the nearest to the other and no third column is nearer than
    ``distance / max_ratio`` to one of them. Errors of distance and angle contain the errors of both positions, as if
    they were independent, and the jitter of rows that both columns share. Fits of columns that overlap have correlated
    errors, which the table does not contain.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import dumbbells
    >>> y, x = np.mgrid[0:5, 0:5].reshape(2, -1) * np.array([[0.384], [0.543]])
    >>> gallium = pd.DataFrame({"y": y, "x": x, "amplitude": 1.0})
    >>> arsenic = pd.DataFrame({"y": y, "x": x + 0.136, "amplitude": 1.2})
    >>> found = dumbbells(pd.concat([gallium, arsenic], ignore_index=True))
    >>> len(found), float(found["distance"].mean().round(3)), float(found["polarity"].mean().round(3))
    (25, 0.136, 0.091)
    """
    columns = column_positions(table)
    check_index(table)
    check_fraction("max_ratio", max_ratio)
    i, j = _along_axis(columns.positions, *_nearest_pairs(columns.positions, columns.measured, max_ratio))
    result = pair_table(table, columns, i, j, lambda step: np.degrees(np.arctan2(step[:, 0], step[:, 1])))
    if by in table or by != "amplitude":
        _add_polarity(result, *amplitudes(table, by), i, j)
        result.attrs["units"] |= dict.fromkeys(("polarity", "polarity_err", "significance"), "1")
    return result


def _nearest_pairs(
    positions: NDArray, measured: NDArray, max_ratio: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of columns that are nearest to each other, and much nearer than any third one; each pair once."""
    if len(positions) < 2:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    distance, nearest = cKDTree(positions).query(positions, k=[2, 3])
    partner = nearest[:, 0]
    i = np.flatnonzero((partner[partner] == np.arange(len(positions))) & (partner > np.arange(len(positions))))
    j = partner[i]
    next_distance = np.minimum(distance[i, 1], distance[j, 1])
    good = (distance[i, 0] <= max_ratio * next_distance) & measured[i] & measured[j]
    return i[good], j[good]


def _along_axis(positions: NDArray, i: NDArray, j: NDArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The two columns of each pair in the order along the common axis of all pairs."""
    if len(i) == 0:
        return i, j
    difference = positions[j] - positions[i]
    # opposite directions are one axis: the mean is that of doubled angles
    double = np.exp(2j * np.radians(axis_angle(difference))).mean()
    angle = np.angle(double) / 2
    axis = np.array([np.sin(angle), np.cos(angle)])
    axis = axis if axis.sum() >= 0 else -axis
    forward = difference @ axis >= 0
    return np.where(forward, i, j), np.where(forward, j, i)


def _add_polarity(result: pd.DataFrame, values: NDArray, errors: NDArray, i: NDArray, j: NDArray) -> None:
    first, second = values[i], values[j]
    with np.errstate(divide="ignore", invalid="ignore"):
        total = first + second
        result["polarity"] = (second - first) / total
        result["polarity_err"] = 2 * np.hypot(second * errors[i], first * errors[j]) / total**2
        result.loc[result["polarity_err"] == 0, "polarity_err"] = np.nan
        result["significance"] = np.abs(result["polarity"]) / result["polarity_err"]
