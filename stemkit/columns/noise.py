"""Noise models of fits, from which the weights of the residuals follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["FitNoise", "LinearVariance"]

Intensity = TypeVar("Intensity", NDArray[np.float64], Tensor)


@dataclass(frozen=True)
class LinearVariance:
    """Variance of the noise of a pixel, ``max(constant + slope I, floor)`` where I is the true intensity.

    Parameters
    ----------
    constant, floor : float
        Variance at ``I = 0``, and its lower limit, in squares of the unit of the image.
    slope : float
        Increase of the variance with the intensity, in the unit of the image.
    """

    constant: float
    slope: float = 0.0
    floor: float = 0.0

    def __call__(self, intensity: Intensity) -> Intensity:
        """The variance at true intensities."""
        return (self.constant + self.slope * intensity).clip(self.floor)

    def in_units(self, level: float, scale: float) -> LinearVariance:
        """The variance of an image that is transformed to ``(I - level) / scale``."""
        return LinearVariance(
            (self.constant + self.slope * level) / scale**2, self.slope / scale, self.floor / scale**2
        )


@dataclass(frozen=True)
class FitNoise:
    """Noise model of a fit.

    Parameters
    ----------
    variance : LinearVariance or None
        Variance of the noise of a pixel; None: unknown, constant, and estimated from the residuals.
    correlation_x : float
        Correlation of neighbouring pixels along the row.
    streaks : float
        Standard deviation of the offset of each row, in the unit of the image.
    tilt : float
        Standard deviation of the slope of the background along either axis, in the unit of the image per px; it is
        added to the errors.
    """

    variance: LinearVariance | None = None
    correlation_x: float = 0.0
    streaks: float = 0.0
    tilt: float = 0.0
