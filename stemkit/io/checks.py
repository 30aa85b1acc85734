"""Checks of files before their pixels are read, and the texts of errors."""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["FormatError", "check_declared", "check_expansion", "check_regular_file", "damage", "unknown_content"]

#: Largest ratio of decompressed to compressed bytes (derived: deflate encodes at most 258 bytes in 2 bits).
MAX_EXPANSION = 1032
#: Size up to which the ratio is not checked, bytes (chosen).
MIN_CHECKED_BYTES = 64 * 2**20

#: First bytes of formats, their names and suffixes.
_SIGNATURES = {
    b"\x89HDF\r\n\x1a\n": ("HDF5", (".emd", ".hspy", ".nc", ".h5", ".hdf5", ".mat")),
    b"\x89PNG\r\n\x1a\n": ("PNG", (".png",)),
    b"\xff\xd8\xff": ("JPEG", (".jpg", ".jpeg")),
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), ("TIFF", (".tif", ".tiff"))),
    b"\x93NUMPY": ("NumPy", (".npy",)),
    b"PK\x03\x04": ("a ZIP archive", (".npz", ".zip")),
    b"II\x97\x01": ("SER", (".ser",)),
    b"\0\0\0\x03\0": ("DM3", (".dm3",)),
    b"\0\0\0\x04\0": ("DM4", (".dm4",)),
    b"CDF": ("NetCDF", (".nc",)),
    b"MATLAB 5": ("MATLAB", (".mat",)),
    b"%PDF": ("PDF", (".pdf",)),
}


class FormatError(ValueError):
    """A file that can't be read, with a message that needs no addition."""


def check_regular_file(path: Path) -> None:
    """Raise an error unless the path is a regular file or a link to one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    IsADirectoryError
        If it is a folder.
    ValueError
        If it is a pipe, a socket or a device, from which reading could wait for ever.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        link = " (it is a link whose target does not exist)" if path.is_symlink() else ""
        raise FileNotFoundError(f"can't read {path}: there is no such file{link}") from None
    except OSError as error:
        raise OSError(error.errno, f"can't read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"can't read {str(path)!r}: {error}") from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"can't read {path}: it is a folder, give a file")
    if not stat.S_ISREG(mode):
        raise ValueError(f"can't read {path}: it is not a regular file, but a pipe, a socket or a device")


def check_declared(declared: int, available: int) -> None:
    """Raise an error if the header declares more bytes of pixels than the file contains."""
    if declared < 0 or declared > available:
        raise FormatError(
            f"the header declares {max(declared, 0):,} bytes of pixels, but the file contains "
            f"{max(available, 0):,}: it is truncated or damaged"
        )


def check_expansion(declared: int, stored: int) -> None:
    """Raise an error if the stored bytes can't be the compressed form of so large an array."""
    if declared < 0 or (declared > MIN_CHECKED_BYTES and declared > MAX_EXPANSION * stored):
        raise FormatError(
            f"the header declares {max(declared, 0):,} bytes of pixels, but the file contains {stored:,} bytes of "
            f"compressed data, less than a {MAX_EXPANSION}th: it is truncated or damaged"
        )


def damage(error: BaseException) -> str:
    """Text for an exception of a format's reader."""
    if isinstance(error, FormatError):
        return str(error)
    detail = " ".join(str(error).split())[:200]
    return f"it is truncated or damaged ({type(error).__name__}{': ' if detail else ''}{detail})"


def unknown_content(path: Path) -> str:
    """Text that names the format by the first bytes of the file, empty if it is not known or the expected one."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        return "the file is empty"
    name, suffixes = next((known for start, known in _SIGNATURES.items() if head.startswith(start)), ("", ()))
    if not name or path.suffix.lower() in suffixes:
        return ""
    return f"its content is {name}: rename it to {' or '.join(suffixes)}"
