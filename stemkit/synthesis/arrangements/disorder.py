"""Columns without a lattice: amorphous matter and single atoms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stemkit.synthesis.arrangements.columns import Columns, keep_near_frame
from stemkit.synthesis.arrangements.lattices import MARGIN, SIGMA

__all__ = ["poisson_disk_columns"]

#: Rounds of dart throwing (chosen: hardly any gap is large enough for another column afterwards).
ROUNDS = 10
#: Coordinate of empty grid squares, px (chosen: far outside any image, and finite).
OUTSIDE = -1e4


def poisson_disk_columns(
    spacing: float | Tensor,
    shape: tuple[int, int],
    generator: torch.Generator,
    *,
    margin: float | Tensor | None = None,
) -> Columns:
    """Random columns, none nearer to another than the spacing, with almost no gap for a further one.

    Parameters
    ----------
    spacing : float or Tensor of shape (n_images,)
        Least distance, px; a number makes one image.
    shape : (int, int)
        ``(n_y, n_x)``, px.
    generator : torch.Generator
    margin : float or Tensor of shape (n_images,), optional
        Distance beyond the image up to which there are columns, px; None: 2 spacings.

    Returns
    -------
    Columns
        Amplitude 1, sigma 0.2 of the spacing, one species.

    Notes
    -----
    Parallel Poisson-disk sampling by dart throwing [1]_. Each square of a grid whose diagonal is the spacing contains
    at most one column. In each round a position and a random priority are drawn in every empty square; the position is
    accepted if it is far enough from existing columns and has the lowest priority number of all conflicting ones.

    References
    ----------
    .. [1] L.-Y. Wei, ACM Trans. Graph. 27, 20 (2008), https://doi.org/10.1145/1360612.1360619
    """
    device = generator.device
    spacings = torch.atleast_1d(torch.as_tensor(spacing, device=device, dtype=torch.float32))
    margins = MARGIN * spacings if margin is None else torch.as_tensor(margin, device=device).expand(len(spacings))
    side = spacings / math.sqrt(2)
    squares = [int(torch.ceil((n - 1 + 2 * margins) / side).max()) for n in shape]
    size = (len(spacings), *squares)
    corner = torch.stack(torch.meshgrid(*(torch.arange(n, device=device) for n in squares), indexing="ij"))
    places = torch.full((2, *size), torch.inf, device=device)
    for _ in range(ROUNDS):
        darts = corner[:, None] + torch.rand((2, *size), generator=generator, device=device)
        priority = torch.rand(size, generator=generator, device=device)
        free = torch.isinf(places[0]) & ~_is_too_close(darts, places)
        darts = torch.where(free, darts, torch.inf)
        accepted = free & ~_is_too_close(darts, darts, priority)
        places = torch.where(accepted, darts, places)
    present = torch.isfinite(places[0]).flatten(1)
    places = torch.where(torch.isfinite(places), places, OUTSIDE)
    y, x = places.flatten(2) * side[:, None] - margins[:, None]
    ones = torch.ones_like(y)
    columns = Columns(
        y=y,
        x=x,
        amplitude=ones,
        sigma=SIGMA * spacings[:, None] * ones,
        species=torch.zeros_like(y, dtype=torch.long),
        present=present,
        defect=torch.zeros_like(y, dtype=torch.long),
        spacing=spacings,
    )
    return keep_near_frame(columns, shape, margins)


def _is_too_close(darts: Tensor, others: Tensor, priority: Tensor | None = None) -> Tensor:
    """Whether candidates are nearer to others than the spacing; with ``priority``, to those of lower priority number.

    Distances are in edges of grid squares, so that the squared spacing is 2.
    """
    n_y, n_x = darts.shape[-2:]
    neighbors = torch.nn.functional.pad(others, (2, 2, 2, 2), value=torch.inf)
    other_priority = None if priority is None else torch.nn.functional.pad(priority, (2, 2, 2, 2), value=torch.inf)
    if darts.device.type != "cpu":
        # a few large operations, since launching a small one takes longer than its computation
        hits = (darts[..., None, None] - _windows(neighbors)).square().sum(0) < 2.0
        if other_priority is not None and priority is not None:
            hits &= _windows(other_priority) < priority[..., None, None]
        hits[..., 2, 2] = False
        return hits.flatten(-2).any(-1)
    close = torch.zeros(darts.shape[1:], dtype=torch.bool, device=darts.device)
    for i in range(5):
        for j in range(5):
            if (i, j) == (2, 2):
                continue
            window = (..., slice(i, i + n_y), slice(j, j + n_x))
            # the distance to an empty square is infinite or NaN
            hit = (darts - neighbors[window]).square().sum(0) < 2.0
            if other_priority is not None and priority is not None:
                hit &= other_priority[window] < priority
            close |= hit
    return close


def _windows(values: Tensor) -> Tensor:
    """All 5 x 5 windows of a grid, ``(..., n_y, n_x, 5, 5)``."""
    return values.unfold(-2, 5, 1).unfold(-2, 5, 1)
