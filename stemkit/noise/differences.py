"""Differences across rows: a smooth specimen cancels, noise does not."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIFFERENCE", "robust_deviation", "row_difference"]

#: Fourth difference: cancels a specimen that is cubic across five rows; unit gain for noise of independent rows.
DIFFERENCE = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / math.sqrt(70.0)

#: A median modulus below this part of the 90 % quantile is about 0 (chosen; 0.41 for a normal distribution).
ABOUT_ZERO = 0.02


def row_difference(values: NDArray) -> NDArray[np.float64]:
    """Fourth difference across rows at every row that has two neighbours on both sides: ``(n_y - 4, n_x)``."""
    n = len(values) - 4
    return sum(weight * values[i : i + n] for i, weight in enumerate(DIFFERENCE))


def robust_deviation(difference: NDArray) -> float:
    """Standard deviation of a normal distribution with the median modulus; the RMS where more than half of the
    differences are about 0, as between counts of few electrons.
    """
    if difference.size == 0:
        return 0.0
    median, large = (float(q) for q in np.quantile(np.abs(difference), [0.5, 0.9]))
    return 1.4826 * median if median > ABOUT_ZERO * large else float(np.sqrt((difference**2).mean()))
