"""Pixel sizes from the scale and the unit of each axis, and notes on calibrations that are not used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stemkit.io.units import is_reciprocal, is_unstated, nm_per

__all__ = ["Sizes", "pixel_sizes_of", "seconds_per"]

Sizes = tuple[float, float]

#: Range of the scales without a unit that are taken as nm per pixel (chosen; files without calibration have 1.0).
_PLAUSIBLE_NM = (1e-4, 1.0)
#: Spellings of units of time by their length in s.
_TIMES = {
    1.0: ("s", "sec", "second", "seconds"),
    1e-3: ("ms", "msec", "millisecond", "milliseconds"),
    1e-6: ("us", "μs", "µs", "usec", "microsecond", "microseconds"),
    1e-9: ("ns", "nsec", "nanosecond", "nanoseconds"),
    60.0: ("min", "minute", "minutes"),
    3600.0: ("h", "hour", "hours"),
}
#: Length in s of each spelling.
_SECONDS = {spelling: factor for factor, spellings in _TIMES.items() for spelling in spellings}


def pixel_sizes_of(scales: Sequence[float | None], units: Sequence[object]) -> tuple[Sizes | None, str]:
    """Pixel sizes in nm and the text of a warning, which may be empty.

    Parameters
    ----------
    scales, units : sequence of two
        Size of a pixel and its unit along y and along x, as the file has them.

    Returns
    -------
    sizes : tuple of float or None
        Height and width of a pixel in nm.
    note : str
        Reason why a calibration of the file isn't used, or the assumption that was made.
    """
    if len(scales) < 2 or any(scale is None for scale in scales):
        return None, ""
    y, x = (float(scale) for scale in scales if scale is not None)
    if all(is_unstated(unit) for unit in units):
        return _without_unit(y, x)
    lengths = [nm_per(unit) for unit in units]
    if lengths[0] is None or lengths[1] is None:
        return None, _unusable(units)
    sizes = abs(y * lengths[0]), abs(x * lengths[1])
    if not (np.isfinite(sizes).all() and min(sizes) > 0):
        return None, f"the pixel size in the file is {y:.6g} by {x:.6g}: the image is read without a pixel size"
    return sizes, ""


def seconds_per(unit: object) -> float | None:
    """Length of a unit of time in s, or None if it is none."""
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    return _SECONDS.get(text.strip().strip("[]()").replace("_", "").casefold())


def _without_unit(y: float, x: float) -> tuple[Sizes | None, str]:
    low, high = _PLAUSIBLE_NM
    if not all(low <= abs(scale) < high for scale in (y, x)):
        return None, ""
    return (abs(y), abs(x)), (
        f"the file has a scale of {abs(x):.6g} without a unit, taken as nm per pixel: pass pixel_size= to set another"
    )


def _unusable(units: Sequence[object]) -> str:
    """Text of the warning for units that are not two lengths."""
    reciprocal = next((unit for unit in units if is_reciprocal(unit)), None)
    if reciprocal is not None:
        return (
            f"the axes are in {_text(reciprocal)}, a unit of reciprocal space: the image is read without a pixel size"
        )
    unknown = [unit for unit in units if nm_per(unit) is None and not is_unstated(unit)]
    if unknown:
        return (
            f"{_text(unknown[0])!r} is not known as a unit of length: the image is read without a pixel size, pass "
            "pixel_size= in nm"
        )
    return "only one of the two axes has a unit: the image is read without a pixel size, pass pixel_size= in nm"


def _text(unit: object) -> str:
    return unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
