"""HDF5 files: datasets with limits on what is read, and files written in memory."""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stemkit.io.attributes import plain
from stemkit.io.checks import FormatError, check_expansion
from stemkit.io.file_dataset import FileDataset, Parts, frame_axis, make_dataset, placeholder, table_reason
from stemkit.io.hdf5_heaps import check_heaps

__all__ = [
    "attributes",
    "check_all",
    "dataset",
    "group",
    "image_of",
    "in_memory",
    "load",
    "opened",
    "string_type",
    "text_of",
]

#: Largest size of a text or of metadata that is read, bytes (chosen).
MAX_TEXT_BYTES = 2**24


def load(path: Path) -> list[FileDataset]:
    """Load the datasets of any HDF5 file that have two or more dimensions, by their path in the file."""
    with opened(path) as file:
        return [
            image_of(path, found, name=found.name.lstrip("/"), refusal=table_reason(found.shape))
            for found in _arrays(file)
        ]


@contextlib.contextmanager
def opened(path: Path, check: bool = True) -> Iterator[h5py.File]:
    """The file, open for reading; with ``check`` its heaps of texts are checked first."""
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  (registers its compression filters)
    with h5py.File(path, "r") as file:
        if check:
            check_heaps(path, file)
        yield file


def group(parent: h5py.Group, *names: str) -> h5py.Group | None:
    """The group with this path, None without one; links to other files are not followed."""
    found: Any = parent
    for name in names:
        found = _member(found, name)
        if not isinstance(found, h5py.Group):
            return None
    return found


def dataset(parent: h5py.Group, name: str) -> h5py.Dataset | None:
    """The dataset of this name, None without one; links to other files are not followed."""
    found = _member(parent, name)
    return found if isinstance(found, h5py.Dataset) else None


def attributes(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """Attributes in plain types; those that HDF5 can't read are left out."""
    found = {}
    for key in item.attrs:
        with contextlib.suppress(Exception):
            value = plain(item.attrs[key])
            found[str(key)] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found


def text_of(found: h5py.Dataset | None, column: int | None = None) -> str:
    """Text of a dataset of strings or of bytes, or of a column of it; empty without one."""
    if found is None or found.size == 0 or found.id.get_storage_size() == 0 or found.nbytes > MAX_TEXT_BYTES:
        return ""
    value = found[...] if column is None else found[:, column]
    if value.dtype.kind in "iu":
        return value.astype(np.uint8).tobytes().rstrip(b"\0").decode("utf-8", "replace")
    parts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in np.ravel(value)]
    return "".join(parts)


def image_of(
    path: Path,
    found: h5py.Dataset,
    arrange: Callable[[NDArray], NDArray] | None = None,
    by_frame: bool = False,
    **fields: Any,
) -> FileDataset:
    """A dataset whose pixels are read when they are needed.

    Parameters
    ----------
    path : Path
        The file.
    found : h5py.Dataset
        Dataset in the open file.
    arrange : callable, optional
        Function from the stored array to one with y and x last.
    by_frame : bool
        Whether the last axis of the stored array counts frames, and each of them is a block of its own: HDF5 then reads
        them three times as fast one by one (60 frames of 1024 x 1024 px).
    **fields
        Parameters of :func:`~stemkit.io.file_dataset.make_dataset`.
    """
    shape, dtype, name = found.shape, found.dtype, found.name
    if shape is None:
        return make_dataset(placeholder((0,), np.uint8), **{"refusal": "an empty dataset", **fields})
    shown = placeholder(shape, dtype) if dtype.kind in "fiubc" else np.empty((0,) * len(shape), dtype)
    if arrange is not None:
        shown = arrange(shown)

    def fetch() -> NDArray:
        with opened(path, check=False) as file:
            stored = _checked(file[name])
            if by_frame:
                return _frames(stored)
            values = stored[...]
        return values if arrange is None else arrange(values)

    def parts() -> Parts:
        axis = frame_axis(arrange)

        def read(start: int, stop: int) -> NDArray:
            with opened(path, check=False) as file:
                values = file[name][(slice(None),) * axis + (slice(start, stop),)]
            values = values if arrange is None else arrange(values)
            return values.reshape(stop - start, *values.shape[-2:])

        with opened(path, check=False) as file:
            chunks = _checked(file[name]).chunks
        return Parts(read, 1 if chunks is None else chunks[axis])

    return make_dataset(shown, fetch=fetch, parts=parts if len(shape) == 3 else None, **fields)


def _frames(stored: h5py.Dataset) -> NDArray:
    """``(n_y, n_x, n_frames)`` as ``(n_frames, n_y, n_x)``, in the order of the memory."""
    values = np.empty((stored.shape[2], *stored.shape[:2]), stored.dtype)
    for i in range(len(values)):
        values[i] = stored[:, :, i]
    return values


def check_all(path: Path) -> None:
    """Raise an error if a dataset declares more than the file can contain, or the file has links to others."""
    with opened(path) as file:
        file.visititems_links(_refuse_external)
        for found in _arrays(file):
            _check_size(found)


def _refuse_external(name: str, link: object) -> None:
    if isinstance(link, h5py.ExternalLink):
        raise FormatError(f"{name} in it is a link to another file, which is not followed")


def in_memory(fill: Callable[[h5py.File], None]) -> bytes:
    """Bytes of a file that ``fill`` has filled: the HDF5 library crashes if the disk becomes full."""
    with h5py.File(f"{uuid.uuid4().hex}.h5", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        return bytes(file.id.get_file_image())


def _checked(found: h5py.Dataset) -> h5py.Dataset:
    """The dataset if its pixels are in the file, all of them, and can be decompressed."""
    _check_size(found)
    if found.chunks is not None:
        expected = math.prod(-(-n // chunk) for n, chunk in zip(found.shape, found.chunks, strict=True))
        missing = expected - found.id.get_num_chunks()
    else:
        missing = expected = int(found.id.get_storage_size() == 0 and found.size > 0)
    if missing:
        raise FormatError(f"{missing} of {expected} blocks of its pixels were never written: it is damaged")
    return found


def _check_size(found: h5py.Dataset) -> None:
    """Raise an error if the stored bytes can't be the pixels, are in other files, or can't be decompressed."""
    if found.is_virtual or found.external:
        raise FormatError("its pixels are in other files: read those")
    check_expansion(math.prod(found.shape) * found.dtype.itemsize, found.id.get_storage_size())
    created = found.id.get_create_plist()
    for i in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            label = name.decode("utf-8", "replace") or str(code)
            raise ImportError(
                f"its pixels are compressed with the HDF5 filter {label!r}: install the filters with pip install "
                "'stemkit[formats]'"
            )


def _member(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    return parent.get(name) if isinstance(parent.get(name, getlink=True), h5py.HardLink) else None


def _arrays(file: h5py.File) -> list[h5py.Dataset]:
    """Datasets of two or more dimensions; links to other files and soft links are not followed."""
    found: list[h5py.Dataset] = []

    def visit(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None and len(item.shape) > 1:
            found.append(item)

    file.visititems(visit)
    return found


def string_type() -> np.dtype:
    """Data type of texts of any length."""
    return h5py.string_dtype()
