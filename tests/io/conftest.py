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


def write_velox(
    path: Path,
    frames: dict[str, NDArray],
    size: tuple[float, float] = (2e-11, 1e-11),
    starts: list[int] | None = None,
    rotation: float = 0.0,
) -> Path:
    """An EMD file of the Velox kind: detector -> frames (y, x, n); the pixel's height and width in m; starts in s; the
    scan's rotation in radians.
    """
    with h5py.File(path, "w") as file:
        _text(file, "Version", {"format": "Velox", "version": "10"})
        for i, (detector, values) in enumerate(frames.items()):
            group = file.create_group(f"Data/Image/{i:032x}")
            group.create_dataset("Data", data=values, chunks=(*values.shape[:2], 1))
            count = values.shape[2]
            begun = starts or [1_600_000_000 + round(1.5 * i) for i in range(count)]
            texts = [json.dumps(_velox_metadata(size, s, rotation)).encode().ljust(2000, b"\0") for s in begun[:count]]
            group["Metadata"] = np.stack([np.frombuffer(t, np.uint8) for t in texts], axis=1)
            _text(file, f"Operations/StemInputOperation/{i}", {"dataPath": group.name, "detector": detector})
    return path


def _text(file: h5py.File, name: str, content: dict) -> None:
    file.create_dataset(name, data=[json.dumps(content).encode()], dtype=h5py.string_dtype())


def _velox_metadata(size: tuple[float, float], start: int, rotation: float) -> dict:
    return {
        "BinaryResult": {
            "DetectorIndex": "0",
            "PixelSize": {"height": str(size[0]), "width": str(size[1])},
            "Offset": {"x": "0", "y": "0"},
            "PixelUnitX": "m",
        },
        "Detectors": {"Detector-0": {"DetectorName": "any"}},
        "Optics": {"AccelerationVoltage": "200000"},
        "Scan": {"DwellTime": "5e-07", "FrameTime": "1.5", "ScanRotation": str(rotation)},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": str(start)}},
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
    """A TIA series of uint16 images, recorded at intervals of 1 s; size in m."""
    frames = values if values.ndim == 3 else values[None]
    n, ny, nx = frames.shape
    head = struct.pack("<HHHIIIIII", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, n, n, 68, 1)
    head += struct.pack("<IddII", n, 0.0, 1.0, 0, 6) + b"Number" + struct.pack("<I", 0)
    start = len(head) + 8 * n
    blocks = []
    for i, frame in enumerate(frames):
        element = struct.pack("<ddIddIHII", 0, size, 0, 0, size, 0, 2, nx, ny) + frame[::-1].astype("<u2").tobytes()
        blocks.append(element + struct.pack("<HHI", 0x4152, 0, 1_300_000_000 + i))
    offsets = [start + i * len(blocks[0]) for i in range(n)]
    tags = [o + len(blocks[0]) - 8 for o in offsets]
    path.write_bytes(head + struct.pack(f"<{2 * n}I", *offsets, *tags) + b"".join(blocks))
    return path


def write_dm3(
    path: Path, values: NDArray, sizes: tuple[float, ...], units: tuple[str, ...], rotation: float | None = None
) -> Path:
    """A DM3 file with one image or stack; sizes and units along x, y and then the frames, and the scan's rotation."""
    kinds = {"uint16": 10, "float32": 2, "int32": 7, "uint8": 6}
    codes = {"uint16": 4, "float32": 6, "int32": 3, "uint8": 10}
    dtype = str(values.dtype)

    def group(name: str, *members: bytes) -> bytes:
        return (
            struct.pack(">BH", 20, len(name))
            + name.encode()
            + struct.pack(">BBI", 0, 0, len(members))
            + b"".join(members)
        )

    def tag(name: str, info: tuple[int, ...], data: bytes) -> bytes:
        head = struct.pack(">BH", 21, len(name)) + name.encode() + b"%%%%"
        return head + struct.pack(f">I{len(info)}I", len(info), *info) + data

    def number(name: str, value: int) -> bytes:
        return tag(name, (5,), struct.pack("<I", value))

    def real(name: str, value: float) -> bytes:
        return tag(name, (6,), struct.pack("<f", value))

    def text(name: str, value: str) -> bytes:
        return tag(name, (20, 4, len(value)), value.encode("utf-16-le"))

    axes = [
        group("", real("Origin", 0.0), real("Scale", s), text("Units", u)) for s, u in zip(sizes, units, strict=True)
    ]
    brightness = group("Brightness", real("Origin", 0.0), real("Scale", 1.0), text("Units", ""))
    pixels = tag("Data", (20, codes[dtype], values.size), values.astype(values.dtype.newbyteorder("<")).tobytes())
    data = group(
        "ImageData",
        group("Calibrations", brightness, group("Dimension", *axes)),
        pixels,
        number("DataType", kinds[dtype]),
        group("Dimensions", *(number("", n) for n in values.shape[::-1])),
        number("PixelDepth", values.dtype.itemsize),
    )
    bar = group("DataBar", text("Signal Name", "HAADF"))
    scan = [] if rotation is None else [group("DigiScan", real("Rotation", rotation))]
    image = group("", data, group("ImageTags", bar, *scan), text("Name", "scan"))
    root = group("ImageList", image)
    body = struct.pack(">BBI", 0, 0, 1) + root + bytes(8)
    path.write_bytes(struct.pack(">III", 3, len(body), 1) + body)
    return path


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The functions that make files: ``make.ncem``, ``make.velox``, ``make.mrc``, ``make.ser``, ``make.dm3``."""
    return SimpleNamespace(ncem=write_ncem, velox=write_velox, mrc=write_mrc, ser=write_ser, dm3=write_dm3)
