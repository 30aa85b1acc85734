"""Running a network on an image of any size: sampling, padding, tiles, flips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stemkit.images import pad_reflect

__all__ = ["resampled", "run_network", "sampling_factor"]

#: Reflected pixels around the image: zero padding and the wrap-around of the FFT spoil the border.
MARGIN = 24
#: Neighbouring tiles share this many pixels, over which they are blended.
OVERLAP = 128
#: Spacings are brought this far into the range that a network knows.
INSIDE = 1.25
FLIPS = ((), (-1,), (-2,), (-2, -1))


#: From images ``(n, 1, n_y, n_x)`` to maps ``(n, n_outputs, n_y, n_x)``.
Network = Callable[[Tensor], Tensor]


def run_network(
    network: Network,
    values: NDArray,
    *,
    multiple: int,
    device: torch.device,
    tile_size: int = 2048,
    average_flips: bool = False,
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

    Returns
    -------
    maps : ndarray of shape (n_outputs, n_y, n_x)
    spread : ndarray of the same shape, or None
        Standard deviation over the flips.
    """
    image = torch.as_tensor(np.ascontiguousarray(values, dtype=np.float32), device=device)
    total, square = None, None
    flips = FLIPS if average_flips else FLIPS[:1]
    for flip in flips:
        maps = _tiled(network, image.flip(flip), multiple, tile_size).flip(flip)
        total = maps if total is None else total + maps
        square = maps**2 if square is None else square + maps**2
    assert total is not None
    assert square is not None
    mean = total / len(flips)
    if not average_flips:
        return mean.cpu().numpy(), None
    return mean.cpu().numpy(), (square / len(flips) - mean**2).clamp_min(0).sqrt().cpu().numpy()


def sampling_factor(spacing: float | None, known: tuple[float, float] | None) -> float:
    """By how much to resample an image so that its spacing (px) is one that the network knows."""
    if spacing is None or known is None:
        return 1.0
    low, high = known
    if low <= spacing <= high:
        return 1.0
    # a little inside of the range, and no further: resampled noise is no longer that of pixels
    return float((min(INSIDE * low, high) if spacing < low else max(high / INSIDE, low)) / spacing)


def resampled(values: NDArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    """An image on another number of pixels over the same field of view; smoothed first where it gets coarser."""
    tensor = torch.as_tensor(np.ascontiguousarray(values, dtype=np.float32))
    finer = shape[0] >= values.shape[-2]
    tensor = tensor.reshape(-1, 1, *values.shape[-2:])
    out = F.interpolate(tensor, size=shape, mode="bicubic", antialias=not finer, align_corners=False)
    return out.reshape(*values.shape[:-2], *shape).numpy()


def _tiled(network: Network, image: Tensor, multiple: int, tile_size: int) -> Tensor:
    if max(image.shape) <= tile_size:
        return _padded(network, image, multiple)
    rows, cols = (_tile_starts(n, tile_size) for n in image.shape)
    total: Tensor | None = None
    weight = torch.zeros(image.shape, device=image.device)
    for y in rows:
        for x in cols:
            tile = image[y : y + tile_size, x : x + tile_size]
            maps = _padded(network, tile, multiple)
            ramp = _ramp(tile.shape[0], image.device)[:, None] * _ramp(tile.shape[1], image.device)[None, :]
            if total is None:
                total = torch.zeros((maps.shape[0], *image.shape), device=image.device)
            total[:, y : y + tile_size, x : x + tile_size] += maps * ramp
            weight[y : y + tile_size, x : x + tile_size] += ramp
    assert total is not None
    return total / weight


def _tile_starts(n: int, tile_size: int) -> list[int]:
    """Starts of evenly spread tiles that overlap by at least ``OVERLAP``."""
    if n <= tile_size:
        return [0]
    overlap = min(OVERLAP, tile_size // 2)
    count = int(np.ceil((n - overlap) / (tile_size - overlap)))
    return [round(i * (n - tile_size) / (count - 1)) for i in range(count)]


def _ramp(n: int, device: torch.device) -> Tensor:
    """Weights that fall to (almost) 0 at both ends of a tile."""
    edge = torch.arange(n, device=device, dtype=torch.float32) + 0.5
    distance = torch.minimum(edge, n - edge) / min(OVERLAP, n)
    return torch.sin(0.5 * torch.pi * distance.clamp(max=1.0)) ** 2


@torch.inference_mode()
def _padded(network: Network, image: Tensor, multiple: int) -> Tensor:
    n_y, n_x = image.shape
    after = [MARGIN + _fill(n + 2 * MARGIN, multiple) for n in (n_y, n_x)]
    padded = pad_reflect(image.cpu().numpy(), (MARGIN, MARGIN), (after[0], after[1]))
    batch = torch.as_tensor(padded, device=image.device)[None, None]
    maps = network(batch)[0].float()
    return maps[:, MARGIN : MARGIN + n_y, MARGIN : MARGIN + n_x].clone()


def _fill(n: int, multiple: int) -> int:
    """Pixels to add to ``n`` so that it is a multiple, with a quotient whose FFT is fast."""
    from scipy.fft import next_fast_len

    return next_fast_len(-(-n // multiple), real=True) * multiple - n
