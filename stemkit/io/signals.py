"""Interpretation of metadata: positive numbers, axes of frames, and whether a signal is a spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["FRAME_NAMES", "branch", "degrees", "positive_or_none", "spectrum_reason"]

#: Names of an axis that counts the frames of one scan.
FRAME_NAMES = ("time", "t", "frame", "frames", "scan")
#: First letters of HyperSpy's signal types that are spectra.
_SPECTRUM_TYPES = ("EELS", "EDS", "CL", "LumiSpectrum")
#: Units of an energy axis.
_ENERGY_UNITS = ("ev", "kev", "mev")


def branch(metadata: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The dictionary at this path in a tree of dictionaries, empty without one."""
    found: Any = metadata
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def positive_or_none(value: object) -> float | None:
    """The value as a float if it is a positive number, else None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def degrees(value: object, *, radians: bool = False) -> float | None:
    """An angle from metadata in degrees, from -180 (excluded) to 180; None if the value is not a finite number."""
    if isinstance(value, bool):
        return None
    try:
        angle = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if not np.isfinite(angle):
        return None
    return 180.0 - (180.0 - (math.degrees(angle) if radians else angle)) % 360.0


def spectrum_reason(axes: Sequence[Mapping[str, Any]], signal_type: str, ndim: int) -> str:
    """Description of the dataset if it is a spectrum or a spectrum image, else an empty string."""
    energy = any(str(axis.get("units")).casefold() in _ENERGY_UNITS for axis in axes)
    one_signal_axis = ndim > 1 and [bool(a.get("navigate")) for a in axes] == [True] * (ndim - 1) + [False]
    if energy or one_signal_axis or signal_type.startswith(_SPECTRUM_TYPES):
        return "a spectrum image" if ndim == 3 else "spectra"
    return ""
