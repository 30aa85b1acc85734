"""Parsers of the values of arguments: each raises an error that says what the value must be."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable

__all__ = [
    "at_least",
    "frame_numbers",
    "not_negative",
    "number",
    "positive",
    "region",
    "sampling",
    "scan_angles",
    "three_integers",
    "two_integers",
]

#: Form of ``--region``.
REGION = re.compile(r"^(\d+):(\d+),(\d+):(\d+)$")


def at_least(low: int) -> Callable[[str], int]:
    """Parser of an integer with a lower limit."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {low}, but is {text!r}")
        return number

    return parse


def number(text: str) -> float:
    """Parse a finite number."""
    value = _float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, but is {text!r}")
    return value


def positive(text: str) -> float:
    """Parse a positive finite number."""
    value = _float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a positive number, but is {text!r}")
    return value


def not_negative(text: str) -> float:
    """Parse a finite number of at least 0."""
    value = _float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, but is {text!r}")
    return value


def sampling(text: str) -> float | str:
    """Parse ``--sampling``: ``"auto"``, or a number in (0, 1]."""
    if text == "auto":
        return text
    value = _float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be auto or a number in (0, 1], but is {text!r}")
    return value


def region(text: str) -> tuple[slice, slice]:
    """Parse ``--region``: slices of rows and columns from ``y0:y1,x0:x1``."""
    match = REGION.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"must have the form y0:y1,x0:x1 in px, such as 0:512,100:612, but is {text!r}"
        )
    y0, y1, x0, x1 = map(int, match.groups())
    if y0 >= y1 or x0 >= x1:
        raise argparse.ArgumentTypeError(f"must have y0 < y1 and x0 < x1, but is {text!r}")
    return slice(y0, y1), slice(x0, x1)


def two_integers(text: str) -> tuple[int, ...]:
    """Parse ``--along``."""
    return _integers(text, 2)


def three_integers(text: str) -> tuple[int, ...]:
    """Parse ``--zone-axis``."""
    return _integers(text, 3)


def frame_numbers(text: str) -> list[int]:
    """Parse ``--reject``: numbers of frames, separated by commas."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"must be numbers of frames such as 0,3,7, but is {text!r}")
    return numbers


def scan_angles(text: str) -> list[float]:
    """Parse ``--scan-angles``: numbers, separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be angles in degrees such as 0,90, but is {text!r}") from None


def _integers(text: str, n: int) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != n:
        example = ",".join(["1", "0", "0"][:n])
        raise argparse.ArgumentTypeError(f"must be {n} integers such as {example}, but is {text!r}")
    return values


def _float(text: str) -> float:
    """The number in a text; NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
