"""Drawing of specimens: arrangements of columns from the ranges of a recipe, with distortions and defects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stemkit.noise.drawing import smooth_field
from stemkit.synthesis.arrangements.columns import Columns, keep_near_frame, stacked
from stemkit.synthesis.arrangements.defects import inserted, removed, shifted, subset, substituted
from stemkit.synthesis.arrangements.displacements import displaced_randomly, strained
from stemkit.synthesis.arrangements.regions import disk, uneven
from stemkit.synthesis.chance import log_uniform, pick, uniform
from stemkit.synthesis.random_arrangements import DRAWN, MARGIN, N_SITES, inner_position
from stemkit.synthesis.recipe import ARRANGEMENTS, Recipe

__all__ = ["Specimens", "draw_columns"]

#: Full turn, radians (derived: 2 pi, rounded).
TURN = 6.2832
#: Pixels of a smooth field along each axis (chosen).
FIELD_SIZE = 64


@dataclass(frozen=True)
class _Constants:
    """Constants of the drawn specimens, all of them chosen."""

    #: Relative frequency of lattices; that of each other arrangement is 1.
    lattice_frequency: float = 6.0
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


CONSTANTS = _Constants()
#: Codes of arrangements with a lattice.
CRYSTALLINE = [ARRANGEMENTS.index(name) for name in ARRANGEMENTS if name not in ("random", "sparse")]


@dataclass(frozen=True)
class Specimens:
    """Columns of images, and ``(n,)`` each the index of the arrangement and whether the image is bright field."""

    columns: Columns
    arrangement: Tensor
    dark: Tensor


def draw_columns(recipe: Recipe, n: int, shape: tuple[int, int], g: torch.Generator) -> Specimens:
    """Specimens of ``n`` images."""
    spacing = log_uniform(g, n, *recipe.spacing)
    kind = _draw_kind(recipe, n, g)
    groups, order = [], []
    for code in sorted(set(kind.tolist())):
        images = torch.nonzero(kind == code)[:, 0]
        groups.append(DRAWN[ARRANGEMENTS[code]](spacing[images], shape, g))
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
    columns = uneven(columns, thickness.clamp_min(0.1))
    return Specimens(keep_near_frame(columns, shape, MARGIN * spacing), kind, dark)


def _draw_kind(recipe: Recipe, n: int, g: torch.Generator) -> Tensor:
    unknown = set(recipe.arrangements) - set(ARRANGEMENTS)
    if unknown or not recipe.arrangements:
        raise ValueError(f"arrangements must be one or several of {ARRANGEMENTS}, but is {recipe.arrangements!r}")
    weights = torch.tensor(
        [CONSTANTS.lattice_frequency if a == "lattice" else 1.0 for a in recipe.arrangements], device=g.device
    )
    chosen = torch.multinomial(weights, n, replacement=True, generator=g)
    codes = torch.tensor([ARRANGEMENTS.index(a) for a in recipe.arrangements], device=g.device)
    return codes[chosen]


# --- distortions, heights, defects -------------------------------------------------------------------------------


def _distorted(
    recipe: Recipe, columns: Columns, crystal: Tensor, shape: tuple[int, int], g: torch.Generator
) -> Columns:
    """Strain and disorder of crystals."""
    n, device = len(columns), g.device
    slight = crystal * pick(g, n, 0.6) * uniform(g, n, 0.0, 0.05)
    columns = displaced_randomly(columns, slight * columns.spacing, g)
    gradient = (2 * torch.rand((n, 2, 2), generator=g, device=device) - 1) * CONSTANTS.strain
    middle = tuple((m - 1) / 2 for m in shape)
    columns = strained(columns, gradient * (crystal * pick(g, n, recipe.strain))[:, None, None], middle)
    bend = crystal * pick(g, n, recipe.strain) * uniform(g, n, 0.0, CONSTANTS.bending) * columns.spacing
    move = [_sampled(_smooth_fields(n, g), columns, shape) * bend[:, None] for _ in range(2)]
    return columns.moved(*move)


def _with_heights_and_widths(recipe: Recipe, columns: Columns, dark: Tensor, g: torch.Generator) -> Columns:
    """Heights and widths of each species, and a spread of heights; the brightest species has height 1."""
    n, n_columns = columns.y.shape
    n_species = 2 * N_SITES
    strength = torch.rand((n, n_species), generator=g, device=g.device) * 0.85 + 0.15
    occurs = torch.zeros_like(strength).scatter_reduce(1, columns.species, columns.present.float(), "amax")
    strength = (strength / (strength * occurs).amax(1, keepdim=True).clamp_min(0.1)).clamp(max=1.0)
    # widths of species differ, by up to a factor of two for heavy columns in thick ABF images
    widening = torch.exp(0.22 * torch.randn((n, n_species), generator=g, device=g.device)).clamp(0.75, 1.9)
    dark = dark[:, None]
    strength = torch.where(dark, strength.sqrt(), strength)
    widening = torch.where(dark, (CONSTANTS.bf_width[0] + CONSTANTS.bf_width[1] * strength) * widening, widening)
    base = uniform(g, n, *recipe.width) * columns.spacing
    spread = recipe.spread * uniform(g, n, 0.0, 1.0) ** 2
    scatter = spread[:, None] * torch.randn((n, n_columns), generator=g, device=g.device)
    amplitude = torch.gather(strength, 1, columns.species) * (1 + scatter).clamp_min(0.2)
    sigma = (base[:, None] * torch.gather(widening, 1, columns.species)).clamp_min(CONSTANTS.narrowest)
    return replace(columns, amplitude=columns.amplitude * amplitude, sigma=sigma)


def _with_defects(recipe: Recipe, columns: Columns, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """Substituted columns, alone and in clusters, displaced columns, interstitials and vacancies."""
    n = len(columns)
    foreign = subset(columns, uniform(g, n, 0.0, recipe.embedded) * pick(g, n, 0.4), g)
    at, radius = inner_position(n, shape, g), uniform(g, n, 1.0, 3.5) * columns.spacing * pick(g, n, recipe.clusters)
    foreign |= (disk(at, radius)(columns.y, columns.x) > 0) & columns.present
    columns = substituted(columns, foreign, uniform(g, n, 0.25, 1.8), uniform(g, n, 0.8, 1.3), species=2 * N_SITES)
    direction, distance = uniform(g, n, 0.0, TURN), uniform(g, n, 0.08, 0.3) * columns.spacing
    displaced = subset(columns, uniform(g, n, 0.0, recipe.shifts) * pick(g, n, 0.4), g)
    columns = shifted(columns, displaced, distance * torch.sin(direction), distance * torch.cos(direction))
    columns = removed(columns, subset(columns, uniform(g, n, 0.0, recipe.vacancies) * pick(g, n, 0.6), g))
    return _with_interstitials(recipe, columns, g)


def _with_interstitials(recipe: Recipe, columns: Columns, g: torch.Generator) -> Columns:
    n, device, most = len(columns), g.device, CONSTANTS.n_interstitials
    host = torch.multinomial(columns.present + 1e-9, most, replacement=True, generator=g)
    direction = TURN * torch.rand((n, most), generator=g, device=device)
    unit = torch.stack([torch.sin(direction), torch.cos(direction)], dim=-1)
    offset = CONSTANTS.interstitial_distance * columns.spacing[:, None, None] * unit
    at = torch.gather(columns.places, 1, host[..., None].expand(-1, -1, 2)) + offset
    sigma = torch.gather(columns.sigma, 1, host).amin(1)
    both = inserted(columns, at, uniform(g, n, 0.2, 0.8), sigma, species=2 * N_SITES + 1)
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
