"""What is drawn for each image of a batch: crystals, specimens and noise over the ranges that microscopes show.

A :class:`Recipe` holds the ranges. :func:`draw_scene` draws ideal images with their columns, :func:`draw_noise` the
noise of a recording; both take a generator and work on its device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stemkit.noise.drawing import NoiseParameters, add_noise, smooth_field
from stemkit.synthesis.arrangements import Columns, keep_near_frame, lattice, random_cell
from stemkit.synthesis.rendering import Targets, render_targets

__all__ = ["Batch", "Recipe", "draw_batch"]

ARRANGEMENTS = ("lattice", "random", "sparse")
Range = tuple[float, float]
#: Ranges of the noise that is drawn anew for each image: fractions of the contrast, electrons per pixel at a column,
#: and jitter as a fraction of the spacing.
READOUT: Range = (0.01, 0.6)
DOSE: Range = (1.5, 300.0)
STREAKS: Range = (0.01, 0.2)
JITTER: Range = (0.004, 0.07)
CORRELATION: Range = (0.0, 0.5)
BACKGROUND: Range = (0.0, 0.12)


@dataclass(frozen=True)
class Recipe:
    """Ranges that images are drawn from; lengths in px, amplitudes as fractions of the contrast.

    Parameters
    ----------
    arrangements : tuple of str
        Of ``"lattice"``, ``"random"`` (amorphous) and ``"sparse"`` (single atoms); lattices are drawn three times
        as often as the others together.
    spacing : (float, float)
        Distance of nearest columns, log-uniform.
    width : (float, float)
        Sigma of a column as a fraction of the spacing; each species varies about the image's own.
    vacancies : float
        The largest fraction of columns that are missing; each image draws its own up to it.
    embedded : float
        The largest fraction of columns that are atoms of another kind.
    islands : float
        Fraction of images with vacuum beside the crystal.
    thickness : float
        The largest relative variation of the columns' height across an image.
    support : float
        The largest amplitude of the specimen's own smooth signal beside the columns: a wedge, a film, patches of
        contamination. Film and patches reach four times this.
    noise : NoiseParameters or None
        Noises, ``(n_noises,)`` tensors, of which each image takes one; None draws it anew for each.
    """

    arrangements: tuple[str, ...] = ARRANGEMENTS
    spacing: Range = (7.0, 32.0)
    width: Range = (0.13, 0.28)
    vacancies: float = 0.06
    embedded: float = 0.1
    islands: float = 0.25
    thickness: float = 0.4
    support: float = 0.5
    noise: NoiseParameters | None = None


@dataclass
class Batch:
    """Images in units of the contrast above the level: what was recorded, what a network learns, what is true."""

    noisy: Tensor
    targets: Targets
    columns: Columns
    arrangement: Tensor


def draw_batch(recipe: Recipe, n_images: int, shape: tuple[int, int], generator: torch.Generator) -> Batch:
    """Draw ``n_images`` pairs on the generator's device."""
    columns, arrangement = _draw_columns(recipe, n_images, shape, generator)
    tail = _pick(generator, n_images, 0.5) * _uniform(generator, n_images, 0.0, 0.25)
    spread = _uniform(generator, n_images, 1.6, 2.6)
    support = _draw_support(recipe, n_images, shape, columns.spacing, generator)
    targets = render_targets(columns, shape, support, tail, spread)
    if recipe.noise is None:
        noise = draw_noise(columns.spacing, generator)
    else:
        known = len(recipe.noise.readout)
        noise = recipe.noise.take(torch.randint(known, (n_images,), generator=generator, device=generator.device))
    return Batch(add_noise(targets.enhance, noise, generator), targets, columns, arrangement)


