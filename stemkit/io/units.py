"""Units of length as microscopes spell them."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["is_reciprocal", "is_unstated", "nm_per"]

_NM = {
    1e-3: ("pm", "picometer", "picometre"),
    0.1: ("å", "a", "ang", "angstrom", "angstroem", "ångström", "ångstrom"),
    1.0: ("nm", "nanometer", "nanometre"),
    1e3: ("μm", "um", "micron", "micrometer", "micrometre"),
    1e6: ("mm", "millimeter", "millimetre"),
    1e7: ("cm", "centimeter", "centimetre"),
    1e9: ("m", "meter", "metre"),
    25.4e6: ("inch", "in", "inches", '"'),
}
_FACTORS = {spelling: factor for factor, spellings in _NM.items() for spelling in spellings}
_UNSTATED = ("", "none", "pixel", "pixels", "px", "undefined", "unknown", "-")
_RECIPROCAL = re.compile(r"1\s*/|^/|\^\s*\(?-|-1$|⁻|⋅rad|rad$|deg$|°$")


def nm_per(unit: object) -> float | None:
    """How many nm the unit is, or None where it is no length.

    Case, brackets, underscores and the two code points of micro and of angstrom make no difference.
    """
    spelling = _normal(unit)
    return _FACTORS.get(spelling) or _FACTORS.get(spelling.removesuffix("s"))


def is_unstated(unit: object) -> bool:
    """Whether there is no unit, or one that says pixels."""
    return _normal(unit) in _UNSTATED


def is_reciprocal(unit: object) -> bool:
    """Whether the unit is one of reciprocal space: an inverse length or a scattering angle."""
    return nm_per(unit) is None and bool(_RECIPROCAL.search(_normal(unit)))


def _normal(unit: object) -> str:
    text = "" if unit is None else unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)  # ImageJ escapes its micro sign
    # NFKC would turn a superscript minus into a plain one, and NFC leaves the micro sign alone
    text = unicodedata.normalize("NFC", text).replace("\u00b5", "\u03bc")
    return text.strip().strip("[]()<>{}").replace("_", "").strip().casefold()
