"""Datasets as the modules of the formats return them: arrays with the metadata of the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = [
    "DERIVED",
    "DETECTOR",
    "MAP",
    "FileDataset",
    "Parts",
    "frame_axis",
    "make_dataset",
    "native",
    "placeholder",
    "table_reason",
]

#: Kinds of images in the order in which they are the default dataset of a file: recorded by a detector, computed from
#: such images, and maps of spectra.
DETECTOR, DERIVED, MAP = range(3)

#: Names of colour channels in the order in which they are stacked.
_CHANNELS = ("R", "G", "B", "A")
#: Numbers of colour channels, with and without opacity.
_COLOR_CHANNELS = (3, 4)
#: Shorter side above which an array with 3 or 4 values along its last axis is a picture, px (chosen).
_MIN_PICTURE_SIZE = 16
#: Number of columns up to which a long array is a table (chosen).
_MAX_TABLE_COLUMNS = 4


@dataclass(frozen=True)
class Parts:
    """Reading of some images of a stack without the others.

    ``read(start, stop)`` opens the file, reads these images and closes it; ``block`` is the number of images that the
    file stores together.
    """

    read: Callable[[int, int], NDArray]
    block: int = 1


@dataclass(frozen=True)
class FileDataset:
    """One dataset of a file.

    ``refusal`` describes data that are not an image (empty for an image), ``note`` is the text of a warning on reading.
    ``series`` says that the first axis of a stack contains frames of one scan, ``times`` are their times in s.
    ``maps`` are other arrays of the image's shape, which become coordinates.
    ``fetch`` reads the pixels if ``values`` is a placeholder of their shape and dtype. ``parts`` checks the file and
    returns :class:`Parts` of a stack, if the format has them.
    """

    values: NDArray
    name: str = ""
    pixel_sizes: tuple[float, float] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    coords: Mapping[str, Any] = field(default_factory=dict)
    array_name: str | None = None
    refusal: str = ""
    note: str = ""
    series: bool = False
    times: NDArray | None = None
    kind: int = DETECTOR
    maps: Mapping[str, FileDataset] = field(default_factory=dict)
    fetch: Callable[[], NDArray] | None = None
    parts: Callable[[], Parts] | None = None

    def pixels(self) -> NDArray:
        """The pixels, read now if they were not read before."""
        return self.values if self.fetch is None else native(self.fetch())


def make_dataset(
    values: NDArray,
    *,
    color: bool | None = None,
    refusal: str = "",
    pixel_sizes: tuple[float, float] | None = None,
    **fields: Any,
) -> FileDataset:
    """Make a dataset with native byte order; equal colour channels are reduced to one channel of grey values.

    Parameters
    ----------
    values : ndarray
        Array of the file, or a :func:`placeholder` with ``fetch``.
    colour : bool, optional
        Whether the last axis contains colour channels (and opacity). Default: if it has 3 or 4 elements, and the other
        two axes have many.
    refusal : str
        Description from the file's metadata if the data are not an image.
    pixel_sizes : tuple of float, optional
        Height and width of a pixel in nm; ignored unless finite and different from 0.
    **fields
        The other fields of :class:`FileDataset`.
    """
    values = native(np.asarray(values))
    if values.dtype.names and set(values.dtype.names) <= set(_CHANNELS):
        values, color = np.stack([values[c] for c in _CHANNELS if c in values.dtype.names], axis=-1), True
    color_reason = ""
    if _looks_colored(values.shape) if color is None else color:
        fetch = fields.pop("fetch", None)
        fields.pop("parts", None)
        values, color_reason = _gray(values if fetch is None else native(fetch()))
    return FileDataset(
        values,
        pixel_sizes=_valid_sizes(pixel_sizes),
        refusal=refusal or color_reason or _not_an_image(values),
        **fields,
    )


def table_reason(shape: tuple[int, ...]) -> str:
    """Description of an array of a general container if it is a table, else an empty string."""
    if len(shape) == 2 and shape[1] <= _MAX_TABLE_COLUMNS < _MIN_PICTURE_SIZE < shape[0]:
        return f"a table of {shape[0]} rows and {shape[1]} columns"
    return ""


def placeholder(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """An array of this shape and dtype that takes no memory."""
    return np.broadcast_to(np.zeros((), native(np.zeros((), dtype)).dtype), shape)


def frame_axis(arrange: Callable[[NDArray], NDArray] | None) -> int:
    """The axis of a stored three-dimensional array that ``arrange``, a transposition, makes the first one."""
    probe = np.empty((2, 3, 4), dtype=np.uint8)
    return 0 if arrange is None else probe.shape.index(arrange(probe).shape[0])


def native(values: NDArray) -> NDArray:
    """The values in native byte order; logical values as 0 and 1, extended precision as float64."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _looks_colored(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[-1] in _COLOR_CHANNELS and min(shape[:2]) > _MIN_PICTURE_SIZE


def _gray(values: NDArray) -> tuple[NDArray, str]:
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
    if values.ndim == 0:
        return "a single number"
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
