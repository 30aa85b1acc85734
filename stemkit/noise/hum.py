"""The hum within the rows: its phase goes on while a row is scanned, which decides between periods that rows alone do
not distinguish.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stemkit.noise.displacements import FALSE_ALARM, FALSE_AMPLITUDE, RowParts
from stemkit.noise.posterior import RowPosterior
from stemkit.noise.readings import Readings

__all__ = ["along_rows", "level_bands"]

#: Highest frequency of a hum, cycles per row (chosen: the mean over a row keeps 0.3 of its amplitude).
HIGHEST = 0.76
#: A frequency within this fraction of that of level rows of columns is the lattice's (chosen).
LIKE_THE_LATTICE = 0.1
#: Rows of columns are level where their phase changes by less than this along a row, cycles (chosen).
LEVEL = 3.0


def along_rows(
    readings: Sequence[Readings], posteriors: Sequence[RowPosterior], parts: Sequence[RowParts], row_length: int
) -> list[RowParts]:
    """Amplitude, phase and period of the hum, fitted to the readings of all columns.

    Parameters
    ----------
    readings : sequence of Readings
        Per axis.
    posteriors : sequence of RowPosterior
        Of the other parts.
    parts : sequence of RowParts
        As the rows give them: hum with a frequency up to half a cycle per row.
    row_length : int
        Pixels of a row.

    Notes
    -----
    A hum is ``a cos(2 pi f t) + b sin(2 pi f t)`` at the time ``t = y + x / n_x`` in rows, without any time for the
    return of the beam. The amplitudes are those of generalised least squares, with the covariance of noise, jitter and
    drift, and the columns' own parameters left free; the frequency is that alias whose likelihood is the largest.
    """
    if not any(p.hum for p in parts):
        return list(parts)
    frequency = next(p.hum_frequency for p in parts if p.hum)
    chosen, fits = frequency, None
    # rows alone do not distinguish the frequencies f and 1 - f
    for alias in (frequency, 1 - frequency):
        if alias > HIGHEST:
            continue
        one = [
            _fitted(r, q, alias, row_length) if p.hum else None
            for r, q, p in zip(readings, posteriors, parts, strict=True)
        ]
        if fits is None or _gain(one) > _gain(fits):
            chosen, fits = alias, one
    fits = [fit if fit is not None and fit[2] > stats.chi2.isf(FALSE_AMPLITUDE, 2) else None for fit in fits or []]
    kept = [fit for fit in fits if fit is not None]
    n_rows = len(posteriors[0].values)
    if n_rows / 2 * stats.chi2.sf(_gain(fits), 2 * max(len(kept), 1)) > FALSE_ALARM:
        fits = [None] * len(parts)
    return [_without_hum(p) if fit is None else _with_hum(p, fit, chosen) for p, fit in zip(parts, fits, strict=True)]


_Fit = tuple[NDArray[np.float64], NDArray[np.float64], float]


def _gain(fits: Sequence[_Fit | None]) -> float:
    return sum(fit[2] for fit in fits if fit is not None)


def _without_hum(parts: RowParts) -> RowParts:
    std = {name: value for name, value in parts.std.items() if name != "hum_frequency"}
    return replace(parts, hum=0.0, hum_frequency=math.nan, phase=(0.0, 0.0), std=std)


def _with_hum(parts: RowParts, fit: _Fit, frequency: float) -> RowParts:
    wave, covariance, _ = fit
    hum = float(np.hypot(*wave))
    std = {**parts.std, "hum": math.sqrt(float(wave @ covariance @ wave)) / max(hum, 1e-300)}
    return replace(parts, hum=hum, hum_frequency=frequency, phase=(float(wave[0]), float(wave[1])), std=std)


def _fitted(readings: Readings, posterior: RowPosterior, frequency: float, row_length: int) -> _Fit:
    """Amplitudes of cosine and sine, their covariance, and twice the gain of the log-likelihood."""
    w = readings.weight
    angle = 2 * np.pi * frequency * (np.arange(w.shape[1]) + readings.x[:, None] / row_length)
    waves = [np.cos(angle), np.sin(angle)]
    free = [_freed(readings, wave) for wave in (*waves, readings.shift)]
    along = posterior.vectors.T @ np.stack([one.sum(0) for one in free], axis=1)
    explained = along.T @ posterior.covariance_times(along)
    products = np.array([[float((a * b).sum()) for b in (*waves, readings.shift)] for a in free[:2]])
    whole = products - explained[:2]
    covariance = np.linalg.pinv(whole[:, :2], hermitian=True)
    wave = covariance @ whole[:, 2]
    return wave, covariance, float(wave @ whole[:, 2])


def _freed(readings: Readings, values: NDArray) -> NDArray[np.float64]:
    """Weighted values without what the columns' own parameters hold."""
    out = readings.weight * values
    for mode, weighted in zip(readings.modes, readings.weighted_modes(), strict=True):
        out = out - weighted * (mode * readings.weight * values).sum(1, keepdims=True)
    return out


def level_bands(vectors: NDArray | None, n_x: int) -> NDArray[np.float64]:
    """Ranges of the frequency ``(n_bands, 2)``, cycles per row, in which rows of columns follow each other.

    What a model of columns leaves comes periodically, too: a reciprocal vector along y has that frequency.
    """
    if vectors is None:
        return np.empty((0, 2))
    h = np.arange(-1, 2)
    reciprocal = np.stack(np.meshgrid(h, h), axis=-1).reshape(-1, 2) @ np.linalg.inv(vectors).T
    level = np.abs(reciprocal[:, 1]) * n_x < LEVEL
    frequency = np.unique(np.abs(reciprocal[level, 0]))
    frequency = frequency[frequency > 0][:, None]
    return np.hstack([(1 - LIKE_THE_LATTICE) * frequency, (1 + LIKE_THE_LATTICE) * frequency])
