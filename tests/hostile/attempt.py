"""What happens when a file is read: in time, in bounded memory, with a documented exception or an image."""

from __future__ import annotations

import contextlib
import io
import resource
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

import stemkit

__all__ = ["DOCUMENTED", "MEMORY_LIMIT", "TIME_LIMIT", "Attempt", "attempt", "peak_memory"]

#: Exceptions that the documentation of ``read`` names.
DOCUMENTED = (OSError, ValueError, ImportError, MemoryError)
#: Time after which reading a small file counts as a hang, s.
TIME_LIMIT = 10
#: Memory that reading a small file may add to the process, bytes.
MEMORY_LIMIT = 600 * 2**20


class Hang(BaseException):
    """Raised by the alarm."""


@dataclass(frozen=True)
class Attempt:
    """Result of reading a file.

    ``outcome`` is ``"image"``, ``"refused"``, ``"undocumented"``, ``"hang"`` or ``"unclear"`` (a refusal that does not
    name the path, or a traceback that was printed).
    """

    outcome: str
    text: str
    seconds: float


def attempt(path: Path) -> Attempt:
    """Read a file and list its datasets."""
    start = time.perf_counter()
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome, text = _timed(path)
    if "Traceback" in printed.getvalue():
        outcome, text = "unclear", printed.getvalue()
    return Attempt(outcome, text, time.perf_counter() - start)


def _timed(path: Path) -> tuple[str, str]:
    previous = signal.signal(signal.SIGALRM, _ring)
    signal.alarm(TIME_LIMIT)
    try:
        return _outcome(path)
    except Hang:
        return "hang", f"{path} is not read in {TIME_LIMIT} s"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def _outcome(path: Path) -> tuple[str, str]:
    try:
        image = stemkit.read(path)
        stemkit.datasets(path)
    except DOCUMENTED as error:
        named = path.name.replace("\0", "\\x00") in str(error)
        return "refused" if named else "unclear", f"{type(error).__name__}: {error}"
    except Exception as error:
        return "undocumented", f"{type(error).__name__}: {error}"
    if not isinstance(image, xr.DataArray) or image.dims[-2:] != ("y", "x") or image.size == 0:
        return "undocumented", f"not an image: {image!r}"
    return "image", str(dict(image.sizes))


def _ring(*_: object) -> None:
    raise Hang


def peak_memory() -> int:
    """Largest memory that the process has had so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
