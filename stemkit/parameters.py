"""Checks of parameters: each raises an error that names the parameter, the constraint and the value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["MODES", "check_integer", "check_mode", "check_number", "check_option", "check_positive", "is_number"]

#: Imaging modes: bright columns (high-angle annular dark field) and dark columns (bright field).
MODES = ("haadf", "bf")


def is_number(value: object) -> bool:
    """Whether a value is a real number; booleans are not."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_option(name: str, value: object, options: Sequence[str], *, optional: bool = False) -> None:
    """Raise ValueError if ``value`` is not one of ``options``; with ``optional`` it may be None."""
    if (optional and value is None) or value in options:
        return
    raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}{_or_none(optional)}, but is {value!r}")


def check_mode(mode: object, name: str = "mode") -> None:
    """Raise ValueError if ``mode`` is neither None nor one of :data:`MODES`."""
    check_option(name, mode, MODES, optional=True)


def check_integer(name: str, value: object, least: int = 1, *, optional: bool = False) -> None:
    """Raise ValueError if ``value`` is not an integer of at least ``least``; with ``optional`` it may be None."""
    if optional and value is None:
        return
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}{_or_none(optional)}, but is {value!r}")


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
