"""The displacements of the rows divided into jitter, drift and hum, by their spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize, stats

from stemkit.noise.spectrum import RowSpectrum, slow_spectrum

__all__ = ["NO_PARTS", "RowParts", "fit_parts"]

#: Correlation lengths of the drift that are tried, rows (chosen: a factor of 1.6 apart).
DRIFT_ROWS = (1.0, 1.6, 2.6, 4.2, 6.7, 11.0, 17.0, 28.0, 45.0)
#: Longest correlation length of the drift, as a fraction of the number of rows (chosen).
LONGEST_DRIFT = 0.12
#: Probability of a drift or a hum where there is none, for each image (chosen).
FALSE_ALARM = 1e-3
#: Correlation lengths that are independent of each other in the search for drift (measured: where there is none, the
#: largest gain of the likelihood is distributed like that of this number of trials with one degree of freedom).
LENGTHS_TRIED = 2.0
#: The same as FALSE_ALARM for the hum along one axis, where the period is known from both (chosen).
FALSE_AMPLITUDE = 1e-2
#: Relative standard deviation of the variance of a reading (tuned on simulated images, see registration.DOUBT).
DOUBT = 0.1
#: Frequencies at which a line is sought, per independent frequency (chosen: loses at most 3 % of its power).
OVERSAMPLED = 4
#: A line is sought above this many independent frequencies: below is drift (chosen).
SLOWEST_LINE = 4
#: Neither drift nor hum is stated where the spectrum misses the model by more standard deviations than this (chosen):
#: rows of columns that are displaced in the specimen are no drift.
UNLIKE = 5.0
#: Correlation length in rows and frequency in cycles per row for which the error of a drift or a hum is stated where
#: there is none (chosen).
TYPICAL_ROWS, TYPICAL_FREQUENCY = 4.0, 0.2
#: Rounds of reweighting of the fit, and of the fit without the line that the last round has found.
REWEIGHTED, ROUNDS = 8, 2


@dataclass(frozen=True)
class RowParts:
    """The parts of the displacement of whole rows along one axis, meanings as in :class:`stemkit.ScanNoise`.

    ``jitter`` and ``drift`` are RMS values in px, ``hum`` is an amplitude in px and ``hum_frequency`` is in cycles per
    row. ``noise`` is the variance of the readings over the stated one. ``phase`` are the amplitudes of the hum's cosine
    and sine. ``std`` holds standard deviations by name, among them ``"jitter^2"`` and ``"drift^2"`` of the fitted
    variances. ``fitted`` is the variance of each ordinate of the spectrum.
    """

    jitter: float = 0.0
    drift: float = 0.0
    drift_rows: float = math.nan
    hum: float = 0.0
    hum_frequency: float = math.nan
    phase: tuple[float, float] = (0.0, 0.0)
    noise: float = 1.0
    std: dict[str, float] = field(default_factory=dict)
    fitted: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def without_slow(self) -> RowParts:
        """Neither drift nor hum, with the errors that they would have."""
        std = {**self.std, "drift": self.std.get("drift", math.sqrt(self.std["drift^2"]))}
        return RowParts(self.jitter, noise=self.noise, std=std)

    def line(self, rows: NDArray) -> NDArray[np.float64]:
        """The hum at these rows, px."""
        if not self.hum:
            return np.zeros(np.shape(rows))
        angle = 2 * np.pi * self.hum_frequency * np.asarray(rows)
        return self.phase[0] * np.cos(angle) + self.phase[1] * np.sin(angle)


NO_PARTS = RowParts()


# --- the fit -----------------------------------------------------------------------------------------------------


@dataclass
class _Axis:
    """One axis in the fit: its spectrum without the line, and what has been found so far."""

    spectrum: RowSpectrum
    power: NDArray[np.float64]
    fitted: NDArray[np.float64]
    line: NDArray[np.float64]


def fit_parts(
    spectra: Sequence[RowSpectrum], excluded: NDArray | None = None, *, slowest: float = 0.0
) -> list[RowParts]:
    """Jitter, drift and hum along each axis; the axes share the correlation length and the period.

    Parameters
    ----------
    spectra : sequence of RowSpectrum
        One per axis, all of the same rows.
    excluded : ndarray of shape (n_bands, 2), optional
        Ranges of the frequency in which no line is sought, cycles per row: those of the lattice.
    slowest : float
        Ordinates below this frequency, cycles per row, do not count: there the specimen's strain is not distinguished
        from displacements of the rows.

    Returns
    -------
    list of RowParts

    Notes
    -----
    Ordinates z are normal with the variances ``v = s noise + window (jitter^2 + drift^2 G)``, for the spectrum G of the
    drift, about the line; ``sum(log v + z^2 / v)`` is minimised by iteratively reweighted least squares for each
    correlation length (a Whittle likelihood, Whittle 1953, doi:10.1007/BF02590998, with the window of the readings).
    Drift is kept where twice the gain of the log-likelihood exceeds the quantile of chi squared that no drift would
    exceed once in a thousand images, with as many trials as there are distinct correlation lengths; a line where its
    power in these units does so among ``n_y / 2`` independent frequencies.
    """
    spectra = [s.above(slowest) for s in spectra]
    axes = [_Axis(s, s.ordinate**2, np.empty(0), np.zeros(len(s.ordinate))) for s in spectra]
    slow = _slow_spectra(spectra[0].n_rows, slowest)
    rows, weights = _fit_all(axes, slow)
    frequency = math.nan
    for _ in range(ROUNDS):
        frequency = _line(axes, excluded, slowest)
        if math.isnan(frequency):
            break
        for axis in axes:
            axis.power = (axis.spectrum.ordinate - axis.line) ** 2
        rows, weights = _fit_all(axes, slow)
    return [_parts(axis, weight, rows, frequency) for axis, weight in zip(axes, weights, strict=True)]


def _misfit(axis: _Axis) -> float:
    """How much worse the ordinates fit their variances than normal numbers do, in standard deviations.

    For the square x of a normal number of unit variance, ``x - log x`` has the mean 2.270 and the variance 2.935.
    """
    ratio = np.maximum(axis.power / axis.fitted, 1e-12)
    return float((ratio - np.log(ratio) - 2.270).sum() / math.sqrt(2.935 * len(ratio)))


def _slow_spectra(n: int, slowest: float) -> dict[float, NDArray[np.float64]]:
    """Variances of the cosine transform of a drift of unit variance, by correlation length."""
    longest = max(LONGEST_DRIFT * n, DRIFT_ROWS[0])
    if slowest:
        # the standard deviation of the frequency of the drift's power is 1 / (sqrt(8) pi rows)
        longest = max(min(longest, 1 / (math.sqrt(8) * math.pi * slowest)), DRIFT_ROWS[0])
    tried = [rows for rows in DRIFT_ROWS if rows <= longest]
    return {rows: slow_spectrum(n, rows) for rows in tried}


def _fit_all(axes: list[_Axis], slow: dict[float, NDArray]) -> tuple[float, list[NDArray]]:
    """Correlation length (NaN without drift), and for each axis its noise, jitter and drift (variances)."""
    without = [_amplitudes(axis, None) for axis in axes]
    costs = np.array([[_cost(axis, spectrum) for spectrum in slow.values()] for axis in axes])
    gains = np.array([cost for _, cost in without])[:, None] - costs
    drifting = [axis for axis, gain in zip(axes, gains, strict=True) if gain.max() > _least_gain(1)]
    if gains.sum(0).max() > _least_gain(len(axes)):
        drifting = axes
    if not drifting:
        return _finish(axes, without, [None] * len(axes), math.nan)
    some = [i for i, axis in enumerate(axes) if any(axis is one for one in drifting)]
    best = list(slow)[int(np.argmax(gains[some].sum(0)))]
    n = axes[0].spectrum.n_rows
    found = optimize.minimize_scalar(
        lambda log_rows: sum(_cost(axis, slow_spectrum(n, math.exp(log_rows))) for axis in drifting),
        bounds=(math.log(best / 1.6), math.log(best * 1.6)),
        method="bounded",
        options={"xatol": 0.03},
    )
    rows = math.exp(found.x)
    results = list(without)
    shapes: list[NDArray | None] = [None] * len(axes)
    for i in some:
        shape = axes[i].spectrum.window @ slow_spectrum(n, rows)
        one = _amplitudes(axes[i], shape)
        if without[i][1] - one[1] > _least_gain(1):
            results[i], shapes[i] = one, shape
    if all(shape is None for shape in shapes):
        rows = math.nan
    return _finish(axes, results, shapes, rows)


def _least_gain(n_axes: int) -> float:
    """Twice the gain of the log-likelihood that no drift has once in 1 / FALSE_ALARM images."""
    return float(stats.chi2.isf(FALSE_ALARM / LENGTHS_TRIED, n_axes))


def _cost(axis: _Axis, spectrum: NDArray) -> float:
    return _amplitudes(axis, axis.spectrum.window @ spectrum)[1]


def _finish(
    axes: list[_Axis], results: list[tuple[NDArray, float]], shapes: list[NDArray | None], rows: float
) -> tuple[float, list[NDArray]]:
    weights = []
    for axis, (weight, _), shape in zip(axes, results, shapes, strict=True):
        axis.fitted = _design(axis, shape) @ weight
        weights.append(weight if len(weight) == 3 else np.append(weight, 0.0))
    return rows, weights


def _design(axis: _Axis, shape: NDArray | None) -> NDArray[np.float64]:
    columns = [axis.spectrum.noise, axis.spectrum.window.sum(1)]
    return np.stack(columns if shape is None else [*columns, shape], axis=1)


def _amplitudes(axis: _Axis, shape: NDArray | None) -> tuple[NDArray[np.float64], float]:
    """Variances of noise, jitter and drift (not negative), and the cost: minus twice the log-likelihood."""
    design = _design(axis, shape)
    power = axis.power
    weight = np.zeros(design.shape[1])
    weight[0] = 1.0
    excess = max(float((power - design[:, 0]).sum()), 0.0)
    weight[1:] = excess / (design.shape[1] - 1) / np.maximum(design[:, 1:].sum(0), 1e-300)
    floor = 1e-6 * max(float(power.mean()), 1e-300)
    best, lowest = weight, math.inf
    for _ in range(REWEIGHTED):
        variance = np.maximum(design @ weight, floor)
        cost = float((np.log(variance) + power / variance).sum()) + ((weight[0] - 1) / DOUBT) ** 2
        if cost > lowest - 1e-3:
            break
        best, lowest = weight, cost
        scaled = design / variance[:, None]
        # half of the scores' information is that of a variance
        left = scaled.T @ scaled / 2
        right = scaled.T @ (power / variance) / 2
        left[0, 0] += DOUBT**-2.0
        right[0] += DOUBT**-2.0
        weight = _not_negative(left, right)
    return best, lowest


def _not_negative(left: NDArray, right: NDArray) -> NDArray[np.float64]:
    """Minimum of ``w^T left w / 2 - w^T right`` over w that are not negative."""
    scale = 1 / np.sqrt(np.maximum(np.diag(left), 1e-300))
    root = np.linalg.cholesky(left * scale * scale[:, None] + 1e-9 * np.eye(len(left)))
    return optimize.nnls(root.T, np.linalg.solve(root, right * scale))[0] * scale


# --- the line ----------------------------------------------------------------------------------------------------


def _line(axes: list[_Axis], excluded: NDArray | None, slowest: float) -> float:
    """Frequency of a line that all axes share, NaN without one; ``line`` of each axis is set to its ordinates."""
    for axis in axes:
        axis.line = np.zeros(len(axis.power))
    n = axes[0].spectrum.n_rows
    grid = np.arange(1, OVERSAMPLED * n // 2) / (OVERSAMPLED * n)
    allowed = grid > max(slowest, SLOWEST_LINE / (2 * n))
    for low, high in [] if excluded is None else excluded:
        allowed &= (grid < low) | (grid > high)
    if not allowed.any():
        return math.nan
    power = np.sum([_line_power(axis, grid) for axis in axes], axis=0)
    at = int(np.argmax(np.where(allowed, power, 0.0)))
    if n / 2 * stats.chi2.sf(power[at], 2 * len(axes)) > FALSE_ALARM:
        return math.nan
    step = grid[0]
    frequency = float(
        optimize.minimize_scalar(
            lambda f: -sum(_line_at(axis, f)[1] for axis in axes),
            bounds=(grid[at] - step, grid[at] + step),
            method="bounded",
            options={"xatol": 1e-3 / n},
        ).x
    )
    for axis in axes:
        wave, gain, _ = _line_at(axis, frequency)
        if gain > stats.chi2.isf(FALSE_AMPLITUDE, 2):
            axis.line = _waves(axis.spectrum, frequency) @ wave
    return frequency


def _line_power(axis: _Axis, grid: NDArray) -> NDArray[np.float64]:
    """Twice the gain of the log-likelihood by a line at each frequency, the two phases taken for orthogonal."""
    n = axis.spectrum.n_rows
    size = OVERSAMPLED * n
    whitened = axis.spectrum.response / np.sqrt(axis.fitted)[:, None]
    top = np.abs(fft.rfft(whitened.T @ (axis.spectrum.ordinate / np.sqrt(axis.fitted)), size)) ** 2
    # of the sum over all ordinates only the diagonals count: the autocorrelation of the whitened response
    coarse = (np.abs(fft.rfft(whitened, 2 * n, axis=1)) ** 2).sum(0)
    bottom = np.interp(np.arange(len(top)) / size, np.arange(len(coarse)) / (2 * n), coarse)
    return (2 * top / np.maximum(bottom, 1e-300))[1 : len(grid) + 1]


def _waves(spectrum: RowSpectrum, frequency: float) -> NDArray[np.float64]:
    angle = 2 * np.pi * frequency * np.arange(spectrum.n_rows)
    return spectrum.response @ np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _line_at(axis: _Axis, frequency: float) -> tuple[NDArray, float, NDArray]:
    """Amplitudes of the cosine and the sine, twice the gain of the log-likelihood, and their covariance."""
    waves = _waves(axis.spectrum, frequency)
    weighted = waves / axis.fitted[:, None]
    information = waves.T @ weighted
    right = weighted.T @ axis.spectrum.ordinate
    covariance = np.linalg.pinv(information)
    wave = covariance @ right
    return wave, float(wave @ right), covariance


# --- the result --------------------------------------------------------------------------------------------------


def _parts(axis: _Axis, weight: NDArray, rows: float, frequency: float) -> RowParts:
    if _misfit(axis) > UNLIKE:
        weight, rows, axis.line = np.append(_amplitudes(axis, None)[0], 0.0), math.nan, np.zeros(len(axis.line))
    noise, jitter, drift = weight
    std = _errors(axis, weight, rows)
    wave, hum = np.zeros(2), 0.0
    if axis.line.any():
        wave, gain, covariance = _line_at(axis, frequency)
        hum = float(np.hypot(*wave))
        std["hum"] = math.sqrt(float(wave @ covariance @ wave)) / hum
        # Rife and Boorstyn 1974, doi:10.1109/TIT.1974.1055282, with the gain n A^2 / (2 variance)
        std["hum_frequency"] = math.sqrt(3 / gain) / (math.pi * axis.spectrum.n_rows)
    else:
        std["hum"] = math.sqrt(float(np.trace(_line_at(axis, TYPICAL_FREQUENCY)[2])) / 2)
    return RowParts(
        math.sqrt(jitter),
        math.sqrt(drift),
        rows if drift > 0 else math.nan,
        hum,
        frequency if hum else math.nan,
        (float(wave[0]), float(wave[1])),
        float(noise),
        std,
        axis.fitted,
    )


def _errors(axis: _Axis, weight: NDArray, rows: float) -> dict[str, float]:
    """Standard deviations of the variances and of the correlation length, from the information; without drift that of
    its RMS, if it had a typical length.
    """
    n, window = axis.spectrum.n_rows, axis.spectrum.window
    rows = rows if weight[2] > 0 else TYPICAL_ROWS
    columns = [axis.spectrum.noise, window.sum(1), window @ slow_spectrum(n, rows)]
    names = ["noise", "jitter^2", "drift^2"]
    if weight[2] > 0:
        step = 0.02 * rows
        change = slow_spectrum(n, rows + step) - slow_spectrum(n, rows - step)
        columns.append(weight[2] * (window @ change) / (2 * step))
        names.append("drift_rows")
    scaled = np.stack(columns, axis=1) / axis.fitted[:, None]
    information = scaled.T @ scaled / 2
    information[0, 0] += DOUBT**-2.0
    scale = 1 / np.sqrt(np.maximum(np.diag(information), 1e-300))
    inverse = np.linalg.pinv(information * scale * scale[:, None], hermitian=True) * scale * scale[:, None]
    std = dict(zip(names, np.sqrt(np.clip(np.diag(inverse), 0.0, None)).tolist(), strict=True))
    return std if weight[2] > 0 else {**std, "drift": math.sqrt(std["drift^2"])}
