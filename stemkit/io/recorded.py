"""What a format's module finds in a file: arrays, with what the file says about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Recorded", "recorded"]

#: A file with colour channels has them in this order.
_CHANNELS = ("R", "G", "B", "A")


@dataclass(frozen=True)
class Recorded:
    """One dataset of a file.

    ``refusal`` says what it is where it is not an image, ``note`` what a reader of it should be warned of.
    """

    values: NDArray
    name: str = ""
    pixel_sizes: tuple[float, float] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    coords: Mapping[str, Any] = field(default_factory=dict)
    array_name: str | None = None
    refusal: str = ""
    note: str = ""


def recorded(
    values: NDArray,
    *,
    colour: bool = False,
    refusal: str = "",
    pixel_sizes: tuple[float, float] | None = None,
    **fields: Any,
) -> Recorded:
    """A dataset with its pixels in native byte order, grey where it was a grey picture in colour channels.

    Parameters
    ----------
    values : ndarray
        What the file holds.
    colour : bool
        Whether the last axis is colour (and opacity).
    refusal : str
        What the file's metadata say that it is, if not an image.
    pixel_sizes : tuple of float, optional
        Height and width of a pixel in nm, as the file says; what is not a positive number is dropped.
    **fields
        The other fields of :class:`Recorded`.
    """
    values = _native(np.asarray(values))
    if values.dtype.names and set(values.dtype.names) <= set(_CHANNELS):
        values, colour = np.stack([values[c] for c in _CHANNELS if c in values.dtype.names], axis=-1), True
    coloured = ""
    if colour:
        values, coloured = _grey(values)
    return Recorded(
        values,
        pixel_sizes=_credible(pixel_sizes),
        refusal=refusal or coloured or _not_an_image(values),
        **fields,
    )


def _native(values: NDArray) -> NDArray:
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _grey(values: NDArray) -> tuple[NDArray, str]:
    """The one channel of a picture whose colour channels are equal."""
    first = values[..., 0]
    if values.shape[-1] < 3 or (np.array_equal(first, values[..., 1]) and np.array_equal(first, values[..., 2])):
        return np.ascontiguousarray(first), ""
    return values, "a coloured picture (RGB): intensities can't be recovered from its colours"


def _not_an_image(values: NDArray) -> str:
    if values.dtype.kind == "c":
        return "complex data (an exit wave or a Fourier transform): save its magnitude or phase as an image"
    if values.dtype.kind not in "fiub":
        return f"no numbers (dtype {values.dtype})"
    if values.ndim < 2:
        return f"{values.ndim}-D data (a spectrum or a line profile)"
    if values.ndim > 3:
        return f"{values.ndim}-D data (4D-STEM, or a stack of stacks): reduce it to images first"
    return "empty" if values.size == 0 else ""


def _credible(sizes: tuple[float, float] | None) -> tuple[float, float] | None:
    """Sizes as positive floats; an axis that runs backwards has a negative scale."""
    if sizes is None:
        return None
    y, x = (abs(float(s)) for s in sizes)
    return (y, x) if np.isfinite([y, x]).all() and y > 0 and x > 0 else None
