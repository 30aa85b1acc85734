"""What a fit of columns works on, and which columns are solved for together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stemkit.columns.equations import Noise, Scene, neighbours
from stemkit.columns.limits import LIMITS, REACH, RENDERED

__all__ = ["scene_of"]


def scene_of(
    values: NDArray,
    positions: NDArray,
    sigma: NDArray,
    noise: Noise,
    shifts: NDArray | None,
    valid: NDArray | None,
    free: NDArray,
    device: torch.device,
) -> Scene:
    """What the columns of an image are fitted to, from arrays."""
    radius = np.maximum(2, np.ceil(REACH * sigma)).astype(int)
    reach = int(radius.max())
    pad = 2 * reach + 2
    near = neighbours(positions, radius, RENDERED * sigma)
    coupled = _coupled(positions, near, sigma)
    scan = None
    if shifts is not None:
        padded = np.pad(shifts, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
        scan = np.ascontiguousarray(padded, dtype=np.float32)
    return Scene(
        image=torch.as_tensor(np.ascontiguousarray(np.pad(values, pad), dtype=np.float32), device=device),
        pad=pad,
        reach=reach,
        radius=torch.as_tensor(np.append(radius, 0), device=device),
        noise=noise,
        near=torch.as_tensor(near, device=device),
        coupled=torch.as_tensor(coupled, device=device),
        free=torch.as_tensor(np.concatenate([free, free[:1]]), device=device),
        scan=None if scan is None else torch.as_tensor(scan, device=device),
        valid=None if valid is None else torch.as_tensor(np.ascontiguousarray(np.pad(valid, pad)), device=device),
    )


def _coupled(positions: NDArray, near: NDArray, sigma: NDArray) -> NDArray[np.int64]:
    """The neighbours that columns are solved for together with, filled up with n."""
    n = len(positions)
    if near.shape[1] == 0:
        return near
    padded = np.concatenate([positions, np.full((1, 2), np.inf)])
    distance = np.hypot(*np.moveaxis(padded[near] - positions[:, None], -1, 0))
    # in terms of the mean width of both
    distance /= (sigma[:, None] + np.append(sigma, 1.0)[near]) / 2
    apart = (distance > LIMITS.coupled) | (distance.min(axis=1, keepdims=True) > LIMITS.crowded)
    coupled = np.where(apart, n, near)
    # nearest first, those that are none last
    order = np.argsort(np.where(apart, np.inf, distance), axis=1, kind="stable")
    most = min(LIMITS.most_coupled, int((coupled < n).sum(1).max()))
    return np.ascontiguousarray(np.take_along_axis(coupled, order, axis=1)[:, :most])
