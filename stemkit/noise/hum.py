"""Fit of the hum to the displacements at all columns: its phase advances along a row, which decides between periods
that the mean displacements of the rows do not distinguish.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stemkit.noise.displacement_parts import DisplacementParts, SineFit
from stemkit.noise.posterior import RowPosterior
from stemkit.noise.shift_estimates import ShiftEstimates
from stemkit.noise.spectrum_fit import FALSE_ALARM, FALSE_ALARM_ONE_AXIS

__all__ = ["fit_hum", "lattice_frequency_bands"]

#: Highest frequency of a hum, cycles per row (chosen: the mean over a row keeps 0.3 of its amplitude).
MAX_FREQUENCY = 0.76
#: A frequency within this fraction of that of the rows of columns is the lattice's (chosen).
LATTICE_BAND = 0.1
#: Harmonics of these frequencies that residuals have (chosen: columns are smooth).
HARMONICS = 3
#: Rows of columns are parallel to the scan lines if their phase changes by less than this along a row, cycles (chosen).
PARALLEL = 3.0


def fit_hum(
    estimates: Sequence[ShiftEstimates],
    posteriors: Sequence[RowPosterior],
    parts: Sequence[DisplacementParts],
    row_length: int,
) -> list[DisplacementParts]:
    """Amplitude, phase and period of the hum, fitted to the displacements at all columns.

    Parameters
    ----------
    estimates : sequence of ShiftEstimates
        One per axis.
    posteriors : sequence of RowPosterior
        Posterior distributions of the other parts, one per axis.
    parts : sequence of DisplacementParts
        One per axis, from the rows' mean displacements: hum with a frequency up to half a cycle per row.
    row_length : int
        Pixels of a row.

    Returns
    -------
    list of DisplacementParts
        Without a hum where it is not significant.

    Notes
    -----
    A hum is ``a cos(2 pi f t) + b sin(2 pi f t)`` at the time ``t = y + x / n_x`` in rows, the flyback of the beam
    neglected. The amplitudes are those of generalised least squares, with the covariance of noise, jitter and drift,
    and the columns' own parameters left free; the frequency is the alias, f or 1 - f, with the larger likelihood.
    """
    if not any(p.hum for p in parts):
        return list(parts)
    lowest = next(p.hum_frequency for p in parts if p.hum)
    candidates = [
        [
            _fit(r, q, frequency, row_length) if p.hum else None
            for r, q, p in zip(estimates, posteriors, parts, strict=True)
        ]
        for frequency in (lowest, 1 - lowest)
        if frequency <= MAX_FREQUENCY
    ]
    best = max(candidates, key=_gain)
    best = [fit if fit and fit.gain > stats.chi2.isf(FALSE_ALARM_ONE_AXIS, 2) else None for fit in best]
    n_rows = len(posteriors[0].eigenvalues)
    n_amplitudes = 2 * max(sum(fit is not None for fit in best), 1)
    if n_rows / 2 * stats.chi2.sf(_gain(best), n_amplitudes) > FALSE_ALARM:
        best = [None] * len(parts)
    return [_without_hum(p) if fit is None else _with_hum(p, fit) for p, fit in zip(parts, best, strict=True)]


def _gain(fits: Sequence[SineFit | None]) -> float:
    return sum(fit.gain for fit in fits if fit is not None)


def _without_hum(parts: DisplacementParts) -> DisplacementParts:
    std = {name: value for name, value in parts.std.items() if name != "hum_frequency"}
    return replace(parts, hum=0.0, hum_frequency=math.nan, phase=(0.0, 0.0), std=std)


def _with_hum(parts: DisplacementParts, fit: SineFit) -> DisplacementParts:
    std = {**parts.std, "hum": fit.amplitude_std}
    return replace(parts, hum=fit.amplitude, hum_frequency=fit.frequency, phase=fit.phase, std=std)


def _fit(estimates: ShiftEstimates, posterior: RowPosterior, frequency: float, row_length: int) -> SineFit:
    """Generalised least squares of cosine and sine of this frequency, cycles per row."""
    time = estimates.row + estimates.x[:, None] / row_length
    angle = 2 * np.pi * frequency * time
    terms = [np.cos(angle), np.sin(angle), estimates.shift]
    free = [estimates.free_of_modes(term) for term in terms]
    along = posterior.eigenvectors.T @ np.stack([estimates.by_row(one) for one in free], axis=1)
    explained = along.T @ posterior.apply_displacement_covariance(along)
    products = np.array([[float((a * b).sum()) for b in terms] for a in free[:2]]) - explained[:2]
    covariance = np.asarray(np.linalg.pinv(products[:, :2], hermitian=True), dtype=np.float64)
    amplitudes = covariance @ products[:, 2]
    return SineFit(frequency, amplitudes, covariance, float(amplitudes @ products[:, 2]))


def lattice_frequency_bands(vectors: NDArray | None, n_x: int) -> NDArray[np.float64]:
    """Ranges of the frequency ``(n_bands, 2)``, cycles per row, at which rows of columns follow each other.

    Residuals of the columns' model have the period of the lattice, too: a reciprocal vector along y has that frequency.
    """
    if vectors is None:
        return np.empty((0, 2))
    h = np.arange(-1, 2)
    reciprocal = np.stack(np.meshgrid(h, h), axis=-1).reshape(-1, 2) @ np.linalg.inv(vectors).T
    parallel = np.abs(reciprocal[:, 1]) * n_x < PARALLEL
    frequency = np.abs(reciprocal[parallel, 0])
    frequency = np.unique(np.outer(np.arange(1, HARMONICS + 1), frequency[frequency > 0]))
    frequency = frequency[frequency < 0.5][:, None]
    lowest = LATTICE_BAND * frequency.min(initial=np.inf)
    return np.hstack([frequency - lowest, frequency + lowest])
