"""Batched least-squares fits of Gaussian columns, thousands at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemkit.columns.batched import BatchedDescent
from stemkit.columns.descent import CompiledDescent
from stemkit.columns.equations import Blocks
from stemkit.columns.gaussians import ELLIPTICAL, ROUND, derivatives
from stemkit.columns.limits import LIMITS, REACH, RENDERED
from stemkit.columns.noise import FitNoise, Variance
from stemkit.columns.peaks import pixel_subset
from stemkit.columns.problem import build_problem
from stemkit.columns.solving import MOST_JOINT, step
from stemkit.pixels import filled

__all__ = ["ColumnFits", "absorbed", "fit_columns", "render_columns"]

ITERATIONS = 25
#: Steps end where they are shorter than this part of the errors: the next one is several times shorter.
TOLERANCE = 0.05
#: Ellipticity of a column at most, after its width has been corrected for the size of pixels.
LONGEST_ELLIPSE = 0.9
#: Columns that are drawn at once.
CHUNK = 512
#: Columns are fitted up to this many widths beyond the frame: there the windows of their pixels end.
BEYOND = REACH

#: The numbers of a column, in the order of the fit's parameters, and their standard deviations.
PARAMETERS = ROUND
NUMBERS = (*ELLIPTICAL, "intensity")
MEASURED = (*NUMBERS, *(f"{name}_err" for name in NUMBERS))


@dataclass
class ColumnFits:
    """Fitted columns, one entry each; lengths in px, the others in the image's units.

    ``*_err`` are standard deviations; ``failed`` marks fits that ended at a bound, without errors or beyond the frame,
    whose numbers are the start and whose errors are NaN. The covariance of a column's Gaussian is
    ``sigma^2 [[1 + e1, e2], [e2, 1 - e1]]`` in (y, x), ``intensity`` its integral. ``residual`` is the RMS of the
    residual over that of the noise that was expected; ``last_step`` the length of the last step in terms of the errors,
    small where the fit has converged.
    """

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    sigma: NDArray[np.float64]
    background: NDArray[np.float64]
    e1: NDArray[np.float64]
    e2: NDArray[np.float64]
    intensity: NDArray[np.float64]
    y_err: NDArray[np.float64]
    x_err: NDArray[np.float64]
    amplitude_err: NDArray[np.float64]
    sigma_err: NDArray[np.float64]
    background_err: NDArray[np.float64]
    e1_err: NDArray[np.float64]
    e2_err: NDArray[np.float64]
    intensity_err: NDArray[np.float64]
    residual: NDArray[np.float64]
    last_step: NDArray[np.float64]
    failed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, which: NDArray) -> ColumnFits:
        """The fits that an index or a mask selects."""
        return ColumnFits(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    @property
    def positions(self) -> NDArray[np.float64]:
        """``(y, x)``, px, of shape (n, 2)."""
        return np.column_stack([self.y, self.x])

    def updated(self, which: NDArray, others: ColumnFits) -> ColumnFits:
        """The same with the fits that an index or a mask selects replaced."""
        result = {f.name: getattr(self, f.name).copy() for f in fields(self)}
        for name, values in result.items():
            values[which] = getattr(others, name)
        return ColumnFits(**result)

    def extended(self, others: ColumnFits) -> ColumnFits:
        """The same with others appended."""
        return ColumnFits(**{f.name: np.append(getattr(self, f.name), getattr(others, f.name)) for f in fields(self)})

    def unbinned(self, factor: int) -> ColumnFits:
        """Fits to means of squares of pixels as those to the pixels.

        The mean over a square of f px widens a Gaussian's variance by that of the square's pixels, (f^2 - 1) / 12.
        """
        f = factor
        if f == 1:
            return self
        widened = (f * self.sigma) ** 2
        sigma = np.sqrt(np.maximum(widened - (f**2 - 1) / 12, 0.1 * widened))
        ratio = widened / sigma**2
        e1, e2 = self.e1 * ratio, self.e2 * ratio
        # an ellipse stays one
        shrunk = np.minimum(1.0, LONGEST_ELLIPSE / np.maximum(np.hypot(e1, e2), 1e-12))
        e1, e2 = e1 * shrunk, e2 * shrunk
        # the integral stays: the height is in proportion to the root of the covariance's determinant
        higher = ratio * np.sqrt((1 - self.e1**2 - self.e2**2) / (1 - e1**2 - e2**2))
        changed = {
            "y": f * self.y + (f - 1) / 2,
            "x": f * self.x + (f - 1) / 2,
            "y_err": f * self.y_err,
            "x_err": f * self.x_err,
            "sigma": sigma,
            "sigma_err": f * self.sigma_err * np.sqrt(ratio),
            "amplitude": self.amplitude * higher,
            "amplitude_err": self.amplitude_err * higher,
            "e1": e1,
            "e2": e2,
            "e1_err": self.e1_err * ratio,
            "e2_err": self.e2_err * ratio,
            "intensity": self.intensity * f**2,
            "intensity_err": self.intensity_err * f**2,
        }
        return ColumnFits(**({f.name: getattr(self, f.name) for f in fields(self)} | changed))


def fit_columns(
    values: NDArray,
    positions: NDArray | ColumnFits,
    sigma: float | NDArray,
    *,
    variance: Variance | float | None = None,
    correlation_x: float = 0.0,
    streaks: float = 0.0,
    tilt: float = 0.0,
    valid: NDArray | None = None,
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
    joint: int = MOST_JOINT,
    device: torch.device | str = "cpu",
) -> ColumnFits:
    """Fit a Gaussian and a constant background to each column, together with those that it overlaps.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        Recorded pixels, columns bright.
    positions : ndarray of shape (n_columns, 2) or ColumnFits
        Starting ``(y, x)``, px; or fits to go on from. Columns that start farther beyond the frame than
        2.5 widths fail.
    sigma : float or ndarray of shape (n_columns,)
        Starting width, px; a fitted one stays within a factor of 2 of it.
    variance : Variance or float, optional
        Of the noise of a pixel, a straight line in the model's intensity. None: constant, from the residuals.
    correlation_x : float
        Lag-1 correlation of the noise along the row, taken as autoregressive.
    streaks : float
        Standard deviation of offsets that a row has as a whole, across the width of a column.
    tilt : float
        Standard deviation of the background's slope along either axis, per px: it moves columns, and is in the errors.
    valid : ndarray of bool, shape (n_y, n_x), optional
        Pixels that are fitted; all of them without it.
    shifts : ndarray of shape (2, n_y, n_x), optional
        Where the beam stood, relative to its place in the grid, along y and x, px: pixel x recorded ``x + shift``.
        Positions are then those on the undisturbed grid.
    fit_sigma, fit_position : bool or ndarray of bool, shape (n_columns,)
        False keeps a column's width at ``sigma``, its position where it starts.
    background : float, optional
        One background for all columns, in the image's units; each has its own without it.
    prior : ndarray of shape (n_columns, 3), optional
        What is known of positions beforehand: ``(y, x)`` and the standard deviation of either, px, inf where nothing
        is. It counts like another measurement, in the errors too. It needs a variance.
    elliptical : bool
        Whether columns have three numbers for their width rather than one.
    changed : ndarray of bool, shape (n_columns,), optional
        Where fits are resumed, those that have changed or have new neighbours: the others take steps as far as these
        move them.
    movable : ndarray of bool, shape (n_columns,), optional
        Where only some have changed: columns that may take steps, those that have changed among them; the others keep
        their numbers.
    iterations : int
        Steps at most.
    tolerance : float
        A column is done when its step is shorter than this part of its errors.
    joint : int
        Overlapping neighbours whose numbers are free in the errors of a column, the nearest ones; those of the others
        are taken as known.
    device : torch.device or str
        Where to compute.

    Returns
    -------
    ColumnFits

    Notes
    -----
    Levenberg-Marquardt on ``sum of A exp(-r^2 / (2 sigma^2)) + B`` over the pixels within ``2.5 sigma`` of the columns,
    all of them at once: each pixel's model holds every column near it, those nearer than ``4.5 sigma`` to each other
    share their pixels and are solved for together. The background of a pixel is the mean of those of the columns
    whose windows it is in, and overlapping columns are held to backgrounds alike. Residuals are weighed by the inverse
    covariance of the noise: the variance at the *model's* intensity (weights from the data would favour pixels that
    are low by chance), its correlation along the row, and streaks. So the fitted numbers are those of (quasi-)maximum
    likelihood [1]_, and their covariance is the inverse Fisher information of a column and those it is solved with.
    Where the residual is larger than the noise explains (columns that are no Gaussians), errors grow in proportion.

    References
    ----------
    .. [1] R. W. M. Wedderburn, Biometrika 61, 439 (1974), https://doi.org/10.1093/biomet/61.3.439
    """
    if len(positions) == 0:
        return _empty()
    values = np.asarray(values, dtype=np.float64)
    # a fit starts at what is recorded under the column
    units = _Units.of(values if valid is None else filled(values, ~np.asarray(valid)))
    if prior is not None and variance is None:
        raise ValueError("prior needs a variance, by which it is weighted against the pixels, but variance is None")
    if prior is not None:
        prior = _checked_prior(prior, len(positions))
    if movable is not None and (changed is None or not isinstance(positions, ColumnFits)):
        raise ValueError(
            "movable needs fits that are resumed, as positions, and changed: all columns of a new fit move"
        )
    noise = FitNoise(units.variance(variance), correlation_x, streaks / units.scale, tilt / units.scale)
    before = positions if isinstance(positions, ColumnFits) else None
    places = np.asarray(positions, dtype=np.float64) if before is None else np.column_stack([before.y, before.x])
    sigma = np.broadcast_to(np.asarray(sigma, dtype=np.float64), len(positions))
    widths = np.broadcast_to(fit_sigma, len(positions))
    free = np.ones((len(positions), 7 if elliptical else 5), dtype=bool)
    free[:, :2] = np.broadcast_to(fit_position, len(places))[:, None]
    free[:, 3], free[:, 5:] = widths, widths[:, None]
    free[:, 4] = background is None
    outside = _beyond(places, values.shape) > BEYOND * sigma
    free[outside] = False
    problem = build_problem(units.normalised, places, sigma, noise, shifts, valid, free, torch.device(device))
    start = _start(units.normalised, places, sigma) if before is None else _again(before, units)
    start[torch.as_tensor(~widths), 3] = torch.as_tensor(sigma[~widths])
    start = torch.nn.functional.pad(start, (0, free.shape[1] - 5)) if before is None else start[:, : free.shape[1]]
    start[torch.as_tensor(outside), 2] = 0.0
    if background is not None:
        start[:, 4] = (background - units.level) / units.scale
    known = None if prior is None else torch.as_tensor(np.asarray(prior, dtype=np.float64), device=device)
    widths_of_windows = torch.as_tensor(sigma.copy(), device=device)
    descent_of = CompiledDescent if torch.device(device).type == "cpu" else BatchedDescent
    descent = descent_of(problem, start.to(device), widths_of_windows, known)
    # those that failed have been put back to where they began
    first = None if before is None or changed is None else changed | before.failed
    if before is not None:
        descent.continue_from(before.last_step)
    descent.run(iterations, tolerance, first, movable)
    found = _results(descent, sigma, units, joint)
    if before is None or first is None:
        return found
    taken = descent.touched[descent.touched] if movable is None else np.asarray(movable)[descent.touched]
    result = before.updated(np.flatnonzero(descent.touched)[taken], found.take(taken))
    # what neighbours that moved leave to do is known of all
    result.last_step = descent.last_steps
    return result


def render_columns(fits: ColumnFits, shape: tuple[int, int], shifts: NDArray | None = None) -> NDArray[np.float64]:
    """The fitted columns' Gaussians without their backgrounds, ``(n_y, n_x)``, as a displaced beam records them."""
    from stemkit.columns.compiled import add_columns

    total = np.zeros(shape)
    if len(fits) == 0:
        return total
    parameters = np.stack([getattr(fits, name) for name in ELLIPTICAL], axis=1)
    if not parameters[:, 5:].any():
        parameters = parameters[:, :5]
    scan = np.empty((0, 0, 0)) if shifts is None else np.asarray(shifts, dtype=np.float64)
    reach = max(3, int(np.ceil(RENDERED * float(np.quantile(fits.sigma, 0.95)))))
    add_columns(total, np.ascontiguousarray(parameters, dtype=np.float64), scan, reach)
    return total


