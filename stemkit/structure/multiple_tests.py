"""Many tests at once: local false discovery rates, and the p-value that is a discovery."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

__all__ = ["benjamini_hochberg", "critical_p_value", "local_false_discovery_rate"]

#: Least p-value that is distinguished from 0 (derived: the smallest number of full precision).
MIN_P_VALUE = float(np.finfo(float).tiny)


def benjamini_hochberg(p_values: NDArray, n_tests: float) -> NDArray[np.float64]:
    """p-values ``(n,)`` adjusted by the procedure of Benjamini and Hochberg for a number of tests, NaN where NaN.

    Tests without a p-value count as tests whose null hypothesis is not rejected. The number of tests is not an integer
    where it is an estimate, such as that of independent positions.
    """
    known = np.isfinite(p_values)
    rest = np.ones(max(int(np.ceil(n_tests)) - int(known.sum()), 0))
    result = np.full(len(p_values), np.nan)
    if known.any():
        result[known] = stats.false_discovery_control(np.concatenate([p_values[known], rest]))[: known.sum()]
    return result


def critical_p_value(adjusted_p_values: NDArray, n_tests: float, rate: float) -> float:
    """Largest p-value that one more discovery could have at a false discovery rate."""
    discoveries = int((adjusted_p_values <= rate).sum())
    return rate * (discoveries + 1) / max(n_tests, 1.0)


def local_false_discovery_rate(p_values: NDArray, n_tests: float) -> NDArray[np.float64]:
    """Probability ``(n,)`` that the null hypothesis is true for each p-value, NaN where NaN.

    Parameters
    ----------
    p_values : ndarray of shape (n,)
    n_tests : float
        Number of tests; those without a p-value count as tests with the p-value 1.

    Notes
    -----
    The ratio of the density of p-values under the null hypothesis, 1, and of all p-values [1]_. The latter is
    estimated as a decreasing function, the slope of the least concave majorant of the empirical distribution [2]_.
    Almost all null hypotheses are assumed to be true: the probability is not underestimated.

    References
    ----------
    .. [1] Efron et al., J. Am. Stat. Assoc. 96, 1151 (2001), https://doi.org/10.1198/016214501753382129
    .. [2] Strimmer, BMC Bioinformatics 9, 303 (2008), https://doi.org/10.1186/1471-2105-9-303
    """
    result = np.full(len(p_values), np.nan)
    known = np.isfinite(p_values)
    if not known.any():
        return result
    values, index, count = np.unique(np.maximum(p_values[known], MIN_P_VALUE), return_inverse=True, return_counts=True)
    edges = np.append(values, 1.0) if values[-1] < 1 else values
    n_in_bin = np.append(count, max(n_tests - count.sum(), 0.0)) if values[-1] < 1 else count.astype(np.float64)
    widths = np.diff(edges, prepend=0.0)
    density = optimize.isotonic_regression(n_in_bin / n_in_bin.sum() / widths, weights=widths, increasing=False).x
    result[known] = np.minimum(1.0, 1.0 / np.maximum(density, MIN_P_VALUE))[index.ravel()]
    return result
