"""Displacement of columns: strain, dislocations, static disorder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stemkit.synthesis.arrangements.columns import Columns, along

__all__ = ["dislocated", "displaced_randomly", "strained"]

#: Default of Poisson's ratio (chosen: typical of metals).
POISSON = 0.3


def strained(columns: Columns, gradient: ArrayLike, about: Sequence[float] = (0.0, 0.0)) -> Columns:
    """Displace columns by ``gradient @ (r - about)``: strain is the symmetric part of the gradient, rotation the rest.

    Parameters
    ----------
    columns : Columns
    gradient : array-like of shape (2, 2) or (n_images, 2, 2)
        ``[[du_y/dy, du_y/dx], [du_x/dy, du_x/dx]]``.
    about : (float, float)
        Fixed point, (y, x) px.
    """
    matrix = torch.as_tensor(gradient, dtype=columns.y.dtype, device=columns.y.device).expand(len(columns), 2, 2)
    offset = columns.places - torch.as_tensor(about, dtype=columns.y.dtype, device=columns.y.device)
    moved = offset @ matrix.transpose(1, 2)
    return columns.moved(moved[..., 0], moved[..., 1])


def dislocated(
    columns: Columns,
    at: Sequence[float] | Sequence[Tensor],
    burgers: Sequence[float] | Sequence[Tensor],
    poisson: float = POISSON,
) -> Columns:
    """Displace columns by the field of an edge dislocation along the beam, in an isotropic crystal.

    Parameters
    ----------
    columns : Columns
    at : (float, float) or two Tensors of shape (n_images,)
        Position of the core, (y, x) px.
    burgers : (float, float) or two Tensors of shape (n_images,)
        Burgers vector, (y, x) px. If it is not a lattice vector, there is a stacking fault along the slip plane, from
        the core in the direction opposite to the Burgers vector.
    poisson : float
        Poisson's ratio.

    Notes
    -----
    With ``xi`` along the Burgers vector b and ``eta`` across it [1]_ (eq. 3-45)::

        u_xi  =  b / (2 pi) (atan2(eta, xi) + xi eta / (2 (1 - nu) r^2))
        u_eta = -b / (2 pi) ((1 - 2 nu) / (4 (1 - nu)) ln r^2 + (xi^2 - eta^2) / (4 (1 - nu) r^2))

    References
    ----------
    .. [1] J. P. Hirth, J. Lothe, Theory of Dislocations, 2nd ed., Wiley (1982)
    """
    if not -1 < poisson < 0.5:
        raise ValueError(f"poisson must be between -1 and 0.5, but is {poisson!r}")
    y0, x0, by, bx = (along(v, columns.y) for v in (*at, *burgers))
    b = torch.hypot(by, bx).clamp_min(1e-6)
    cos, sin = bx / b, by / b
    dy, dx = columns.y - y0, columns.x - x0
    xi, eta = cos * dx + sin * dy, cos * dy - sin * dx
    # the continuum theory does not describe the core
    r2 = (xi**2 + eta**2).clamp_min(1e-4 * b**2)
    stiff = 4 * (1 - poisson)
    u_xi = b / (2 * math.pi) * (torch.atan2(eta, xi) + 2 * xi * eta / (stiff * r2))
    u_eta = -b / (2 * math.pi) * ((1 - 2 * poisson) / stiff * (r2 / b**2).log() + (xi**2 - eta**2) / (stiff * r2))
    return columns.moved(cos * u_eta + sin * u_xi, cos * u_xi - sin * u_eta)


def displaced_randomly(columns: Columns, rms: float | Tensor, generator: torch.Generator) -> Columns:
    """Static disorder: independent displacements of ``rms`` px along each axis, clipped at 2.5 times that."""
    move = torch.randn((2, *columns.y.shape), generator=generator, device=columns.y.device).clamp(-2.5, 2.5)
    move = move.to(columns.y.dtype) * along(rms, columns.y)
    return replace(columns, y=columns.y + move[0], x=columns.x + move[1])
