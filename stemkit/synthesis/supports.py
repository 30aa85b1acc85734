"""Drawing of the signal of a specimen in addition to its columns: wedge, film, contamination, amorphous support."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stemkit.noise.drawing import smooth_field
from stemkit.synthesis.chance import log_uniform, pick, uniform
from stemkit.synthesis.recipe import ARRANGEMENTS, Recipe

__all__ = ["draw_support"]

#: Distance, px, over which a wedge changes by its full amplitude, so that its slope does not depend on the image
#: (chosen).
WEDGE_LENGTH = 512
#: Range of the grain size of a support, spacings (chosen).
GRAIN_SIZE = (0.15, 0.5)
#: Largest amplitude of that grain, as a fraction of the recipe's support (chosen).
GRAIN_AMPLITUDE = 0.2
#: Codes of arrangements that may have an amorphous support.
SUPPORTED = [ARRANGEMENTS.index(name) for name in ("particle", "sparse")]


def draw_support(recipe: Recipe, kind: Tensor, spacing: Tensor, shape: tuple[int, int], g: torch.Generator) -> Tensor:
    """Signal of the specimen in addition to its columns.

    It consists of a wedge, a film, patches of contamination with edges, and the grain of an amorphous support under
    particles and single atoms. Film and patches are stronger than the background noise of the recipe: weak slow
    variation is defined as noise, strong slow variation as specimen.
    """
    n = len(spacing)
    y = torch.linspace(-0.5, 0.5, shape[0], device=g.device)[None, :, None]
    x = torch.linspace(-0.5, 0.5, shape[1], device=g.device)[None, None, :]
    rise = min(1.0, max(shape) / WEDGE_LENGTH)
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
    rough = supported * uniform(g, n, 0.0, GRAIN_AMPLITUDE * recipe.support)
    fine = uniform(g, n, *GRAIN_SIZE) * spacing
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
