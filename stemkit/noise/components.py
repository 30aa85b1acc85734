"""Noise of one image separated by its correlation along the row: pointwise noise, streaks and residual jitter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.noise.differences import (
    ROW_CORRELATION,
    difference_variance,
    robust_std,
    row_difference,
    rows_without,
)
from stemkit.noise.lag_covariance import (
    SHORT_LENGTH,
    LagCovariance,
    LagCovarianceFit,
    fit_lag_covariance,
    pointwise_correlation,
    streak_correlation,
)
from stemkit.noise.registration import BeamDisplacement

__all__ = ["NoiseComponents", "measure_components"]


@dataclass(frozen=True)
class _Settings:
    """Constants of the separation."""

    #: Pixels beyond this many robust standard deviations are dead, hot or hit by a cosmic ray (chosen).
    outlier: float = 10.0
    #: Quantiles of an image are those of every n-th column of pixels (chosen).
    thinned: int = 4
    #: Lags, px, at which pointwise noise is negligible and streaks are not (chosen).
    streak_lags: tuple[int, ...] = (4, 5, 6, 7, 8)
    #: Longest lag as a fraction of the row (chosen).
    farthest: float = 0.5
    #: Rows in a block; the scatter of the blocks gives the error of a regression (chosen).
    row_block: int = 16
    #: Residual displacements are subtracted from this many standard deviations (chosen).
    significant: float = 3.0
    #: Least fraction of the variance that is left by the subtraction of displacements (chosen).
    least_left: float = 0.01
    #: Sigma of the filter along the row that removes streaks from the pointwise noise, px (chosen).
    streak_filter: int = 6
    #: Number of bins of the signal (chosen).
    n_bins: int = 24
    #: Fewest pixels of a bin (chosen).
    fewest_pixels: int = 30
    #: Bins with less than this fraction of the usual variance are clipped at the end of the digital range (chosen).
    clipped: float = 0.05
    #: Error caused by the columns' model, as a fraction of the readout and of the streaks' variance, and as a fraction
    #: of the gain (measured on simulated images).
    model_error: float = 0.006
    gain_model_error: float = 0.03
    #: Scatter of the length of streaks over that of a Gaussian process; that of the correlation is its square (measured
    #: on simulated images).
    excess_scatter: float = 1.15


SETTINGS = _Settings()
#: Of the scatter of an estimate, the fraction by which it misses the noise realised in the same image (derived).
SAMPLING = math.sqrt((ROW_CORRELATION - 1) / ROW_CORRELATION)


@dataclass(frozen=True)
class NoiseComponents:
    """Noise of one image, amplitudes as fractions of the contrast; meanings as in :class:`stemkit.NoiseModel`.

    Parameters
    ----------
    readout, gain, correlation_x : float
        Pointwise noise.
    streaks, streak_length, short_streaks, short_length : float
        Standard deviation and length (px) of both kinds of streaks.
    residual_jitter, residual_jitter_y : float
        RMS displacements along x and y that the registration of the rows has not removed, px.
    signal, variance, count : ndarray of shape (n_bins,)
        Variance against signal, and the number of pixels; ``readout`` and ``gain`` are its straight line.
    lag, covariance, fitted : ndarray of shape (n_lags,)
        Covariance along the row and its model.
    std : dict
        Standard deviations by name; those of the residual displacements are of their squares, ``"residual_jitter^2"``.
    """

    readout: float = 0.0
    gain: float = 0.0
    correlation_x: float = 0.0
    streaks: float = 0.0
    streak_length: float = 20.0
    short_streaks: float = 0.0
    short_length: float = SHORT_LENGTH
    residual_jitter: float = 0.0
    residual_jitter_y: float = 0.0
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

    def pointwise_variance(self, signal: NDArray | float) -> NDArray[np.float64]:
        """``readout^2 + gain signal``, not below 0."""
        return np.maximum(self.readout**2 + self.gain * signal, 0.0)


def measure_components(
    residual: NDArray,
    signal: NDArray,
    slope: NDArray,
    slope_y: NDArray,
    *,
    valid: NDArray | None = None,
    along_x: BeamDisplacement | None = None,
    along_y: BeamDisplacement | None = None,
) -> NoiseComponents:
    """Separate the noise of an image by its correlation along the row.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
        The image without its fitted columns, or the image itself, over the contrast.
    signal : ndarray of shape (n_y, n_x)
        ``(I_clean - level) / contrast``, columns bright.
    slope, slope_y : ndarray of shape (n_y, n_x)
        Its derivatives along x and along y, per px.
    valid : ndarray of bool, optional
        Pixels that are used.
    along_x, along_y : BeamDisplacement, optional
        Displacements that the columns of ``residual`` were fitted with.

    Returns
    -------
    NoiseComponents
        All 0 for an image under 8 x 12 px or without noise.

    Notes
    -----
    With D the fourth difference across rows and C(k) the mean of D(x) D(x + k) along the row, pointwise noise of
    variance v and lag-1 correlation r gives C(k) = v r^k, streaks of variance a^2 and length l give
    a^2 exp(-k^2 / (4 l^2)), and displacements of variance d^2 give d^2 I'(x) I'(x + k), found at lags 4 to 8 by
    regression. Registration of the rows removes some noise: residuals of a linear prediction have the covariance of
    the noise less that of the prediction's error (in px squared, times ``I'(x) I'(x + k)``), which is added. The
    remainder is fitted by generalised least squares with the covariance matrix of a Gaussian process
    (Bartlett 1946, doi:10.2307/2983611). The variance against the signal is then a straight line.
    """
    n_y, n_x = residual.shape
    if n_y < 8 or n_x < 12:
        return NoiseComponents()
    difference = row_difference(residual)
    known = np.ones(difference.shape) if valid is None else rows_without(~valid).astype(np.float64)
    thinned = np.s_[:, :: SETTINGS.thinned]
    std = robust_std(difference[thinned][known[thinned] > 0])
    if std == 0:
        return NoiseComponents()
    known = known * (np.abs(difference) < SETTINGS.outlier * std)
    noise = _Differences(
        difference * known, known, _lags(n_x), _Driver.of(slope, along_x), _Driver.of(slope_y, along_y)
    )
    displaced = _subtract_displacements(noise)
    fit = fit_lag_covariance(
        noise.lags, displaced.covariance, displaced.pairs, n_x, noise.x.variance + noise.y.variance
    )
    line = _variance_line(noise, signal, displaced, fit.covariance)
    return _assembled(noise.lags, displaced, fit, line)


@dataclass(frozen=True)
class _Driver:
    """What displacements along one axis multiply: the slope of the signal, per px.

    ``displacement`` is what the residual was registered with; ``variance`` is the variance that it has added.
    """

    slope: NDArray
    displacement: BeamDisplacement | None
    variance: float

    @classmethod
    def of(cls, slope: NDArray, displacement: BeamDisplacement | None) -> _Driver:
        """From a slope, and the displacement along its axis."""
        variance = 0.0 if displacement is None else displacement.rms**2 * float((slope**2).mean())
        return cls(slope, displacement, variance)

    def removed(self, lags: NDArray) -> NDArray[np.float64]:
        """Covariance of the displacement's error at these lags, px squared: noise that registration has removed."""
        return np.zeros(len(lags)) if self.displacement is None else self.displacement.error_covariance_at(lags)


