"""Check of the heaps of texts in HDF5 files, on whose damage the HDF5 library loops for ever (as of 1.14 and 2.0).

A text of variable length is an object of a global heap collection: a signature and a size, then objects with an index,
a number of references and a size (HDF5 File Format Specification 3.0, section III.E). The library advances by the size
of an object with the index 0, the free space; a size of 0 keeps it at its place.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from stemkit.io.checks import FormatError

__all__ = ["check_heaps"]

#: First bytes of a collection, with the only version.
_SIGNATURE = b"GCOL\1\0\0\0"
#: Length of the header of a collection, bytes.
_HEADER_BYTES = 16
#: Length of the header of an object, bytes.
_OBJECT_BYTES = 16
#: Size of a file up to which all of it is searched, bytes (chosen); in larger ones the pixels are left out.
_MAX_SEARCHED_BYTES = 2**26
#: Size of a dataset from which its pixels are left out, bytes (chosen).
_LEFT_OUT = 2**20


def check_heaps(path: Path, file: h5py.File) -> None:
    """Raise an error if a heap of texts is damaged in a way on which the library does not return."""
    size = path.stat().st_size
    if size == 0:
        return
    ranges = [(0, size)] if size <= _MAX_SEARCHED_BYTES else list(_outside_pixels(file, size))
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, stop in ranges:
            position = content.find(_SIGNATURE, start, stop)
            while position >= 0:
                _check_collection(content, position)
                position = content.find(_SIGNATURE, position + _HEADER_BYTES, stop)


def _check_collection(content: mmap.mmap, start: int) -> None:
    if start + _HEADER_BYTES > len(content):
        return
    (size,) = struct.unpack_from("<Q", content, start + 8)
    end, position = min(start + size, len(content)), start + _HEADER_BYTES
    while position + _OBJECT_BYTES <= end:
        index, length = struct.unpack_from("<H6xQ", content, position)
        step = length if index == 0 else _OBJECT_BYTES + -(-length // 8) * 8
        if step == 0:
            raise FormatError("a heap of texts in it has an object without a size: it is truncated or damaged")
        position += step


def _outside_pixels(file: h5py.File, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of the file between the pixels of large datasets."""
    pixels: list[tuple[int, int]] = []

    def visit(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.id.get_storage_size() > _LEFT_OUT and item.dtype.kind != "O":
            pixels.extend(_stored_at(item))

    file.visititems(visit)
    position = 0
    for start, length in sorted(pixels):
        if start > position:
            yield position, start
        position = max(position, start + length)
    yield position, size


def _stored_at(found: h5py.Dataset) -> list[tuple[int, int]]:
    """Positions and lengths of the pixels of a dataset in the file."""
    offset = found.id.get_offset()
    if offset is not None:
        return [(offset, found.id.get_storage_size())]
    if found.chunks is None:
        return []
    blocks: list[Any] = []
    found.id.chunk_iter(blocks.append)
    return [(block.byte_offset, block.size) for block in blocks if block.byte_offset is not None]
