"""Covariances of fitted columns with the contributions of misfit, priors and slopes of the background."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.constants import CONSTANTS
from stemkit.columns.noise import FitNoise

__all__ = ["FitErrors", "fit_errors"]

#: Significance of the slope of a column's background along an axis, standard errors (derived: noise exceeds it in one
#: of 16,000 slopes; each such slope displaces a column by several standard errors).
SLOPE_SIGNIFICANCE = 4.0
#: Variance of the flat prior of a significant slope, in variances of its estimate (chosen: large).
FLAT_PRIOR = 1e6
#: Largest displacement of position and width by a slope that is corrected, widths (chosen: the terms of second order
#: are half of it).
MAX_CORRECTION = 0.5
#: Least uncertainty of a correction, as a fraction of it (chosen: what looks like a slope may be a misfit).
MIN_UNCERTAINTY = 0.3
#: Least number of columns whose slopes limit the general one (chosen).
MIN_SLOPES = 20
#: Largest excess of the general slope over that of the columns, standard errors (chosen).
SLOPE_ERRORS = 2.0
#: Least information on a slope, as a fraction of that with all other parameters known (chosen: below, rounding errors).
MIN_INFORMATION = 0.01


class FitErrors(NamedTuple):
    """Errors of fitted columns.

    Attributes
    ----------
    covariance : ndarray of shape (n, P, P)
        Covariance including the effects of slopes of the background, of misfit and of a prior.
    residual : ndarray of shape (n,)
        RMS of the residuals over that expected from the noise.
    displacement : ndarray of shape (n, P)
        Expected displacement of the parameters by slopes of the background, to be subtracted from them; 0 where it is
        too large for a correction, or the residual contains more than a slope: then it is part of the covariance.
    """

    covariance: NDArray[np.float64]
    residual: NDArray[np.float64]
    displacement: NDArray[np.float64]


def fit_errors(
    covariance: NDArray,
    alone: NDArray,
    chi2: NDArray,
    dof: NDArray,
    widths: NDArray,
    noise: FitNoise,
    ramps: NDArray | None,
    prior: NDArray | None,
    *,
    final: bool = True,
) -> FitErrors:
    """Covariances that account for misfit, slopes of the background and a prior, and the displacements by slopes.

    Parameters
    ----------
    covariance : ndarray of shape (n, P, P)
        Inverse of the normal equations, with the parameters of neighbours free.
    alone : ndarray of shape (n, P, P)
        The same with the neighbours fixed.
    chi2, dof : ndarray of shape (n,)
        Weighted sum of squares of the residuals, and their number of degrees of freedom.
    widths : ndarray of shape (n,)
        Fitted sigmas, px.
    noise : FitNoise
        If its variance is None, covariances are scaled by that of the residuals.
    ramps : ndarray of shape (n, 2, P + 3) or None
        For backgrounds r with a slope of 1 per px along y and x: ``J^T C^-1 r``, then ``r^T C^-1`` times the residual
        and times both backgrounds. None: backgrounds have no slope.
    prior : ndarray of shape (n, 3) or None
        Expected positions and their standard deviation, px, which no error of a position exceeds.
    final : bool, default=True
        Whether the slope at each column is estimated from its residual. False during the search for columns: a
        significant column on a steep edge is kept although its amplitude is uncertain.
    """
    reduced = chi2 / dof
    displacement = np.zeros(covariance.shape[:2])
    if noise.variance is None:
        return FitErrors(covariance * reduced[:, None, None], np.ones_like(reduced), displacement)
    unexplained = np.where(reduced > 1 + CONSTANTS.excess_significance * np.sqrt(2 / dof), reduced, 1.0)
    result = covariance * unexplained[:, None, None]
    if ramps is not None:
        slopes, displacement, explained = _slope_effects(alone, ramps, noise.tilt, unexplained, final)
        relative = np.linalg.norm(displacement[:, [0, 1, 3]], axis=1) / widths
        is_corrected = relative < MAX_CORRECTION
        # a residual beyond noise that the slope does not explain is a misfit, and may also cause the apparent slope
        excess = chi2 - explained - dof
        is_corrected &= excess < np.maximum(explained, CONSTANTS.excess_significance * np.sqrt(2 * dof))
        # the terms of second order are smaller than those of first order by the displacement in widths; columns are not
        # displaced farther than fits may go
        limited = CONSTANTS.max_displacement / np.maximum(relative, CONSTANTS.max_displacement)
        uncertain = displacement * np.where(is_corrected, np.maximum(relative, MIN_UNCERTAINTY), limited)[:, None]
        displacement = displacement * is_corrected[:, None]
        result = result + slopes + uncertain[:, :, None] * uncertain[:, None, :]
    if prior is not None:
        scale = np.ones(covariance.shape[:2])
        variance = np.maximum(np.diagonal(result, axis1=1, axis2=2)[:, :2], 1e-300)
        scale[:, :2] = np.minimum(prior[:, 2:] / np.sqrt(variance), 1.0)
        result = result * scale[:, :, None] * scale[:, None, :]
    return FitErrors(result, np.sqrt(reduced), displacement)


def _slope_effects(
    covariance: NDArray, ramps: NDArray, tilt: float, unexplained: NDArray, final: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Covariances ``(n, P, P)`` and expected values ``(n, P)`` of the displacements by slopes of the background, and
    the part ``(n,)`` of chi-square that the slopes explain.

    To first order, a slope b displaces the parameters by ``R^T b`` with ``R = r^T C^-1 J cov``. The residual of the fit
    contains the information F on the slope, which is estimated from it. This is the fit with the slopes as two more
    parameters and with fixed neighbours; the displacement of free ones by the slope is only partly in the window.
    Their prior is a normal distribution of standard deviation ``tilt``, or of a smaller one if the residuals of the
    columns exclude this, and flat where the estimate is significant. With the covariance T of the prior, the slope is
    ``V r^T C^-1 residual`` with the covariance ``V = T (1 + F T)^-1``. If not ``final``, the slopes are not estimated.
    """
    n_parameters = covariance.shape[1]
    response = ramps[:, :, :n_parameters] @ covariance
    information = ramps[:, :, n_parameters + 1 :] - response @ ramps[:, :, :n_parameters].transpose(0, 2, 1)
    diagonal = np.diagonal(information, axis1=1, axis2=2)
    least = MIN_INFORMATION * np.diagonal(ramps[:, :, n_parameters + 1 :], axis1=1, axis2=2)
    determinant = information[:, 0, 0] * information[:, 1, 1] - information[:, 0, 1] * information[:, 1, 0]
    independent = determinant > MIN_INFORMATION * diagonal[:, 0] * diagonal[:, 1]
    known: NDArray[np.bool_] = np.asarray((diagonal > least).all(axis=1) & independent)
    information = np.where(known[:, None, None], information, np.eye(2))
    projection = ramps[:, :, n_parameters] * known[:, None]
    free = np.linalg.inv(information)
    slope = (free @ projection[:, :, None])[:, :, 0]
    usual = _usual_slope(slope[known], np.diagonal(information, axis1=1, axis2=2)[known], tilt)
    if not final:
        zeros = np.zeros(covariance.shape[:2])
        return usual**2 * response.transpose(0, 2, 1) @ response, zeros, zeros[:, 0]
    variance = unexplained[:, None] * np.diagonal(free, axis1=1, axis2=2)
    significant = slope**2 > SLOPE_SIGNIFICANCE**2 * variance
    prior = np.where(significant, FLAT_PRIOR * variance, usual**2)[:, None, :] * np.eye(2)
    gain = information * (known / unexplained)[:, None, None]
    of_slopes = prior @ np.linalg.inv(np.eye(2) + gain @ prior)
    expected = (of_slopes @ (projection / unexplained[:, None])[:, :, None]).transpose(0, 2, 1) @ response
    return response.transpose(0, 2, 1) @ of_slopes @ response, expected[:, 0], (slope * projection).sum(axis=1)


def _usual_slope(slope: NDArray, information: NDArray, tilt: float) -> float:
    """Standard deviation of the slopes: ``tilt``, or the largest one that the estimates do not exclude."""
    if tilt == 0 or len(slope) < MIN_SLOPES:
        return tilt
    # of the maximum-likelihood estimate for small slopes: squares minus their noise, weighted by 1 / noise^2
    weight = information**2
    variance = (weight * (slope**2 - 1 / information)).sum() / weight.sum()
    error = np.sqrt(2 / weight.sum())
    return float(min(tilt, np.sqrt(max(variance + SLOPE_ERRORS * error, 0.0))))
