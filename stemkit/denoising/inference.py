"""Running a network on an image of any size: sampling, padding, tiles, flips."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from stemkit.compute import inference_dtype
from stemkit.denoising.units import MEASURED_ON, from_network, network_units
from stemkit.denoising.weights import NetworkInfo
from stemkit.images import float_dtype
from stemkit.networks import SFIN, FoldedSFIN
from stemkit.periodicity import find_periodicity, middle

__all__ = ["enhanced_maps", "for_inference", "resampled", "run_network", "sampling_factor", "tile_starts"]

#: Reflected pixels around the image: zero padding and the wrap-around of the FFT spoil the border.
MARGIN = 24
#: Neighbouring tiles share this many pixels, over which they are blended.
OVERLAP = 128
#: Columns that are nearer than this, px, are not sampled finely enough to be told apart.
COARSEST = 2.5
#: Spacings are brought this far into the range that a network knows.
INSIDE = 1.25
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


def for_inference(module: nn.Module, device: torch.device) -> FoldedSFIN | Plain:
    """A trained network as it is fastest."""
    return FoldedSFIN(module, inference_dtype(device), device) if isinstance(module, SFIN) else Plain(module, device)


def enhanced_maps(
    values: NDArray,
    network: FoldedSFIN | Plain,
    info: NetworkInfo,
    *,
    sign: float = 1,
    resample: bool = True,
    tile_size: int = 2048,
    spread_of: str | None = None,
    progress: bool = False,
) -> dict[str, NDArray]:
    """The network's maps of one image, in its units and sampling.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    network : callable
        See :func:`for_inference`.
    info : NetworkInfo
        Its outputs, the scaling of its input and the spacings that it knows.
    sign : int
        -1 in bright field.
    resample : bool
        Bring an image to a spacing that the network knows, and the maps back.
    tile_size : int
        See :func:`run_network`.
    spread_of : str, optional
        Average over flips; the spread of this map is ``uncertainty``.
    progress : bool
        Show a bar where there are several tiles.
    """
    dtype = float_dtype(values.dtype)
    offset, scale = network_units(values * sign, info)
    if scale == 0:
        names = [*info.outputs, *(["uncertainty"] if spread_of is not None else [])]
        flat = {name: np.zeros(values.shape, dtype) for name in names}
        return flat | ({"enhance": values.astype(dtype)} if "enhance" in names else {})
    work = ((values.astype(np.float64) * sign - offset) / scale).astype(np.float32)
    spacing = find_periodicity(middle(work, MEASURED_ON)).spacing
    factor = sampling_factor(spacing, info.spacing)
    if spacing is not None and factor != 1.0:
        _warn(spacing, info, resample)
    factor = factor if resample else 1.0
    if factor != 1.0:
        work = resampled(work, (max(8, round(work.shape[0] * factor)), max(8, round(work.shape[1] * factor))))
    raw, spread = run_network(
        network,
        work,
        multiple=info.multiple,
        device=network.device,
        tile_size=tile_size,
        average_flips=spread_of is not None,
        progress=progress,
    )
    if factor != 1.0:
        raw = resampled(raw, values.shape)
        spread = None if spread is None else resampled(spread, values.shape)
    maps = {n: from_network(raw[i], n, sign, offset, scale).astype(dtype) for i, n in enumerate(info.outputs)}
    if spread is not None and spread_of is not None:
        maps["uncertainty"] = spread[info.outputs.index(spread_of)] * (1.0 if spread_of == "detect" else scale)
    return maps


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


def sampling_factor(spacing: float | None, known: tuple[float, float] | None) -> float:
    """By how much to resample an image so that its spacing (px) is one that the network knows."""
    if spacing is None or known is None:
        return 1.0
    low, high = known
    if low <= spacing <= high:
        return 1.0
    # a little inside of the range, and no further: resampled noise is no longer that of pixels
    return float((min(INSIDE * low, high) if spacing < low else max(high / INSIDE, low)) / spacing)


def _warn(spacing: float, info: NetworkInfo, resample: bool) -> None:
    """Say where the network is asked what it can't know."""
    assert info.spacing is not None
    low, high = info.spacing
    if not resample:
        warnings.warn(
            f"columns are {spacing:.1f} px apart, but the network has seen {low:g} to {high:g} px: "
            'sampling="auto" resamples the image',
            stacklevel=4,
        )
    elif spacing < COARSEST:
        warnings.warn(
            f"columns are {spacing:.1f} px apart: below {COARSEST:g} px neighbours run into each other, and resampling "
            "does not bring back what was not recorded",
            stacklevel=4,
        )


def resampled(values: NDArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    """An image on another number of pixels over the same field of view; smoothed first where it gets coarser."""
    tensor = torch.as_tensor(np.ascontiguousarray(values, dtype=np.float32))
    finer = shape[0] >= values.shape[-2]
    tensor = tensor.reshape(-1, 1, *values.shape[-2:])
    out = F.interpolate(tensor, size=shape, mode="bicubic", antialias=not finer, align_corners=False)
    return out.reshape(*values.shape[:-2], *shape).numpy()


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
