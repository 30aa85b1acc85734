"""Series of frames, stacks of images, and series of files."""

import io

import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
from PIL import Image
from scipy.io import savemat

import stemkit
from stemkit.images.pixel_size import with_pixel_sizes
from stemkit.io.folders import natural_key

FRAMES = np.random.default_rng(3).integers(0, 60000, (4, 20, 24)).astype(np.uint16)


def ncem(tmp_path, make):
    return make.ncem(tmp_path / "a.emd", FRAMES, ("time", "y", "x"), "[n_m]", (1.0, 0.02, 0.01))


def ncem_in_seconds(tmp_path, make):
    path = ncem(tmp_path, make)
    with h5py.File(path, "a") as file:
        file["data/scan/dim1"].attrs["units"] = "[s]"
        file["data/scan/dim1"][...] = [0.5, 1.0, 1.5, 2.0]
    return path


def imagej(tmp_path, make):
    tifffile.imwrite(
        tmp_path / "a.tif",
        FRAMES,
        imagej=True,
        resolution=(100, 50),
        metadata={"axes": "TYX", "unit": "nm", "finterval": 0.5},
    )
    return tmp_path / "a.tif"


def ome(tmp_path, make):
    metadata = {"axes": "TYX", "TimeIncrement": 500.0, "TimeIncrementUnit": "ms"}
    metadata |= {f"PhysicalSize{a}": s for a, s in (("X", 10.0), ("Y", 20.0))}
    metadata |= {f"PhysicalSize{a}Unit": "pm" for a in "XY"}
    tifffile.imwrite(tmp_path / "a.ome.tif", FRAMES, metadata=metadata)
    return tmp_path / "a.ome.tif"


def dm3(tmp_path, make):
    return make.dm3(tmp_path / "a.dm3", FRAMES, (0.01, 0.02, 0.5), ("nm", "nm", "s"))


def hdf5_of_matlab(tmp_path, make):
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["frames"] = FRAMES.transpose(0, 2, 1)  # MATLAB's (n_y, n_x, n) in its order
        file["pixel_size_nm"] = [[0.01]]
    with (tmp_path / "a.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return tmp_path / "a.mat"


def matlab(tmp_path, make):
    savemat(tmp_path / "a.mat", {"frames": np.moveaxis(FRAMES, 0, -1), "pixel_size_nm": 0.01})
    return tmp_path / "a.mat"


def npz(tmp_path, make):
    np.savez_compressed(tmp_path / "a.npz", frames=FRAMES, pixel_size_nm=0.01)
    return tmp_path / "a.npz"


def netcdf(tmp_path, make):
    axes = {"t": ("t", [0.0, 500.0, 1000.0, 1500.0], {"units": "ms"})}
    axes |= {d: (d, np.arange(n) * s, {"units": "pm"}) for d, n, s in (("y", 20, 20.0), ("x", 24, 10.0))}
    xr.DataArray(FRAMES, axes, ("t", "y", "x")).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    return tmp_path / "a.nc"


@pytest.mark.parametrize(
    ("written", "sizes", "times"),
    [
        (ncem, (0.02, 0.01), None),
        (ncem_in_seconds, (0.02, 0.01), [0.5, 1.0, 1.5, 2.0]),
        (imagej, (0.02, 0.01), [0.0, 0.5, 1.0, 1.5]),
        (ome, (0.02, 0.01), [0.0, 0.5, 1.0, 1.5]),
        (dm3, (0.02, 0.01), [0.0, 0.5, 1.0, 1.5]),
        (matlab, (0.01, 0.01), None),
        (hdf5_of_matlab, (0.01, 0.01), None),
        (npz, (0.01, 0.01), None),
        (netcdf, (0.02, 0.01), [0.0, 0.5, 1.0, 1.5]),
    ],
)
def test_series(written, sizes, times, tmp_path, make):
    path = written(tmp_path, make)
    image = stemkit.read(path)
    assert image.dims == ("frame", "y", "x")
    np.testing.assert_array_equal(image.values, FRAMES)
    assert image.stem.pixel_sizes == pytest.approx(sizes)
    if times is None:
        assert "time" not in image.coords
    else:
        assert image.coords["time"].dims == ("frame",)
        assert image.coords["time"].attrs["units"] == "s"
        np.testing.assert_allclose(image.coords["time"].values, times)
    assert next(d for d in stemkit.datasets(path) if d.is_image).dims == ("frame", "y", "x")


def test_velox_series(tmp_path, make):
    path = make.velox(tmp_path / "a.emd", {"HAADF": np.moveaxis(FRAMES, 0, -1)})
    image = stemkit.read(path)
    assert image.dims == ("frame", "y", "x")
    np.testing.assert_array_equal(image.values, FRAMES)
    np.testing.assert_allclose(image.coords["time"].values, np.arange(4) * 1.5)


def test_velox_series_with_gaps_has_the_starts_of_its_frames(tmp_path, make):
    starts = [1_600_000_000 + s for s in (0, 10, 21, 40)]
    path = make.velox(tmp_path / "a.emd", {"HAADF": np.moveaxis(FRAMES, 0, -1)}, starts=starts)
    np.testing.assert_array_equal(stemkit.read(path).coords["time"].values, [0, 10, 21, 40])


def test_ser_series(tmp_path, make):
    image = stemkit.read(make.ser(tmp_path / "a.ser", FRAMES, 1e-11))
    assert image.dims == ("frame", "y", "x")
    np.testing.assert_array_equal(image.values, FRAMES)
    np.testing.assert_array_equal(image.coords["time"].values, [0, 1, 2, 3])


def test_animation(tmp_path):
    values = (FRAMES >> 8).astype(np.uint8)
    first, *others = (Image.fromarray(v) for v in values)
    first.save(tmp_path / "a.png", save_all=True, append_images=others, duration=250)
    image = stemkit.read(tmp_path / "a.png")
    assert image.dims == ("frame", "y", "x")
    np.testing.assert_array_equal(image.values, values)
    np.testing.assert_allclose(image.coords["time"].values, np.arange(4) * 0.25)


@pytest.mark.parametrize("suffix", ["tif", "mrc", "npy"])
def test_a_stack_of_unknown_meaning_is_one_of_images(suffix, tmp_path, make):
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, FRAMES, photometric="minisblack", metadata=None)
    elif suffix == "mrc":
        make.mrc(path, FRAMES, None)
    else:
        np.save(path, FRAMES)
    assert stemkit.read(path).dims == ("image", "y", "x")
    series = stemkit.read(path, frames=True)
    assert series.dims == ("frame", "y", "x")
    np.testing.assert_array_equal(series.values, FRAMES)


