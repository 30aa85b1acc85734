"""Regions of an image: grains, twins, phases, particles and islands.

A region is a function of positions ``(y, x)``, two tensors in px, that returns the distance from its border, positive
inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stemkit.parameters import check_integer
from stemkit.synthesis.arrangements.columns import Columns, along, superposed

__all__ = ["Region", "cropped", "disk", "facets", "half_plane", "joined", "mirrored", "uneven"]

Region = Callable[[Tensor, Tensor], Tensor]
Place = Sequence[float] | Sequence[Tensor]


def half_plane(through: Place, angle: float | Tensor) -> Region:
    """Region on one side of a line.

    Parameters
    ----------
    through : (float, float) or two Tensors of shape (n_images,)
        A point of the line, (y, x) px.
    angle : float or Tensor of shape (n_images,)
        Direction of the line in degrees, clockwise from x with y downwards; the region is on the right of this
        direction, below a line along x.
    """

    def inside(y: Tensor, x: Tensor) -> Tensor:
        radians = torch.deg2rad(along(angle, y))
        return torch.cos(radians) * (y - along(through[0], y)) - torch.sin(radians) * (x - along(through[1], y))

    return inside


def disk(at: Place, radius: float | Tensor) -> Region:
    """Disk around (y, x) with this radius, px."""

    def inside(y: Tensor, x: Tensor) -> Tensor:
        return along(radius, y) - torch.hypot(y - along(at[0], y), x - along(at[1], y))

    return inside


def facets(at: Place, radius: float | Tensor, sides: int = 6, angle: float | Tensor = 0.0) -> Region:
    """Regular polygon around (y, x) with sides at a distance of ``radius`` px, rotated by ``angle`` degrees."""
    check_integer("sides", sides, 3)

    def inside(y: Tensor, x: Tensor) -> Tensor:
        turn = torch.deg2rad(along(angle, y))[..., None]
        turn = turn + 2 * math.pi / sides * torch.arange(sides, device=y.device, dtype=y.dtype)
        dy, dx = y - along(at[0], y), x - along(at[1], y)
        return along(radius, y) - (torch.cos(turn) * dx[..., None] + torch.sin(turn) * dy[..., None]).amax(-1)

    return inside


def cropped(columns: Columns, region: Region) -> Columns:
    """Columns inside a region: a particle, an island, a crystal with an edge."""
    return columns.where(region(columns.y, columns.x) > 0)


def joined(first: Columns, second: Columns, region: Region, gap: float | Tensor = 0.0) -> Columns:
    """Columns of ``first`` inside a region, and of ``second`` outside: a grain boundary, an interface of two phases.

    Columns nearer to the border than half the ``gap``, px, are removed on either side, so that the distance between
    columns of the two crystals is at least ``gap``.
    """
    half = along(gap, first.y) / 2
    inside = first.where(region(first.y, first.x) > half)
    outside = second.where(region(second.y, second.x) <= -half)
    return superposed(inside, outside)


def mirrored(columns: Columns, through: Place, angle: float | Tensor) -> Columns:
    """Mirror columns at a line; joined with the original columns they form a twin.

    The line is defined as in :func:`~stemkit.synthesis.half_plane`.
    """
    turn = torch.deg2rad(along(angle, columns.y))
    distance = half_plane(through, angle)(columns.y, columns.x)
    return columns.moved(-2 * distance * torch.cos(turn), 2 * distance * torch.sin(turn))


def uneven(columns: Columns, factor: Tensor) -> Columns:
    """Multiply the heights of columns by factors ``(n_images, n_columns)``, such as those of a varying thickness."""
    return replace(columns, amplitude=columns.amplitude * factor)
