"""Lazy reading: dask arrays whose images are read when they are needed."""

import os
import pickle
import sys

import h5py
import mrcfile
import numpy as np
import pytest
import xarray as xr

import stemkit

pytest.importorskip("dask.array")
zarr = pytest.importorskip("zarr")

FRAMES = np.random.default_rng(3).integers(0, 60000, (5, 12, 14)).astype(np.uint16)


def of_mrc(folder, make):
    with mrcfile.new(folder / "a.mrc", data=FRAMES) as file:
        file.voxel_size = 0.2
    return folder / "a.mrc"


def of_velox(folder, make):
    return make.velox(folder / "a.emd", {"HAADF": np.moveaxis(FRAMES, 0, 2)})


def of_ncem(folder, make):
    stored = FRAMES.transpose(2, 1, 0)
    return make.ncem(folder / "b.emd", stored, ("x", "y", "time"), "[n_m]", (0.01, 0.02, 1.0))


def of_hspy(folder, make):
    image = xr.DataArray(FRAMES, dims=("frame", "y", "x"))
    return stemkit.write(image, folder / "a.hspy")


def of_hdf5(folder, make):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("scan", data=FRAMES, chunks=(2, 5, 7), compression="gzip")
    return folder / "a.h5"


def of_zarr(folder, make):
    zarr.open_group(folder / "b.zarr", mode="w").create_array("scan", data=FRAMES, chunks=(2, 5, 7))
    return folder / "b.zarr"


def of_tiff(folder, make):
    return stemkit.write(xr.DataArray(FRAMES, dims=("frame", "y", "x")), folder / "a.tif")


BLOCKS = {of_mrc: 1, of_velox: None, of_ncem: None, of_hspy: None, of_hdf5: 2, of_zarr: 2, of_tiff: 1}


@pytest.mark.parametrize("write", BLOCKS, ids=lambda f: f.__name__)
def test_the_same_as_read_at_once(write, tmp_path, make):
    path = write(tmp_path, make)
    lazy, eager = stemkit.read(path, lazy=True), stemkit.read(path)
    assert lazy.chunks is not None
    assert BLOCKS[write] in (None, lazy.chunks[0][0])
    xr.testing.assert_identical(lazy.compute(), eager)
    np.testing.assert_array_equal(lazy[3].values, FRAMES[3])


@pytest.mark.parametrize("write", [of_velox, of_hspy, of_zarr, of_mrc], ids=lambda f: f.__name__)
def test_no_file_is_open_between_reads_and_none_is_pickled(write, tmp_path, make):
    import cloudpickle

    path = write(tmp_path, make)
    lazy = stemkit.read(path, lazy=True)
    again = pickle.loads(cloudpickle.dumps(lazy))
    np.testing.assert_array_equal(again[2].values, FRAMES[2])
    if sys.platform == "linux":
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        assert not [link for link in links if os.path.lexists(link) and path.name in os.readlink(link)]


def test_only_the_images_that_are_needed_are_read(tmp_path, make):
    path = of_mrc(tmp_path, make)
    lazy = stemkit.read(path, lazy=True)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - FRAMES[0].nbytes)
    np.testing.assert_array_equal(lazy[3].values, FRAMES[3])
    with pytest.raises(ValueError, match=r"can't read .*a.mrc as MRC: it is truncated or damaged"):
        lazy[4].compute()


def test_single_images_and_folders_of_them(tmp_path):
    for i in range(3):
        stemkit.write(FRAMES[i], tmp_path / f"f{i}.tif")
    assert stemkit.read(tmp_path / "f1.tif", lazy=True).chunks == ((12,), (14,))
    series = stemkit.read(tmp_path, lazy=True)
    assert series.chunks == ((1, 1, 1), (12,), (14,))
    xr.testing.assert_identical(series.compute(), stemkit.read(tmp_path))


def test_what_a_file_declares_is_checked_first(tmp_path, make):
    import json

    path = of_zarr(tmp_path, make)
    metadata = json.loads((path / "scan" / "zarr.json").read_text())
    (path / "scan" / "zarr.json").write_text(json.dumps({**metadata, "shape": [10**6, 10**4, 10**4]}))
    with pytest.raises(ValueError, match=r"declares 200,000,000,000,000 bytes"):
        stemkit.read(path, lazy=True)


def test_without_dask(tmp_path, make, monkeypatch):
    path = of_mrc(tmp_path, make)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r"pip install 'stemkit\[dask\]'"):
        stemkit.read(path, lazy=True)
