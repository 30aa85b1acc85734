"""Parts of an image: grains, twins, phases, particles and islands.

A region is a function of positions ``(y, x)``, two tensors in px, that gives the distance from its border, positive
inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stemkit.synthesis.arrangements.columns import Columns, along, superposed

__all__ = ["Region", "cut", "disk", "facets", "half_plane", "joined", "mirrored", "uneven"]

Region = Callable[[Tensor, Tensor], Tensor]
Place = Sequence[float] | Sequence[Tensor]


def half_plane(through: Place, angle: float | Tensor) -> Region:
    """What lies on one side of a line.

    Parameters
    ----------
    through : (float, float) or two Tensors of shape (n_images,)
        A point of the line, (y, x) px.
    angle : float or Tensor of shape (n_images,)
        The line's direction in degrees, clockwise from x as it is displayed; the region is on its right, as seen
        along it: below a line along x.
    """

    def inside(y: Tensor, x: Tensor) -> Tensor:
        turn = torch.deg2rad(along(angle, y))
        return torch.cos(turn) * (y - along(through[0], y)) - torch.sin(turn) * (x - along(through[1], y))

    return inside


def disk(at: Place, radius: float | Tensor) -> Region:
    """A disk around (y, x)."""

    def inside(y: Tensor, x: Tensor) -> Tensor:
        return along(radius, y) - torch.hypot(y - along(at[0], y), x - along(at[1], y))

    return inside


def facets(at: Place, radius: float | Tensor, sides: int = 6, angle: float | Tensor = 0.0) -> Region:
    """A regular polygon around (y, x), whose sides are ``radius`` px from there; ``angle`` in degrees turns it."""
    if sides < 3:
        raise ValueError(f"sides must be at least 3, but is {sides!r}")

    def inside(y: Tensor, x: Tensor) -> Tensor:
        turn = torch.deg2rad(along(angle, y))[..., None]
        turn = turn + 2 * math.pi / sides * torch.arange(sides, device=y.device, dtype=y.dtype)
        dy, dx = y - along(at[0], y), x - along(at[1], y)
        return along(radius, y) - (torch.cos(turn) * dx[..., None] + torch.sin(turn) * dy[..., None]).amax(-1)

    return inside


def cut(columns: Columns, region: Region) -> Columns:
    """What is within a region: a particle, an island, a crystal with an edge."""
    return columns.where(region(columns.y, columns.x) > 0)


def joined(first: Columns, second: Columns, region: Region, gap: float | Tensor = 0.0) -> Columns:
    """The first within a region, and the second around it: a grain boundary, an interface of two phases.

    Columns nearer to the border than half the ``gap``, px, are left out, on either side: so none are nearer to each
    other than that.
    """
    half = along(gap, first.y) / 2
    inside = first.where(region(first.y, first.x) > half)
    outside = second.where(region(second.y, second.x) <= -half)
    return superposed(inside, outside)


def mirrored(columns: Columns, through: Place, angle: float | Tensor) -> Columns:
    """Columns on the other side of a line: joined with those on this side they are a twin.

    The line is given as in :func:`~stemkit.synthesis.half_plane`.
    """
    turn = torch.deg2rad(along(angle, columns.y))
    distance = half_plane(through, angle)(columns.y, columns.x)
    return columns.moved(-2 * distance * torch.cos(turn), 2 * distance * torch.sin(turn))


def uneven(columns: Columns, factor: Tensor) -> Columns:
    """Columns of another thickness: heights times a factor, ``(n_images, n_columns)``."""
    return replace(columns, amplitude=columns.amplitude * factor)
