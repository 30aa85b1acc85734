"""Covariances of fitted columns: contributions of all that is not pixel noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.limits import LIMITS
from stemkit.columns.noise import FitNoise

__all__ = ["inflated_covariances"]


def inflated_covariances(
    covariance: NDArray, chi2: NDArray, dof: NDArray, noise: FitNoise, ramps: NDArray | None, prior: NDArray | None
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
    ramps : ndarray of shape (n, 2, P) or None
        ``J^T C^-1 r`` for backgrounds r with a slope of 1 per px along y and x; None: backgrounds have no slope.
    prior : ndarray of shape (n, 3) or None
        Expected positions and their standard deviation, px, which no error of a position exceeds.
    """
    reduced = chi2 / dof
    if noise.variance is None:
        return covariance * reduced[:, None, None], np.ones_like(reduced)
    unexplained = np.where(reduced > 1 + LIMITS.excess_significance * np.sqrt(2 / dof), reduced, 1.0)
    result = covariance * unexplained[:, None, None]
    if ramps is not None:
        displacement = noise.tilt * ramps @ covariance
        result = result + displacement.transpose(0, 2, 1) @ displacement
    if prior is not None:
        scale = np.ones(covariance.shape[:2])
        variance = np.maximum(np.diagonal(result, axis1=1, axis2=2)[:, :2], 1e-300)
        scale[:, :2] = np.minimum(prior[:, 2:] / np.sqrt(variance), 1.0)
        result = result * scale[:, :, None] * scale[:, None, :]
    return result, np.sqrt(reduced)
