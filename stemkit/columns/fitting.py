"""Least-squares fits of Gaussian columns, thousands at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from stemkit.columns.batched_levenberg_marquardt import BatchedLevenbergMarquardt
from stemkit.columns.constants import WINDOW_RADIUS
from stemkit.columns.fits import ColumnFits
from stemkit.columns.gaussians import ELLIPTICAL, ROUND
from stemkit.columns.levenberg_marquardt import CompiledLevenbergMarquardt
from stemkit.columns.noise import FitNoise, LinearVariance
from stemkit.columns.problem import build_problem
from stemkit.columns.results import fits_of
from stemkit.columns.solving import MAX_JOINT
from stemkit.columns.starts import FitUnits, checked_prior, distance_outside, parameters_of, start_at
from stemkit.pixels import filled

__all__ = ["fit_columns"]

#: Largest number of steps (chosen).
ITERATIONS = 25
#: Length of a step below which a column has converged, standard errors (chosen: the next one would be several times
#: shorter).
TOLERANCE = 0.05
#: Largest distance of a fitted column outside the image, widths (derived: its window ends at the image's border).
MAX_DISTANCE_OUTSIDE = WINDOW_RADIUS


def fit_columns(
    values: NDArray,
    positions: NDArray | ColumnFits,
    sigma: float | NDArray,
    *,
    variance: LinearVariance | float | None = None,
    correlation_x: float = 0.0,
    streaks: float = 0.0,
    tilt: float = 0.0,
    valid: NDArray | None = None,
    weights: NDArray | None = None,
    shifts: NDArray | None = None,
    fit_sigma: bool | NDArray = True,
    fit_position: bool | NDArray = True,
    background: float | None = None,
    prior: NDArray | None = None,
    elliptical: bool = False,
    changed: NDArray | None = None,
    movable: NDArray | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    joint: int = MAX_JOINT,
    device: torch.device | str = "cpu",
) -> ColumnFits:
    """Fit a Gaussian and a constant background to each column, together with those that it overlaps.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x) or (n_images, n_y, n_x)
        Recorded pixels, columns bright. Several images show the same columns and are fitted together, on the CPU;
        their noise is independent.
    positions : ndarray of shape (n_columns, 2) or ColumnFits
        Starting ``(y, x)``, px; or former fits, from which the fit continues. Columns that start more than 2.5 widths
        outside the image fail.
    sigma : float or ndarray of shape (n_columns,)
        Starting width, px; the fitted one stays within a factor of 2 of it.
    variance : LinearVariance or float, optional
        Variance of the noise of a pixel, constant or linear in the model's intensity. None: constant, and estimated
        from the residuals.
    correlation_x : float
        Lag-1 correlation of the noise along the row, which is taken as autoregressive.
    streaks : float
        Standard deviation of the offset of each row, which is constant across the width of a column.
    tilt : float
        Standard deviation of the background's slope along either axis, per px.
    valid : ndarray of bool, of the shape of values, optional
        Pixels that are fitted; by default all.
    weights : ndarray of the shape of values, optional
        Inverse variance of the pixels relative to ``variance``, at least 0; by default 1.
    shifts : ndarray of shape (2, n_y, n_x) or (n_images, 2, n_y, n_x), optional
        Displacement of the beam from the grid along y and x, px: pixel x is recorded at ``x + shift``. Positions are
        then those on the undisturbed grid.
    fit_sigma, fit_position : bool or ndarray of bool, shape (n_columns,)
        False fixes a column's width at ``sigma``, its position at the start.
    background : float, optional
        One fixed background for all columns, in the image's units. None: each column has its own, which is fitted.
    prior : ndarray of shape (n_columns, 3), optional
        Expected positions ``(y, x)`` and the standard deviation of either coordinate, px; inf for columns without a
        prior. It is used as an additional measurement, which also reduces the errors, and requires ``variance``.
    elliptical : bool
        Whether columns are elliptical, with three parameters for their shape rather than one.
    changed : ndarray of bool, shape (n_columns,), optional
        When former fits are continued: columns that have changed or have new neighbours. The others take steps only if
        changes of these would move them by more than the tolerance.
    movable : ndarray of bool, shape (n_columns,), optional
        With ``changed``: columns that may take steps, the changed ones among them; the others keep their numbers.
    iterations : int
        Largest number of steps.
    tolerance : float
        A column has converged when its step is shorter than this fraction of its standard errors.
    joint : int
        Largest number of overlapping neighbours, the nearest ones, whose parameters are free in the covariance of a
        column; those of the others are taken as known.
    device : torch.device or str
        Device of the computation.

    Returns
    -------
    ColumnFits

    Raises
    ------
    ValueError
        If ``prior`` is given without ``variance`` or with NaN, or ``movable`` without ``changed`` and former fits.

    Notes
    -----
    The model is ``sum of A exp(-r^2 / (2 sigma^2)) + B``, fitted by the Levenberg-Marquardt method to the pixels within
    ``2.5 sigma`` of each column, or ``3.25 sigma`` in dense lattices, where it overlaps others on all sides. The model
    of a pixel contains all columns nearby. Columns nearer to each other than ``4.5 sigma`` are solved for together. The
    background of a pixel is the mean of those of the columns whose windows contain it, and differences of the
    backgrounds of overlapping columns are penalised. Residuals are weighted by the inverse covariance of the noise: its
    variance at the *model's* intensity (weights from the data would favour pixels that are low by chance), its
    correlation along the row, and streaks. The fitted numbers are thus those of (quasi-) maximum likelihood [1]_, and
    their covariance is the inverse Fisher information of a column and its nearest neighbours. Where the residual is
    significantly larger than the noise explains, as for non-Gaussian columns, errors are multiplied by the ratio.
    Columns are displaced by slopes of the background: where the residual of a column shows one, its numbers are
    corrected to first order, which is the fit with two more parameters; the errors of the slopes, and a standard
    deviation ``tilt`` of those that the residual does not show, are included in the errors.

    References
    ----------
    .. [1] R. W. M. Wedderburn, Biometrika 61, 439 (1974), https://doi.org/10.1093/biomet/61.3.439
    """
    if len(positions) == 0:
        return ColumnFits.from_values(0)
    values = np.asarray(values, dtype=np.float64)
    device = torch.device(device if values.ndim == 2 else "cpu")
    units, readable = _units(values, valid)
    former = positions if isinstance(positions, ColumnFits) else None
    if prior is not None:
        if variance is None:
            raise ValueError("prior needs a variance, by which it is weighted against the pixels, but variance is None")
        prior = checked_prior(prior, len(positions))
    if movable is not None and (changed is None or former is None):
        raise ValueError(
            "movable needs changed, and former fits as positions: in a new fit all columns move. Give both, or leave "
            "movable out"
        )
    start_positions = np.asarray(positions, dtype=np.float64) if former is None else former.positions
    sigma = np.broadcast_to(np.asarray(sigma, dtype=np.float64), len(positions))
    is_outside = distance_outside(start_positions, values.shape[-2:]) > MAX_DISTANCE_OUTSIDE * sigma
    fit_sigma = np.broadcast_to(fit_sigma, len(positions))
    free = _free_parameters(
        fit_sigma,
        np.broadcast_to(fit_position, len(positions)),
        elliptical=elliptical,
        fit_background=background is None,
    )
    free[is_outside] = False
    noise = FitNoise(units.variance(variance), correlation_x, streaks / units.scale, tilt / units.scale)
    weight = valid if weights is None else weights if valid is None else np.where(valid, weights, 0.0)
    problem = build_problem(units.normalized, start_positions, sigma, noise, shifts, weight, free, device)
    start = start_at(readable, start_positions, sigma) if former is None else parameters_of(former, units)
    start[torch.as_tensor(~fit_sigma), 3] = torch.as_tensor(sigma[~fit_sigma])
    n_parameters = free.shape[1]
    start = torch.nn.functional.pad(start, (0, n_parameters - 5)) if former is None else start[:, :n_parameters]
    start[torch.as_tensor(is_outside), 2] = 0.0
    if background is not None:
        start[:, 4] = (background - units.level) / units.scale
    device_prior = None if prior is None else torch.as_tensor(np.asarray(prior, dtype=np.float64), device=device)
    minimizer_class = CompiledLevenbergMarquardt if device.type == "cpu" else BatchedLevenbergMarquardt
    minimizer = minimizer_class(problem, start.to(device), torch.as_tensor(sigma.copy(), device=device), device_prior)
    # failed fits have their starting values: they have changed, too
    first = None if former is None or changed is None else changed | former.failed
    if former is not None:
        minimizer.continue_from(former.last_step)
    minimizer.run(iterations, tolerance, first, movable)
    fits = fits_of(minimizer, sigma, units, joint)
    if former is None or first is None:
        return fits
    taken = minimizer.touched[minimizer.touched] if movable is None else np.asarray(movable)[minimizer.touched]
    result = former.updated(np.flatnonzero(minimizer.touched)[taken], fits.take(taken))
    # for columns that were not fitted, it is the step that the changes of their neighbours would cause
    return replace(result, last_step=minimizer.last_steps)


def _units(values: NDArray, valid: NDArray | None) -> tuple[FitUnits, NDArray[np.float64]]:
    """Units of a fit, and an image in these units from which starting values are read: the mean of several images.

    Its invalid pixels are interpolated.
    """
    if values.ndim == 2:
        units = FitUnits.from_image(values if valid is None else filled(values, ~np.asarray(valid)))
        return units, units.normalized
    used = np.ones(values.shape, dtype=bool) if valid is None else np.asarray(valid)
    count = used.sum(axis=0)
    mean = np.where(used, values, 0.0).sum(axis=0) / np.maximum(count, 1)
    of_mean = FitUnits.from_image(filled(mean, count == 0))
    units = replace(of_mean, normalized=(np.where(used, values, mean) - of_mean.level) / of_mean.scale)
    return units, of_mean.normalized


def _free_parameters(
    fit_sigma: NDArray, fit_position: NDArray, *, elliptical: bool, fit_background: bool
) -> NDArray[np.bool_]:
    """Which parameters of each column are fitted, ``(n, P)``."""
    free = np.ones((len(fit_sigma), len(ELLIPTICAL if elliptical else ROUND)), dtype=bool)
    free[:, :2] = fit_position[:, None]
    free[:, 3], free[:, 5:] = fit_sigma, fit_sigma[:, None]
    free[:, 4] = fit_background
    return free