def absorbed(fits: ColumnFits, field: NDArray) -> NDArray[np.float64]:
    """What the columns' Gaussians would take of a small field ``(n_y, n_x)`` that is added to the image: one step of
    each column's fit, their backgrounds free and not counted.
    """
    image = torch.as_tensor(np.asarray(field, dtype=np.float64))
    total = torch.zeros_like(image)
    if len(fits) == 0:
        return total.numpy()
    everything = torch.as_tensor(np.stack([getattr(fits, name) for name in ROUND], axis=1))
    reach = max(2, int(np.ceil(REACH * float(np.median(fits.sigma)))))
    for part in everything.split(CHUNK):
        rows, cols, inside = _windows(part[:, :2], reach, field.shape)
        _, jacobian = derivatives(part, (rows - part[:, :1])[:, :, None], (cols - part[:, 1:2])[:, None, :])
        jacobian *= inside[:, None]
        at = rows.clamp(0, field.shape[0] - 1)[:, :, None], cols.clamp(0, field.shape[1] - 1)[:, None, :]
        flat = jacobian.flatten(2)
        matrix, gradient = flat @ flat.transpose(1, 2), flat @ image[at].flatten(1)[..., None]
        alone, free = torch.empty(len(part), 0, dtype=torch.long), torch.zeros(len(part), dtype=torch.float64)
        change = step(Blocks(matrix, matrix[:, None][:, :0], gradient[..., 0], free, free), alone, free)
        taken = (jacobian[:, :4] * change[:, :4, None, None]).sum(1)
        total.view(-1).index_add_(0, (at[0] * field.shape[1] + at[1]).flatten(), taken.flatten())
    return total.numpy()


