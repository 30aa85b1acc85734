"""The fit problem: the pixels, the columns, and which columns are solved for together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from stemkit.columns.constants import CONSTANTS, DENSE_WINDOW_RADIUS, RENDER_RADIUS, WINDOW_RADIUS
from stemkit.columns.noise import FitNoise

__all__ = ["FitProblem", "build_problem", "find_neighbors"]


@dataclass(frozen=True)
class FitProblem:
    """Pixels, noise model and neighbourhoods of n columns with P parameters: all that is constant during a fit.

    Where several images of the same columns are fitted together, ``image``, ``scan`` and ``weight`` have a first axis
    of these.

    Parameters
    ----------
    image : Tensor of shape (n_y + 2 pad, n_x + 2 pad)
        Recorded values.
    pad, reach : int
        Width of the padding, px, and half the edge of the square windows: they have ``2 reach + 1`` px.
    radius : Tensor of shape (n + 1,)
        A column is fitted to the pixels within this distance of the central pixel of its window, px.
    noise : FitNoise
    near, coupled : Tensor of shape (n, k)
        Indices of the neighbours whose models extend into the column's window, and of those that are solved for
        together with it, nearest first; padded with n, which stands for an absent neighbour.
    is_dense : Tensor of bool, shape (n,)
        Columns of dense lattices whose widths are fitted.
    free : Tensor of bool, shape (n + 1, P)
        Parameters that are fitted.
    scan : Tensor of shape (2, n_y + 2 pad, n_x + 2 pad) or None
        Displacement of the beam at each pixel, px.
    weight : Tensor of shape (n_y + 2 pad, n_x + 2 pad), or None
        Inverse variance of a pixel relative to that of ``noise``; 0 for pixels that are not fitted. None: 1.
    """

    image: Tensor
    pad: int
    reach: int
    radius: Tensor
    noise: FitNoise
    near: Tensor
    coupled: Tensor
    is_dense: Tensor
    free: Tensor
    scan: Tensor | None = None
    weight: Tensor | None = None

    @property
    def first_and_min_damping(self) -> tuple[Tensor, Tensor]:
        """Damping of the first step of each column, and its least damping, ``(n,)``."""
        crowded = (self.coupled < len(self.coupled)).any(1)
        alone, overlapping, dense = (
            torch.tensor(pair, dtype=torch.float64, device=crowded.device)
            for pair in (
                (CONSTANTS.first_damping, CONSTANTS.min_damping),
                (CONSTANTS.crowded_first_damping, CONSTANTS.crowded_min_damping),
                (CONSTANTS.dense_first_damping, CONSTANTS.dense_min_damping),
            )
        )
        damping = torch.where(crowded[:, None], overlapping, alone)
        first, least = torch.where((crowded & self.is_dense)[:, None], dense, damping).T
        return first, least

    @property
    def span(self) -> Tensor:
        """Offsets of a window's pixels from its central one along one axis."""
        return torch.arange(-self.reach, self.reach + 1, device=self.image.device)

    def windows(self, values: Tensor, center: Tensor) -> Tensor:
        """Windows of an array around the pixels ``center`` ``(m, 2)``, ``(..., m, h, w)``."""
        size = 2 * self.reach + 1
        row, col = (center - self.reach + self.pad).T
        if values.device.type == "cpu":
            # five times as fast as advanced indexing of an unfolded tensor
            blocks = np.lib.stride_tricks.sliding_window_view(values.numpy(), (size, size), axis=(-2, -1))
            return torch.from_numpy(blocks[..., row.numpy(), col.numpy(), :, :])
        return values.unfold(-2, size, 1).unfold(-2, size, 1)[..., row, col, :, :]

    def used(self, columns: Tensor, center: Tensor) -> Tensor:
        """Which pixels of the columns' windows have a weight, are in the image and within the radius, ``(m, h, w)``."""
        size = torch.tensor(self.image.shape, device=center.device) - 2 * self.pad
        pixel = center[:, :, None] + self.span
        inside = (pixel >= 0) & (pixel < size[:, None])
        square = self.span**2
        disk = square[:, None] + square[None, :] <= ((self.radius[columns] + 0.5) ** 2)[:, None, None]
        used = inside[:, 0, :, None] & inside[:, 1, None, :] & disk
        return used if self.weight is None else used & (self.windows(self.weight, center) > 0)


