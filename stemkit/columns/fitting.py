"""Batched least-squares fits of Gaussian columns, thousands at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["ColumnFits", "fit_columns"]

#: A column is fitted on the pixels within this many sigmas of its start.
REACH = 2.5
#: Columns fitted in one batch: bounds the memory (4096 windows of 15 x 15 px take 40 MB).
CHUNK = 4096
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
    fit_sigma: bool = True,
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
    fit_sigma : bool
        False keeps every width at ``sigma``.

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
    reach = max(2, int(np.ceil(REACH * sigma)))
    for _ in range(ROUNDS):
        others = _render(state, image.shape, 2 * reach)
        for part in torch.arange(len(positions)).split(CHUNK):
            state.put(part, _fit_chunk(image, others, state.at(part), reach, sigma, variance, fit_sigma))
    others = _render(state, image.shape, 2 * reach)
    parts = [
        _measure(image, others, state.at(part), reach, variance, correlation_x, streaks, fit_sigma)
        for part in torch.arange(len(positions)).split(CHUNK)
    ]
    return _finish(state, first, sigma, *(torch.cat(p).numpy() for p in zip(*parts, strict=True)))


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
        level = image.quantile(0.2) if image.numel() < 2**24 else image.flatten()[::16].quantile(0.2)
        height = image[row, col] - level
        ones = torch.ones_like(height)
        parameters = torch.stack([positions[:, 0], positions[:, 1], height, sigma * ones, level * ones], dim=1)
        return cls(parameters, positions.clone())

    def at(self, part: Tensor) -> _State:
        return _State(self.parameters[part], self.start[part])

    def put(self, part: Tensor, parameters: Tensor) -> None:
        self.parameters[part] = parameters


def _windows(start: Tensor, reach: int, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(n, w)``, columns ``(n, w)`` and whether a pixel is in the image and within reach ``(n, w, w)``."""
    span = torch.arange(-reach, reach + 1)
    rows = start[:, :1].round().long() + span
    cols = start[:, 1:].round().long() + span
    inside_y, inside_x = (rows >= 0) & (rows < shape[0]), (cols >= 0) & (cols < shape[1])
    round_window = (span[:, None] ** 2 + span[None, :] ** 2) <= (reach + 0.5) ** 2
    return rows, cols, inside_y[:, :, None] & inside_x[:, None, :] & round_window


def _gaussian(parameters: Tensor, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y, x, _, sigma, _ = parameters.unbind(1)
    dy = (rows - y[:, None])[:, :, None]
    dx = (cols - x[:, None])[:, None, :]
    return torch.exp(-0.5 * (dy**2 + dx**2) / sigma[:, None, None] ** 2), dy, dx


def _render(state: _State, shape: torch.Size, reach: int) -> Tensor:
    """All columns' models without their backgrounds."""
    total = torch.zeros(shape, dtype=torch.float64)
    for part in torch.arange(len(state.start)).split(CHUNK):
        one = state.at(part)
        rows, cols, inside = _windows(one.parameters[:, :2], reach, shape)
        g, _, _ = _gaussian(one.parameters, rows, cols)
        flat = (rows.clamp(0, shape[0] - 1) * shape[1])[:, :, None] + cols.clamp(0, shape[1] - 1)[:, None, :]
        total.view(-1).index_add_(0, flat[inside], (one.parameters[:, 2, None, None] * g)[inside])
    return total


def _data(image: Tensor, others: Tensor, one: _State, reach: int) -> tuple[Tensor, ...]:
    """Window pixels with the neighbours' models subtracted, those models, and the window's geometry."""
    # the window follows the fit, so that the result does not depend on where the fit began
    rows, cols, inside = _windows(one.parameters[:, :2], reach, image.shape)
    r, c = rows.clamp(0, image.shape[0] - 1)[:, :, None], cols.clamp(0, image.shape[1] - 1)[:, None, :]
    g, dy, dx = _gaussian(one.parameters, rows, cols)
    # a model is rendered to twice the window's reach, so its own part can be taken off exactly
    near = (dy**2 + dx**2) <= (2 * reach + 0.5) ** 2
    neighbours = others[r, c] - one.parameters[:, 2, None, None] * g * near
    return image[r, c] - neighbours, neighbours, rows, cols, inside.to(torch.float64)


def _jacobian(parameters: Tensor, rows: Tensor, cols: Tensor, fit_sigma: bool) -> tuple[Tensor, Tensor]:
    """Model ``(n, w, w)`` and its derivatives ``(n, 5, w, w)``."""
    g, dy, dx = _gaussian(parameters, rows, cols)
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
    sigma: float,
    variance: Variance | None,
    fit_sigma: bool,
) -> Tensor:
    data, neighbours, rows, cols, inside = _data(image, others, one, reach)
    parameters = one.parameters.clone()
    damping = torch.full((len(parameters),), 1e-2, dtype=torch.float64)
    model, jacobian = _jacobian(parameters, rows, cols, fit_sigma)
    weight = inside * _weights(model + neighbours, variance)
    cost = (weight * (data - model) ** 2).sum((1, 2))
    for _ in range(ITERATIONS):
        step = _step(jacobian, weight, data - model, damping, fit_sigma)
        tried = _bounded(parameters + step, one.start, sigma, reach)
        tried_model, tried_jacobian = _jacobian(tried, rows, cols, fit_sigma)
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
    variance: Variance | None,
    correlation_x: float,
    streaks: float,
    fit_sigma: bool,
) -> tuple[Tensor, Tensor]:
    """Standard deviations ``(n, 5)`` and the residual's RMS over the expected one ``(n,)``."""
    data, neighbours, rows, cols, inside = _data(image, others, one, reach)
    model, jacobian = _jacobian(one.parameters, rows, cols, fit_sigma)
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
