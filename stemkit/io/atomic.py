"""Files are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file"]


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
