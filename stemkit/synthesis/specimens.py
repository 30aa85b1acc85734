"""Drawing of specimens: arrangements of columns from the ranges of a recipe, and their supports."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stemkit.noise.drawing import smooth_field
from stemkit.synthesis.arrangements import (
    Cell,
    Columns,
    blue_noise,
    disk,
    dislocated,
    displaced_randomly,
    facets,
    half_plane,
    inserted,
    joined,
    keep_near_frame,
    lattice,
    lattice_vectors,
    mirrored,
    random_cell,
    removed,
    shifted,
    stacked,
    strained,
    subset,
    substituted,
    superposed,
    uneven,
)
from stemkit.synthesis.chance import log_uniform, pick, uniform
from stemkit.synthesis.recipe import ARRANGEMENTS, Recipe

__all__ = ["draw_columns", "draw_support"]

#: Full turn, radians (derived: 2 pi, rounded).
TURN = 6.2832
#: Pixels of a smooth field along each axis (chosen).
FIELD_SIZE = 64


@dataclass(frozen=True)
class Settings:
    """Constants of the drawn specimens, all of them chosen."""

    #: Largest number of species of a crystal; those of a second crystal have the following numbers.
    n_sites: int = 4
    #: Distance beyond the frame up to which columns are drawn, spacings.
    margin: float = 2.0
    #: Relative frequency of lattices; that of each other arrangement is 1.
    lattice_frequency: float = 6.0
    #: Least distance between adjacent crystals, spacings.
    gap: float = 0.6
    #: Largest number of interstitials in an image.
    n_interstitials: int = 3
    #: Distance of an interstitial from a column, spacings.
    interstitial_distance: float = 0.5
    #: Largest components of strain and rotation.
    strain: float = 0.03
    #: Largest standard deviation of smooth displacements, spacings.
    bending: float = 0.12
    #: Width of a bright-field column relative to dark field: constant, and increase with its relative depth.
    bf_width: tuple[float, float] = (0.7, 0.6)
    #: Least sigma of a column, px.
    narrowest: float = 0.4
    #: Distance, px, over which a wedge changes by its full amplitude, so that its slope does not depend on the image.
    wedge_length: int = 512
    #: Range of the grain size of a support, spacings.
    grain_size: tuple[float, float] = (0.15, 0.5)
    #: Largest amplitude of that grain, as a fraction of the recipe's support.
    grain_amplitude: float = 0.2


SETTINGS = Settings()


def draw_columns(recipe: Recipe, n: int, shape: tuple[int, int], g: torch.Generator) -> tuple[Columns, Tensor, Tensor]:
    """Columns of ``n`` images; index of the arrangement and whether it is bright field, ``(n,)`` each."""
    spacing = log_uniform(g, n, *recipe.spacing)
    kind = _draw_kind(recipe, n, g)
    groups, order = [], []
    for code in sorted(set(kind.tolist())):
        images = torch.nonzero(kind == code)[:, 0]
        groups.append(_DRAWN[ARRANGEMENTS[code]](spacing[images], shape, g))
        order.append(images)
    columns = stacked(groups).take(torch.argsort(torch.cat(order)))
    field = _smooth_fields(n, g)
    columns = _distorted(recipe, columns, torch.isin(kind, torch.tensor(CRYSTALLINE, device=g.device)), shape, g)
    dark = pick(g, n, recipe.dark).bool()
    columns = _with_heights_and_widths(recipe, columns, dark, g)
    columns = _with_defects(recipe, columns, shape, g)
    height = _sampled(field, columns, shape)
    island = pick(g, n, recipe.islands).bool()[:, None]
    columns = columns.where(~island | (height > uniform(g, n, -1.0, 0.3)[:, None]))
    columns = columns.where(~pick(g, n, recipe.empty).bool()[:, None])
    thickness = 1 + uniform(g, n, 0.0, recipe.thickness)[:, None] * torch.tanh(height)
    return keep_near_frame(uneven(columns, thickness.clamp_min(0.1)), shape, SETTINGS.margin * spacing), kind, dark


def draw_support(recipe: Recipe, kind: Tensor, spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Tensor:
    """Signal of the specimen in addition to its columns.

    It consists of a wedge, a film, patches of contamination with edges, and the grain of an amorphous support under
    particles and single atoms. Film and patches are stronger than the background noise of the recipe: weak slow
    variation is defined as noise, strong slow variation as specimen.
    """
    n = len(spacing)
    y = torch.linspace(-0.5, 0.5, shape[0], device=g.device)[None, :, None]
    x = torch.linspace(-0.5, 0.5, shape[1], device=g.device)[None, None, :]
    rise = min(1.0, max(shape) / SETTINGS.wedge_length)
    slope = (uniform(g, 2 * n, -0.5, 0.5) * recipe.support * rise).view(2, n, 1, 1)
    wedge = (slope[0] * y + slope[1] * x) * pick(g, n, 0.5)[:, None, None]
    largest = 4 * recipe.support + 1e-6
    length = (log_uniform(g, n, 3.0, 12.0) * spacing).clamp(max=max(shape) / 3)
    film = pick(g, n, 0.25) * log_uniform(g, n, 0.1 * largest, 0.6 * largest)
    patches = pick(g, n, 0.15) * log_uniform(g, n, 0.15 * largest, largest)
    broad, sharp, threshold = (
        uniform(g, n, 0.08, 0.3) * max(shape),
        log_uniform(g, n, 3.0, 20.0)[:, None, None],
        uniform(g, n, -1, 1)[:, None, None],
    )
    supported = torch.isin(kind, torch.tensor(SUPPORTED, device=g.device))
    rough = supported * uniform(g, n, 0.0, SETTINGS.grain_amplitude * recipe.support)
    fine = uniform(g, n, *SETTINGS.grain_size) * spacing
    # fields are drawn only for the images that have them
    total = _added(wedge.expand(n, *shape), film, lambda at: smooth_field(_sized(at, shape), length[at], g))
    total = _added(total, rough, lambda at: smooth_field(_sized(at, shape), fine[at], g))
    total = _added(
        total,
        patches,
        lambda at: torch.sigmoid(sharp[at] * (smooth_field(_sized(at, shape), broad[at], g) - threshold[at])),
    )
    # the level is that of the darkest pixel, since matter only increases the signal
    return total - total.amin(dim=(1, 2), keepdim=True)


def _added(total: Tensor, height: Tensor, drawn: Callable[[Tensor], Tensor]) -> Tensor:
    """Add a field, drawn for the images in which its height is not 0."""
    at = torch.nonzero(height)[:, 0]
    return total.index_add(0, at, height[at, None, None] * drawn(at)) if len(at) else total


def _sized(images: Tensor, shape: tuple[int, int]) -> torch.Size:
    return torch.Size((len(images), *shape))


# --- arrangements ------------------------------------------------------------------------------------------------


@dataclass
class _Crystals:
    """Crystals of a batch: cells, spacings (px) and orientations (degrees)."""

    cell: Cell
    spacing: Tensor
    angle: Tensor

    @classmethod
    def draw(cls, spacing: Tensor, g: torch.Generator) -> _Crystals:
        return cls(random_cell(len(spacing), g, SETTINGS.n_sites), spacing, uniform(g, len(spacing), 0.0, 360.0))

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
            margin=SETTINGS.margin * self.spacing + beyond,
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
    at = _inside(n, shape, g)
    straight, around = half_plane(at, uniform(g, n, 0.0, 360.0)), disk(at, uniform(g, n, 0.15, 0.4) * min(shape))
    round_one = pick(g, n, 0.3).bool()[:, None]

    def region(y: Tensor, x: Tensor) -> Tensor:
        return torch.where(round_one, around(y, x), straight(y, x))

    inner, outer = (crystal.columns(shape, _anywhere(n, g)) for crystal in (first, second))
    return joined(inner, outer, region, SETTINGS.gap * spacing)


def _twin(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """A crystal and its mirror image, which share the columns of the twin plane."""
    n = len(spacing)
    crystal = _Crystals.draw(spacing, g)
    a, b = crystal.vectors.unbind(1)
    rows = torch.round(uniform(g, n, -0.3, 0.3) * min(shape) / torch.linalg.norm(b, dim=1))
    through = (b * rows[:, None]).T + (torch.tensor(shape, device=g.device)[:, None] - 1) / 2
    angle = torch.rad2deg(torch.atan2(a[:, 0], a[:, 1]))
    # columns far outside the frame may be mirrored into it
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
    return joined(*sides, half_plane(_inside(n, shape, g), angle), SETTINGS.gap * spacing)


def _dislocation(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """An edge dislocation, or two with opposite Burgers vectors."""
    n = len(spacing)
    crystal = _Crystals.draw(spacing, g)
    columns = crystal.columns(shape, _anywhere(n, g))
    burgers = crystal.vectors[torch.arange(n), pick(g, n, 0.5).long()]
    columns = dislocated(columns, _inside(n, shape, g), tuple(burgers.T))
    back = burgers * pick(g, n, 0.4)[:, None]
    return dislocated(columns, _inside(n, shape, g), tuple(-back.T))


def _particle(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """A faceted particle, or a spherical one whose thickness decreases towards its edge."""
    n = len(spacing)
    at, radius = _inside(n, shape, g), uniform(g, n, 0.15, 0.45) * min(shape)
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
    columns = blue_noise(spacing, shape, g, margin=SETTINGS.margin * spacing)
    kind = torch.rand(columns.y.shape, generator=g, device=g.device)
    n_species = uniform(g, len(spacing), 1, SETTINGS.n_sites)
    return replace(columns, species=(kind * n_species[:, None]).long())


def _sparse(spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """Single atoms."""
    columns = _random(spacing, shape, g)
    return columns.where(subset(columns, uniform(g, len(spacing), 0.02, 0.3), g))


_DRAWN: dict[str, Callable[[Tensor, tuple[int, int], torch.Generator], Columns]] = {
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
#: Names of the arrangements; a code is an index of this tuple.
#: Codes of arrangements with a lattice.
CRYSTALLINE = [ARRANGEMENTS.index(name) for name in ARRANGEMENTS if name not in ("random", "sparse")]
#: Codes of arrangements that may have an amorphous support.
SUPPORTED = [ARRANGEMENTS.index(name) for name in ("particle", "sparse")]


def _draw_kind(recipe: Recipe, n: int, g: torch.Generator) -> Tensor:
    unknown = set(recipe.arrangements) - set(ARRANGEMENTS)
    if unknown or not recipe.arrangements:
        raise ValueError(f"arrangements must be one or several of {ARRANGEMENTS}, but is {recipe.arrangements!r}")
    weights = torch.tensor(
        [SETTINGS.lattice_frequency if a == "lattice" else 1.0 for a in recipe.arrangements], device=g.device
    )
    chosen = torch.multinomial(weights, n, replacement=True, generator=g)
    codes = torch.tensor([ARRANGEMENTS.index(a) for a in recipe.arrangements], device=g.device)
    return codes[chosen]


def _anywhere(n: int, g: torch.Generator) -> Tensor:
    """Random origins of cells, in fractions of the lattice vectors."""
    return torch.rand((n, 2), generator=g, device=g.device)


def _inside(n: int, shape: tuple[int, int], g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random positions in the inner part of an image, (y, x)."""
    return uniform(g, n, 0.2, 0.8) * shape[0], uniform(g, n, 0.2, 0.8) * shape[1]