# --- the door ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Units:
    """Pixels in units that a float32 holds well: their low end is 0, their range about 1."""

    level: float
    scale: float
    normalised: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray) -> _Units:
        level, high = (float(v) for v in np.quantile(pixel_subset(values), [0.2, 0.99]))
        scale = high - level if high > level else float(np.abs(values - level).max()) or 1.0
        return cls(level, scale, (values - level) / scale)

    def variance(self, variance: Variance | float | None) -> Variance | None:
        """A variance of the image's intensities as one of these."""
        if variance is None:
            return None
        known = variance if isinstance(variance, Variance) else Variance(float(variance))
        return known.in_units(self.level, self.scale)


def _checked_prior(prior: NDArray, n: int) -> NDArray[np.float64]:
    """The prior with 0 for positions of which nothing is known."""
    prior = np.array(prior, dtype=np.float64)
    if prior.shape != (n, 3):
        raise ValueError(f"prior must be (n_columns, 3), ({n}, 3) here, but has the shape {prior.shape}")
    unknown = np.isposinf(prior[:, 2])
    if not ((prior[:, 2] > 0).all() and np.isfinite(prior[~unknown]).all()):
        raise ValueError(
            "prior must hold finite positions with standard deviations above 0 px, or inf where nothing is known"
        )
    prior[unknown, :2] = 0.0
    return prior


