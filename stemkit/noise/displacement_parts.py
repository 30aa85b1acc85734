"""Jitter, drift and hum of the rows: the numbers that describe their displacement along one axis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from stemkit.noise.constants import TINY
from stemkit.noise.spectrum import RowSpectrum

__all__ = ["NO_PARTS", "DisplacementParts", "SineFit"]

#: Smallest factor by which the information is divided (chosen): a fitted variance can be 0.
MIN_NOISE_FACTOR = 1e-3


@dataclass(frozen=True)
class DisplacementParts:
    """The parts of the displacement of whole rows along one axis, meanings as in :class:`stemkit.ScanNoise`.

    Parameters
    ----------
    jitter, drift : float
        RMS values, px.
    drift_rows : float
        Correlation length of the drift, rows.
    hum, hum_frequency : float
        Amplitude, px, and frequency, cycles per row.
    phase : (float, float)
        Amplitudes of the hum's cosine and sine, px.
    noise : float
        Variance of the estimated displacements over the stated one.
    std : dict
        Standard deviations by name, among them ``"jitter^2"`` and ``"drift^2"`` of the fitted variances.
    fitted : ndarray of shape (n,)
        Variance of each ordinate of the spectrum, px squared.
    rejected : bool
        Whether there was drift or hum in the spectrum that the columns of a row do not share: it is the specimen's.
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
    rejected: bool = False

    @property
    def noise_factor(self) -> float:
        """``noise``, by which information and scores are divided, at least :data:`MIN_NOISE_FACTOR`."""
        return max(self.noise, MIN_NOISE_FACTOR)

    def jitter_only(self, spectrum: RowSpectrum) -> DisplacementParts:
        """Jitter alone, with the errors that drift and hum would have; ``spectrum`` is the one that was fitted."""
        std = {**self.std, "drift": self.std.get("drift", math.sqrt(self.std["drift^2"]))}
        fitted = self.noise * spectrum.noise + self.jitter**2 * spectrum.window.sum(axis=1)
        return DisplacementParts(self.jitter, noise=self.noise, std=std, fitted=fitted, rejected=True)

    def with_misfit(self, variance: float) -> DisplacementParts:
        """The same with the error of the drift by misfits of columns, which add a variance (px squared) to a row."""
        error = variance / (2 * self.drift) if self.drift else math.sqrt(variance)
        return replace(self, std={**self.std, "drift": math.hypot(self.std["drift"], error)})

    def hum_at(self, rows: NDArray) -> NDArray[np.float64]:
        """The hum at these rows (time in units of a row), px."""
        if not self.hum:
            return np.zeros(np.shape(rows))
        angle = 2 * np.pi * self.hum_frequency * np.asarray(rows)
        return self.phase[0] * np.cos(angle) + self.phase[1] * np.sin(angle)


NO_PARTS = DisplacementParts()


@dataclass(frozen=True)
class SineFit:
    """A hum of known frequency (cycles per row): amplitudes of cosine and sine (px), their covariance matrix, and twice
    the gain of the log-likelihood.
    """

    frequency: float
    amplitudes: NDArray[np.float64]
    covariance: NDArray[np.float64]
    gain: float

    @property
    def amplitude(self) -> float:
        """Amplitude of the hum, px."""
        return float(np.hypot(*self.amplitudes))

    @property
    def amplitude_std(self) -> float:
        """Standard deviation of the amplitude, px."""
        return math.sqrt(float(self.amplitudes @ self.covariance @ self.amplitudes)) / max(self.amplitude, TINY)

    @property
    def phase(self) -> tuple[float, float]:
        """Amplitudes of cosine and sine, px."""
        return float(self.amplitudes[0]), float(self.amplitudes[1])
