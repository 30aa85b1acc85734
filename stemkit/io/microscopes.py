"""Formats read by RosettaSciIO: DM3, DM4 and SER."""

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

from stemkit.io import ser
from stemkit.io.attributes import mode_of
from stemkit.io.calibration import pixel_sizes_of, seconds_per
from stemkit.io.checks import FormatError
from stemkit.io.file_dataset import FileDataset, make_dataset
from stemkit.io.signals import degrees, positive_or_none, spectrum_reason

__all__ = ["load"]

Tree = Mapping[str, Any]

#: RosettaSciIO's reader of each suffix.
_PLUGINS = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".ser": "tia",
}


def load(path: Path) -> list[FileDataset]:
    """Load the datasets of a file, one per signal."""
    suffix = path.suffix.lower()
    if suffix == ".ser":
        ser.check(path)
    reader = plugin(_PLUGINS[suffix])
    with warnings.catch_warnings():
        _ignore_reader_warnings()
        try:
            signals = reader.file_reader(str(path), lazy=False)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # closes the file that the reader left open
            raise
    found = [_signal(signal) for signal in signals if "data" in signal]
    if not found:
        raise FormatError("it contains no signal")
    return found


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
            "DM3, DM4 and SER files need RosettaSciIO: install it with pip install 'stemkit[formats]'"
        ) from error


def _ignore_reader_warnings() -> None:
    """Ignore the deprecation warnings of RosettaSciIO and of its unclosed files, which the user can't act on."""
    exceptions = importlib.import_module("rsciio.exceptions")
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", ResourceWarning)
    warnings.simplefilter("ignore", exceptions.VisibleDeprecationWarning)


def _signal(signal: dict[str, Any]) -> FileDataset:
    axes, values = list(signal["axes"]), np.asarray(signal["data"])
    original, metadata = signal.get("original_metadata") or {}, signal.get("metadata") or {}
    sizes, note = pixel_sizes_of([a.get("scale") for a in axes[-2:]], [a.get("units") for a in axes[-2:]])
    attrs = _attributes(signal, metadata, original)
    times = _times(axes, original) if values.ndim == 3 else None
    return make_dataset(
        values,
        name=str(attrs.get("title", "")),
        refusal=spectrum_reason(axes, str(_find(metadata, "Signal.signal_type") or ""), values.ndim),
        pixel_sizes=sizes,
        attrs=attrs,
        note=note,
        series=times is not None or "ser_header_parameters" in original,
        times=times,
    )


def _times(axes: list[dict[str, Any]], original: Tree) -> NDArray | None:
    """Times of the frames in s: of the images of an SER file (to a second), or from an axis in a unit of time."""
    stamps = _find(original, "ser_header_parameters.Time")
    if stamps is not None:
        seconds = np.ravel(np.asarray(stamps, dtype=np.float64))
        return seconds - seconds[0] if np.ptp(seconds) > 0 and np.all(np.diff(seconds) >= 0) else None
    first = axes[0] if len(axes) == 3 else {}
    unit, scale = seconds_per(first.get("units")), first.get("scale")
    if unit is None or scale is None:
        return None
    return (float(first.get("offset") or 0.0) + np.arange(int(first["size"])) * float(scale)) * unit


# --- attributes --------------------------------------------------------------------------------------------------


def _attributes(signal: Tree, metadata: Tree, original: Tree) -> dict[str, Any]:
    """Title, detector, mode, voltage (kV), dwell time (s) and scan angle (degrees), as far as the file has them."""
    title = str(_find(metadata, "General.title") or "").strip()
    detector = _detector(original)
    attrs: dict[str, Any] = {
        "title": title or None,
        "detector": detector,
        "mode": mode_of(detector),
        "voltage": _quantity(signal, "beam_energy"),
        "dwell_time": _quantity(signal, "dwell_time"),
        "scan_angle": _scan_angle(original),
    }
    return {key: value for key, value in attrs.items() if value is not None}


def _detector(original: Tree) -> str | None:
    """Name of the detector in a tag of DigitalMicrograph."""
    named = _find(original, "ImageList.TagGroup0.ImageTags.DataBar.Signal Name")
    return named.strip() or None if isinstance(named, str) else None


def _scan_angle(original: Tree) -> float | None:
    """Rotation of the scan in a tag of DigitalMicrograph, degrees; images copied from another have its tags."""
    tags = "ImageList.TagGroup0.ImageTags"
    found = (degrees(_find(original, f"{tags}.{where}DigiScan.Rotation")) for where in ("", "source.Tags at creation."))
    return next((angle for angle in found if angle is not None), None)


def _quantity(signal: Tree, quantity: str) -> float | None:
    """A quantity from the metadata, or from the original metadata at the path given by RosettaSciIO's mapping."""
    metadata = signal.get("metadata") or {}
    for microscope in ("TEM", "SEM"):
        value = positive_or_none(_find(metadata, f"Acquisition_instrument.{microscope}.{quantity}"))
        if value is not None:
            return value
    for path, (target, convert) in (signal.get("mapping") or {}).items():
        found = _find(signal.get("original_metadata") or {}, path) if target.endswith(f".{quantity}") else None
        if isinstance(found, int | float | str | np.number):
            return positive_or_none(convert(found) if convert else found)
    return None


def _find(tree: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree
