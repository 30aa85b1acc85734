"""Columns without a lattice: amorphous matter and single atoms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stemkit.synthesis.arrangements.columns import Columns, keep_near_frame
from stemkit.synthesis.arrangements.lattices import MARGIN, SIGMA

__all__ = ["blue_noise"]

#: Rounds of darts: what is free after these is too small for another column nearly everywhere.
ROUNDS = 10


def blue_noise(
    spacing: float | Tensor,
    shape: tuple[int, int],
    generator: torch.Generator,
    *,
    margin: float | Tensor | None = None,
) -> Columns:
    """Columns at random, none nearer to another than the spacing, until there is hardly room for more.

    Parameters
    ----------
    spacing : float or Tensor of shape (n_images,)
        px; a number makes one image.
    shape : (int, int)
        ``(n_y, n_x)``, px.
    generator : torch.Generator
    margin : float or Tensor of shape (n_images,), optional
        How far beyond the frame there are columns, px; None: 2 spacings.

    Returns
    -------
    Columns
        Amplitude 1, sigma 0.2 of the spacing, one species.

    Notes
    -----
    Poisson-disk sampling by throwing darts, all at once: a grid whose squares have the spacing as diagonal holds one
    column each at most. In each round every empty square throws one, which stays if it is far enough from what is
    there, and of all thrown around it has the lowest number [1]_.

    References
    ----------
    .. [1] L.-Y. Wei, ACM Trans. Graph. 27, 20 (2008), https://doi.org/10.1145/1360612.1360619
    """
    near = torch.atleast_1d(torch.as_tensor(spacing, device=generator.device, dtype=torch.float32))
    beyond = MARGIN * near if margin is None else torch.as_tensor(margin, device=near.device).expand(len(near))
    side = near / math.sqrt(2)
    squares = [int(torch.ceil((n - 1 + 2 * beyond) / side).max()) for n in shape]
    size = (len(near), *squares)
    corner = torch.stack(torch.meshgrid(*(torch.arange(n, device=near.device) for n in squares), indexing="ij"))
    place = torch.full((2, *size), torch.inf, device=near.device)
    for _ in range(ROUNDS):
        darts = corner[:, None] + torch.rand((2, *size), generator=generator, device=near.device)
        turn = torch.rand(size, generator=generator, device=near.device)
        free = torch.isinf(place[0]) & ~_close(darts, place)
        darts = torch.where(free, darts, torch.inf)
        stays = free & ~_close(darts, darts, turn)
        place = torch.where(stays, darts, place)
    there = torch.isfinite(place[0]).flatten(1)
    # numbers, so that they can be reckoned with
    place = torch.where(torch.isfinite(place), place, -1e4)
    y, x = place.flatten(2) * side[:, None] - beyond[:, None]
    ones = torch.ones_like(y)
    columns = Columns(
        y=y,
        x=x,
        amplitude=ones,
        sigma=SIGMA * near[:, None] * ones,
        species=torch.zeros_like(y, dtype=torch.long),
        present=there,
        defect=torch.zeros_like(y, dtype=torch.long),
        spacing=near,
    )
    return keep_near_frame(columns, shape, beyond)


def _close(darts: Tensor, others: Tensor, turn: Tensor | None = None) -> Tensor:
    """Whether darts are nearer than the spacing, the diagonal of a square, to others; with ``turn``, to those whose
    turn comes first.
    """
    n_y, n_x = darts.shape[-2:]
    around = torch.nn.functional.pad(others, (2, 2, 2, 2), value=torch.inf)
    first = None if turn is None else torch.nn.functional.pad(turn, (2, 2, 2, 2), value=torch.inf)
    if darts.device.type != "cpu":
        # a few large operations rather than many small ones: starting each takes longer than its work
        hits = (darts[..., None, None] - _windows(around)).square().sum(0) < 2.0
        if first is not None and turn is not None:
            hits &= _windows(first) < turn[..., None, None]
        hits[..., 2, 2] = False
        return hits.flatten(-2).any(-1)
    close = torch.zeros(darts.shape[1:], dtype=torch.bool, device=darts.device)
    for i in range(5):
        for j in range(5):
            if (i, j) == (2, 2):
                continue
            window = (..., slice(i, i + n_y), slice(j, j + n_x))
            # what is not there is infinitely far, or not a number far
            hit = (darts - around[window]).square().sum(0) < 2.0
            close |= hit if first is None or turn is None else hit & (first[window] < turn)
    return close


def _windows(values: Tensor) -> Tensor:
    """The squares of 5 x 5 of a grid, ``(..., n_y, n_x, 5, 5)``."""
    return values.unfold(-2, 5, 1).unfold(-2, 5, 1)
