"""The pixel size of an image, which is the spacing of its coordinates."""

from __future__ import annotations

import numpy as np
import xarray as xr

from stemkit.parameters import check_positive

__all__ = [
    "PIXEL_SIZE_TOLERANCE",
    "is_calibrated",
    "mean_pixel_size",
    "mean_spacing",
    "pixel_sizes",
    "same_pixel_sizes",
    "with_pixel_sizes",
]

#: Relative difference up to which pixel sizes are equal (chosen: files store them in single precision).
PIXEL_SIZE_TOLERANCE = 1e-3


def is_calibrated(image: xr.DataArray) -> bool:
    """Whether the image has a pixel size."""
    return pixel_sizes(image) is not None


def pixel_sizes(image: xr.DataArray) -> tuple[float, float] | None:
    """Height and width of a pixel in nm, or None without coordinates.

    The pixel size along an axis with a single pixel is that of the other axis.
    """
    sizes = {d: mean_spacing(image.coords[d]) for d in ("y", "x") if d in image.coords}
    known = [s for s in sizes.values() if s is not None]
    if not known:
        return None
    return sizes.get("y") or known[0], sizes.get("x") or known[0]


def mean_pixel_size(image: xr.DataArray) -> float:
    """Geometric mean of the height and the width of a pixel in nm, or 1 (px) without coordinates."""
    y, x = pixel_sizes(image) or (1.0, 1.0)
    return float(np.sqrt(y * x))


def same_pixel_sizes(first: tuple[float, float] | None, second: tuple[float, float] | None) -> bool:
    """Whether two images have the same :func:`pixel_sizes`, or both have none."""
    if first is None or second is None:
        return first is second
    return bool(np.allclose(first, second, rtol=PIXEL_SIZE_TOLERANCE, atol=0))


def with_pixel_sizes(image: xr.DataArray, y: float, x: float) -> xr.DataArray:
    """The image with pixel centres at multiples of the height ``y`` and the width ``x`` of a pixel, nm.

    Raises
    ------
    ValueError
        If ``y`` or ``x`` is not a positive number.
    """
    for label, size in (("y", y), ("x", x)):
        check_positive(f"pixel_size along {label}", size, unit="nm")
    coords = {d: xr.Variable(d, np.arange(image.sizes[d]) * float(s), {"units": "nm"}) for d, s in (("y", y), ("x", x))}
    return image.assign_coords(coords)


def mean_spacing(axis: xr.DataArray) -> float | None:
    """Mean spacing of a coordinate in its unit; None for a single value."""
    centers = np.asarray(axis.values, dtype=np.float64)
    return None if centers.size < 2 else float((centers[-1] - centers[0]) / (centers.size - 1))
