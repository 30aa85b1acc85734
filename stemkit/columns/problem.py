"""The fit problem: the pixels, the columns, and which columns are solved for together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from stemkit.columns.limits import LIMITS, REACH, RENDERED
from stemkit.columns.noise import FitNoise

__all__ = ["FitProblem", "build_problem", "find_neighbors"]


@dataclass(frozen=True)
class FitProblem:
    """What does not change while columns are fitted.

    Parameters
    ----------
    image : Tensor of shape (n_y + 2 pad, n_x + 2 pad)
        Recorded values.
    pad, reach : int
        Windows are squares of ``2 reach + 1`` px, those of the widest columns.
    radius : Tensor of shape (n + 1,)
        A column is fitted on the pixels within this distance of the one at its centre.
    noise : FitNoise
    near, coupled : Tensor of shape (n, k)
        Neighbours whose models reach into the column's window, and those that are solved for together with it; filled
        up with n, which stands for a column that is not there.
    free : Tensor of bool, shape (n + 1, P)
        Which parameters are fitted.
    scan : Tensor of shape (2, n_y + 2 pad, n_x + 2 pad) or None
        Displacement of the beam at each pixel, px.
    valid : Tensor of bool, shape (n_y + 2 pad, n_x + 2 pad), or None
        Pixels that count; all of them where it is None.
    """

    image: Tensor
    pad: int
    reach: int
    radius: Tensor
    noise: FitNoise
    near: Tensor
    coupled: Tensor
    free: Tensor
    scan: Tensor | None = None
    valid: Tensor | None = None

    @property
    def span(self) -> Tensor:
        """Pixels of a window along one axis, from its centre."""
        return torch.arange(-self.reach, self.reach + 1, device=self.image.device)

    def windows(self, values: Tensor, centre: Tensor) -> Tensor:
        """Squares around pixels, ``(..., m, h, w)``."""
        size = 2 * self.reach + 1
        row, col = (centre - self.reach + self.pad).T
        if values.device.type == "cpu":
            # NumPy copies whole blocks, five times as fast
            blocks = np.lib.stride_tricks.sliding_window_view(values.numpy(), (size, size), axis=(-2, -1))
            return torch.from_numpy(blocks[..., row.numpy(), col.numpy(), :, :])
        return values.unfold(-2, size, 1).unfold(-2, size, 1)[..., row, col, :, :]

    def used(self, columns: Tensor, centre: Tensor) -> Tensor:
        """Which pixels of the columns' windows are in the image and within the radius, ``(m, h, w)``."""
        size = torch.tensor(self.image.shape, device=centre.device) - 2 * self.pad
        place = centre[:, :, None] + self.span
        inside = (place >= 0) & (place < size[:, None])
        square = self.span**2
        disk = square[:, None] + square[None, :] <= ((self.radius[columns] + 0.5) ** 2)[:, None, None]
        within = inside[:, 0, :, None] & inside[:, 1, None, :] & disk
        return within if self.valid is None else within & self.windows(self.valid, centre)


def build_problem(
    values: NDArray,
    positions: NDArray,
    sigma: NDArray,
    noise: FitNoise,
    shifts: NDArray | None,
    valid: NDArray | None,
    free: NDArray,
    device: torch.device,
) -> FitProblem:
    """What the columns of an image are fitted to, from arrays."""
    radius = np.maximum(2, np.ceil(REACH * sigma)).astype(int)
    reach = int(radius.max())
    pad = 2 * reach + 2
    near = find_neighbors(positions, radius, RENDERED * sigma)
    coupled = _coupled(positions, near, sigma)
    scan = None
    if shifts is not None:
        padded = np.pad(shifts, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
        scan = np.ascontiguousarray(padded, dtype=np.float32)
    return FitProblem(
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


def find_neighbors(positions: NDArray, windows: NDArray, drawn: NDArray) -> NDArray[np.int64]:
    """Neighbours of n columns whose models, drawn so far (px), reach into the column's window, nearest first.

    Returns
    -------
    ndarray of shape (n, k)
        Indices, filled up with n.
    """
    n = len(positions)
    pairs = cKDTree(positions).query_pairs(float(windows.max() + drawn.max()), output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    distance = np.hypot(*(positions[both[:, 0]] - positions[both[:, 1]]).T)
    reaching = distance <= windows[both[:, 0]] + drawn[both[:, 1]]
    both, distance = both[reaching], distance[reaching]
    if len(both) == 0:
        return np.empty((n, 0), dtype=np.int64)
    both = both[np.lexsort((distance, both[:, 0]))]
    first = np.searchsorted(both[:, 0], np.arange(n))
    place = np.arange(len(both)) - first[both[:, 0]]
    found = np.full((n, int(place.max()) + 1), n, dtype=np.int64)
    found[both[:, 0], place] = both[:, 1]
    return found
