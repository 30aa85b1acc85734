"""Rendering of atomic columns as sums of separable Gaussians, by matrix products."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stemkit.synthesis.arrangements.columns import Columns, along

__all__ = ["Targets", "blurred", "render", "render_targets", "through_probe"]

#: Distance from a column, sigmas, at which its Gaussian is truncated (derived: below the precision of the data type).
FARTHEST = {torch.float32: 6.0, torch.float64: 8.5}


@dataclass(frozen=True)
class _Constants:
    """Constants of the rendering."""

    #: Sigma of the spots of the `detect` map as a fraction of the nearest-neighbour distance (chosen).
    spot_fraction: float = 0.12
    #: Limits of that sigma, px (chosen).
    spot_range: tuple[float, float] = (0.7, 2.0)
    #: Least sigma of the spots of the `superresolve` map, px (chosen: the pixels still sample them).
    narrowest: float = 0.5
    #: Columns of a smaller sigma, px, are averaged over the area of each pixel (chosen).
    narrow: float = 1.0
    #: Rows that a CPU renders at once (chosen).
    rows: int = 64


CONSTANTS = _Constants()


@dataclass
class Targets:
    """Target maps of a network, ``(n_images, n_y, n_x)`` each; see the conventions page of the documentation."""

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
    """Sum of isotropic Gaussians, ``sum_k a_k exp(-((y - y_k)^2 + (x - x_k)^2) / (2 sigma_k^2))``.

    A Gaussian is the product of a function of y and one of x, and the image is ``Gy^T diag(a) Gx``.

    Parameters
    ----------
    columns : Columns
    shape : (int, int)
        ``(n_y, n_x)``.
    sigma, amplitude : Tensor of shape (n_images, n_columns), optional
        Used instead of those of the columns.
    integrated : bool
        Average columns with a sigma below 1 px over the area of each pixel: their sum is exact at any width, and the
        error of their centroid is at most ``exp(-2 pi^2 sigma^2) / pi`` px, 2e-4 at 0.6 px. Other columns, and all with
        False, are sampled at the pixels' centres.

    Returns
    -------
    Tensor of shape (n_images, n_y, n_x)
        Images in units of the contrast.
    """
    sigma = columns.sigma if sigma is None else sigma
    amplitude = columns.amplitude if amplitude is None else amplitude
    if columns.y.device.type != "cpu":
        height = torch.where(columns.present, amplitude, torch.zeros_like(amplitude))
        along_y = _profiles(columns.y, sigma, 0, shape[0], integrated)
        along_x = _profiles(columns.x, sigma, 0, shape[1], integrated)
        return (along_y * height[..., None]).transpose(1, 2) @ along_x
    # numbers of columns differ between images, and few columns contribute to a row
    parts = zip(columns.y, columns.x, sigma, amplitude, columns.present, strict=True)
    return torch.stack([_rendered(y[k], x[k], s[k], a[k], shape, integrated) for y, x, s, a, k in parts])


def render_targets(columns: Columns, shape: tuple[int, int], specimen: Tensor, tail: Tensor, spread: Tensor) -> Targets:
    """True images and target maps of specimens.

    Parameters
    ----------
    columns : Columns
    shape : tuple
        ``(n_y, n_x)``.
    specimen : Tensor
        Signal of the specimen in addition to its columns (support, thickness), which is part of ``enhance``.
    tail, spread : Tensor of shape (n_images,)
        Fraction of each column's height in a second Gaussian, and the ratio of its width to that of the first.
    """
    core = render(columns, shape, amplitude=columns.amplitude * (1 - tail[:, None]))
    tailed = torch.nonzero(tail > 0)[:, 0]
    if len(tailed):
        wide = columns.take(tailed)
        core[tailed] += render(wide, shape, wide.sigma * spread[tailed, None], wide.amplitude * tail[tailed, None])
    spot = (CONSTANTS.spot_fraction * columns.spacing).clamp(*CONSTANTS.spot_range)[:, None].expand_as(columns.sigma)
    detect = render(columns, shape, spot, torch.ones_like(columns.amplitude), integrated=False).clamp(max=1.0)
    narrow = render(columns, shape, (columns.sigma / 2).clamp_min(CONSTANTS.narrowest), integrated=False)
    return Targets(core + specimen, detect, narrow)


def blurred(columns: Columns, source: float | Tensor) -> Columns:
    """Convolve columns with a Gaussian source of finite size; their integrated intensities are preserved.

    Parameters
    ----------
    columns : Columns
    source : float or Tensor of shape (n_images,)
        Sigma of the source's image on the specimen, px.
    """
    wider = torch.sqrt(columns.sigma**2 + along(source, columns.sigma) ** 2)
    return replace(columns, sigma=wider, amplitude=columns.amplitude * (columns.sigma / wider) ** 2)


def through_probe(images: Tensor, probe: ArrayLike) -> Tensor:
    """Convolve images ``(n_images, n_y, n_x)`` with a probe of any shape.

    Columns should have their width without the probe, and extend beyond the image by the probe's radius; the image is
    zero outside the image.

    Parameters
    ----------
    images : Tensor
    probe : array-like of shape (odd, odd)
        Intensity at the image's pixel size, centred in the array. It is normalised by its sum.

    Raises
    ------
    ValueError
        If a size of the probe is even, or its sum is not positive.
    """
    kernel = torch.as_tensor(probe, dtype=images.dtype, device=images.device)
    if kernel.ndim != 2 or not all(n % 2 for n in kernel.shape):
        raise ValueError(
            f"probe must have two odd sizes, so that it has a central pixel, but has the shape {tuple(kernel.shape)}"
        )
    if not float(kernel.sum()) > 0:
        raise ValueError(f"probe must have a positive sum, but its sum is {float(kernel.sum())}")
    size = [n + m - 1 for n, m in zip(images.shape[1:], kernel.shape, strict=True)]
    product = torch.fft.rfft2(images, s=size) * torch.fft.rfft2(kernel / kernel.sum(), s=size)
    first = [m // 2 for m in kernel.shape]
    whole = torch.fft.irfft2(product, s=size)
    return whole[:, first[0] : first[0] + images.shape[1], first[1] : first[1] + images.shape[2]]


def _rendered(y: Tensor, x: Tensor, sigma: Tensor, height: Tensor, shape: tuple[int, int], integrated: bool) -> Tensor:
    """Render one image in strips of rows."""
    image = torch.zeros(shape, dtype=y.dtype)
    if len(y) == 0:
        return image
    reach = FARTHEST.get(y.dtype, 8.5) * sigma + 0.5
    along_x = _near_profiles(x, sigma, shape[1], int(torch.ceil(reach.max())), integrated)
    for start in range(0, shape[0], CONSTANTS.rows):
        end = min(start + CONSTANTS.rows, shape[0])
        near = torch.nonzero((y + reach > start) & (y - reach < end - 1))[:, 0]
        along_y = _profiles(y[near], sigma[near], start, end, integrated) * height[near, None]
        image[start:end] = along_y.T @ along_x[near]
    return image


def _profiles(center: Tensor, sigma: Tensor, start: int, end: int, integrated: bool) -> Tensor:
    """Gaussians along one axis at pixels ``start`` to ``end - 1``, ``(..., end - start)``."""
    pixel = torch.arange(start, end, device=center.device, dtype=center.dtype)
    return _gaussian(pixel - center[..., None], sigma, integrated)


def _near_profiles(center: Tensor, sigma: Tensor, n: int, reach: int, integrated: bool) -> Tensor:
    """Gaussians along one axis at ``n`` pixels, ``(k, n)``, 0 at more than ``reach`` px from the column."""
    middle = center.round().clamp(-reach - 1, n + reach)
    offset = torch.arange(-reach, reach + 1, dtype=center.dtype)
    values = _gaussian(middle[:, None] + offset - center[:, None], sigma, integrated)
    # values outside the image are collected in two additional pixels, which are removed
    place = (middle[:, None] + offset + 1).clamp(0, n + 1).long()
    return torch.zeros(len(center), n + 2, dtype=center.dtype).scatter_(1, place, values)[:, 1:-1]


def _gaussian(distance: Tensor, sigma: Tensor, integrated: bool) -> Tensor:
    """``exp(-d^2 / (2 sigma^2))``, or its mean over a pixel for columns narrower than ``CONSTANTS.narrow``."""
    width = sigma.clamp_min(1e-3)[..., None]
    relative = distance / width
    profile = torch.exp(-0.5 * relative.square())
    if integrated and bool((sigma < CONSTANTS.narrow).any()):
        half, scale = 0.5 / width, math.sqrt(math.pi / 2) * width
        root = math.sqrt(2)
        mean = scale * (torch.erf((relative + half) / root) - torch.erf((relative - half) / root))
        profile = torch.where(width < CONSTANTS.narrow, mean, profile)
    return profile
