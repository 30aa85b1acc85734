"""Brightness of a column as its neighbours of the same sublattice predict it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from stemkit.statistics import robust_std
from stemkit.structure.cells import ring

__all__ = ["LocalTrend", "local_trend", "null_quantile", "null_tail"]

#: Rings of cells around a site whose columns predict its brightness (chosen: 24 columns).
N_RINGS = 2


@dataclass(frozen=True)
class _Constants:
    """Constants of the local trend."""

    #: Fewest of them (chosen: a plane has three parameters).
    min_neighbors: int = 5
    #: Steps of the robust fit (chosen: weights change by less than 1 % in the last one).
    n_steps: int = 4
    #: Residual, standard deviations, from which a column has no weight (Tukey's biweight, 95 % efficient).
    biweight_limit: float = 4.685
    #: Weight of a zero slope of the plane, columns (chosen: it decides where the neighbours are on one line).
    zero_slope_weight: float = 0.1
    #: Efficiency of the median absolute deviation as an estimate of a standard deviation (derived).
    mad_efficiency: float = 0.367


CONSTANTS = _Constants()


@dataclass(frozen=True)
class LocalTrend:
    """Prediction of the neighbours for sites ``(m,)``.

    ``expected`` is the brightness, ``variance`` that of the difference of a column without an error of its own from it,
    and ``freedom`` the degrees of freedom of this variance; NaN with too few neighbours.
    """

    expected: NDArray[np.float64]
    variance: NDArray[np.float64]
    freedom: NDArray[np.float64]


def local_trend(
    neighbors: NDArray, site: NDArray, vectors: NDArray, values: NDArray, errors: NDArray, own: NDArray
) -> LocalTrend:
    """Planes fitted to the brightness of neighbours, and the scatter of the columns of each sublattice around them.

    Parameters
    ----------
    neighbors : ndarray of int of shape (m, n)
        Rows of the columns at the same site of the cells of ``ring(N_RINGS)`` around each site, -1 without one.
    site : ndarray of shape (m,)
        Number of each site.
    vectors : ndarray of shape (2, 2)
        Lattice vectors as rows, in the unit of positions.
    values, errors : ndarray of shape (k,)
        Brightness of all columns, NaN for those that are not used, and their errors.
    own : ndarray of int of shape (m,)
        Row of the column at each site, -1 for a site without one.

    Notes
    -----
    Biweight regression. The variance of a sublattice beyond the errors is the one with which the median absolute
    deviation of all its columns from their predictions is that of a normal distribution.
    """
    design = np.column_stack(
        [np.ones(len(ring(N_RINGS))), ring(N_RINGS) @ vectors / np.linalg.norm(vectors, axis=1).max()]
    )
    known = np.where(neighbors >= 0, values[neighbors], np.nan)
    enough = np.isfinite(known).sum(axis=1) >= CONSTANTS.min_neighbors
    result = np.full((3, len(site)), np.nan)
    for s in np.unique(site[enough]):
        chosen = np.flatnonzero(enough & (site == s))
        columns = np.where(own[chosen] >= 0, values[own[chosen]], np.nan)
        noise = np.where(own[chosen] >= 0, errors[own[chosen]], np.nan)
        expected, leverage = _planes(known[chosen], design, columns)
        usual = np.nanmedian(errors[own[chosen][own[chosen] >= 0]] ** 2) if (own[chosen] >= 0).any() else 0.0
        spread = _spread(columns - expected, noise**2, leverage, usual)
        result[0, chosen] = expected
        result[1, chosen] = spread + leverage * (spread + usual)
        result[2, chosen] = max(CONSTANTS.mad_efficiency * (np.isfinite(columns).sum() - 1), 1.0)
    return LocalTrend(*result)


def _planes(known: NDArray, design: NDArray, columns: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Value of the plane at each site ``(m,)``, and its variance in units of that of one neighbour."""
    present = np.isfinite(known)
    expected = np.nanmedian(known, axis=1)
    residual = known - expected[:, None]
    scale = _scale(columns - expected, residual)
    prior = CONSTANTS.zero_slope_weight * np.diag([0.0, 1.0, 1.0])
    normal = np.empty((len(known), 3, 3))
    for _ in range(CONSTANTS.n_steps):
        weight = np.where(present, np.clip(1 - (residual / (CONSTANTS.biweight_limit * scale)) ** 2, 0, None) ** 2, 0.0)
        few = weight.sum(axis=1) < CONSTANTS.min_neighbors / 2
        weight[few] = present[few]
        normal = np.einsum("mn,ni,nj->mij", weight, design, design) + prior
        moment = np.einsum("mn,ni->mi", np.where(present, weight * np.nan_to_num(known), 0.0), design)
        plane = np.linalg.solve(normal, moment[..., None])[..., 0]
        residual = known - plane @ design.T
        expected = plane[:, 0]
        scale = _scale(columns - expected, residual)
    return expected, np.asarray(np.linalg.inv(normal)[:, 0, 0], dtype=np.float64)


def _scale(own: NDArray, residual: NDArray) -> float:
    """Robust standard deviation of the columns from their planes, or of the neighbours if there are no columns."""
    values = own if np.isfinite(own).sum() >= CONSTANTS.min_neighbors else residual
    return max(float(robust_std(values[np.isfinite(values)])), float(np.finfo(float).tiny) ** 0.5)


def _spread(residual: NDArray, own: NDArray, leverage: NDArray, usual: float) -> float:
    """Variance of the true brightness around the planes."""
    known = np.isfinite(residual) & np.isfinite(own)
    residual, own, leverage = residual[known], own[known], leverage[known]
    if len(residual) < CONSTANTS.min_neighbors:
        return 0.0

    def excess(spread: float) -> float:
        return float(robust_std(residual / np.sqrt(own + spread + leverage * (spread + usual) + 1e-300))) - 1

    most = 10 * float(robust_std(residual)) ** 2
    return 0.0 if most == 0 or excess(0.0) <= 0 else float(optimize.brentq(excess, 0.0, most))


def null_tail(z: NDArray, freedom: NDArray) -> NDArray[np.float64]:
    """Probability that noise exceeds z standard deviations, which are estimated with some degrees of freedom."""
    return np.asarray(stats.t.sf(z, freedom))


def null_quantile(p: float, freedom: NDArray) -> NDArray[np.float64]:
    """Number of standard deviations that noise exceeds with a probability p."""
    return np.asarray(stats.t.isf(p, freedom))