def build_problem(
    values: NDArray,
    positions: NDArray,
    sigma: NDArray,
    noise: FitNoise,
    shifts: NDArray | None,
    weight: NDArray | None,
    free: NDArray,
    device: torch.device,
) -> FitProblem:
    """The fit problem of n columns in an image.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x) or (n_images, n_y, n_x)
        Recorded pixels.
    positions : ndarray of shape (n, 2)
        Starting ``(y, x)``, px.
    sigma : ndarray of shape (n,)
        Starting widths, px.
    noise : FitNoise
    shifts : ndarray of shape (2, n_y, n_x) or (n_images, 2, n_y, n_x), or None
        Displacement of the beam, px.
    weight : ndarray of the shape of values, or None
    free : ndarray of bool, shape (n, P)
        Parameters that are fitted.
    device : torch.device
    """
    is_dense = _is_dense(positions, sigma) & free[:, 3]
    window = np.where(is_dense, DENSE_WINDOW_RADIUS, WINDOW_RADIUS)
    radius = np.maximum(2, np.ceil(window * sigma)).astype(int)
    reach = int(radius.max())
    pad = 2 * reach + 2
    near = find_neighbors(positions, radius, RENDER_RADIUS * sigma)
    coupled = _coupled(positions, near, sigma, is_dense)

    def single(array: NDArray, mode: str = "constant") -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(_padded(array, pad, mode), dtype=np.float32), device=device)

    return FitProblem(
        image=single(values),
        pad=pad,
        reach=reach,
        radius=torch.as_tensor(np.append(radius, 0), device=device),
        noise=noise,
        near=torch.as_tensor(near, device=device),
        coupled=torch.as_tensor(coupled, device=device),
        is_dense=torch.as_tensor(is_dense, device=device),
        free=torch.as_tensor(np.concatenate([free, free[:1]]), device=device),
        scan=None if shifts is None else single(shifts, "edge"),
        weight=None if weight is None else single(weight),
    )


def _padded(values: NDArray, pad: int, mode: str = "constant") -> NDArray:
    """An array with ``pad`` more pixels at each end of its last two axes."""
    widths = [(0, 0)] * (values.ndim - 2) + [(pad, pad)] * 2
    return np.pad(values, widths, mode=mode)  # type: ignore[call-overload]


def _is_dense(positions: NDArray, sigma: NDArray) -> NDArray[np.bool_]:
    """Columns ``(n,)`` of dense lattices: those that overlap others on all sides, and these others."""
    reach = CONSTANTS.dense_distance
    pairs = cKDTree(positions).query_pairs(reach * float(sigma.max()), output_type="ndarray")
    distance = np.hypot(*(positions[pairs[:, 0]] - positions[pairs[:, 1]]).T)
    close = pairs[distance <= reach * sigma[pairs].min(axis=1)]
    dense = np.asarray(np.bincount(close.ravel(), minlength=len(positions)) >= CONSTANTS.dense_neighbors)
    beside = close[dense[close].any(axis=1)]
    dense[beside] = True
    return dense


def _coupled(positions: NDArray, near: NDArray, sigma: NDArray, is_dense: NDArray) -> NDArray[np.int64]:
    """Neighbours that are solved for together with each column, nearest first, padded with n."""
    n = len(positions)
    if near.shape[1] == 0:
        return near
    padded = np.concatenate([positions, np.full((1, 2), np.inf)])
    distance = np.hypot(*np.moveaxis(padded[near] - positions[:, None], -1, 0))
    # in units of the mean width of both columns
    distance /= (sigma[:, None] + np.append(sigma, 1.0)[near]) / 2
    reach = np.where(is_dense, CONSTANTS.dense_coupled_distance, CONSTANTS.coupled_distance)
    not_coupled = (distance > reach[:, None]) | (distance.min(axis=1, keepdims=True) > CONSTANTS.crowded_distance)
    coupled = np.where(not_coupled, n, near)
    order = np.argsort(np.where(not_coupled, np.inf, distance), axis=1, kind="stable")
    most = min(CONSTANTS.max_coupled, int((coupled < n).sum(1).max()))
    return np.ascontiguousarray(np.take_along_axis(coupled, order, axis=1)[:, :most])


def find_neighbors(positions: NDArray, windows: NDArray, drawn: NDArray) -> NDArray[np.int64]:
    """Neighbours of n columns whose models extend into the column's window, nearest first.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
    windows, drawn : ndarray of shape (n,)
        Radius of the window of each column, and that of its model, px.

    Returns
    -------
    ndarray of shape (n, k)
        Indices, padded with n.
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
    rank = np.arange(len(both)) - first[both[:, 0]]
    found = np.full((n, int(rank.max()) + 1), n, dtype=np.int64)
    found[both[:, 0], rank] = both[:, 1]
    return found
