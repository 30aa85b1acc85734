"""Formats read by RosettaSciIO: DM3, DM4, EMD (Velox and NCEM), SER, MRC and HSPY."""

from __future__ import annotations

import importlib
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemkit.io.attributes import PROVENANCE, mode_of, unpack
from stemkit.io.recorded import Recorded, recorded
from stemkit.io.units import is_reciprocal, is_unstated, nm_per

__all__ = ["load", "plugin"]

Tree = Mapping[str, Any]

#: RosettaSciIO's reader of each suffix.
_PLUGINS = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".emd": "emd",
    ".ser": "tia",
    ".mrc": "mrc",
    ".hspy": "hspy",
}
#: First letters of HyperSpy's signal types that are spectra.
_SPECTRUM_TYPES = ("EELS", "EDS", "CL", "LumiSpectrum")
#: Units of an energy axis.
_ENERGY_UNITS = ("ev", "kev", "mev")
#: Range of the scales without a unit that are taken as nm per pixel (chosen; files without calibration have 1.0).
_PLAUSIBLE_NM = (1e-4, 1.0)


def load(path: Path) -> list[Recorded]:
    """Load the datasets of a file, one per signal."""
    suffix = path.suffix.lower()
    # unpacking the spectrum images of an EMD file from their stream of events takes minutes, so only images are read
    options = {"select_type": "images"} if suffix == ".emd" else {}
    reader = plugin(_PLUGINS[suffix])
    with warnings.catch_warnings():
        _ignore_reader_warnings()
        try:
            signals = reader.file_reader(str(path), lazy=False, **options)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # closes the file that the reader left open
            raise
    return [_signal(signal, suffix) for signal in signals if "data" in signal]


def plugin(name: str) -> ModuleType:
    """Import a module of RosettaSciIO that reads and writes one format.

    Raises
    ------
    ImportError
        If RosettaSciIO is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(f"rsciio.{name}")
    except ImportError as error:
        raise ImportError(
            "DM3, DM4, EMD, SER, MRC and HSPY files need RosettaSciIO: install it with pip install 'stemkit[formats]'"
        ) from error


def _ignore_reader_warnings() -> None:
    """Ignore the deprecation warnings of RosettaSciIO and of its unclosed files, which the user can't act on."""
    exceptions = importlib.import_module("rsciio.exceptions")
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", ResourceWarning)
    warnings.simplefilter("ignore", exceptions.VisibleDeprecationWarning)


def _signal(signal: dict[str, Any], suffix: str) -> Recorded:
    axes, values = list(signal["axes"]), np.asarray(signal["data"])
    if suffix == ".emd":
        axes, values = _with_y_x_last(axes, values)
    original, metadata = signal.get("original_metadata") or {}, signal.get("metadata") or {}
    sizes, note = _calibration(axes[-2:])
    if suffix == ".mrc" and not _has_cell(original):
        sizes, note = None, ""
    attrs = _attributes(signal, metadata, original)
    return recorded(
        values,
        name=str(attrs.get("title", "")),
        refusal=_spectrum_reason(axes, metadata, values.ndim),
        pixel_sizes=sizes,
        attrs=attrs,
        note=note,
    )


def _with_y_x_last(axes: list[dict[str, Any]], values: NDArray) -> tuple[list[dict[str, Any]], NDArray]:
    """Axes and pixels with y and x last, if axes have these names.

    RosettaSciIO reverses the dimensions of NCEM's EMD files. Those that store ``(Y, X)`` are returned transposed, with
    the scan lines along the first dimension.
    """
    names = [str(axis.get("name")).casefold() for axis in axes]
    if names.count("y") != 1 or names.count("x") != 1 or len(names) != values.ndim:
        return axes, values
    order = [i for i, name in enumerate(names) if name not in ("y", "x")] + [names.index("y"), names.index("x")]
    return [axes[i] for i in order], values.transpose(order)


def _spectrum_reason(axes: list[dict[str, Any]], metadata: Tree, ndim: int) -> str:
    """Description of the dataset if it is a spectrum or a spectrum image, else an empty string."""
    kind = str(_find(metadata, "Signal.signal_type") or "")
    energy = any(str(axis.get("units")).casefold() in _ENERGY_UNITS for axis in axes)
    one_signal_axis = ndim > 1 and [bool(a.get("navigate")) for a in axes] == [True] * (ndim - 1) + [False]
    if energy or one_signal_axis or kind.startswith(_SPECTRUM_TYPES):
        return "a spectrum image" if ndim == 3 else "spectra"
    return ""


