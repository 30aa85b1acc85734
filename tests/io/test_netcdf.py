import numpy as np
import pytest
import xarray as xr

import stemkit
from stemkit.images.pixel_size import with_pixel_sizes

IMAGE = np.arange(48, dtype=np.float32).reshape(6, 8)


@pytest.mark.parametrize(
    "attrs",
    [
        {"scale_factor": 2.0, "add_offset": 5.0},
        {"_FillValue": 3.0, "missing_value": 4.0},
        {"dtype": "int8"},
        {"units": "seconds since 2000-01-01", "calendar": "noleap"},
        {"_Unsigned": "true", "valid_range": [0.0, 1.0]},
        {"coordinates": "a b", "grid_mapping": "c"},
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_attributes_do_not_change_the_pixels(attrs, dtype, tmp_path):
    image = xr.DataArray(IMAGE.astype(dtype), dims=("y", "x"), attrs=attrs)
    back = stemkit.read(stemkit.write(image, tmp_path / "a.nc"))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back.values, image.values)
    assert {key: back.attrs[key] for key in attrs} == attrs


def test_packed_pixels_of_other_programs_are_unpacked(tmp_path):
    image = xr.DataArray(IMAGE, dims=("y", "x"))
    xr.Dataset({"a": image}).to_netcdf(
        tmp_path / "a.nc", engine="h5netcdf", encoding={"a": {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}}
    )
    np.testing.assert_array_equal(stemkit.read(tmp_path / "a.nc").values, IMAGE)


@pytest.mark.parametrize(("unit", "nm"), [("nm", 1.0), ("angstrom", 0.1), ("pm", 1e-3), ("m", 1e9)])
def test_coordinates_keep_origin_direction_and_unevenness(unit, nm, tmp_path):
    y = np.array([5.0, 4.0, 3.0, 2.0, 1.0, -1.0])
    x = 7.0 + 0.01 * np.arange(8)
    axes = {"y": ("y", y / nm, {"units": unit}), "x": ("x", x / nm, {"units": unit})}
    xr.DataArray(IMAGE, axes, ("y", "x")).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    image = stemkit.read(tmp_path / "a.nc")
    np.testing.assert_allclose(image.y.values, y)
    np.testing.assert_allclose(image.x.values, x)
    assert image.y.attrs["units"] == image.x.attrs["units"] == "nm"


@pytest.mark.parametrize(
    ("units", "text"),
    [
        ({"y": "", "x": ""}, "its coordinates have no unit"),
        ({"x": "nm"}, "only x has a coordinate"),
        ({"y": "furlong", "x": "furlong"}, "'furlong' is not known as a unit of length"),
        ({"y": "nm", "x": ""}, "only one of the two axes has a unit"),
        ({"y": "1/nm", "x": "1/nm"}, "reciprocal space"),
    ],
)
def test_a_calibration_that_is_not_used_is_announced(units, text, tmp_path):
    axes = {d: (d, 2.0 * np.arange(n), {"units": units[d]}) for d, n in (("y", 6), ("x", 8)) if d in units}
    xr.DataArray(IMAGE, axes, ("y", "x")).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.warns(UserWarning, match=text):
        assert not stemkit.read(tmp_path / "a.nc").coords


def test_a_cropped_image_keeps_its_origin(tmp_path):
    image = with_pixel_sizes(xr.DataArray(IMAGE, dims=("y", "x")), 0.02, 0.01).isel(y=slice(2, 5), x=slice(3, 7))
    xr.testing.assert_equal(stemkit.read(stemkit.write(image, tmp_path / "a.nc")), image)
