"""Noise of one image separated by its correlation along the row: pointwise noise, streaks and residual jitter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stemkit.noise.differences import ROW_CORRELATION
from stemkit.noise.displacement_correction import (
    DisplacedSlope,
    NoiseDifferences,
    RowCovariance,
    covariance_without_displacements,
)
from stemkit.noise.lag_covariance import SHORT_LENGTH, LagCovarianceFit, fit_lag_covariance
from stemkit.noise.registration import BeamDisplacement
from stemkit.noise.variance_line import VarianceLine, fit_variance_line

__all__ = ["NoiseComponents", "measure_components"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the separation."""

    #: Error caused by the columns' model, fraction of the readout and of the streaks' variance (measured on simulated
    #: images).
    model_error: float = 0.006
    #: The same as a fraction of the gain (measured on simulated images).
    gain_model_error: float = 0.03
    #: Error of the variances of readout noise and streaks caused by displaced rows, as a fraction of the variance that
    #: displacements had added (measured by benchmarks/calibration.py --only parts).
    displaced_error: float = 0.1
    #: Scatter of the length of streaks over that of a Gaussian process; that of the correlation is its square (measured
    #: on simulated images).
    excess_scatter: float = 1.15


CONSTANTS = _Constants()
#: Fraction of the scatter of an estimate by which it misses the noise realised in the same image (derived).
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
        ``(I_true - level) / contrast``, columns bright.
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
    noise = NoiseDifferences.of(residual, valid, DisplacedSlope.of(slope, along_x), DisplacedSlope.of(slope_y, along_y))
    if noise is None:
        return NoiseComponents()
    covariance = covariance_without_displacements(noise)
    displaced = noise.x.variance + noise.y.variance
    fit = fit_lag_covariance(noise.lags, covariance.covariance, covariance.pairs, n_x, displaced)
    line = fit_variance_line(noise, signal, covariance, fit.covariance)
    return _assembled(noise.lags, covariance, fit, line, CONSTANTS.displaced_error * displaced)


def _assembled(
    lags: NDArray, row_covariance: RowCovariance, fit: LagCovarianceFit, line: VarianceLine, displaced: float
) -> NoiseComponents:
    """The numbers and their errors; ``displaced`` is the error of a variance caused by displaced rows."""
    model, std = fit.covariance, fit.std
    least = max(math.sqrt(math.hypot(std.pointwise, displaced)), 1e-150)
    at_mean = np.nan_to_num(line.mean_signal * line.gain_std)
    readout_std = math.hypot(std.pointwise * SAMPLING, at_mean, displaced) / (2 * max(line.readout, least))
    excess = CONSTANTS.excess_scatter
    return NoiseComponents(
        readout=line.readout,
        gain=line.gain,
        correlation_x=model.correlation,
        streaks=math.sqrt(model.streaks),
        streak_length=model.length if model.streaks else NoiseComponents.streak_length,
        short_streaks=math.sqrt(model.short),
        short_length=model.short_length,
        residual_jitter=math.sqrt(row_covariance.variance[0]),
        residual_jitter_y=math.sqrt(row_covariance.variance[1]),
        signal=line.curve.signal,
        variance=line.curve.variance,
        count=line.curve.count,
        lag=lags,
        covariance=row_covariance.covariance,
        fitted=model.at(lags),
        std={
            "readout": math.hypot(readout_std, CONSTANTS.model_error * line.readout),
            "gain": math.hypot(line.gain_std, CONSTANTS.gain_model_error * line.gain),
            "correlation_x": excess**2 * std.correlation * SAMPLING,
            "streaks": _amplitude_std(model.streaks, std.streaks, displaced),
            "streak_length": excess * std.length if model.streaks else math.nan,
            "short_streaks": _amplitude_std(model.short, std.short, displaced),
            "short_length": excess * std.short_length if model.short else math.nan,
            "residual_jitter^2": row_covariance.std[0],
            "residual_jitter_y^2": row_covariance.std[1],
        },
    )


def _amplitude_std(variance: float, scatter: float, displaced: float) -> float:
    """Standard deviation of the square root of a variance that has the standard deviation ``scatter``, and an error of
    ``displaced`` by displaced rows.
    """
    own = math.hypot(scatter * SAMPLING, displaced)
    return math.hypot(own, CONSTANTS.model_error * variance) / (
        2 * max(math.sqrt(variance), math.sqrt(own) / 2, 1e-150)
    )
