from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from strategies import SIGMAS, crystal, pixel_sizes

import stemkit
from stemkit import BackgroundNoise, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise, STEMSynthesizer
from stemkit.images import check_noise_attr
from stemkit.noise.calibration import _split_point
from stemkit.noise.figure3 import figure3


#: Relative errors that are reached on crystals of 320 px, with room for other seeds (measured: half of them).
READOUT, GAIN, JITTER, STREAKS, CONTRAST, BACKGROUND = 0.12, 0.3, 0.25, 0.15, 0.04, 0.45


def recorded(model: NoiseModel, seed: int = 0, second: float = 0.0, n: int = 320) -> np.ndarray:
    sign = -1.0 if model.mode == "bf" else 1.0
    clean = model.level + sign * model.contrast * crystal((n, n), angle=0.3 + 0.2 * seed, second=second)
    return model.apply(clean, random_state=seed)


def calibrated(model: NoiseModel, **how) -> NoiseModel:
    return NoiseCalibrator(mode=model.mode).fit(recorded(model, **how)).noise_model_


def model(mode: str = "haadf", *, background=None, scan=None, **pointwise) -> NoiseModel:
    return NoiseModel(
        100.0,
        200.0 if mode == "bf" else 20.0,
        mode,
        background or BackgroundNoise(),
        scan or ScanNoise(),
        PointwiseNoise(**pointwise),
    )


# --- what was drawn is found -------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [0.0, 0.6])
@pytest.mark.parametrize("mode", ["haadf", "bf"])
@pytest.mark.parametrize("gain", [0.0, 0.03])
def test_pointwise_noise_is_recovered(mode, gain, second):
    known = model(mode, readout=0.2, gain=-gain if mode == "bf" else gain)
    found = calibrated(known, seed=1, second=second)
    assert found.mode == mode
    assert found.contrast == pytest.approx(100.0, rel=CONTRAST)
    assert found.level == pytest.approx(known.level, abs=4.0)
    assert found.pointwise.readout == pytest.approx(0.2, rel=READOUT)
    assert found.pointwise.gain == pytest.approx(known.pointwise.gain, abs=GAIN * 0.03)
    assert abs(found.pointwise.correlation_x) < 0.03
    assert found.scan.amplitude < 0.02
    assert found.scan.jitter < 0.25


@pytest.mark.parametrize("shape", [-0.05, 0.14, 0.4])
def test_shape_is_recovered(shape):
    assert calibrated(model(readout=0.2, shape=shape)).pointwise.shape == pytest.approx(shape, abs=0.06)


@pytest.mark.parametrize("correlation", [0.15, 0.35])
def test_correlation_along_the_row_is_recovered(correlation):
    found = calibrated(model(readout=0.15, correlation_x=correlation)).pointwise
    assert found.correlation_x == pytest.approx(correlation, abs=0.04)
    assert found.readout == pytest.approx(0.15, rel=READOUT)


@pytest.mark.parametrize("length", [15.0, 30.0])
def test_streaks_are_recovered(length):
    found = calibrated(model(scan=ScanNoise(0.08, length), readout=0.1))
    assert found.scan.amplitude == pytest.approx(0.08, rel=STREAKS)
    assert found.scan.length == pytest.approx(length, rel=0.35)
    assert found.pointwise.readout == pytest.approx(0.1, rel=READOUT)


def test_streaks_of_whole_rows_are_recovered():
    found = calibrated(model(scan=ScanNoise(0.08, math.inf), readout=0.1)).scan
    # 320 rows
    assert found.amplitude == pytest.approx(0.08, rel=SIGMAS / math.sqrt(2 * 320))
    assert math.isinf(found.length)


@pytest.mark.parametrize("second", [0.0, 0.6])
@pytest.mark.parametrize("jitter", [0.4, 0.8])
def test_jitter_is_recovered_beside_streaks(jitter, second):
    found = calibrated(model(scan=ScanNoise(0.05, 30.0, jitter), readout=0.08), second=second).scan
    # columns seen through noise look a little steeper than they are
    assert (1 - JITTER) * jitter < found.jitter < 1.1 * jitter
    assert found.amplitude == pytest.approx(0.05, rel=STREAKS)
    assert found.length == pytest.approx(30.0, rel=0.35)


