"""Where atomic columns are: batched arrangements in torch.

Positions are in px, ``(y, x)``, pixel centres at integers. Everything is drawn for a batch of images at once with a
generator on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Cell", "Columns", "keep_near_frame", "lattice", "nearest_distance", "random_cell"]


@dataclass
class Columns:
    """The atomic columns of a batch of images; tensors are ``(n_images, n_columns)`` unless stated.

    ``present`` marks real columns: images have different numbers of them, and a vacancy is a column that is absent.
    ``spacing`` ``(n_images,)`` is the distance of nearest neighbours in the ideal arrangement, px.
    """

    y: Tensor
    x: Tensor
    amplitude: Tensor
    sigma: Tensor
    species: Tensor
    present: Tensor
    spacing: Tensor

    def where(self, keep: Tensor) -> Columns:
        """The same columns, those not kept absent."""
        return replace(self, present=self.present & keep)


@dataclass
class Cell:
    """Unit cells of a batch: ``vectors`` (n_images, 2, 2) with rows a, b as (y, x); ``basis`` (n_images, n_sites, 2)
    in fractions of them; ``occupied`` (n_images, n_sites).
    """

    vectors: Tensor
    basis: Tensor
    occupied: Tensor


def random_cell(n_images: int, generator: torch.Generator, max_sites: int = 4) -> Cell:
    """Cells of the five planar lattices with one to ``max_sites`` columns, some of them dumbbells."""
    u = _uniform(generator, n_images, 8)
    kind = u[:, 0]
    ratio = torch.where(kind < 0.65, torch.ones_like(kind), 1.0 + 0.8 * u[:, 1])
    angle = torch.full_like(kind, math.pi / 2)
    angle = torch.where((kind >= 0.4) & (kind < 0.65), torch.full_like(kind, math.pi / 3), angle)
    angle = torch.where(kind >= 0.85, math.pi * (0.36 + 0.14 * u[:, 2]), angle)
    a = torch.stack([torch.zeros_like(kind), torch.ones_like(kind)], dim=-1)
    b = torch.stack([ratio * torch.sin(angle), ratio * torch.cos(angle)], dim=-1)
    hexagonal = (kind >= 0.4) & (kind < 0.65)
    centre = torch.where(hexagonal[:, None], torch.full((2,), 1 / 3, device=kind.device), 0.5)
    special = torch.stack(
        [
            torch.zeros(n_images, 2, device=kind.device),
            centre.expand(n_images, 2),
            torch.tensor([0.5, 0.0], device=kind.device).expand(n_images, 2),
            torch.tensor([0.0, 0.5], device=kind.device).expand(n_images, 2),
        ],
        dim=1,
    )
    # a third of the second sites are free: dumbbells and low-symmetry bases
    free = 0.22 + 0.5 * _uniform(generator, n_images, 1, 2)
    second = torch.where((u[:, 4] < 0.33)[:, None, None], free, special[:, 1:2])
    basis = torch.cat([special[:, :1], second, special[:, 2:]], dim=1)[:, :max_sites]
    n_sites = 1 + (u[:, 3] * u[:, 3] * max_sites).long().clamp(max=max_sites - 1)
    n_sites = torch.where(hexagonal, n_sites.clamp(max=2), n_sites)
    occupied = torch.arange(max_sites, device=kind.device)[None] < n_sites[:, None]
    return Cell(torch.stack([a, b], dim=1), basis, occupied)


def nearest_distance(cell: Cell) -> Tensor:
    """Distance between nearest columns of each cell's lattice, ``(n_images,)``, in units of its vectors."""
    steps = torch.cartesian_prod(*(torch.arange(-2, 3, device=cell.basis.device),) * 2).to(cell.basis.dtype)
    apart = cell.basis[:, :, None, None] - cell.basis[:, None, :, None] + steps
    distance = torch.linalg.norm(apart @ cell.vectors[:, None, None], dim=-1)
    pairs = cell.occupied[:, :, None] & cell.occupied[:, None, :]
    valid = pairs[..., None] & (distance > 1e-6)
    return torch.where(valid, distance, torch.inf).flatten(1).min(dim=1).values


def lattice(
    cell: Cell, spacing: Tensor, angle: Tensor, shape: tuple[int, int], generator: torch.Generator, margin: float
) -> Columns:
    """A perfect crystal: every cell's site within ``margin`` px of the frame, nearest neighbours ``spacing`` px apart.

    ``angle`` (rad) turns it, the origin is random; amplitudes are 1 and widths 0 until they are set.
    """
    n_images = len(spacing)
    vectors = cell.vectors * (spacing / nearest_distance(cell))[:, None, None]
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], dim=1)
    vectors = vectors @ turn
    reach = math.hypot(*shape) / 2 + margin
    height = torch.linalg.det(vectors).abs() / torch.linalg.norm(vectors, dim=-1).max(dim=1).values
    m = int(torch.ceil(reach / height).max()) + 1
    index = torch.cartesian_prod(*(torch.arange(-m, m + 1, device=spacing.device),) * 2).to(spacing.dtype)
    origin = _uniform(generator, n_images, 1, 2)
    fractional = index[None, :, None] + (cell.basis + origin)[:, None]
    position = (fractional @ vectors[:, None]).flatten(1, 2)
    y, x = position[..., 0] + (shape[0] - 1) / 2, position[..., 1] + (shape[1] - 1) / 2
    n_sites = cell.basis.shape[1]
    species = torch.arange(n_sites, device=spacing.device).repeat(len(index))[None].expand(n_images, -1)
    present = cell.occupied[:, None].expand(-1, len(index), -1).flatten(1)
    columns = Columns(y, x, torch.ones_like(y), torch.zeros_like(y), species, present, spacing)
    return keep_near_frame(columns, shape, margin)


def keep_near_frame(columns: Columns, shape: tuple[int, int], margin: float) -> Columns:
    """Drop the columns that lie more than ``margin`` px outside the frame, and shorten the tensors to what is left."""
    near = (
        columns.present
        & (columns.y > -margin)
        & (columns.y < shape[0] - 1 + margin)
        & (columns.x > -margin)
        & (columns.x < shape[1] - 1 + margin)
    )
    n = max(int(near.sum(dim=1).max()), 1)
    order = torch.argsort((~near).to(torch.uint8), dim=1, stable=True)[:, :n]
    take = {k: torch.gather(getattr(columns, k), 1, order) for k in ("y", "x", "amplitude", "sigma", "species")}
    return Columns(**take, present=torch.gather(near, 1, order), spacing=columns.spacing)


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
