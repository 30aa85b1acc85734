"""Noise from the difference of neighbouring rows: a smooth specimen cancels, noise does not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

__all__ = ["RowStatistics", "row_statistics", "tukey_kurtosis"]

#: Fourth difference: cancels a specimen that is cubic across five rows; unit gain for noise of independent rows.
DIFFERENCE = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / math.sqrt(70.0)
#: Lags along the row at which pointwise noise is over and streaks are not yet.
STREAK_LAGS = (4, 5, 6, 7, 8)
N_BINS = 12
#: The Tukey lambda that is nearest to a normal distribution; taken where the shape can't be measured, which is where
#: pointwise noise has less than this part of the fourth moment.
NORMAL, HIDDEN = 0.14, 0.5
#: A row that is this many times farther from both its neighbours than rows usually are is no recording.
BROKEN = 6.0
#: Pixels whose noise has less than this fraction of the usual variance are taken for clipped.
CLIPPED = 0.05


@dataclass(frozen=True)
class RowStatistics:
    """Noise of one image, amplitudes as fractions of the contrast; meanings as in :class:`stemkit.NoiseModel`.

    ``signal`` and ``variance`` ``(n_bins,)`` are the curve that ``readout`` and ``gain`` are the line of.
    """

    readout: float
    gain: float
    shape: float
    correlation_x: float
    streaks: float
    streak_length: float
    jitter: float
    signal: NDArray[np.float64]
    variance: NDArray[np.float64]


def row_statistics(signal: NDArray, width: float) -> RowStatistics:
    """Split the noise of an image by how it is correlated along the row.

    Parameters
    ----------
    signal : ndarray of shape (n_y, n_x)
        ``(I - level) / contrast``, columns bright.
    width : float
        Sigma of the columns, px.

    Notes
    -----
    With D the fourth difference across rows and C(k) the mean of D(x) D(x + k) along the row, pointwise noise of
    variance v and lag-1 correlation r gives C(0) = v and C(1) = r v, streaks of variance a^2 and length l give
    a^2 exp(-k^2 / (4 l^2)), and a displacement of RMS d gives d^2 I'(x) I'(x + k). The lags 4 to 8 hold the last two
    alone, and the gradients tell them apart.
    """
    n_y, n_x = signal.shape
    if n_y < 8 or n_x < 12:
        return RowStatistics(0.0, 0.0, NORMAL, 0.0, 0.0, 20.0, 0.0, np.empty(0), np.empty(0))
    difference = _clipped(ndimage.convolve1d(signal, DIFFERENCE, axis=0, mode="reflect")[2:-2])
    smooth = ndimage.gaussian_filter(signal, max(0.8, 0.5 * width))[2:-2]
    gradient = np.gradient(smooth, axis=1) * _gradient_loss(width, max(0.8, 0.5 * width))
    flat = np.abs(gradient) <= np.quantile(np.abs(gradient), 0.5)
    streaks, jitter = _row_correlated(difference, gradient)
    long_range = _covariance(difference, flat, STREAK_LAGS).mean()
    c0, c1 = _covariance(difference, flat, (0, 1)) - long_range
    correlation = float(np.clip(c1 / c0, -0.9, 0.9)) if c0 > 0 else 0.0
    # streaks lift the signal of a row and its squares together: they are taken off pixel by pixel
    centre, variance, count = _by_signal(difference**2 - _neighbours(difference), smooth, flat)
    readout, gain = _line(centre, variance, count)
    shape = _tukey_shape(difference, readout, gain, long_range, smooth, flat)
    length = _streak_length(difference, gradient, streaks, jitter) if streaks > 0 else 20.0
    return RowStatistics(readout, gain, shape, correlation, streaks, length, jitter, centre, variance)


def repaired(values: NDArray) -> NDArray[np.float64]:
    """The image without rows that are no recording (dead, or a scan cut short), filled from the nearest good ones.

    Such a row differs from its neighbours by much more than the others do.
    """
    out = np.asarray(values, dtype=np.float64)
    if out.shape[0] < 8:
        return out
    steps = np.diff(out, axis=0)
    # a broken row is far from both of its neighbours, the first of a broken block from the one before
    flat = (np.abs(np.diff(out, axis=1)).max(axis=1) == 0) if out.shape[1] > 1 else np.zeros(len(out), dtype=bool)
    size = np.median(np.abs(steps), axis=1)
    far = np.r_[0.0, size], np.r_[size, 0.0]
    usual = np.median(size)
    broken = flat & (np.ptp(out) > 0) & (flat.mean() < 0.5) | (np.minimum(*far) > BROKEN * usual) & (usual > 0)
    good = np.flatnonzero(~broken)
    if len(good) in (0, len(out)):
        return out
    nearest = good[np.abs(np.arange(len(out))[:, None] - good[None, :]).argmin(axis=1)]
    return out[nearest]


def tukey_kurtosis(shape: float) -> float:
    """Excess kurtosis of the Tukey lambda distribution, for shape > -1/4 (Joiner and Rosenblatt 1971)."""
    from scipy.stats import tukeylambda

    return float(tukeylambda.stats(shape, moments="k"))


# --- steps -------------------------------------------------------------------------------------------------------


def _clipped(difference: NDArray) -> NDArray:
    """Without dead pixels and hot rows: nothing beyond 8 robust deviations."""
    deviation = 1.4826 * np.median(np.abs(difference - np.median(difference)))
    return np.clip(difference, -8 * deviation, 8 * deviation) if deviation > 0 else difference


def _gradient_loss(width: float, smoothing: float) -> float:
    """A Gaussian of sigma w seen through one of sigma s has gradients lower by (w^2 / (w^2 + s^2))^1.5."""
    return float((1 + (smoothing / width) ** 2) ** 1.5)


def _covariance(difference: NDArray, where: NDArray, lags: tuple[int, ...]) -> NDArray:
    """Mean of D(x) D(x + k) over pixel pairs that both lie where asked."""
    n_x = difference.shape[1]
    means = []
    for k in lags:
        both = where[:, : n_x - k] & where[:, k:]
        product = difference[:, : n_x - k] * difference[:, k:]
        means.append(product[both].mean() if both.any() else 0.0)
    return np.array(means)


def _row_correlated(difference: NDArray, gradient: NDArray) -> tuple[float, float]:
    """Streaks and jitter: intercept and slope of D(x) D(x + k) on I'(x) I'(x + k)."""
    n_x = difference.shape[1]
    sums = np.zeros(5)
    for k in STREAK_LAGS:
        product = (difference[:, : n_x - k] * difference[:, k:]).ravel()
        driver = (gradient[:, : n_x - k] * gradient[:, k:]).ravel()
        sums += [product.size, driver.sum(), (driver**2).sum(), product.sum(), (driver * product).sum()]
    n, s_x, s_xx, s_y, s_xy = sums
    spread = s_xx - s_x**2 / n
    slope = (s_xy - s_x * s_y / n) / spread if spread > 1e-12 else 0.0
    slope = max(slope, 0.0)
    intercept = (s_y - slope * s_x) / n
    return float(np.sqrt(max(intercept, 0.0))), float(np.sqrt(slope))


def _by_signal(square: NDArray, smooth: NDArray, where: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Mean of squares in bins of the signal with equal numbers of pixels."""
    x, y = smooth[where], square[where]
    edges = np.unique(np.quantile(x, np.linspace(0, 1, N_BINS + 1)))
    if len(edges) < 3:
        return np.array([x.mean()]), np.array([y.mean()]), np.array([x.size])
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(index)
    keep = count > 0
    return (
        (np.bincount(index, x)[keep] / count[keep]),
        (np.bincount(index, y)[keep] / count[keep]),
        count[keep],
    )


