"""Reader of napari for files of microscopes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stemkit.napari.layers import Layer, image_layer

__all__ = ["reader_of"]


def reader_of(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """The reader of a file or of files that form a series; None if stemkit does not read them."""
    from stemkit.io.reading import READABLE

    paths = path if isinstance(path, list) else [path]
    return _read if all(Path(one).suffix.lower() in READABLE for one in paths) else None


def _read(path: str | list[str]) -> list[Layer]:
    from stemkit import read

    name = Path(path[0] if isinstance(path, list) else path).stem
    return [image_layer(read(path), name)]
