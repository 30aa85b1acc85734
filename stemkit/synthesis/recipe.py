"""What is drawn for each image of a batch: crystals, specimens and noise over the ranges that microscopes show."""

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
    """Ranges that images are drawn from; lengths in px, amplitudes as fractions of the contrast.

    Parameters
    ----------
    arrangements : tuple of str
        Of ``"lattice"``; two crystals in one image: ``"moire"``, ``"grains"``, ``"twin"``, ``"phases"``;
        ``"dislocation"``, ``"particle"``; ``"random"`` (amorphous) and ``"sparse"`` (single atoms). Lattices are drawn
        six times as often as each of the others.
    spacing : (float, float)
        Distance of nearest columns, log-uniform.
    width : (float, float)
        Sigma of a column as a fraction of the spacing; each species varies about the image's own.
    vacancies, embedded, shifts : float
        The largest fraction of columns that are missing, that are atoms of another kind, or that stand beside their
        place; each image draws its own up to it.
    clusters, interstitials, islands, strain : float
        Fraction of images with a cluster of atoms of another kind, with atoms between the columns, with vacuum beside
        the specimen, with strain.
    thickness, spread : float
        The largest relative variation of the columns' height across an image, and the largest relative deviation of
        columns of one kind; most images have a small one.
    dark : float
        Fraction of images that are bright field: dips, which differ less in depth than the columns of dark field do in
        height, and wider ones where columns are heavy.
    support : float
        The largest amplitude of the specimen's own smooth signal beside the columns: a wedge, a film, patches of
        contamination. Film and patches reach four times this.
    empty : float
        Fraction of images without a single column: what a network should leave empty.
    noise : NoiseParameters or None
        Noises, ``(n_noises,)`` tensors, of which each image takes one; None draws it anew for each.
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
    """Images in units of the contrast above the level: what was recorded, what a network learns, what is true."""

    noisy: Tensor
    targets: Targets
    columns: Columns
    arrangement: Tensor | None = None

    @property
    def names(self) -> list[str]:
        """What each image shows; ``"given"`` where it was not drawn."""
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
    """Clean images ``(n_images, n_y, n_x)`` with one of some noises each, or with noise drawn anew.

    With ``depth`` ``(n_images,)``, what the thickest place takes away in bright field, the beam is so bright that
    electrons are left there.
    """
    n = len(clean)
    if noise is None:
        drawn = draw_noise(spacing, generator, dark, depth)
    else:
        known = len(noise.readout)
        drawn = noise.take(torch.randint(known, (n,), generator=generator, device=generator.device))
        if depth is not None:
            drawn.readout = torch.maximum(drawn.readout, (-drawn.gain * depth).clamp_min(0).sqrt())
    return add_noise(clean, drawn, generator)