def _line(signal: NDArray, variance: NDArray, count: NDArray) -> tuple[float, float]:
    """Readout and gain: a line weighted by the counts, whose variance is nowhere negative between 0 and 1.

    Bins with hardly any variance are left out: pixels clipped at the detector's end tell nothing of the noise.
    """
    alive = variance > CLIPPED * np.median(variance)
    signal, variance, count = signal[alive], variance[alive], count[alive]
    if len(signal) == 0:
        return 0.0, 0.0
    if len(signal) < 3 or np.ptp(signal) < 1e-3:
        return float(np.sqrt(max(np.average(variance, weights=count), 0.0))), 0.0
    # the error of a variance grows with the variance itself
    weight = np.sqrt(count) / np.maximum(variance, 1e-3 * np.abs(variance).max() + 1e-30)
    gain, at_zero = np.polyfit(signal, variance, 1, w=weight)
    at_zero = max(at_zero, 0.0)
    return float(np.sqrt(at_zero)), float(max(gain, -at_zero))


def _neighbours(difference: NDArray) -> NDArray:
    """D(x) times its mean neighbour at the streaks' lags, on both sides where there are two."""
    n_x = difference.shape[1]
    total, count = np.zeros_like(difference), np.zeros(n_x)
    for k in STREAK_LAGS:
        total[:, k:] += difference[:, :-k]
        total[:, :-k] += difference[:, k:]
        count[k:] += 1
        count[: n_x - k] += 1
    return difference * total / np.maximum(count, 1)


def _tukey_shape(
    difference: NDArray, readout: float, gain: float, long_range: float, smooth: NDArray, where: NDArray
) -> float:
    """Tukey lambda from the kurtosis: a weighted sum of five pixels keeps sum(w^4) of the excess.

    Streaks are taken for normal: they dilute the excess by the square of their share of the variance. Where they hide
    it the distribution is taken for normal, too. Kurtosis tells nothing of tails heavier than a lambda of -0.15.
    """
    pointwise = np.maximum(readout**2 + gain * smooth, 1e-12)[where]
    variance = pointwise + max(long_range, 0.0)
    normal = difference[where] / np.sqrt(variance)
    share = float(np.mean((pointwise / variance) ** 2)) if normal.size else 0.0
    if normal.size < 100 or normal.std() == 0 or share < HIDDEN:
        return NORMAL
    normal = normal / normal.std()
    excess = (np.mean(normal**4) - 3) / (share * np.sum(DIFFERENCE**4))
    low, high = -0.15, 0.6
    if excess >= tukey_kurtosis(low):
        return low
    if excess <= tukey_kurtosis(high):
        return high
    return float(optimize.brentq(lambda lam: tukey_kurtosis(lam) - excess, low, high, xtol=1e-4))


def _streak_length(difference: NDArray, gradient: NDArray, streaks: float, jitter: float) -> float:
    """Where the covariance without the jitter's has fallen to half of the streaks' variance:
    exp(-k^2 / (4 l^2)) = 1/2.
    """
    n_x = difference.shape[1]
    everywhere = np.ones(difference.shape, dtype=bool)
    lags = np.unique(np.geomspace(4, max(5, n_x // 2), 24).astype(int))
    steps = tuple(int(k) for k in lags)
    covariance = _covariance(difference, everywhere, steps) - jitter**2 * _covariance(gradient, everywhere, steps)
    below = np.flatnonzero(covariance < 0.5 * streaks**2)
    if len(below) == 0:
        return math.inf
    return float(lags[below[0]] / (2 * math.sqrt(math.log(2))))
