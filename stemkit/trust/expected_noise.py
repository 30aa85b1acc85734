"""Noise that is expected in the residual of an enhanced image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stemkit.columns import LinearVariance
from stemkit.filters import wide_gaussian
from stemkit.images.mode import mode_sign
from stemkit.noise import NoiseModel
from stemkit.statistics import gaussian_width, row_correlation

__all__ = ["ExpectedNoise", "column_width"]

#: Sigma of the Gaussian filter that yields the background in the measurement of the width, px (chosen).
BACKGROUND_SIGMA = 16.0
#: Least variance of the noise of a pixel, as a fraction of the mean (chosen: keeps weights finite).
MIN_VARIANCE = 0.05
#: Least variance of the noise, as a fraction of the squared range of the image (chosen: an image without noise).
MIN_RELATIVE_VARIANCE = 1e-12
#: Standard errors from which the variance depends on the intensity (chosen).
SIGNIFICANCE = 3.0


@dataclass(frozen=True, eq=False)
class ExpectedNoise:
    """Noise of a residual, in the units of the image, columns bright; without the displacement of rows.

    Parameters
    ----------
    variance : ndarray of shape (n_y, n_x)
        Variance of the pointwise noise.
    line : LinearVariance
        This variance as a function of the intensity of the enhanced image.
    range : (float, float)
        Intensities between which ``line`` is valid; the variance is constant beyond.
    correlation_x : float
        Correlation of neighbouring pixels along the row.
    streaks : tuple of (float, float)
        Variance, and length along the row in px, of each kind of streaks.
    background : (float, float)
        Variance of the background, and its length in px.
    skewness : float
        Skewness of the pointwise noise whose variance is constant; otherwise the noise has that of counted electrons.
    calibrated : bool
        Whether the noise is that of a noise model; otherwise it was measured in the residual itself.
    """

    variance: NDArray[np.float64]
    line: LinearVariance
    range: tuple[float, float]
    correlation_x: float
    streaks: tuple[tuple[float, float], ...] = ()
    background: tuple[float, float] = (0.0, 1.0)
    skewness: float = 0.0
    calibrated: bool = False

    @classmethod
    def from_model(cls, model: NoiseModel, enhanced: NDArray) -> Self:
        """The noise that a model expects for an enhanced image, columns bright."""
        unit, scan = model.contrast**2, model.scan
        slope = model.pointwise.gain * model.contrast
        constant = model.pointwise.readout**2 * unit - slope * mode_sign(model.mode) * model.level
        mean = constant + slope * float(enhanced.mean())
        line = LinearVariance(constant, slope, max(MIN_VARIANCE * mean, MIN_RELATIVE_VARIANCE * unit))
        streaks = ((scan.amplitude, scan.length), (scan.short_amplitude, scan.short_length))
        return cls(
            line(enhanced),
            line,
            (float(enhanced.min()), float(enhanced.max())),
            model.pointwise.correlation_x,
            tuple((amplitude**2 * unit, length) for amplitude, length in streaks if amplitude > 0),
            (model.background.amplitude**2 * unit, model.background.length),
            calibrated=True,
        )

    @classmethod
    def from_residual(cls, residual: NDArray, enhanced: NDArray) -> Self:
        """The noise as measured in the residual itself.

        Notes
        -----
        The squares of the residual are fitted by ``a + b s + c (dI/dx)^2 + d (dI/dy)^2``: a straight line in the signal
        s, as for counted electrons, plus the mean squares c and d of the displacements of rows, which are not part of
        the result.
        """
        signal = enhanced - enhanced.mean()
        parts = [np.ones_like(enhanced), signal, *(slope**2 for slope in np.gradient(enhanced))]
        squares = residual**2
        a, b = _regression(squares, parts)[:2]
        if b**2 * float(np.vdot(signal, signal)) < SIGNIFICANCE**2 * float(squares.var()):
            a, b = float(squares.mean()), 0.0
        floor = max(MIN_VARIANCE * float(squares.mean()), MIN_RELATIVE_VARIANCE * float(np.ptp(enhanced)) ** 2, 1e-300)
        line = LinearVariance(float(a - b * enhanced.mean()), float(b), floor)
        variance = line(enhanced)
        scaled = residual / np.sqrt(variance)
        return cls(
            variance,
            line,
            (float(enhanced.min()), float(enhanced.max())),
            row_correlation(scaled),
            skewness=float(stats.skew(scaled, axis=None)),
        )

    def skewness_at(self, intensity: NDArray) -> NDArray[np.float64]:
        """Skewness of the pointwise noise at an intensity: ``g / sqrt(v)`` for counts of gain g and variance v."""
        gain = self.line.slope
        return gain / np.sqrt(self.variance_at(intensity)) if gain else np.full(np.shape(intensity), self.skewness)

    def variance_at(self, intensity: NDArray) -> NDArray[np.float64]:
        """Variance of the pointwise noise at an intensity, columns bright."""
        return self.line(np.clip(intensity, *self.range))


def column_width(image: NDArray) -> float:
    """Width of the columns of an image without its slow variation, px."""
    return gaussian_width(image - wide_gaussian(image, BACKGROUND_SIGMA))


def _regression(target: NDArray, parts: list[NDArray]) -> NDArray[np.float64]:
    """Least squares of an image by others; parts after the second with negative coefficients are left out."""
    used = list(range(len(parts)))
    while True:
        matrix = np.array([[float(np.vdot(parts[i], parts[j])) for j in used] for i in used])
        scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
        right = np.array([float(np.vdot(parts[i], target)) for i in used])
        solved = np.linalg.lstsq(matrix / np.outer(scale, scale), right / scale, rcond=1e-10)[0] / scale
        negative = [i for i, value in zip(used, solved, strict=True) if i > 1 and value < 0]
        if not negative:
            return np.asarray(solved)
        used.remove(negative[0])