def draw_noise(spacing: Tensor, generator: torch.Generator) -> NoiseParameters:
    """Noise of many microscopes: from averaged series to a few electrons per column; jitter grows with the spacing."""
    n, g = len(spacing), generator
    readout = _log_uniform(g, n, *READOUT)
    electron = 1.0 / _log_uniform(g, n, *DOSE)
    counted = _pick(g, n, 0.35).bool()
    gain = torch.where(counted, electron, _uniform(g, n, -0.3, 1.0).clamp_min(0) * readout**2 * 2)
    # counting detectors read out a fraction of an electron, and see some electrons between the columns
    dark = electron * _uniform(g, n, 0.02, 1.5)
    readout = torch.where(counted, dark.sqrt(), readout)
    correlation = _pick(g, n, 0.4) * _uniform(g, n, *CORRELATION)
    streaks = _pick(g, n, 0.7) * _log_uniform(g, n, *STREAKS)
    jitter = _pick(g, n, 0.75) * _log_uniform(g, n, *JITTER) * spacing
    whole = _pick(g, n, 0.5).bool()
    nothing = torch.full((n,), math.nan, device=g.device)
    digital = _pick(g, n, 0.3).bool()
    return NoiseParameters(
        background=_pick(g, n, 0.7) * _uniform(g, n, *BACKGROUND),
        background_length=_log_uniform(g, n, 8.0, 64.0),
        streaks=streaks,
        streak_length=torch.where(_pick(g, n, 0.4).bool(), torch.inf, _log_uniform(g, n, 4.0, 60.0)),
        jitter=jitter,
        jitter_length=torch.where(whole, torch.inf, _log_uniform(g, n, 4.0, 60.0)),
        readout=readout,
        gain=gain,
        shape=_uniform(g, n, -0.1, 0.2),
        correlation_x=torch.where(counted, torch.zeros_like(correlation), correlation),
        poisson=counted & _pick(g, n, 0.7).bool(),
        low=nothing,
        high=nothing,
        step=torch.where(digital, _log_uniform(g, n, 0.005, 0.02), nothing),
        step_origin=torch.zeros(n, device=g.device),
        jitter_y=torch.zeros(n, device=g.device),
    )


# --- columns -----------------------------------------------------------------------------------------------------


def _draw_columns(recipe: Recipe, n: int, shape: tuple[int, int], generator: torch.Generator) -> tuple[Columns, Tensor]:
    g = generator
    spacing = _log_uniform(g, n, *recipe.spacing)
    kind = _draw_arrangement(recipe, n, g)
    crystal = kind == ARRANGEMENTS.index("lattice")
    margin = 1.5 * recipe.spacing[1]
    columns = lattice(random_cell(n, g), spacing, _uniform(g, n, 0.0, 2 * math.pi), shape, g, margin)
    columns = _disturb(columns, crystal, g)
    columns = _paint(recipe, columns, g)
    columns = _remove(recipe, columns, kind, shape, g)
    return keep_near_frame(columns, shape, margin), kind


def _draw_arrangement(recipe: Recipe, n: int, g: torch.Generator) -> Tensor:
    unknown = set(recipe.arrangements) - set(ARRANGEMENTS)
    if unknown or not recipe.arrangements:
        raise ValueError(f"arrangements must be some of {ARRANGEMENTS}, but is {recipe.arrangements!r}")
    weights = torch.tensor([3.0 if a == "lattice" else 0.5 for a in recipe.arrangements], device=g.device)
    chosen = torch.multinomial(weights, n, replacement=True, generator=g)
    codes = torch.tensor([ARRANGEMENTS.index(a) for a in recipe.arrangements], device=g.device)
    return codes[chosen]


def _disturb(columns: Columns, crystal: Tensor, g: torch.Generator) -> Columns:
    """Static displacements: a few percent of the spacing in crystals, up to a quarter in amorphous matter."""
    n = len(crystal)
    slight = _pick(g, n, 0.6) * _uniform(g, n, 0.0, 0.05)
    amount = torch.where(crystal, slight, _uniform(g, n, 0.15, 0.24)) * columns.spacing
    move = torch.randn((2, *columns.y.shape), generator=g, device=g.device).clamp(-2.5, 2.5) * amount[:, None]
    return replace(columns, y=columns.y + move[0], x=columns.x + move[1])


def _paint(recipe: Recipe, columns: Columns, g: torch.Generator) -> Columns:
    """Heights and widths: one per species, a spread between columns, and atoms of another kind."""
    n, n_columns = columns.y.shape
    n_species = int(columns.species.max()) + 2
    strength = torch.rand((n, n_species), generator=g, device=g.device) * 0.85 + 0.15
    strength = strength / strength[:, :1]
    strength[:, 0] = 1.0
    strength = strength.clamp(max=1.5)
    # wider atoms sit beside narrower ones, heavy columns of thick ABF images by a factor of two
    widening = torch.exp(0.22 * torch.randn((n, n_species), generator=g, device=g.device)).clamp(0.75, 1.9)
    base = _uniform(g, n, *recipe.width) * columns.spacing
    other = _uniform(g, n, 0.0, recipe.embedded) * _pick(g, n, 0.4)
    foreign = torch.rand((n, n_columns), generator=g, device=g.device) < other[:, None]
    species = torch.where(foreign, n_species - 1, columns.species)
    scatter = _uniform(g, n, 0.0, 0.12)[:, None] * torch.randn((n, n_columns), generator=g, device=g.device)
    amplitude = torch.gather(strength, 1, species) * (1 + scatter).clamp_min(0.2)
    sigma = (base[:, None] * torch.gather(widening, 1, species)).clamp_min(0.8)
    return replace(columns, species=species, amplitude=amplitude, sigma=sigma)


