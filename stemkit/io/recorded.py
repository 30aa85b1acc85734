"""Datasets as the modules of the formats return them: arrays with the metadata of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Recorded", "recorded"]

#: Names of colour channels in the order in which they are stacked.
_CHANNELS = ("R", "G", "B", "A")


@dataclass(frozen=True)
class Recorded:
    """One dataset of a file.

    ``refusal`` describes data that are not an image (empty for an image), ``note`` is the text of a warning on reading.
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
    """Make a dataset with native byte order; equal colour channels are reduced to one channel of grey values.

    Parameters
    ----------
    values : ndarray
        Array of the file.
    colour : bool
        Whether the last axis contains colour channels (and opacity).
    refusal : str
        Description from the file's metadata if the data are not an image.
    pixel_sizes : tuple of float, optional
        Height and width of a pixel in nm; ignored unless finite and different from 0.
    **fields
        The other fields of :class:`Recorded`.
    """
    values = _native_byte_order(np.asarray(values))
    if values.dtype.names and set(values.dtype.names) <= set(_CHANNELS):
        values, colour = np.stack([values[c] for c in _CHANNELS if c in values.dtype.names], axis=-1), True
    colour_reason = ""
    if colour:
        values, colour_reason = _grey(values)
    return Recorded(
        values,
        pixel_sizes=_valid_sizes(pixel_sizes),
        refusal=refusal or colour_reason or _not_an_image(values),
        **fields,
    )


def _native_byte_order(values: NDArray) -> NDArray:
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _grey(values: NDArray) -> tuple[NDArray, str]:
    """The grey values of a picture with equal colour channels; else the picture and the reason to reject it."""
    first = values[..., 0]
    if values.shape[-1] < 3 or (np.array_equal(first, values[..., 1]) and np.array_equal(first, values[..., 2])):
        return np.ascontiguousarray(first), ""
    return values, "a coloured picture (RGB): its colours can't be converted to intensities"


def _not_an_image(values: NDArray) -> str:
    """Description of an array that is not an image or a stack, else an empty string."""
    if values.dtype.kind == "c":
        return "complex data (an exit wave or a Fourier transform): save its magnitude or phase as an image"
    if values.dtype.kind not in "fiub":
        return f"no numbers (dtype {values.dtype})"
    if values.ndim < 2:
        return f"{values.ndim}-D data (a spectrum or a line profile)"
    if values.ndim > 3:
        return f"{values.ndim}-D data (4D-STEM, or a stack of stacks): reduce it to images first"
    return "an empty array" if values.size == 0 else ""


def _valid_sizes(sizes: tuple[float, float] | None) -> tuple[float, float] | None:
    """Absolute sizes, None unless finite and above 0; a reversed axis has a negative scale."""
    if sizes is None:
        return None
    y, x = (abs(float(s)) for s in sizes)
    return (y, x) if np.isfinite([y, x]).all() and y > 0 and x > 0 else None
