"""The average of frames that were scanned in one direction or in several at right angles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemkit.series.averaging import Average, AverageGrid, average, placed, squared_residuals
from stemkit.series.turns import Turn

__all__ = ["Combined", "combined", "in_groups"]


@dataclass(frozen=True)
class Combined:
    """Average on the pixels of a grid.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    count : ndarray of shape (n_y, n_x)
        Number of frames with a row within 1 px of each pixel.
    shown : ndarray of bool, shape (n_y, n_x)
        Pixels that a frame shows, and those between its rows.
    variance : ndarray of shape (n_y, n_x) or None
        Variance of the pixels of the frames about the average; not meaningful where there is one frame.
    """

    values: NDArray[np.float64]
    count: NDArray[np.float64]
    shown: NDArray[np.bool_]
    variance: NDArray[np.float64] | None = None


def in_groups(turns: Sequence[int]) -> dict[int, list[int]]:
    """Frames by their quarter turns."""
    return {turn: [i for i, t in enumerate(turns) if t == turn] for turn in dict.fromkeys(turns)}


def combined(
    frames: Callable[[int], NDArray],
    displacements: NDArray,
    turns: Sequence[int],
    grid: AverageGrid,
    *,
    with_variance: bool = False,
) -> Combined:
    """Average the frames of each direction by least squares, and the directions weighted by their numbers of frames.

    Parameters
    ----------
    frames : callable
        Pixels of a frame by its index. Frames are used one by one, twice for the variance.
    displacements : ndarray of shape (n_frames, n_rows, 2)
        Along y and x of the image, px.
    turns : sequence of int
        Quarter turns of each frame.
    grid : AverageGrid
    with_variance : bool, default=False
        Compute the variance of the pixels, too.
    """
    parts = [_part(frames, displacements, group, turn, grid, with_variance) for turn, group in in_groups(turns).items()]
    count = np.sum([part.count for part in parts], axis=0)
    shown = np.any([part.shown for part in parts], axis=0)
    if len(parts) == 1:
        values, squares, n_residuals = parts[0].values, parts[0].squares, parts[0].n_residuals
    else:
        # between the rows of a single frame its interpolation has a small weight
        weights = [np.maximum(part.count, 1e-3 * part.shown) for part in parts]
        sum_ = np.maximum(np.sum(weights, axis=0), 1e-12)
        values = np.sum([w * part.values for w, part in zip(weights, parts, strict=True)], axis=0) / sum_
        squares = np.sum([part.squares + part.n_residuals * (part.values - values) ** 2 for part in parts], axis=0)
        n_residuals = np.sum([part.n_residuals for part in parts], axis=0)
    if not with_variance:
        return Combined(values, count, shown)
    variance = squares / np.maximum(n_residuals, 1e-9) / np.maximum(1 - 1 / np.maximum(count, 1), 1e-9)
    return Combined(values, count, shown, variance)


@dataclass(frozen=True)
class _Part:
    """Average of the frames of one direction, in the directions of the image, all ``(n_y, n_x)``.

    ``squares`` are the sums of the squared residuals of the rows next to each pixel, ``n_residuals`` their numbers; 0
    without a variance.
    """

    values: NDArray[np.float64]
    count: NDArray[np.float64]
    shown: NDArray[np.bool_]
    squares: NDArray[np.float64]
    n_residuals: NDArray[np.float64]


def _part(
    frames: Callable[[int], NDArray],
    displacements: NDArray,
    group: list[int],
    quarters: int,
    grid: AverageGrid,
    with_variance: bool,
) -> _Part:
    first = frames(group[0])
    turn = Turn(quarters, (first.shape[0], first.shape[1]))
    own = turn.grid_of_frame(grid)
    moved = turn.to_frame(displacements)
    mean: Average = average((placed(frames(i), moved[i], own) for i in group), own)
    squares = n_residuals = np.zeros(own.shape)
    if with_variance:
        squares, n_residuals = squared_residuals((placed(frames(i), moved[i], own) for i in group), mean)
    return _Part(*(turn.image(v) for v in (mean.values, mean.count, mean.shown, squares, n_residuals)))
