"""Distributions of crystals, specimens and noise from which batches of images are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stemkit.noise.drawing import NoiseParameters, add_noise
from stemkit.synthesis.arrangements import Columns
from stemkit.synthesis.chance import pick, uniform
from stemkit.synthesis.noises import draw_noise
from stemkit.synthesis.rendering import Targets, render_targets
from stemkit.synthesis.specimens import ARRANGEMENTS, draw_columns, draw_support

__all__ = ["ARRANGEMENTS", "Batch", "Recipe", "draw_batch", "recorded"]

Range = tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """Distribution of images; lengths in px, amplitudes as fractions of the contrast.

    Parameters
    ----------
    arrangements : tuple of str
        Subset of ``"lattice"``; two crystals in one image: ``"moire"``, ``"grains"``, ``"twin"``, ``"phases"``;
        ``"dislocation"``, ``"particle"``; ``"random"`` (amorphous) and ``"sparse"`` (single atoms). Lattices are drawn
        six times as often as each of the others.
    spacing : (float, float)
        Range of the distance of nearest columns, log-uniform.
    width : (float, float)
        Range of an image's column width (sigma) as a fraction of the spacing; that of each species varies around it.
    vacancies, embedded, shifts : float
        Largest fraction of columns that are missing, substituted or displaced from their site; each image has a
        fraction between 0 and this.
    clusters, interstitials, islands, strain : float
        Fraction of images with a cluster of substituted columns, with interstitials, with vacuum adjacent to the
        specimen, with strain.
    thickness, spread : float
        Largest relative variation of the columns' height across an image, and largest relative standard deviation of
        the height in one species; the latter is small in most images.
    dark : float
        Fraction of bright-field images, whose columns are dips that differ less in depth than the columns of dark field
        do in height, and are wider for heavy columns.
    support : float
        Largest amplitude of the specimen's smooth signal in addition to the columns: a wedge, a film, patches of
        contamination. That of film and patches is four times this.
    empty : float
        Fraction of images without columns.
    noise : NoiseParameters or None
        Parameters ``(n_models,)`` of noise models, one of which is selected for each image; None draws new ones.
    """

    arrangements: tuple[str, ...] = ARRANGEMENTS
    spacing: Range = (7.0, 32.0)
    width: Range = (0.13, 0.28)
    vacancies: float = 0.06
    embedded: float = 0.1
    shifts: float = 0.1
    clusters: float = 0.1
    interstitials: float = 0.1
    islands: float = 0.25
    strain: float = 0.3
    thickness: float = 0.4
    spread: float = 0.3
    dark: float = 0.4
    support: float = 0.5
    empty: float = 0.0
    noise: NoiseParameters | None = None


@dataclass
class Batch:
    """Recorded images, target maps and true columns; images are in units of the contrast above the level."""

    noisy: Tensor
    targets: Targets
    columns: Columns
    arrangement: Tensor | None = None

    @property
    def names(self) -> list[str]:
        """Names of the arrangements; ``"given"`` for a specimen that was not drawn."""
        if self.arrangement is None:
            return ["given"] * len(self.noisy)
        return [ARRANGEMENTS[k] for k in self.arrangement.tolist()]


def draw_batch(recipe: Recipe, n_images: int, shape: tuple[int, int], generator: torch.Generator) -> Batch:
    """Draw ``n_images`` pairs on the generator's device."""
    columns, arrangement, dark = draw_columns(recipe, n_images, shape, generator)
    tail = pick(generator, n_images, 0.5) * uniform(generator, n_images, 0.0, 0.25)
    spread = uniform(generator, n_images, 1.6, 2.6)
    support = draw_support(recipe, arrangement, columns.spacing, shape, generator)
    targets = render_targets(columns, shape, support, tail, spread)
    depth = targets.enhance.amax(dim=(1, 2))
    noisy = recorded(targets.enhance, columns.spacing, recipe.noise, generator, dark, depth)
    return Batch(noisy, targets, columns, arrangement)


def recorded(
    clean: Tensor,
    spacing: Tensor,
    noise: NoiseParameters | None,
    generator: torch.Generator,
    dark: Tensor | None = None,
    depth: Tensor | None = None,
) -> Tensor:
    """Add noise to clean images ``(n_images, n_y, n_x)``: one of the given models to each, or a newly drawn one.

    ``depth`` ``(n_images,)`` is the largest decrease of the intensity in bright field. Where it is given, the dose is
    high enough for a positive variance there.
    """
    n = len(clean)
    if noise is None:
        drawn = draw_noise(spacing, generator, dark, depth)
    else:
        drawn = noise.take(torch.randint(len(noise.readout), (n,), generator=generator, device=generator.device))
        if depth is not None:
            drawn.readout = torch.maximum(drawn.readout, (-drawn.gain * depth).clamp_min(0).sqrt())
    return add_noise(clean, drawn, generator)
