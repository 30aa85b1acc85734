"""Jitter, drift and hum of the rows from the spectrum of their displacements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize, stats

from stemkit.noise.constants import TINY
from stemkit.noise.displacement_parts import DisplacementParts, SineFit
from stemkit.noise.spectrum import RowSpectrum, drift_spectrum, in_bands

__all__ = [
    "FALSE_ALARM",
    "FALSE_ALARM_ONE_AXIS",
    "VARIANCE_ERROR",
    "fit_displacement_spectra",
]

#: Probability of a drift or a hum where there is none, for each image (chosen).
FALSE_ALARM = 1e-3
#: The same for the hum along one axis, where the period is known from both (chosen).
FALSE_ALARM_ONE_AXIS = 1e-2
#: Relative standard deviation of the variance of an estimated displacement (tuned on simulated images).
VARIANCE_ERROR = 0.1


@dataclass(frozen=True)
class _Constants:
    """Constants of the fit."""

    #: Correlation lengths of the drift that are tried first, rows (chosen: about a factor of ``drift_step`` apart).
    drift_rows: tuple[float, ...] = (1.0, 1.6, 2.6, 4.2, 6.7, 11.0, 17.0, 28.0, 45.0)
    #: Ratio of neighbouring lengths of ``drift_rows`` (chosen).
    drift_step: float = 1.6
    #: Longest correlation length of the drift, as a fraction of the number of rows (chosen).
    longest_drift: float = 0.12
    #: Correlation lengths that are independent of each other in the search for drift (measured: without drift, the
    #: largest gain of the likelihood is distributed like that of this number of trials with one degree of freedom).
    lengths_tried: float = 2.0
    #: Frequencies at which a hum is sought, per independent frequency (chosen: loses at most 3 % of its power).
    oversampling: int = 4
    #: A hum is sought above this many independent frequencies: below is drift (chosen).
    min_hum_index: int = 4
    #: Neither drift nor hum is stated where the ordinates differ from the model by more standard deviations than this
    #: (chosen): rows of columns that are displaced in the specimen are no drift.
    max_goodness_of_fit: float = 5.0
    #: Correlation length, rows, for which the error of a drift is stated where there is none (chosen).
    typical_rows: float = 4.0
    #: Frequency, cycles per row, for which the error of a hum is stated where there is none (chosen).
    typical_frequency: float = 0.2
    #: Iterations of the reweighted least squares (chosen).
    iterations: int = 8
    #: Rounds of the search for a hum and of the fit without it (chosen).
    rounds: int = 2


CONSTANTS = _Constants()
#: Mean of ``x - log x`` for the square x of a normal number of unit variance (derived).
FIT_MEAN = 2.270
#: Variance of the same (derived).
FIT_VARIANCE = 2.935


def fit_displacement_spectra(
    spectra: Sequence[RowSpectrum], excluded: NDArray | None = None, *, min_frequency: float = 0.0
) -> list[DisplacementParts]:
    """Jitter, drift and hum along each axis; the axes share the correlation length and the period.

    Parameters
    ----------
    spectra : sequence of RowSpectrum
        One per axis, all of the same rows.
    excluded : ndarray of shape (n_bands, 2), optional
        Ranges of the frequency, cycles per row, in which displacements are not distinguished from the specimen: those
        of the lattice, with whose period the columns' model leaves residuals. No hum is sought there, and the ordinates
        do not contribute to the variances.
    min_frequency : float
        Ordinates below this frequency, cycles per row, do not count: there the specimen's strain is not distinguished
        from displacements of the rows.

    Returns
    -------
    list of DisplacementParts

    Notes
    -----
    Ordinates z are normal about the hum with the variances ``v = s noise + window (jitter^2 + drift^2 G)``. Here s is
    the fitted factor of the stated variance ``noise`` of the ordinates, ``window`` the matrix by which the spectrum of
    the displacements contributes to the ordinates (:class:`stemkit.noise.spectrum.RowSpectrum`), and G the spectrum of
    a drift of unit variance.

    For each correlation length, ``sum(log v + z^2 / v)`` is minimised by iteratively reweighted least squares. This is
    a Whittle likelihood (Whittle 1953, doi:10.1007/BF02590998) with the window of the estimates.

    Drift is kept where twice the gain of the log-likelihood exceeds a quantile of chi squared, which an image without
    drift exceeds with the probability ``FALSE_ALARM``, with as many trials as there are independent correlation
    lengths. A hum is kept where its power in these units exceeds the quantile for ``n_y / 2`` independent frequencies.
    """
    axes = [_Axis.of(s.above(min_frequency), excluded) for s in spectra]
    drift_rows = _fit_variances(axes, min_frequency)
    frequency = math.nan
    for _ in range(CONSTANTS.rounds):
        frequency = _find_hum(axes, excluded, min_frequency)
        if math.isnan(frequency):
            break
        for axis in axes:
            axis.power = (axis.spectrum.ordinate - axis.hum) ** 2
        drift_rows = _fit_variances(axes, min_frequency)
    return [_parts(axis, drift_rows, frequency) for axis in axes]


@dataclass(frozen=True)
class _Variances:
    """Variances of noise (over the stated one), jitter and, if it is fitted, drift, and minus twice the
    log-likelihood.
    """

    values: NDArray[np.float64]
    cost: float

    @property
    def drift(self) -> float:
        """Variance of the drift, px squared."""
        return float(self.values[2]) if len(self.values) == 3 else 0.0


@dataclass
class _Axis:
    """One axis in the fit: its spectrum, which ordinates the variances are fitted to, the power without the hum, the
    hum's ordinates, and the fitted variances.
    """

    spectrum: RowSpectrum
    counted: NDArray[np.bool_]
    power: NDArray[np.float64]
    hum: NDArray[np.float64]
    fitted: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    variances: _Variances = field(default_factory=lambda: _Variances(np.array([1.0, 0.0]), math.inf))

    @classmethod
    def of(cls, spectrum: RowSpectrum, excluded: NDArray | None) -> _Axis:
        """Without hum; ordinates in the excluded ranges are not counted."""
        counted = ~in_bands(spectrum.frequency, excluded)
        return cls(spectrum, counted, spectrum.ordinate**2, np.zeros(len(spectrum.ordinate)))

    def windowed(self, spectrum: NDArray | None) -> NDArray[np.float64] | None:
        """Variance of each ordinate for a spectrum of the displacements."""
        return None if spectrum is None else self.spectrum.window @ spectrum

    def design(self, drift: NDArray | None) -> NDArray[np.float64]:
        """Variance of each ordinate for unit variances of noise, jitter and drift (of this windowed spectrum)."""
        columns = [self.spectrum.noise, self.spectrum.window.sum(1)]
        return np.stack(columns if drift is None else [*columns, drift], axis=1)


# --- variances of jitter and drift -------------------------------------------------------------------------------


def _fit_variances(axes: list[_Axis], min_frequency: float) -> float:
    """Fit each axis (``fitted``, ``variances``); the result is the correlation length of the drift, NaN without it."""
    n = axes[0].spectrum.n_rows
    spectra = {rows: drift_spectrum(n, rows) for rows in _first_drift_rows(n, min_frequency)}
    without = [_fit(axis, None) for axis in axes]
    costs = np.array([[_fit(axis, axis.windowed(one)).cost for one in spectra.values()] for axis in axes])
    gains = np.array([one.cost for one in without])[:, None] - costs
    drifting = [i for i, gain in enumerate(gains) if gain.max() > _least_gain(1)]
    if gains.sum(0).max() > _least_gain(len(axes)):
        drifting = list(range(len(axes)))
    drift_rows = math.nan
    if drifting:
        first = list(spectra)[int(np.argmax(gains[drifting].sum(0)))]
        drift_rows = _best_drift_rows([axes[i] for i in drifting], first)
    kept = False
    for i, axis in enumerate(axes):
        drift = axis.windowed(drift_spectrum(n, drift_rows)) if i in drifting else None
        found = without[i] if drift is None else _fit(axis, drift)
        if drift is not None and without[i].cost - found.cost <= _least_gain(1):
            found, drift = without[i], None
        axis.variances, axis.fitted = found, axis.design(drift) @ found.values
        kept |= drift is not None
    return drift_rows if kept else math.nan


def _first_drift_rows(n: int, min_frequency: float) -> list[float]:
    """Correlation lengths that are tried first, rows."""
    shortest = CONSTANTS.drift_rows[0]
    longest = max(CONSTANTS.longest_drift * n, shortest)
    if min_frequency:
        # the standard deviation of the frequency of the drift's power is 1 / (sqrt(8) pi rows)
        longest = max(min(longest, 1 / (math.sqrt(8) * math.pi * min_frequency)), shortest)
    return [rows for rows in CONSTANTS.drift_rows if rows <= longest]


def _best_drift_rows(axes: list[_Axis], first: float) -> float:
    """Correlation length with the largest likelihood near one of those tried first."""
    n = axes[0].spectrum.n_rows
    found = optimize.minimize_scalar(
        lambda log_rows: sum(_fit(axis, axis.windowed(drift_spectrum(n, math.exp(log_rows)))).cost for axis in axes),
        bounds=(math.log(first / CONSTANTS.drift_step), math.log(first * CONSTANTS.drift_step)),
        method="bounded",
        options={"xatol": 0.03},
    )
    return math.exp(found.x)


def _least_gain(n_axes: int) -> float:
    """Threshold of twice the log-likelihood gain that an image without drift exceeds with probability FALSE_ALARM."""
    return float(stats.chi2.isf(FALSE_ALARM / CONSTANTS.lengths_tried, n_axes))


def _fit(axis: _Axis, drift: NDArray | None) -> _Variances:
    """Reweighted least squares with variances that are not negative; ``drift`` is a windowed spectrum."""
    design, power = axis.design(drift)[axis.counted], axis.power[axis.counted]
    variances = np.zeros(design.shape[1])
    variances[0] = 1.0
    excess = max(float((power - design[:, 0]).sum()), 0.0)
    variances[1:] = excess / (design.shape[1] - 1) / np.maximum(design[:, 1:].sum(0), TINY)
    floor = 1e-6 * max(float(power.mean()), TINY)
    best, lowest = variances, math.inf
    for _ in range(CONSTANTS.iterations):
        ordinate_variance = np.maximum(design @ variances, floor)
        cost = (
            float((np.log(ordinate_variance) + power / ordinate_variance).sum())
            + ((variances[0] - 1) / VARIANCE_ERROR) ** 2
        )
        if cost > lowest - 1e-3:
            break
        best, lowest = variances, cost
        scaled = design / ordinate_variance[:, None]
        # half of the scores' information is that of a variance
        information = scaled.T @ scaled / 2
        score = scaled.T @ (power / ordinate_variance) / 2
        information[0, 0] += VARIANCE_ERROR**-2.0
        score[0] += VARIANCE_ERROR**-2.0
        variances = _non_negative_minimum(information, score)
    return _Variances(best, lowest)


def _non_negative_minimum(information: NDArray, score: NDArray) -> NDArray[np.float64]:
    """Minimum of ``w^T information w / 2 - w^T score`` over w that are not negative."""
    scale = 1 / np.sqrt(np.maximum(np.diag(information), TINY))
    root = np.linalg.cholesky(information * scale * scale[:, None] + 1e-9 * np.eye(len(information)))
    return optimize.nnls(root.T, np.linalg.solve(root, score * scale))[0] * scale


def _goodness_of_fit(axis: _Axis) -> float:
    """Misfit of the ordinates to their variances, relative to that of normal numbers, in its standard deviations."""
    ratio = np.maximum(axis.power / axis.fitted, 1e-12)[axis.counted]
    return float((ratio - np.log(ratio) - FIT_MEAN).sum() / math.sqrt(FIT_VARIANCE * len(ratio)))


# --- hum ---------------------------------------------------------------------------------------------------------


def _find_hum(axes: list[_Axis], excluded: NDArray | None, min_frequency: float) -> float:
    """Frequency of a hum that all axes share, NaN without one; ``hum`` of each axis is set to its ordinates."""
    for axis in axes:
        axis.hum = np.zeros(len(axis.power))
    n = axes[0].spectrum.n_rows
    grid = np.arange(1, CONSTANTS.oversampling * n // 2) / (CONSTANTS.oversampling * n)
    allowed = (grid > max(min_frequency, CONSTANTS.min_hum_index / (2 * n))) & ~in_bands(grid, excluded)
    if not allowed.any():
        return math.nan
    power = np.sum([_hum_power(axis, grid) for axis in axes], axis=0)
    at = int(np.argmax(np.where(allowed, power, 0.0)))
    if n / 2 * stats.chi2.sf(power[at], 2 * len(axes)) > FALSE_ALARM:
        return math.nan
    found = optimize.minimize_scalar(
        lambda f: -sum(_fit_sine(axis, f).gain for axis in axes),
        bounds=(grid[at] - grid[0], grid[at] + grid[0]),
        method="bounded",
        options={"xatol": 1e-3 / n},
    )
    frequency = float(found.x)
    for axis in axes:
        sine = _fit_sine(axis, frequency)
        if sine.gain > stats.chi2.isf(FALSE_ALARM_ONE_AXIS, 2):
            axis.hum = _waves(axis.spectrum, frequency) @ sine.amplitudes
    return frequency


def _hum_power(axis: _Axis, grid: NDArray) -> NDArray[np.float64]:
    """Twice the gain of the log-likelihood by a hum at each frequency, cosine and sine assumed to be orthogonal."""
    n = axis.spectrum.n_rows
    size = CONSTANTS.oversampling * n
    whitened = axis.spectrum.response / np.sqrt(axis.fitted)[:, None]
    top = np.abs(fft.rfft(whitened.T @ (axis.spectrum.ordinate / np.sqrt(axis.fitted)), size)) ** 2
    # of the sum over all ordinates only the diagonals count: the autocorrelation of the whitened response
    coarse = (np.abs(fft.rfft(whitened, 2 * n, axis=1)) ** 2).sum(0)
    bottom = np.interp(np.arange(len(top)) / size, np.arange(len(coarse)) / (2 * n), coarse)
    return (2 * top / np.maximum(bottom, TINY))[1 : len(grid) + 1]


def _waves(spectrum: RowSpectrum, frequency: float) -> NDArray[np.float64]:
    angle = 2 * np.pi * frequency * np.arange(spectrum.n_rows)
    return spectrum.response @ np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _fit_sine(axis: _Axis, frequency: float) -> SineFit:
    waves = _waves(axis.spectrum, frequency)
    weighted = waves / axis.fitted[:, None]
    right = weighted.T @ axis.spectrum.ordinate
    covariance = np.asarray(np.linalg.pinv(waves.T @ weighted), dtype=np.float64)
    amplitudes = covariance @ right
    return SineFit(frequency, amplitudes, covariance, float(amplitudes @ right))


# --- the result --------------------------------------------------------------------------------------------------


def _parts(axis: _Axis, drift_rows: float, frequency: float) -> DisplacementParts:
    """The fitted numbers with their standard deviations; jitter alone where the model does not fit."""
    if _goodness_of_fit(axis) > CONSTANTS.max_goodness_of_fit:
        # errors are those of the fit with drift
        axis.variances, drift_rows, axis.hum = _fit(axis, None), math.nan, np.zeros(len(axis.hum))
    noise, jitter = axis.variances.values[:2]
    drift = axis.variances.drift
    std = _standard_deviations(axis, drift_rows)
    sine = _fit_sine(axis, frequency) if axis.hum.any() else None
    if sine is not None:
        std["hum"] = sine.amplitude_std
        # Rife and Boorstyn 1974, doi:10.1109/TIT.1974.1055282, with the gain n A^2 / (2 variance)
        std["hum_frequency"] = math.sqrt(3 / sine.gain) / (math.pi * axis.spectrum.n_rows)
    else:
        std["hum"] = math.sqrt(float(np.trace(_fit_sine(axis, CONSTANTS.typical_frequency).covariance)) / 2)
    return DisplacementParts(
        jitter=math.sqrt(jitter),
        drift=math.sqrt(drift),
        drift_rows=drift_rows if drift > 0 else math.nan,
        hum=0.0 if sine is None else sine.amplitude,
        hum_frequency=math.nan if sine is None else frequency,
        phase=(0.0, 0.0) if sine is None else sine.phase,
        noise=float(noise),
        std=std,
        fitted=axis.fitted,
    )


def _standard_deviations(axis: _Axis, drift_rows: float) -> dict[str, float]:
    """Standard deviations of the variances and of the correlation length, from the information; without drift that of
    its RMS, if it had a typical length.
    """
    n, drift = axis.spectrum.n_rows, axis.variances.drift
    drift_rows = drift_rows if drift > 0 else CONSTANTS.typical_rows
    columns = dict(
        zip(("noise", "jitter^2", "drift^2"), axis.design(axis.windowed(drift_spectrum(n, drift_rows))).T, strict=True)
    )
    if drift > 0:
        step = 0.02 * drift_rows
        change = drift_spectrum(n, drift_rows + step) - drift_spectrum(n, drift_rows - step)
        columns["drift_rows"] = drift * (axis.spectrum.window @ change) / (2 * step)
    scaled = (np.stack(list(columns.values()), axis=1) / axis.fitted[:, None])[axis.counted]
    information = scaled.T @ scaled / 2
    information[0, 0] += VARIANCE_ERROR**-2.0
    scale = 1 / np.sqrt(np.maximum(np.diag(information), TINY))
    inverse = np.linalg.pinv(information * scale * scale[:, None], hermitian=True) * scale * scale[:, None]
    std = dict(zip(columns, np.sqrt(np.clip(np.diag(inverse), 0.0, None)).tolist(), strict=True))
    return std if drift > 0 else {**std, "drift": math.sqrt(std["drift^2"])}
