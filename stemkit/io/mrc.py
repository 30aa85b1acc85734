"""MRC files of the MRC2014 format, read without a library: the header is checked against the size of the file first.

The format is described by A. Cheng et al., J. Struct. Biol. 192 (2015) 146, https://doi.org/10.1016/j.jsb.2015.04.002.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stemkit.io.checks import FormatError, check_declared
from stemkit.io.file_dataset import FileDataset, Parts, make_dataset, placeholder

__all__ = ["load"]

#: Length of the header, bytes.
_HEADER = 1024
#: Data type of each mode; mode 0 is signed in MRC2014.
_MODES = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2"}
#: Stamp of IMOD's files (IMOD, mrc_format).
_IMOD_STAMP = 1146047817
#: Bit of IMOD's flags without which mode 0 is unsigned.
_IMOD_SIGNED = 1
#: Largest length of an edge that is taken for a number rather than for bytes of the other order, px (chosen).
_MAX_EDGE = 10**6


def load(path: Path) -> list[FileDataset]:
    """Load the image or the stack of images."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if len(header) < _HEADER:
        raise FormatError(f"it has {len(header)} bytes, less than the header of 1024: it is truncated")
    order = _byte_order(header)
    nx, ny, nz, mode = (int(n) for n in np.frombuffer(header, f"{order}i4", 4))
    if mode not in _MODES:
        raise FormatError(f"its mode must be one of {', '.join(map(str, _MODES))}, but is {mode}")
    dtype = np.dtype(_MODES[mode]).newbyteorder(order)
    if mode == 0 and _is_unsigned(header, order):
        dtype = np.dtype("u1")
    offset = _HEADER + int(np.frombuffer(header, f"{order}i4", 1, 92)[0])
    if not _HEADER <= offset <= path.stat().st_size:
        raise FormatError("its extended header ends outside the file: it is truncated or damaged")
    check_declared(nx * ny * nz * dtype.itemsize, path.stat().st_size - offset)
    shape = (nz, ny, nx) if nz != 1 else (ny, nx)

    def fetch() -> NDArray:
        return np.fromfile(path, dtype, nx * ny * nz, offset=offset).reshape(shape)

    def read(start: int, stop: int) -> NDArray:
        images, first = stop - start, offset + start * nx * ny * dtype.itemsize
        return np.fromfile(path, dtype, images * nx * ny, offset=first).reshape(images, ny, nx)

    sizes = _pixel_sizes(header, order) or _extended_pixel_sizes(path, header, order)
    parts = (lambda: Parts(read)) if nz != 1 else None
    return [make_dataset(placeholder(shape, dtype), color=False, fetch=fetch, parts=parts, pixel_sizes=sizes)]


def _byte_order(header: bytes) -> Literal["<", ">"]:
    """The order in which the numbers of columns, rows and sections are plausible; the machine stamp is often wrong."""
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    for order in orders:
        numbers = np.frombuffer(header, f"{order}i4", 4)
        if numbers[:3].min() > 0 and numbers[:3].max() <= _MAX_EDGE and 0 <= numbers[3] < 200:
            return order
    n = ", ".join(map(str, np.frombuffer(header, "<i4", 3)))
    raise FormatError(f"its numbers of columns, rows and sections must be positive, but are {n}: it is damaged")


def _is_unsigned(header: bytes, order: str) -> bool:
    """Whether mode 0 is unsigned: in IMOD's files without the flag, and in files older than MRC2014."""
    stamp, flags = np.frombuffer(header, f"{order}i4", 2, 152)
    if stamp == _IMOD_STAMP:
        return not flags & _IMOD_SIGNED
    return False


def _pixel_sizes(header: bytes, order: str) -> tuple[float, float] | None:
    """Height and width of a pixel in nm: the edges of the cell in angstrom by its numbers of intervals."""
    mx, my = (int(n) for n in np.frombuffer(header, f"{order}i4", 2, 28))
    x, y = (float(v) for v in np.frombuffer(header, f"{order}f4", 2, 40))
    if min(mx, my) <= 0 or not (np.isfinite([x, y]).all() and min(x, y) > 0):
        return None
    return y / my / 10, x / mx / 10


def _extended_pixel_sizes(path: Path, header: bytes, order: str) -> tuple[float, float] | None:
    """Pixel size in nm from the extended header of FEI: 1024 blocks of 128 bytes, the 12th number is the size in m."""
    if np.frombuffer(header, f"{order}i4", 1, 92)[0] != 1024 * 128:
        return None
    size = float(np.fromfile(path, f"{order}f4", 1, offset=_HEADER + 44)[0])
    return (size * 1e9, size * 1e9) if np.isfinite(size) and 1e-13 < size < 1e-6 else None