def _where(condition: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.where(condition.view(-1, *[1] * (first.ndim - 1)), first, second)


def _other_species(columns: Columns) -> Columns:
    return replace(columns, species=columns.species + SETTINGS.n_sites)


# --- distortions, heights, defects -------------------------------------------------------------------------------


def _distorted(
    recipe: Recipe, columns: Columns, crystal: Tensor, shape: tuple[int, int], g: torch.Generator
) -> Columns:
    """Strain and disorder of crystals."""
    n, device = len(columns), g.device
    slight = crystal * pick(g, n, 0.6) * uniform(g, n, 0.0, 0.05)
    columns = displaced_randomly(columns, slight * columns.spacing, g)
    gradient = (2 * torch.rand((n, 2, 2), generator=g, device=device) - 1) * SETTINGS.strain
    middle = tuple((m - 1) / 2 for m in shape)
    columns = strained(columns, gradient * (crystal * pick(g, n, recipe.strain))[:, None, None], middle)
    bend = crystal * pick(g, n, recipe.strain) * uniform(g, n, 0.0, SETTINGS.bending) * columns.spacing
    move = [_sampled(_smooth_fields(n, g), columns, shape) * bend[:, None] for _ in range(2)]
    return columns.moved(*move)


def _with_heights_and_widths(recipe: Recipe, columns: Columns, dark: Tensor, g: torch.Generator) -> Columns:
    """Heights and widths of each species, and a spread of heights; the brightest species has height 1."""
    n, n_columns = columns.y.shape
    n_species = 2 * SETTINGS.n_sites
    strength = torch.rand((n, n_species), generator=g, device=g.device) * 0.85 + 0.15
    occurs = torch.zeros_like(strength).scatter_reduce(1, columns.species, columns.present.float(), "amax")
    strength = (strength / (strength * occurs).amax(1, keepdim=True).clamp_min(0.1)).clamp(max=1.0)
    # widths of species differ, by up to a factor of two for heavy columns in thick ABF images
    widening = torch.exp(0.22 * torch.randn((n, n_species), generator=g, device=g.device)).clamp(0.75, 1.9)
    dark = dark[:, None]
    strength = torch.where(dark, strength.sqrt(), strength)
    widening = torch.where(dark, (SETTINGS.bf_width[0] + SETTINGS.bf_width[1] * strength) * widening, widening)
    base = uniform(g, n, *recipe.width) * columns.spacing
    spread = recipe.spread * uniform(g, n, 0.0, 1.0) ** 2
    scatter = spread[:, None] * torch.randn((n, n_columns), generator=g, device=g.device)
    amplitude = torch.gather(strength, 1, columns.species) * (1 + scatter).clamp_min(0.2)
    sigma = (base[:, None] * torch.gather(widening, 1, columns.species)).clamp_min(SETTINGS.narrowest)
    return replace(columns, amplitude=columns.amplitude * amplitude, sigma=sigma)


def _with_defects(recipe: Recipe, columns: Columns, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """Substituted columns, alone and in clusters, displaced columns, interstitials and vacancies."""
    n = len(columns)
    foreign = subset(columns, uniform(g, n, 0.0, recipe.embedded) * pick(g, n, 0.4), g)
    at, radius = _inside(n, shape, g), uniform(g, n, 1.0, 3.5) * columns.spacing * pick(g, n, recipe.clusters)
    foreign |= (disk(at, radius)(columns.y, columns.x) > 0) & columns.present
    columns = substituted(
        columns, foreign, uniform(g, n, 0.25, 1.8), uniform(g, n, 0.8, 1.3), species=2 * SETTINGS.n_sites
    )
    direction, distance = uniform(g, n, 0.0, TURN), uniform(g, n, 0.08, 0.3) * columns.spacing
    displaced = subset(columns, uniform(g, n, 0.0, recipe.shifts) * pick(g, n, 0.4), g)
    columns = shifted(columns, displaced, distance * torch.sin(direction), distance * torch.cos(direction))
    columns = removed(columns, subset(columns, uniform(g, n, 0.0, recipe.vacancies) * pick(g, n, 0.6), g))
    return _with_interstitials(recipe, columns, g)


def _with_interstitials(recipe: Recipe, columns: Columns, g: torch.Generator) -> Columns:
    n, device, most = len(columns), g.device, SETTINGS.n_interstitials
    host = torch.multinomial(columns.present + 1e-9, most, replacement=True, generator=g)
    direction = TURN * torch.rand((n, most), generator=g, device=device)
    unit = torch.stack([torch.sin(direction), torch.cos(direction)], dim=-1)
    offset = SETTINGS.interstitial_distance * columns.spacing[:, None, None] * unit
    at = torch.gather(columns.places, 1, host[..., None].expand(-1, -1, 2)) + offset
    sigma = torch.gather(columns.sigma, 1, host).amin(1)
    both = inserted(columns, at, uniform(g, n, 0.2, 0.8), sigma, species=2 * SETTINGS.n_sites + 1)
    has_any = (pick(g, n, recipe.interstitials) > 0) & columns.present.any(1)
    extra = torch.arange(both.y.shape[1], device=device) >= columns.y.shape[1]
    return both.where(~extra | has_any[:, None])


# --- fields ------------------------------------------------------------------------------------------------------


def _smooth_fields(n: int, g: torch.Generator) -> Tensor:
    """Smooth fields of variance 1 on a coarse grid, ``(n, FIELD_SIZE, FIELD_SIZE)``."""
    return smooth_field(torch.Size((n, FIELD_SIZE, FIELD_SIZE)), uniform(g, n, 0.12, 0.4) * FIELD_SIZE, g)


def _sampled(field: Tensor, columns: Columns, shape: tuple[int, int]) -> Tensor:
    """Value of a field on a coarse grid, which covers the image, at each column."""
    place = torch.stack([2 * columns.x / (shape[1] - 1) - 1, 2 * columns.y / (shape[0] - 1) - 1], dim=-1)
    return torch.nn.functional.grid_sample(
        field[:, None], place[:, None].float(), padding_mode="border", align_corners=True
    )[:, 0, 0]
