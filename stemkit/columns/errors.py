"""Covariances of fitted columns: contributions of all that is not pixel noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.constants import CONSTANTS
from stemkit.columns.noise import FitNoise

__all__ = ["inflated_covariances"]

#: Chi-square, of two degrees of freedom, from which the slope of a column's background is significant (derived: noise
#: exceeds it in one column of 1000).
SLOPE_SIGNIFICANCE = 13.8
#: Least number of columns whose slopes limit the general one (chosen).
MIN_SLOPES = 20
#: Standard errors by which the general slope may exceed that of the columns (chosen).
SLOPE_ERRORS = 2.0
#: Least information on a slope, as a fraction of that with all other parameters known (chosen: below, rounding errors).
MIN_INFORMATION = 0.01


def inflated_covariances(
    covariance: NDArray,
    chi2: NDArray,
    dof: NDArray,
    noise: FitNoise,
    ramps: NDArray | None,
    prior: NDArray | None,
    *,
    local_slopes: bool = True,
) -> tuple[NDArray, NDArray]:
    """Covariances that account for misfit, slopes of the background and a prior, and the RMS of the residuals over the
    expected one.

    Parameters
    ----------
    covariance : ndarray of shape (n, P, P)
        Inverse of the normal equations.
    chi2, dof : ndarray of shape (n,)
        Weighted sum of squares of the residuals, and their number of degrees of freedom.
    noise : FitNoise
        If its variance is None, covariances are scaled by that of the residuals.
    ramps : ndarray of shape (n, 2, P + 3) or None
        For backgrounds r with a slope of 1 per px along y and x: ``J^T C^-1 r``, then ``r^T C^-1`` times the residual
        and times both backgrounds. None: backgrounds have no slope.
    prior : ndarray of shape (n, 3) or None
        Expected positions and their standard deviation, px, which no error of a position exceeds.
    local_slopes : bool, default=True
        Whether a significant slope at a column is an error of this column. Not while columns are searched for: what is
        significant above the noise on a steep edge is a column, although its amplitude is uncertain.
    """
    reduced = chi2 / dof
    if noise.variance is None:
        return covariance * reduced[:, None, None], np.ones_like(reduced)
    unexplained = np.where(reduced > 1 + CONSTANTS.excess_significance * np.sqrt(2 / dof), reduced, 1.0)
    result = covariance * unexplained[:, None, None]
    if ramps is not None:
        result = result + _slope_covariances(covariance, ramps, noise.tilt, unexplained, local_slopes)
    if prior is not None:
        scale = np.ones(covariance.shape[:2])
        variance = np.maximum(np.diagonal(result, axis1=1, axis2=2)[:, :2], 1e-300)
        scale[:, :2] = np.minimum(prior[:, 2:] / np.sqrt(variance), 1.0)
        result = result * scale[:, :, None] * scale[:, None, :]
    return result, np.sqrt(reduced)


def _slope_covariances(
    covariance: NDArray, ramps: NDArray, tilt: float, unexplained: NDArray, local: bool
) -> NDArray[np.float64]:
    """Covariances ``(n, P, P)`` of the displacements by slopes of the background.

    To first order, a slope b displaces the parameters by ``cov J^T C^-1 r b``. The slope of each background is
    estimated from the residual of the fit. Where it is significant and ``local``, this displacement is an error of the
    column. Otherwise the slopes have a standard deviation ``tilt``, or a smaller one if the residuals of the columns
    exclude this.
    """
    n_parameters = covariance.shape[1]
    response = ramps[:, :, :n_parameters] @ covariance
    information = ramps[:, :, n_parameters + 1 :] - response @ ramps[:, :, :n_parameters].transpose(0, 2, 1)
    diagonal = np.diagonal(information, axis1=1, axis2=2)
    least = MIN_INFORMATION * np.diagonal(ramps[:, :, n_parameters + 1 :], axis1=1, axis2=2)
    known: NDArray[np.bool_] = np.asarray((diagonal > least).all(axis=1))
    information = np.where(known[:, None, None], information, np.eye(2))
    slope = np.linalg.solve(information, ramps[:, :, n_parameters, None])[:, :, 0] * known[:, None]
    chi_squared = np.einsum("ni,nij,nj->n", slope, information, slope)
    significant: NDArray[np.bool_] = np.asarray(local & (chi_squared > SLOPE_SIGNIFICANCE * unexplained))
    usual = _usual_slope(slope[known], np.diagonal(information, axis1=1, axis2=2)[known], tilt)
    spread = np.where(significant[:, None], slope, 0.0)[:, :, None] * response
    own = spread.sum(axis=1)
    general = usual * response * ~significant[:, None, None]
    return np.asarray(own[:, :, None] * own[:, None, :] + general.transpose(0, 2, 1) @ general)


def _usual_slope(slope: NDArray, information: NDArray, tilt: float) -> float:
    """Standard deviation of the slopes: ``tilt``, or the largest one that the estimates do not exclude."""
    if tilt == 0 or len(slope) < MIN_SLOPES:
        return tilt
    # of the maximum-likelihood estimate for small slopes: squares minus their noise, weighted by 1 / noise^2
    weight = information**2
    variance = (weight * (slope**2 - 1 / information)).sum() / weight.sum()
    error = np.sqrt(2 / weight.sum())
    return float(min(tilt, np.sqrt(max(variance + SLOPE_ERRORS * error, 0.0))))
