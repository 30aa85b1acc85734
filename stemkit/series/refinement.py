"""Displacements of every row, found alternately with the average."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stemkit.noise import ScanNoise
from stemkit.series.averaging import Average, AverageGrid, Placed, SplineEquations, placed, squared_residuals
from stemkit.series.extent import union
from stemkit.series.prior import measured_scan_noise
from stemkit.series.rows import RowPrior, RowReadings, expected_displacements, read_rows

__all__ = ["Enhance", "Refined", "pixel_variance", "refined"]

#: Makes a reference of an average: an image with less noise.
Enhance = Callable[[NDArray], NDArray]
#: Frames by their number.
Frames = Callable[[int], NDArray]


@dataclass(frozen=True)
class _Constants:
    """Constants of the refinement."""

    #: The displacements have settled when a round changes them by less than this (RMS), px (chosen).
    settled: float = 0.02
    #: Largest number of rounds (chosen).
    max_rounds: int = 6
    #: Number of first rounds in which only whole frames are moved, sheared and bent (chosen: the readings of rows need
    #: an average that is not blurred by their displacements).
    whole_rounds: int = 2
    #: Up to this number of frames each is compared with the average of the others (chosen): its own noise is a part of
    #: the average of all, and rows would be aligned to it. More frames are compared with the average of all, which is
    #: enhanced once in each round.
    most_apart: int = 6
    #: Bins of the intensity in which the variance of the pixels is measured (chosen).
    bins: int = 24
    #: Least number of frames in a pixel at which the variance is measured (derived: it needs two values).
    fewest: float = 2.0


CONSTANTS = _Constants()


@dataclass(frozen=True)
class Refined:
    """Displacements of the rows.

    Parameters
    ----------
    displacements : ndarray of shape (n_frames, n_y, 2)
        Displacements along y and x, px, with a mean of 0.
    scan : ScanNoise
        Distribution of the displacements.
    variance : (float, float)
        Variance of a pixel of a frame: constant and slope against the intensity.
    """

    displacements: NDArray[np.float64]
    scan: ScanNoise
    variance: tuple[float, float]


def refined(
    frames: Sequence[NDArray], shifts: NDArray, enhance: Enhance, *, rows: bool = True, verbose: int = 0
) -> Refined:
    """Displacements of the rows of frames.

    In each round, the average at the present displacements is enhanced, and each row of each frame is compared with it.
    The new displacement of a row is its expectation given this reading and the prior, whose jitter, drift and hum are
    measured from the readings of all rows.

    Parameters
    ----------
    frames : sequence of ndarray of shape (n_y, n_x)
        Recorded pixels, columns bright.
    shifts : ndarray of shape (n_frames, 2)
        Displacements of the whole frames, px.
    enhance : callable
    rows : bool
        With False, only the variance of the pixels is measured.
    verbose : bool
    """
    n_y, n_x = frames[0].shape
    displacements = np.repeat(shifts[:, None], n_y, axis=1)
    scan = ScanNoise()
    for round_ in tqdm(range(CONSTANTS.max_rounds), desc="aligning rows", disable=not verbose):
        grid = union(displacements, (n_y, n_x))
        equations = SplineEquations.empty(grid)
        for one in _all_placed(frames, displacements, grid):
            equations.add(one)
        mean = equations.solve()
        reference = _reference(mean, enhance)
        variance = _variance(_all_placed(frames, displacements, grid), mean, reference)
        if not rows:
            return Refined(displacements, ScanNoise(), variance)
        whole = round_ < CONSTANTS.whole_rounds
        apart = not whole and len(frames) <= CONSTANTS.most_apart
        readings = []
        for frame, moved in zip(frames, displacements, strict=True):
            if apart:
                mean, reference = _of_others(equations, placed(frame, moved, grid), enhance)
            readings.append(_read(frame, moved, grid, reference, mean, variance))
        if not whole:
            scan = measured_scan_noise(readings, len(frames), reference)
        # the average of the others is displaced, too
        share = 1 - 1 / len(frames) if apart else 1.0
        prior = RowPrior.of(scan, n_y, 1 / share)
        steps = np.stack([expected_displacements(one, prior) for one in readings]) - displacements
        new = displacements + share * steps
        new -= new.mean(axis=(0, 1))
        change, displacements = float(np.sqrt(np.mean((new - displacements) ** 2))), new
        if round_ > CONSTANTS.whole_rounds and change < CONSTANTS.settled:
            break
    return Refined(displacements, scan, variance)


def _of_others(equations: SplineEquations, own: Placed, enhance: Enhance) -> tuple[Average, NDArray[np.float64]]:
    """The average without one of its frames, and the reference."""
    equations.add(own, -1.0)
    others = equations.solve()
    equations.add(own)
    return others, _reference(others, enhance)


def _all_placed(frames: Sequence[NDArray], displacements: NDArray, grid: AverageGrid) -> Iterator[Placed]:
    return (placed(frame, moved, grid) for frame, moved in zip(frames, displacements, strict=True))


def _reference(mean: Average, enhance: Enhance) -> NDArray[np.float64]:
    """The enhanced average, in which pixels that no frame shows have the median of the others."""
    seen = mean.count > 0
    return np.asarray(enhance(np.where(seen, mean.values, np.median(mean.values[seen]))), dtype=np.float64)


def _read(
    frame: NDArray, moved: NDArray, grid: AverageGrid, reference: NDArray, mean: Average, variance: tuple[float, float]
) -> RowReadings:
    reading = read_rows(frame, grid.of(moved), reference, mean.count, variance)
    return replace(reading, place=reading.place + np.array(grid.origin, dtype=float)[:, None])


def _variance(frames: Iterator[Placed], mean: Average, reference: NDArray) -> tuple[float, float]:
    """:func:`pixel_variance` from the residuals of frames, which about the mean of n have ``1 - 1 / n`` of it."""
    total, number = squared_residuals(frames, mean)
    measured = total / np.maximum(number, 1e-9) / (1 - 1 / np.maximum(mean.count, CONSTANTS.fewest))
    return pixel_variance(measured, mean.count, mean.values, reference, number)


def pixel_variance(
    measured: NDArray, count: NDArray, values: NDArray, reference: NDArray, number: NDArray | None = None
) -> tuple[float, float]:
    """Variance of a pixel of a frame: constant and slope against the intensity.

    Variance that is proportional to the square of the gradient is due to displacements, and is not part of the result.

    Parameters
    ----------
    measured : ndarray of shape (n_y, n_x)
        Variance of the frames about their average at each pixel.
    count : ndarray of shape (n_y, n_x)
        Number of frames; pixels with one are not used.
    values : ndarray of shape (n_y, n_x)
        The average.
    reference : ndarray of shape (n_y, n_x)
        The average with less noise.
    number : ndarray of shape (n_y, n_x), optional
        Weights of the pixels; the number of frames by default.
    """
    use = count >= CONSTANTS.fewest
    if not use.any():
        return float(np.var(values)), 0.0
    steep = sum(np.gradient(reference, axis=axis) ** 2 for axis in (0, 1))
    columns = [np.ones(int(use.sum())), values[use], steep[use]]
    # the reference, which is smoother than the average, only sorts the pixels: their means have no bias
    weight = count if number is None else number
    design, right, root = _in_bins(columns, measured[use], reference[use], weight[use])
    constant, slope, moved = np.linalg.lstsq(design * root[:, None], right * root, rcond=None)[0]
    if moved < 0:
        constant, slope = np.linalg.lstsq(design[:, :2] * root[:, None], right * root, rcond=None)[0]
    low, high = constant + slope * np.quantile(reference[use], (0.02, 0.98))
    return (float(constant), float(slope)) if max(low, high) > 0 else (max(float(measured[use].mean()), 1e-12), 0.0)


def _in_bins(
    columns: list[NDArray], values: NDArray, level: NDArray, weight: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Means of columns and values in bins of a level, and the roots of the bins' weights."""
    edges = np.quantile(level, np.linspace(0, 1, CONSTANTS.bins + 1)[1:-1])
    index = np.searchsorted(edges, level)
    total = np.bincount(index, weight, CONSTANTS.bins)
    seen = total > 0

    def mean(array: NDArray) -> NDArray[np.float64]:
        return np.asarray(np.bincount(index, weight * array, CONSTANTS.bins)[seen] / total[seen])

    return np.stack([mean(column) for column in columns], axis=1), mean(values), np.sqrt(total[seen])
