"""Gaussian columns on small windows of an image: their values and derivatives, thousands of columns at once."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ELLIPTICAL", "ROUND", "derivatives", "profile", "summed"]

#: The parameters of a column, in this order. A Gaussian's covariance is ``sigma^2 [[1 + e1, e2], [e2, 1 - e1]]`` in
#: (y, x): round where both are zero.
ROUND = ("y", "x", "amplitude", "sigma", "background")
ELLIPTICAL = (*ROUND, "e1", "e2")


def profile(parameters: Tensor, dy: Tensor, dx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussians of height 1, and their distances from the centre in terms of the inverse covariance.

    Parameters
    ----------
    parameters : Tensor of shape (..., 5) or (..., 7)
    dy, dx : Tensor of shape (..., h, 1) and (..., 1, w), or both up to (..., h, w)
        Distances from the centre, px. Apart from each other, a round Gaussian takes h + w exponentials only.

    Returns
    -------
    values, u_y, u_x : Tensor
        ``exp(-(dy u_y + dx u_x) / 2)`` with ``(u_y, u_x) = covariance^-1 (dy, dx)``.
    """
    inverse = (parameters[..., 3] ** -2)[..., None, None]
    if parameters.shape[-1] == len(ROUND):
        u_y, u_x = inverse * dy, inverse * dx
        return torch.exp(-0.5 * u_y * dy) * torch.exp(-0.5 * u_x * dx), u_y, u_x
    e1, e2 = parameters[..., 5, None, None], parameters[..., 6, None, None]
    inverse = inverse / (1 - e1**2 - e2**2)
    u_y = inverse * ((1 - e1) * dy - e2 * dx)
    u_x = inverse * ((1 + e1) * dx - e2 * dy)
    return torch.exp(-0.5 * (u_y * dy + u_x * dx)), u_y, u_x


def summed(parameters: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """The sum of k columns on each window, ``(m, h, w)``, without their backgrounds.

    Parameters
    ----------
    parameters : Tensor of shape (m, k, 5) or (m, k, 7)
    dy, dx : Tensor of shape (m, k, h, 1) and (m, k, 1, w), or both (m, k, h, w)
    """
    amplitude = parameters[..., 2, None, None]
    if parameters.shape[-1] == len(ROUND) and dy.shape[-1] == 1 and dx.shape[-2] == 1:
        inverse = (-0.5 * parameters[..., 3] ** -2)[..., None]
        along_y = amplitude[..., 0] * torch.exp(inverse * dy[..., 0] ** 2)
        along_x = torch.exp(inverse * dx[..., 0, :] ** 2)
        return along_y.transpose(1, 2) @ along_x
    return (amplitude * profile(parameters, dy, dx)[0]).sum(1)


def derivatives(
    parameters: Tensor, dy: Tensor, dx: Tensor, share: Tensor | float = 1.0, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A column without its background, ``(m, h, w)``, and the derivatives by its parameters, ``(m, P, h, w)``.

    Parameters
    ----------
    parameters : Tensor of shape (m, P), P is 5 or 7
    dy, dx : Tensor of shape (m, h, 1) and (m, 1, w), or both (m, h, w)
    share : Tensor of shape (m, h, w), optional
        The part that the column's background has in that of a pixel.
    out : Tensor of shape (m, P, h, w), optional
        Where to write the derivatives.
    """
    values, u_y, u_x = profile(parameters, dy, dx)
    amplitude, sigma = (parameters[:, i, None, None] for i in (2, 3))
    column = amplitude * values
    result = column.new_empty(len(column), parameters.shape[1], *column.shape[1:]) if out is None else out
    torch.mul(column, u_y, out=result[:, 0])
    torch.mul(column, u_x, out=result[:, 1])
    result[:, 2] = values
    torch.mul(column, (dy / sigma) * u_y + (dx / sigma) * u_x, out=result[:, 3])
    result[:, 4] = share
    if parameters.shape[1] == len(ELLIPTICAL):
        # d exp(-d' C^-1 d / 2) = u' dC u / 2 exp(...), u = C^-1 d
        result[:, 5] = 0.5 * sigma**2 * (result[:, 0] * u_y - result[:, 1] * u_x)
        result[:, 6] = sigma**2 * result[:, 0] * u_x
    return column, result
