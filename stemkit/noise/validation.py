"""Constraints on the numbers of a noise model: each function returns what a number must be, or None if it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = [
    "above",
    "correlation",
    "finite",
    "finite_or_none",
    "not_negative",
    "not_negative_or_inf",
    "positive",
    "require",
]


def require(instance: object, **rules: Any) -> None:
    """Raise ValueError for the first attribute that does not fulfil its rule, one of the functions below."""
    for name, rule in rules.items():
        value = getattr(instance, name)
        constraint = rule(value)
        if constraint:
            raise ValueError(f"{name} of {type(instance).__name__} must be {constraint}, but is {value!r}")


def finite(value: float) -> str | None:
    """Neither NaN nor infinite."""
    return None if math.isfinite(value) else "a finite number"


def finite_or_none(value: float | None) -> str | None:
    """Finite, if given."""
    return None if value is None or math.isfinite(value) else "a finite number or None"


def not_negative(value: float) -> str | None:
    """Finite, 0 or positive."""
    return None if math.isfinite(value) and value >= 0 else "at least 0 and finite"


def not_negative_or_inf(value: float) -> str | None:
    """A length, infinite for the whole row."""
    return None if value >= 0 else "at least 0 (inf: the whole row)"


def positive(value: float) -> str | None:
    """Finite and above 0."""
    return None if math.isfinite(value) and value > 0 else "positive and finite"


def correlation(value: float) -> str | None:
    """A correlation other than 1 and -1."""
    return None if -1 < value < 1 else "between -1 and 1, exclusive"


def above(limit: float) -> Callable[[float], str | None]:
    """The rule that a number is larger than this limit."""
    return lambda value: None if math.isfinite(value) and value > limit else f"a finite number above {limit}"
