"""Atomic writing: a file is written completely or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_place", "whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to ``path`` if the block succeeds, else remove it.

    The temporary file's name starts with a dot and ends with the suffix of ``path``.
    """
    temporary = path.with_name(f".{path.stem[:100]}.{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_place(path: Path, overwrite: bool) -> None:
    """Check, before any computation, that a file can be written at this path.

    Raises
    ------
    IsADirectoryError
        If the path is a folder.
    FileNotFoundError
        If its folder does not exist.
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    if path.is_dir():
        raise IsADirectoryError(f"can't write {path}: it is a folder, give a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"can't write {path}: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass overwrite=True to replace it")
