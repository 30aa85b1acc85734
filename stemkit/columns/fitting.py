"""Batched least-squares fits of Gaussian columns, thousands at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["ColumnFits", "absorbed", "fit_columns", "render_columns"]

#: A column is fitted on the pixels within this many sigmas of its start.
REACH = 2.5
#: Its model is drawn within this many.
RENDERED = 4.0
#: Columns fitted in one batch: bounds the memory, and keeps it near the processor (512 windows of 15 x 15 px: 5 MB).
CHUNK = 512
#: Rounds in which each column is fitted with its neighbours' latest models subtracted.
ROUNDS = 3
ITERATIONS = 8
#: Lags along the row at which correlated noise still counts.
CORRELATED_LAGS = 6

#: The numbers of a column, in the order of the fit's parameters, and their standard deviations.
PARAMETERS = ("y", "x", "amplitude", "sigma", "background")
MEASURED = (*PARAMETERS, *(f"{name}_err" for name in PARAMETERS))

Variance = Callable[[NDArray], NDArray]


@dataclass
class ColumnFits:
    """Fitted columns, one entry each; lengths in px, the others in the image's units.

    ``*_err`` are standard deviations; ``failed`` marks fits that did not converge, whose numbers are the start
    and whose errors are NaN.
    ``residual`` is the RMS of the residual over that of the noise that was expected.
    """

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    sigma: NDArray[np.float64]
    background: NDArray[np.float64]
    y_err: NDArray[np.float64]
    x_err: NDArray[np.float64]
    amplitude_err: NDArray[np.float64]
    sigma_err: NDArray[np.float64]
    background_err: NDArray[np.float64]
    residual: NDArray[np.float64]
    failed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, which: NDArray) -> ColumnFits:
        """The fits that an index or a mask selects."""
        return ColumnFits(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def fit_columns(
    values: NDArray,
    positions: NDArray,
    sigma: float,
    *,
    variance: Variance | None = None,
    correlation_x: float = 0.0,
    streaks: float = 0.0,
    shifts: NDArray | None = None,
    fit_sigma: bool = True,
    rounds: int = ROUNDS,
    iterations: int = ITERATIONS,
) -> ColumnFits:
    """Fit a round Gaussian and a constant background to each column, its neighbours' models subtracted.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        Recorded pixels, columns bright.
    positions : ndarray of shape (n_columns, 2)
        Starting ``(y, x)``, px.
    sigma : float
        Starting width, px; a fitted one stays within a factor of 2 of it.
    variance : callable, optional
        From the model's intensity at each pixel to the variance of its noise. None: constant, from the residuals.
    correlation_x : float
        Lag-1 correlation of the noise along the row, taken as autoregressive.
    streaks : float
        Standard deviation of offsets that a row has as a whole, across the width of a column.
    shifts : ndarray of shape (2, n_y, n_x), optional
        Where the beam stood, relative to its place in the grid, along y and x, px: pixel x recorded ``x + shift``.
        Positions are then those on the undisturbed grid.
    fit_sigma : bool
        False keeps every width at ``sigma``.
    rounds, iterations : int
        Rounds in which neighbours are subtracted, and steps of the fit in each.

    Returns
    -------
    ColumnFits

    Notes
    -----
    Levenberg-Marquardt on ``A exp(-r^2 / (2 sigma^2)) + B`` over the pixels within ``2.5 sigma``, weighted by the
    variance at the *model's* intensity (weights from the data would favour pixels that are low by chance), in
    rounds: after each one every column sees the image without its neighbours' latest models. The covariance is
    ``F^-1 M F^-1`` with ``F = J^T W J`` and ``M = J^T W C W J``, where C is the noise's covariance along the row,
    streaks included; for white noise this is the inverse Fisher information. Where the residual is larger than the
    noise explains (columns that are no Gaussians), errors grow in proportion to it.
    """
    if len(positions) == 0:
        return _empty()
    image = torch.as_tensor(np.array(values, dtype=np.float64))
    state = _State.from_positions(image, torch.as_tensor(np.asarray(positions, dtype=np.float64)), sigma)
    first = state.parameters.clone()
    reach, drawn = max(2, int(np.ceil(REACH * sigma))), max(3, int(np.ceil(RENDERED * sigma)))
    scan = _scan(shifts)
    for _ in range(rounds):
        others = _render(state, image.shape, drawn, scan)
        for part in torch.arange(len(positions)).split(CHUNK):
            one = state.at(part)
            state.put(part, _fit_chunk(image, others, one, reach, drawn, sigma, variance, fit_sigma, scan, iterations))
    others = _render(state, image.shape, drawn, scan)
    parts = [
        _measure(image, others, state.at(part), reach, drawn, variance, correlation_x, streaks, fit_sigma, scan)
        for part in torch.arange(len(positions)).split(CHUNK)
    ]
    return _finish(state, first, sigma, *(torch.cat(p).numpy() for p in zip(*parts, strict=True)))


def render_columns(fits: ColumnFits, shape: tuple[int, int], shifts: NDArray | None = None) -> NDArray[np.float64]:
    """The fitted columns' Gaussians without their backgrounds, ``(n_y, n_x)``, as a displaced beam records them."""
    if len(fits) == 0:
        return np.zeros(shape)
    parameters = torch.as_tensor(np.stack([getattr(fits, name) for name in PARAMETERS], axis=1))
    scan = _scan(shifts)
    reach = int(np.ceil(RENDERED * float(np.quantile(fits.sigma, 0.95))))
    return _render(_State(parameters, parameters[:, :2]), torch.Size(shape), reach, scan).numpy()


