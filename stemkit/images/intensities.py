"""Normalisation of intensities, and padding."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["intensity_scale", "pad_reflect"]

#: Quantiles at which intensities are clipped before an image is normalised (chosen).
NORMALIZATION_QUANTILES = (0.001, 0.999)
#: Standard deviation of an image in units of its largest absolute intensity that is rounding error (chosen: rounding
#: leaves about 1e-16).
ROUNDING = 1e-12
#: Number of values that are converted to double precision at a time (chosen: memory).
PART = 2**17


def intensity_scale(values: ArrayLike) -> tuple[float, float]:
    """Offset and scale that normalise an image: mean and standard deviation with 0.1 % clipped at either end.

    For an image ``a I + b`` they are ``a offset + b`` and ``|a| scale``. They are computed in float64; the scale of a
    constant image is 0. Faulty pixels must have been filled (:func:`stemkit.pixels.filled`), since a faulty row or area
    exceeds the clipped fraction.
    """
    # one copy in the image's own precision serves all, which saves memory: the order of the pixels does not matter
    pixels = np.array(values).ravel("K")
    low, high = _ordered_quantiles(pixels, NORMALIZATION_QUANTILES)

    def clipped() -> Iterator[NDArray[np.float64]]:
        parts = np.array_split(pixels, max(1, pixels.size // PART))
        return (np.clip(part.astype(np.float64), low, high) for part in parts)

    offset = math.fsum(float(part.sum()) for part in clipped()) / pixels.size
    scale = math.sqrt(math.fsum(float(((part - offset) ** 2).sum()) for part in clipped()) / pixels.size)
    return offset, scale if scale > ROUNDING * max(abs(low), abs(high)) else 0.0


def _ordered_quantiles(pixels: NDArray, fractions: tuple[float, ...]) -> list[float]:
    """Quantiles with linear interpolation, after which the pixels are partly ordered."""
    places = [fraction * (pixels.size - 1) for fraction in fractions]
    neighbors = [(math.floor(place), math.ceil(place)) for place in places]
    pixels.partition(sorted({i for pair in neighbors for i in pair}))
    return [
        float(pixels[below]) + (place - below) * (float(pixels[above]) - float(pixels[below]))
        for place, (below, above) in zip(places, neighbors, strict=True)
    ]


def pad_reflect(values: NDArray, before: tuple[int, int], after: tuple[int, int]) -> NDArray:
    """Pad an image by reflection, by any number of pixels."""
    return np.pad(values, tuple(zip(before, after, strict=True)), mode="reflect")
