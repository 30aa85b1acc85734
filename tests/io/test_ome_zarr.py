"""Zarr folders with the metadata of OME-NGFF 0.5."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import stemkit
from stemkit.images.lazy import LazyResults

zarr = pytest.importorskip("zarr")
pytest.importorskip("dask.array")


@pytest.fixture
def series():
    values = np.random.default_rng(0).integers(0, 60000, (3, 300, 531)).astype(np.uint16)
    image = xr.DataArray(values, dims=("frame", "y", "x"), name="scan", attrs={"mode": "haadf", "voltage": 200.0})
    image = stemkit.calibrated(image, pixel_size=0.0123).isel(y=slice(7, None))
    times = ("frame", [1.0, 1.5, 2.0], {"units": "s"})
    return image.assign_coords(time=times, recorded=(image.dims, image.values // 2))


def test_round_trip(series, tmp_path):
    path = stemkit.write(series, tmp_path / "a.zarr", provenance={"step": "test"})
    for lazy in (False, True):
        found = stemkit.read(path, lazy=lazy).compute()
        assert json.loads(found.attrs.pop("stemkit"))["step"] == "test"
        del found.attrs["source"]
        xr.testing.assert_allclose(found, series, rtol=1e-12)
        assert (found.name, found.attrs, found.dtype) == (series.name, series.attrs, series.dtype)
    (info,) = stemkit.datasets(path)
    assert (info.shape, info.dims) == (series.shape, series.dims)
    assert info.pixel_sizes == pytest.approx((0.0123, 0.0123))


def test_the_metadata_are_those_of_the_specification(series, tmp_path):
    path = stemkit.write(series, tmp_path / "a.zarr")
    metadata = json.loads((path / "zarr.json").read_text())
    assert metadata["zarr_format"] == 3
    ome = metadata["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert image["axes"] == [
        {"name": "t", "type": "time", "unit": "second"},
        {"name": "y", "type": "space", "unit": "nanometer"},
        {"name": "x", "type": "space", "unit": "nanometer"},
    ]
    for level, dataset in enumerate(image["datasets"]):
        array = zarr.open_array(path / dataset["path"], mode="r")
        factor = 2**level
        assert array.shape == (3, -(-293 // factor), -(-531 // factor))
        assert array.metadata.dimension_names == ("t", "y", "x")
        scale, translation = dataset["coordinateTransformations"]
        assert scale["scale"] == pytest.approx([0.5, 0.0123 * factor, 0.0123 * factor])
        # the centre of the first pixel
        shift = 0.0123 * (factor - 1) / 2
        assert translation["translation"] == pytest.approx([1.0, 7 * 0.0123 + shift, shift])
    assert len(image["datasets"]) == 3


@pytest.mark.parametrize("shape", [(530, 300), (2, 531, 301)])
def test_coarser_levels_are_made_in_parts(shape, tmp_path, monkeypatch):
    from stemkit.io import ome_zarr

    monkeypatch.setattr(ome_zarr, "CHUNK", 64)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    path = stemkit.write(xr.DataArray(values, dims=("image", "y", "x")[-len(shape) :]), tmp_path / "a.zarr")
    for level in range(3):
        np.testing.assert_array_equal(zarr.open_array(path / str(level), mode="r")[:], values)
        values = ome_zarr._halved(values)
    assert not (path / "3").exists()


def test_pixels_and_maps_of_a_lazy_image_are_computed_once(series, tmp_path):
    computed = []

    def transform(image):
        computed.append(image.shape)
        return image

    lazily = LazyResults(transform, series.chunk()).joined()
    path = stemkit.write(lazily, tmp_path / "a.zarr")
    assert computed.count(series.shape[1:]) == 3
    np.testing.assert_array_equal(stemkit.read(path).recorded, series.recorded)


@settings(max_examples=20, deadline=None)
@given(n_y=st.integers(1, 9), n_x=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_coarser_level_has_the_means_of_pixels(n_y, n_x, seed):
    from stemkit.io.ome_zarr import _halved

    values = np.random.default_rng(seed).normal(size=(n_y, n_x))
    coarse = _halved(values)
    assert coarse.shape == (-(-n_y // 2), -(-n_x // 2))
    for y, x in np.ndindex(coarse.shape):
        rows, columns = [min(2 * y + i, n_y - 1) for i in (0, 1)], [min(2 * x + i, n_x - 1) for i in (0, 1)]
        assert coarse[y, x] == pytest.approx(values[np.ix_(rows, columns)].mean())


def test_stacks_and_images_without_a_pixel_size(tmp_path):
    stack = xr.DataArray(np.ones((2, 20, 30), np.float32), dims=("image", "y", "x"))
    for name, image in (("a", stack), ("b", stack[0])):
        path = stemkit.write(image, tmp_path / f"{name}.zarr")
        found = stemkit.read(path)
        assert (found.dims, found.stem.is_calibrated) == (image.dims, False)
        axes = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]["axes"]
        assert not any("unit" in axis for axis in axes)


def test_version_0_4_in_micrometres_is_read(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.create_array("0", data=np.eye(20, dtype=np.float32))
    root.create_array("1", data=np.eye(10, dtype=np.float32))
    scales = [[{"type": "scale", "scale": [2e-5 * f, 1e-5 * f]}] for f in (1, 2)]
    root.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"],
            "datasets": [{"path": str(i), "coordinateTransformations": s} for i, s in enumerate(scales)],
        }
    ]
    found = stemkit.read(tmp_path / "a.zarr")
    assert found.shape == (20, 20)
    assert found.stem.pixel_sizes == pytest.approx((0.02, 0.01))


@pytest.mark.parametrize("broken", [{"multiscales": []}, {"multiscales": [{"axes": 1}]}, "text", {"multiscales": [{}]}])
def test_metadata_that_are_not_understood_leave_the_arrays(broken, tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    root.create_array("0", data=np.eye(20, dtype=np.float32))
    root.attrs["ome"] = broken
    assert stemkit.read(tmp_path / "a.zarr").attrs["dataset"] == "0"


class TestWholeFolders:
    def test_an_existing_one_is_replaced_only_on_request(self, series, tmp_path):
        path = stemkit.write(series, tmp_path / "a.zarr")
        with pytest.raises(FileExistsError, match="overwrite=True"):
            stemkit.write(series[:1], path)
        stemkit.write(series[:1], path, overwrite=True)
        assert len(stemkit.read(path)) == 1
        assert os.listdir(tmp_path) == ["a.zarr"]

    def test_a_failure_leaves_nothing(self, series, tmp_path):
        with pytest.raises(ZeroDivisionError):
            stemkit.write(failing(series), tmp_path / "a.zarr")
        assert os.listdir(tmp_path) == []

    @pytest.mark.skipif(os.name == "nt", reason="no signals")
    def test_after_a_kill_in_the_middle_of_a_write(self, series, tmp_path):
        path = stemkit.write(series, tmp_path / "a.zarr")
        code = """
            import os, pathlib, signal
            from stemkit.atomic import whole_folder
            with whole_folder(pathlib.Path("a.zarr")) as temporary:
                temporary.mkdir()
                (temporary / "half").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 2
        assert len(stemkit.read(path)) == 3
        stemkit.write(series[:1], path, overwrite=True)
        assert os.listdir(tmp_path) == ["a.zarr"]

    @pytest.mark.skipif(os.name == "nt", reason="no signals")
    def test_after_a_kill_between_the_two_renames(self, series, tmp_path):
        stemkit.write(series, tmp_path / "a.zarr")
        os.rename(tmp_path / "a.zarr", tmp_path / ".a.zarr.replaced")
        with pytest.raises(ZeroDivisionError):
            stemkit.write(failing(series), tmp_path / "a.zarr")
        assert len(stemkit.read(tmp_path / "a.zarr")) == 3  # restored


def failing(series):
    """A lazy series that can't be computed."""
    lazy = series.drop_vars("recorded").chunk({"frame": 1})
    return lazy.map_blocks(_fails, template=lazy)


def _fails(block):
    raise ZeroDivisionError
