"""Groups of frames of one scan direction each, and their slow drift."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.noise import ScanNoise
from stemkit.series.averaging import AverageGrid
from stemkit.series.combined import combined
from stemkit.series.extent import covered, union
from stemkit.series.frames import BrightFrames, Series
from stemkit.series.jumps import Ambiguity
from stemkit.series.refinement import pixel_variance
from stemkit.series.slow_drift import SMOOTH, slow_drifts
from stemkit.series.turns import Turn

__all__ = ["Group", "common_grid", "union_of", "variance_of", "without_slow_drift"]

#: Number of rows over which displacements are averaged before the common area of the frames is determined (chosen).
SMOOTHED_ROWS = 17


@dataclass(frozen=True)
class Group:
    """Frames of one scan direction, aligned with each other.

    Parameters
    ----------
    turn : Turn
    numbers : list of int
        Numbers of the frames in the series.
    displacements : ndarray of shape (n_frames, n_rows, 2)
        Along y and x of the image, px.
    scan : ScanNoise
    variance : (float, float) or None
        Variance of a pixel of a frame: constant and slope against the intensity; None for a single frame.
    rejected : dict of str
        Reason of each rejection, by the number of the frame.
    ambiguous : list of Ambiguity
    """

    turn: Turn
    numbers: list[int]
    displacements: NDArray[np.float64]
    scan: ScanNoise
    variance: tuple[float, float] | None = None
    rejected: dict[int, str] = field(default_factory=dict)
    ambiguous: list[Ambiguity] = field(default_factory=list)


def without_slow_drift(series: Series, groups: list[Group]) -> tuple[list[Group], list[Ambiguity]]:
    """Groups of scans at right angles with the displacements by slow drift, and lattice vectors that remain possible.

    The averages of the groups are compared with each other (:func:`~stemkit.series.slow_drift.slow_drifts`).
    """
    first = groups[0].turn.turned_shape
    common = tuple(np.min([group.turn.turned_shape for group in groups], axis=0).tolist())
    grid = AverageGrid((((first[0] - common[0]) // 2), (first[1] - common[1]) // 2), (common[0], common[1]))
    centered, images = [], []
    for group in groups:
        # the scan is turned about the middle of the image
        offset = (np.array(first) - np.array(group.turn.turned_shape)) / 2
        centered.append(replace(group, displacements=group.displacements + offset))
        quarters = [group.turn.quarters] * len(group.numbers)
        mean = combined(BrightFrames(series, group.numbers).__getitem__, centered[-1].displacements, quarters, grid)
        images.append(np.where(mean.shown, mean.values, mean.values[mean.shown].mean()))
    found = slow_drifts(images, [group.turn.slow_axis for group in groups])
    out = []
    for group, drift in zip(centered, found.drifts, strict=True):
        axis = group.turn.slow_axis
        place = group.turn.rows() + group.displacements[..., axis] - grid.origin[axis]
        out.append(replace(group, displacements=group.displacements + drift(place)))
    middle = np.concatenate([group.displacements for group in out]).mean(axis=(0, 1))
    ambiguous = [
        replace(one, frames=tuple(sorted(n for k in one.frames for n in groups[k].numbers))) for one in found.ambiguous
    ]
    return [replace(group, displacements=group.displacements - middle) for group in out], ambiguous


def union_of(displacements: NDArray, turns: list[int], shape: tuple[int, int]) -> AverageGrid:
    """The grid of the image that contains all frames of this shape."""
    grids = []
    for moved, quarters in zip(displacements, turns, strict=True):
        turn = Turn(quarters, shape)
        grids.append(turn.grid_of_image(union(turn.to_frame(moved)[None], shape)))
    low = np.min([g.origin for g in grids], axis=0)
    high = np.max([np.add(g.origin, g.shape) for g in grids], axis=0)
    y, x = (int(n) for n in high - low)
    return AverageGrid((int(low[0]), int(low[1])), (y, x))


def common_grid(displacements: NDArray, turns: list[int], shape: tuple[int, int], coverage: float) -> AverageGrid:
    """Pixels of the average, relative to the first frame: those that at least this fraction of the frames shows."""
    whole = union_of(displacements, turns, shape)
    if coverage == 0:
        return whole
    # smoothed, since gaps between displaced rows do not limit the area
    smooth = ndimage.uniform_filter1d(displacements, SMOOTHED_ROWS, axis=1, mode="nearest")
    count = combined(lambda _: np.zeros(shape), smooth, turns, whole).count
    return covered(whole, count, max(1.0, np.ceil(coverage * len(turns) - 1e-9)))


def variance_of(series: Series, groups: list[Group]) -> tuple[float, float]:
    """Variance of a pixel of a frame, constant and slope against the intensity, from groups of several directions."""
    members = [
        (i, group.turn.quarters, moved)
        for group in groups
        for i, moved in zip(group.numbers, group.displacements, strict=True)
    ]
    numbers, turns, moved = (list(part) for part in zip(*members, strict=True))
    grid = union_of(np.stack(moved), turns, groups[0].turn.shape)
    mean = combined(BrightFrames(series, numbers).__getitem__, np.stack(moved), turns, grid, with_variance=True)
    assert mean.variance is not None
    return pixel_variance(mean.variance, mean.count, mean.values, ndimage.gaussian_filter(mean.values, SMOOTH))
