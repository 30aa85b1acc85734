"""Tracks of the columns that are found in each frame: their displacements and changes from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage, optimize, stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from stemkit.parameters import check_positive

__all__ = ["link_columns"]

#: Least number of displacements from which their common scatter is estimated (chosen).
FEWEST = 10
#: Median of the square of a standard normal number (derived).
MEDIAN_SQUARE = float(stats.chi2.median(1))


def link_columns(
    tables: Sequence[pd.DataFrame] | pd.DataFrame,
    *,
    max_distance: float,
    displacements: NDArray | None = None,
    memory: int | None = None,
) -> pd.DataFrame:
    """Link the columns of frames, and measure how they move and change.

    Each column of a frame is linked to the last position of a column of the frames before, such that the sum of the
    squares of the distances, with ``max_distance`` for each column that is not linked, is as small as possible [1]_.

    Parameters
    ----------
    tables : sequence of DataFrame, or DataFrame
        Tables of :class:`~stemkit.AtomDetector`, one per frame, or one in which ``frame``, or else ``image``, is the
        number of the frame.
    max_distance : float
        Limit of the displacement of a column from one frame to the next, in the unit of ``y`` and ``x``: less than half
        of the spacing of columns that are present in all frames.
    displacements : ndarray of shape (n_frames, n_y, 2), optional
        Displacements of the rows of the frames, px (``SeriesAligner.displacements_``), by which columns are moved from
        the pixels of their frames to those of the average. Columns of rejected frames, whose displacements are NaN, are
        left out. None: the frames are aligned.
    memory : int, optional
        Number of frames during which a column may be absent before it is linked again. None: any number.

    Returns
    -------
    DataFrame
        The rows of all tables, by frame, with

        - ``frame``, ``column`` : numbers of the frame and of the column, which count up from 0
        - ``dy``, ``dx`` : displacement since the last frame with this column, in the unit of ``y`` and ``x``; NaN in
          its first one
        - ``dy_err``, ``dx_err`` : their standard deviations
        - ``significance`` : ``(dy^2 / dy_err^2 + dx^2 / dx_err^2)^1/2``; columns that do not move exceed 3.4 in 3 of
          1000 cases
        - ``amplitude_change``, ``amplitude_change_err`` : change of ``amplitude`` since that frame, and its standard
          deviation, if the tables have ``amplitude`` and ``amplitude_err``

        ``attrs["scatter"]`` is the common scatter ``(y, x)`` of the positions.

    Raises
    ------
    ValueError
        If a table lacks positions or errors, or ``displacements`` do not match the frames.

    Notes
    -----
    Displacements of the rows that are not corrected move columns that lie in the same rows. The scatter that most
    columns have in addition to their errors is therefore estimated, such that the median of ``dy^2 / dy_err^2`` is that
    of normally distributed numbers, and is part of ``dy_err`` and ``dx_err``. Where more than half of the columns move,
    it contains their motion.

    References
    ----------
    .. [1] D. F. Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Trans. Aerosp. Electron. Syst. 52,
       1679 (2016), https://doi.org/10.1109/TAES.2016.140952

    Examples
    --------
    >>> import pandas as pd
    >>> from stemkit.series import link_columns
    >>> def frame(x):
    ...     return pd.DataFrame({"y": [5.0, 5.0], "x": [5.0, x], "y_err": 0.1, "x_err": 0.1})
    >>> linked = link_columns([frame(20.0), frame(22.0)], max_distance=4.0)
    >>> linked[["frame", "column", "dx", "significance"]].round(1).to_numpy()[2:].tolist()
    [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 2.0, 14.1]]
    """
    check_positive("max_distance", max_distance)
    if memory is not None and not (isinstance(memory, Integral) and memory >= 0):
        raise ValueError(f"memory must be a number of frames of at least 0, or None, but is {memory!r}")
    frames = _by_frame(tables)
    if displacements is not None:
        frames = _placed(frames, np.asarray(displacements, dtype=np.float64))
    if not frames:
        raise ValueError("tables must hold the columns of at least one frame, but there is none")
    columns = _tracks([table[["y", "x"]].to_numpy() for table in frames.values()], max_distance, memory, list(frames))
    linked = pd.concat(
        [table.assign(frame=number, column=ids) for (number, table), ids in zip(frames.items(), columns, strict=True)],
        ignore_index=True,
    )
    attrs = next(iter(frames.values())).attrs
    linked = _with_changes(linked)
    linked.attrs.update(attrs)
    return linked


# --- frames --------------------------------------------------------------------------------------------------------


def _by_frame(tables: Sequence[pd.DataFrame] | pd.DataFrame) -> dict[int, pd.DataFrame]:
    """Tables by the number of the frame."""
    if isinstance(tables, pd.DataFrame):
        name = next((name for name in ("frame", "image") if name in tables), None)
        if name is None:
            raise ValueError("tables must be one table per frame, or one with the column frame or image: add it")
        found = {int(number): part for number, part in tables.groupby(name, sort=True)}
    else:
        found = dict(enumerate(tables))
    for number, table in found.items():
        missing = [c for c in ("y", "x", "y_err", "x_err") if c not in table]
        if missing:
            raise ValueError(
                f"tables must be tables of AtomDetector, but that of frame {number} lacks {', '.join(missing)}"
            )
    return found


def _placed(frames: dict[int, pd.DataFrame], displacements: NDArray) -> dict[int, pd.DataFrame]:
    """Tables by frame with the columns moved to the pixels of the average."""
    if displacements.ndim != 3 or displacements.shape[2] != 2 or len(displacements) <= max(frames, default=-1):
        raise ValueError(
            f"displacements must have the shape (n_frames, n_y, 2) with a frame for each table, {max(frames) + 1}, but "
            f"have {displacements.shape}"
        )
    return {
        number: _moved(table, displacements[number])
        for number, table in frames.items()
        if np.isfinite(displacements[number]).all()
    }


def _moved(table: pd.DataFrame, displacement: NDArray) -> pd.DataFrame:
    """The columns of a frame moved by the displacements of their rows.

    The information of a row on a column's x is proportional to ``exp(-d^2 / sigma^2)`` at a distance of d rows.
    """
    if not {"y_px", "x_px", "sigma", "y_px_err", "x_px_err"} <= set(table):
        raise ValueError("displacements are in px, but the tables lack y_px, x_px, their errors or sigma")
    if len(table) == 0:
        return table
    size = [float((table[f"{d}_err"] / table[f"{d}_px_err"]).median()) for d in "yx"]
    rows = float((table["sigma"] / size[0]).median()) / 2**0.5
    smooth = ndimage.gaussian_filter1d(displacement, rows, axis=0, mode="nearest")
    at = table["y_px"].to_numpy()
    moved = {}
    for axis, d in enumerate("yx"):
        shift = np.interp(at, np.arange(len(smooth)), smooth[:, axis])
        moved[f"{d}_px"] = table[f"{d}_px"] + shift
        moved[d] = table[d] + shift * size[axis]
    return table.assign(**moved)


# --- links ---------------------------------------------------------------------------------------------------------


def _tracks(
    positions: list[NDArray], max_distance: float, memory: int | None, numbers: list[int]
) -> list[NDArray[np.int64]]:
    """Number of the column of each position of each frame."""
    last, seen = np.empty((0, 2)), np.empty(0, dtype=np.int64)
    out = []
    for number, new in zip(numbers, positions, strict=True):
        known = np.flatnonzero(number - seen <= memory + 1) if memory is not None else np.arange(len(last))
        ids = np.full(len(new), -1)
        before, after = _matched(last[known], new, max_distance)
        ids[after] = known[before]
        fresh = ids < 0
        ids[fresh] = len(last) + np.arange(fresh.sum())
        last = np.concatenate([last, new[fresh]])
        last[ids] = new
        seen = np.concatenate([seen, np.full(fresh.sum(), number)])
        seen[ids] = number
        out.append(ids)
    return out


def _matched(before: NDArray, after: NDArray, max_distance: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of positions that belong to each other, such that the sum of squared distances is smallest.

    Groups of positions that are connected by distances below the maximum are independent of each other.
    """
    if len(before) == 0 or len(after) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    near = cKDTree(before).sparse_distance_matrix(cKDTree(after), max_distance, output_type="ndarray")
    n = len(before) + len(after)
    graph = coo_array((np.ones(len(near)), (near["i"], len(before) + near["j"])), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    order = np.argsort(group[near["i"]], kind="stable")
    parts = np.split(near[order], np.flatnonzero(np.diff(group[near["i"]][order])) + 1) if len(near) else []
    pairs = [_assigned(part, max_distance) for part in parts]
    found = np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64)
    return found[:, 0], found[:, 1]


