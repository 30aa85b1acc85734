"""Batches of recorded images with their truth, drawn from a recipe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stemkit.noise.drawing import NoiseParameters, add_noise
from stemkit.synthesis.arrangements.columns import Columns
from stemkit.synthesis.chance import pick, uniform
from stemkit.synthesis.noises import draw_noise
from stemkit.synthesis.recipe import ARRANGEMENTS, Recipe
from stemkit.synthesis.rendering import Targets, render_targets
from stemkit.synthesis.specimens import draw_columns
from stemkit.synthesis.supports import draw_support

__all__ = ["Batch", "draw_batch", "recorded"]


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
    specimens = draw_columns(recipe, n_images, shape, generator)
    columns, arrangement = specimens.columns, specimens.arrangement
    tail = pick(generator, n_images, 0.5) * uniform(generator, n_images, 0.0, 0.25)
    spread = uniform(generator, n_images, 1.6, 2.6)
    support = draw_support(recipe, arrangement, columns.spacing, shape, generator)
    targets = render_targets(columns, shape, support, tail, spread)
    depth = targets.enhance.amax(dim=(1, 2))
    noisy = recorded(targets.enhance, columns.spacing, recipe.noise, generator, specimens.dark, depth)
    return Batch(noisy, targets, columns, arrangement)


def recorded(
    true_image: Tensor,
    spacing: Tensor,
    noise: NoiseParameters | None,
    generator: torch.Generator,
    dark: Tensor | None = None,
    depth: Tensor | None = None,
) -> Tensor:
    """Add noise to true images ``(n_images, n_y, n_x)``: one of the given models to each, or a newly drawn one.

    ``depth`` ``(n_images,)`` is the largest decrease of the intensity in bright field. Where it is given, the dose is
    high enough for a positive variance there.
    """
    n = len(true_image)
    if noise is None:
        drawn = draw_noise(spacing, generator, dark, depth)
    else:
        drawn = noise.take(torch.randint(len(noise.readout), (n,), generator=generator, device=generator.device))
        if depth is not None:
            drawn.readout = torch.maximum(drawn.readout, (-drawn.gain * depth).clamp_min(0).sqrt())
    return add_noise(true_image, drawn, generator)
