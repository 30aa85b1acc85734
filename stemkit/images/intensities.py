"""Normalisation of intensities, and padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["intensity_scale", "pad_reflect"]

#: Quantiles at which intensities are clipped before an image is normalised (chosen).
NORMALIZATION_QUANTILES = (0.001, 0.999)
#: Standard deviation of an image in units of its largest absolute intensity that is rounding error (chosen: rounding
#: leaves about 1e-16).
ROUNDING = 1e-12


def intensity_scale(values: NDArray) -> tuple[float, float]:
    """Offset and scale that normalise an image: mean and standard deviation with 0.1 % clipped at either end.

    For an image ``a I + b`` they are ``a offset + b`` and ``|a| scale``. They are computed in float64; the scale of a
    constant image is 0. Faulty pixels must have been filled (:func:`stemkit.pixels.filled`), since a faulty row or area
    exceeds the clipped fraction.
    """
    work = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(work, NORMALIZATION_QUANTILES)
    clipped = np.clip(work, low, high)
    offset, scale = float(clipped.mean()), float(clipped.std())
    return offset, scale if scale > ROUNDING * max(abs(low), abs(high)) else 0.0


def pad_reflect(values: NDArray, before: tuple[int, int], after: tuple[int, int]) -> NDArray:
    """Pad an image by reflection, by any number of pixels."""
    return np.pad(values, tuple(zip(before, after, strict=True)), mode="reflect")