def test_frames_must_be_a_logical_value(tmp_path):
    with pytest.raises(TypeError, match="frames must be True, False or None"):
        stemkit.read(tmp_path / "a.tif", frames=3)


@pytest.mark.parametrize("suffix", ["tif", "nc", "hspy"])
@pytest.mark.parametrize("times", [None, [0.0, 0.5, 1.0, 1.5]])
def test_a_written_series_comes_back(suffix, times, tmp_path):
    image = with_pixel_sizes(xr.DataArray(FRAMES, dims=("frame", "y", "x")), 0.02, 0.01)
    if times is not None:
        image = image.assign_coords(time=("frame", times, {"units": "s"}))
    back = stemkit.read(stemkit.write(image, tmp_path / f"a.{suffix}"))
    assert back.dims == image.dims
    np.testing.assert_array_equal(back.values, FRAMES)
    assert back.stem.pixel_sizes == pytest.approx((0.02, 0.01))
    assert ("time" in back.coords) == (times is not None)
    if times is not None:
        np.testing.assert_allclose(back.coords["time"].values, times)


# --- folders and lists -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for i in (0, 1, 2, 10):
        image = with_pixel_sizes(xr.DataArray(FRAMES[i % 4] // (i + 1), dims=("y", "x")), 0.02, 0.01)
        stemkit.write(image, tmp_path / f"Scan_{i}.tif")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.tif").write_text("not an image")
    return tmp_path


def test_a_folder_is_a_series_in_natural_order(folder):
    image = stemkit.read(folder)
    assert image.dims == ("frame", "y", "x")
    np.testing.assert_array_equal(image.values, [FRAMES[i % 4] // (i + 1) for i in (0, 1, 2, 10)])
    assert image.stem.pixel_sizes == pytest.approx((0.02, 0.01))
    assert stemkit.read(folder, frames=False).dims == ("image", "y", "x")


def test_a_list_keeps_its_order(folder):
    image = stemkit.read([folder / "Scan_10.tif", str(folder / "Scan_0.tif")])
    np.testing.assert_array_equal(image.values, [FRAMES[2] // 11, FRAMES[0]])


def test_files_that_do_not_belong_together(folder):
    stemkit.write(FRAMES[0, 1:], folder / "Scan_3.tif")
    with pytest.raises(ValueError, match=r"must have one size, .*19 x 24 px: leave the others out"):
        stemkit.read(folder)
    stemkit.write(FRAMES[0], folder / "Scan_3.tif", overwrite=True)
    with pytest.raises(ValueError, match=r"must have one pixel size, .*Scan_3\.tif has none: pass pixel_size="):
        stemkit.read(folder)
    assert stemkit.read(folder, pixel_size=0.1).shape == (5, 20, 24)
    stemkit.write(FRAMES, folder / "Scan_3.tif", overwrite=True)
    with pytest.raises(ValueError, match=r"Scan_3\.tif must be one image"):
        stemkit.read(folder)


def test_an_empty_list():
    with pytest.raises(ValueError, match="path is an empty list"):
        stemkit.read([])


def test_natural_order(tmp_path):
    names = ["a10.tif", "a2.tif", "A1.tif", "b.tif", "10.tif", "9.tif"]
    assert sorted(names, key=lambda n: natural_key(tmp_path / n)) == [
        "9.tif",
        "10.tif",
        "A1.tif",
        "a2.tif",
        "a10.tif",
        "b.tif",
    ]


def test_bytes_are_not_a_path():
    with pytest.raises(TypeError):
        stemkit.read(io.BytesIO())
