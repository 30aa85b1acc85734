"""Jitter, drift and hum of a series, measured from the readings of its rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, linalg

from stemkit.noise import ScanNoise
from stemkit.noise.displacement_parts import DisplacementParts
from stemkit.noise.hum import lattice_frequency_bands
from stemkit.noise.spectrum import RowSpectrum, row_spectrum
from stemkit.noise.spectrum_fit import fit_displacement_spectra
from stemkit.series.envelope import mean_spectrum
from stemkit.series.rows import RowReadings, trends_of, without_trends
from stemkit.series.vectors import vectors_of_spectrum

__all__ = ["measured_scan_noise"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the prior."""

    #: Largest number of frames whose rows are used (chosen).
    max_frames: int = 8
    #: Largest number of rows of each frame that are used (chosen: the time grows with the cube of the rows).
    max_rows: int = 512
    #: Least standard deviation of the prior, px (chosen: readings of a row are hardly more accurate).
    min_jitter: float = 0.02
    #: Longest correlation length of the drift, fraction of the rows (tuned on 16 simulated series of 8 frames of 96
    #: rows with a drift of 12 rows: its RMS is right to 5 %, and 12 % too large without this limit).
    longest_drift: float = 0.13
    #: Area of the smallest cell, px^2 (chosen: vectors along one line span less).
    min_cell: float = 8.0


CONSTANTS = _Constants()


def measured_scan_noise(readings: list[RowReadings], n_frames: int, reference: NDArray) -> ScanNoise:
    """Jitter, drift and hum of the frames from the spectrum of the displacements of the rows.

    Parameters
    ----------
    readings : list of RowReadings
        Measured against the average of ``n_frames`` frames, whose displacements have ``1 / n_frames`` of the variance.
    n_frames : int
    reference : ndarray of shape (n_y, n_x)
        The average. The frequencies of its lattice along y are excluded from the search for hum.
    """
    chosen = [readings[int(i)] for i in np.linspace(0, len(readings) - 1, min(len(readings), CONSTANTS.max_frames))]
    n_rows = min(CONSTANTS.max_rows, chosen[0].place.shape[1])
    spectra = []
    for one in chosen:
        rows = one.first(n_rows)
        spectra += [_spectrum(*axis) for axis in zip(without_trends(rows), rows.information, strict=True)]
    parts = fit_displacement_spectra(spectra, _lattice_bands(reference))
    factor = 1 / (1 - 1 / n_frames) if n_frames > 1 else 1.0
    parts = [_of_determined_length(one, n_rows) for one in parts]
    return _scan_noise(parts[0::2], parts[1::2], factor)


def _of_determined_length(parts: DisplacementParts, n_rows: int) -> DisplacementParts:
    """The same with a drift whose length is limited, and whose variance about the trends is unchanged.

    A longer drift cannot be distinguished from the trends: the part of it that they contain is extrapolated from the
    rest, by a factor that increases with the length.
    """
    longest = CONSTANTS.longest_drift * n_rows
    if not parts.drift_rows > longest:
        return parts
    ratio = _without_trends(parts.drift_rows, n_rows) / _without_trends(longest, n_rows)
    return replace(parts, drift=parts.drift * math.sqrt(ratio), drift_rows=longest)


def _without_trends(drift_rows: float, n_rows: int) -> float:
    """Variance of a drift of unit variance about the trends that fit it best."""
    covariance = linalg.toeplitz(ScanNoise(drift=1.0, drift_rows=drift_rows).autocovariance(np.arange(n_rows), "x"))
    trends = trends_of(n_rows)
    rest = np.eye(n_rows) - trends @ np.linalg.pinv(trends)
    return float(np.trace(rest @ covariance @ rest)) / n_rows


def _spectrum(place: NDArray, information: NDArray) -> RowSpectrum:
    """Spectrum of the displacements ``(n_y,)`` of rows from which the trends were subtracted.

    The fit of the trends removes a part of the slow displacements: the spectrum's window and noise are those of the
    residual, so that the drift is not underestimated in frames that are only a few times its length.
    """
    n = len(place)
    raw = row_spectrum(information, np.eye(n), information * place, _variance(place, information))
    trends = trends_of(n)
    weighted = trends * information[:, None]
    inverse = np.linalg.pinv(trends.T @ weighted)
    passed = raw.response @ trends
    response = raw.response - passed @ inverse @ weighted.T
    noise = raw.noise - ((passed @ inverse) * passed).sum(1)
    window = fft.dct(response, axis=1, norm="ortho") ** 2
    spectrum = RowSpectrum(raw.frequency, raw.ordinate, noise, window, response)
    # the trends remove almost all of the first ordinates
    return spectrum.highest(n - trends.shape[1])


def _lattice_bands(image: NDArray) -> NDArray[np.float64]:
    """Ranges of the frequency ``(n_bands, 2)``, cycles per row, of the lattice of an image and of its harmonics."""
    vectors = vectors_of_spectrum(mean_spectrum([image]))
    basis = next(
        (
            np.stack([a, b])
            for i, b in enumerate(vectors)
            for a in vectors[:i]
            if abs(a[0] * b[1] - a[1] * b[0]) > CONSTANTS.min_cell
        ),
        None,
    )
    return lattice_frequency_bands(basis, image.shape[1])


def _variance(place: NDArray, information: NDArray) -> float:
    """Variance of the displacements beyond that of the readings' noise, px squared."""
    seen = information > 0
    if not seen.any():
        return CONSTANTS.min_jitter**2
    noise = 1 / information[seen]
    weight = 1 / noise**2
    return max(float((weight * (place[seen] ** 2 - noise)).sum() / weight.sum()), 0.1 * float(noise.mean()))


def _scan_noise(along_y: list[DisplacementParts], along_x: list[DisplacementParts], factor: float) -> ScanNoise:
    def rms(parts: list[DisplacementParts], name: str) -> float:
        return math.sqrt(factor * float(np.mean([getattr(p, name) ** 2 for p in parts])))

    def first(name: str) -> float:
        return next((v for p in (*along_x, *along_y) if math.isfinite(v := getattr(p, name))), math.nan)

    rows, frequency = first("drift_rows"), first("hum_frequency")
    return ScanNoise(
        jitter=max(rms(along_x, "jitter"), CONSTANTS.min_jitter),
        jitter_y=max(rms(along_y, "jitter"), CONSTANTS.min_jitter),
        drift=rms(along_x, "drift"),
        drift_y=rms(along_y, "drift"),
        drift_rows=rows if math.isfinite(rows) else ScanNoise().drift_rows,
        hum=rms(along_x, "hum"),
        hum_y=rms(along_y, "hum"),
        hum_period=1 / frequency if math.isfinite(frequency) and frequency > 0 else ScanNoise().hum_period,
    )
