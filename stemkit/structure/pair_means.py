"""Mean distances of pairs of columns over regions, with errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from stemkit.parameters import check_fraction
from stemkit.structure.bonding import pair_rows
from stemkit.structure.covariance import PositionCovariance
from stemkit.structure.tables import column_positions, group_codes

__all__ = ["mean_distances"]


def mean_distances(
    table: pd.DataFrame, pairs: pd.DataFrame, groups: ArrayLike | None = None, *, pixel_size_error: float = 0.0
) -> pd.DataFrame:
    """Average the distances of pairs of columns over groups: bonds of a grain, dumbbells of a layer.

    Parameters
    ----------
    table : DataFrame
        The columns.
    pairs : DataFrame
        ``bonds(table)``, ``dumbbells(table)`` or ``neighbor_distances(table)``.
    groups : Series or array-like of shape (n_pairs,), optional
        Group of each pair, of any type; pairs whose group is missing are in none, and neither are those of a
        column whose fit failed. By default all pairs are one group.
    pixel_size_error : float, default=0.0
        Relative standard deviation of the pixel size, such as 0.01, which enters ``distance_total_err``.

    Returns
    -------
    DataFrame
        One row per group: ``n`` (pairs), ``distance``, ``distance_err`` (statistical), ``distance_total_err`` (with
        that of the pixel size, for a table in nm) and ``distance_spread`` (standard deviation of the distances in the
        group), in the table's unit. Of dumbbells also ``polarity``, ``polarity_err`` and ``polarity_spread``.
        ``attrs["units"]`` contains the unit of each column.

    Raises
    ------
    ValueError
        If there is not one group per pair, or the pairs are those of another table.

    Notes
    -----
    Means are not weighted. A column in several pairs, such as an atom with three bonds, enters the error with the sum
    of its weights, and so do columns that share the jitter of their rows: the error of the mean bond in a region is
    that of its border, as those inside cancel. Noise lengthens a distance d whose errors across it are e by
    ``e^2 / (2 d)`` on average.

    Examples
    --------
    >>> import pandas as pd
    >>> from stemkit.structure import bonds, mean_distances
    >>> row = pd.DataFrame({"y": [0.0, 0, 0, 1], "x": [0.0, 1, 2, 1], "y_err": 0.1, "x_err": 0.1})
    >>> mean_distances(row, bonds(row))[["n", "distance", "distance_err"]].round(3).iloc[0].tolist()
    [3.0, 1.0, 0.067]
    """
    columns = column_positions(table)
    check_fraction("pixel_size_error", pixel_size_error, zero=True)
    i, j = pair_rows(table, pairs, "pairs")
    groups = np.zeros(len(pairs), dtype=np.int64) if groups is None else groups
    code, names = group_codes(groups, pairs.index, "pair")
    code = np.where(columns.measured[i] & columns.measured[j], code, -1)
    difference = columns.positions[j] - columns.positions[i]
    distance = np.hypot(difference[:, 0], difference[:, 1])
    n = np.bincount(code[code >= 0], minlength=len(names))
    result = pd.DataFrame({"n": n}, index=names)
    result["distance"], spread = _mean_and_spread(distance, code, n)
    result["distance_err"] = np.sqrt(_variances(table, difference, i, j, code, n))
    scale = pixel_size_error if columns.unit == "nm" else 0.0
    result["distance_total_err"] = np.hypot(result["distance_err"], scale * result["distance"])
    result["distance_spread"] = spread
    units = {"n": "1"} | dict.fromkeys([name for name in result if name != "n"], columns.unit)
    if "polarity" in pairs:
        known = np.where(np.isfinite(pairs["polarity"]), code, -1)
        count = np.bincount(known[known >= 0], minlength=len(names))
        result["polarity"], spread = _mean_and_spread(pairs["polarity"].to_numpy(), known, count)
        squares = np.bincount(known[known >= 0], pairs["polarity_err"].to_numpy()[known >= 0] ** 2, len(names))
        result["polarity_err"] = np.sqrt(squares) / np.where(count > 0, count, np.nan)
        result["polarity_spread"] = spread
        units |= dict.fromkeys(("polarity", "polarity_err", "polarity_spread"), "1")
    result.attrs.update(unit=columns.unit, units=units)
    return result


def _mean_and_spread(values: NDArray, code: NDArray, n: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the values of each group; NaN for none, or one."""
    group, known = code[code >= 0], values[code >= 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(group, known, len(n)) / n
        spread = np.sqrt(np.bincount(group, (known - mean[group]) ** 2, len(n)) / (n - 1))
    return np.where(n > 0, mean, np.nan), np.where(n > 1, spread, np.nan)


def _variances(
    table: pd.DataFrame, difference: NDArray, i: NDArray, j: NDArray, code: NDArray, n: NDArray
) -> NDArray[np.float64]:
    """Variance of the mean distance of each group, from the weights of the columns along y and along x."""
    covariance = PositionCovariance.from_table(column_positions(table), table)
    rows = np.flatnonzero(code >= 0)
    direction = difference[rows] / np.maximum(np.hypot(*difference[rows].T), 1e-300)[:, None]
    variance = np.zeros(len(n))
    group = np.concatenate([code[rows], code[rows]])
    column = np.concatenate([i[rows], j[rows]])
    for axis in range(2):
        share = np.concatenate([-direction[:, axis], direction[:, axis]]) / n[group]
        weights = csr_array((share, (group, column)), shape=(len(n), len(table)))
        weights.sum_duplicates()
        for k in range(len(n)):
            part = slice(weights.indptr[k], weights.indptr[k + 1])
            variance[k] += covariance.of_many(weights.indices[part], weights.data[part])[axis]
    return variance
