"""Atomic writing: a file is written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "check_place",
    "exclusive",
    "is_running",
    "named_error",
    "put_in_place",
    "remove",
    "restore",
    "whole_file",
    "whole_folder",
    "write_text",
]

#: Errors of a disk, a quota or a limit of the size of files that leave no space.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: NumPy's text for a file that takes only a part of an array, an error without a number.
_PART_WRITTEN = re.compile(r"^\d+ requested and \d+ written$")
#: Largest number of bytes of the stem in the name of a temporary file (chosen: the names of most file systems have up
#: to 255 bytes, those of encrypted folders 143).
_MAX_STEM_BYTES = 60
#: Largest number of bytes of its suffix (chosen).
_MAX_SUFFIX_BYTES = 20
#: Length of a name that a file system allows unless it reports another limit, bytes.
_NAME_BYTES = 255


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to ``path`` if the block succeeds, else remove it.

    The temporary file's name starts with a dot and ends with the suffix of ``path``. Temporary files of the same path
    that a process left behind when it was killed are removed.

    Raises
    ------
    OSError
        If the disk is full or the folder can't be written to: the message names ``path``.
    """
    prefix, suffix = _temporary_parts(path)
    _remove_left_behind(path.parent, prefix, suffix)
    temporary = path.parent / f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}{suffix}"
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and (named := named_error(error, path, temporary)) is not None:
            raise named from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all: see :func:`whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder for a folder; the other steps are those of :func:`whole_file`."""
    prefix, suffix = _temporary_parts(path)
    _remove_left_behind(path.parent, prefix, suffix)
    restore(path)
    temporary = path.parent / f"{prefix}{os.getpid()}-{uuid.uuid4().hex[:8]}{suffix}"
    try:
        yield temporary
        put_in_place(temporary, path)
    except BaseException as error:
        remove(temporary)
        if isinstance(error, OSError) and (named := named_error(error, path, temporary)) is not None:
            raise named from error
        raise


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Context in which no other process or thread of this computer writes a file over a long time.

    The lock is a file next to it with the number of the process; that of a process that was killed is replaced.

    Raises
    ------
    FileExistsError
        If another one is writing it.
    """
    lock = path.parent / f".{path.name}.lock"
    host = f"{zlib.crc32(socket.gethostname().encode()):08x}"
    try:
        before, pid = lock.read_text().split()
        if before == host and not is_running(int(pid)):
            remove(lock)
    except (OSError, ValueError):
        pass
    try:
        with lock.open("x") as file:
            file.write(f"{host} {os.getpid()}")
    except FileExistsError:
        raise FileExistsError(
            f"another process or thread is writing {path}: give each its own file, or remove {lock} if none is running"
        ) from None
    try:
        yield
    finally:
        remove(lock)


def put_in_place(made: Path, path: Path) -> None:
    """Rename a complete folder, in place of an older one if there is one.

    The older one is renamed first, since a system replaces no folder that has content: a process that is killed between
    the two leaves it under its temporary name, from which the next call restores or removes it.
    """
    restore(path)
    if path.exists():
        os.rename(path, _older(path))
    os.rename(made, path)
    remove(_older(path))


def _older(path: Path) -> Path:
    """The name of a folder that is being replaced."""
    return path.parent / f".{path.name}.replaced"


def restore(path: Path) -> None:
    """Restore or remove what a killed process has left of a folder that it was replacing."""
    if not _older(path).exists():
        return
    if path.exists():
        remove(_older(path))
    else:
        os.rename(_older(path), path)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def check_place(path: Path, overwrite: bool, folder: bool = False) -> None:
    """Check, before any computation, that a file, or a ``folder``, can be written at this path.

    Raises
    ------
    IsADirectoryError
        If the path is a folder.
    FileNotFoundError
        If its folder does not exist.
    FileExistsError
        If the file exists and ``overwrite`` is False.
    OSError
        If its name is too long.
    """
    _check_name(path)
    if path.is_dir() and not folder:
        raise IsADirectoryError(f"can't write {path}: it is a folder, give a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"can't write {path}: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass overwrite=True to replace it")


def _check_name(path: Path) -> None:
    try:
        limit = os.pathconf(path.parent, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        limit = _NAME_BYTES
    length = len(os.fsencode(path.name))
    if length > limit > 0:
        raise OSError(
            errno.ENAMETOOLONG, f"can't write {path}: its name has {length} bytes, but at most {limit} are possible"
        )


def _temporary_parts(path: Path) -> tuple[str, str]:
    """Beginning and end of the names of temporary files; the beginning has the computer and a hash of the name."""
    stem = os.fsencode(path.stem)[:_MAX_STEM_BYTES].decode("utf-8", "ignore")
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= _MAX_SUFFIX_BYTES else ""
    host = zlib.crc32(socket.gethostname().encode())
    return f".{stem}.{zlib.crc32(os.fsencode(path.name)):08x}-{host:08x}-", suffix


def _remove_left_behind(folder: Path, prefix: str, suffix: str) -> None:
    """Remove temporary files of processes of this computer that no longer run."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            middle = entry.name.removeprefix(prefix).removesuffix(suffix) if entry.name.startswith(prefix) else ""
            pid = middle.partition("-")[0]
            if pid.isdecimal() and not is_running(int(pid)):
                remove(Path(entry.path))


def is_running(pid: int) -> bool:
    """Whether a process of this computer runs."""
    if os.name == "nt":  # os.kill would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def named_error(error: OSError, path: Path, temporary: Path) -> OSError | None:
    """An error that names the path instead of the temporary file and says if the disk is full; None if none is."""
    full = error.errno in _FULL or _PART_WRITTEN.match(str(error))
    if full:
        return OSError(error.errno or errno.ENOSPC, f"can't write {path}: the disk is full, or a quota is reached")
    if error.filename is not None and os.fspath(error.filename) == os.fspath(temporary):
        return type(error)(error.errno, f"can't write {path}: {error.strerror}")
    return None
