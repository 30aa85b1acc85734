"""Units of length in the spellings of microscopes' files."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["is_reciprocal", "is_unstated", "nm_per"]

#: Spellings of units by their length in nm, in the form of ``_normalized``.
_SPELLINGS = {
    1e-6: ("fm", "femtometer", "femtometre"),
    1e-3: ("pm", "picometer", "picometre"),
    0.1: ("å", "a", "ang", "angstrom", "angstroem", "ångström", "ångstrom"),
    1.0: ("nm", "nanometer", "nanometre"),
    1e3: ("μm", "um", "micron", "micrometer", "micrometre"),
    1e6: ("mm", "millimeter", "millimetre"),
    1e7: ("cm", "centimeter", "centimetre"),
    1e9: ("m", "meter", "metre"),
    25.4e6: ("inch", "in", "inches", '"'),
}
#: Length in nm of each spelling.
_FACTORS = {spelling: factor for factor, spellings in _SPELLINGS.items() for spelling in spellings}
#: Letters of the longest abbreviation of a unit.
_MAX_ABBREVIATION_LENGTH = 3
#: Spellings of no unit, and of pixels.
_UNSTATED = ("", "none", "pixel", "pixels", "px", "undefined", "unknown", "-")
#: What follows a length that is meant per pixel.
_PER_PIXEL = re.compile(r"\s*(/|\bper\b)\s*(px|pixels?)$|\s*[·*]?\s*(px|pixels?)\s*(\^?-1|⁻¹)$")
#: A unit that is followed by another spelling of it in brackets.
_TWO_SPELLINGS = re.compile(r"^([^()\[\]]+?)\s*[(\[]([^()\[\]]+)[)\]]?$")
#: Forms of inverse lengths and scattering angles.
_RECIPROCAL = re.compile(r"1\s*/|^/|\^\s*\(?-|-1$|⁻|⋅rad|rad$|deg$|°$")


def nm_per(unit: object) -> float | None:
    """Length of the unit in nm, or None if it is not a length.

    Case, brackets, underscores, "per pixel", and which of the two code points of micro and of angstrom is used are
    ignored.
    """
    spelling = _PER_PIXEL.sub("", _normalized(unit))
    if two := _TWO_SPELLINGS.match(spelling):
        lengths = {_length(text.strip()) for text in two.groups()}
        return lengths.pop() if len(lengths) == 1 else None
    return _length(spelling)


def _length(spelling: str) -> float | None:
    singular = spelling.removesuffix("s")
    if spelling in _FACTORS or len(singular) <= _MAX_ABBREVIATION_LENGTH:
        return _FACTORS.get(spelling)  # "ms" is milliseconds: abbreviations have no plural
    return _FACTORS.get(singular)


def is_unstated(unit: object) -> bool:
    """Whether the unit is missing or is pixels."""
    return _normalized(unit) in _UNSTATED


def is_reciprocal(unit: object) -> bool:
    """Whether the unit is of reciprocal space: an inverse length or a scattering angle."""
    return nm_per(unit) is None and bool(_RECIPROCAL.search(_normalized(unit)))


def _normalized(unit: object) -> str:
    text = "" if unit is None else unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)  # ImageJ escapes its micro sign
    # not NFKC, which converts a superscript minus to a minus; NFC does not change the micro sign
    text = unicodedata.normalize("NFC", text).replace("\u00b5", "\u03bc")
    return text.strip().strip("[]()<>{}").replace("_", "").strip().casefold()
