"""What atomic columns look like: sums of separable Gaussians, as batched matrix products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stemkit.synthesis.arrangements import Columns

__all__ = ["Targets", "render", "render_targets"]

#: Spot of the `detect` map: sigma as a fraction of the nearest-neighbour distance, and its limits in px.
SPOT_FRACTION, SPOT_RANGE = 0.12, (0.7, 2.0)
#: The narrowest spot of the `superresolve` map that pixels can hold.
NARROWEST = 0.5


@dataclass
class Targets:
    """What a network learns, ``(n_images, n_y, n_x)`` each; definitions on the conventions page of the docs."""

    enhance: Tensor
    detect: Tensor
    superresolve: Tensor


def render(
    columns: Columns,
    shape: tuple[int, int],
    sigma: Tensor | None = None,
    amplitude: Tensor | None = None,
) -> Tensor:
    """Sum of round Gaussians, ``sum_k a_k exp(-((y - y_k)^2 + (x - x_k)^2) / (2 sigma_k^2))``, at pixel centres.

    A Gaussian is a product of one along y and one along x, so an image is ``Gy^T diag(a) Gx``.
    """
    sigma = columns.sigma if sigma is None else sigma
    amplitude = columns.amplitude if amplitude is None else amplitude
    height = torch.where(columns.present, amplitude, torch.zeros_like(amplitude))
    along_y = _profiles(columns.y, sigma, shape[0])
    along_x = _profiles(columns.x, sigma, shape[1])
    return (along_y * height[..., None]).transpose(1, 2) @ along_x


def render_targets(columns: Columns, shape: tuple[int, int], specimen: Tensor, tail: Tensor, spread: Tensor) -> Targets:
    """The clean image and the maps of its columns.

    Parameters
    ----------
    columns : Columns
    shape : tuple
        ``(n_y, n_x)``.
    specimen : Tensor
        What belongs to the specimen beside its columns (support, thickness): stays in ``enhance``.
    tail, spread : Tensor
        ``(n_images,)``: part of each column's height in a second Gaussian, wider by the factor ``spread``.
    """
    core = render(columns, shape, amplitude=columns.amplitude * (1 - tail[:, None]))
    if bool((tail > 0).any()):
        core = core + render(columns, shape, columns.sigma * spread[:, None], columns.amplitude * tail[:, None])
    spot = (SPOT_FRACTION * columns.spacing).clamp(*SPOT_RANGE)[:, None].expand_as(columns.sigma)
    detect = render(columns, shape, spot, torch.ones_like(columns.amplitude)).clamp(max=1.0)
    narrow = render(columns, shape, (columns.sigma / 2).clamp_min(NARROWEST))
    return Targets(core + specimen, detect, narrow)


def _profiles(centre: Tensor, sigma: Tensor, n: int) -> Tensor:
    pixel = torch.arange(n, device=centre.device, dtype=centre.dtype)
    return torch.exp(-0.5 * ((pixel - centre[..., None]) / sigma.clamp_min(1e-3)[..., None]) ** 2)
