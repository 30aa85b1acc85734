"""Between an image's units and those of a network."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.denoising.sampling import MEASURED_ON
from stemkit.denoising.weights import NetworkInfo
from stemkit.images import intensity_scale
from stemkit.periodicity import find_periodicity, middle

__all__ = ["from_network", "network_units", "to_network", "widened"]


def network_units(values: NDArray, info: NetworkInfo) -> tuple[float, float]:
    """Offset and scale of an image whose columns are bright, so that ``(values - offset) / scale`` is what the network
    wants.
    """
    if info.scaling == "standard":
        return intensity_scale(values)
    low, high = float(values.min()), float(values.max())
    return low, (high - low) / 255.0


def to_network(values: NDArray, name: str, sign: float, offset: float, scale: float) -> NDArray:
    """A map in the image's units as the network gives it; ``sign`` is -1 in bright field."""
    if name == "detect":
        return values
    return (values * sign - (offset if name == "enhance" else 0.0)) / scale


def from_network(values: NDArray, name: str, sign: float, offset: float, scale: float) -> NDArray:
    """A map of the network in the image's units."""
    if name == "detect":
        return values
    return sign * (values.astype(np.float64) * scale + (offset if name == "enhance" else 0.0))


def widened(known: tuple[float, float] | None, images: list[xr.DataArray]) -> tuple[float, float] | None:
    """The range of spacings, px, that a network knows once it has learnt from some images."""
    spacings = [s for s in (find_periodicity(middle(i.values, MEASURED_ON)).spacing for i in images) if s is not None]
    if not spacings:
        return known
    low, high = 0.8 * min(spacings), 1.25 * max(spacings)
    return (low, high) if known is None else (min(low, known[0]), max(high, known[1]))
