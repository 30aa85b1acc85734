"""Variance of the pointwise noise against the signal: a straight line through means in bins of the signal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.noise.differences import ROW_CORRELATION, difference_variance
from stemkit.noise.displacement_correction import NoiseDifferences, RowCovariance
from stemkit.noise.lag_covariance import LagCovariance, pointwise_correlation, streak_correlation

__all__ = ["VarianceCurve", "VarianceLine", "fit_variance_line"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the fit."""

    #: Sigma of the filter along the row that removes streaks from the pointwise noise, px (chosen).
    streak_filter: int = 6
    #: Number of bins of the signal (chosen).
    n_bins: int = 24
    #: Fewest pixels of a bin (chosen).
    min_pixels: int = 30
    #: Bins with less than this fraction of the usual variance are clipped at the end of the digital range (chosen).
    clipped: float = 0.05
    #: Quantiles of the signal between which bins have equal width (chosen: without outliers).
    range_quantiles: tuple[float, float] = (0.001, 0.999)


CONSTANTS = _Constants()


@dataclass(frozen=True)
class VarianceCurve:
    """Mean variance of the pixels in bins of the signal.

    Parameters
    ----------
    signal : ndarray of shape (n_bins,)
        Mean signal of each bin: the intensity without noise above the level, divided by the contrast.
    variance : ndarray of shape (n_bins,)
        Mean variance of the pointwise noise, contrast squared.
    count : ndarray of int, shape (n_bins,)
        Number of pixels of each bin.
    """

    signal: NDArray[np.float64]
    variance: NDArray[np.float64]
    count: NDArray[np.int64]

    def take(self, chosen: NDArray) -> VarianceCurve:
        """A subset of the bins."""
        return VarianceCurve(self.signal[chosen], self.variance[chosen], self.count[chosen])


@dataclass(frozen=True)
class VarianceLine:
    """Straight line ``readout^2 + gain * signal`` of the variance of the pointwise noise.

    Parameters
    ----------
    curve : VarianceCurve
        Means to which the line is fitted.
    readout : float
        Standard deviation of the noise at a signal of 0, in units of the contrast.
    gain : float
        Slope of the line, contrast squared per unit of the signal.
    mean_signal : float
        Mean of the signal, weighted with the numbers of pixels, at which the line has the mean variance.
    gain_std : float
        Standard deviation of ``gain``; NaN where no slope is fitted.
    """

    curve: VarianceCurve
    readout: float
    gain: float
    mean_signal: float
    gain_std: float


def fit_variance_line(
    noise: NoiseDifferences, signal: NDArray, covariance: RowCovariance, model: LagCovariance
) -> VarianceLine:
    """Line through the mean squares in bins of the signal.

    Streaks have the same variance in bright and dark pixels, but few independent values: a filter along the row removes
    most of them before squaring.

    Parameters
    ----------
    noise : NoiseDifferences
        Fourth differences across rows of the noise, in units of the contrast.
    signal : ndarray of shape (n_y, n_x)
        Intensity without noise above the level, divided by the contrast.
    covariance : RowCovariance
        Covariance along the row, with the variances of the displacements that ``noise`` contains.
    model : LagCovariance
        Fitted pointwise noise and streaks.

    Returns
    -------
    VarianceLine
    """
    filtered = _high_pass(noise, difference_variance(signal), model)
    square = filtered.values**2 - filtered.streaks
    square += covariance.correction[0] * difference_variance(noise.x.slope**2)
    square += covariance.correction[1] * difference_variance(noise.y.slope**2)
    curve = _by_signal(square / filtered.kept, filtered.signal, noise.known)
    return _fit_line(curve, model.pointwise, filtered.streaks / filtered.kept, model.correlation)


@dataclass(frozen=True)
class _HighPass:
    """Differences without their Gaussian mean along the row.

    ``kept`` is the fraction of the pointwise variance that is left, ``streaks`` the variance of the streaks that is
    left, and ``signal`` the one that the variance belongs to: the pixel's own, and little of its neighbours'.
    """

    values: NDArray
    signal: NDArray
    kept: float
    streaks: float


