"""Crystals: periodic repetition of a cell over the image."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stemkit.synthesis.arrangements.cells import Cell, nearest_site_distance
from stemkit.synthesis.arrangements.columns import Columns, along, keep_near_frame

__all__ = ["MARGIN", "SIGMA", "lattice", "lattice_vectors"]

#: Default distance beyond the image up to which there are columns, spacings (chosen).
MARGIN = 2.0
#: Default width (sigma) of columns, spacings (chosen).
SIGMA = 0.2


def lattice(
    cell: Cell,
    shape: tuple[int, int],
    *,
    spacing: float | Tensor | None = None,
    pixel_size: float | None = None,
    sigma: float | Tensor | None = None,
    angle: float | Tensor = 0.0,
    origin: tuple[float, float] | Tensor = (0.0, 0.0),
    margin: float | Tensor | None = None,
) -> Columns:
    """Perfect crystal that fills the image.

    Parameters
    ----------
    cell : Cell
        One cell, or one for each image.
    shape : (int, int)
        ``(n_y, n_x)`` of the image, px.
    spacing : float or Tensor of shape (n_images,)
        Distance of nearest columns, px. Give this or `pixel_size`.
    pixel_size : float
        Pixel size in the unit of the cell's vectors. Give this or `spacing`.
    sigma : float or Tensor of shape (n_images,), optional
        Width of columns, px, which is multiplied by that of the cell's sites; None: 0.2 of the spacing.
    angle : float or Tensor of shape (n_images,)
        Rotation of the crystal, degrees, clockwise with y downwards.
    origin : (float, float) or Tensor of shape (n_images, 2)
        Origin of the cell relative to the centre of the image, in fractions of its vectors.
    margin : float or Tensor of shape (n_images,), optional
        Distance beyond the image up to which there are columns, px; None: 2 spacings.

    Returns
    -------
    Columns
        Amplitudes are those of the cell; species are the numbers of the sites.

    Raises
    ------
    ValueError
        If not exactly one of `spacing` and `pixel_size` is given, a length is not positive, or a parameter is neither
        one number nor one for each image.
    """
    if (spacing is None) == (pixel_size is None):
        raise ValueError(
            f"give either spacing or pixel_size, but {'neither is' if spacing is None else 'both are'} given"
        )
    if not isinstance(cell, Cell):
        raise TypeError(f"cell must be a Cell, such as that of planar_cell, but is {type(cell).__name__}")
    if np.shape(shape) != (2,):
        raise ValueError(f"shape must be (n_y, n_x) of the image in px, but is {shape!r}")
    nearest = nearest_site_distance(cell)
    if pixel_size is not None:
        spacing = nearest / _positive(pixel_size, nearest, "pixel_size")
    spacing = _positive(spacing, nearest, "spacing")
    margin = MARGIN * spacing if margin is None else _per_image(margin, nearest, "margin")
    vectors = lattice_vectors(cell, spacing, _per_image(angle, nearest, "angle"))
    reach = math.hypot(*shape) / 2 + float(margin.max())
    height = torch.linalg.det(vectors).abs() / torch.linalg.norm(vectors, dim=-1).max(dim=1).values
    m = int(torch.ceil(reach / height).max()) + 1
    steps = torch.arange(-m, m + 1, device=spacing.device, dtype=spacing.dtype)
    index = torch.cartesian_prod(steps, steps)
    start = torch.as_tensor(origin, dtype=spacing.dtype, device=spacing.device).expand(len(cell), 2)
    fractional = index[None, :, None] + ((cell.basis + start[:, None]) % 1.0)[:, None]
    position = (fractional @ vectors[:, None]).flatten(1, 2)

    def of_sites(values: Tensor) -> Tensor:
        return values[:, None].expand(-1, len(index), -1).flatten(1)

    kind = torch.arange(cell.basis.shape[1], device=spacing.device).expand(len(cell), -1)
    width = along(SIGMA * spacing if sigma is None else _positive(sigma, nearest, "sigma"), spacing)
    columns = Columns(
        y=position[..., 0] + (shape[0] - 1) / 2,
        x=position[..., 1] + (shape[1] - 1) / 2,
        amplitude=of_sites(cell.amplitude),
        sigma=of_sites(cell.width) * width,
        species=of_sites(kind),
        present=of_sites(cell.occupied),
        defect=torch.zeros_like(of_sites(kind)),
        spacing=spacing,
    )
    return keep_near_frame(columns, shape, margin)


def lattice_vectors(cell: Cell, spacing: Tensor, angle: float | Tensor = 0.0) -> Tensor:
    """Vectors a and b, (y, x) in px each, of the crystals of ``lattice``: ``(n_images, 2, 2)``."""
    return cell.vectors * (spacing / nearest_site_distance(cell))[:, None, None] @ _rotation(angle, cell.vectors)


def _per_image(value: float | Tensor | None, like: Tensor, name: str) -> Tensor:
    """A number, or one for each image, as a tensor of the type of ``like``, ``(n_images,)``."""
    try:
        tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(len(like))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be one number or {len(like)}, one for each image, but is {value!r}") from None
    # the values of tensors are not copied from their device
    if not isinstance(value, Tensor) and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} must be finite, but is {value!r}")
    return tensor


def _positive(value: float | Tensor | None, like: Tensor, name: str) -> Tensor:
    tensor = _per_image(value, like, name)
    if not bool((tensor > 0).all()):
        raise ValueError(f"{name} must be positive, but is {value!r}")
    return tensor


def _rotation(angle: float | Tensor, like: Tensor) -> Tensor:
    radians = torch.deg2rad(torch.as_tensor(angle, dtype=like.dtype, device=like.device)).expand(len(like))
    cos, sin = torch.cos(radians), torch.sin(radians)
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], dim=1)
