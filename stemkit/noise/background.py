"""The smooth background, from what is left between the columns: the only noise that rows have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, optimize
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits, absorbed
from stemkit.noise.drawing import smooth_field

__all__ = ["BackgroundStatistics", "background_statistics", "between_columns"]

#: Pixels within this many widths of a column are left out; fewer where that would leave less than LEAST of the image.
NEAR, LEAST = (2.0, 1.6, 1.3), 0.15
#: The covariance is fitted up to this many lengths, and up to this part of the image.
REACH, PART = 3.0, 0.35
#: The residual of the columns' model that a background can't be told from, as a part of the amplitude.
MISFIT = 0.02
#: A background no longer than this many widths of a column is none.
NO_LONGER = 1.8
#: Part of the misfit of the covariance's curve by which its value at 0 may be wrong.
UNLIKE = 0.4
#: A correction is itself uncertain by this part.
CORRECTED = 0.25
DEFAULT_LENGTH = 32.0
#: Signal to noise below which no background is stated.
FAINT = 2.0


@dataclass(frozen=True)
class BackgroundStatistics:
    """Amplitude (a fraction of the contrast) and length (px), their standard deviations, and the curve behind them.

    ``distance`` (px), ``covariance`` and ``fitted`` are ``(n_bins,)``.
    """

    amplitude: float = 0.0
    length: float = DEFAULT_LENGTH
    amplitude_std: float = math.nan
    length_std: float = math.nan
    distance: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    covariance: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    fitted: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


def between_columns(shape: tuple[int, int], fits: ColumnFits | None) -> NDArray[np.bool_]:
    """Pixels that are no part of a column."""
    if fits is None:
        return np.ones(shape, dtype=bool)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 2)
    width = float(np.median(fits.sigma))
    tree = cKDTree(np.column_stack([fits.y, fits.x]))
    distance = tree.query(grid, distance_upper_bound=1.001 * NEAR[0] * width)[0].reshape(shape)
    for reach in NEAR:
        apart = distance > reach * width
        if apart.mean() > LEAST:
            break
    return apart


def background_statistics(
    rest: NDArray, use: NDArray, fits: ColumnFits, *, pointwise: float, streaks: float, streak_length: float
) -> BackgroundStatistics:
    """Amplitude and length of the background.

    Parameters
    ----------
    rest : ndarray of shape (n_y, n_x)
        The image without its columns, over the contrast.
    use : ndarray of bool
        Pixels between the columns.
    fits : ColumnFits
        The columns: their fits have taken a part of the background, which one drawn at random tells.
    pointwise, streaks, streak_length : float
        Variances of the other noise, and the streaks' length: they bound what can be told.

    Notes
    -----
    White noise through a Gaussian of sigma L has the covariance ``A^2 exp(-r^2 / (4 L^2))``. It is measured between
    pixels of different rows, where the other noise has none, and fitted with the mean of the image (part of the level)
    taken off, which lowers it everywhere by ``A^2 4 pi L^2 / area``.
    """
    n_y, n_x = rest.shape
    if min(n_y, n_x) < 32 or use.mean() < 0.05:
        return BackgroundStatistics()
    distance, covariance, pairs = _radial(rest, use)
    area = float(n_y * n_x)
    seen, some = _fit(distance, covariance, pairs, area)
    if seen[0] == 0.0:
        return BackgroundStatistics(0.0, DEFAULT_LENGTH, MISFIT, math.nan, distance, covariance)
    if seen[1] < NO_LONGER * float(np.median(fits.sigma)):
        # as long as a column is wide: what its model leaves of it
        return BackgroundStatistics(0.0, DEFAULT_LENGTH, MISFIT, math.nan, distance, covariance)
    lost, longer = _taken_by_fits(rest.shape, use, fits, seen[1])
    squared, length = seen[0] / lost, seen[1] / longer
    own = 2 * math.sqrt(math.pi) * min(streak_length, n_x / (2 * math.sqrt(math.pi)))
    colour = pointwise + streaks * own
    shape = _shape(distance[some], length, area)
    # noise against noise, and noise against the background
    white = (pointwise + streaks) / math.sqrt(float((pairs[some] * shape**2).sum()))
    whole = streaks * math.sqrt(own / (length * n_x * n_y))
    cross = 2 * math.sqrt(max(squared, 0.0) * colour / use.sum())
    realised = max(squared, 0.0) * (1 - _mean_part(length, area))
    amplitude = math.sqrt(realised)
    doubt = MISFIT + CORRECTED * abs(1 / lost - 1)
    # what a lattice leaves has no such covariance
    off = covariance[some] - seen[0] * _shape(distance[some], seen[1], area)
    unlike = UNLIKE * math.sqrt(float(np.average(off**2, weights=pairs[some])))
    scatter = math.hypot(white / lost, whole, cross, 2 * doubt * realised, MISFIT**2 / 4, unlike)
    if realised < FAINT * scatter:
        return BackgroundStatistics(0.0, DEFAULT_LENGTH, math.sqrt(scatter) / 2, math.nan, distance, covariance)
    length_std = (
        1.3
        * length
        * math.hypot(math.sqrt(2 * math.pi * length**2 / (n_y * n_x)), scatter / realised / 2, abs(1 - longer) / 4)
    )
    fitted = seen[0] * _shape(distance, seen[1], area)
    std = scatter / (2 * amplitude)
    return BackgroundStatistics(amplitude, length, std, length_std, distance, covariance, fitted)


def _taken_by_fits(shape: tuple[int, int], use: NDArray, fits: ColumnFits, length: float) -> tuple[float, float]:
    """Parts of its variance and of its length that a background of this length shows after the columns are fitted."""
    generator = torch.Generator().manual_seed(0)
    field = smooth_field(torch.Size((1, *shape)), torch.tensor([length]), generator, torch.float64)[0].numpy()
    area = float(shape[0] * shape[1])
    whole, _ = _fit(*_radial(field, use), area)
    left, _ = _fit(*_radial(field - absorbed(fits, field), use), area)
    if whole[0] <= 0 or left[0] <= 0:
        return 1.0, 1.0
    return float(np.clip(left[0] / whole[0], 0.3, 1.5)), float(np.clip(left[1] / whole[1], 0.5, 2.0))


def _blocks(values: NDArray, block: int) -> NDArray:
    n_y, n_x = (n // block * block for n in values.shape)
    return values[:n_y, :n_x].reshape(n_y // block, block, n_x // block, block).sum((1, 3))


def _radial(rest: NDArray, use: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Covariance of pixels in different rows against their distance in px, and the number of pairs."""
    block = 2 if min(rest.shape) >= 128 else 1
    weight = _blocks(use.astype(np.float64), block)
    values = _blocks(np.where(use, rest, 0.0), block)
    values = values - weight * values.sum() / weight.sum()
    size = [fft.next_fast_len(n + int(PART * n) + 2, real=True) for n in values.shape]
    products = fft.irfft2(np.abs(fft.rfft2(values, s=size)) ** 2, s=size)
    pairs = fft.irfft2(np.abs(fft.rfft2(weight, s=size)) ** 2, s=size)
    reach = int(PART * min(values.shape))
    rows, columns = np.arange(1, reach + 1), np.arange(-reach, reach + 1)
    products, pairs = products[np.ix_(rows, columns)], pairs[np.ix_(rows, columns)]
    radius = np.hypot(rows[:, None], columns[None, :])
    index = np.rint(radius).astype(int).ravel()
    keep = index <= reach
    count = np.bincount(index[keep], pairs.ravel()[keep])
    safe = np.maximum(count, 1e-9)
    at = np.bincount(index[keep], (radius * pairs).ravel()[keep]) / safe
    curve = np.bincount(index[keep], products.ravel()[keep]) / safe
    some = count > 1
    return at[some] * block, curve[some], count[some]