def absorbed(fits: ColumnFits, field: NDArray) -> NDArray[np.float64]:
    """What the columns' Gaussians would take of a small field ``(n_y, n_x)`` that is added to the image: one step of
    the fits, their backgrounds free and not counted.
    """
    image = torch.as_tensor(np.asarray(field, dtype=np.float64))
    total = torch.zeros(image.shape, dtype=torch.float64)
    if len(fits) == 0:
        return total.numpy()
    everything = torch.as_tensor(np.stack([getattr(fits, name) for name in PARAMETERS], axis=1))
    reach = max(2, int(np.ceil(REACH * float(np.median(fits.sigma)))))
    n_y, n_x = image.shape
    for part in torch.arange(len(fits)).split(CHUNK):
        parameters = everything[part]
        rows, cols, inside = _windows(parameters[:, :2], reach, image.shape)
        _, jacobian = _jacobian(parameters, rows, cols, True, None)
        flat = rows.clamp(0, n_y - 1)[:, :, None] * n_x + cols.clamp(0, n_x - 1)[:, None, :]
        weight = inside.to(torch.float64)
        none = torch.zeros(len(parameters), dtype=torch.float64)
        step = _step(jacobian, weight, image.view(-1)[flat], none, True)
        taken = (jacobian[:, :4] * step[:, :4, None, None]).sum(1)
        total.view(-1).index_add_(0, flat.flatten(), (taken * inside).flatten())
    return total.numpy()


# --- state -------------------------------------------------------------------------------------------------------


