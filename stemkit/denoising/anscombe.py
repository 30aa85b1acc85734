"""Variance stabilisation of counting noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemkit.images.mode import mode_sign
from stemkit.noise import NoiseModel

__all__ = ["StabilizedCounts", "image_of", "signal_of"]

#: Coefficient of the approximate inverse (derived: reference [1] of :class:`StabilizedCounts`).
ROOT = np.sqrt(1.5)


@dataclass(frozen=True)
class StabilizedCounts:
    r"""The generalised Anscombe transform for noise of variance ``readout^2 + gain * signal``, and its inverse.

    The transform is ``f(z) = 2 / g sqrt(g z + 3 / 8 g^2 + r^2)`` with r the readout and g the gain, both in the units
    of the signal z; the transformed noise has a standard deviation of 1 unless electrons are very few. The inverse maps
    the mean D of the transformed values to the mean signal, since the algebraic inverse of f is biased at low doses:
    ``D^2 / 4 + sqrt(3 / 2) / (4 D) - 11 / (8 D^2) + 5 sqrt(3 / 2) / (8 D^3) - 1 / 8 - r^2 / g^2`` times g [1]_.
    Without gain the transform is ``z / r``.

    Parameters
    ----------
    readout : float
        Standard deviation of the noise where the signal is 0.
    gain : float
        Increase of the variance with the signal; negative in bright field, where columns have fewer electrons.

    References
    ----------
    .. [1] Mäkitalo and Foi, "Optimal inversion of the generalized Anscombe transformation for Poisson-Gaussian noise",
       IEEE Trans. Image Process. 22, 91 (2013), https://doi.org/10.1109/TIP.2012.2202675
    """

    readout: float
    gain: float

    @classmethod
    def from_noise_model(cls, model: NoiseModel) -> StabilizedCounts:
        """Transform for the pointwise noise of ``(image - level) * sign / contrast``."""
        return cls(model.pointwise.readout, model.pointwise.gain)

    @property
    def noise_free(self) -> bool:
        """Whether the variance of the noise is zero."""
        return not self.gain and not self.readout

    def forward(self, signal: NDArray) -> NDArray:
        """Transform a signal to units of the standard deviation of its noise."""
        if not self.gain:
            return signal / (self.readout or 1.0)
        gain = abs(self.gain)
        counted = np.sign(self.gain) * signal
        return np.sign(self.gain) * 2 / gain * np.sqrt(np.maximum(gain * counted + self._offset, 0.0))

    def inverse(self, stabilized: NDArray) -> NDArray:
        """Signal whose transform has this mean."""
        if not self.gain:
            return stabilized * (self.readout or 1.0)
        gain = abs(self.gain)
        # lower bound: the transform of zero counts without readout noise
        mean = np.maximum(np.sign(self.gain) * stabilized, 2 * np.sqrt(0.375))
        powers = mean**2 / 4 + ROOT / (4 * mean) - 11 / (8 * mean**2) + 5 * ROOT / (8 * mean**3) - 0.125
        return np.sign(self.gain) * (gain * powers - self.readout**2 / gain)

    @property
    def _offset(self) -> float:
        return 0.375 * self.gain**2 + self.readout**2


def signal_of(values: NDArray, model: NoiseModel) -> NDArray:
    """Image in units of the contrast above the level, columns bright."""
    return (values.astype(np.float64) - model.level) * (mode_sign(model.mode) / model.contrast)


def image_of(signal: NDArray, model: NoiseModel) -> NDArray:
    """Inverse of :func:`signal_of`."""
    return signal * (mode_sign(model.mode) * model.contrast) + model.level
