"""Containers of images: a single image, a stack, or a list of images."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeAlias, TypeGuard

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.images.checks import check_not_color, check_not_empty, numeric, validated
from stemkit.images.provenance import RECORDED

__all__ = ["Images", "float_dtype", "holds_images", "join", "single_image", "split", "unstacked", "warn_if_small"]

Images: TypeAlias = "xr.DataArray | NDArray | Sequence[xr.DataArray | NDArray]"

#: Attributes of single images; in a stack they are lists with one element per image.
PER_IMAGE_ATTRS = ("noise",)
#: Dims of several images: a stack of unrelated ones, and the frames of one series.
STACKS = (("image", "y", "x"), ("frame", "y", "x"))
#: Shorter side of an image below which a warning is given, px (chosen).
MIN_RELIABLE_SIZE = 32


def split(X: Images, *, name: str = "X") -> list[xr.DataArray]:
    """Validate images and convert them to a list of 2-D DataArrays.

    Parameters
    ----------
    X : DataArray, array-like or sequence of them
        One image ``(n_y, n_x)``, a stack ``(n_images, n_y, n_x)`` with the dims ``("image", "y", "x")``, a series of
        frames with the dims ``("frame", "y", "x")``, or a list of images of any sizes.
    name : str
        The parameter's name in error messages.

    Returns
    -------
    list of DataArray
        One per image, dims ``("y", "x")``, with the coordinates and attributes of the image.

    Raises
    ------
    ValueError, TypeError
        If ``X`` is not an image: other dims, NaN, complex, RGB or empty arrays, unevenly spaced coordinates.
    """
    if isinstance(X, xr.DataArray):
        return _split_dataarray(X, name)
    if _is_list_of_images(X):
        images = [_single(item, f"{name}[{i}]") for i, item in enumerate(X)]
        if not images:
            raise ValueError(f"{name} is an empty list: give at least one image")
        return images
    values = numeric(X, name)
    if values.ndim == 2:
        return [validated(xr.DataArray(values, dims=("y", "x")), name)]
    if values.ndim == 3:
        check_not_color(values.shape, name)
        check_not_empty(values.shape, name)
        return [validated(xr.DataArray(v, dims=("y", "x")), f"{name}[{i}]") for i, v in enumerate(values)]
    raise ValueError(
        f"{name} must be one image (n_y, n_x) or a stack (n_images, n_y, n_x), but has {values.ndim} dimension(s), "
        f"shape {values.shape}. Reshape your data: for a single row of pixels use array.reshape(1, -1)"
    )


def single_image(X: Images, *, name: str = "image") -> xr.DataArray:
    """Validate one image, as :func:`~stemkit.images.split`, and convert it to a DataArray.

    Parameters
    ----------
    X : DataArray, array-like or sequence of one
        One image ``(n_y, n_x)``, or a stack of one.
    name : str
        The parameter's name in error messages.

    Returns
    -------
    DataArray
        Dims ``("y", "x")``.

    Raises
    ------
    ValueError, TypeError
        As ``split``, or if there are several images.
    """
    images = split(X, name=name)
    if len(images) != 1:
        raise ValueError(f"{name} must be a single image, but is a stack of {len(images)}: choose one with {name}[i]")
    return images[0]


def join(images: Sequence[xr.DataArray], like: Images) -> Images:
    """Convert a list of results to the container of the input, the inverse of :func:`~stemkit.images.split`.

    Parameters
    ----------
    images : sequence of DataArray
        Results, one per image.
    like : DataArray, ndarray or list of them
        The input.

    Returns
    -------
    DataArray, ndarray or list of them
        An array gives a DataArray if its result carries recorded pixels or a noise model, which the next step of a
        pipeline needs and a plain array cannot carry.
    """
    if isinstance(like, xr.DataArray):
        return images[0] if like.ndim == 2 else _stacked(images, like)
    if _is_list_of_images(like):
        given = zip(images, like, strict=True)
        return [r if isinstance(item, xr.DataArray) or _carries_more(r) else r.values for r, item in given]
    values = np.asarray(like)
    joined = images[0] if values.ndim == 2 else _stacked(images, xr.DataArray(values, dims=("image", "y", "x")))
    return joined if _carries_more(joined) else joined.values


def holds_images(y: object) -> TypeGuard[Images]:
    """Whether ``y`` contains images; a pipeline also passes labels (one number per row) and tables."""
    if isinstance(y, xr.DataArray):
        return True
    if y is None or hasattr(y, "columns"):
        return False
    if isinstance(y, list | tuple) and any(hasattr(item, "columns") for item in y):
        return False
    return _is_list_of_images(y) or np.asarray(y).ndim > 1


def float_dtype(dtype: np.dtype) -> np.dtype:
    """Data type of results: float32 and float64 are kept, all other types become float32."""
    return np.dtype(dtype) if dtype in (np.float32, np.float64) else np.dtype(np.float32)


def warn_if_small(image: xr.DataArray) -> None:
    """Warn of an image too small for reliable statistics and networks."""
    if min(image.shape) < MIN_RELIABLE_SIZE:
        warnings.warn(
            f"the image is {image.shape[0]} by {image.shape[1]} px: results are unreliable under "
            f"{MIN_RELIABLE_SIZE} px, use a larger image",
            UserWarning,
            stacklevel=4,
        )


# --- steps -------------------------------------------------------------------------------------------------------


def _is_list_of_images(X: object) -> bool:
    return isinstance(X, list | tuple) and (
        len(X) == 0 or any(isinstance(i, xr.DataArray) or getattr(i, "ndim", 0) >= 2 for i in X)
    )


def _single(item: xr.DataArray | NDArray, name: str) -> xr.DataArray:
    images = split(item, name=name)
    if getattr(item, "ndim", 2) != 2:
        raise ValueError(f"{name} must be an image (n_y, n_x) in a list of images, but has shape {np.shape(item)}")
    return images[0]


def _split_dataarray(X: xr.DataArray, name: str) -> list[xr.DataArray]:
    images = unstacked(X, name)
    return [validated(image, name if X.ndim == 2 else f"{name}[{i}]") for i, image in enumerate(images)]


def unstacked(X: xr.DataArray, name: str) -> Iterator[xr.DataArray]:
    """The images of a DataArray with their own attributes; only the dims are checked, others raise a ValueError."""
    if X.dims == ("y", "x"):
        yield X
        return
    if X.dims not in STACKS:
        hint = ""
        if set(X.dims) in ({"y", "x"}, *map(set, STACKS)):
            hint = f": reorder them with {name}.transpose(..., 'y', 'x')"
        raise ValueError(
            f'{name} must have dims ("y", "x"), ("image", "y", "x") or ("frame", "y", "x"), but has {X.dims}{hint}'
        )
    check_not_empty(X.shape, name)
    for i in range(len(X)):
        image = X.isel({X.dims[0]: i}, drop=True)
        image.attrs = {k: _attribute_of_one(v, i, len(X), k) for k, v in X.attrs.items()}
        yield image


def _attribute_of_one(value: object, index: int, count: int, key: Hashable) -> object:
    """An attribute of one image of a stack."""
    if key in PER_IMAGE_ATTRS and isinstance(value, list | tuple | np.ndarray) and len(value) == count:
        return str(value[index])
    return value


def _carries_more(image: xr.DataArray) -> bool:
    """Whether an image carries what a plain array cannot: recorded pixels or a noise model."""
    return RECORDED in image.coords or "noise" in image.attrs


def _stacked(images: Sequence[xr.DataArray], like: xr.DataArray) -> xr.DataArray:
    """Stack images with the coordinates of the stack ``like``, and with the maps and attributes of the images."""
    first = images[0]
    coords = {c: v for c, v in like.coords.items() if set(v.dims) <= {like.dims[0]} or c in like.dims}
    for label in first.coords:
        if first.coords[label].dims == ("y", "x"):
            coords[label] = (like.dims, np.stack([i.coords[label].values for i in images]))
    attrs = dict(first.attrs)
    for key in PER_IMAGE_ATTRS:
        if key in attrs:
            attrs[key] = [image.attrs[key] for image in images]
    return xr.DataArray(np.stack([i.values for i in images]), coords, like.dims, like.name, attrs)
