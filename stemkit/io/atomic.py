"""Files are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_place", "whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside the path, renamed to it if the block succeeds and removed if it does not.

    The temporary file's name starts with a dot and ends with the path's suffix.
    """
    temporary = path.with_name(f".{path.stem[:100]}.{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_place(path: Path, overwrite: bool) -> None:
    """Refuse a path that can't be written to, or that holds something, before the work is done."""
    if path.is_dir():
        raise IsADirectoryError(f"can't write {path}: it is a folder, give a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"can't write {path}: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass overwrite=True (--overwrite on the command line) to replace it")