@dataclass(frozen=True)
class _Differences:
    """Fourth differences across rows ``(n_y - 4, n_x)``, 0 where ``known`` is 0, and what displacements multiply."""

    values: NDArray
    known: NDArray
    lags: NDArray[np.int64]
    x: _Driver
    y: _Driver


def _lags(n_x: int) -> NDArray[np.int64]:
    farthest = max(8, min(int(SETTINGS.farthest * n_x), n_x - 4))
    return np.unique(np.r_[0:9, np.geomspace(9, farthest, 18).astype(int)])


def _assembled(lags: NDArray, displaced: _Displaced, fit: LagCovarianceFit, line: _VarianceLine) -> NoiseComponents:
    model, std = fit.covariance, fit.std
    least = max(math.sqrt(std.pointwise), 1e-150)
    at_mean = np.nan_to_num(line.mean_signal * line.gain_std)
    readout_std = math.sqrt(std.pointwise**2 * SAMPLING**2 + at_mean**2) / (2 * max(line.readout, least))
    excess = SETTINGS.excess_scatter
    return NoiseComponents(
        readout=line.readout,
        gain=line.gain,
        correlation_x=model.correlation,
        streaks=math.sqrt(model.streaks),
        streak_length=model.length if model.streaks else NoiseComponents.streak_length,
        short_streaks=math.sqrt(model.short),
        short_length=model.short_length,
        residual_jitter=math.sqrt(displaced.variance[0]),
        residual_jitter_y=math.sqrt(displaced.variance[1]),
        signal=line.curve.signal,
        variance=line.curve.variance,
        count=line.curve.count,
        lag=lags,
        covariance=displaced.covariance,
        fitted=model.at(lags),
        std={
            "readout": math.hypot(readout_std, SETTINGS.model_error * line.readout),
            "gain": math.hypot(line.gain_std, SETTINGS.gain_model_error * line.gain),
            "correlation_x": excess**2 * std.correlation * SAMPLING,
            "streaks": _amplitude_std(model.streaks, std.streaks),
            "streak_length": excess * std.length if model.streaks else math.nan,
            "short_streaks": _amplitude_std(model.short, std.short),
            "short_length": excess * std.short_length if model.short else math.nan,
            "residual_jitter^2": displaced.std[0],
            "residual_jitter_y^2": displaced.std[1],
        },
    )


