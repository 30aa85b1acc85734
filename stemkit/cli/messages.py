"""Texts that several commands print: errors in the words of the command line."""

from __future__ import annotations

import math
import re
from pathlib import Path

__all__ = ["about", "compact", "error_line", "first_use", "with_error", "with_option_names"]

#: Parameters of functions whose command-line options have the same name; not those in the parentheses of a call.
_PARAMETERS = re.compile(
    r"(?<!\()(?<!, )\b(pixel_size|mode|dataset|overwrite|significance|spacing|width|device)=(True|\.{3})?(?=([\"'\w])?)"
)
#: Messages of allocators when memory is exhausted.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|Unable to allocate", re.IGNORECASE)
#: Errors whose messages are written for users; of others the type is given, too.
_EXPLAINED = (OSError, ValueError, TypeError, ImportError, UserWarning)


def error_line(error: BaseException) -> str:
    """One line that describes an error, in the words of the command line."""
    text = with_option_names(_text(error)).strip()
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(text)):
        return f"there is not enough memory for this image or these parameters ({text or type(error).__name__})"
    if isinstance(error, ArithmeticError):
        return f"the intensities are too large or too small to compute with ({text}): rescale the image"
    if isinstance(error, _EXPLAINED) and text:
        return text
    return f"unexpected {type(error).__name__}: {text or 'without a message'} (stemkit --debug shows where it occurred)"


def _text(error: BaseException) -> str:
    """The message of an error; of an error of the system without its number, unless it names a file separately."""
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return str(error)


def about(path: Path, message: str) -> str:
    """A message about a file, with its name unless it already has it."""
    return message if str(path) in message else f"{path}: {message}"


def with_option_names(message: object) -> str:
    """A message in which the names of parameters are replaced with those of the command's options."""
    return _PARAMETERS.sub(_option, str(message))


def _option(found: re.Match[str]) -> str:
    return f"--{found[1].replace('_', '-')}{' ' if found[3] else ''}"


def first_use() -> str:
    """Note that the first fits take longer than later ones; empty if the functions are compiled already."""
    from stemkit.compilation import cache_folder

    folder = cache_folder("stemkit")
    # Numba makes empty folders when the functions are imported, and indices when they are compiled
    return "" if folder is None or any(folder.rglob("*.nbi")) else ", and compiling the fits, only once"


def compact(value: float, error: float) -> str:
    """A value with its error in units of the last digit, 0.3905(2), as crystallographers write it.

    The error has two digits up to 19, else one (rule of the International Union of Crystallography).
    """
    if not (math.isfinite(error) and error > 0):
        return f"{value:.5g}"
    exponent = math.floor(math.log10(error))
    leading = round(error * 10.0 ** (1 - exponent))  # 10 to 100
    decimals = 1 - exponent if leading <= 19 else -exponent
    digits = round(error * 10.0**decimals)
    if decimals >= 0:
        return f"{value:.{decimals}f}({digits})"
    return f"{round(value, decimals):.0f}({digits * 10**-decimals})"


def with_error(value: float, error: float) -> str:
    """A value and its error of two significant digits, both with the same decimals; the spaces do not break a line."""
    if not (math.isfinite(error) and error > 0):
        return f"{value:.5g}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{error:.2g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{error:.{decimals}f}"
