"""Hostile files: damaged in ways drawn from a seed, and made by hand."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import tifffile

from stemkit.io.reading import READABLE

__all__ = ["by_hand", "damaged"]

#: Numbers that headers declare where a small one is meant.
_HUGE = (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x40000000, 0x00FFFFFF, 0, 1)


def damaged(seed_files: list[Path], index: int) -> tuple[str, bytes, str]:
    """Name of the damage, content and suffix of the damaged file of this number."""
    rng = np.random.default_rng(index)
    source = seed_files[index % len(seed_files)]
    content = bytearray(source.read_bytes())
    ways = (_truncated, _flipped, _header_flipped, _huge_number, _zeroed, _repeated, _spliced)
    way = ways[int(rng.integers(len(ways) + 1)) - 1]
    suffix = source.suffix
    if rng.random() < 0.05:
        suffix = str(rng.choice(READABLE))
    changed = way(content, rng, seed_files)
    return f"{index}: {source.name} {way.__name__.strip('_')} as {suffix}", bytes(changed), suffix


def _truncated(content: bytearray, rng: np.random.Generator, _: list[Path]) -> bytes:
    return content[: int(rng.integers(0, len(content)))]


def _flipped(content: bytearray, rng: np.random.Generator, _: list[Path]) -> bytes:
    for position in rng.integers(0, len(content), int(rng.integers(1, 30))):
        content[position] ^= 1 << int(rng.integers(8))
    return content


def _header_flipped(content: bytearray, rng: np.random.Generator, _: list[Path]) -> bytes:
    for position in rng.integers(0, min(len(content), 600), int(rng.integers(1, 12))):
        content[position] ^= 1 << int(rng.integers(8))
    return content


def _huge_number(content: bytearray, rng: np.random.Generator, _: list[Path]) -> bytes:
    position = int(rng.integers(0, max(1, min(len(content) - 8, 3000))))
    form = rng.choice(["<I", ">I", "<Q", ">Q", "<H"])
    number = int(rng.choice(_HUGE)) & (0xFFFF if form == "<H" else 0xFFFFFFFF)
    packed = struct.pack(form, number)
    content[position : position + len(packed)] = packed
    return content


def _zeroed(content: bytearray, rng: np.random.Generator, _: list[Path]) -> bytes:
    start = int(rng.integers(0, len(content)))
    end = min(len(content), start + int(rng.integers(1, 400)))
    content[start:end] = bytes(end - start)
    return content


def _repeated(content: bytearray, rng: np.random.Generator, _: list[Path]) -> bytes:
    start = int(rng.integers(0, len(content)))
    part = content[start : start + int(rng.integers(1, 300))]
    return content[:start] + part * int(rng.integers(2, 9)) + content[start:]


def _spliced(content: bytearray, rng: np.random.Generator, seed_files: list[Path]) -> bytes:
    other = seed_files[int(rng.integers(len(seed_files)))].read_bytes()
    cut = int(rng.integers(0, len(content)))
    return content[:cut] + other[cut:]


# --- made by hand ------------------------------------------------------------------------------------------------


def by_hand(folder: Path) -> Iterator[Path]:
    """Write files that are wrong on purpose; links, pipes and folders among them."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in READABLE:
        for name, content in (
            ("empty", b""),
            ("text", b"not an image"),
            ("zeros", bytes(4096)),
            ("ones", b"\xff" * 4096),
        ):
            path = folder / f"{name}{suffix}"
            path.write_bytes(content)
            yield path
    yield from _huge_headers(folder)
    yield from _odd_arrays(folder)
    yield from _bombs(folder)
    yield from _places(folder)


def _huge_headers(folder: Path) -> Iterator[Path]:
    for i, shape in enumerate([(10**6, 10**6), (2**40, 4), (2**31, 2**31, 4), (0, 10**12), (3, 0)]):
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": shape})
        (folder / f"huge_{i}.npy").write_bytes(head.getvalue() + bytes(100))
        yield folder / f"huge_{i}.npy"
        with zipfile.ZipFile(folder / f"huge_{i}.npz", "w") as archive:
            archive.writestr("a.npy", head.getvalue() + bytes(100))
        yield folder / f"huge_{i}.npz"
        with h5py.File(folder / f"huge_{i}.h5", "w") as file:
            if 0 not in shape:
                file.create_dataset("a", shape, "f8", chunks=(4,) * len(shape), compression="gzip")
        yield folder / f"huge_{i}.h5"
    for i, numbers in enumerate([(-1, 5, 1, 2), (64, 64, -1, 0), (2**31 - 1, 2**31 - 1, 1, 2), (1, 1, 10**6, 0)]):
        header = np.zeros(256, "<i4")
        header[:4] = numbers
        (folder / f"huge_{i}.mrc").write_bytes(header.tobytes() + bytes(12000))
        yield folder / f"huge_{i}.mrc"


