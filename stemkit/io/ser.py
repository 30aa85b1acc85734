"""SER files: the header is checked against the size of the file before RosettaSciIO reads it."""

from __future__ import annotations

import struct
from pathlib import Path

from stemkit.io.checks import FormatError, check_declared

__all__ = ["check"]

#: Identifier at the beginning, after the byte order.
_SERIES_ID = 0x0197
#: Version from which offsets have 8 bytes.
_LONG_OFFSETS = 0x0220
#: Data type of elements that are images; others are spectra.
_IMAGES = 0x4122
#: Bytes per value of each data type.
_BYTES = {1: 1, 2: 2, 3: 4, 4: 1, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8, 10: 16}


def check(path: Path) -> None:
    """Raise an error unless the number of elements and the size of each agree with the size of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(34)
        if len(head) < 34:
            raise FormatError(f"it has {len(head)} bytes, less than its header: it is truncated")
        order, series, version, kind, _, _, count = struct.unpack("<HHHIIII", head[:22])
        if (order, series) != (0x4949, _SERIES_ID):
            raise FormatError("it does not begin as a SER file does")
        long = version >= _LONG_OFFSETS
        (start,) = struct.unpack_from("<Q" if long else "<I", head, 22)
        (dimensions,) = struct.unpack_from("<I", head, 30 if long else 26)
        width = 8 if long else 4
        check_declared(count * width + start, size)
        if dimensions > 8:
            raise FormatError(f"it declares {dimensions} dimensions: it is damaged")
        if count == 0:
            raise FormatError("it contains no image")
        file.seek(start)
        offsets = struct.unpack(f"<{count}{'Q' if long else 'I'}", file.read(count * width))
        file.seek(offsets[0])
        element = file.read(50)
    if len(element) < 50:
        raise FormatError("its first image begins outside the file: it is truncated or damaged")
    image = kind == _IMAGES
    data_type, first, second = struct.unpack_from("<HII", element, 40 if image else 20)
    if data_type not in _BYTES:
        raise FormatError(f"data type {data_type} is not known: it is damaged")
    values = first * second if image else first
    check_declared(count * values * _BYTES[data_type] + min(offsets), size)
