"""Valid files of each format, from which the hostile ones are made."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import rsciio.emd
import tifffile
import xarray as xr
from PIL import Image
from scipy.io import savemat

import stemkit
from stemkit.images.pixel_size import with_pixel_sizes

__all__ = ["write_seeds"]

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 60000, (40, 50)).astype(np.uint16)
STACK = RNG.integers(0, 60000, (3, 20, 24)).astype(np.uint16)


def write_seeds(folder: Path) -> list[Path]:
    """Write the files and return their paths, in a fixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [path for write in WRITERS for path in write(folder)]


def _makers() -> ModuleType:
    """Files of microscopes that no library writes, as the tests of reading make them."""
    path = Path(__file__).parents[1] / "io" / "conftest.py"
    spec = importlib.util.spec_from_file_location("makers_of_files", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _own(folder: Path) -> list[Path]:
    image = with_pixel_sizes(xr.DataArray(VALUES, dims=("y", "x"), attrs={"mode": "bf"}), 0.02, 0.01)
    series = xr.DataArray(STACK, {"time": ("frame", [0.0, 0.5, 1.0])}, ("frame", "y", "x"))
    names = [("image", image, s) for s in ("tif", "nc", "hspy", "npy")]
    names += [("series", series, s) for s in ("tif", "nc", "hspy")]
    return [stemkit.write(i, folder / f"{name}.{suffix}", overwrite=True) for name, i, suffix in names]


def _tiff(folder: Path) -> list[Path]:
    options: list[dict] = [
        {"compression": "zlib", "rowsperstrip": 8},
        {"tile": (16, 16), "compression": "zlib"},
        {"imagej": True, "resolution": (100, 100), "metadata": {"unit": "nm"}},
        {"metadata": {"axes": "YX", "PhysicalSizeX": 10.0, "PhysicalSizeXUnit": "pm"}, "ome": True},
        {"bigtiff": True},
        {"byteorder": ">"},
    ]
    paths = [folder / f"tiff_{i}.tif" for i in range(len(options))]
    for path, chosen in zip(paths, options, strict=True):
        tifffile.imwrite(path, VALUES, **chosen)
    Image.fromarray((VALUES >> 8).astype(np.uint8)).convert("P").save(folder / "palette.tif")
    return [*paths, folder / "palette.tif"]


def _pictures(folder: Path) -> list[Path]:
    paths = [folder / name for name in ("grey.png", "deep.png", "colour.png", "grey.jpg", "animated.png")]
    gray = Image.fromarray((VALUES >> 8).astype(np.uint8))
    gray.save(paths[0])
    Image.fromarray(VALUES).save(paths[1])
    gray.convert("RGB").save(paths[2])
    gray.save(paths[3])
    gray.save(paths[4], save_all=True, append_images=[gray.rotate(180)], duration=100)
    return paths


def _microscopes(folder: Path) -> list[Path]:
    make = _makers()
    axes = [
        {"name": name, "size": size, "scale": 0.02, "offset": 0.0, "units": "nm", "navigate": False}
        for name, size in (("y", 40), ("x", 50))
    ]
    metadata = {"General": {"title": "a"}, "Signal": {"signal_type": ""}}
    rsciio.emd.file_writer(
        folder / "berkeley.emd", {"data": VALUES, "axes": axes, "metadata": metadata, "original_metadata": {}}
    )
    return [
        folder / "berkeley.emd",
        make.write_velox(folder / "velox.emd", {"HAADF": VALUES[..., None], "BF": np.moveaxis(STACK, 0, -1)}),
        make.write_mrc(folder / "a.mrc", VALUES, (1.0, 0.7)),
        make.write_mrc(folder / "stack.mrc", STACK, None),
        make.write_ser(folder / "a.ser", STACK, 1e-11),
        make.write_dm3(folder / "a.dm3", VALUES, (0.01, 0.02), ("nm", "nm")),
        make.write_dm3(folder / "series.dm3", STACK, (0.01, 0.02, 0.5), ("nm", "nm", "s")),
    ]


def _arrays(folder: Path) -> list[Path]:
    np.savez(folder / "a.npz", image=VALUES, pixel_size_nm=0.01)
    np.savez_compressed(folder / "b.npz", frames=STACK)
    np.save(folder / "fortran.npy", np.asfortranarray(VALUES.astype(np.float64)))
    savemat(folder / "a.mat", {"image": VALUES, "frames": np.moveaxis(STACK, 0, -1)})
    savemat(folder / "b.mat", {"image": VALUES.astype(float)}, do_compression=True)
    xr.DataArray(VALUES.astype(np.float32), dims=("y", "x")).to_netcdf(folder / "classic.nc", engine="scipy")
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("scan/image", data=VALUES, chunks=(20, 25), compression="gzip", shuffle=True)
    return [folder / n for n in ("a.npz", "b.npz", "fortran.npy", "a.mat", "b.mat", "classic.nc", "a.h5")]


WRITERS: tuple[Callable[[Path], list[Path]], ...] = (_own, _tiff, _pictures, _microscopes, _arrays)
