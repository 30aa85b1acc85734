"""What atomic columns look like: sums of separable Gaussians, as matrix products."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stemkit.synthesis.arrangements import Columns
from stemkit.synthesis.arrangements.columns import along

__all__ = ["Targets", "blurred", "render", "render_targets", "through_probe"]

#: Spot of the `detect` map: sigma as a fraction of the nearest-neighbour distance, and its limits in px.
SPOT_FRACTION, SPOT_RANGE = 0.12, (0.7, 2.0)
#: The narrowest spot of the `superresolve` map that pixels can hold.
NARROWEST = 0.5
#: Columns narrower than this, px, are averaged over each pixel's area.
NARROW = 1.0
#: On a CPU so many rows are drawn at once, from the columns within this many sigmas.
ROWS = 64
FARTHEST = {torch.float32: 6.0, torch.float64: 8.5}


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
    *,
    integrated: bool = True,
) -> Tensor:
    """Sum of round Gaussians, ``sum_k a_k exp(-((y - y_k)^2 + (x - x_k)^2) / (2 sigma_k^2))``.

    A Gaussian is a product of one along y and one along x, so an image is ``Gy^T diag(a) Gx``.

    Parameters
    ----------
    columns : Columns
    shape : (int, int)
        ``(n_y, n_x)``.
    sigma, amplitude : Tensor of shape (n_images, n_columns), optional
        In place of those of the columns.
    integrated : bool
        Columns whose sigma is below 1 px are averaged over the area of each pixel: their sum is exact however narrow
        they are, and their centroid is off by ``exp(-2 pi^2 sigma^2) / pi`` px at most, 2e-4 at 0.6 px. The others,
        and all with False, are taken at the pixels' centres.

    Returns
    -------
    Tensor of shape (n_images, n_y, n_x)
        In parts of the contrast.
    """
    sigma = columns.sigma if sigma is None else sigma
    amplitude = columns.amplitude if amplitude is None else amplitude
    if columns.y.device.type != "cpu":
        height = torch.where(columns.present, amplitude, torch.zeros_like(amplitude))
        along_y = _profiles(columns.y, sigma, 0, shape[0], integrated)
        along_x = _profiles(columns.x, sigma, 0, shape[1], integrated)
        return (along_y * height[..., None]).transpose(1, 2) @ along_x
    # images have very different numbers of columns, and a row sees few of them
    parts = zip(columns.y, columns.x, sigma, amplitude, columns.present, strict=True)
    return torch.stack([_drawn(y[k], x[k], s[k], a[k], shape, integrated) for y, x, s, a, k in parts])


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
    tailed = torch.nonzero(tail > 0)[:, 0]
    if len(tailed):
        wide = columns.take(tailed)
        core[tailed] += render(wide, shape, wide.sigma * spread[tailed, None], wide.amplitude * tail[tailed, None])
    spot = (SPOT_FRACTION * columns.spacing).clamp(*SPOT_RANGE)[:, None].expand_as(columns.sigma)
    detect = render(columns, shape, spot, torch.ones_like(columns.amplitude), integrated=False).clamp(max=1.0)
    narrow = render(columns, shape, (columns.sigma / 2).clamp_min(NARROWEST), integrated=False)
    return Targets(core + specimen, detect, narrow)


def blurred(columns: Columns, source: float | Tensor) -> Columns:
    """Columns as a source of finite size shows them: wider, and as much lower, so that their sums stay.

    Parameters
    ----------
    columns : Columns
    source : float or Tensor of shape (n_images,)
        Sigma of its image on the specimen, px.
    """
    wider = torch.sqrt(columns.sigma**2 + along(source, columns.sigma) ** 2)
    return replace(columns, sigma=wider, amplitude=columns.amplitude * (columns.sigma / wider) ** 2)


def through_probe(images: Tensor, probe: ArrayLike) -> Tensor:
    """Images ``(n_images, n_y, n_x)`` as a probe of any shape sees them: their convolution with it.

    Draw the columns as narrow as they are without the probe, and as far beyond the frame as it reaches; the image is
    dark beyond the frame.

    Parameters
    ----------
    images : Tensor
    probe : array-like of shape (odd, odd)
        Intensity, sampled at the image's pixel size, its centre in the middle. It is divided by its sum.

    Raises
    ------
    ValueError
        If the probe has no middle pixel, or no positive sum.
    """
    kernel = torch.as_tensor(probe, dtype=images.dtype, device=images.device)
    if kernel.ndim != 2 or not all(n % 2 for n in kernel.shape):
        raise ValueError(f"probe must have two odd sizes, its centre in the middle, but is {tuple(kernel.shape)}")
    if not float(kernel.sum()) > 0:
        raise ValueError("probe must have a positive sum")
    size = [n + m - 1 for n, m in zip(images.shape[1:], kernel.shape, strict=True)]
    product = torch.fft.rfft2(images, s=size) * torch.fft.rfft2(kernel / kernel.sum(), s=size)
    first = [m // 2 for m in kernel.shape]
    whole = torch.fft.irfft2(product, s=size)
    return whole[:, first[0] : first[0] + images.shape[1], first[1] : first[1] + images.shape[2]]


def _drawn(y: Tensor, x: Tensor, sigma: Tensor, height: Tensor, shape: tuple[int, int], integrated: bool) -> Tensor:
    """One image, some rows at a time."""
    image = torch.zeros(shape, dtype=y.dtype)
    if len(y) == 0:
        return image
    reach = FARTHEST.get(y.dtype, 8.5) * sigma + 0.5
    along_x = _near_profiles(x, sigma, shape[1], int(torch.ceil(reach.max())), integrated)
    for start in range(0, shape[0], ROWS):
        end = min(start + ROWS, shape[0])
        near = torch.nonzero((y + reach > start) & (y - reach < end - 1))[:, 0]
        along_y = _profiles(y[near], sigma[near], start, end, integrated) * height[near, None]
        image[start:end] = along_y.T @ along_x[near]
    return image


def _profiles(centre: Tensor, sigma: Tensor, start: int, end: int, integrated: bool) -> Tensor:
    """Gaussians along one axis at the pixels from ``start`` to ``end``, ``(..., end - start)``."""
    pixel = torch.arange(start, end, device=centre.device, dtype=centre.dtype)
    return _gaussian(pixel - centre[..., None], sigma, integrated)


def _near_profiles(centre: Tensor, sigma: Tensor, n: int, reach: int, integrated: bool) -> Tensor:
    """The same at n pixels, ``(k, n)``, and 0 beyond the reach: most of an image is far from a column."""
    middle = centre.round().clamp(-reach - 1, n + reach)
    offset = torch.arange(-reach, reach + 1, dtype=centre.dtype)
    values = _gaussian(middle[:, None] + offset - centre[:, None], sigma, integrated)
    # what is beyond the border goes into two pixels that are cut off
    place = (middle[:, None] + offset + 1).clamp(0, n + 1).long()
    return torch.zeros(len(centre), n + 2, dtype=centre.dtype).scatter_(1, place, values)[:, 1:-1]


def _gaussian(distance: Tensor, sigma: Tensor, integrated: bool) -> Tensor:
    """``exp(-d^2 / (2 sigma^2))``, or its mean over a pixel where sigma is small."""
    width = sigma.clamp_min(1e-3)[..., None]
    relative = distance / width
    profile = torch.exp(-0.5 * relative.square())
    if integrated and bool((sigma < NARROW).any()):
        half, scale = 0.5 / width, math.sqrt(math.pi / 2) * width
        root = math.sqrt(2)
        mean = scale * (torch.erf((relative + half) / root) - torch.erf((relative - half) / root))
        profile = torch.where(width < NARROW, mean, profile)
    return profile
