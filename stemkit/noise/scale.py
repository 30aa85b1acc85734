"""Contrast and level of an image: amplitude of its brightest columns, and intensity of its background."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits
from stemkit.noise.separation import Separation

__all__ = ["IntensityScale", "measure_scale"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the scale."""

    #: A fitted amplitude A of error e is too large by about this times e^2 / A, since position and width are free
    #: (chosen).
    amplitude_bias: float = 2.5
    #: Largest relative correction of an amplitude (chosen).
    max_correction: float = 0.2
    #: Standard deviation of a median over that of a mean, for normal values (derived).
    median_std: float = 1.25
    #: Columns are equivalent within this fraction of a lattice vector (chosen).
    near: float = 0.2
    #: Fraction of the variance that two sublattices explain (chosen; a normal distribution cut in two explains 0.64).
    two_groups: float = 0.8


CONSTANTS = _Constants()


@dataclass(frozen=True)
class IntensityScale:
    """Contrast and level, columns bright, in units of the image, and their standard deviations."""

    contrast: float
    level: float
    contrast_std: float = math.nan
    level_std: float = math.nan


def measure_scale(separation: Separation) -> IntensityScale:
    """Median amplitude of the brightest sublattice, and median background of the columns.

    Without columns the contrast is a range of quantiles of the smoothed image, and the level its lower end.
    """
    if separation.crystal is None:
        smooth = ndimage.gaussian_filter(separation.residual, max(1.5, 0.6 * separation.width))
        low, high = np.quantile(smooth, [0.05, 0.995])
        return IntensityScale(float(high - low if high > low else 1.0), float(low))
    fits = separation.crystal.complete
    # the fitted position is that of the highest noise
    bias = np.minimum(CONSTANTS.amplitude_bias * (fits.amplitude_err / fits.amplitude) ** 2, CONSTANTS.max_correction)
    amplitude = fits.amplitude * (1 - bias)
    equivalent = _mean_of_equivalents(amplitude, fits, separation.crystal.vectors)
    brightest = amplitude[equivalent >= sublattice_threshold(equivalent)]
    return IntensityScale(
        float(np.median(brightest)),
        float(np.median(fits.background)),
        CONSTANTS.median_std * float(np.std(brightest)) / math.sqrt(len(brightest)),
        CONSTANTS.median_std * float(np.std(fits.background)) / math.sqrt(len(fits)),
    )


def _mean_of_equivalents(amplitude: NDArray, fits: ColumnFits, vectors: NDArray | None) -> NDArray[np.float64]:
    """Mean amplitude of the columns a lattice vector away from each.

    With their own amplitudes noise would blur two sublattices, and select the columns that it makes brighter.
    """
    if vectors is None:
        return amplitude
    positions = fits.positions
    tree = cKDTree(positions)
    total, count = np.zeros(len(amplitude)), np.zeros(len(amplitude))
    for vector in (*vectors, *-vectors):
        distance, index = tree.query(positions + vector)
        found = distance < CONSTANTS.near * np.hypot(*vector)
        total[found] += amplitude[index[found]]
        count[found] += 1
    return np.where(count > 0, total / np.maximum(count, 1), amplitude)


def sublattice_threshold(amplitudes: NDArray) -> float:
    """Otsu's threshold between the amplitudes of two sublattices; the smallest amplitude if there is one sublattice."""
    a = np.sort(amplitudes)
    if len(a) < 8:
        return float(a[0])
    n = np.arange(1, len(a))
    left, total = np.cumsum(a)[:-1], a.sum()
    between = n * (len(a) - n) * (left / n - (total - left) / (len(a) - n)) ** 2 / len(a) ** 2
    best = int(np.argmax(between))
    return float(a[best + 1]) if between[best] > CONSTANTS.two_groups * a.var() and len(a) - best > 3 else float(a[0])
