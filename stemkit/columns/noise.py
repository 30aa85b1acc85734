"""The noise that residuals of fits are weighted by."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["FitNoise", "Variance"]


@dataclass(frozen=True)
class Variance:
    """Variance of the noise of a pixel, ``max(constant + slope I, floor)`` where I is the noise-free intensity."""

    constant: float
    slope: float = 0.0
    floor: float = 0.0

    def __call__(self, intensity: Tensor) -> Tensor:
        """The variance at noise-free intensities."""
        return (self.constant + self.slope * intensity).clamp_min(self.floor)

    def in_units(self, level: float, scale: float) -> Variance:
        """The variance of ``(I - level) / scale``."""
        return Variance((self.constant + self.slope * level) / scale**2, self.slope / scale, self.floor / scale**2)


@dataclass(frozen=True)
class FitNoise:
    """Noise model of a fit.

    Parameters
    ----------
    variance : Variance or None
        Variance of the noise of a pixel; None: unknown, constant, and estimated from the residuals.
    correlation_x : float
        Correlation of neighbouring pixels along the row.
    streaks : float
        Standard deviation of the offset of each row.
    tilt : float
        Standard deviation of the slope of the background along either axis, per px; it is added to the errors.
    """

    variance: Variance | None = None
    correlation_x: float = 0.0
    streaks: float = 0.0
    tilt: float = 0.0