def _start(values: NDArray, positions: NDArray, sigma: NDArray) -> Tensor:
    row, col = (p.round().astype(int).clip(0, n - 1) for p, n in zip(positions.T, values.shape, strict=True))
    start = np.zeros((len(positions), len(ROUND)))
    # the frame shows the flank of a column beyond it; values are about 1 at the brightest columns
    shown = np.exp(-0.5 * (_beyond(positions, values.shape) / sigma) ** 2)
    height = np.where(shown < 1, np.minimum(values[row, col] / shown, 1.0), values[row, col])
    start[:, :2], start[:, 2], start[:, 3] = positions, height, sigma
    return torch.as_tensor(start)


def _beyond(positions: NDArray, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Distance ``(n,)`` of positions beyond the centres of the outermost pixels, px; 0 for those in the frame."""
    distance = np.maximum(np.maximum(-positions, positions - (np.array(shape) - 1)), 0.0)
    return np.asarray(np.hypot(*distance.T))


def _again(fits: ColumnFits, units: _Units) -> Tensor:
    """Fits as a start."""
    start = np.column_stack([getattr(fits, name) for name in ELLIPTICAL])
    start[:, 4] -= units.level
    start[:, [2, 4]] /= units.scale
    return torch.as_tensor(start)


def _windows(places: Tensor, reach: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(n, w)``, columns ``(n, w)`` and whether a pixel is in the image and within reach ``(n, w, w)``."""
    span = torch.arange(-reach, reach + 1)
    rows, cols = (places[:, i, None].round().long() + span for i in (0, 1))
    inside_y, inside_x = (rows >= 0) & (rows < shape[0]), (cols >= 0) & (cols < shape[1])
    round_window = (span[:, None] ** 2 + span[None, :] ** 2) <= (reach + 0.5) ** 2
    return rows, cols, inside_y[:, :, None] & inside_x[:, None, :] & round_window


# --- results -----------------------------------------------------------------------------------------------------


def _results(descent: CompiledDescent | BatchedDescent, sigma: NDArray, units: _Units, joint: int) -> ColumnFits:
    """The fits that took part, in the image's units; those that failed are where they began, without errors."""
    some = np.flatnonzero(descent.touched)
    fitted, began, sigma = descent.fitted[some], descent.start.cpu().numpy()[some], sigma[some]
    covariance, residual = descent.errors(joint)
    gradient = _intensity_gradient(fitted)
    variance = np.column_stack(
        [np.diagonal(covariance, axis1=1, axis2=2), np.einsum("ni,nij,nj->n", gradient, covariance, gradient)]
    )
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(variance)
    failed = (
        ~descent.problem.free[:-1, 2].cpu().numpy()[some]
        | (fitted[:, 3] <= sigma / LIMITS.narrowest * 1.001)
        | (fitted[:, 3] >= sigma * LIMITS.widest * 0.999)
        | (np.abs(fitted[:, :2] - began[:, :2]) >= LIMITS.farthest * sigma[:, None] * 0.999).any(axis=1)
        | ~np.isfinite(errors).all(axis=1)
        | ~np.isfinite(fitted).all(axis=1)
    )
    numbers = np.where(failed[:, None], began, fitted)
    numbers = np.column_stack([numbers, _intensity(numbers)])
    errors[failed] = np.nan
    if fitted.shape[1] == len(ROUND):
        zero = np.zeros((len(fitted), 2))
        numbers, errors = (np.hstack([part[:, :5], zero, part[:, 5:]]) for part in (numbers, errors))
    scale = np.array([1, 1, units.scale, 1, units.scale, 1, 1, units.scale])
    numbers, errors = numbers * scale, errors * scale
    numbers[:, 4] += units.level
    return ColumnFits(
        **dict(zip(MEASURED, np.hstack([numbers, errors]).T, strict=True)),
        residual=residual,
        last_step=descent.last_steps[some],
        failed=failed,
    )


def _intensity(parameters: NDArray) -> NDArray[np.float64]:
    """Integral of a Gaussian, ``2 pi amplitude sigma^2 (1 - e1^2 - e2^2)^1/2``."""
    return 2 * np.pi * parameters[:, 2] * parameters[:, 3] ** 2 * np.sqrt(1 - (parameters[:, 5:] ** 2).sum(1))


def _intensity_gradient(parameters: NDArray) -> NDArray[np.float64]:
    """Its derivatives by the parameters, ``(n, P)``."""
    result = np.zeros_like(parameters)
    round_one = 2 * np.pi * np.sqrt(1 - (parameters[:, 5:] ** 2).sum(1))
    result[:, 2] = round_one * parameters[:, 3] ** 2
    result[:, 3] = 2 * round_one * parameters[:, 2] * parameters[:, 3]
    if parameters.shape[1] == len(ELLIPTICAL):
        squared = (2 * np.pi) ** 2 * (parameters[:, 2] * parameters[:, 3] ** 2 / round_one)[:, None]
        result[:, 5:] = -squared * parameters[:, 5:]
    return result


def _empty() -> ColumnFits:
    return ColumnFits(**{f.name: np.empty(0, dtype=bool if f.name == "failed" else float) for f in fields(ColumnFits)})
