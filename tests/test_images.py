"""Contract 1: what an image is."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import stemkit
from stemkit.images import intensity_scale, join, recorded_image, split
from stemkit.images.mode import resolve_mode
from stemkit.images.pixel_size import pixel_sizes, with_pixel_sizes
from stemkit.images.provenance import check_noise_attr, was_enhanced


def image(n_y=8, n_x=10, dtype=np.float64, **attrs):
    values = np.arange(n_y * n_x).reshape(n_y, n_x).astype(dtype)
    return xr.DataArray(values, dims=("y", "x"), attrs=attrs, name="counts")


class TestPixelSize:
    def test_is_the_spacing_of_the_coordinates(self):
        assert stemkit.calibrated(image(), pixel_size=0.02).stem.pixel_size == pytest.approx(0.02, rel=1e-12)

    @pytest.mark.parametrize(
        ("change", "factor"),
        [
            (lambda a: a[2:, 3:], 1),
            (lambda a: a[::2, ::2], 2),
            (lambda a: a.coarsen(y=2, x=2, boundary="trim").mean(), 2),
        ],
    )
    def test_follows_cropping_striding_and_coarsening(self, change, factor):
        changed = change(stemkit.calibrated(image(), pixel_size=0.02))
        assert changed.stem.pixel_size == pytest.approx(0.02 * factor, rel=1e-9)

    def test_missing_says_how_to_set_it(self):
        with pytest.raises(ValueError, match=r"stemkit\.calibrated\(image, pixel_size="):
            _ = image().stem.pixel_size

    def test_non_square_pixels_are_kept_and_refused_as_one_number(self):
        oblong = with_pixel_sizes(image(), 0.02, 0.01)
        assert oblong.stem.pixel_sizes == pytest.approx((0.02, 0.01))
        with pytest.raises(ValueError, match="square pixels"):
            _ = oblong.stem.pixel_size

    def test_one_pixel_wide_takes_the_other_axis(self):
        assert pixel_sizes(stemkit.calibrated(image(8, 1), pixel_size=0.5)) == pytest.approx((0.5, 0.5))

    @pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf])
    def test_must_be_positive(self, size):
        with pytest.raises(ValueError, match="positive"):
            stemkit.calibrated(image(), pixel_size=size)

    def test_stack_shares_its_coordinates(self):
        stack = stemkit.calibrated(np.zeros((2, 8, 8)), pixel_size=0.1)
        assert stack.dims == ("image", "y", "x")
        assert stack.stem.pixel_size == pytest.approx(0.1)


class TestRefusal:
    @pytest.mark.parametrize(
        ("bad", "error", "match"),
        [
            (np.zeros(5), ValueError, "1 dimension"),
            (np.zeros((2, 2, 2, 2)), ValueError, "4 dimension"),
            ("image.dm4", TypeError, "read the file first"),
            (np.zeros((0, 4)), ValueError, "empty"),
            (np.zeros((16, 16, 3)), ValueError, "RGB"),
            (np.zeros((4, 4), dtype=complex), ValueError, "complex"),
            (np.array([["a", "b"]], dtype=object), ValueError, "could not convert"),
            (np.array([[1, {}]], dtype=object), TypeError, "dict"),
            ([], ValueError, "empty list"),
            (xr.DataArray(np.zeros((4, 4)), dims=("x", "y")), ValueError, "transpose"),
            (xr.DataArray(np.zeros((4, 4)), dims=("a", "b")), ValueError, "dims"),
            (image(mode="tem"), ValueError, "mode"),
        ],
    )
    def test_names_the_constraint(self, bad, error, match):
        with pytest.raises(error, match=match):
            split(bad)

    def test_nan_says_how_many_and_where(self):
        bad = image()
        bad[3, 4] = np.nan
        bad[5, 5] = np.inf
        with pytest.raises(ValueError, match=r"2 pixel\(s\) are not, the first at y=3, x=4 \(NaN\)"):
            split(bad, name="image")

    @pytest.mark.parametrize(
        ("x", "match"), [([0, 2, 1, 3], "increase"), ([0, 1, 2, 4], "evenly"), ([3, 2, 1, 0], "increase")]
    )
    def test_coordinates_must_be_even_and_ascending(self, x, match):
        y = xr.Variable("y", np.arange(4.0), {"units": "nm"})
        bad = xr.DataArray(
            np.zeros((4, 4)),
            dims=("y", "x"),
            coords={"y": y, "x": xr.Variable("x", np.array(x, float), {"units": "nm"})},
        )
        with pytest.raises(ValueError, match=match):
            split(bad)

    def test_coordinates_must_be_in_nm(self):
        with pytest.raises(ValueError, match="units"):
            split(image().assign_coords(x=np.arange(10.0), y=np.arange(8.0)))

    def test_calibrated_mends_what_its_error_asks_to_mend(self):
        bad = image().assign_coords(x=np.arange(10.0), y=np.arange(8.0))
        assert stemkit.calibrated(bad, pixel_size=0.3).stem.pixel_size == pytest.approx(0.3)

    def test_one_coordinate_alone(self):
        with pytest.raises(ValueError, match="alone"):
            split(stemkit.calibrated(image(), pixel_size=1.0).drop_vars("x"))


class TestContainers:
    @pytest.mark.parametrize(
        "X",
        [
            np.ones((4, 6)),
            np.ones((3, 4, 6), dtype=np.float32),
            image(),
            xr.DataArray(np.ones((3, 4, 6)), dims=("image", "y", "x"), coords={"image": ["a", "b", "c"]}),
            [np.ones((4, 6)), image()],
        ],
        ids=["array", "array stack", "image", "stack", "list"],
    )
    def test_what_comes_out_is_what_came_in(self, X):
        out = join(split(X), X)
        assert type(out) is type(X)
        for before, after in zip(split(X), split(out), strict=True):
            xr.testing.assert_identical(before, after)

    def test_stack_keeps_labels_and_gathers_each_image_s_noise(self):
        X = xr.DataArray(np.zeros((2, 8, 8)), dims=("image", "y", "x"), coords={"image": [5, 7]}, attrs={"a": 1})
        single = [i.assign_attrs(noise=f"n{k}") for k, i in enumerate(split(X))]
        out = join(single, X)
        assert out.attrs == {"a": 1, "noise": ["n0", "n1"]}
        assert out.coords["image"].values.tolist() == [5, 7]
        assert [i.attrs["noise"] for i in split(out)] == ["n0", "n1"]

    def test_maps_of_a_stack_are_stacked(self):
        X = xr.DataArray(np.zeros((2, 8, 8)), dims=("image", "y", "x"))
        out = join([i.assign_coords(recorded=(("y", "x"), i.values + k)) for k, i in enumerate(split(X))], X)
        assert out.coords["recorded"].dims == ("image", "y", "x")
        assert recorded_image(split(out)[1]).values.max() == 1


class TestMode:
    def test_what_is_said_counts(self):
        assert resolve_mode(image(mode="bf")) == "bf"
        assert resolve_mode(image(mode="bf"), "haadf") == "haadf"
        with pytest.raises(ValueError, match="mode must be one of"):
            resolve_mode(image(), "tem")

    def test_dark_columns_are_recognised_and_announced(self):
        y, x = np.mgrid[:64, :64]
        spots = np.exp(-((y % 16 - 8) ** 2 + (x % 16 - 8) ** 2) / 8.0)
        assert resolve_mode(xr.DataArray(spots, dims=("y", "x"))) == "haadf"
        with pytest.warns(UserWarning, match='taken as "bf"'):
            assert resolve_mode(xr.DataArray(-spots, dims=("y", "x"))) == "bf"

    def test_is_inferred_from_the_middle_of_a_large_image(self):
        phase = np.cos(2 * np.pi * np.arange(2500) / 10)
        spots = np.add.outer(phase[:100], phase).astype(np.float32).clip(0) ** 2
        dark_in_the_middle = np.concatenate([spots, -spots[:, :2040], spots], axis=1)
        with pytest.warns(UserWarning, match="no mode"):
            assert resolve_mode(xr.DataArray(dark_in_the_middle, dims=("y", "x"))) == "bf"


@given(st.floats(0.01, 1e4), st.floats(-1e4, 1e4), st.integers(0, 2**32 - 1))
def test_intensity_scale_moves_with_the_image(a, b, seed):
    values = np.random.default_rng(seed).normal(size=(16, 16))
    offset, scale = intensity_scale(values)
    moved_offset, moved_scale = intensity_scale(a * values + b)
    assert moved_offset == pytest.approx(a * offset + b, rel=1e-9, abs=1e-9 * (abs(a) + abs(b)))
    assert moved_scale == pytest.approx(a * scale, rel=1e-6)


@given(st.floats(-1e12, 1e12))
def test_a_constant_image_has_no_scale(value):
    assert intensity_scale(np.full((8, 8), value))[1] == 0.0


def test_noise_of_another_pixel_size_is_refused():
    calibrated = stemkit.calibrated(image(), pixel_size=0.01).assign_attrs(
        noise='{"pixel_size": 0.01, "contrast": 2.0}'
    )
    assert check_noise_attr(calibrated) == {"contrast": 2.0}
    with pytest.raises(ValueError, match="run NoiseCalibrator again"):
        check_noise_attr(calibrated[::2, ::2])


def test_a_stack_cut_after_calibration_says_what_to_do():
    stack = xr.DataArray(np.zeros((3, 8, 8)), dims=("image", "y", "x"), attrs={"noise": ["{}", "{}", "{}"]})
    assert [check_noise_attr(i) for i in split(stack)] == [{}, {}, {}]
    for part in (stack[0], stack[:2]):
        with pytest.raises(ValueError, match="Calibrate after indexing"):
            check_noise_attr(split(part)[0])


def test_masked_pixels_are_refused():
    masked = np.ma.masked_array(np.ones((8, 8)), mask=np.eye(8, dtype=bool))
    with pytest.raises(ValueError, match="masked pixels"):
        split(masked)
    assert len(split(np.ma.masked_array(np.ones((8, 8))))) == 1


def test_the_frames_of_a_series_are_split_and_joined_with_their_times():
    frames = stemkit.calibrated(np.random.default_rng(0).random((3, 40, 50)).astype(np.float32), pixel_size=0.02)
    frames = frames.rename(image="frame").assign_coords(time=("frame", [0.0, 1.0, 2.5]))
    images = split(frames)
    assert [image.dims for image in images] == [("y", "x")] * 3
    xr.testing.assert_identical(join(images, frames), frames)


@pytest.mark.parametrize("text", ["garbage", "[1]", "5", "[" * 100_000])
def test_records_that_stemkit_has_not_written_are_refused(text):
    image = xr.DataArray(np.ones((4, 4)), dims=("y", "x"), attrs={"stemkit": text, "noise": text})
    with pytest.raises(ValueError, match=r'attrs\["stemkit"\] must be the JSON text .*remove this attribute'):
        was_enhanced(image)
    with pytest.raises(ValueError, match=r'attrs\["noise"\] must be the JSON text of one noise model'):
        check_noise_attr(image)
