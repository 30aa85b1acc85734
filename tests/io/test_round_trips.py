import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import stemkit
from stemkit.images.pixel_size import pixel_sizes, with_pixel_sizes

CALIBRATED = ("tif", "hspy", "nc")
DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "int64", "float16", "float32", "float64")

sizes = st.floats(1e-5, 1e4)


@st.composite
def images(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=9))
    if len(shape) == 3:
        shape = (draw(st.integers(1, 4)), *shape[1:])
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = (rng.normal(0.5, 0.3, shape) * 100).astype(draw(st.sampled_from(DTYPES)))
    image = xr.DataArray(values, dims=("image", "y", "x")[3 - len(shape) :])
    calibration = draw(st.none() | st.tuples(sizes, sizes))
    return image if calibration is None else with_pixel_sizes(image, *calibration)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("round_trips")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", CALIBRATED)
@settings(max_examples=60, deadline=None)
@given(image=images())
def test_pixels_and_pixel_size(image, suffix, folder):
    back = stemkit.read(stemkit.write(image, folder / f"a.{suffix}", overwrite=True))
    assert back.dims == image.dims
    assert back.dtype == image.dtype
    assert back.dtype.isnative
    np.testing.assert_array_equal(back.values, image.values)
    if pixel_sizes(image) is None:
        assert not back.stem.is_calibrated
        assert not back.coords
    else:
        assert back.stem.pixel_sizes == pytest.approx(pixel_sizes(image), rel=1e-6)
        assert back.x.attrs["units"] == back.y.attrs["units"] == "nm"


@settings(max_examples=30, deadline=None)
@given(image=images())
def test_npy_keeps_pixels(image, folder):
    image = image.drop_vars(["y", "x"], errors="ignore")
    back = stemkit.read(stemkit.write(image, folder / "a.npy", overwrite=True))
    assert back.dtype == image.dtype
    np.testing.assert_array_equal(back.values, image.values)


def test_npy_warns_of_a_lost_pixel_size(tmp_path):
    image = with_pixel_sizes(xr.DataArray(np.eye(4), dims=("y", "x")), 0.1, 0.1)
    with pytest.warns(UserWarning, match="pixel size is lost"):
        stemkit.write(image, tmp_path / "a.npy")
    assert not stemkit.read(tmp_path / "a.npy").stem.is_calibrated


ATTRS = {
    "mode": "bf",
    "noise": json.dumps({"pixel_size": 0.01, "contrast": 2.5, "kind": "a=b\n\u00b5"}),
    "detector": "ABF",
    "voltage": 200.0,
    "dwell_time": 1e-6,
    "title": "grain = 3 / \u00e9t\u00e9",
    "scans": 12,
    "aligned": True,
    "empty": "",
    "comment": None,
    "odd/key": "kept",
}


@pytest.mark.parametrize("suffix", CALIBRATED)
def test_attributes_survive(suffix, tmp_path):
    image = xr.DataArray(np.eye(5, dtype=np.float32), dims=("y", "x"), attrs=ATTRS)
    back = stemkit.read(stemkit.write(image, tmp_path / f"a.{suffix}"))
    assert {k: v for k, v in back.attrs.items() if k in ATTRS} == ATTRS
    assert set(back.attrs) - set(ATTRS) <= {"source", "dataset", "stemkit"}
    assert back.attrs["source"] == f"a.{suffix}"
    assert image.attrs == ATTRS


@pytest.mark.parametrize("suffix", CALIBRATED)
@pytest.mark.parametrize("count", [1, 2, 150])
def test_noise_of_a_stack_is_a_list(suffix, count, tmp_path):
    noise = [json.dumps({"pixel_size": None, "contrast": i, "padding": "x" * 500}) for i in range(count)]
    image = xr.DataArray(np.ones((count, 4, 4), np.uint8), dims=("image", "y", "x"), attrs={"noise": noise})
    assert stemkit.read(stemkit.write(image, tmp_path / f"a.{suffix}")).attrs["noise"] == noise


@pytest.mark.parametrize("suffix", CALIBRATED)
def test_attributes_without_a_place_are_named(suffix, tmp_path):
    image = xr.DataArray(np.eye(5), dims=("y", "x"), attrs={"probe": object(), "mode": "haadf"})
    with pytest.warns(UserWarning, match=r"left out: probe \(object\)"):
        stemkit.write(image, tmp_path / f"a.{suffix}")
    back = stemkit.read(tmp_path / f"a.{suffix}")
    assert back.attrs["mode"] == "haadf"
    assert "probe" not in back.attrs


@pytest.mark.parametrize("stack", [False, True])
def test_netcdf_keeps_maps_and_coordinates(stack, tmp_path):
    dims = ("image", "y", "x") if stack else ("y", "x")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 6, 8) if stack else (6, 8)).astype(np.float32)
    image = with_pixel_sizes(xr.DataArray(values, dims=dims, name="enhance"), 0.02, 0.01).isel(y=slice(2, None))
    image = image.assign_coords(
        recorded=(dims, rng.integers(0, 9, image.shape).astype(np.uint16)), detect=(dims, image.values * 2)
    )
    if stack:
        image = image.assign_coords(frame=("image", [3, 7]))
    back = stemkit.read(stemkit.write(image, tmp_path / "a.nc"))
    xr.testing.assert_equal(back, image)
    assert back.name == "enhance"
    assert back.coords["recorded"].dtype == np.uint16
    assert image.encoding == {}


@pytest.mark.parametrize("suffix", ["tif", "hspy"])
def test_maps_left_out_are_named(suffix, tmp_path):
    image = xr.DataArray(np.eye(6), dims=("y", "x"))
    image = image.assign_coords(recorded=(("y", "x"), np.ones((6, 6))), detect=(("y", "x"), np.ones((6, 6))))
    back = stemkit.read(stemkit.write(image, tmp_path / f"a.{suffix}", provenance={"step": "enhance"}))
    assert not back.coords
    assert json.loads(back.attrs["stemkit"])["left_out"] == ["detect", "recorded"]


@pytest.mark.parametrize("suffix", CALIBRATED)
def test_provenance_is_read_back(suffix, tmp_path):
    made = {"stemkit": "0.1.0", "step": "enhance", "weights": "sha256:0f=", "dose": 2.5}
    image = xr.DataArray(np.eye(6), dims=("y", "x"), attrs={"source": "raw.dm4"})
    back = stemkit.read(stemkit.write(image, tmp_path / f"a.{suffix}", provenance=made))
    assert json.loads(back.attrs["stemkit"]) == {**made, "source": "raw.dm4"}


@pytest.mark.parametrize("suffix", CALIBRATED)
def test_provenance_is_never_lost(suffix, tmp_path):
    image = xr.DataArray(np.eye(6), dims=("y", "x"))
    first = stemkit.read(stemkit.write(image, tmp_path / "first.tif", provenance={"step": "enhance"}))
    copied = stemkit.read(stemkit.write(first, tmp_path / f"copied.{suffix}"))
    assert json.loads(copied.attrs["stemkit"])["step"] == "enhance"
    aligned = stemkit.read(stemkit.write(copied, tmp_path / f"aligned.{suffix}", provenance={"step": "align"}))
    made = json.loads(aligned.attrs["stemkit"])
    assert (made["step"], made["previous"]["step"]) == ("align", "enhance")


@pytest.mark.parametrize("suffix", CALIBRATED)
def test_the_version_is_written_unasked(suffix, tmp_path):
    back = stemkit.read(stemkit.write(np.eye(6), tmp_path / f"a.{suffix}"))
    assert json.loads(back.attrs["stemkit"]) == {"stemkit": stemkit.__version__}
