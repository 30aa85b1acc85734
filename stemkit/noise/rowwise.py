"""Noise split by how it is correlated along the row: pointwise, streaks, and what moves with the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.noise.differences import DIFFERENCE, robust_deviation, row_difference
from stemkit.noise.registration import Registration
from stemkit.noise.row_fit import SHARED, SHORT_LENGTH, model_covariance, split_covariance, streak_shape

__all__ = ["RowStatistics", "row_statistics"]

#: Lags along the row at which pointwise noise is over and streaks are not yet: there the gradient shows jitter.
STREAK_LAGS = (4, 5, 6, 7, 8)
#: Of that scatter, the part by which it misses the noise of the very same image (the rest is the noise's own scatter).
OWN = math.sqrt((SHARED - 1) / SHARED)
N_BINS = 24
#: Displacements explain all of the variance but this fraction at most (chosen).
LEAST_LEFT = 0.01
#: Bins whose noise has less than this fraction of the usual variance are clipped at the detector's end.
CLIPPED = 0.05
#: Longest lag, as a part of the row.
FARTHEST = 0.5
#: Displacements that the registration has left, or along y, count from this many standard deviations.
SEEN = 3.0
#: What the columns' model leaves in the noise, as a part of readout, of the streaks' variance, and of the gain; and by
#: how much the length of streaks, and twice that the correlation, scatters more than a Gaussian process says. Measured
#: on simulated images.
MISFIT, GAIN_MISFIT, LUCK = 0.006, 0.03, 1.15
#: Width of the filter along the row that takes streaks off the pointwise noise, px.
SLOW = 6
#: Rows in a block whose separate results tell the error of a regression.
ROW_BLOCK = 16
#: Quantiles of an image are those of its pixel columns 0, n, 2n, ..., for this n (chosen).
THINNED = 4
#: A pixel beyond this many robust deviations is a dead or hot one, or hit by a cosmic ray.
OUTLIER = 10.0


@dataclass(frozen=True)
class RowStatistics:
    """Noise of one image, amplitudes as fractions of the contrast; meanings as in :class:`stemkit.NoiseModel`.

    ``left`` and ``left_y`` are the RMS displacements along x and y (px) that are there still. ``signal``,
    ``variance``, ``count`` ``(n_bins,)`` are the curve that ``readout`` and ``gain`` are the line of; ``lag``,
    ``covariance``, ``fitted`` ``(n_lags,)`` what ``correlation_x`` and the streaks explain. ``std`` holds standard
    deviations by name (those of ``left`` and ``left_y`` are of their squares).
    """

    readout: float = 0.0
    gain: float = 0.0
    correlation_x: float = 0.0
    streaks: float = 0.0
    streak_length: float = 20.0
    short_streaks: float = 0.0
    short_length: float = SHORT_LENGTH
    left: float = 0.0
    left_y: float = 0.0
    signal: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    variance: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    count: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    lag: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    covariance: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    fitted: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    std: dict[str, float] = field(default_factory=dict)

    @property
    def streak_variance(self) -> float:
        """Variance of both kinds of streaks."""
        return self.streaks**2 + self.short_streaks**2

    @property
    def mean_streak_length(self) -> float:
        """Length of one kind of streaks with the integrated covariance of both, px."""
        if not self.streak_variance:
            return self.streak_length
        whole = self.streaks**2 * self.streak_length if self.streaks else 0.0
        return (whole + self.short_streaks**2 * self.short_length) / self.streak_variance


def row_statistics(
    rest: NDArray,
    signal: NDArray,
    slope: NDArray,
    slope_y: NDArray,
    *,
    valid: NDArray | None = None,
    registration: Registration | None = None,
    across: Registration | None = None,
) -> RowStatistics:
    """Split the noise of an image by how it is correlated along the row.

    Parameters
    ----------
    rest : ndarray of shape (n_y, n_x)
        The image, or what its fitted columns leave of it, over the contrast.
    signal : ndarray of shape (n_y, n_x)
        ``(I_clean - level) / contrast``, columns bright.
    slope : ndarray of shape (n_y, n_x)
        Its derivative along x, per px.
    slope_y : ndarray of shape (n_y, n_x)
        That along y.
    valid : ndarray of bool, optional
        Pixels that were recorded.
    registration, across : Registration, optional
        Displacements along x and y that ``rest`` is without.

    Notes
    -----
    With D the fourth difference across rows and C(k) the mean of D(x) D(x + k) along the row, pointwise noise of
    variance v and lag-1 correlation r gives C(k) = v r^k, streaks of variance a^2 and length l give
    a^2 exp(-k^2 / (4 l^2)), and displacements of variance d^2 give d^2 I'(x) I'(x + k), found at lags 4 to 8 by
    regression. Where rows were registered first, that took some noise with it: residuals of a linear prediction have
    the covariance of the noise less that of the prediction's error (in px squared, times ``I'(x) I'(x + k)``), which is
    added. The rest is fitted by generalised least squares, its covariance that of a Gaussian process
    (Bartlett 1946, doi:10.2307/2983611). The variance against the signal is then a straight line.
    """
    n_y, n_x = rest.shape
    if n_y < 8 or n_x < 12:
        return RowStatistics()
    difference = row_difference(rest)
    known = np.ones(difference.shape) if valid is None else _five(valid)
    deviation = robust_deviation(difference[:, ::THINNED][known[:, ::THINNED] > 0])
    if deviation == 0:
        return RowStatistics()
    known = known * (np.abs(difference) < OUTLIER * deviation)
    difference = difference * known
    # the variance of a difference is that of the five rows it is made of
    seen = _weighted(signal)
    pushed, lifted = slope[2:-2] * known, slope_y[2:-2] * known
    lags = _lags(n_x)
    taken, lifted_by = (np.zeros(len(lags)) if r is None else r.left_at(lags) for r in (registration, across))
    middle = lags == STREAK_LAGS[2]
    given_back = np.array([taken[middle].mean(), lifted_by[middle].mean()])
    moved, moved_std = _with_gradients(difference, slope, slope_y, known, given_back)
    # what could as well be noise is left where it is
    squared_shift, squared_lift = np.where(moved > SEEN * moved_std, moved, 0.0)
    covariance, pairs = _covariance(difference, known, lags)
    by_shift, by_lift = (_covariance(driver, known, lags)[0] for driver in (pushed, lifted))
    restored = covariance + taken * by_shift + lifted_by * by_lift
    covariance = restored - squared_shift * by_shift - squared_lift * by_lift
    if covariance[0] < LEAST_LEFT * restored[0]:
        # displacements that explain more than the variance that is there are not measured
        covariance, squared_shift, squared_lift = restored, 0.0, 0.0
    model, scatter = split_covariance(lags, covariance, pairs, n_x, _driven(slope, slope_y, registration, across))
    pointwise, correlation, streaks, length, short, short_length = model
    # streaks are the same for bright and dark pixels, but their luck is long: most of them is taken off before squaring
    quick, kept, passed, seen = _without_slow(difference, known, seen, correlation, (length, short_length))
    rest_of_streaks = streaks * passed[0] + short * passed[1]
    square = quick**2 - rest_of_streaks
    square += (taken[0] - squared_shift) * _weighted(slope**2)
    square += (lifted_by[0] - squared_lift) * _weighted(slope_y**2)
    centre, variance, count = _by_signal(square / kept, seen, known)
    readout, gain, at, gain_std = _line(centre, variance, count, pointwise, rest_of_streaks / kept, correlation)
    least = max(math.sqrt(scatter[0]), 1e-150)
    readout_std = math.sqrt(scatter[0] ** 2 * OWN**2 + np.nan_to_num(at * gain_std) ** 2) / (2 * max(readout, least))
    amplitude = math.sqrt(streaks)
    length = length if streaks else RowStatistics.streak_length
    short_amplitude = math.sqrt(short)
    std = {
        "readout": math.hypot(readout_std, MISFIT * readout),
        "gain": math.hypot(gain_std, GAIN_MISFIT * gain),
        "correlation_x": LUCK**2 * scatter[1] * OWN,
        "streaks": _amplitude_std(streaks, scatter[2]),
        "streak_length": LUCK * scatter[3] if streaks else math.nan,
        "short_streaks": _amplitude_std(short, scatter[4]),
        "short_length": LUCK * scatter[5] if short else math.nan,
        "left": moved_std[0],
        "left_y": moved_std[1],
    }
    fitted = model_covariance(lags, *model)
    left, lift = math.sqrt(squared_shift), math.sqrt(squared_lift)
    return RowStatistics(
        readout, gain, correlation, amplitude, length, short_amplitude, short_length, left, lift, centre, variance,
        count, lags, covariance, fitted, std,
    )  # fmt: skip


def _amplitude_std(variance: float, scatter: float) -> float:
    """Standard deviation of the square root of a variance that has the standard deviation ``scatter``."""
    amplitude = math.sqrt(variance)
    return math.hypot(scatter * OWN, MISFIT * variance) / (2 * max(amplitude, math.sqrt(scatter * OWN) / 2, 1e-150))


# --- covariance along the row ------------------------------------------------------------------------------------


def _five(valid: NDArray) -> NDArray:
    n = len(valid) - 4
    return np.logical_and.reduce([valid[i : i + n] for i in range(5)]).astype(np.float64)


def _weighted(signal: NDArray) -> NDArray:
    n = len(signal) - 4
    return sum(weight**2 * signal[i : i + n] for i, weight in enumerate(DIFFERENCE))


def _lags(n_x: int) -> NDArray[np.int64]:
    farthest = max(8, min(int(FARTHEST * n_x), n_x - 4))
    return np.unique(np.r_[0:9, np.geomspace(9, farthest, 18).astype(int)])


def _covariance(values: NDArray, known: NDArray, lags: NDArray) -> tuple[NDArray, NDArray]:
    """Mean of the product of pixels at each lag, and how many pairs it is the mean of."""
    n_x = values.shape[1]
    means, counts = [], []
    for k in lags:
        pairs = float(np.vdot(known[:, : n_x - k], known[:, k:]))
        means.append(float(np.vdot(values[:, : n_x - k], values[:, k:])) / max(pairs, 1.0))
        counts.append(pairs)
    return np.array(means), np.array(counts)


def _with_gradients(
    difference: NDArray, slope: NDArray, slope_y: NDArray, known: NDArray, taken: NDArray
) -> tuple[NDArray, NDArray]:
    """Variances of the displacements along x and y, and their standard deviations: regression of D(x) D(x + k) on the
    products of both slopes at the streaks' lags, each lag about its own mean, after ``taken`` is given back.
    """
    n_x = difference.shape[1]
    blocks = np.arange(0, len(difference), ROW_BLOCK)
    matrices, rights = np.zeros((len(blocks), 2, 2)), np.zeros((len(blocks), 2))
    for k in STREAK_LAGS:
        left, moved = slice(0, n_x - k), slice(k, n_x)
        weight = known[:, left] * known[:, moved]
        count = max(float(weight.sum()), 1.0)
        drivers = np.stack([_weighted(s[:, left] * s[:, moved]) for s in (slope, slope_y)]) * weight
        # streaks fall with the lag, and so do the slopes' products: only what differs from place to place counts
        drivers -= weight * (drivers.sum((1, 2), keepdims=True) / count)
        product = difference[:, left] * difference[:, moved]
        rows = np.einsum("iyx,jyx->yij", drivers, drivers)
        matrices += np.add.reduceat(rows, blocks, axis=0)
        rights += np.add.reduceat((drivers * product).sum(2).T, blocks, axis=0)
    matrix = matrices.sum(0)
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    if np.linalg.cond(matrix / np.outer(scale, scale)) > 1e6 or known.sum() == 0:
        return np.zeros(2), np.zeros(2)
    found = np.linalg.solve(matrix, rights.sum(0))
    # what each block of rows wants otherwise tells how sure the whole is, whatever the noise
    pull = rights - matrices @ found
    inverse = np.linalg.inv(matrix)
    return np.maximum(found + taken, 0.0), np.sqrt(np.diag(inverse @ (pull.T @ pull) @ inverse))


def _driven(slope: NDArray, slope_y: NDArray, along_x: Registration | None, along_y: Registration | None) -> float:
    """Variance that the displacements have made of the columns' slopes."""
    pairs = ((slope, along_x), (slope_y, along_y))
    return sum(found.displacement**2 * float((s**2).mean()) for s, found in pairs if found is not None)


