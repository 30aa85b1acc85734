"""Pages of TIFF files: check that they are complete, and conversion of stored numbers to intensities."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stemkit.io.checks import FormatError, check_declared, check_expansion

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

__all__ = ["check", "check_chain", "intensities"]

#: Value of the tag PhotometricInterpretation of images in which 0 is white (TIFF revision 6.0).
_MIN_IS_WHITE = 0
#: Its value where pixels are indices of a palette (as before).
_PALETTE = 3
#: Largest number of bits at which white is assumed to be the largest number (chosen).
_WHITE_BITS = 16
#: Compressions that tifffile reads without imagecodecs: none, deflate (two codes), LZMA.
_WITHOUT_IMAGECODECS = (1, 8, 32946, 34925)


def check(tif: TiffFile, series: TiffPageSeries) -> None:
    """Raise an error unless all strips or tiles of a series are in the file.

    Raises
    ------
    FormatError
        If strips are missing or end outside the file, or declare more pixels than they can contain.
    ImportError
        If the compression needs imagecodecs and it is not installed.
    """
    size = tif.filehandle.size
    keyframe: Any = series.keyframe
    _check_compression(keyframe)
    declared = math.prod(series.shape) * np.dtype(series.dtype).itemsize
    if series.dataoffset is not None:
        check_declared(declared, size - series.dataoffset)
        return
    pages = [page for page in series.pages if page is not None]
    if len(pages) < len(series.pages):
        raise FormatError(f"{len(series.pages) - len(pages)} of {len(series.pages)} of its pages are missing")
    _check_segments([(page.dataoffsets, page.databytecounts) for page in pages], math.prod(keyframe.chunked), size)
    used = {(o, n) for page in pages for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)}
    check_expansion(declared, sum(n for _, n in used))


def check_chain(path: Path) -> None:
    """Raise an error if the chain of the pages' directories leaves the file, since the pages after that are missing.

    The layouts of classic TIFF and BigTIFF are those of TIFF revision 6.0 and of the BigTIFF proposal.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        count, entry, link = (f"{order}Q", 20, f"{order}Q") if big else (f"{order}H", 12, f"{order}I")
        if len(head) < 16:
            raise FormatError("it has no pages: it is truncated")
        (offset,) = struct.unpack_from(link, head, 8 if big else 4)
        seen: set[int] = set()
        while offset:
            if offset in seen:
                raise FormatError("its pages form a loop: it is damaged")
            seen.add(offset)
            end = offset + struct.calcsize(count)
            if end <= size:
                file.seek(offset)
                end += struct.unpack(count, file.read(struct.calcsize(count)))[0] * entry
            if end + struct.calcsize(link) > size:
                raise FormatError(f"its page {len(seen) - 1} is outside the file: it is truncated or damaged")
            file.seek(end)
            (offset,) = struct.unpack(link, file.read(struct.calcsize(link)))


def _check_segments(pages: list[tuple[Any, Any]], expected: int, size: int) -> None:
    """Raise an error unless each page has the expected number of strips or tiles, and they are in the file."""
    for offsets, counts in pages:
        if len(offsets) == 1 and len(counts) == 1 and expected > 1 and counts[0] > 0:
            expected = 1  # contiguous strips that tifffile has joined
        present = [o > 0 and n > 0 for o, n in zip(offsets, counts, strict=False)]
        if sum(present) < expected:
            raise FormatError(f"{expected - sum(present)} of {expected} of its strips or tiles are missing")
        end = max(o + n for o, n in zip(offsets, counts, strict=False))
        if end > size:
            raise FormatError(f"its pixels end at byte {end:,}, but the file has {size:,} bytes: it is truncated")


def _check_compression(page: Any) -> None:
    code = int(page.compression)
    packed = page.dtype is not None and page.bitspersample not in (1, 8, 16, 32, 64, 128)
    horizontal = int(page.predictor) != 1
    if code in _WITHOUT_IMAGECODECS and not packed and not horizontal:
        return
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        what = getattr(page.compression, "name", code) if code not in _WITHOUT_IMAGECODECS else "packed or differences"
        raise ImportError(
            f"its pixels are compressed ({what}), which needs imagecodecs: install it with pip install "
            "'stemkit[formats]'"
        ) from None


def intensities(values: NDArray, page: Any) -> tuple[NDArray, bool]:
    """Pixels with white as the largest number and colours instead of indices, and whether they are colours."""
    photometric = int(page.photometric)
    if photometric == _PALETTE and page.colormap is not None and values.dtype.kind == "u":
        return _looked_up(values, np.asarray(page.colormap)), True
    if photometric == _MIN_IS_WHITE and values.dtype.kind in "bu" and page.bitspersample <= _WHITE_BITS:
        white = 1 if values.dtype.kind == "b" else 2**page.bitspersample - 1
        return (white - values.astype(np.int64)).astype(np.uint8 if values.dtype.kind == "b" else values.dtype), False
    return values, False


def _looked_up(values: NDArray, colormap: NDArray) -> NDArray:
    """Colours of the indices, red, green and blue along the last axis; 8 bits if the palette has no more."""
    if int(values.max(initial=0)) >= colormap.shape[1]:
        raise FormatError("its palette has fewer colours than its pixels use: it is damaged")
    eight_bits = not np.any(colormap % 257) or not np.any(colormap & 0xFF)
    palette = (colormap >> 8).astype(np.uint8) if eight_bits else colormap
    return np.moveaxis(palette[:, values], 0, -1)
