"""Small files in the formats of microscopes, made for the tests."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray


def write_ncem(path: Path, stored: NDArray, names: tuple[str, ...], units: str, sizes: tuple[float, ...]) -> Path:
    """An EMD file of the NCEM kind: dimensions in the order in which the array is stored."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"version_major": 0, "version_minor": 2})
        group = file.create_group("data/scan")
        group.attrs["emd_group_type"] = 1
        group["data"] = stored
        for i, (name, size) in enumerate(zip(names, sizes, strict=True)):
            dim = group.create_dataset(f"dim{i + 1}", data=np.arange(stored.shape[i]) * size)
            dim.attrs.update({"name": name, "units": units})
        file.create_group("microscope").attrs.update({"high tension": 300e3, "dwell time": 2e-6})
    return path


def write_velox(path: Path, frames: dict[str, NDArray], size: tuple[float, float] = (2e-11, 1e-11)) -> Path:
    """An EMD file of the Velox kind: detector -> frames (y, x, n); the pixel's height and width in m."""
    with h5py.File(path, "w") as file:
        _text(file, "Version", {"format": "Velox", "version": "10"})
        for i, (detector, values) in enumerate(frames.items()):
            group = file.create_group(f"Data/Image/{i:032x}")
            group["Data"] = values
            packed = np.frombuffer(json.dumps(_velox_metadata(size)).encode(), np.uint8)
            group["Metadata"] = np.repeat(packed[:, None], values.shape[2], axis=1)
            _text(file, f"Operations/StemInputOperation/{i}", {"dataPath": group.name, "detector": detector})
    return path


def _text(file: h5py.File, name: str, content: dict) -> None:
    file.create_dataset(name, data=[json.dumps(content).encode()], dtype=h5py.string_dtype())


def _velox_metadata(size: tuple[float, float]) -> dict:
    return {
        "BinaryResult": {
            "DetectorIndex": "0",
            "PixelSize": {"height": str(size[0]), "width": str(size[1])},
            "Offset": {"x": "0", "y": "0"},
            "PixelUnitX": "m",
        },
        "Detectors": {"Detector-0": {"DetectorName": "any"}},
        "Optics": {"AccelerationVoltage": "200000"},
        "Scan": {"DwellTime": "5e-07", "FrameTime": "1.5"},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1600000000"}},
        "Instrument": {},
    }


def write_mrc(path: Path, values: NDArray, cell: tuple[float, float] | None) -> Path:
    """An MRC file; ``cell`` is the field (y, x) in angstrom, None for a header without one."""
    header = np.zeros(256, "<i4")
    ny, nx = values.shape[-2:]
    header[:4] = nx, ny, 1 if values.ndim == 2 else len(values), {"float32": 2, "uint16": 6}[str(values.dtype)]
    if cell is not None:
        header[7:10] = nx, ny, 1
        header[10:13] = np.array([cell[1], cell[0], 1], "<f4").view("<i4")
    path.write_bytes(header.tobytes() + values.tobytes())
    return path


def write_ser(path: Path, values: NDArray, size: float) -> Path:
    """A TIA series of one uint16 image; size in m."""
    ny, nx = values.shape
    head = struct.pack("<HHHIIIIII", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, 1, 1, 68, 1)
    head += struct.pack("<IddII", 1, 0.0, 1.0, 0, 6) + b"Number" + struct.pack("<I", 0)
    element = struct.pack("<ddIddIHII", 0, size, 0, 0, size, 0, 2, nx, ny) + values[::-1].astype("<u2").tobytes()
    offsets = struct.pack("<II", 76, 76 + len(element))
    path.write_bytes(head + offsets + element + struct.pack("<HHI", 0x4142, 0, 1_300_000_000))
    return path


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The functions that make files: ``make.ncem``, ``make.velox``, ``make.mrc``, ``make.ser``."""
    return SimpleNamespace(ncem=write_ncem, velox=write_velox, mrc=write_mrc, ser=write_ser)
