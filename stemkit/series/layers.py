"""Rows of all frames sorted onto the pixels of the average, where columns are fitted to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layers", "layers_of"]


@dataclass(frozen=True)
class Layers:
    """Rows of all frames, each at that row of a grid which is nearest to where it was recorded.

    Two rows that are nearest to the same one lie in different layers, so that no row is lost.

    Parameters
    ----------
    values : ndarray of shape (n_layers, n_y, n_x)
    shifts : ndarray of shape (n_layers, 2, n_y, n_x)
        Remaining displacements along y and x, px, at most half a pixel.
    valid : ndarray of bool, shape (n_layers, n_y, n_x)
        Pixels that were recorded.
    """

    values: NDArray[np.float32]
    shifts: NDArray[np.float32]
    valid: NDArray[np.bool_]

    def transposed(self) -> Layers:
        """The layers of the image with y and x exchanged."""
        return Layers(
            np.ascontiguousarray(self.values.transpose(0, 2, 1)),
            np.ascontiguousarray(self.shifts[:, ::-1].transpose(0, 1, 3, 2)),
            np.ascontiguousarray(self.valid.transpose(0, 2, 1)),
        )

    @classmethod
    def joined(cls, parts: Sequence[Layers]) -> Layers:
        """All layers of several."""
        names = ("values", "shifts", "valid")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def layers_of(frames: Iterable[tuple[NDArray, NDArray]], displacements: NDArray, shape: tuple[int, int]) -> Layers:
    """Sort the rows of frames onto a grid: recorded values are moved by whole pixels, and not interpolated.

    Parameters
    ----------
    frames : iterable of (ndarray, ndarray of bool), each of shape (n_y, n_x)
        Recorded pixels, and which of them are faulty.
    displacements : ndarray of shape (n_frames, n_y, 2)
        Relative to the grid, px.
    shape : (int, int)
        ``(n_y, n_x)`` of the grid.
    """
    nearest = np.rint(displacements).astype(int)
    rest = displacements - nearest
    rows = np.arange(displacements.shape[1]) + nearest[..., 0]
    layer = _order_within_rows(np.where((rows >= 0) & (rows < shape[0]), rows, -1))
    n_layers = max(int(layer.max()) + 1, 1)
    values = np.zeros((n_layers, *shape), dtype=np.float32)
    shifts = np.zeros((n_layers, 2, *shape), dtype=np.float32)
    valid = np.zeros((n_layers, *shape), dtype=bool)
    for f, (frame, faulty) in enumerate(frames):
        for y in np.flatnonzero(layer[f] >= 0):
            which, row, offset = layer[f, y], rows[f, y], nearest[f, y, 1]
            first, last = max(0, offset), min(shape[1], frame.shape[1] + offset)
            target, source = slice(first, max(first, last)), slice(first - offset, max(first, last) - offset)
            values[which, row, target] = frame[y, source]
            valid[which, row, target] = ~faulty[y, source]
            shifts[which, :, row] = rest[f, y][:, None]
    return Layers(values, shifts, valid)


def _order_within_rows(rows: NDArray) -> NDArray[np.int64]:
    """Number of earlier elements of the same value, of the shape of rows; -1 for elements of -1."""
    flat = rows.ravel()
    order = np.argsort(flat, kind="stable")
    first = np.searchsorted(flat[order], flat[order])
    rank = np.empty(flat.size, dtype=np.int64)
    rank[order] = np.arange(flat.size) - first
    return np.where(flat < 0, -1, rank).reshape(rows.shape)