def _amplitude_std(variance: float, scatter: float) -> float:
    """Standard deviation of the square root of a variance that has the standard deviation ``scatter``."""
    own = scatter * SAMPLING
    return math.hypot(own, SETTINGS.model_error * variance) / (2 * max(math.sqrt(variance), math.sqrt(own) / 2, 1e-150))


# --- covariance along the row, and displacements -----------------------------------------------------------------


@dataclass(frozen=True)
class _Displaced:
    """Covariance along the row ``(n_lags,)`` without residual displacements, and its number of pairs of pixels.

    ``variance`` and ``std`` are the variance of these displacements along x and y, px squared, and its standard
    deviation; ``correction`` is what is added to the mean square slope along x and y, px squared.
    """

    covariance: NDArray[np.float64]
    pairs: NDArray[np.float64]
    variance: tuple[float, float]
    std: tuple[float, float]
    correction: tuple[float, float]


def _subtract_displacements(noise: _Differences) -> _Displaced:
    """Add the noise that registration has removed, and subtract what residual displacements have added."""
    lags = noise.lags
    removed = noise.x.removed(lags), noise.y.removed(lags)
    middle = lags == SETTINGS.streak_lags[2]
    variance, std = _residual_displacements(noise, np.array([r[middle].mean() for r in removed]))
    # displacements that may as well be noise are not subtracted
    subtracted = np.where(variance > SETTINGS.significant * std, variance, 0.0)
    covariance, pairs = _mean_products(noise.values, noise.known, lags)
    slopes = [_mean_products(d.slope[2:-2] * noise.known, noise.known, lags)[0] for d in (noise.x, noise.y)]
    restored = covariance + removed[0] * slopes[0] + removed[1] * slopes[1]
    covariance = restored - subtracted[0] * slopes[0] - subtracted[1] * slopes[1]
    if covariance[0] < SETTINGS.least_left * restored[0]:
        # displacements that explain more than the variance of the image are not measured
        covariance, subtracted = restored, np.zeros(2)
    correction = (removed[0][0] - subtracted[0], removed[1][0] - subtracted[1])
    return _Displaced(covariance, pairs, (subtracted[0], subtracted[1]), (std[0], std[1]), correction)


def _mean_products(values: NDArray, known: NDArray, lags: NDArray) -> tuple[NDArray, NDArray]:
    """Mean of the product of pixels at each lag along the row, and the number of pairs."""
    n_x = values.shape[1]
    pairs = np.array([float(np.vdot(known[:, : n_x - k], known[:, k:])) for k in lags])
    products = np.array([float(np.vdot(values[:, : n_x - k], values[:, k:])) for k in lags])
    return products / np.maximum(pairs, 1.0), pairs


def _residual_displacements(noise: _Differences, removed: NDArray) -> tuple[NDArray, NDArray]:
    """Variances ``(2,)`` of the displacements along x and y, px squared, and their standard deviations.

    Regression of D(x) D(x + k) on the products of both slopes at the streaks' lags, each lag about its own mean;
    ``removed`` is added.
    """
    blocks = np.arange(0, len(noise.values), SETTINGS.row_block)
    matrices, rights = np.zeros((len(blocks), 2, 2)), np.zeros((len(blocks), 2))
    for lag in SETTINGS.streak_lags:
        drivers, product = _slope_products(noise, lag)
        matrices += np.add.reduceat(np.einsum("iyx,jyx->yij", drivers, drivers), blocks, axis=0)
        rights += np.add.reduceat((drivers * product).sum(2).T, blocks, axis=0)
    matrix = matrices.sum(0)
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    if np.linalg.cond(matrix / np.outer(scale, scale)) > 1e6 or noise.known.sum() == 0:
        return np.zeros(2), np.zeros(2)
    found = np.linalg.solve(matrix, rights.sum(0))
    # the scatter between blocks of rows gives the error for noise of any distribution
    scores = rights - matrices @ found
    inverse = np.linalg.inv(matrix)
    return np.maximum(found + removed, 0.0), np.sqrt(np.diag(inverse @ (scores.T @ scores) @ inverse))


