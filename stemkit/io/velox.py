"""EMD files of Velox: images and series of frames; spectra are listed without their data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stemkit.io import hdf5
from stemkit.io.attributes import mode_of
from stemkit.io.calibration import pixel_sizes_of
from stemkit.io.file_dataset import DERIVED, DETECTOR, MAP, FileDataset, make_dataset, placeholder
from stemkit.io.signals import branch, degrees, positive_or_none

if TYPE_CHECKING:
    import h5py

__all__ = ["datasets", "is_velox"]

#: Groups of spectra in ``Data``, and what they contain.
_SPECTRA = {
    "SpectrumStream": "an EDS spectrum stream",
    "SpectrumImage": "an EDS spectrum image",
    "EelsSpectrumImage": "an EELS spectrum image",
    "Spectrum": "a spectrum",
}
#: Group that maps images of displays to data, from version 11.
_REFERENCES = "ImageSeriesDataReference"
#: Error of a difference of times that the file has in whole seconds, s.
_WHOLE_SECONDS = 1.0
#: Operations whose output is computed from other images.
_DERIVED = (
    "SurfaceReconstructionOperation",
    "MathematicsOperation",
    "DpcOperation",
    "IntegrationOperation",
    "FftOperation",
)


def is_velox(file: h5py.File) -> bool:
    """Whether the file was written by Velox."""
    return hdf5.group(file, "Data") is not None and any(
        hdf5.group(file, "Data", name) is not None for name in ("Image", *_SPECTRA)
    )


def datasets(path: Path, file: h5py.File) -> list[FileDataset]:
    """The images of the file, then the other data that it contains."""
    shown = dict((*_displayed(file), *_newer_displayed(file)))
    made = {where: (label, kind) for where, label, kind in _operations(file)}
    found = []
    for stored in _members(file, "Image"):
        where = str(stored.name).strip("/")
        found.append(_image(path, stored, shown.get(where, ""), *made.get(where, ("", DETECTOR))))
    return found + [_other(stored, what) for kind, what in _SPECTRA.items() for stored in _members(file, kind)]


def _members(file: h5py.File, kind: str) -> Iterator[h5py.Group]:
    parent = hdf5.group(file, "Data", kind)
    for name in parent or ():
        member = hdf5.group(parent, name)
        if member is not None and hdf5.dataset(member, "Data") is not None:
            yield member


def _other(stored: h5py.Group, what: str) -> FileDataset:
    shape = hdf5.dataset(stored, "Data").shape  # type: ignore[union-attr]
    return make_dataset(placeholder(shape, np.uint8), color=False, refusal=what)


def _image(path: Path, group: h5py.Group, label: str, made_as: str, kind: int) -> FileDataset:
    """An image or a series by the label that Velox shows and the name and kind from the operation that made it."""
    stored = hdf5.dataset(group, "Data")
    assert stored is not None
    metadata = _metadata(group, 0)
    result = branch(metadata, "BinaryResult")
    detector, by_detector = _detector(metadata, result)
    name = made_as or label or detector
    sizes, note = _pixel_sizes(result)
    frames = stored.shape[2] if stored.ndim == 3 else 1
    return hdf5.image_of(
        path,
        stored,
        _frames_first,
        by_frame=frames > 1 and stored.chunks is not None and stored.chunks[2] == 1,
        name=name,
        pixel_sizes=sizes,
        note=note,
        attrs=_attributes(metadata, name, made_as or detector or label),
        series=frames > 1,
        times=_times(group, metadata, frames) if frames > 1 else None,
        kind=max(kind, by_detector),
        refusal="complex data (a DPC vector image or a Fourier transform)" if stored.dtype.names else "",
    )


def _frames_first(values: NDArray) -> NDArray:
    """``(n_y, n_x, n_frames)`` as ``(n_frames, n_y, n_x)``, or as an image if there is one frame."""
    if values.ndim != 3:
        return values
    return np.ascontiguousarray(values[:, :, 0]) if values.shape[2] == 1 else np.moveaxis(values, 2, 0)


# --- metadata ----------------------------------------------------------------------------------------------------


def _metadata(group: h5py.Group, frame: int) -> dict[str, Any]:
    """Metadata of a frame: JSON in a column of bytes."""
    stored = hdf5.dataset(group, "Metadata")
    if stored is None or stored.ndim != 2 or frame >= stored.shape[1]:
        return {}
    return _parsed(hdf5.text_of(stored, frame))


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _detector(metadata: dict[str, Any], result: dict[str, Any]) -> tuple[str, int]:
    """Name of the detector, and whether it records images or spectra, from which the image is then a map."""
    detectors = [d for d in branch(metadata, "Detectors").values() if isinstance(d, dict)]
    indexed = branch(metadata, "Detectors", f"Detector-{result.get('DetectorIndex')}")
    name = str(result.get("Detector") or indexed.get("DetectorName") or "").strip()
    own = [d for d in detectors if str(d.get("DetectorName", "")).startswith(name)] if name else []
    spectra = bool(own) and all(d.get("DetectorType") == "AnalyticalDetector" for d in own)
    return name, MAP if spectra else DETECTOR


def _pixel_sizes(result: dict[str, Any]) -> tuple[tuple[float, float] | None, str]:
    size = branch(result, "PixelSize")
    if not size:
        return None, ""
    units = [result.get("PixelUnitY", result.get("PixelUnitX")), result.get("PixelUnitX")]
    return pixel_sizes_of(
        [positive_or_none(size.get("height")) or 0.0, positive_or_none(size.get("width")) or 0.0], units
    )


def _attributes(metadata: dict[str, Any], name: str, detector: str) -> dict[str, Any]:
    voltage = positive_or_none(branch(metadata, "Optics").get("AccelerationVoltage"))
    attrs = {
        "title": name or None,
        "detector": detector or None,
        "mode": mode_of(detector),
        "voltage": None if voltage is None else voltage / 1e3,
        "dwell_time": positive_or_none(branch(metadata, "Scan").get("DwellTime")),
        "scan_angle": degrees(branch(metadata, "Scan").get("ScanRotation"), radians=True),
    }
    return {key: value for key, value in attrs.items() if value is not None}


def _times(group: h5py.Group, metadata: dict[str, Any], frames: int) -> NDArray | None:
    """Times of the frames in s.

    They are multiples of the duration of a frame if these agree with the times at which the first and the last frame
    were started, which the file has in whole seconds; otherwise those of all frames.
    """
    seconds = positive_or_none(branch(metadata, "Scan").get("FrameTime"))
    first, last = _start(metadata), _start(_metadata(group, frames - 1))
    if first is None or last is None:
        return None if seconds is None else np.arange(frames) * seconds
    if seconds is not None and abs(last - first - (frames - 1) * seconds) <= _WHOLE_SECONDS:
        return np.arange(frames) * seconds
    starts = [_start(_metadata(group, i)) for i in range(frames)]
    if any(start is None for start in starts) or last <= first:
        return None
    return np.asarray(starts, dtype=np.float64) - first


def _start(metadata: dict[str, Any]) -> float | None:
    """Time at which a frame was started, in s."""
    return positive_or_none(branch(metadata, "Acquisition", "AcquisitionStartDatetime").get("DateTime"))


# --- names -------------------------------------------------------------------------------------------------------


def _json_members(file: h5py.File, *names: str) -> Iterator[tuple[str, dict[str, Any]]]:
    parent = hdf5.group(file, *names)
    for name in parent or ():
        content = _parsed(hdf5.text_of(hdf5.dataset(parent, name)))
        if content:
            yield "/".join((*names, name)), content


def _path(content: Mapping[str, Any], key: str = "dataPath") -> str:
    return str(content.get(key) or "").strip("/")


def _displayed(file: h5py.File) -> Iterator[tuple[str, str]]:
    """Paths and labels of the images in files of versions below 11."""
    for _, content in _json_members(file, "Presentation", "Displays", "ImageDisplay"):
        label = str(branch(content, "display").get("label") or "")
        if _path(content) and label:
            yield _path(content), label


def _newer_displayed(file: h5py.File) -> Iterator[tuple[str, str]]:
    """Paths and labels of the images in files from version 11."""
    paths = {name: _path(content) for name, content in _json_members(file, "SharedProperties", _REFERENCES)}
    for _, content in _json_members(file, "Displays", "ImageDisplay"):
        title, label = str(content.get("title") or ""), str(content.get("id") or "")
        path = paths.get(_path(content, "data"))
        if path:
            # the identifier of an element's map names its spectra; that of an image may be a letter
            yield path, label if label.startswith(title) or not title else title


def _operations(file: h5py.File) -> Iterator[tuple[str, str, int]]:
    """Paths, names and kinds of the images by the operations that made them, in files of versions below 11."""
    for operation, key in (("StemInputOperation", "detector"), ("CameraInputOperation", "cameraName")):
        for _, content in _json_members(file, "Operations", operation):
            if content.get(key):
                yield _path(content), str(content[key]), DETECTOR
    for operation in _DERIVED:
        for _, content in _json_members(file, "Operations", operation):
            yield from ((path, label, DERIVED) for path, label in _outputs(operation, content) if path)


def _outputs(operation: str, content: dict[str, Any]) -> list[tuple[str, str]]:
    """Paths and names of the results of an operation."""
    if operation == "SurfaceReconstructionOperation":
        name = "iDPC" if content.get("integrationMode") == "true" else "dDPC"
        filtered = "Filtered " if content.get("enableFilter") == "true" else ""
        return [(_path(content, "unfilteredDataPath"), name), (_path(content), filtered + name)]
    if operation == "MathematicsOperation":
        outputs = content.get("outputs")
        first = outputs[0] if isinstance(outputs, list) and outputs and isinstance(outputs[0], dict) else {}
        return [(_path(content), "A-C" if first.get("inputIndex") == "0" else "B-D")]
    if operation == "FftOperation":
        return [(_path(content, "imageOutputPath"), "FFT")]
    return [(_path(content), "DPC" if operation == "DpcOperation" else "DCFI")]
