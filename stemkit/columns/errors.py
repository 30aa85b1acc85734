"""Covariances of fitted columns from those of their normal equations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.limits import LIMITS
from stemkit.columns.noise import FitNoise

__all__ = ["widened"]


def widened(
    covariance: NDArray, chi2: NDArray, dof: NDArray, noise: FitNoise, rises: NDArray | None, prior: NDArray | None
) -> tuple[NDArray, NDArray]:
    """Covariances with what the pixels' noise does not explain, and the residual's RMS over the expected one.

    Parameters
    ----------
    covariance : ndarray of shape (n, P, P)
        Inverse of the normal equations.
    chi2, dof : ndarray of shape (n,)
        Weighted square of the residual, and its degrees of freedom.
    noise : FitNoise
        Where its variance is unknown, it is that of the residual.
    rises : ndarray of shape (n, 2, P) or None
        ``J^T C^-1 r`` for backgrounds that rise by 1 per px along y and x; None where there is no tilt.
    prior : ndarray of shape (n, 3) or None
        Expected positions and their standard deviation, px: no position is less certain than that.
    """
    reduced = chi2 / dof
    if noise.variance is None:
        return covariance * reduced[:, None, None], np.ones_like(reduced)
    unexplained = np.where(reduced > 1 + LIMITS.unexplained * np.sqrt(2 / dof), reduced, 1.0)
    result = covariance * unexplained[:, None, None]
    if rises is not None:
        moved = noise.tilt * rises @ covariance
        result = result + moved.transpose(0, 2, 1) @ moved
    if prior is not None:
        scale = np.ones(covariance.shape[:2])
        variance = np.maximum(np.diagonal(result, axis1=1, axis2=2)[:, :2], 1e-300)
        scale[:, :2] = np.minimum(prior[:, 2:] / np.sqrt(variance), 1.0)
        result = result * scale[:, :, None] * scale[:, None, :]
    return result, np.sqrt(reduced)
