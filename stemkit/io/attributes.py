"""Attributes and provenance as JSON, and what a detector's name says about contrast."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from stemkit._version import __version__

__all__ = [
    "PROVENANCE",
    "attributes_of",
    "maps_of",
    "mode_of",
    "pack",
    "plain",
    "provenance_text",
    "unpack",
]

#: The attribute that says what made an image: JSON.
PROVENANCE = "stemkit"
#: Attributes about the file an image was read from: another file has its own.
_OF_THE_FILE = ("source", "dataset")
_BRIGHT = re.compile(r"^(HAADF|MAADF|LAADF|ADF|DF\d*|IDPC)$")
_DARK = re.compile(r"^(ABF|BF\d*)$")


def mode_of(detector: str | None) -> str | None:
    """``"haadf"`` or ``"bf"`` where the detector's name says so.

    Annular dark field of any angle and iDPC show bright columns, bright field and annular bright field dark ones.
    """
    words = re.split(r"[^A-Z0-9]+", (detector or "").upper())
    bright, dark = any(map(_BRIGHT.match, words)), any(map(_DARK.match, words))
    if bright == dark:
        return None
    return "haadf" if bright else "bf"


def attributes_of(image: xr.DataArray) -> dict[str, Any]:
    """The image's attributes in plain types, without the provenance and what concerns the file it came from.

    Attributes that JSON has no room for are left out, with a warning.
    """
    kept, lost = {}, []
    for key, value in image.attrs.items():
        if key in (PROVENANCE, *_OF_THE_FILE):
            continue
        try:
            kept[str(key)] = json.loads(pack(value))
        except TypeError:
            lost.append(f"{key} ({type(value).__name__})")
    if lost:
        warnings.warn(
            f"attributes that can't be written and are left out: {', '.join(lost)}", UserWarning, stacklevel=4
        )
    return kept


def maps_of(image: xr.DataArray) -> list[str]:
    """Names of the coordinates beside the axes, such as ``measured``."""
    return [str(name) for name in image.coords if name not in image.dims]


def provenance_text(image: xr.DataArray, provenance: Mapping[str, str | float] | None, left_out: Iterable[str]) -> str:
    """What made the file, as JSON.

    Parameters
    ----------
    image : DataArray
        Its ``attrs["stemkit"]`` is kept: as it is, or under ``"previous"`` where there is something new to say.
    provenance : mapping, optional
        What made the image now.
    left_out : iterable of str
        Maps that the format has no room for.
    """
    before = unpack(image.attrs.get(PROVENANCE))
    made = dict(provenance) if provenance else dict(before) if isinstance(before, dict) else {}
    made.setdefault("stemkit", __version__)
    if provenance and before and before != provenance and "previous" not in made:
        made["previous"] = before
    if "source" in image.attrs:
        made.setdefault("source", plain(image.attrs["source"]))
    if names := sorted(left_out):
        made["left_out"] = names
    return pack(made)


def pack(value: object) -> str:
    """JSON in one line of ASCII; a TypeError for what it has no room for."""
    return json.dumps(value, default=_plain_or_refuse)


def unpack(text: object) -> Any:
    """What the JSON says, or None where it is none."""
    try:
        return json.loads(text) if isinstance(text, str | bytes) else None
    except ValueError:
        return None


def plain(value: Any) -> Any:
    """A NumPy scalar or array as Python's own types."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _plain_or_refuse(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "fiubUS":
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
