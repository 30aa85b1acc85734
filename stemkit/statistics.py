"""Statistics of images: the width of their columns, and the correlation of their noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["gaussian_width", "row_correlation"]

#: Limits of the width of columns, px (chosen).
WIDTHS = (1.0, 12.0)
#: Largest correlation of neighbouring pixels along the row (chosen: variances remain finite).
MAX_CORRELATION = 0.8


def gaussian_width(image: NDArray) -> float:
    """Width of a Gaussian whose power and slopes are those of an image, px: ``sqrt(var(I) / mean(|grad I|^2))``.

    A Gaussian of width s has the mean square ``pi s^2`` and the mean squared gradient ``pi``.
    """
    slopes = sum(float(np.mean(slope**2)) for slope in np.gradient(image))
    return float(np.clip(np.sqrt(np.var(image) / slopes), *WIDTHS)) if slopes else WIDTHS[0]


def row_correlation(noise: NDArray) -> float:
    """Correlation of neighbouring pixels of a row, less that between rows, which is due to the specimen."""
    power = float(np.mean(noise**2)) or 1.0
    along, across = (float(np.mean(a * b)) for a, b in ((noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1])))
    return float(np.clip((along - max(across, 0.0)) / power, -MAX_CORRELATION, MAX_CORRELATION))
