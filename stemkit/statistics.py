"""Robust statistics, spacings of positions, and the width and row correlation of structures in an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = [
    "STD_PER_MAD",
    "finite_median",
    "gaussian_width",
    "median_spacing",
    "nearest_distances",
    "robust_rms",
    "robust_std",
    "row_correlation",
]

#: Standard deviation of a normal distribution over its median absolute deviation (derived).
STD_PER_MAD = 1.4826
#: Limits of the width of columns, px (chosen).
WIDTHS = (1.0, 12.0)
#: Largest correlation of neighbouring pixels along the row (chosen: variances remain finite).
MAX_CORRELATION = 0.8


def robust_std(values: NDArray, axis: int | None = None) -> NDArray[np.float64]:
    """Standard deviation of normally distributed values from their median absolute deviation, without NaN."""
    # scipy.stats.median_abs_deviation(nan_policy="omit") loops over the rows
    median = np.nanmedian(values, axis=axis, keepdims=True)
    return STD_PER_MAD * np.nanmedian(np.abs(values - median), axis=axis)


def robust_rms(values: NDArray) -> float:
    """Standard deviation of normally distributed values about zero from their median absolute value."""
    return STD_PER_MAD * float(np.median(np.abs(values)))


def finite_median(values: NDArray, default: float = float("nan")) -> float:
    """Median of the finite values; ``default`` if there are none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else default


def nearest_distances(positions: NDArray) -> NDArray[np.float64]:
    """Distance from each position ``(n, 2)`` to its nearest neighbour; empty for fewer than two."""
    if len(positions) < 2:
        return np.empty(0)
    return cKDTree(positions).query(positions, k=2)[0][:, 1]


def median_spacing(positions: NDArray, default: float = float("nan")) -> float:
    """Median distance of nearest positions ``(n, 2)``; ``default`` for fewer than two."""
    return float(np.median(nearest_distances(positions))) if len(positions) > 1 else default


def gaussian_width(image: NDArray) -> float:
    """Width of a Gaussian whose power and slopes are those of an image, px: ``sqrt(var(I) / mean(|grad I|^2))``.

    A Gaussian of width s has the mean square ``pi s^2`` and the mean squared gradient ``pi``.
    """
    slopes = sum(float(np.mean(slope**2)) for slope in np.gradient(image))
    return float(np.clip(np.sqrt(np.var(image) / slopes), *WIDTHS)) if slopes else WIDTHS[0]


def row_correlation(noise: NDArray) -> float:
    """Correlation of neighbouring pixels of a row, less that between rows, which is due to the specimen."""
    power = float(np.mean(noise**2)) or 1.0
    along, across = (float(np.mean(a * b)) for a, b in ((noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1])))
    return float(np.clip((along - max(across, 0.0)) / power, -MAX_CORRELATION, MAX_CORRELATION))
