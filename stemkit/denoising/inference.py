"""Application of a network to an image of any size: units, padding, tiles, flips."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from stemkit.compute import inference_dtype
from stemkit.denoising.sampling import chosen_grid, resampled
from stemkit.denoising.units import from_network, network_units, to_network
from stemkit.denoising.weights import NetworkInfo
from stemkit.images.containers import float_dtype
from stemkit.networks import SFIN, FoldedSFIN
from stemkit.pixels.filled_image import FilledImage

__all__ = ["InferenceNetwork", "enhanced_maps", "enhanced_strips", "for_inference", "run_network", "tile_slices"]

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


def enhanced_maps(values: NDArray, network: InferenceNetwork, info: NetworkInfo, **options: Any) -> dict[str, NDArray]:
    """Maps of one image by a network, in the image's units and on its grid; the parameters are those of
    :func:`enhanced_strips`.
    """
    maps = dict[str, NDArray]()
    for rows, parts in enhanced_strips(values, network, info, **options):
        if rows == slice(0, len(values)):
            return parts
        for name, part in parts.items():
            maps.setdefault(name, np.empty(values.shape, part.dtype))[rows] = part
    return maps


def enhanced_strips(
    values: NDArray | FilledImage,
    network: InferenceNetwork,
    info: NetworkInfo,
    *,
    sign: float = 1.0,
    sampling: float | str = "auto",
    tile_size: int = 2048,
    uncertainty_of: str | None = None,
    progress: bool = False,
) -> Iterator[tuple[slice, dict[str, NDArray]]]:
    """Maps of one image by a network, in the image's units and on its grid, of some rows after the others.

    Parameters
    ----------
    values : ndarray or FilledImage of shape (n_y, n_x)
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

    Yields
    ------
    rows : slice
    maps : dict of str to ndarray of shape (n_rows, n_x)
        They are valid until the next ones are asked for. All rows come at once if the image is not divided into tiles,
        with ``uncertainty_of``, and if the network is applied on another grid than the image's.

    Raises
    ------
    ValueError
        If the network's output is not finite.
    """
    dtype, everything = float_dtype(values.dtype), slice(0, len(values))
    offset, scale = network_units(values, info, sign)
    if scale == 0:
        yield everything, _constant_maps(np.array(values).astype(dtype), info, uncertainty_of)
        return
    given, sign_given = values, sign
    shape = chosen_grid(values, sampling, info.spacing).shape(values.shape)
    if shape != values.shape:
        given, sign_given = resampled(sign * np.array(values).astype(np.float64), shape), 1
        offset, scale = network_units(given, info)

    def to_input(part: NDArray) -> NDArray:
        return np.asarray(to_network(part.astype(np.float64), "enhance", sign_given, offset, scale))

    options: dict[str, Any] = {"multiple": info.multiple, "device": network.device, "tile_size": tile_size}
    options["progress"] = progress
    strips: Iterable[tuple[slice, NDArray, NDArray | None]]
    if shape == values.shape and uncertainty_of is None:
        strips = ((rows, raw, None) for rows, raw in network_strips(network, given, to_input, **options))
    else:
        both = run_network(network, np.asarray(given), to_input, average_flips=uncertainty_of is not None, **options)
        strips = [(everything, *_on_grid(*both, values.shape))]
    for rows, raw, spread in strips:
        _check_finite(raw)
        maps = {name: raw[i].astype(dtype, copy=False) for i, name in enumerate(info.outputs)}
        for name, part in maps.items():
            _by_strips(part, partial(from_network, name=name, sign=sign, offset=offset, scale=scale), part)
        if spread is not None and uncertainty_of is not None:
            maps["uncertainty"] = spread[info.outputs.index(uncertainty_of)] * (
                1.0 if uncertainty_of == "detect" else scale
            )
        yield rows, maps


def _on_grid(raw: NDArray, spread: NDArray | None, shape: tuple[int, ...]) -> tuple[NDArray, NDArray | None]:
    """Maps and their spread on the image's grid."""
    if raw.shape[-2:] == shape:
        return raw, spread
    _check_finite(raw)
    return resampled(raw, shape), None if spread is None else resampled(spread, shape).clip(min=0.0)


def _by_strips(values: NDArray, convert: Callable[[NDArray], NDArray], out: NDArray[np.floating]) -> None:
    """Convert an image pixel by pixel, without copies of the whole of it in double precision."""
    for start in range(0, len(values), STRIP):
        out[start : start + STRIP] = convert(values[start : start + STRIP])


