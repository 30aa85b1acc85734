"""PNG and JPEG: grey pictures, read only. A picture is made by ``stemkit.plotting.save_picture``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stemkit.io.attributes import PROVENANCE
from stemkit.io.recorded import Recorded, recorded

__all__ = ["load"]

#: Pillow's modes whose arrays are grey values already: 1, 8, 16, 32 bits and float.
_GREY = ("1", "L", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_BIT_DEPTH_AT = 24


def load(path: Path) -> list[Recorded]:
    """The picture's grey values, as recorded (8 or 16 bits); no pixel size, since pictures do not have one."""
    from PIL import Image

    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        attrs = {PROVENANCE: picture.info[PROVENANCE]} if PROVENANCE in picture.info else {}
        if picture.mode in _GREY:
            return [recorded(np.asarray(picture), attrs=attrs)]
        _refuse_sixteen_bit_colour(path)
        return [recorded(np.asarray(picture.convert("RGB")), colour=True, attrs=attrs)]


def _refuse_sixteen_bit_colour(path: Path) -> None:
    """Pillow would silently halve the bits of 16-bit channels."""
    with path.open("rb") as file:
        head = file.read(_BIT_DEPTH_AT + 1)
    if head.startswith(b"\x89PNG") and head[_BIT_DEPTH_AT] == 16:
        raise ValueError("it has several 16-bit channels (colour or transparency): save it as 16-bit grey")
