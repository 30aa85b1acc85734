"""Maximum of the parabola through three samples, for positions of peaks between pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["parabola_vertex", "subpixel_step"]


def parabola_vertex(before: ArrayLike, at: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """Position of the maximum of the parabola through three equidistant samples.

    Parameters
    ----------
    before, at, after : array_like
        Values at -1, 0 and 1, of the same shape.

    Returns
    -------
    ndarray
        Positions from -0.5 to 0.5; 0 where the parabola has no maximum.
    """
    before, at, after = (np.asarray(values, dtype=np.float64) for values in (before, at, after))
    curvature = before - 2 * at + after
    safe = np.where(curvature < 0, curvature, -1.0)
    return np.where(curvature < 0, np.clip(0.5 * (before - after) / safe, -0.5, 0.5), 0.0)


def subpixel_step(values: NDArray, y: int, x: int) -> NDArray[np.float64]:
    """Vector (y, x) from a pixel inside an image to the maximum of the parabolas through it along both axes."""
    around = values[y - 1 : y + 2, x - 1 : x + 2]
    return np.array([parabola_vertex(*around[:, 1]), parabola_vertex(*around[1])])