# --- variance against the signal ---------------------------------------------------------------------------------


def _without_slow(
    difference: NDArray, known: NDArray, seen: NDArray, correlation: float, lengths: tuple[float, float]
) -> tuple[NDArray, float, list[float], NDArray]:
    """The noise without its Gaussian mean along the row, the fractions of the pointwise and of both streaks' variance
    that are left, and the signal that this variance belongs to: the pixel's own and a little of its neighbours'.
    """
    smooth = ndimage.gaussian_filter1d(difference, SLOW, axis=1, mode="constant")
    weight = ndimage.gaussian_filter1d(known, SLOW, axis=1, mode="constant")
    quick = (difference - smooth / np.maximum(weight, 0.05)) * known
    kernel = ndimage.gaussian_filter1d(np.eye(1, 8 * SLOW + 1, 4 * SLOW)[0], SLOW, mode="constant")
    filtered = np.eye(1, 8 * SLOW + 1, 4 * SLOW)[0] - kernel
    own = np.correlate(filtered, filtered, "full")
    lags = np.abs(np.arange(len(own)) - len(own) // 2)
    kept = float((own * model_covariance(lags, 1.0, correlation, 0.0, 1.0)).sum())
    passed = [max(float((own * streak_shape(lags, length)).sum()), 0.0) for length in lengths]
    middle = float(kernel.max())
    around = ndimage.correlate1d(seen, kernel**2, axis=1, mode="nearest")
    seen = ((1 - 2 * middle) * seen + around) / (1 - 2 * middle + float((kernel**2).sum()))
    return quick, kept, passed, seen


def _by_signal(square: NDArray, seen: NDArray, known: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Mean of squares in bins of the signal: half of them with equal numbers of pixels, half of equal width."""
    use = known.ravel() > 0
    x, y = seen.ravel()[use], square.ravel()[use]
    low, high = np.quantile(x, [0.001, 0.999])
    edges = np.unique(np.r_[np.quantile(x, np.linspace(0, 1, N_BINS // 2 + 1)), np.linspace(low, high, N_BINS // 2)])
    if len(edges) < 3 or high <= low:
        return np.array([x.mean()]), np.array([y.mean()]), np.array([x.size])
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(index)
    keep = count > 30
    return np.bincount(index, x)[keep] / count[keep], np.bincount(index, y)[keep] / count[keep], count[keep]


def _line(
    signal: NDArray, variance: NDArray, count: NDArray, pointwise: float, streaks: float, correlation: float
) -> tuple[float, float, float, float]:
    """Readout and gain, the signal at which the variance is the mean one, and the gain's standard deviation.

    The line goes through the pointwise variance that the covariance along the row gave; bins weigh as the scatter of a
    variance wants it. Bins with hardly any variance are left out: pixels clipped at the detector's end tell nothing.
    """
    usual = float(np.average(variance, weights=count)) if len(variance) else 0.0
    alive = variance > CLIPPED * usual
    signal, variance, count = signal[alive], variance[alive], count[alive]
    if len(signal) < 3 or np.ptp(signal) < 1e-3 or usual <= 0:
        return math.sqrt(max(pointwise, 0.0)), 0.0, 0.0, math.nan
    colour = (1 + correlation**2) / (1 - correlation**2)
    expected = variance
    for _ in range(3):
        weight = count / np.maximum(expected + streaks, 1e-3 * usual) ** 2
        at = float(np.average(signal, weights=weight))
        level = float(np.average(variance, weights=weight))
        spread = float((weight * (signal - at) ** 2).sum())
        gain = float((weight * (signal - at) * (variance - level)).sum()) / spread
        expected = level + gain * (signal - at)
    gain_std = math.sqrt(2 * (SHARED - 1) * colour / spread)
    mean = float(np.average(signal, weights=count))
    # clipped pixels apart, the mean variance is known from all lags together
    level = pointwise if alive.all() else level + gain * (mean - at)
    at_zero = max(level - gain * mean, 0.0)
    return math.sqrt(at_zero), max(gain, -at_zero), mean, gain_std
