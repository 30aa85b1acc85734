"""Application of a network to an image of any size: units, padding, tiles, flips."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from stemkit.compute import inference_dtype
from stemkit.denoising.sampling import chosen_grid, resampled
from stemkit.denoising.units import from_network, network_units
from stemkit.denoising.weights import NetworkInfo
from stemkit.images.containers import float_dtype
from stemkit.networks import SFIN, FoldedSFIN

__all__ = ["InferenceNetwork", "enhanced_maps", "for_inference", "run_network", "tile_slices"]

#: Width of the reflected border, px, which reduces the effects of zero padding and of the periodic FFT (chosen).
MARGIN = 24
#: Least overlap of neighbouring tiles, px, over which they are blended (tuned: benchmarks/enhancement.py --only tiles).
OVERLAP = 256
#: Number of rows that are converted at once (chosen: memory).
STRIP = 256
#: Axes of the four mirror images.
FLIPS = ((), (-1,), (-2,), (-2, -1))

#: Function from images ``(n, 1, n_y, n_x)`` to maps ``(n, n_outputs, n_y, n_x)``.
NetworkFunction = Callable[[Tensor], Tensor]


class EagerNetwork:
    """A copy of a module on a device, without optimisation."""

    def __init__(self, module: nn.Module, device: torch.device):
        # the estimator's module must stay on the CPU
        self.module, self.device = copy.deepcopy(module).eval().to(device), device

    def __call__(self, images: Tensor) -> Tensor:
        maps: Tensor = self.module(images)
        return maps


#: A network in the form in which it is applied.
InferenceNetwork: TypeAlias = FoldedSFIN | EagerNetwork


def for_inference(module: nn.Module, device: torch.device, precision: str = "auto") -> InferenceNetwork:
    """A trained network in its fastest form; networks other than SFIN are applied in single precision."""
    if not isinstance(module, SFIN):
        return EagerNetwork(module, device)
    return FoldedSFIN(module, inference_dtype(device, precision), device)


def enhanced_maps(
    values: NDArray,
    network: InferenceNetwork,
    info: NetworkInfo,
    *,
    sign: float = 1.0,
    sampling: float | str = "auto",
    tile_size: int = 2048,
    uncertainty_of: str | None = None,
    progress: bool = False,
) -> dict[str, NDArray]:
    """Maps of one image by a network, in the image's units and on its grid.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    network : InferenceNetwork
        Result of :func:`for_inference`; the maps are computed on its device.
    info : NetworkInfo
        Outputs of the network, scaling of its input and spacings of its training.
    sign : {1, -1}
        -1 in bright field.
    sampling : float or "auto"
        Sampling of the grid on which the network is applied, see :func:`stemkit.denoising.sampling.chosen_grid`.
    tile_size : int
        See :func:`run_network`.
    uncertainty_of : str, optional
        Average over flips; the standard deviation of this map over them is added as ``uncertainty``.
    progress : bool
        Show a progress bar over tiles.

    Raises
    ------
    ValueError
        If the network's output is not finite.
    """
    dtype = float_dtype(values.dtype)
    work: NDArray = values if values.dtype == dtype else values.astype(np.float64)
    if sign < 0:
        work = -work
    offset, scale = (0.0, 0.0) if np.ptp(work) == 0 else network_units(work, info)
    if scale == 0:
        return _constant_maps(values.astype(dtype), info, uncertainty_of)
    shape = chosen_grid(work, sampling, info.spacing).shape(work.shape)
    if shape != work.shape:
        work = resampled(work.astype(np.float64), shape)
        offset, scale = network_units(work, info)
    network_input = np.empty(work.shape, np.float32)
    _by_strips(work, lambda part: (part.astype(np.float64) - offset) / scale, network_input)
    del work  # of a large image, the memory is needed by the network
    raw, spread = run_network(
        network,
        network_input,
        multiple=info.multiple,
        device=network.device,
        tile_size=tile_size,
        average_flips=uncertainty_of is not None,
        progress=progress,
    )
    _check_finite(raw)
    if shape != values.shape:
        raw = resampled(raw, values.shape)
        spread = None if spread is None else resampled(spread, values.shape).clip(min=0.0)
    maps = {name: raw[i].astype(dtype, copy=False) for i, name in enumerate(info.outputs)}
    for name, converted in maps.items():
        convert = partial(from_network, name=name, sign=sign, offset=offset, scale=scale)
        _by_strips(converted, convert, out=converted)
    if spread is not None and uncertainty_of is not None:
        maps["uncertainty"] = spread[info.outputs.index(uncertainty_of)] * (
            1.0 if uncertainty_of == "detect" else scale
        )
    return maps


def _by_strips(values: NDArray, convert: Callable[[NDArray], NDArray], out: NDArray[np.floating]) -> None:
    """Convert an image pixel by pixel, without copies of the whole of it in double precision."""
    for start in range(0, len(values), STRIP):
        out[start : start + STRIP] = convert(values[start : start + STRIP])


def _check_finite(raw: NDArray) -> None:
    """Refuse maps with values that are not finite, which must not be taken for an enhanced image."""
    n = sum(int(np.count_nonzero(~np.isfinite(row))) for one in raw for row in one)
    if n:
        raise ValueError(
            f"the network's output must be finite, but {n} of {raw.size} values are not: use other weights, or remove "
            "values from the image that are far outside its range"
        )


def _constant_maps(values: NDArray, info: NetworkInfo, uncertainty_of: str | None) -> dict[str, NDArray]:
    """Maps of an image without contrast: the image as ``enhance``, zeros as the others."""
    names = [*info.outputs, *(["uncertainty"] if uncertainty_of is not None else [])]
    return {name: values if name == "enhance" else np.zeros_like(values) for name in names}


def run_network(
    network: NetworkFunction,
    values: NDArray,
    *,
    multiple: int,
    device: torch.device,
    tile_size: int = 2048,
    average_flips: bool = False,
    progress: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Maps of one image and their standard deviation over flips.

    Parameters
    ----------
    network : callable
        Function from images ``(n, 1, n_y, n_x)`` on the device to maps ``(n, n_outputs, n_y, n_x)``.
    values : ndarray of shape (n_y, n_x)
        Image in the network's units.
    multiple : int
        The network's input must have a height and width that are multiples of this.
    device : torch.device
    tile_size : int
        Larger images are divided into overlapping tiles of at most this size, px. Their number, sizes and positions
        depend on the shape of the image only, see :func:`tile_slices`.
    average_flips : bool
        Mean over the four mirror images.
    progress : bool
        Show a progress bar over tiles.

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
    # the mean of the differences is more accurate than that of the maps in single precision
    differences = torch.stack([torch.zeros_like(first), *(maps - first for maps in others)])
    return (first + differences.mean(dim=0)).numpy(), differences.std(dim=0, correction=0).numpy()


def _tiled(network: NetworkFunction, image: Tensor, multiple: int, tile_size: int, progress: bool) -> Tensor:
    along_y, along_x = (tile_slices(n, tile_size, multiple) for n in image.shape)
    tiles = list(product(along_y, along_x))
    if len(tiles) == 1:
        return _maps_of(network, image, tiles[0], multiple)
    total: Tensor | None = None
    for y, x in tqdm(tiles, desc="enhancing", unit="tile", disable=not progress):
        maps = _maps_of(network, image, (y, x), multiple)
        if total is None:
            total = torch.zeros((len(maps), *image.shape), device=image.device)
        weight_y, weight_x = (_blending_weights(n, image.device) for n in maps.shape[1:])
        total[:, y, x] += maps * (weight_y[:, None] * weight_x)
    assert total is not None
    # the sum of the weights is separable
    total_y, total_x = (
        _total_weight(n, along, image.device) for n, along in zip(image.shape, (along_y, along_x), strict=True)
    )
    return total.div_(total_y[:, None]).div_(total_x)


def tile_slices(n: int, tile_size: int, multiple: int = 1) -> list[slice]:
    """Tiles of equal size, evenly spaced, along an axis of ``n`` pixels.

    As few as possible that have at most ``tile_size`` pixels and overlap by at least ``OVERLAP`` or half of
    ``tile_size``. The pixels by which the network's input would be filled up (:func:`_padding`) belong to the tiles.
    """
    if n <= tile_size:
        return [slice(0, n)]
    overlap = min(OVERLAP, tile_size // 2)
    count = math.ceil((n - overlap) / (tile_size - overlap))
    size = math.ceil((n + (count - 1) * overlap) / count)
    size = min(size + _padding(size + 2 * MARGIN, multiple), tile_size)
    starts = (round(i * (n - size) / (count - 1)) for i in range(count))
    return [slice(start, start + size) for start in starts]


def _total_weight(n: int, tiles: list[slice], device: torch.device) -> Tensor:
    """Sum of the weights of all tiles along an axis."""
    weight = torch.zeros(n, device=device)
    for tile in tiles:
        weight[tile] += _blending_weights(tile.stop - tile.start, device)
    return weight


def _blending_weights(n: int, device: torch.device) -> Tensor:
    """Weights of a tile along an axis, which decrease towards 0 at both ends."""
    edge = torch.arange(n, device=device, dtype=torch.float32) + 0.5
    distance = torch.minimum(edge, n - edge) / min(OVERLAP, n)
    return torch.sin(0.5 * torch.pi * distance.clamp(max=1.0)) ** 2


@torch.inference_mode()
def _maps_of(network: NetworkFunction, image: Tensor, tile: tuple[slice, slice], multiple: int) -> Tensor:
    """Maps of a tile: its input extends into the neighbouring tiles, and beyond the image by reflection."""
    rows, cols = (_input_pixels(n, one, multiple) for n, one in zip(image.shape, tile, strict=True))
    n_y, n_x = (one.stop - one.start for one in tile)
    maps = network(image[rows[:, None], cols][None, None])[0].float()
    return maps[:, MARGIN : MARGIN + n_y, MARGIN : MARGIN + n_x].clone()


def _input_pixels(n: int, tile: slice, multiple: int) -> Tensor:
    """Pixels along an axis of ``n`` that a tile and its margins consist of."""
    # np.pad reflects an image that is smaller than the margin several times
    known = np.pad(np.arange(n), MARGIN, mode="reflect")[tile.start : tile.stop + 2 * MARGIN]
    return torch.as_tensor(np.pad(known, (0, _padding(len(known), multiple)), mode="reflect"))


def _padding(n: int, multiple: int) -> int:
    """Pixels to add to ``n`` for the next multiple whose quotient has a fast FFT."""
    from scipy.fft import next_fast_len

    return next_fast_len(-(-n // multiple), real=True) * multiple - n
