"""PNG and JPEG, read only. ``stemkit.plotting.save_picture`` writes pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stemkit.io.attributes import PROVENANCE
from stemkit.io.recorded import Recorded, recorded

__all__ = ["load"]

#: Pillow's modes with one channel of grey values: 1, 8, 16, 32 bits and float.
_GREY = ("1", "L", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")
#: Position of the bit depth in a PNG file, bytes (PNG specification, IHDR chunk).
_BIT_DEPTH_OFFSET = 24


def load(path: Path) -> list[Recorded]:
    """Load the grey values (8 or 16 bits); pictures have no pixel size."""
    from PIL import Image

    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        attrs = {PROVENANCE: picture.info[PROVENANCE]} if PROVENANCE in picture.info else {}
        if picture.mode in _GREY:
            return [recorded(np.asarray(picture), attrs=attrs)]
        _check_no_16_bit_colour(path)
        return [recorded(np.asarray(picture.convert("RGB")), colour=True, attrs=attrs)]


def _check_no_16_bit_colour(path: Path) -> None:
    """Raise a ValueError for 16-bit colour, which Pillow reduces to 8 bits without a warning."""
    with path.open("rb") as file:
        head = file.read(_BIT_DEPTH_OFFSET + 1)
    if head.startswith(b"\x89PNG") and head[_BIT_DEPTH_OFFSET] == 16:
        raise ValueError("the picture has several 16-bit channels (colour or transparency): save it as 16-bit grey")
