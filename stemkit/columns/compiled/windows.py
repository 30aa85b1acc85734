"""The pixels of a column's window: their offsets from the column, and the model of all columns nearby."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.compiled.gaussians import (
    N_ROUND,
    add_column,
    derivatives,
    exponentials,
    half_width,
    heights,
)
from stemkit.compilation import compiled

__all__ = [
    "ProblemArrays",
    "Window",
    "add_columns_nearby",
    "empty_window",
    "overlap",
    "place_window",
    "set_backgrounds",
    "to_neighbor",
]


class ProblemArrays(NamedTuple):
    """The arrays of a :class:`stemkit.columns.problem.FitProblem`.

    ``weight`` and ``scan`` are empty where they are None there. ``variance`` contains constant, slope and floor of the
    noise's variance and is empty where this is unknown; ``rho`` and ``streaks`` are the correlation along the row and
    the standard deviation of the offset of a row.
    """

    image: NDArray[np.float32]
    weight: NDArray[np.float32]
    scan: NDArray[np.float32]
    pad: int
    radius: NDArray[np.int64]
    near: NDArray[np.int64]
    coupled: NDArray[np.int64]
    free: NDArray[np.bool_]
    variance: NDArray[np.float64]
    rho: float
    streaks: float


class Window(NamedTuple):
    """Buffers for the window of a column; its pixels are stored row after row.

    Attributes
    ----------
    line, left, first : ndarray of int
        Row of the image, first pixel of it, and index of that pixel in the window, for each row.
    dy, dx : ndarray of shape (area,)
        Offset of each pixel from the column, px.
    away_y, away_x : ndarray of shape (area,)
        The same for a neighbour.
    model, share : ndarray of shape (area,)
        Model of all columns, and share of the column's background in it: the inverse of the number of windows that
        contain the pixel.
    """

    line: NDArray[np.int64]
    left: NDArray[np.int64]
    first: NDArray[np.int64]
    dy: NDArray[np.float64]
    dx: NDArray[np.float64]
    away_y: NDArray[np.float64]
    away_x: NDArray[np.float64]
    model: NDArray[np.float64]
    share: NDArray[np.float64]


@compiled
def empty_window(radius):  # type: ignore[no-untyped-def]
    """Buffers for windows of at most this radius, px."""
    size = 2 * radius + 1
    area = size * size
    return Window(
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size + 1, np.int64),
        np.empty(area),
        np.empty(area),
        np.empty(area),
        np.empty(area),
        np.empty(area),
        np.empty(area),
    )


@compiled
def place_window(problem, parameters, center, c, window):  # type: ignore[no-untyped-def]
    """Set the rows and offsets of the window of column c; returns the numbers of its rows and pixels."""
    n_y, n_x = problem.image.shape[0] - 2 * problem.pad, problem.image.shape[1] - 2 * problem.pad
    reach, y0, x0 = problem.radius[c], center[c, 0], center[c, 1]
    rows, total = 0, 0
    for y in range(max(0, y0 - reach), min(n_y, y0 + reach + 1)):
        half = half_width(reach, y - y0)
        begin, end = max(0, x0 - half), min(n_x, x0 + half + 1)
        if half < 0 or begin >= end:
            continue
        window.line[rows], window.left[rows], window.first[rows] = y, begin, total
        dy, dx, start = y - parameters[c, 0], begin - parameters[c, 1], total
        for i in range(end - begin):
            window.dy[start + i] = dy
            window.dx[start + i] = dx + i
        if problem.scan.shape[0]:
            for i in range(end - begin):
                window.dy[start + i] += problem.scan[0, y + problem.pad, begin + i + problem.pad]
                window.dx[start + i] += problem.scan[1, y + problem.pad, begin + i + problem.pad]
        total += end - begin
        rows += 1
    window.first[rows] = total
    return rows, total


@compiled
def overlap(problem, center, j, window, r):  # type: ignore[no-untyped-def]
    """The pixels of row r of a window, from the first to before the last, that are in the window of column j, too."""
    begin, end = window.left[r], window.left[r] + window.first[r + 1] - window.first[r]
    half = half_width(problem.radius[j], window.line[r] - center[j, 0])
    first, last = max(center[j, 1] - half, begin), min(center[j, 1] + half + 1, end)
    offset = window.first[r] - begin
    return first + offset, last + offset


@compiled
def set_backgrounds(problem, parameters, center, c, window, rows, total):  # type: ignore[no-untyped-def]
    """Set the model to the mean of the backgrounds of all columns whose windows contain a pixel."""
    model, share = window.model, window.share
    for i in range(total):
        share[i] = 1.0
        model[i] = parameters[c, 4]
    for k in range(problem.coupled.shape[1]):
        j = problem.coupled[c, k]
        if j == len(problem.coupled):
            break
        for r in range(rows):
            begin, end = overlap(problem, center, j, window, r)
            for i in range(begin, end):
                share[i] += 1.0
                model[i] += parameters[j, 4]
    for i in range(total):
        share[i] = 1.0 / share[i]
        model[i] *= share[i]


@compiled
def add_columns_nearby(problem, parameters, c, window, rows, total, jacobian):  # type: ignore[no-untyped-def]
    """Add column c and those nearby to the model, and set the derivatives ``(P, area)`` of column c."""
    near, n_near = problem.near, 0
    for i in range(total):
        jacobian[4, i] = window.share[i]
    while n_near < near.shape[1] and near[c, n_near] < len(near):
        n_near += 1
    if problem.scan.shape[0] == 0 and parameters.shape[1] == N_ROUND:
        _add_products(parameters, c, near[c, :n_near], window, rows, jacobian[2])
        derivatives(parameters[c], window.dy, window.dx, total, jacobian)
        return
    heights(parameters[c], window.dy, window.dx, total, jacobian[2])
    derivatives(parameters[c], window.dy, window.dx, total, jacobian)
    for i in range(total):
        window.model[i] += parameters[c, 2] * jacobian[2, i]
    for k in range(n_near):
        j = near[c, k]
        to_neighbor(parameters, c, j, window, total)
        add_column(parameters[j], window.away_y, window.away_x, total, window.model)


@compiled
def to_neighbor(parameters, c, j, window, total):  # type: ignore[no-untyped-def]
    """Set the offsets of the pixels from column j."""
    y, x = parameters[c, 0] - parameters[j, 0], parameters[c, 1] - parameters[j, 1]
    for i in range(total):
        window.away_y[i] = window.dy[i] + y
        window.away_x[i] = window.dx[i] + x


@compiled
def _add_products(parameters, c, near, window, rows, height):  # type: ignore[no-untyped-def]
    """Add round columns on the undisturbed grid to the model: products of Gaussians along y and x.

    ``height``: result, column c of height 1.
    """
    n = len(near) + 1
    top, begin, end = window.line[0], window.left[0], 0
    for r in range(rows):
        width = window.first[r + 1] - window.first[r]
        begin, end = min(begin, window.left[r]), max(end, window.left[r] + width)
    cols = end - begin
    values = np.empty(n * (rows + cols))
    along_y, along_x = values[: n * rows].reshape(n, rows), values[n * rows :].reshape(n, cols)
    for k in range(n):
        column = parameters[c] if k == n - 1 else parameters[near[k]]
        inverse, y, x = -0.5 / (column[3] * column[3]), top - column[0], begin - column[1]
        for i in range(rows):
            along_y[k, i] = inverse * (y + i) * (y + i)
        for i in range(cols):
            along_x[k, i] = inverse * (x + i) * (x + i)
    exponentials(values)
    for r in range(rows):
        first, shift = window.first[r], window.left[r] - begin
        for i in range(window.first[r + 1] - first):
            height[first + i] = along_y[n - 1, r] * along_x[n - 1, shift + i]
    for k in range(n):
        amplitude = parameters[c, 2] if k == n - 1 else parameters[near[k], 2]
        for i in range(rows):
            along_y[k, i] *= amplitude
    total = np.dot(along_y.T, along_x)
    for r in range(rows):
        first, shift = window.first[r], window.left[r] - begin
        for i in range(window.first[r + 1] - first):
            window.model[first + i] += total[r, shift + i]
