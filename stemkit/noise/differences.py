"""Differences across rows: a smooth specimen cancels, noise does not."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIFFERENCE", "row_difference"]

#: Fourth difference: cancels a specimen that is cubic across five rows; unit gain for noise of independent rows.
DIFFERENCE = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / math.sqrt(70.0)


def row_difference(values: NDArray) -> NDArray[np.float64]:
    """Fourth difference across rows at every row that has two neighbours on both sides: ``(n_y - 4, n_x)``."""
    n = len(values) - 4
    return sum(weight * values[i : i + n] for i, weight in enumerate(DIFFERENCE))