def _slope_products(noise: _Differences, lag: int) -> tuple[NDArray, NDArray]:
    """Products of the slopes ``(2, n_y - 4, n_x - lag)`` along x and y at a lag about their mean, and of the noise."""
    n_x = noise.values.shape[1]
    left, right = np.s_[:, : n_x - lag], np.s_[:, lag:]
    weight = noise.known[left] * noise.known[right]
    count = max(float(weight.sum()), 1.0)
    slopes = noise.x.slope, noise.y.slope
    drivers = np.stack([difference_variance(s[left] * s[right]) for s in slopes]) * weight
    # covariance of streaks decreases with the lag like the slopes' products: only local differences count
    drivers -= weight * (drivers.sum((1, 2), keepdims=True) / count)
    return drivers, noise.values[left] * noise.values[right]


# --- variance against the signal ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Curve:
    """Mean variance of the pixels in bins of the signal."""

    signal: NDArray[np.float64]
    variance: NDArray[np.float64]
    count: NDArray[np.int64]

    def take(self, chosen: NDArray) -> _Curve:
        """Some of the bins."""
        return _Curve(self.signal[chosen], self.variance[chosen], self.count[chosen])


@dataclass(frozen=True)
class _VarianceLine:
    """Straight line of the pointwise variance, its curve, and the signal at which the variance is the mean one."""

    curve: _Curve
    readout: float
    gain: float
    mean_signal: float
    gain_std: float


def _variance_line(noise: _Differences, signal: NDArray, displaced: _Displaced, model: LagCovariance) -> _VarianceLine:
    """Line through the mean squares in bins of the signal.

    Streaks have the same variance in bright and dark pixels, but few independent values: a filter along the row removes
    most of them before squaring.
    """
    filtered = _high_pass(noise, difference_variance(signal), model)
    square = filtered.values**2 - filtered.streaks
    square += displaced.correction[0] * difference_variance(noise.x.slope**2)
    square += displaced.correction[1] * difference_variance(noise.y.slope**2)
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


def _high_pass(noise: _Differences, signal: NDArray, model: LagCovariance) -> _HighPass:
    sigma, known = SETTINGS.streak_filter, noise.known
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


def _by_signal(square: NDArray, signal: NDArray, known: NDArray) -> _Curve:
    """Mean of squares in bins of the signal: half of them with equal numbers of pixels, half of equal width."""
    use = known.ravel() > 0
    x, y = signal.ravel()[use], square.ravel()[use]
    low, high = np.quantile(x, [0.001, 0.999])
    half = SETTINGS.n_bins // 2
    edges = np.unique(np.r_[np.quantile(x, np.linspace(0, 1, half + 1)), np.linspace(low, high, half)])
    if len(edges) < 3 or high <= low:
        return _Curve(np.array([x.mean()]), np.array([y.mean()]), np.array([x.size]))
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(index)
    keep = count > SETTINGS.fewest_pixels
    signal_mean, variance = (np.bincount(index, v)[keep] / count[keep] for v in (x, y))
    return _Curve(signal_mean, variance, count[keep])


def _fit_line(curve: _Curve, pointwise: float, streaks: float, correlation: float) -> _VarianceLine:
    """Weighted line through the curve, at the pointwise variance of the covariance along the row.

    Weights are those of the scatter of a variance. Bins with hardly any variance are left out: their pixels are clipped
    at the end of the digital range.
    """
    usual = float(np.average(curve.variance, weights=curve.count)) if len(curve.variance) else 0.0
    unclipped = curve.variance > SETTINGS.clipped * usual
    signal, variance, count = (getattr(curve.take(unclipped), name) for name in ("signal", "variance", "count"))
    if len(signal) < 3 or np.ptp(signal) < 1e-3 or usual <= 0:
        return _VarianceLine(curve, math.sqrt(max(pointwise, 0.0)), 0.0, 0.0, math.nan)
    expected = variance
    for _ in range(3):
        weight = count / np.maximum(expected + streaks, 1e-3 * usual) ** 2
        at = float(np.average(signal, weights=weight))
        level = float(np.average(variance, weights=weight))
        spread = float((weight * (signal - at) ** 2).sum())
        gain = float((weight * (signal - at) * (variance - level)).sum()) / spread
        expected = level + gain * (signal - at)
    correlated = (1 + correlation**2) / (1 - correlation**2)
    gain_std = math.sqrt(2 * (ROW_CORRELATION - 1) * correlated / spread)
    mean = float(np.average(signal, weights=count))
    # without clipped pixels, all lags together give the mean variance
    level = pointwise if unclipped.all() else level + gain * (mean - at)
    at_zero = max(level - gain * mean, 0.0)
    return _VarianceLine(curve, math.sqrt(at_zero), max(gain, -at_zero), mean, gain_std)