def _remove(recipe: Recipe, columns: Columns, kind: Tensor, shape: tuple[int, int], g: torch.Generator) -> Columns:
    """Vacancies, single atoms (nearly all removed), vacuum beside islands, uneven thickness."""
    n, n_columns = columns.y.shape
    missing = _uniform(g, n, 0.0, recipe.vacancies) * _pick(g, n, 0.6)
    missing = torch.where(kind == ARRANGEMENTS.index("sparse"), _uniform(g, n, 0.7, 0.98), missing)
    keep = torch.rand((n, n_columns), generator=g, device=g.device) >= missing[:, None]
    size = float(max(shape))
    length = _uniform(g, n, 0.12, 0.4) * size
    landscape = smooth_field(torch.Size((n, 64, 64)), length * 64 / size, g, torch.float32)
    height = _at(landscape, columns, shape)
    island = _pick(g, n, recipe.islands).bool()[:, None]
    keep &= ~island | (height > _uniform(g, n, -1.0, 0.3)[:, None])
    uneven = _uniform(g, n, 0.0, recipe.thickness)[:, None] * torch.tanh(height)
    return replace(columns.where(keep), amplitude=columns.amplitude * (1 + uneven).clamp_min(0.1))


def _at(field: Tensor, columns: Columns, shape: tuple[int, int]) -> Tensor:
    """The value of a coarse field (whatever its grid) at each column."""
    n_y, n_x = field.shape[-2:]
    row = (columns.y / shape[0] * n_y).long().clamp(0, n_y - 1)
    col = (columns.x / shape[1] * n_x).long().clamp(0, n_x - 1)
    return torch.gather(field.flatten(1), 1, row * n_x + col)


def _draw_support(recipe: Recipe, n: int, shape: tuple[int, int], spacing: Tensor, g: torch.Generator) -> Tensor:
    """The specimen's own signal beside its columns: a wedge, a film, and patches of contamination with an edge.

    Film and patches are stronger than the background noise of :func:`draw_noise`: what varies slowly and little is
    noise, what varies slowly and much is specimen.
    """
    y = torch.linspace(-0.5, 0.5, shape[0], device=g.device)[None, :, None]
    x = torch.linspace(-0.5, 0.5, shape[1], device=g.device)[None, None, :]
    slope = (_uniform(g, 2 * n, -0.5, 0.5) * recipe.support).view(2, n, 1, 1)
    wedge = (slope[0] * y + slope[1] * x) * _pick(g, n, 0.5)[:, None, None]
    largest = 4 * recipe.support + 1e-6
    length = (_log_uniform(g, n, 3.0, 12.0) * spacing).clamp(max=max(shape) / 3)
    film = smooth_field(torch.Size((n, *shape)), length, g, torch.float32)
    strength = _pick(g, n, 0.25) * _log_uniform(g, n, 0.1 * largest, 0.6 * largest)
    landscape = smooth_field(torch.Size((n, *shape)), _uniform(g, n, 0.08, 0.3) * max(shape), g, torch.float32)
    edge = torch.sigmoid(
        _log_uniform(g, n, 3.0, 20.0)[:, None, None] * (landscape - _uniform(g, n, -1, 1)[:, None, None])
    )
    height = _pick(g, n, 0.15) * _log_uniform(g, n, 0.15 * largest, largest)
    total = wedge + film * strength[:, None, None] + edge * height[:, None, None]
    # matter only adds to the signal: the level is that of the darkest place
    return total - total.amin(dim=(1, 2), keepdim=True)


# --- random numbers ----------------------------------------------------------------------------------------------


def _uniform(g: torch.Generator, n: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=g, device=g.device)


def _log_uniform(g: torch.Generator, n: int, low: float, high: float) -> Tensor:
    return torch.exp(_uniform(g, n, math.log(low), math.log(high)))


def _pick(g: torch.Generator, n: int, probability: float) -> Tensor:
    """1 with the given probability, else 0."""
    return (torch.rand(n, generator=g, device=g.device) < probability).float()
