"""Selection of columns, and point defects at selected columns.

A selection is a mask of shape ``(n_images, n_columns)``; the kind of defect is set in ``columns.defect``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stemkit.synthesis.arrangements.columns import Columns, Defect, along, superposed

__all__ = ["inserted", "inside", "nearest", "removed", "shifted", "subset", "substituted"]


def nearest(columns: Columns, at: ArrayLike) -> Tensor:
    """Select the columns nearest to positions ``(n_positions, 2)``, (y, x) in px, in every image."""
    places = torch.atleast_2d(torch.as_tensor(at, dtype=columns.y.dtype, device=columns.y.device))
    if columns.y.shape[1] == 0:
        return torch.zeros_like(columns.present)
    distance = torch.cdist(places.expand(len(columns), -1, -1), columns.places)
    distance = torch.where(columns.present[:, None], distance, torch.inf)
    chosen = torch.zeros_like(columns.present)
    return chosen.scatter(1, distance.argmin(dim=2), True) & columns.present


def inside(columns: Columns, at: Sequence[float], radius: float) -> Tensor:
    """Select the columns inside a circle of this radius, px, around (y, x)."""
    return (torch.hypot(columns.y - at[0], columns.x - at[1]) <= radius) & columns.present


def subset(columns: Columns, fraction: float | Tensor, generator: torch.Generator) -> Tensor:
    """Select each column with the same probability, which may differ between images."""
    draw = torch.rand(columns.y.shape, generator=generator, device=columns.y.device)
    return (draw < along(fraction, columns.y)) & columns.present


def removed(columns: Columns, which: Tensor) -> Columns:
    """Replace selected columns by vacancies."""
    vacant = which & columns.present
    return replace(columns, present=columns.present & ~vacant, defect=_marked(columns, vacant, Defect.VACANCY))


def substituted(
    columns: Columns, which: Tensor, amplitude: float | Tensor, width: float | Tensor = 1.0, species: int | None = None
) -> Columns:
    """Replace selected columns by another species.

    Parameters
    ----------
    columns : Columns
    which : Tensor
        Selection.
    amplitude, width : float or Tensor of shape (n_images,)
        Height and width relative to those of the replaced columns.
    species : int, optional
        Number of the species; None: one more than the largest.
    """
    kind = _next_species(columns) if species is None else species
    return replace(
        columns,
        amplitude=torch.where(which, columns.amplitude * along(amplitude, columns.y), columns.amplitude),
        sigma=torch.where(which, columns.sigma * along(width, columns.y), columns.sigma),
        species=torch.where(which, kind, columns.species),
        defect=_marked(columns, which, Defect.SUBSTITUTION),
    )


def shifted(columns: Columns, which: Tensor, dy: float | Tensor, dx: float | Tensor) -> Columns:
    """Displace selected columns by ``dy`` and ``dx`` px."""
    moved = columns.moved(which * along(dy, columns.y), which * along(dx, columns.y))
    return replace(moved, defect=_marked(columns, which, Defect.SHIFT))


def inserted(
    columns: Columns, at: ArrayLike, amplitude: float | Tensor, sigma: float | Tensor, species: int | None = None
) -> Columns:
    """Add interstitials.

    Parameters
    ----------
    columns : Columns
    at : array-like of shape (n_places, 2) or (n_images, n_places, 2)
        Positions (y, x), px.
    amplitude, sigma : float or Tensor of shape (n_images,)
        Height, in units of the contrast, and width, px.
    species : int, optional
        Number of the species; None: one more than the largest.
    """
    kind = _next_species(columns) if species is None else species
    places = torch.as_tensor(at, dtype=columns.y.dtype, device=columns.y.device)
    y, x = places.expand(len(columns), *places.shape[-2:]).unbind(-1)
    new = replace(
        columns,
        y=y,
        x=x,
        amplitude=along(amplitude, y).expand_as(y),
        sigma=along(sigma, y).expand_as(y),
        species=torch.full_like(y, kind, dtype=torch.long),
        present=torch.ones_like(y, dtype=torch.bool),
        defect=torch.full_like(y, Defect.INTERSTITIAL, dtype=torch.long),
    )
    return superposed(columns, new)


def _next_species(columns: Columns) -> int:
    return int(columns.species.max()) + 1 if columns.species.numel() else 0


def _marked(columns: Columns, which: Tensor, defect: Defect) -> Tensor:
    return torch.where(which, int(defect), columns.defect)
