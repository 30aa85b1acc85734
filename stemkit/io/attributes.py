"""Attributes and provenance as JSON; the imaging mode from the name of a detector."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from stemkit._version import __version__

__all__ = ["PROVENANCE", "attributes_of", "maps_of", "mode_of", "pack", "plain", "provenance_text", "unpack"]

#: Attribute with the provenance of an image, JSON.
PROVENANCE = "stemkit"
#: Attributes of the file that an image was read from; they are not copied to another file.
_FILE_ATTRIBUTES = ("source", "dataset")
#: Detectors whose images show bright columns: annular dark field of any angle, and iDPC.
_BRIGHT_COLUMNS = re.compile(r"^(HAADF|MAADF|LAADF|ADF|DF\d*|IDPC)$")
#: Detectors whose images show dark columns: bright field and annular bright field.
_DARK_COLUMNS = re.compile(r"^(ABF|BF\d*)$")


def mode_of(detector: str | None) -> str | None:
    """Mode ``"haadf"`` (bright columns) or ``"bf"`` (dark columns) from a detector's name, None if undetermined."""
    words = re.split(r"[^A-Z0-9]+", (detector or "").upper())
    bright, dark = any(map(_BRIGHT_COLUMNS.match, words)), any(map(_DARK_COLUMNS.match, words))
    if bright == dark:
        return None
    return "haadf" if bright else "bf"


def attributes_of(image: xr.DataArray) -> dict[str, Any]:
    """The image's attributes in plain types, except the provenance and the attributes of its file.

    Attributes that can't be stored as JSON are omitted with a warning.
    """
    kept, omitted = {}, []
    for key, value in image.attrs.items():
        if key in (PROVENANCE, *_FILE_ATTRIBUTES):
            continue
        try:
            kept[str(key)] = json.loads(pack(value))
        except TypeError:
            omitted.append(f"{key} ({type(value).__name__})")
    if omitted:
        warnings.warn(
            f"attributes that can't be stored as JSON are left out: {', '.join(omitted)}", UserWarning, stacklevel=4
        )
    return kept


def maps_of(image: xr.DataArray) -> list[str]:
    """Names of the coordinates other than those of the axes, such as ``recorded``."""
    return [str(name) for name in image.coords if name not in image.dims]


def provenance_text(image: xr.DataArray, provenance: Mapping[str, str | float] | None, left_out: Iterable[str]) -> str:
    """Provenance of a file, as JSON.

    Parameters
    ----------
    image : DataArray
        Its ``attrs["stemkit"]`` is kept: unchanged without ``provenance``, else under ``"previous"``.
    provenance : mapping, optional
        The processing step that made the image.
    left_out : iterable of str
        Maps that the format can't store.
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
    """JSON in one line of ASCII; TypeError for values that JSON can't represent."""
    return json.dumps(value, default=_json_default)


def unpack(text: object) -> Any:
    """The value of a JSON text, or None if it is not valid JSON."""
    try:
        return json.loads(text) if isinstance(text, str | bytes) else None
    except (ValueError, RecursionError):
        return None


def plain(value: Any) -> Any:
    """A NumPy scalar or array as built-in Python types; other values unchanged."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _json_default(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "fiubUS":
        return value.tolist()
    raise TypeError(f"{type(value).__name__} can't be stored as JSON")
