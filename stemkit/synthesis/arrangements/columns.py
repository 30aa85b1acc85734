"""Atomic columns of a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stemkit.statistics import nearest_distances

__all__ = ["Columns", "Defect", "along", "columns_at", "keep_near_frame", "stacked", "superposed"]


class Defect(IntEnum):
    """Kind of point defect of a column."""

    NONE = 0
    VACANCY = 1
    SUBSTITUTION = 2
    INTERSTITIAL = 3
    SHIFT = 4


@dataclass(frozen=True)
class Columns:
    """Atomic columns of a batch of images; tensors are ``(n_images, n_columns)`` unless stated otherwise.

    Positions are in px, with pixel centres at integers. ``amplitude`` is the height of a column above its background,
    in units of the image's contrast, ``sigma`` its width, px. ``present`` is False for padding, since images have
    different numbers of columns, and for vacancies. ``spacing`` ``(n_images,)`` is the distance of nearest neighbours
    in the ideal arrangement, px; ``defect`` is a :class:`Defect`.
    """

    y: Tensor
    x: Tensor
    amplitude: Tensor
    sigma: Tensor
    species: Tensor
    present: Tensor
    defect: Tensor
    spacing: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @property
    def places(self) -> Tensor:
        """Positions ``(y, x)``, ``(n_images, n_columns, 2)``."""
        return torch.stack([self.y, self.x], dim=-1)

    def take(self, images: Tensor) -> Columns:
        """Columns of a subset of the images."""
        return Columns(**{f.name: getattr(self, f.name)[images] for f in fields(self)})

    def where(self, keep: Tensor) -> Columns:
        """The same columns, of which those not kept become absent, without a defect."""
        return replace(self, present=self.present & keep, defect=torch.where(keep, self.defect, int(Defect.NONE)))

    def moved(self, dy: Tensor, dx: Tensor) -> Columns:
        """The same columns, displaced by ``dy`` and ``dx`` px."""
        return replace(self, y=self.y + dy, x=self.x + dx)


def columns_at(
    positions: ArrayLike,
    amplitude: ArrayLike = 1.0,
    sigma: ArrayLike = 2.0,
    *,
    species: ArrayLike = 0,
    spacing: float | None = None,
) -> Columns:
    """Columns of one image at given positions.

    Parameters
    ----------
    positions : array-like of shape (n_columns, 2)
        ``(y, x)``, px.
    amplitude, sigma, species : float, int or array-like of shape (n_columns,)
        Height, width (px) and species.
    spacing : float, optional
        Distance of nearest columns, px; None: the least distance between the given columns.
    """
    if np.ndim(positions) != 2 or np.shape(positions)[1] != 2:
        raise ValueError(f"positions must be of shape (n_columns, 2), (y, x) in px, but is {np.shape(positions)}")
    places = torch.as_tensor(positions, dtype=torch.float64)
    if spacing is None:
        several = len(places) > 1
        spacing = float(nearest_distances(places.numpy()).min()) if several else 10 * float(np.max(sigma))
    height, width = (
        torch.as_tensor(v, dtype=torch.float64).expand(len(places)).clone()[None] for v in (amplitude, sigma)
    )
    kind = torch.as_tensor(species).expand(len(places)).clone()[None]
    return Columns(
        y=places[None, :, 0],
        x=places[None, :, 1],
        amplitude=height,
        sigma=width,
        species=kind.long(),
        present=torch.ones_like(height, dtype=torch.bool),
        defect=torch.zeros_like(kind, dtype=torch.long),
        spacing=torch.tensor([spacing], dtype=torch.float64),
    )


def superposed(first: Columns, second: Columns) -> Columns:
    """Superpose columns in the same images: moire, islands on a crystal, atoms on a film.

    The spacing is that of ``first``.
    """
    both = {name: torch.cat([getattr(first, name), getattr(second, name)], dim=1) for name in _PER_COLUMN}
    return Columns(**both, spacing=first.spacing)


def stacked(parts: Sequence[Columns]) -> Columns:
    """Concatenate the images of several batches."""
    most = max(part.y.shape[1] for part in parts)

    def filled(part: Columns, name: str) -> Tensor:
        values = getattr(part, name)
        return torch.nn.functional.pad(values, (0, most - values.shape[1]), value=_PADDING.get(name, 0))

    columns = {name: torch.cat([filled(part, name) for part in parts]) for name in _PER_COLUMN}
    return Columns(**columns, spacing=torch.cat([part.spacing for part in parts]))


def keep_near_frame(columns: Columns, shape: tuple[int, int], margin: Tensor | float) -> Columns:
    """Remove columns more than ``margin`` px outside the image, and shorten the tensors accordingly.

    Parameters
    ----------
    columns : Columns
    shape : (int, int)
        ``(n_y, n_x)``.
    margin : float or Tensor of shape (n_images,)
    """
    margin = along(margin, columns.y)
    near = (columns.y > -margin) & (columns.y < shape[0] - 1 + margin)
    near &= (columns.x > -margin) & (columns.x < shape[1] - 1 + margin)
    # vacancies are kept, padding is not
    near &= columns.present | (columns.defect == Defect.VACANCY)
    n = max(int(near.sum(dim=1).max()), 1)
    order = torch.argsort((~near).to(torch.uint8), dim=1, stable=True)[:, :n]
    kept = {name: torch.gather(getattr(columns, name), 1, order) for name in _PER_COLUMN}
    kept["present"] = kept["present"] & torch.gather(near, 1, order)
    return Columns(**kept, spacing=columns.spacing)


def along(value: Tensor | float, like: Tensor) -> Tensor:
    """A number, or one for each image, as a tensor that broadcasts with those of the columns."""
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return tensor[:, None] if tensor.ndim == 1 else tensor


#: Values of padding where an image has fewer columns than others: absent, far outside the image.
_PADDING = {"y": -1e6, "x": -1e6, "sigma": 1.0, "present": False}
#: Names of the tensors of shape ``(n_images, n_columns)``.
_PER_COLUMN = [f.name for f in fields(Columns) if f.name != "spacing"]
