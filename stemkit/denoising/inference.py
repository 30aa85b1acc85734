"""Applying a network to an image of any size: padding, tiles, flips, in the network's units."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from stemkit.compute import inference_dtype
from stemkit.denoising.sampling import chosen_grid, resampled
from stemkit.denoising.units import from_network, network_units
from stemkit.denoising.weights import NetworkInfo
from stemkit.images import float_dtype
from stemkit.networks import SFIN, FoldedSFIN

__all__ = ["enhanced_maps", "for_inference", "run_network", "tile_starts"]

#: Reflected pixels around the image: zero padding and the wrap-around of the FFT spoil the border.
MARGIN = 24
#: Neighbouring tiles share this many pixels, over which they are blended.
OVERLAP = 128
FLIPS = ((), (-1,), (-2,), (-2, -1))


#: From images ``(n, 1, n_y, n_x)`` to maps ``(n, n_outputs, n_y, n_x)``.
Network = Callable[[Tensor], Tensor]


class Plain:
    """A module as it is, on a device."""

    def __init__(self, module: nn.Module, device: torch.device):
        # what the estimator holds stays where it is
        self.module, self.device = copy.deepcopy(module).eval().to(device), device

    def __call__(self, images: Tensor) -> Tensor:
        maps: Tensor = self.module(images)
        return maps


def for_inference(module: nn.Module, device: torch.device, precision: str = "auto") -> FoldedSFIN | Plain:
    """A trained network in its fastest form; networks other than SFIN are applied in single precision."""
    if not isinstance(module, SFIN):
        return Plain(module, device)
    return FoldedSFIN(module, inference_dtype(device, precision), device)


def enhanced_maps(
    values: NDArray,
    network: FoldedSFIN | Plain,
    info: NetworkInfo,
    *,
    sign: float = 1,
    sampling: float | str = "auto",
    tile_size: int = 2048,
    spread_of: str | None = None,
    progress: bool = False,
) -> dict[str, NDArray]:
    """The network's maps of one image, in the image's units and on its grid.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    network : callable
        See :func:`for_inference`.
    info : NetworkInfo
        Its outputs, the scaling of its input and the spacings of its training.
    sign : int
        -1 in bright field.
    sampling : float or "auto"
        Of the grid on which the network is applied, see :func:`stemkit.denoising.sampling.chosen_grid`.
    tile_size : int
        See :func:`run_network`.
    spread_of : str, optional
        Average over flips; the spread of this map is ``uncertainty``.
    progress : bool
        Show a bar where there are several tiles.
    """
    dtype = float_dtype(values.dtype)
    if np.ptp(values) == 0 or network_units(values * sign, info)[1] == 0:
        return _constant_maps(values.astype(dtype), info, spread_of)
    work: NDArray = values.astype(np.float64) * sign
    shape = chosen_grid(work, sampling, info.spacing).shape(work.shape)
    if shape != work.shape:
        work = resampled(work, shape)
    offset, scale = network_units(work, info)
    raw, spread = run_network(
        network,
        (work - offset) / scale,
        multiple=info.multiple,
        device=network.device,
        tile_size=tile_size,
        average_flips=spread_of is not None,
        progress=progress,
    )
    if shape != values.shape:
        raw = resampled(raw, values.shape)
        spread = None if spread is None else resampled(spread, values.shape).clip(min=0.0)
    maps = {n: from_network(raw[i], n, sign, offset, scale).astype(dtype) for i, n in enumerate(info.outputs)}
    if spread is not None and spread_of is not None:
        maps["uncertainty"] = spread[info.outputs.index(spread_of)] * (1.0 if spread_of == "detect" else scale)
    return maps


def _constant_maps(values: NDArray, info: NetworkInfo, spread_of: str | None) -> dict[str, NDArray]:
    """The maps of an image without contrast: itself, and zeros."""
    names = [*info.outputs, *(["uncertainty"] if spread_of is not None else [])]
    return {name: values if name == "enhance" else np.zeros_like(values) for name in names}


def run_network(
    network: Network,
    values: NDArray,
    *,
    multiple: int,
    device: torch.device,
    tile_size: int = 2048,
    average_flips: bool = False,
    progress: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Maps of one image and, with flips, their spread.

    Parameters
    ----------
    network : callable
        From images ``(n, 1, n_y, n_x)`` on the device to maps ``(n, n_outputs, n_y, n_x)``.
    values : ndarray of shape (n_y, n_x)
        In the network's units.
    multiple : int
        Height and width that the network takes are multiples of this.
    device : torch.device
    tile_size : int
        Larger images go through in tiles of this size, on a grid that is a function of the shape alone.
    average_flips : bool
        Mean over the four mirror images.
    progress : bool
        Show a bar where there are several tiles.

    Returns
    -------
    maps : ndarray of shape (n_outputs, n_y, n_x)
    spread : ndarray of the same shape, or None
        Standard deviation over the flips.
    """
    image = torch.as_tensor(np.ascontiguousarray(values, dtype=np.float32), device=device)
    if not average_flips:
        return _tiled(network, image, multiple, tile_size, progress).cpu().numpy(), None
    first, *others = (_tiled(network, image.flip(f), multiple, tile_size, progress).flip(f).cpu() for f in FLIPS)
    # what they differ by is small beside what they are
    apart = torch.stack([torch.zeros_like(first), *(maps - first for maps in others)])
    return (first + apart.mean(dim=0)).numpy(), apart.std(dim=0, correction=0).numpy()