def _check_finite(raw: NDArray) -> None:
    """Refuse maps with values that are not finite, which are not an enhanced image."""
    strips = (one[start : start + STRIP] for one in raw for start in range(0, raw.shape[1], STRIP))
    n = sum(strip.size - int(np.count_nonzero(np.isfinite(strip))) for strip in strips)
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
    to_input: Callable[[NDArray], NDArray] = np.asarray,
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
    to_input : callable
        Function from pixels of the image to those in the network's units.
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

    def maps_of(flip: tuple[int, ...]) -> NDArray[np.float32]:
        strips = network_strips(
            network,
            np.flip(values, flip),
            to_input,
            multiple=multiple,
            device=device,
            tile_size=tile_size,
            progress=progress,
        )
        return np.flip(_joined(strips, values.shape), flip)

    if not average_flips:
        return maps_of(()), None
    first, *others = map(maps_of, FLIPS)
    # the mean of the differences is more accurate than that of the maps in single precision
    differences = np.stack([np.zeros_like(first), *(maps - first for maps in others)])
    return first + differences.mean(axis=0), differences.std(axis=0)


def network_strips(
    network: NetworkFunction,
    values: NDArray | FilledImage,
    to_input: Callable[[NDArray], NDArray],
    *,
    multiple: int,
    device: torch.device,
    tile_size: int,
    progress: bool,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Maps of the rows of an image, in order, each as soon as no other tile contributes to them.

    The parameters are those of :func:`run_network`.

    Yields
    ------
    rows : slice
    maps : ndarray of shape (n_outputs, n_rows, n_x)
        Valid until the next ones are asked for.
    """
    along_y, along_x = (tile_slices(n, tile_size, multiple) for n in values.shape)

    def maps_of(y: slice, x: slice) -> Tensor:
        return _maps_of(network, values, to_input, (y, x), multiple, device)

    if len(along_y) == len(along_x) == 1:
        yield along_y[0], maps_of(*along_y, *along_x).cpu().numpy()
        return
    # the sum of the weights is separable
    total_y, total_x = (
        _total_weight(n, along, device) for n, along in zip(values.shape, (along_y, along_x), strict=True)
    )
    strip: Tensor | None = None
    with tqdm(total=len(along_y) * len(along_x), desc="enhancing", unit="tile", disable=not progress) as bar:
        for y, end in zip(along_y, [*(tile.start for tile in along_y[1:]), len(values)], strict=True):
            for x in along_x:
                maps = maps_of(y, x)
                weight_y, weight_x = (_blending_weights(n, device) for n in maps.shape[1:])
                if strip is None:
                    strip = torch.zeros((*maps.shape[:2], values.shape[1]), device=device)
                strip[:, :, x] += maps * (weight_y[:, None] * weight_x)
                bar.update()
            assert strip is not None
            finished, begun = strip[:, : end - y.start], strip[:, end - y.start :].clone()
            rows = slice(y.start, end)
            yield rows, finished.div_(total_y[rows, None]).div_(total_x).cpu().numpy()
            strip.zero_()[:, : begun.shape[1]] = begun


def _joined(strips: Iterable[tuple[slice, NDArray[np.float32]]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The maps of the whole image."""
    maps: NDArray[np.float32] | None = None
    for rows, part in strips:
        if part.shape[1:] == shape:
            return part
        if maps is None:
            maps = np.empty((len(part), *shape), np.float32)
        maps[:, rows] = part
    assert maps is not None
    return maps


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
def _maps_of(
    network: NetworkFunction,
    values: NDArray | FilledImage,
    to_input: Callable[[NDArray], NDArray],
    tile: tuple[slice, slice],
    multiple: int,
    device: torch.device,
) -> Tensor:
    """Maps of a tile: its input extends into the neighbouring tiles, and beyond the image by reflection."""
    rows, cols = (_input_pixels(n, one, multiple) for n, one in zip(values.shape, tile, strict=True))
    n_y, n_x = (one.stop - one.start for one in tile)
    given = to_input(values[np.ix_(rows, cols)]).astype(np.float32, copy=False)
    maps = network(torch.as_tensor(given, device=device)[None, None])[0].float()
    return maps[:, MARGIN : MARGIN + n_y, MARGIN : MARGIN + n_x].clone()


def _input_pixels(n: int, tile: slice, multiple: int) -> NDArray[np.intp]:
    """Pixels along an axis of ``n`` that a tile and its margins consist of."""
    # np.pad reflects an image that is smaller than the margin several times
    known = np.pad(np.arange(n), MARGIN, mode="reflect")[tile.start : tile.stop + 2 * MARGIN]
    return np.pad(known, (0, _padding(len(known), multiple)), mode="reflect")


def _padding(n: int, multiple: int) -> int:
    """Pixels to add to ``n`` for the next multiple whose quotient has a fast FFT."""
    from scipy.fft import next_fast_len

    return next_fast_len(-(-n // multiple), real=True) * multiple - n