def test_counted_electrons_are_recovered():
    found = calibrated(model(readout=0.1, gain=0.05, kind="poisson")).pointwise
    assert found.readout == pytest.approx(0.1, rel=READOUT)
    assert found.gain == pytest.approx(0.05, rel=GAIN)


@pytest.mark.parametrize("length", [20.0, 40.0])
def test_background_is_recovered_from_several_images(length):
    known = model(background=BackgroundNoise(0.08, length), readout=0.1)
    found = NoiseCalibrator(mode="haadf").fit([recorded(known, seed=s) for s in range(4)]).noise_model_.background
    assert found.amplitude == pytest.approx(0.08, rel=BACKGROUND)
    assert found.length == pytest.approx(length, rel=BACKGROUND)


@pytest.mark.parametrize(
    "other",
    [
        {"readout": 0.2},
        {"readout": 0.15, "correlation_x": 0.4},
        {"readout": 0.1, "scan": ScanNoise(0.1, math.inf)},
        {"readout": 0.1, "scan": ScanNoise(0.1, 20.0)},
    ],
)
def test_other_noise_is_not_taken_for_a_background(other):
    for seed in range(3):
        assert calibrated(model(**other), seed=seed).background.amplitude < 0.03


def test_several_images_average_and_state_smaller_errors():
    known = model(readout=0.15)
    images = [recorded(known, seed=s, n=128) for s in range(4)]
    together = NoiseCalibrator(mode="haadf").fit(images)
    alone = [NoiseCalibrator(mode="haadf").fit(i) for i in images]
    assert together.n_images_ == 4
    assert len(together.diagnostics_) == 4
    mean = np.mean([a.noise_model_.pointwise.readout for a in alone])
    assert together.noise_model_.pointwise.readout == pytest.approx(mean)
    key = "scan.jitter"
    assert together.noise_model_std_[key] < np.mean([a.noise_model_std_[key] for a in alone])


def test_stated_errors_cover_the_scatter():
    known = model(readout=0.15)
    fits = [NoiseCalibrator(mode="haadf").fit(recorded(known, seed=s, n=192)) for s in range(8)]
    for key, true in (("pointwise.readout", 0.15), ("pointwise.correlation_x", 0.0)):
        part, name = key.split(".")
        values = np.array([getattr(getattr(f.noise_model_, part), name) for f in fits])
        stated = math.sqrt(np.mean([f.noise_model_std_[key] ** 2 for f in fits]))
        # a scatter of 8 is itself uncertain by a quarter; gradients of the specimen leave a bias of 5 %
        assert values.std(ddof=1) < (1 + SIGMAS / math.sqrt(14)) * stated
        assert abs(values.mean() - true) < SIGMAS * stated


# --- images without columns --------------------------------------------------------------------------------------


def test_images_without_columns_are_flagged():
    noise = np.random.default_rng(0).normal(100.0, 5.0, (128, 128))
    fitted = NoiseCalibrator(mode="haadf").fit(noise)
    assert fitted.diagnostics_[0]["has_columns"] is False
    found = fitted.noise_model_
    deviation = found.pointwise.readout * found.contrast
    assert deviation == pytest.approx(5.0, rel=0.1)
    assert NoiseCalibrator(mode="haadf").fit(recorded(model(readout=0.1))).diagnostics_[0]["has_columns"] is True


@pytest.mark.parametrize("value", [0.0, 17.0, -3.0])
def test_a_constant_image_has_no_noise(value):
    image = np.full((64, 64), value)
    fitted = NoiseCalibrator(mode="haadf").fit(image)
    found = fitted.noise_model_
    assert not fitted.diagnostics_[0]["has_columns"]
    assert found.level == value
    assert found.contrast == 1.0
    assert found.pointwise.readout == pytest.approx(0.0, abs=1e-12)
    assert (found.scan.amplitude, found.scan.jitter, found.background.amplitude) == pytest.approx((0, 0, 0), abs=1e-12)
    assert np.array_equal(fitted.transform(image), image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1), (5, 9), (31, 31)])
def test_tiny_images_are_taken_with_a_warning(shape):
    image = np.random.default_rng(0).normal(size=shape)
    with pytest.warns(UserWarning, match="under 32 px"):
        fitted = NoiseCalibrator(mode="haadf").fit(image)
    assert fitted.transform(image).shape == shape