def _tiled(network: Network, image: Tensor, multiple: int, tile_size: int, progress: bool) -> Tensor:
    if max(image.shape) <= tile_size:
        return _padded(network, image, multiple)
    total: Tensor | None = None
    corners = list(product(*(tile_starts(n, tile_size) for n in image.shape)))
    for y, x in tqdm(corners, desc="enhancing", unit="tile", disable=not progress):
        tile = image[y : y + tile_size, x : x + tile_size]
        maps = _padded(network, tile, multiple)
        if total is None:
            total = torch.zeros((len(maps), *image.shape), device=image.device)
        down, across = (_ramp(n, image.device) for n in tile.shape)
        total[:, y : y + tile_size, x : x + tile_size] += maps * (down[:, None] * across)
    assert total is not None
    # the weights of all tiles are a product of one along y and one along x
    return total.div_(_weight(image.shape[0], tile_size, image.device)[:, None]).div_(
        _weight(image.shape[1], tile_size, image.device)
    )


def tile_starts(n: int, tile_size: int) -> list[int]:
    """Starts of evenly spread tiles that overlap by at least ``OVERLAP``."""
    if n <= tile_size:
        return [0]
    overlap = min(OVERLAP, tile_size // 2)
    count = int(np.ceil((n - overlap) / (tile_size - overlap)))
    return [round(i * (n - tile_size) / (count - 1)) for i in range(count)]


def _weight(n: int, tile_size: int, device: torch.device) -> Tensor:
    """The sum of the weights of all tiles along an axis."""
    weight = torch.zeros(n, device=device)
    for start in tile_starts(n, tile_size):
        part = weight[start : start + tile_size]
        part += _ramp(len(part), device)
    return weight


def _ramp(n: int, device: torch.device) -> Tensor:
    """Weights that fall to (almost) 0 at both ends of a tile."""
    edge = torch.arange(n, device=device, dtype=torch.float32) + 0.5
    distance = torch.minimum(edge, n - edge) / min(OVERLAP, n)
    return torch.sin(0.5 * torch.pi * distance.clamp(max=1.0)) ** 2


@torch.inference_mode()
def _padded(network: Network, image: Tensor, multiple: int) -> Tensor:
    n_y, n_x = image.shape
    after = [MARGIN + _fill(n + 2 * MARGIN, multiple) for n in (n_y, n_x)]
    # an image that is smaller than its margin is reflected several times
    reflected = (
        np.pad(np.arange(n), (MARGIN, beyond), mode="reflect") for n, beyond in zip((n_y, n_x), after, strict=True)
    )
    rows, cols = (torch.as_tensor(index, device=image.device) for index in reflected)
    maps = network(image[rows[:, None], cols][None, None])[0].float()
    return maps[:, MARGIN : MARGIN + n_y, MARGIN : MARGIN + n_x].clone()


def _fill(n: int, multiple: int) -> int:
    """Pixels to add to ``n`` so that it is a multiple, with a quotient whose FFT is fast."""
    from scipy.fft import next_fast_len

    return next_fast_len(-(-n // multiple), real=True) * multiple - n
