"""Results of the minimisation as :class:`~stemkit.columns.ColumnFits`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.batched_levenberg_marquardt import BatchedLevenbergMarquardt
from stemkit.columns.constants import CONSTANTS
from stemkit.columns.fits import FITTED_FIELDS, ColumnFits
from stemkit.columns.gaussians import ELLIPTICAL, ROUND
from stemkit.columns.levenberg_marquardt import CompiledLevenbergMarquardt
from stemkit.columns.starts import FitUnits

__all__ = ["fits_of"]

#: Relative distance from a limit below which a fit has ended there (chosen).
AT_LIMIT = 1e-3


def fits_of(
    minimizer: CompiledLevenbergMarquardt | BatchedLevenbergMarquardt, sigma: NDArray, units: FitUnits, joint: int
) -> ColumnFits:
    """Fits of the columns that took part, in the units of the image; failed ones have their starting values.

    ``sigma`` are the starting widths ``(n,)``, px, ``joint`` is the largest number of free neighbours of a column.
    """
    columns = np.flatnonzero(minimizer.touched)
    fitted, start, sigma = minimizer.fitted[columns], minimizer.start.cpu().numpy()[columns], sigma[columns]
    covariance, residual, by_slopes = minimizer.errors(joint)
    gradient = _intensity_gradient(fitted)
    variance = np.column_stack(
        [np.diagonal(covariance, axis1=1, axis2=2), np.einsum("ni,nij,nj->n", gradient, covariance, gradient)]
    )
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(variance)
    displacement = np.abs(fitted[:, :2] - start[:, :2])
    failed = (
        ~minimizer.problem.free[:-1, 2].cpu().numpy()[columns]
        | (fitted[:, 3] <= sigma / CONSTANTS.max_narrowing * (1 + AT_LIMIT))
        | (fitted[:, 3] >= sigma * CONSTANTS.max_widening * (1 - AT_LIMIT))
        | (displacement >= CONSTANTS.max_displacement * sigma[:, None] * (1 - AT_LIMIT)).any(axis=1)
        | ~np.isfinite(errors).all(axis=1)
        | ~np.isfinite(fitted).all(axis=1)
    )
    numbers = np.where(failed[:, None], start, fitted - by_slopes)
    numbers = np.column_stack([numbers, _intensity(numbers)])
    errors[failed] = np.nan
    if fitted.shape[1] == len(ROUND):
        zero = np.zeros((len(fitted), 2))
        numbers, errors = (np.hstack([a[:, :5], zero, a[:, 5:]]) for a in (numbers, errors))
    scale = np.array([1, 1, units.scale, 1, units.scale, 1, 1, units.scale])
    numbers, errors = numbers * scale, errors * scale
    numbers[:, 4] += units.level
    return ColumnFits(
        **dict(zip(FITTED_FIELDS, np.hstack([numbers, errors]).T, strict=True)),
        residual=residual,
        last_step=minimizer.last_steps[columns],
        failed=failed,
    )


def _intensity(parameters: NDArray) -> NDArray[np.float64]:
    """Integral of a Gaussian, ``2 pi amplitude sigma^2 (1 - e1^2 - e2^2)^1/2``."""
    return 2 * np.pi * parameters[:, 2] * parameters[:, 3] ** 2 * np.sqrt(1 - (parameters[:, 5:] ** 2).sum(1))


def _intensity_gradient(parameters: NDArray) -> NDArray[np.float64]:
    """Derivatives of the integral by the parameters, ``(n, P)``."""
    result = np.zeros_like(parameters)
    round_one = 2 * np.pi * np.sqrt(1 - (parameters[:, 5:] ** 2).sum(1))
    result[:, 2] = round_one * parameters[:, 3] ** 2
    result[:, 3] = 2 * round_one * parameters[:, 2] * parameters[:, 3]
    if parameters.shape[1] == len(ELLIPTICAL):
        squared = (2 * np.pi) ** 2 * (parameters[:, 2] * parameters[:, 3] ** 2 / round_one)[:, None]
        result[:, 5:] = -squared * parameters[:, 5:]
    return result
