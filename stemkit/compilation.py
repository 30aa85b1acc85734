"""Compilation with Numba, whose results are stored on disk.

Numba notices a change of the file of a function, but not of the functions that it calls, and raises an exception for a
stored result that it cannot read. Here results are stored in a folder whose name depends on all sources that they may
contain, and anything unreadable is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

__all__ = ["cache_folder", "compiled"]

#: Numba's settings; its types do not list them.
NUMBA_CONFIG: Any = numba.config
#: Number of former folders that are kept next to the package (chosen: those of other versions of Python and of Numba).
N_KEPT_FOLDERS = 4


def compiled(function: Callable) -> Any:
    """Compile a function at its first call, and store the result on disk if a folder is writable.

    It calls other compiled functions only if they are in the packages named ``compiled`` of the same distribution.
    Sums are not reordered: with it, functions that were just compiled and those from the cache rounded differently, and
    crowded fits amplify rounding errors.
    """
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    folder = cache_folder(function.__module__.partition(".")[0])
    if folder is not None:
        with _numba_folder(folder), contextlib.suppress(RuntimeError, OSError):
            dispatcher._cache = _RobustCache(function)
    return dispatcher


class _RobustCache(FunctionCache):
    """The stored results of one function: what cannot be read is compiled again, what cannot be written is not."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling a damaged file raises almost anything
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:
            # the index is read before it is written: a damaged one is replaced
            with contextlib.suppress(Exception):
                self.flush()
                super().save_overload(sig, data)


@contextlib.contextmanager
def _numba_folder(folder: Path) -> Any:
    """Numba's setting of its cache folder, for functions that are decorated in this block."""
    before = NUMBA_CONFIG.CACHE_DIR
    NUMBA_CONFIG.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        NUMBA_CONFIG.CACHE_DIR = before


@cache
def cache_folder(package: str) -> Path | None:
    """The folder for the compiled functions of an imported package, None if nothing can be written.

    It is in ``NUMBA_CACHE_DIR`` if that is set, otherwise in the package's ``__pycache__`` or, if that cannot be
    written, in the user's cache folder. Its name contains a hash of the sources of all packages named ``compiled`` and
    of Numba's version.
    """
    path = getattr(sys.modules.get(package), "__file__", None)
    if path is None:
        return None
    root = Path(path).parent
    sources = sorted(root.glob("**/compiled/*.py"))
    if not sources:  # in a zip archive
        return None
    name = f"{package}-{_hash(sources)}"
    own = root / "__pycache__"
    bases = [Path(NUMBA_CONFIG.CACHE_DIR)] if NUMBA_CONFIG.CACHE_DIR else [own, *_user_folders()]
    for base in bases:
        folder = base / name
        is_new = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        if is_new and base == own:
            _remove_oldest(own, f"{package}-*")
        return folder
    return None


def _hash(sources: list[Path]) -> str:
    found = hashlib.sha256(numba.__version__.encode())
    for source in sources:
        found.update(source.name.encode())
        found.update(source.read_bytes())
    return found.hexdigest()[:16]


def _user_folders() -> list[Path]:
    """The user's cache folder; none without a home."""
    try:
        home = Path.home()
    except RuntimeError:
        return []
    if sys.platform == "win32":
        return [Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "stemkit" / "cache"]
    if sys.platform == "darwin":
        return [home / "Library" / "Caches" / "stemkit"]
    return [Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "stemkit"]


def _remove_oldest(base: Path, pattern: str) -> None:
    """Remove the folders of former sources except the last ones."""
    with contextlib.suppress(OSError):
        folders = sorted((f for f in base.glob(pattern) if f.is_dir()), key=lambda f: f.stat().st_mtime)
        for folder in folders[: -N_KEPT_FOLDERS - 1]:
            shutil.rmtree(folder, ignore_errors=True)
