"""Conversion between the units of an image and of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.denoising.sampling import CONSTANTS
from stemkit.denoising.weights import NetworkInfo
from stemkit.images import intensity_scale
from stemkit.periodicity import central_crop, find_periodicity
from stemkit.pixels.filled_image import FilledImage

__all__ = ["from_network", "network_units", "to_network", "widened"]

#: Limits of a network's range of spacings, in multiples of the extreme spacings of its training images (chosen).
WIDENING = (0.8, 1.25)


def network_units(values: NDArray | FilledImage, info: NetworkInfo, sign: float = 1) -> tuple[float, float]:
    """Offset and scale of an image; the network's input is ``(sign * values - offset) / scale``.

    ``sign`` is -1 in bright field. The image is not multiplied by it, which would be a copy of the whole of it.
    """
    if info.scaling == "standard":
        offset, scale = intensity_scale(values)
        return sign * offset, scale
    pixels = np.asarray(values)
    low, high = float(pixels.min()), float(pixels.max())
    return (low if sign > 0 else -high), (high - low) / 255.0


def to_network(values: Any, name: str, sign: float, offset: Any, scale: Any) -> Any:
    """Convert a map (array or tensor) from the image's units to the network's; ``sign`` is -1 in bright field."""
    if name == "detect":
        return values
    return (values * sign - (offset if name == "enhance" else 0.0)) / scale


def from_network(values: NDArray, name: str, sign: float, offset: float, scale: float) -> NDArray:
    """Convert a map from the network's units to the image's; ``sign`` is -1 in bright field."""
    if name == "detect":
        return values
    return sign * (values.astype(np.float64) * scale + (offset if name == "enhance" else 0.0))


def widened(known: tuple[float, float] | None, images: list[xr.DataArray]) -> tuple[float, float] | None:
    """Range of spacings, px, of a network's training after it is extended by images."""
    parts = [central_crop(image.values, CONSTANTS.measured_on) for image in images]
    spacings = [s for s in (find_periodicity(part).spacing for part in parts) if s is not None]
    if not spacings:
        return known
    low, high = WIDENING[0] * min(spacings), WIDENING[1] * max(spacings)
    return (low, high) if known is None else (min(low, known[0]), max(high, known[1]))
