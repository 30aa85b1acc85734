"""The overlap of displaced frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_OVERLAP", "energies_of_overlaps", "frames_in_overlap"]

#: Smallest overlap of two frames, as a fraction of the area (chosen).
MIN_OVERLAP = 0.2


def energies_of_overlaps(image: NDArray, y: NDArray, x: NDArray) -> NDArray[np.float64]:
    """Sum of squares of the pixels p + s that overlap with the pixels p, for each shift s ``(y, x)``."""
    n_y, n_x = image.shape
    square = np.asarray(image, dtype=np.float64) ** 2
    total = np.pad(np.cumsum(np.cumsum(square, axis=0), axis=1), ((1, 0), (1, 0)))
    top, bottom = np.clip(y, 0, n_y), np.clip(n_y + y, 0, n_y)
    left, right = np.clip(x, 0, n_x), np.clip(n_x + x, 0, n_x)
    return total[np.ix_(bottom, right)] - total[np.ix_(top, right)] - total[np.ix_(bottom, left)] + total[
        np.ix_(top, left)
    ]  # fmt: skip


def frames_in_overlap(first: NDArray, second: NDArray, places: NDArray, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Mean number of frames that show a pixel of the overlap of two of them.

    Parameters
    ----------
    first, second : ndarray of shape (n, 2)
        Positions of the frames of n pairs, px.
    places : ndarray of shape (n_frames, 2)
        Positions of the frames that are counted, px.
    shape : (int, int)
        ``(n_y, n_x)`` of a frame.

    Returns
    -------
    ndarray of shape (n,)
    """
    low, high = np.maximum(first, second), np.minimum(first, second) + np.array(shape)
    area = np.clip(high - low, 0, None).prod(axis=-1)
    sides = np.minimum(high[:, None], places + np.array(shape)) - np.maximum(low[:, None], places)
    return np.asarray(np.clip(sides, 0, None).prod(axis=-1).sum(axis=1) / np.maximum(area, 1e-9))
