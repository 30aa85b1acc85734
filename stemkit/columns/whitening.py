"""Whitening of residuals: the inverse square root of the covariance of the noise on a column's window."""

from __future__ import annotations

import torch
from torch import Tensor

from stemkit.columns.noise import FitNoise

__all__ = ["Whitening"]


class Whitening:
    """Multiplication by ``C^-1/2`` on windows: whitened noise is independent between pixels and has variance 1.

    Parameters
    ----------
    variance : Tensor of shape (m, h, w) or None
        Variance v of the noise of each pixel; None: 1.
    use : Tensor of bool, shape (m, h, w)
        Valid pixels; the others become 0.
    noise : FitNoise

    Notes
    -----
    Three factors are applied one after the other. Pixels are divided by ``v^1/2``. Autoregressive noise along the row,
    ``z_x = rho z_(x-1) + e``, becomes ``(z_x - rho z_(x-1)) / (1 - rho^2)^1/2``. Streaks, an offset of variance s^2 of
    each row, then add ``s^2 t t^T`` to the unit covariance, where t is a row of ones after the first two factors, and
    ``(1 + s^2 t t^T)^-1/2 = 1 - c t t^T`` with ``c = (1 - (1 + s^2 t^T t)^-1/2) / (t^T t)``.
    """

    def __init__(self, variance: Tensor | None, use: Tensor, noise: FitNoise):
        self.correlation, self.streaks = noise.correlation_x, noise.streaks
        self.scale = use.to(torch.float32) if variance is None else use * variance.rsqrt()
        self.row: Tensor | None = None
        self.innovation: Tensor | None = None
        if self.correlation:
            follows = torch.nn.functional.pad(use[..., :-1], (1, 0)) & use
            self.innovation = use * torch.where(follows, (1 - self.correlation**2) ** -0.5, 1.0)
        if self.streaks:
            row = self._pointwise(torch.ones_like(self.scale)[:, None])
            square = (row**2).sum(-1, keepdim=True).clamp_min(1e-30)
            self.removed = (1 - (1 + self.streaks**2 * square) ** -0.5) / square
            self.row = row

    def __call__(self, values: Tensor) -> Tensor:
        """Whiten values ``(m, k, h, w)``, which may be overwritten."""
        values = self._pointwise(values)
        if self.row is None:
            return values
        return values - self.row * (self.removed * (self.row * values).sum(-1, keepdim=True))

    def adjoint(self, values: Tensor) -> Tensor:
        """Multiply values ``(m, k, h, w)`` by the transposed matrix."""
        if self.row is not None:
            values = values - self.row * (self.removed * (self.row * values).sum(-1, keepdim=True))
        if self.innovation is not None:
            values = self.innovation[:, None] * values
            values = values - self.correlation * torch.nn.functional.pad(values[..., 1:], (0, 1))
        return values * self.scale[:, None]

    def _pointwise(self, values: Tensor) -> Tensor:
        values *= self.scale[:, None]
        if self.innovation is None:
            return values
        before = torch.nn.functional.pad(values[..., :-1], (1, 0))
        return self.innovation[:, None] * (values - self.correlation * before)