def _high_pass(noise: NoiseDifferences, signal: NDArray, model: LagCovariance) -> _HighPass:
    sigma, known = CONSTANTS.streak_filter, noise.known
    smooth = ndimage.gaussian_filter1d(noise.values, sigma, axis=1, mode="constant")
    weight = ndimage.gaussian_filter1d(known, sigma, axis=1, mode="constant")
    values = (noise.values - smooth / np.maximum(weight, 0.05)) * known
    impulse = np.eye(1, 8 * sigma + 1, 4 * sigma)[0]
    kernel = ndimage.gaussian_filter1d(impulse, sigma, mode="constant")
    response = np.correlate(impulse - kernel, impulse - kernel, "full")
    lags = np.abs(np.arange(len(response)) - len(response) // 2)
    streaks = [(model.streaks, model.length), (model.short, model.short_length)]
    passed = sum(v * max(float((response * streak_correlation(lags, g)).sum()), 0.0) for v, g in streaks)
    middle = float(kernel.max())
    around = ndimage.correlate1d(signal, kernel**2, axis=1, mode="nearest")
    signal = ((1 - 2 * middle) * signal + around) / (1 - 2 * middle + float((kernel**2).sum()))
    kept = float((response * pointwise_correlation(lags, model.correlation)).sum())
    return _HighPass(values, signal, kept, passed)


def _by_signal(square: NDArray, signal: NDArray, known: NDArray) -> VarianceCurve:
    """Mean of squares in bins of the signal: half of them with equal numbers of pixels, half of equal width."""
    use = known.ravel() > 0
    x, y = signal.ravel()[use], square.ravel()[use]
    low, high = np.quantile(x, CONSTANTS.range_quantiles)
    half = CONSTANTS.n_bins // 2
    edges = np.unique(np.r_[np.quantile(x, np.linspace(0, 1, half + 1)), np.linspace(low, high, half)])
    if len(edges) < 3 or high <= low:
        return VarianceCurve(np.array([x.mean()]), np.array([y.mean()]), np.array([x.size]))
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(index)
    keep = count > CONSTANTS.min_pixels
    signal_mean, variance = (np.bincount(index, v)[keep] / count[keep] for v in (x, y))
    return VarianceCurve(signal_mean, variance, count[keep])


def _fit_line(curve: VarianceCurve, pointwise: float, streaks: float, correlation: float) -> VarianceLine:
    """Weighted line through the curve, at the pointwise variance of the covariance along the row.

    Weights are those of the scatter of a variance. Bins with hardly any variance are left out: their pixels are clipped
    at the end of the digital range.
    """
    typical_variance = float(np.average(curve.variance, weights=curve.count)) if len(curve.variance) else 0.0
    unclipped = curve.variance > CONSTANTS.clipped * typical_variance
    signal, variance, count = (getattr(curve.take(unclipped), name) for name in ("signal", "variance", "count"))
    if len(signal) < 3 or np.ptp(signal) < 1e-3 or typical_variance <= 0:
        return VarianceLine(curve, math.sqrt(max(pointwise, 0.0)), 0.0, 0.0, math.nan)
    expected = variance
    for _ in range(3):
        weight = count / np.maximum(expected + streaks, 1e-3 * typical_variance) ** 2
        mean_weighted_signal = float(np.average(signal, weights=weight))
        mean_variance = float(np.average(variance, weights=weight))
        signal_scatter = float((weight * (signal - mean_weighted_signal) ** 2).sum())
        gain = float((weight * (signal - mean_weighted_signal) * (variance - mean_variance)).sum()) / signal_scatter
        expected = mean_variance + gain * (signal - mean_weighted_signal)
    correlated = (1 + correlation**2) / (1 - correlation**2)
    gain_std = math.sqrt(2 * (ROW_CORRELATION - 1) * correlated / signal_scatter)
    mean = float(np.average(signal, weights=count))
    # without clipped pixels, all lags together give the mean variance
    mean_variance = pointwise if unclipped.all() else mean_variance + gain * (mean - mean_weighted_signal)
    readout_variance = max(mean_variance - gain * mean, 0.0)
    return VarianceLine(curve, math.sqrt(readout_variance), max(gain, -readout_variance), mean, gain_std)
