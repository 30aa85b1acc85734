"""The pixels of an average: all that any frame shows, or a rectangle that enough of them show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stemkit.series.averaging import AverageGrid

__all__ = ["covered", "largest_rectangle", "union"]


def union(displacements: NDArray, shape: tuple[int, int]) -> AverageGrid:
    """The grid that contains all frames of this shape.

    Parameters
    ----------
    displacements : ndarray of shape (n_frames, n_y, 2)
    shape : (int, int)
    """
    rows = np.arange(shape[0])[:, None] + displacements[..., :1].reshape(-1, shape[0], 1)
    low = np.floor([rows.min(), displacements[..., 1].min()]).astype(int)
    high = np.ceil([rows.max(), displacements[..., 1].max() + shape[1] - 1]).astype(int)
    y, x = (int(n) for n in high - low + 1)
    return AverageGrid((int(low[0]), int(low[1])), (y, x))


def covered(grid: AverageGrid, count: NDArray, fewest: float) -> AverageGrid:
    """The largest rectangle of a grid in which at least ``fewest`` frames contribute to each pixel.

    Raises
    ------
    ValueError
        If there is none.
    """
    rows, columns = largest_rectangle(count >= fewest)
    if rows.stop <= rows.start:
        raise ValueError(
            f"coverage requires {fewest:g} frames in each pixel, but at most {count.max():g} show the same place: "
            "give a smaller coverage"
        )
    origin = grid.origin[0] + rows.start, grid.origin[1] + columns.start
    return AverageGrid(origin, (rows.stop - rows.start, columns.stop - columns.start))


def largest_rectangle(mask: NDArray) -> tuple[slice, slice]:
    """Rows and columns of the largest rectangle that contains only True; empty slices without any.

    It is the largest rectangle under the histograms of the numbers of True above each row.
    """
    height = np.zeros(mask.shape[1], dtype=int)
    best, found = 0, (slice(0, 0), slice(0, 0))
    for row, values in enumerate(mask):
        height = np.where(values, height + 1, 0)
        area, bottom_height, left, right = _under_histogram(height.tolist())
        if area > best:
            best, found = area, (slice(row + 1 - bottom_height, row + 1), slice(left, right))
    return found


def _under_histogram(heights: list[int]) -> tuple[int, int, int, int]:
    """Area, height, left and right end of the largest rectangle under a histogram."""
    best = (0, 0, 0, 0)
    open_: list[tuple[int, int]] = []
    for x, height in enumerate([*heights, 0]):
        start = x
        while open_ and open_[-1][1] >= height:
            start, tall = open_.pop()
            best = max(best, (tall * (x - start), tall, start, x))
        open_.append((start, height))
    return best
