"""Files of HyperSpy: HSPY, in HDF5, and ZSPY, the same structure in a Zarr folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from stemkit.images.pixel_size import pixel_sizes
from stemkit.io import hdf5, zarr_files
from stemkit.io.attributes import PROVENANCE, attributes_of, mode_of, pack, unpack
from stemkit.io.calibration import pixel_sizes_of, seconds_per
from stemkit.io.checks import FormatError
from stemkit.io.file_dataset import FileDataset
from stemkit.io.signals import FRAME_NAMES, branch, degrees, positive_or_none, spectrum_reason

if TYPE_CHECKING:
    import h5py

__all__ = ["load", "load_zspy", "save"]

#: Version of the format that is written.
_VERSION = "3.0"
#: Keys of the groups in HyperSpy's metadata that are read; the rest is not needed.
_READ = ("General", "Signal", "Acquisition_instrument", "stemkit")
#: Depth up to which metadata are read (chosen).
_DEPTH = 6


def load(path: Path) -> list[FileDataset]:
    """Load the signals of an HSPY file."""
    with hdf5.opened(path) as file:
        return _signals(path, file, hdf5)


def load_zspy(path: Path) -> list[FileDataset]:
    """Load the signals of a ZSPY folder."""
    return _signals(path, zarr_files.opened(path), zarr_files)


def save(image: xr.DataArray, path: Path, provenance: str) -> None:
    """Write pixels, pixel size, attributes and provenance; maps such as ``recorded`` are omitted."""
    path.write_bytes(hdf5.in_memory(lambda file: _fill(file, image, provenance)))


# --- reading -----------------------------------------------------------------------------------------------------


def _signals(path: Path, root: Any, store: ModuleType) -> list[FileDataset]:
    """Signals in the groups of an HDF5 file or a Zarr folder; ``store`` is the module that reads it."""
    parent = store.group(root, "Experiments")
    if parent is None:
        raise FormatError("it has no group Experiments, as HyperSpy's files have")
    groups = [found for name in parent if (found := store.group(parent, name)) is not None]
    found = [_signal(path, group, store) for group in groups if store.dataset(group, "data") is not None]
    if not found:
        raise FormatError("it contains no signal")
    return found


def _signal(path: Path, group: Any, store: ModuleType) -> FileDataset:
    stored = store.dataset(group, "data")
    assert stored is not None
    stored_axes = _axes(group, stored.ndim, store)
    order = _order(stored_axes, stored.ndim)
    axes = [stored_axes[i] for i in order] if stored_axes else []
    metadata = _metadata(group, store)
    sizes, note = pixel_sizes_of([a.get("scale") for a in axes[-2:]], [a.get("units") for a in axes[-2:]])
    first = axes[0] if len(axes) == 3 else {}
    seconds = seconds_per(first.get("units"))
    attrs = _attributes(metadata, store.group(group, "original_metadata"), store)
    return store.image_of(
        path,
        stored,
        lambda values: values.transpose(order),
        name=str(attrs.get("title", "")),
        refusal=spectrum_reason(axes, str(branch(metadata, "Signal").get("signal_type") or ""), stored.ndim),
        pixel_sizes=sizes,
        note=note,
        attrs=attrs,
        series=seconds is not None or str(first.get("name")).casefold() in FRAME_NAMES,
        times=_times(first, seconds, stored.shape[order[0]]) if len(axes) == 3 else None,
    )


def _times(axis: Mapping[str, Any], seconds: float | None, count: int) -> np.ndarray | None:
    scale, offset = axis.get("scale"), axis.get("offset", 0.0)
    if seconds is None or not isinstance(scale, int | float) or not isinstance(offset, int | float):
        return None
    return (offset + np.arange(count) * scale) * seconds


def _axes(group: Any, ndim: int, store: ModuleType) -> list[dict[str, Any]]:
    """Attributes of the axes in the order of the array; none if the file does not have them all."""
    found = [store.group(group, f"axis-{i}") for i in range(ndim)]
    if any(axis is None for axis in found):
        parent = store.group(group, f"_list_{ndim}_axes")
        found = [] if parent is None else [store.group(parent, str(i)) for i in range(ndim)]
    attrs = [_cleaned(store.attributes(axis)) for axis in found if axis is not None]
    return attrs if len(attrs) == ndim else []


def _order(axes: list[dict[str, Any]], ndim: int) -> list[int]:
    """Order of the stored axes: those with the names y and x last if an axis follows them in the file."""
    names = [str(axis.get("name")).casefold() for axis in axes]
    if ndim != 3 or names.count("y") != 1 or names.count("x") != 1:
        return list(range(ndim))
    frames = [i for i, axis in enumerate(axes) if seconds_per(axis.get("units")) or names[i] in FRAME_NAMES]
    if len(frames) != 1:
        return list(range(ndim))
    return [frames[0], names.index("y"), names.index("x")]


def _cleaned(attrs: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value == "_None_" else value for key, value in attrs.items()}


def _metadata(group: Any, store: ModuleType) -> dict[str, Any]:
    parent = store.group(group, "metadata") or store.group(group, "mapped_parameters")
    if parent is None:
        return {}
    found = {name: store.group(parent, name) for name in _READ}
    return {name: _dictionary(item, _DEPTH, store) for name, item in found.items() if item is not None}


def _dictionary(group: Any, depth: int, store: ModuleType) -> dict[str, Any]:
    """Attributes, texts and groups of a group."""
    found = _cleaned(store.attributes(group))
    for name in group:
        inner, text = store.group(group, name), store.dataset(group, name)
        if inner is not None and depth > 0:
            found[name] = _dictionary(inner, depth - 1, store)
        elif text is not None and text.dtype.kind in "OST":
            found[name.removeprefix("_list_")] = store.text_of(text)
    return found


def _attributes(metadata: dict[str, Any], original: Any, store: ModuleType) -> dict[str, Any]:
    """Title, voltage (kV), dwell time (s), scan angle (degrees), and the attributes and the provenance of stemkit."""
    title = str(branch(metadata, "General").get("title") or "").strip()
    microscope = {
        **branch(metadata, "Acquisition_instrument", "SEM"),
        **branch(metadata, "Acquisition_instrument", "TEM"),
    }
    detector = _detector(title, original, store)
    attrs: dict[str, Any] = {
        "title": title or None,
        "detector": detector,
        "mode": mode_of(detector),
        "voltage": positive_or_none(microscope.get("beam_energy")),
        "dwell_time": positive_or_none(microscope.get("dwell_time")),
        "scan_angle": _scan_angle(original, store),
    }
    own = branch(metadata, "stemkit")
    provenance, kept = own.get("provenance"), unpack(own.get("attrs"))
    attrs.update(kept if isinstance(kept, dict) else {})
    if provenance:
        attrs[PROVENANCE] = provenance
    return {key: value for key, value in attrs.items() if value is not None or key in (kept or {})}


def _detector(title: str, original: Any, store: ModuleType) -> str | None:
    """Name of the detector in signals that HyperSpy read from Velox (the title) or DigitalMicrograph (a tag)."""
    if original is None:
        return None
    if store.group(original, "BinaryResult") is not None:
        return title or None
    bar = store.group(original, "ImageList", "TagGroup0", "ImageTags", "DataBar")
    named = None if bar is None else store.attributes(bar).get("Signal Name")
    return named.strip() or None if isinstance(named, str) else None


def _scan_angle(original: Any, store: ModuleType) -> float | None:
    """Rotation of the scan in signals that HyperSpy read from Velox (radians) or DigitalMicrograph, degrees."""
    if original is None:
        return None
    scan = store.group(original, "Scan")
    if scan is not None:
        return degrees(store.attributes(scan).get("ScanRotation"), radians=True)
    tags = store.group(original, "ImageList", "TagGroup0", "ImageTags", "DigiScan")
    return None if tags is None else degrees(store.attributes(tags).get("Rotation"))


# --- writing -----------------------------------------------------------------------------------------------------


def _fill(file: h5py.File, image: xr.DataArray, provenance: str) -> None:
    file.attrs.update({"file_format": "HyperSpy", "file_format_version": _VERSION})
    attrs = attributes_of(image)
    title = str(attrs.get("title", ""))
    group = file.create_group(f"Experiments/{title.replace('/', '-').strip('.') or '__unnamed__'}")
    group.attrs.update({"package": "stemkit", "package_version": ""})
    pixels = np.ascontiguousarray(image.values)
    group.create_dataset("data", data=pixels, compression="gzip", shuffle=True)
    for i, axis in enumerate(_written_axes(image)):
        group.create_group(f"axis-{i}").attrs.update({k: "_None_" if v is None else v for k, v in axis.items()})
    for name in ("original_metadata", "learning_results"):
        group.create_group(name)
    group.create_group("attributes").attrs.update({"_lazy": False, "ragged": False})
    _write_metadata(group.create_group("metadata"), attrs, title, provenance)


def _write_metadata(group: h5py.Group, attrs: dict[str, Any], title: str, provenance: str) -> None:
    """HyperSpy's entries for the quantities that it defines, and all attributes as JSON.

    The JSON is a dataset, since HDF5 limits an attribute to 64 KiB.
    """
    group.create_group("General").attrs["title"] = title.replace("\0", "")
    group.create_group("Signal").attrs["signal_type"] = ""
    group.create_group("_HyperSpy")
    instrument = {"beam_energy": attrs.get("voltage"), "dwell_time": attrs.get("dwell_time")}
    known = {k: v for k, v in instrument.items() if isinstance(v, int | float)}
    group.create_group("Acquisition_instrument/TEM").attrs.update(known)
    own = group.create_group("stemkit")
    for name, text in (("provenance", provenance), ("attrs", pack(attrs))):
        own.create_dataset(f"_list_{name}", data=[text], dtype=hdf5.string_type())


def _written_axes(image: xr.DataArray) -> list[dict[str, Any]]:
    sizes = pixel_sizes(image)
    lengths = dict(zip(("y", "x"), sizes or (1.0, 1.0), strict=True))
    return [
        {
            "_type": "UniformDataAxis",
            "name": str(dim),
            "units": None if sizes is None or dim not in lengths else "nm",
            "navigate": dim not in lengths,
            "is_binned": False,
            "size": image.sizes[dim],
            "scale": float(lengths.get(str(dim), 1.0)),
            "offset": 0.0,
        }
        | (_time_axis(image) if dim == "frame" else {})
        for dim in image.dims
    ]


def _time_axis(image: xr.DataArray) -> dict[str, Any]:
    """Unit, offset and spacing of the frames' times if these are evenly spaced."""
    if "time" not in image.coords or image.sizes["frame"] < 2:
        return {}
    times = np.asarray(image.coords["time"].values, dtype=np.float64)
    step = (times[-1] - times[0]) / (times.size - 1)
    if not np.allclose(np.diff(times), step, rtol=1e-6, atol=0):
        return {}
    return {"units": "s", "scale": float(step), "offset": float(times[0])}