def _assigned(near: NDArray, max_distance: float) -> NDArray[np.int64]:
    """Linked pairs ``(m, 2)`` of one group; a pair that is not linked costs the square of the maximum distance."""
    rows, row = np.unique(near["i"], return_inverse=True)
    cols, col = np.unique(near["j"], return_inverse=True)
    n, m = len(rows), len(cols)
    impossible = 4.0 * (n + m) * max_distance**2
    cost = np.full((n + m, n + m), impossible)
    cost[row, col] = near["v"] ** 2
    cost[np.arange(n), m + np.arange(n)] = max_distance**2 / 2
    cost[n + np.arange(m), np.arange(m)] = max_distance**2 / 2
    cost[n:, m:] = 0.0
    first, second = optimize.linear_sum_assignment(cost)
    linked = (first < n) & (second < m)
    return np.column_stack([rows[first[linked]], cols[second[linked]]])


# --- changes -------------------------------------------------------------------------------------------------------


def _with_changes(linked: pd.DataFrame) -> pd.DataFrame:
    """The table with displacements and changes of amplitude since the last frame with the same column."""
    by_column = linked.groupby("column")
    out: dict[str, NDArray | pd.Series] = {}
    scatter = []
    squares = np.zeros(len(linked))
    for d in "yx":
        step = by_column[d].diff().to_numpy()
        error = _of_difference(linked, by_column, f"{d}_err")
        extra = _common_scatter(step, error)
        error = np.sqrt(error**2 + 2 * extra**2)
        scatter.append(extra)
        out |= {f"d{d}": step, f"d{d}_err": error}
        squares += np.divide(step, error, out=np.full(len(step), np.nan), where=error > 0) ** 2
    out["significance"] = np.sqrt(squares)
    if {"amplitude", "amplitude_err"} <= set(linked):
        out["amplitude_change"] = by_column["amplitude"].diff()
        out["amplitude_change_err"] = _of_difference(linked, by_column, "amplitude_err")
    result = linked.assign(**out)
    result.attrs["scatter"] = tuple(scatter)
    return result


def _of_difference(linked: pd.DataFrame, by_column: pd.api.typing.DataFrameGroupBy, name: str) -> NDArray[np.float64]:
    """Standard deviation of the difference of a quantity from its value in the last frame with the column."""
    return np.hypot(linked[name].to_numpy(dtype=np.float64), by_column[name].shift().to_numpy(dtype=np.float64))


def _common_scatter(step: NDArray, error: NDArray) -> float:
    """Standard deviation that positions have in addition to their errors, from the median of their differences."""
    good = np.isfinite(step) & np.isfinite(error) & (error > 0)
    if good.sum() < FEWEST:
        return 0.0
    square, variance = step[good] ** 2, error[good] ** 2

    def excess(extra: float) -> float:
        return float(np.median(square / (variance + 2 * extra))) - MEDIAN_SQUARE

    if excess(0.0) <= 0:
        return 0.0
    return float(np.sqrt(optimize.brentq(excess, 0.0, square.max() / MEDIAN_SQUARE)))