def _mean_part(length: float, area: float) -> float:
    """Part of the variance that the mean of an image takes."""
    return min(4 * math.pi * length**2 / area, 0.6)


def _shape(distance: NDArray, length: float, area: float) -> NDArray:
    return np.exp(-((distance / (2 * length)) ** 2)) - _mean_part(length, area)


def _fit(
    distance: NDArray, covariance: NDArray, pairs: NDArray, area: float
) -> tuple[tuple[float, float], NDArray[np.bool_]]:
    """Variance and length, and the distances that they were fitted on: up to a few lengths."""
    farthest = largest = PART * math.sqrt(area)
    for _ in range(3):
        some = distance <= farthest
        best = _least_squares(distance[some], covariance[some], pairs[some], area)
        farthest = float(np.clip(REACH * best[1], 12.0, largest))
    return best, some


def _least_squares(distance: NDArray, covariance: NDArray, pairs: NDArray, area: float) -> tuple[float, float]:
    """Variance and length, weighted by pairs."""
    weight = pairs / pairs.max()

    def amplitude(length: float) -> tuple[float, float]:
        shape = _shape(distance, length, area)
        scale = max(float((weight * shape * covariance).sum() / (weight * shape**2).sum()), 0.0)
        return scale, float((weight * (covariance - scale * shape) ** 2).sum())

    tried = np.geomspace(3.0, 0.6 * math.sqrt(area), 40)
    best = int(np.argmin([amplitude(length)[1] for length in tried]))
    low, high = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
    length = float(optimize.minimize_scalar(lambda g: amplitude(g)[1], bounds=(low, high), method="bounded").x)
    return amplitude(length)[0], length