def test_modes_may_not_be_mixed():
    image = xr.DataArray(recorded(model(readout=0.1), n=64), dims=("y", "x"))
    with pytest.raises(ValueError, match="images of one mode"):
        NoiseCalibrator().fit([image.assign_attrs(mode="haadf"), image.assign_attrs(mode="bf")])


def test_dark_columns_are_inferred_with_a_warning():
    with pytest.warns(UserWarning, match='taken as "bf"'):
        fitted = NoiseCalibrator().fit(recorded(model("bf", readout=0.1), n=128))
    assert fitted.noise_model_.mode == "bf"
    assert fitted.noise_model_.level == pytest.approx(200.0, abs=5.0)


def test_not_finite_pixels_are_refused():
    image = recorded(model(readout=0.1), n=64)
    image[3, 4] = np.nan
    with pytest.raises(ValueError, match="X must be finite"):
        NoiseCalibrator().fit(image)


# --- affine ------------------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.sampled_from(["haadf", "bf"]))
def test_fractions_do_not_depend_on_the_units(scale, offset, mode):
    known = model(mode, readout=0.1, gain=0.02 if mode == "haadf" else -0.005, scan=ScanNoise(0.05, 20.0, 0.3))
    image = recorded(known, n=128)
    first = NoiseCalibrator(mode=mode).fit(image).noise_model_
    second = NoiseCalibrator(mode=mode).fit(scale * image + offset).noise_model_
    assert second.contrast == pytest.approx(scale * first.contrast, rel=1e-6)
    assert second.level == pytest.approx(scale * first.level + offset, rel=1e-6, abs=1e-6 * scale * first.contrast)
    for part in ("background", "scan", "pointwise"):
        one, other = vars(getattr(first, part)), vars(getattr(second, part))
        assert {k: v for k, v in one.items() if k != "kind"} == pytest.approx(
            {k: v for k, v in other.items() if k != "kind"}, rel=1e-4, abs=1e-6
        )


# --- transform ---------------------------------------------------------------------------------------------------


def image_of(pixel_size: float | None, n: int = 96) -> xr.DataArray:
    image = xr.DataArray(recorded(model(readout=0.1), n=n).astype("f4"), dims=("y", "x"), attrs={"mode": "haadf"})
    return image if pixel_size is None else stemkit.calibrated(image, pixel_size=pixel_size)


@settings(max_examples=5)
@given(st.none() | pixel_sizes)
def test_transform_labels_and_leaves_pixels_alone(pixel_size):
    image = image_of(pixel_size)
    calibrator = NoiseCalibrator().fit(image)
    labelled = calibrator.transform(image)
    assert labelled.dtype == np.float32
    assert np.array_equal(labelled, image)
    assert "noise" not in image.attrs
    described = json.loads(labelled.attrs["noise"])
    assert described.pop("pixel_size") == (None if pixel_size is None else pytest.approx(pixel_size))
    assert NoiseModel.from_dict(described) == calibrator.noise_model_
    assert NoiseModel.from_dict(check_noise_attr(labelled)) == calibrator.noise_model_


def test_transform_takes_contrast_and_level_from_each_image():
    image = image_of(None, 128)
    calibrator = NoiseCalibrator().fit(image)
    other = NoiseModel.from_dict(check_noise_attr(calibrator.transform(3 * image + 50)))
    fitted = calibrator.noise_model_
    assert other.contrast == pytest.approx(3 * fitted.contrast, rel=1e-4)
    assert other.level == pytest.approx(3 * fitted.level + 50, rel=1e-4)
    assert (other.pointwise, other.scan, other.background) == (fitted.pointwise, fitted.scan, fitted.background)


def test_plain_arrays_come_back_as_they_are():
    image = recorded(model(readout=0.1), n=64)
    out = NoiseCalibrator(mode="haadf").fit(image).transform(image)
    assert isinstance(out, np.ndarray)
    assert np.array_equal(out, image)


@pytest.mark.parametrize("stack", [False, True])
def test_noise_survives_a_file(stack, tmp_path):
    image = image_of(0.0123)
    if stack:
        image = xr.concat([image, 2 * image], dim="image").assign_attrs(image.attrs)
    labelled = NoiseCalibrator().fit(image).transform(image)
    back = stemkit.read(stemkit.write(labelled, tmp_path / "image.nc"))
    pairs = zip(back, labelled, strict=True) if stack else [(back, labelled)]
    if stack:
        assert [json.loads(n) for n in back.attrs["noise"]] == [json.loads(n) for n in labelled.attrs["noise"]]
        assert json.loads(labelled.attrs["noise"][1])["contrast"] == pytest.approx(
            2 * json.loads(labelled.attrs["noise"][0])["contrast"], rel=1e-4
        )
    else:
        assert check_noise_attr(back) == check_noise_attr(labelled)
    for one, other in pairs:
        assert np.array_equal(one, other)


