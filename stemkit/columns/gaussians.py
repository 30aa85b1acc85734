"""Values and derivatives of Gaussian columns on small windows of an image, as batched tensors."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ELLIPTICAL", "ROUND", "derivatives", "profile", "projected", "summed"]

#: Parameters of a round column, in this order.
ROUND = ("y", "x", "amplitude", "sigma", "background")
#: Parameters of an elliptical column: the covariance matrix is ``sigma^2 [[1 + e1, e2], [e2, 1 - e1]]`` in (y, x).
ELLIPTICAL = (*ROUND, "e1", "e2")


def profile(parameters: Tensor, dy: Tensor, dx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussians of amplitude 1, and offsets from their centres multiplied by the inverse covariance matrix.

    Parameters
    ----------
    parameters : Tensor of shape (..., 5) or (..., 7)
    dy, dx : Tensor of shape (..., h, 1) and (..., 1, w), or both up to (..., h, w)
        Offsets from the centre, px. With separate offsets along y and x, a round Gaussian needs h + w exponentials.

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
    """Sum of k columns on each of m windows, ``(m, h, w)``, without their backgrounds.

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
        Weight of the column's background in the background of each pixel.
    out : Tensor of shape (m, P, h, w), optional
        Array for the derivatives.
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


def projected(parameters: Tensor, dy: Tensor, dx: Tensor, share: Tensor, onto: Tensor) -> Tensor:
    """Inner products of the derivatives of k columns on each of m windows with Q fields, ``(m, k, Q, P)``.

    Parameters
    ----------
    parameters : Tensor of shape (m, k, P)
    dy, dx : Tensor of shape (m, k, h, 1) and (m, k, 1, w), or both (m, k, h, w)
    share : Tensor of shape (m, k, h, w)
    onto : Tensor of shape (m, Q, h, w)

    Notes
    -----
    Round Gaussians and their derivatives are sums of products of functions of y and of x, ``d^i exp(-d^2 / (2
    sigma^2))`` with i up to 2, so that the inner products are computed along one axis after the other.
    """
    m, k, n_parameters = parameters.shape
    n_fields, h, w = onto.shape[1:]
    if n_parameters > len(ROUND) or dy.shape[-1] > 1 or dx.shape[-2] > 1:
        fields = onto.flatten(2)
        every = [derivatives(parameters[:, i], dy[:, i], dx[:, i], share[:, i])[1].flatten(2) for i in range(k)]
        return torch.stack([fields @ one.transpose(1, 2) for one in every], dim=1)
    amplitude, sigma = parameters[:, :, None, 2], parameters[:, :, None, 3]
    along_y, along_x = (_moments(d, sigma) for d in (dy[..., 0], dx[..., 0, :]))
    rows = onto.reshape(m, n_fields * h, w) @ along_x.reshape(m, 3 * k, w).transpose(1, 2)
    rows = rows.view(m, n_fields, h, k, 3).permute(0, 3, 2, 1, 4).reshape(m, k, h, 3 * n_fields)
    sums = (along_y @ rows).view(m, k, 3, n_fields, 3)
    result = onto.new_empty(m, k, n_fields, n_parameters)
    steep = amplitude / sigma**2
    result[..., 0], result[..., 1] = steep * sums[:, :, 1, :, 0], steep * sums[:, :, 0, :, 1]
    result[..., 2] = sums[:, :, 0, :, 0]
    result[..., 3] = steep / sigma * (sums[:, :, 2, :, 0] + sums[:, :, 0, :, 2])
    result[..., 4] = share.flatten(2) @ onto.flatten(2).transpose(1, 2)
    return result


def _moments(distance: Tensor, sigma: Tensor) -> Tensor:
    """Gaussians along one axis, multiplied by 1, d and d^2, ``(m, k, 3, n)``."""
    values = torch.exp(-0.5 * (distance / sigma) ** 2)
    return torch.stack([values, values * distance, values * distance**2], dim=2)