def _odd_arrays(folder: Path) -> Iterator[Path]:
    arrays = {
        "nan": np.full((4, 4), np.nan),
        "inf": np.full((4, 4), np.inf, np.float32),
        "complex": np.ones((4, 4)) * 1j,
        "text": np.array([["a", "b"]]),
        "date": np.array([["2000-01-01"]], "M8[D]"),
        "records": np.zeros((3, 3), [("a", "f4"), ("b", "i2")]),
        "empty": np.zeros((0, 0)),
        "scalar": np.float64(3),
        "four": np.zeros((2, 2, 2, 2)),
        "half": np.ones((4, 4), np.float16),
        "long": np.ones((4, 4), np.longdouble),
        "bool": np.ones((4, 4), bool),
    }
    for name, values in arrays.items():
        np.save(folder / f"odd_{name}.npy", values)
        np.savez(folder / f"odd_{name}.npz", a=values)
        yield folder / f"odd_{name}.npy"
        yield folder / f"odd_{name}.npz"
        if np.asarray(values).dtype.kind in "fcb":
            with h5py.File(folder / f"odd_{name}.h5", "w") as file:
                file["a"] = values
            yield folder / f"odd_{name}.h5"
    np.save(folder / "odd_pickle.npy", np.array([[Payload()]], dtype=object), allow_pickle=True)
    np.savez(folder / "odd_pickle.npz", a=np.array([[Payload()]], dtype=object), allow_pickle=True)
    yield from (folder / "odd_pickle.npy", folder / "odd_pickle.npz")


class Payload:
    """What a pickle executes: it creates a file whose absence is checked."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ.get("STEMKIT_PAYLOAD", "/tmp/stemkit_payload"),)


def _bombs(folder: Path) -> Iterator[Path]:
    """Small files that decompress to much."""
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)})
        for _ in range(100):
            file.write(bytes(2**20))
    yield folder / "bomb.npz"
    rows = zlib.compress(bytes(2**26), 9)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for size in (2**14, 2**31 - 1):
        header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        (folder / f"bomb_{size}.png").write_bytes(content)
        yield folder / f"bomb_{size}.png"
    path = folder / "bomb.tif"
    tifffile.imwrite(path, np.zeros((30, 30), np.uint8), compression="zlib", rowsperstrip=30)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for code in (256, 257, 278):
            tif.pages[0].tags[code].overwrite(30000)  # type: ignore[union-attr]
    yield path
    with h5py.File(folder / "bomb.hspy", "w") as file:
        group = file.create_group("Experiments/a")
        group.create_dataset("data", (64, 64, 256, 256), "f8", chunks=(1, 1, 256, 256), compression="gzip")
        group.create_group("metadata")
    yield folder / "bomb.hspy"


def _places(folder: Path) -> Iterator[Path]:
    """Names at which there is no regular file."""
    (folder / "loop.tif").symlink_to(folder / "loop.tif")
    (folder / "one.nc").symlink_to(folder / "other.nc")
    (folder / "other.nc").symlink_to(folder / "one.nc")
    (folder / "broken.npy").symlink_to(folder / "nothing")
    (folder / "folder.dm3").mkdir()
    (folder / "device.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.tif")
    for suffix in (".zarr", ".zspy"):
        (folder / f"empty_folder{suffix}").mkdir()
        (folder / f"damaged_folder{suffix}" / "Experiments").mkdir(parents=True)
        (folder / f"damaged_folder{suffix}" / "Experiments" / ".zarray").write_text('{"shape": [1e99')
        (folder / f"damaged_folder{suffix}" / "loop").symlink_to(folder / f"damaged_folder{suffix}")
        yield from (folder / f"empty_folder{suffix}", folder / f"damaged_folder{suffix}")
    (folder / "series").mkdir()
    (folder / "series" / "a.tif").write_bytes(b"II*\0")
    (folder / "series" / "loop.tif").symlink_to(folder / "series" / "loop.tif")
    yield folder / "series"
    (folder / "locked.npy").write_bytes(b"\x93NUMPY")
    (folder / "locked.npy").chmod(0)
    names = ["loop.tif", "one.nc", "broken.npy", "folder.dm3", "device.png", "pipe.tif", "locked.npy"]
    yield from (folder / name for name in [*names, "missing.tif", "a\0b.tif", "x" * 300 + ".tif", "empty.tif/a.tif"])
