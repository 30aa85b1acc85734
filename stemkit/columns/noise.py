"""The noise that residuals of fits are weighted by."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["FitNoise", "Variance"]


@dataclass(frozen=True)
class Variance:
    """Variance of the noise of a pixel, ``max(constant + slope I, floor)`` where the noise-free intensity is I."""

    constant: float
    slope: float = 0.0
    floor: float = 0.0

    def __call__(self, intensity: Tensor) -> Tensor:
        return (self.constant + self.slope * intensity).clamp_min(self.floor)

    def in_units(self, level: float, scale: float) -> Variance:
        """The same of ``(I - level) / scale``."""
        return Variance((self.constant + self.slope * level) / scale**2, self.slope / scale, self.floor / scale**2)


@dataclass(frozen=True)
class FitNoise:
    """The noise that residuals are weighted by; ``variance`` is None where it is unknown. ``streaks`` is the standard
    deviation of the offset that a row has as a whole. ``tilt``, that of the background's slope per px along either
    axis, widens the errors.
    """

    variance: Variance | None = None
    correlation_x: float = 0.0
    streaks: float = 0.0
    tilt: float = 0.0
