"""Validation of images: data type, shape, finite values, coordinates, mode."""

from __future__ import annotations

import os

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.parameters import MODES, check_option

__all__ = ["check_not_color", "check_not_empty", "check_structure", "numeric", "validated"]

#: Relative tolerance of the spacings of coordinates (chosen: files store them in single precision).
COORDINATE_TOLERANCE = 1e-3


def numeric(X: object, name: str) -> NDArray:
    """Convert to an array of real numbers; TypeError or ValueError if that is not possible."""
    if hasattr(X, "toarray"):
        raise TypeError(f"{name} must be a dense array, but is a sparse matrix: convert it with .toarray()")
    if np.ma.is_masked(X):
        raise ValueError(f"{name} must not have masked pixels: fill them first, for example with {name}.filled(value)")
    if isinstance(X, str | os.PathLike):
        raise TypeError(f"{name} must be an image, but is a path: read the file first, stemkit.read({os.fspath(X)!r})")
    if hasattr(X, "axes_manager"):
        raise TypeError(
            f"{name} must be an array or a DataArray, but is a HyperSpy signal, whose pixel size would be lost: "
            "convert it with stemkit.io.from_hyperspy(signal)"
        )
    values = np.asarray(X)
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if values.dtype == object or values.dtype.kind in "US":
        try:
            values = values.astype(np.float64)
        except ValueError as error:
            raise ValueError(f"{name} must contain numbers, but {error}") from None
    _check_dtype(values.dtype, name)
    return values


def _check_dtype(dtype: np.dtype, name: str) -> None:
    if dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} is complex; pass its magnitude or phase")
    if dtype.kind not in "fiu":
        raise TypeError(f"{name} must contain real numbers, but its dtype is {dtype}: use {name}.astype(float)")


def validated(image: xr.DataArray, name: str) -> xr.DataArray:
    """Check one image and convert its pixels to real numbers; TypeError or ValueError if it is not valid."""
    values = numeric(image.data if isinstance(image.data, np.ndarray) else image.values, name)
    check_not_empty(values.shape, name)
    _check_finite(values, name)
    if values is not image.data:
        image = image.copy(data=values)
    check_structure(image, name)
    return image


def check_structure(image: xr.DataArray, name: str) -> None:
    """Check all of an image but its pixels; TypeError or ValueError if it is not valid."""
    if image.dtype.kind != "b":
        _check_dtype(image.dtype, name)
    check_not_empty(image.shape, name)
    _check_coords(image, name)
    check_option(f'{name}.attrs["mode"]', image.attrs.get("mode"), MODES, optional=True)


def check_not_empty(shape: tuple[int, ...], name: str) -> None:
    """Raise a ValueError for an array without pixels."""
    if 0 in shape:
        raise ValueError(
            f"{name} is empty: it has {shape[0]} sample(s) and {shape[-1]} feature(s) (shape={shape}) while a minimum "
            "of 1 is required. Give at least one pixel"
        )


def check_not_color(shape: tuple[int, ...], name: str) -> None:
    """Raise a ValueError for the shape of an RGB or RGBA picture."""
    if shape[-1] in (3, 4) and min(shape[:2]) > 4:
        raise ValueError(
            f"{name} has shape {shape}, which looks like an RGB picture: pass one channel, such as {name}[..., 0]"
        )


def _check_finite(values: NDArray, name: str) -> None:
    if values.dtype.kind != "f":
        return
    bad = ~np.isfinite(values)
    if bad.any():
        y, x = (int(i) for i in np.argwhere(bad)[0])
        kind = "NaN" if np.isnan(values[y, x]) else "inf"
        raise ValueError(
            f"{name} must be finite (no NaN, no inf), but {int(bad.sum())} pixel(s) are not, the first at "
            f"y={y}, x={x} ({kind}): replace them, for example with the median of their neighbours"
        )


def _check_coords(image: xr.DataArray, name: str) -> None:
    present = [d for d in ("y", "x") if d in image.coords]
    if len(present) == 1:
        raise ValueError(
            f"{name} must have coordinates y and x, or neither, but has {present[0]!r} alone: set the pixel size with "
            "stemkit.calibrated(image, pixel_size=...)"
        )
    for dim in present:
        units = image.coords[dim].attrs.get("units")
        if units != "nm":
            raise ValueError(
                f"coordinate {dim!r} of {name} must be in nm with attrs['units'] = 'nm', but has units {units!r}: "
                "set the pixel size with stemkit.calibrated(image, pixel_size=...)"
            )
        centers = np.asarray(image.coords[dim].values, dtype=np.float64)
        if centers.size < 2:
            continue
        steps = np.diff(centers)
        if not np.all(np.isfinite(steps)) or steps.min() <= 0:
            raise ValueError(f"coordinate {dim!r} of {name} must increase, but does not: use {name}.sortby({dim!r})")
        if steps.max() - steps.min() > COORDINATE_TOLERANCE * steps.mean() * 2:
            raise ValueError(
                f"coordinate {dim!r} of {name} must be evenly spaced, but its steps go from {steps.min():.6g} to "
                f"{steps.max():.6g} nm: resample the image onto an even grid"
            )
