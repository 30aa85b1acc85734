"""Checks of parameters: each raises an error that names the parameter, the constraint and the value."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

__all__ = [
    "MODES",
    "check_fraction",
    "check_integer",
    "check_number",
    "check_option",
    "check_positive",
    "is_number",
]

#: Imaging modes: bright columns (high-angle annular dark field) and dark columns (bright field).
MODES = ("haadf", "bf")


def is_number(value: object) -> bool:
    """Whether a value is a real number; booleans are not."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_option(name: str, value: object, options: Collection[str], *, optional: bool = False) -> None:
    """Raise ValueError if ``value`` is not one of ``options``; with ``optional`` it may be None."""
    if (optional and value is None) or (isinstance(value, str) and value in options):
        return
    raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}{_or_none(optional)}, but is {value!r}")


def check_integer(name: str, value: object, least: int = 1, most: int | None = None, *, optional: bool = False) -> None:
    """Raise ValueError if ``value`` is not an integer from ``least`` to ``most``; with ``optional`` it may be None."""
    if optional and value is None:
        return
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):  # type: ignore[operator]
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer {limits}{_or_none(optional)}, but is {value!r}")


def check_fraction(name: str, value: object, below: float = 1.0, *, zero: bool = False) -> None:
    """Raise ValueError if ``value`` is not a number between 0 and ``below``, both excluded; ``zero`` allows 0."""
    if is_number(value) and (0 < value < below or (zero and value == 0)):  # type: ignore[operator]
        return
    limits = f"from 0 to below {below:g}" if zero else f"above 0 and below {below:g}"
    raise ValueError(f"{name} must be a fraction {limits}, but is {value!r}")


def check_positive(name: str, value: object, *, optional: bool = False, unit: str = "") -> None:
    """Raise ValueError if ``value`` is not a positive finite number; with ``optional`` it may be None."""
    if (optional and value is None) or (is_number(value) and 0 < value < np.inf):  # type: ignore[operator]
        return
    of_unit = f" of {unit}" if unit else ""
    raise ValueError(f"{name} must be a positive number{of_unit}{_or_none(optional)}, but is {value!r}")


def check_number(name: str, value: object, least: float = -np.inf, *, optional: bool = False) -> None:
    """Raise ValueError if ``value`` is not a finite number of at least ``least``; with ``optional`` it may be None."""
    if (optional and value is None) or (is_number(value) and np.isfinite(value) and value >= least):  # type: ignore[call-overload, operator]
        return
    kind = "finite number" if least == -np.inf else f"number of at least {least:g}"
    raise ValueError(f"{name} must be a {kind}{_or_none(optional)}, but is {value!r}")


def _or_none(optional: bool) -> str:
    return " or None" if optional else ""