@pytest.mark.parametrize("change", [lambda i: i[::2, ::2], lambda i: i.drop_vars(["y", "x"])])
def test_another_pixel_size_is_refused(change):
    image = image_of(0.0123)
    labelled = NoiseCalibrator().fit(image).transform(image)
    with pytest.raises(ValueError, match=r"was calibrated at a pixel size of 0\.0123 nm, but the image has"):
        check_noise_attr(change(labelled))
    assert check_noise_attr(labelled[10:50, 3:]) == check_noise_attr(labelled)
    with pytest.raises(ValueError, match="run NoiseCalibrator again"):
        STEMSynthesizer().fit(change(labelled))


def test_estimator_conventions():
    calibrator = NoiseCalibrator(mode="bf")
    assert clone(calibrator).get_params() == {"mode": "bf"}
    fitted = NoiseCalibrator(mode="haadf").fit(recorded(model(readout=0.1), n=64))
    assert pickle.loads(pickle.dumps(fitted)).noise_model_ == fitted.noise_model_
    with pytest.raises(ValueError, match="not fitted"):
        calibrator.transform(np.zeros((40, 40)))
    with pytest.raises(ValueError, match="mode must be one of 'haadf', 'bf' or None, but is 'df'"):
        NoiseCalibrator(mode="df").fit(np.zeros((40, 40)))


# --- steps -------------------------------------------------------------------------------------------------------


def test_brightest_sublattice():
    rng = np.random.default_rng(0)
    two = np.concatenate([rng.normal(1.0, 0.05, 60), rng.normal(0.5, 0.05, 80)])
    assert (two >= _split_point(two)).sum() == 60
    one = rng.normal(1.0, 0.1, 100)
    assert (one >= _split_point(one)).all()


def test_figure_3_corrects_for_its_own_filter():
    noise = np.random.default_rng(0).normal(size=(256, 256)) * 0.1 + np.linspace(0, 1, 256)
    scan, pointwise = figure3(noise, 2.0)
    np.testing.assert_allclose(pointwise.y, 0.1, rtol=0.1)
    assert pointwise.intercept == pytest.approx(0.1, rel=0.05)
    assert abs(pointwise.slope) < 0.02
    assert len(scan.x) == len(scan.y) == len(scan.count)


def test_figure_3_of_a_constant_image():
    for curve in figure3(np.full((32, 32), 5.0), 2.0):
        assert len(curve.x) == 0
        assert curve.intercept == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("broken", [slice(80, 81), slice(50, 52), slice(-6, None)], ids=["dead", "two", "cut short"])
def test_rows_that_are_no_recording_do_not_count(broken):
    clean = crystal((320, 320))
    noisy = np.asarray(NoiseModel(1.0, 0.0, pointwise=PointwiseNoise(0.1)).apply(clean, random_state=0)) + 5.0
    whole = NoiseCalibrator(mode="haadf").fit(noisy).noise_model_
    noisy[broken] = 0.0
    model = NoiseCalibrator(mode="haadf").fit(noisy).noise_model_
    assert model.contrast == pytest.approx(whole.contrast, rel=0.02)
    assert model.pointwise.readout == pytest.approx(whole.pointwise.readout, rel=0.05)
    assert model.scan.jitter == pytest.approx(whole.scan.jitter, abs=0.05)


def test_an_image_of_the_other_mode_is_refused():
    clean = crystal((320, 320))
    noisy = np.asarray(NoiseModel(1.0, 0.0, pointwise=PointwiseNoise(0.1)).apply(clean, random_state=0))
    dark = xr.DataArray(-noisy, dims=("y", "x"), attrs={"mode": "bf"})
    calibrator = NoiseCalibrator().fit(dark)
    with pytest.raises(ValueError, match="fitted on bf images, but this one is haadf"):
        calibrator.transform(xr.DataArray(noisy, dims=("y", "x"), attrs={"mode": "haadf"}))
