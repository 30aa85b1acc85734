"""Random arrangements of columns, one function for each kind of specimen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stemkit.synthesis.arrangements.cells import Cell, random_cell
from stemkit.synthesis.arrangements.columns import Columns, superposed
from stemkit.synthesis.arrangements.defects import subset
from stemkit.synthesis.arrangements.disorder import poisson_disk_columns
from stemkit.synthesis.arrangements.displacements import dislocated
from stemkit.synthesis.arrangements.lattices import lattice, lattice_vectors
from stemkit.synthesis.arrangements.regions import disk, facets, half_plane, joined, mirrored, uneven
from stemkit.synthesis.chance import pick, uniform

__all__ = ["DRAWN", "MARGIN", "N_SITES", "inner_position"]

#: Largest number of species of a crystal (chosen); those of a second crystal have the following numbers.
N_SITES = 4
#: Distance beyond the image up to which columns are drawn, spacings (chosen).
MARGIN = 2.0
#: Least distance between adjacent crystals, spacings (chosen).
GAP = 0.6


@dataclass
class _Crystals:
    """Crystals of a batch, one per image: cells, spacings (px) and orientations (degrees)."""

    cell: Cell
    spacing: Tensor
    angle: Tensor

    @classmethod
    def draw(cls, spacing: Tensor, g: torch.Generator) -> _Crystals:
        return cls(random_cell(len(spacing), g, N_SITES), spacing, uniform(g, len(spacing), 0.0, 360.0))

    @property
    def vectors(self) -> Tensor:
        return lattice_vectors(self.cell, self.spacing, self.angle)

    def columns(
        self, shape: tuple[int, int], origin: Tensor | tuple[float, float] = (0.0, 0.0), beyond: float = 0.0
    ) -> Columns:
        # heights and widths are drawn later
        return lattice(
            self.cell,
            shape,
            spacing=self.spacing,
            angle=self.angle,
            origin=origin,
            margin=MARGIN * self.spacing + beyond,
        )


def _crystal(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    return _Crystals.draw(spacing, g).columns(shape, _anywhere(len(spacing), g))


def _moire(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """Two rotated layers, of the same or of different crystals."""
    n = len(spacing)
    first = _Crystals.draw(spacing, g)
    other = _Crystals.draw(spacing * uniform(g, n, 0.85, 1.2), g)
    same = pick(g, n, 0.6).bool()
    cell = Cell(
        *(_where(same, a, b) for a, b in zip(vars(first.cell).values(), vars(other.cell).values(), strict=True))
    )
    second = _Crystals(cell, torch.where(same, spacing, other.spacing), first.angle + uniform(g, n, 2.0, 30.0))
    return superposed(first.columns(shape, _anywhere(n, g)), _other_species(second.columns(shape, _anywhere(n, g))))


def _grains(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """One crystal in two orientations, with a straight or a circular boundary."""
    n = len(spacing)
    first = _Crystals.draw(spacing, g)
    second = replace(first, angle=first.angle + uniform(g, n, 3.0, 60.0))
    at = inner_position(n, shape, g)
    straight, around = half_plane(at, uniform(g, n, 0.0, 360.0)), disk(at, uniform(g, n, 0.15, 0.4) * min(shape))
    round_one = pick(g, n, 0.3).bool()[:, None]

    def region(y: Tensor, x: Tensor) -> Tensor:
        return torch.where(round_one, around(y, x), straight(y, x))

    inner, outer = (crystal.columns(shape, _anywhere(n, g)) for crystal in (first, second))
    return joined(inner, outer, region, GAP * spacing)


def _twin(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """A crystal and its mirror image, which share the columns of the twin plane."""
    n = len(spacing)
    crystal = _Crystals.draw(spacing, g)
    a, b = crystal.vectors.unbind(1)
    rows = torch.round(uniform(g, n, -0.3, 0.3) * min(shape) / torch.linalg.norm(b, dim=1))
    through = (b * rows[:, None]).T + (torch.tensor(shape, device=g.device)[:, None] - 1) / 2
    angle = torch.rad2deg(torch.atan2(a[:, 0], a[:, 1]))
    # columns far outside the image may be mirrored into it
    first = crystal.columns(shape, beyond=math.hypot(*shape))
    # columns of the plane belong to the first crystal
    normal = torch.stack([torch.cos(torch.deg2rad(angle)), -torch.sin(torch.deg2rad(angle))])
    border = half_plane(tuple(through - 0.2 * spacing * normal), angle)
    return joined(first, mirrored(first, tuple(through), angle), border)


def _phases(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """Two crystals with a straight interface along a vector of the first."""
    n = len(spacing)
    first = _Crystals.draw(spacing, g)
    second = _Crystals.draw(spacing * uniform(g, n, 0.8, 1.3), g)
    a = first.vectors[:, 0]
    angle = torch.rad2deg(torch.atan2(a[:, 0], a[:, 1]))
    second = replace(second, angle=torch.where(pick(g, n, 0.5).bool(), angle, second.angle))
    sides = first.columns(shape, _anywhere(n, g)), _other_species(second.columns(shape, _anywhere(n, g)))
    return joined(*sides, half_plane(inner_position(n, shape, g), angle), GAP * spacing)


def _dislocation(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """An edge dislocation, or two with opposite Burgers vectors."""
    n = len(spacing)
    crystal = _Crystals.draw(spacing, g)
    columns = crystal.columns(shape, _anywhere(n, g))
    burgers = crystal.vectors[torch.arange(n), pick(g, n, 0.5).long()]
    columns = dislocated(columns, inner_position(n, shape, g), tuple(burgers.T))
    back = burgers * pick(g, n, 0.4)[:, None]
    return dislocated(columns, inner_position(n, shape, g), tuple(-back.T))


def _particle(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """A faceted particle, or a spherical one whose thickness decreases towards its edge."""
    n = len(spacing)
    at, radius = inner_position(n, shape, g), uniform(g, n, 0.15, 0.45) * min(shape)
    columns = _crystal(spacing, shape, g)
    edge = facets(at, radius, angle=uniform(g, n, 0.0, 60.0))
    ball = disk(at, radius)
    round_one = pick(g, n, 0.4).bool()[:, None]
    inside = torch.where(round_one, ball(columns.y, columns.x), edge(columns.y, columns.x)) > 0
    from_edge = (ball(columns.y, columns.x) / radius[:, None]).clamp(0.0, 1.0)
    thickness = torch.where(round_one, (from_edge * (2 - from_edge)).sqrt().clamp_min(0.25), 1.0)
    return uneven(columns.where(inside), thickness)


def _random(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """Amorphous matter of several species."""
    columns = poisson_disk_columns(spacing, shape, g, margin=MARGIN * spacing)
    kind = torch.rand(columns.y.shape, generator=g, device=g.device)
    n_species = uniform(g, len(spacing), 1, N_SITES)
    return replace(columns, species=(kind * n_species[:, None]).long())


def _sparse(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """Single atoms."""
    columns = _random(spacing, shape, g)
    return columns.where(subset(columns, uniform(g, len(spacing), 0.02, 0.3), g))


#: Functions of the spacings (px, one per image), the shape and the generator, by the name of the arrangement.
DRAWN: dict[str, Callable[[Tensor, tuple[int, int], torch.Generator], Columns]] = {
    "lattice": _crystal,
    "moire": _moire,
    "grains": _grains,
    "twin": _twin,
    "phases": _phases,
    "dislocation": _dislocation,
    "particle": _particle,
    "random": _random,
    "sparse": _sparse,
}


def _anywhere(n: int, g: torch.Generator) -> Tensor:
    """Random origins of cells, in fractions of the lattice vectors."""
    return torch.rand((n, 2), generator=g, device=g.device)


def inner_position(n: int, shape: tuple[int, int], g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random positions (y, x), px, one per image, in the inner part of images."""
    return uniform(g, n, 0.2, 0.8) * shape[0], uniform(g, n, 0.2, 0.8) * shape[1]


def _where(condition: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.where(condition.view(-1, *[1] * (first.ndim - 1)), first, second)


def _other_species(columns: Columns) -> Columns:
    return replace(columns, species=columns.species + N_SITES)