@dataclass
class _State:
    """Parameters ``(n, 5)``: y, x, amplitude, sigma, background; and where each fit started."""

    parameters: Tensor
    start: Tensor

    @classmethod
    def from_positions(cls, image: Tensor, positions: Tensor, sigma: float) -> _State:
        n_y, n_x = image.shape
        row = positions[:, 0].round().long().clamp(0, n_y - 1)
        col = positions[:, 1].round().long().clamp(0, n_x - 1)
        level = image.flatten()[:: max(1, image.numel() // 2**16)].quantile(0.2)
        height = image[row, col] - level
        ones = torch.ones_like(height)
        parameters = torch.stack([positions[:, 0], positions[:, 1], height, sigma * ones, level * ones], dim=1)
        return cls(parameters, positions.clone())

    def at(self, part: Tensor) -> _State:
        return _State(self.parameters[part], self.start[part])

    def put(self, part: Tensor, parameters: Tensor) -> None:
        self.parameters[part] = parameters


def _scan(shifts: NDArray | None) -> Tensor | None:
    """Displacements as a tensor, those of whole rows once per row."""
    if shifts is None:
        return None
    field = np.asarray(shifts, dtype=np.float64)
    return torch.as_tensor(field[:, :, :1].copy() if (field == field[:, :, :1]).all() else field)


def _windows(start: Tensor, reach: int, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(n, w)``, columns ``(n, w)`` and whether a pixel is in the image and within reach ``(n, w, w)``."""
    span = torch.arange(-reach, reach + 1)
    rows = start[:, :1].round().long() + span
    cols = start[:, 1:].round().long() + span
    inside_y, inside_x = (rows >= 0) & (rows < shape[0]), (cols >= 0) & (cols < shape[1])
    round_window = (span[:, None] ** 2 + span[None, :] ** 2) <= (reach + 0.5) ** 2
    return rows, cols, inside_y[:, :, None] & inside_x[:, None, :] & round_window


def _gaussian(parameters: Tensor, rows: Tensor, cols: Tensor, scan: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    y, x, _, sigma, _ = parameters.unbind(1)
    dy = (rows - y[:, None])[:, :, None]
    dx = (cols - x[:, None])[:, None, :]
    if scan is not None:
        r, c = rows.clamp(0, scan.shape[1] - 1)[:, :, None], cols.clamp(0, scan.shape[2] - 1)[:, None, :]
        at = scan[:, r[:, :, 0], 0][..., None] if scan.shape[2] == 1 else scan[:, r, c]
        dy, dx = dy + at[0], dx + at[1]
    return torch.exp(-0.5 * (dy**2 + dx**2) / sigma[:, None, None] ** 2), dy, dx


def _render(state: _State, shape: torch.Size, reach: int, scan: Tensor | None) -> Tensor:
    """All columns' models without their backgrounds."""
    total = torch.zeros(shape, dtype=torch.float64)
    for part in torch.arange(len(state.start)).split(CHUNK):
        one = state.at(part)
        rows, cols, inside = _windows(one.parameters[:, :2], reach, shape)
        g, _, _ = _gaussian(one.parameters, rows, cols, scan)
        flat = (rows.clamp(0, shape[0] - 1) * shape[1])[:, :, None] + cols.clamp(0, shape[1] - 1)[:, None, :]
        g = g * inside * one.parameters[:, 2, None, None]
        total.view(-1).index_add_(0, flat.flatten(), g.flatten())
    return total


def _data(
    image: Tensor, others: Tensor, one: _State, reach: int, drawn: int, scan: Tensor | None
) -> tuple[Tensor, ...]:
    """Window pixels with the neighbours' models subtracted, those models, and the window's geometry."""
    # the window follows the fit, so that the result does not depend on where the fit began
    rows, cols, inside = _windows(one.parameters[:, :2], reach, image.shape)
    r, c = rows.clamp(0, image.shape[0] - 1)[:, :, None], cols.clamp(0, image.shape[1] - 1)[:, None, :]
    g, _, _ = _gaussian(one.parameters, rows, cols, scan)
    # a model is drawn farther than the window reaches, so its own part can be taken off exactly
    near = (rows - one.parameters[:, :1].round())[:, :, None] ** 2 + (cols - one.parameters[:, 1:2].round())[
        :, None
    ] ** 2
    near = near <= (drawn + 0.5) ** 2
    neighbours = others[r, c] - one.parameters[:, 2, None, None] * g * near
    return image[r, c] - neighbours, neighbours, rows, cols, inside.to(torch.float64)


def _jacobian(
    parameters: Tensor, rows: Tensor, cols: Tensor, fit_sigma: bool, scan: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Model ``(n, w, w)`` and its derivatives ``(n, 5, w, w)``."""
    g, dy, dx = _gaussian(parameters, rows, cols, scan)
    amplitude, sigma, background = (parameters[:, i, None, None] for i in (2, 3, 4))
    ag = amplitude * g
    by_sigma = ag * (dy**2 + dx**2) / sigma**3 if fit_sigma else torch.zeros_like(g)
    derivatives = torch.stack([ag * dy / sigma**2, ag * dx / sigma**2, g, by_sigma, torch.ones_like(g)], dim=1)
    return ag + background, derivatives


# --- fitting -----------------------------------------------------------------------------------------------------


def _fit_chunk(
    image: Tensor,
    others: Tensor,
    one: _State,
    reach: int,
    drawn: int,
    sigma: float,
    variance: Variance | None,
    fit_sigma: bool,
    scan: Tensor | None,
    iterations: int,
) -> Tensor:
    data, neighbours, rows, cols, inside = _data(image, others, one, reach, drawn, scan)
    parameters = one.parameters.clone()
    damping = torch.full((len(parameters),), 1e-2, dtype=torch.float64)
    model, jacobian = _jacobian(parameters, rows, cols, fit_sigma, scan)
    weight = inside * _weights(model + neighbours, variance)
    cost = (weight * (data - model) ** 2).sum((1, 2))
    for _ in range(iterations):
        step = _step(jacobian, weight, data - model, damping, fit_sigma)
        tried = _bounded(parameters + step, one.start, sigma, reach)
        tried_model, tried_jacobian = _jacobian(tried, rows, cols, fit_sigma, scan)
        tried_cost = (weight * (data - tried_model) ** 2).sum((1, 2))
        better = tried_cost <= cost
        parameters = torch.where(better[:, None], tried, parameters)
        model = torch.where(better[:, None, None], tried_model, model)
        jacobian = torch.where(better[:, None, None, None], tried_jacobian, jacobian)
        cost = torch.where(better, tried_cost, cost)
        damping = torch.where(better, damping / 5, damping * 8)
    return parameters


def _weights(intensity: Tensor, variance: Variance | None) -> Tensor:
    if variance is None:
        return torch.ones_like(intensity)
    return 1.0 / torch.as_tensor(variance(intensity.numpy()), dtype=torch.float64)


def _normal_matrix(jacobian: Tensor, weight: Tensor, fit_sigma: bool) -> Tensor:
    flat = jacobian.flatten(2)
    matrix = (flat * weight.flatten(1)[:, None]) @ flat.transpose(1, 2)
    if not fit_sigma:
        matrix[:, 3, 3] = 1.0
    return matrix


def _step(jacobian: Tensor, weight: Tensor, residual: Tensor, damping: Tensor, fit_sigma: bool) -> Tensor:
    matrix = _normal_matrix(jacobian, weight, fit_sigma)
    gradient = (jacobian.flatten(2) @ (weight * residual).flatten(1)[..., None])[..., 0]
    # parameters have different units: each is scaled by its own curvature (Marquardt)
    scale = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
    matrix = matrix * scale[:, :, None] * scale[:, None, :] + torch.diag_embed(damping[:, None].expand(-1, 5) + 1e-12)
    solution, info = torch.linalg.solve_ex(matrix, (gradient * scale)[..., None])
    step = solution[..., 0] * scale
    return torch.where((info[:, None] == 0) & torch.isfinite(step), step, torch.zeros_like(step))


def _bounded(parameters: Tensor, start: Tensor, sigma: float, reach: int) -> Tensor:
    """Fits stay near their start: in position within 1.5 sigma, in width within a factor of 2."""
    limit = min(1.5 * sigma, float(reach))
    position = torch.maximum(torch.minimum(parameters[:, :2], start + limit), start - limit)
    width = parameters[:, 3:4].clamp(sigma / 2, sigma * 2)
    return torch.cat([position, parameters[:, 2:3], width, parameters[:, 4:]], dim=1)


# --- errors ------------------------------------------------------------------------------------------------------


def _measure(
    image: Tensor,
    others: Tensor,
    one: _State,
    reach: int,
    drawn: int,
    variance: Variance | None,
    correlation_x: float,
    streaks: float,
    fit_sigma: bool,
    scan: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Standard deviations ``(n, 5)`` and the residual's RMS over the expected one ``(n,)``."""
    data, neighbours, rows, cols, inside = _data(image, others, one, reach, drawn, scan)
    model, jacobian = _jacobian(one.parameters, rows, cols, fit_sigma, scan)
    weight = inside * _weights(model + neighbours, variance)
    n_free = (inside.sum((1, 2)) - (5 if fit_sigma else 4)).clamp_min(1.0)
    chi2 = (weight * (data - model) ** 2).sum((1, 2)) / n_free
    # streaks are expected in the residual, too
    chi2 = chi2 / (1 + streaks**2 * weight.sum((1, 2)) / inside.sum((1, 2)).clamp_min(1.0))
    matrix = _normal_matrix(jacobian, weight, fit_sigma)
    scale = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
    inverse, info = torch.linalg.inv_ex(matrix * scale[:, :, None] * scale[:, None, :])
    inverse = inverse * scale[:, :, None] * scale[:, None, :]
    covariance = inverse @ _noise_matrix(jacobian, weight, correlation_x, streaks, fit_sigma) @ inverse
    if variance is None:
        covariance = covariance * chi2[:, None, None]
        chi2 = torch.ones_like(chi2)
    covariance = covariance * chi2.clamp_min(1.0)[:, None, None]
    deviation = covariance.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()
    if not fit_sigma:
        deviation[:, 3] = 0.0
    bad = (info != 0) | ~torch.isfinite(deviation).all(dim=1)
    return torch.where(bad[:, None], torch.nan, deviation), chi2.sqrt()


def _noise_matrix(jacobian: Tensor, weight: Tensor, correlation_x: float, streaks: float, fit_sigma: bool) -> Tensor:
    """``J^T W C W J`` for noise of variance 1 / W, its correlation along the row falling as rho^lag, and streaks."""
    scaled = jacobian * weight.sqrt()[:, None]
    total = scaled.flatten(2) @ scaled.flatten(2).transpose(1, 2)
    for lag in range(1, min(CORRELATED_LAGS, scaled.shape[-1] - 1) + 1 if correlation_x else 0):
        cross = scaled[..., lag:].flatten(2) @ scaled[..., :-lag].flatten(2).transpose(1, 2)
        total = total + correlation_x**lag * (cross + cross.transpose(1, 2))
    if streaks:
        rows = (jacobian * weight[:, None]).sum(dim=-1)
        total = total + streaks**2 * rows @ rows.transpose(1, 2)
    if not fit_sigma:
        total[:, 3, 3] = 1.0
    return total


def _finish(state: _State, first: Tensor, sigma: float, errors: NDArray, residual: NDArray) -> ColumnFits:
    """The fits, those that failed put back to where they began, without errors."""
    fitted, began = state.parameters.numpy(), first.numpy()
    width = fitted[:, 3]
    failed = (
        (width <= sigma / 2 * 1.001)
        | (width >= sigma * 2 * 0.999)
        | (np.abs(fitted[:, :2] - began[:, :2]) >= 1.499 * sigma).any(axis=1)
        | ~np.isfinite(errors).all(axis=1)
        | ~np.isfinite(fitted).all(axis=1)
    )
    numbers = np.concatenate([np.where(failed[:, None], began, fitted), np.where(failed[:, None], np.nan, errors)], 1)
    return ColumnFits(**dict(zip(MEASURED, numbers.T, strict=True)), residual=residual, failed=failed)


def _empty() -> ColumnFits:
    return ColumnFits(**{f.name: np.empty(0, dtype=bool if f.name == "failed" else float) for f in fields(ColumnFits)})