# --- calibration -------------------------------------------------------------------------------------------------


def _calibration(axes: list[dict[str, Any]]) -> tuple[tuple[float, float] | None, str]:
    """Pixel sizes of the last two axes in nm, and the text of a warning (empty: none)."""
    if len(axes) < 2 or any(axis.get("scale") is None for axis in axes):
        return None, ""
    scales, units = [float(axis["scale"]) for axis in axes], [axis.get("units") for axis in axes]
    factors = [nm_per(unit) for unit in units]
    if None not in factors:
        y, x = (s * f for s, f in zip(scales, factors, strict=True) if f is not None)
        return (y, x), ""
    reciprocal = next((unit for unit in units if is_reciprocal(unit)), None)
    if reciprocal is not None:
        return None, f"the axes are in {reciprocal}, a unit of reciprocal space: the image is read without a pixel size"
    low, high = _PLAUSIBLE_NM
    if all(is_unstated(unit) for unit in units) and all(low <= abs(s) < high for s in scales):
        return (scales[0], scales[1]), (
            f"the file has a scale of {abs(scales[1]):.6g} without a unit, taken as nm per pixel: pass pixel_size= to "
            "set another"
        )
    return None, ""


def _has_cell(original: Tree) -> bool:
    """Whether an MRC file has a pixel size: without one in the header RosettaSciIO returns 1 nm."""
    if "fei_header" in original:
        return True
    header = original.get("std_header", {})
    return all(float(np.ravel(header.get(key, 0))[0]) > 0 for key in ("MX", "MY", "Xlen", "Ylen"))


# --- attributes --------------------------------------------------------------------------------------------------


def _attributes(signal: Tree, metadata: Tree, original: Tree) -> dict[str, Any]:
    """Title, detector, mode, voltage (kV) and dwell time (s), as far as the file contains them."""
    title = str(_find(metadata, "General.title") or "").strip()
    detector = _detector(title, original)
    attrs: dict[str, Any] = {
        "title": title or None,
        "detector": detector,
        "mode": mode_of(detector),
        "voltage": _quantity(signal, "beam_energy") or _number(original, "microscope.high tension", 1e-3),
        "dwell_time": _quantity(signal, "dwell_time")
        or _number(original, "Scan.DwellTime")
        or _number(original, "microscope.dwell time"),
    }
    attrs = {key: value for key, value in attrs.items() if value is not None}
    return {**attrs, **_stemkit_attributes(metadata)}


def _detector(title: str, original: Tree) -> str | None:
    """Name of the detector: Velox stores it as the title of the image, DigitalMicrograph in a tag."""
    if "BinaryResult" in original:
        return title or None
    named = _find(original, "ImageList.TagGroup0.ImageTags.DataBar.Signal Name")
    return named.strip() or None if isinstance(named, str) else None


def _stemkit_attributes(metadata: Tree) -> dict[str, Any]:
    """Attributes and provenance that stemkit wrote into an HSPY file."""
    entry = metadata.get("stemkit")
    if not isinstance(entry, Mapping):
        return {}
    attrs = unpack("".join(entry.get("attrs", []))) or {}
    provenance = "".join(entry.get("provenance", []))
    return {**attrs, **({PROVENANCE: provenance} if provenance else {})}


def _quantity(signal: Tree, quantity: str) -> float | None:
    """A quantity from the metadata, or from the original metadata at the path given by RosettaSciIO's mapping."""
    metadata = signal.get("metadata") or {}
    for microscope in ("TEM", "SEM"):
        value = _number(metadata, f"Acquisition_instrument.{microscope}.{quantity}")
        if value is not None:
            return value
    for path, (target, convert) in (signal.get("mapping") or {}).items():
        found = _find(signal.get("original_metadata") or {}, path) if target.endswith(f".{quantity}") else None
        if isinstance(found, int | float | str | np.number):
            return _positive(convert(found) if convert else found)
    return None


def _number(tree: Tree, path: str, factor: float = 1.0) -> float | None:
    value = _positive(_find(tree, path))
    return None if value is None else value * factor


def _positive(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _find(tree: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree
