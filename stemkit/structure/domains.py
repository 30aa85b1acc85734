"""Means of displacements over regions, and the walls between domains."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.sparse import csr_array

from stemkit.parameters import check_fraction, check_number
from stemkit.structure.covariance import PositionCovariance
from stemkit.structure.displacements import REFERENCE_ERRORS, add_vectors, chance, pm_or_px
from stemkit.structure.tables import check_index, column_positions, group_codes
from stemkit.tables import check_columns

__all__ = ["domain_walls", "mean_displacements"]

VECTORS = ["displacement_y", "displacement_x"]
#: Columns of the cage that neighbouring columns share (derived: an edge of the cage; corner neighbours share one).
SHARED = 2


def mean_displacements(table: pd.DataFrame, displacements: pd.DataFrame, groups: ArrayLike) -> pd.DataFrame:
    """Average displacements over groups of columns, such as regions or lattice planes.

    Parameters
    ----------
    table : DataFrame
        The columns.
    displacements : DataFrame
        ``cage_displacements(table)``, with the same index.
    groups : Series or array-like of shape (n,)
        Group of each column, of any type; columns whose group is missing are in none.

    Returns
    -------
    DataFrame
        One row per group, in their order, with the groups as index: ``n`` (columns with a displacement), ``y, x``
        (their mean position), the columns from ``displacement_y`` to ``significance`` of :func:`cage_displacements`,
        here of the mean vector, and ``spread_y, spread_x``: standard deviation of the vectors in the group, same unit.

    Raises
    ------
    ValueError
        If there is not one group per column, or the displacements are of another table.

    Notes
    -----
    Means are not weighted. Their errors follow from the same covariance as those of :func:`cage_displacements`, with
    the weight that each column of the table has in the mean: neighbouring cages share columns, so that their
    displacements are not independent. The error is that of the measurement; a ``spread`` much larger than the errors
    of the single displacements means that the vectors themselves vary.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import cage_displacements, mean_displacements
    >>> y, x = np.mgrid[0:6, 0:6].reshape(2, -1) * 0.4
    >>> lead = pd.DataFrame({"y": y, "x": x, "amplitude": 2.0})
    >>> titanium = pd.DataFrame({"y": y + 0.2, "x": x + 0.21, "amplitude": 1.0})
    >>> table = pd.concat([lead, titanium], ignore_index=True)
    >>> table.attrs["unit"] = "nm"
    >>> means = mean_displacements(table, cage_displacements(table), np.where(table["x"] > 1, "right", "left"))
    >>> means.loc["left", ["n", "displacement_x"]].round(3).tolist()
    [10.0, 10.0]
    """
    columns = column_positions(table)
    code, names = group_codes(groups, table.index, "column of the table")
    scale, short = pm_or_px(columns.unit)
    vectors = _vectors(table, displacements) / scale
    code = np.where(np.isfinite(vectors).all(axis=1), code, -1)
    rows, group = np.flatnonzero(code >= 0), code[code >= 0]
    n = np.bincount(group, minlength=len(names))
    mean = csr_array((1 / n[group], (group, rows)), shape=(len(names), len(table)))
    known = np.where(np.isfinite(vectors), vectors, 0.0)
    average = np.where(n[:, None] > 0, mean @ known, np.nan)
    positions = np.where(n[:, None] > 0, mean @ columns.positions, np.nan)
    result = pd.DataFrame({"n": n, "y": positions[:, 0], "x": positions[:, 1]}, index=names)
    variance = _variances(table, displacements, mean)
    if set(REFERENCE_ERRORS) <= set(displacements):
        variance = variance + (mean @ np.nan_to_num(displacements[REFERENCE_ERRORS].to_numpy() / scale)) ** 2
    variance[n == 0] = np.nan
    add_vectors(result, average, variance, columns.unit)
    squares = mean @ (known - np.nan_to_num(average)[np.maximum(code, 0)]) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(squares * (n / (n - 1))[:, None])
    result[["spread_y", "spread_x"]] = np.where(n[:, None] > 1, spread, np.nan) * scale
    result.attrs["units"] |= {"n": "1", "spread_y": short, "spread_x": short}
    return result


def domain_walls(
    table: pd.DataFrame,
    displacements: pd.DataFrame,
    *,
    false_discovery_rate: float = 0.05,
    min_difference: float = 0.0,
) -> pd.DataFrame:
    """Compare the displacements of neighbouring columns: pairs that differ significantly are at a domain wall.

    Parameters
    ----------
    table : DataFrame
        The columns.
    displacements : DataFrame
        ``cage_displacements(table)``, with errors.
    false_discovery_rate : float, default=0.05
        Expected fraction of pairs with equal displacements among those that are marked.
    min_difference : float, default=0.0
        Least length of the difference of the two vectors at a wall, in the unit of the displacements: a gradual
        variation is significant, too, if errors are small.

    Returns
    -------
    DataFrame
        One row per pair of neighbours, whose cages have two columns in common: ``i, j`` (index in the table), ``y, x``
        (centre between the two), ``difference_y, difference_x`` and ``*_err`` (j minus i), ``turn`` (angle from the
        vector of i to that of j, degrees, -180 to 180), ``q_value`` (of equal displacements, adjusted for the number of
        pairs) and ``wall``.

    Raises
    ------
    ValueError
        If the displacements have no errors or no cages, or the rate is not between 0 and 1.

    Notes
    -----
    The variance of the difference accounts for the columns that both cages contain and for jitter, as in
    :func:`cage_displacements`. P-values are adjusted by the procedure of Benjamini and Hochberg [1]_.

    References
    ----------
    .. [1] Benjamini and Hochberg, J. R. Stat. Soc. B 57, 289 (1995), https://doi.org/10.1111/j.2517-6161.1995.tb02031.x
    """
    check_fraction("false_discovery_rate", false_discovery_rate)
    check_number("min_difference", min_difference, 0.0)
    columns = column_positions(table)
    scale, short = pm_or_px(columns.unit)
    vectors, cages = _vectors(table, displacements) / scale, _cage_rows(table, displacements)
    if cages.shape[1] == 0 or columns.errors is None:
        raise ValueError(
            "displacements must have cages and errors for a test of their differences: measure them with "
            "cage_displacements(table, reference='cage') from a table with errors"
        )
    i, j = _neighbors(np.where(np.isfinite(vectors).all(axis=1, keepdims=True), cages, -1))
    n_cage = cages.shape[1]
    weights = np.concatenate([[-1.0], np.full(n_cage, 1 / n_cage), [1.0], np.full(n_cage, -1 / n_cage)])
    rows = np.column_stack([i, cages[i], j, cages[j]])
    difference, variance = vectors[j] - vectors[i], PositionCovariance.from_table(columns, table).of_few(rows, weights)
    middle = (columns.positions[i] + columns.positions[j]) / 2
    pairs = pd.DataFrame({"i": table.index[i], "j": table.index[j], "y": middle[:, 0], "x": middle[:, 1]})
    names = ["difference_y", "difference_x", "difference_y_err", "difference_x_err"]
    pairs[names] = np.column_stack([difference, np.sqrt(variance)]) * scale
    direction = np.degrees(np.arctan2(vectors[:, 0], vectors[:, 1]))
    pairs["turn"] = (direction[j] - direction[i] + 180) % 360 - 180
    pairs["q_value"] = stats.false_discovery_control(chance(difference, variance)[0]) if len(i) else np.empty(0)
    long_enough = scale * np.hypot(difference[:, 0], difference[:, 1]) >= min_difference
    pairs["wall"] = (pairs["q_value"] <= false_discovery_rate) & long_enough
    pairs.attrs.update(unit=columns.unit, units=dict.fromkeys(("y", "x"), columns.unit) | dict.fromkeys(names, short))
    pairs.attrs["units"] |= {"turn": "degree", "q_value": "1"}
    return pairs


def _variances(table: pd.DataFrame, displacements: pd.DataFrame, mean: csr_array) -> NDArray[np.float64]:
    """Variances ``(n_groups, 2)`` of means of displacements, in the unit of positions squared."""
    cages = _cage_rows(table, displacements)
    if cages.shape[1]:
        rows = np.flatnonzero(np.all(cages >= 0, axis=1))
        n = cages.shape[1]
        shares = csr_array(
            (np.full(rows.size * n, 1 / n), (np.repeat(rows, n), cages[rows].ravel())), (len(cages),) * 2
        )
        mean = mean - mean @ shares
    covariance = PositionCovariance.from_table(column_positions(table), table)
    mean = csr_array(mean)
    variance = np.empty((mean.shape[0], 2))
    for group in range(len(variance)):
        part = slice(mean.indptr[group], mean.indptr[group + 1])
        variance[group] = covariance.of_many(mean.indices[part], mean.data[part])
    return variance


def _neighbors(cages: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of columns that have two columns of their cages in common, the first one with the smaller row."""
    rows = np.flatnonzero(np.all(cages >= 0, axis=1))
    n = len(cages)
    member = csr_array(
        (np.ones(rows.size * cages.shape[1]), (np.repeat(rows, cages.shape[1]), cages[rows].ravel())), (n, n)
    )
    common = (member @ member.T).tocoo()
    pairs = np.flatnonzero(np.logical_and(common.data >= SHARED, common.row < common.col))
    return common.row[pairs].astype(np.int64), common.col[pairs].astype(np.int64)


def _vectors(table: pd.DataFrame, displacements: pd.DataFrame) -> NDArray[np.float64]:
    check_index(table)
    check_columns("displacements", displacements, VECTORS, "cage_displacements(table)")
    if not displacements.index.equals(table.index):
        raise ValueError("displacements must be cage_displacements(table), but has another index")
    return displacements[VECTORS].to_numpy(dtype=np.float64)


def _cage_rows(table: pd.DataFrame, displacements: pd.DataFrame) -> NDArray[np.int64]:
    """Rows ``(n, n_cage)`` of the columns of the cages, -1 without a cage; ``n_cage`` is 0 if there are none."""
    names = [name for name in displacements if str(name).startswith("cage_")]
    rows = [np.where(displacements[c].isna(), -1, table.index.get_indexer(displacements[c])) for c in names]
    return np.column_stack(rows) if rows else np.empty((len(table), 0), dtype=np.int64)
