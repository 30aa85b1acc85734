"""PNG and JPEG, read only. ``stemkit.plotting.save_picture`` writes pictures."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemkit.io.attributes import PROVENANCE
from stemkit.io.checks import FormatError, check_expansion
from stemkit.io.file_dataset import FileDataset, make_dataset

__all__ = ["load"]

#: Pillow's modes with one channel of grey values: 1, 8, 16, 32 bits and float.
_GRAY = ("1", "L", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")
#: Position of the bit depth in a PNG file, bytes (PNG specification, IHDR chunk).
_BIT_DEPTH_OFFSET = 24


def load(path: Path) -> list[FileDataset]:
    """Load the grey values (8 or 16 bits); pictures have no pixel size. An animation is a series of frames."""
    from PIL import Image

    with warnings.catch_warnings(), _limit_named():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is compared with the file's below
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            attrs = {PROVENANCE: picture.info[PROVENANCE]} if PROVENANCE in picture.info else {}
            frames = getattr(picture, "n_frames", 1)
            check_expansion(picture.size[0] * picture.size[1] * frames, path.stat().st_size)
            if frames > 1:
                return [_animation(picture, frames, attrs)]
            if picture.mode in _GRAY:
                return [make_dataset(_gray_values(picture), color=False, attrs=attrs)]
            _check_no_16_bit_color(path)
            return [make_dataset(np.asarray(picture.convert("RGB")), color=True, attrs=attrs)]


@contextlib.contextmanager
def _limit_named() -> Iterator[None]:
    """Raise an error with a remedy for a picture with more pixels than Pillow opens."""
    from PIL import Image

    try:
        yield
    except Image.DecompressionBombError as error:
        raise FormatError(f"it has more pixels than pictures may have ({error}): convert it to TIFF") from error


def _animation(picture: Any, frames: int, attrs: dict[str, str]) -> FileDataset:
    """The frames of an animated PNG, with their times in s."""
    values, times, now = [], [], 0.0
    for i in range(frames):
        picture.seek(i)
        gray = picture.mode in _GRAY
        frame = make_dataset(_gray_values(picture) if gray else np.asarray(picture.convert("RGB")), color=not gray)
        if frame.refusal:
            return frame
        values.append(frame.values)
        times.append(now)
        now += float(picture.info.get("duration", 0.0)) / 1e3
    return make_dataset(
        np.stack(values), color=False, attrs=attrs, series=True, times=np.asarray(times) if now > 0 else None
    )


def _gray_values(picture: Any) -> NDArray:
    """The pixels of a grey picture; those of 16-bit PNG files, which older releases of Pillow extend, as uint16."""
    values = np.asarray(picture)
    return values.astype(np.uint16) if picture.mode == "I" and picture.format == "PNG" else values


def _check_no_16_bit_color(path: Path) -> None:
    """Raise a ValueError for 16-bit colour, which Pillow reduces to 8 bits without a warning."""
    with path.open("rb") as file:
        head = file.read(_BIT_DEPTH_OFFSET + 1)
    if head.startswith(b"\x89PNG") and head[_BIT_DEPTH_OFFSET] == 16:
        raise FormatError("the picture has several 16-bit channels (colour or transparency): save it as 16-bit grey")
