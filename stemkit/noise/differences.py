"""Fourth differences across rows, in which a smooth specimen cancels and noise of independent rows remains."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stemkit.statistics import STD_PER_MAD

__all__ = [
    "DIFFERENCE",
    "ROW_CORRELATION",
    "difference_std",
    "difference_variance",
    "row_difference",
    "rows_without",
]

#: Weights of the fourth difference: a specimen that is cubic across five rows cancels, noise keeps its variance.
DIFFERENCE = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / math.sqrt(70.0)
#: Sum of the squared correlations of the difference's rows (derived): the mean of squares over n rows has the variance
#: of that over ``n / ROW_CORRELATION`` independent rows.
ROW_CORRELATION = float((np.correlate(DIFFERENCE, DIFFERENCE, "full") ** 2).sum())

#: A median absolute value below this fraction of the 90 % quantile is about 0 (chosen; 0.41 for a normal distribution).
ABOUT_ZERO = 0.02


def row_difference(values: NDArray) -> NDArray[np.float64]:
    """Fourth difference across rows at every row that has two neighbours on both sides: ``(n_y - 4, n_x)``."""
    n = len(values) - 4
    return sum(weight * values[i : i + n] for i, weight in enumerate(DIFFERENCE))


def difference_variance(variance: NDArray) -> NDArray[np.float64]:
    """Variance of the fourth difference of noise with this variance ``(n_y, n_x)``, independent between rows."""
    n = len(variance) - 4
    return sum(weight**2 * variance[i : i + n] for i, weight in enumerate(DIFFERENCE))


def rows_without(faulty: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the fourth difference that use no faulty pixel, ``(n_y - 4, n_x)``."""
    n = len(faulty) - 4
    return ~np.logical_or.reduce([faulty[i : i + n] for i in range(len(DIFFERENCE))])


def difference_std(difference: NDArray) -> float:
    """Standard deviation as :func:`~stemkit.statistics.robust_rms`; the RMS where more than half of the differences are
    about 0, as between counts of few electrons.
    """
    if difference.size == 0:
        return 0.0
    median, large = (float(q) for q in np.quantile(np.abs(difference), [0.5, 0.9]))
    return STD_PER_MAD * median if median > ABOUT_ZERO * large else float(np.sqrt((difference**2).mean()))
