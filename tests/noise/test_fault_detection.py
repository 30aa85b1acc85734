from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import columns_of, crystal, gaussians, lattice_positions, seeds

from stemkit import NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.columns import fit_columns
from stemkit.noise.drawing import displace_rows
from stemkit.noise.fault_detection import describe_hum, describe_pixel_faults, find_scan_faults, saturated_pixels
from stemkit.pixels import find_pixel_faults

TRUE_IMAGE = 5.0 + crystal((120, 130))
QUIET = NoiseModel(pointwise=PointwiseNoise(0.1))


def of_pixels(values: np.ndarray) -> dict[str, str]:
    return describe_pixel_faults(values, find_pixel_faults(values))


def test_a_scan_that_was_cut_short_is_reported():
    noisy = QUIET.apply(TRUE_IMAGE, random_state=0)
    noisy[-7:] = 0.0
    assert (
        "7 row(s) are dead, hot or missing, the first is row 113 (the scan was cut short)" in of_pixels(noisy)["rows"]
    )
    noisy = np.roll(noisy, -20, axis=0)
    assert "7 row(s) are dead, hot or missing, the first is row 93" in of_pixels(noisy)["rows"]
    assert "cut short" not in of_pixels(noisy)["rows"]


def test_number_and_place_of_faulty_pixels_are_reported():
    noisy = QUIET.apply(TRUE_IMAGE, random_state=0)
    noisy[20, 31], noisy[50, 60], noisy[70, 80] = 900.0, 500.0, -400.0
    noisy[90:105, 40:60] = 50.0
    found = of_pixels(noisy)
    assert set(found) == {"hot", "dead", "constant"}
    assert found["hot"] == "2 hot pixel(s), the brightest at y=20, x=31 with the value 900"
    assert found["dead"] == "1 dead pixel(s), the darkest at y=70, x=80 with the value -400"
    assert "300 pixels in 1 area(s)" in found["constant"]
    assert "rows 90 to 104, columns 40 to 59" in found["constant"]


@settings(max_examples=15)
@given(st.floats(5.3, 5.9), st.booleans(), seeds)
def test_saturated_pixels_are_those_at_the_end(end, inverted, seed):
    sign = -1.0 if inverted else 1.0
    clipped = sign * np.minimum(QUIET.apply(TRUE_IMAGE, random_state=seed), end)
    np.testing.assert_array_equal(saturated_pixels(clipped), clipped == sign * end)
    assert f"{(clipped == sign * end).mean():.1%} of the pixels" in of_pixels(clipped)["saturation"]


@settings(max_examples=15)
@given(st.floats(0.02, 0.1), seeds)
def test_digital_levels_are_not_saturation(step, seed):
    noisy = QUIET.apply(TRUE_IMAGE, random_state=seed)
    for image in (noisy, np.round(noisy / step) * step, np.zeros((9, 9))):
        assert not saturated_pixels(image).any()


@settings(max_examples=15)
@given(st.floats(0.002, 3.0), st.floats(0.0, 0.1), st.sampled_from([1.0, 0.37]), seeds)
def test_zero_counts_are_no_end_of_the_range(dose, background, unit, seed):
    counts = np.random.default_rng(seed).poisson(dose * (background + crystal((120, 130))))
    assert not saturated_pixels(counts * unit).any()


@settings(max_examples=15)
@given(st.floats(0.05, 0.5), seeds)
def test_zero_counts_in_a_part_of_an_image_of_other_noise_are_no_end_of_the_range(dose, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(1000.0, 100.0, (120, 130)).round()
    image[:30] = rng.poisson(dose, (30, 130))
    # the noise of most of the image is not that of counts, but that of the neighbours of zeros is
    assert not saturated_pixels(image).any()


@settings(max_examples=15)
@given(st.floats(5.0, 12.0), st.floats(-0.5, 1.5), seeds)  # less noise may be that of counts
def test_noise_that_is_cut_off_at_zero_is_saturated(noise, offset, seed):
    values = np.random.default_rng(seed).normal(offset * noise, noise, (120, 130))
    image = np.clip(np.round(values), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(saturated_pixels(image), image == 0)


# --- through the calibrator --------------------------------------------------------------------------------------


def faults(values: np.ndarray) -> dict[str, str]:
    return NoiseCalibrator(mode="haadf").fit(values).diagnostics_[0]["faults"]


@settings(max_examples=3)
@given(st.floats(0.0, 0.6), st.floats(0.0, 0.08), seeds)
def test_a_scan_without_faults_has_none(jitter, streaks, seed):
    model = NoiseModel(scan=ScanNoise(streaks, 20.0, jitter), pointwise=PointwiseNoise(0.1))
    assert faults(model.apply(crystal((256, 256)), random_state=seed)) == {}


@settings(max_examples=3)
@given(st.floats(0.3, 0.8), st.floats(4.5, 9.0), seeds)
def test_hum_is_reported_with_amplitude_and_period(amplitude, period, seed):
    # the time of a pixel in rows, without flyback
    time = np.arange(256)[:, None] + np.arange(256) / 256
    moved = torch.as_tensor(crystal((256, 256)))[None]
    moved = displace_rows(moved, torch.as_tensor(amplitude * np.sin(2 * np.pi * time / period))[None])[0]
    found = faults(QUIET.apply(moved.numpy(), random_state=seed))
    assert set(found) == {"hum"}
    reported = re.search(r"amplitude ([\d.]+) px along x, once in ([\d.]+) rows$", found["hum"])
    assert float(reported[1]) == pytest.approx(amplitude, rel=0.15)
    assert 1 / float(reported[2]) == pytest.approx(1 / period, abs=0.2 / 256)


def test_the_report_of_hum_has_both_axes_and_the_apparent_period():
    assert describe_hum(ScanNoise(hum_period=5.0)) == {}
    both = describe_hum(ScanNoise(hum=0.25, hum_y=0.5, hum_period=5.0))["hum"]
    assert both == "rows are displaced periodically: amplitude 0.25 px along x and 0.5 px along y, once in 5 rows"
    # 1 / 1.6 = 0.625 cycles per row are seen as 0.375
    below_two_rows = describe_hum(ScanNoise(hum_y=0.5, hum_period=1.6))["hum"]
    assert below_two_rows.endswith("amplitude 0.5 px along y, once in 1.6 rows, which looks like once in 2.67 rows")


@pytest.mark.slow
@settings(max_examples=3)
@given(st.sampled_from([-0.8, -0.5, 0.5, 0.8]), seeds)
def test_a_displacement_at_the_left_edge_is_reported(shift, seed):
    shape = (320, 256)
    positions = lattice_positions(shape, 16.0, angle=0.02, margin=-6.0)
    moved = positions + np.stack([0 * positions[:, 0], shift * (positions[:, 1] < 18)], axis=1)
    image = QUIET.apply(gaussians(shape, moved, 2.6), random_state=seed)
    assert f"{shift:+.1f}"[:2] in faults(image)["flyback"]
    assert "flyback" not in faults(QUIET.apply(gaussians(shape, positions, 2.6), random_state=seed))


def test_few_columns_have_no_flyback():
    _, fits = columns_of((64, 64))
    assert find_scan_faults(QUIET.apply(crystal((64, 64)), random_state=0), fits) == {}
    everything = fit_columns(TRUE_IMAGE, lattice_positions(TRUE_IMAGE.shape, 18.0, margin=-8.0), 3.0)
    assert find_scan_faults(TRUE_IMAGE, everything) == {}


# --- what faulty pixels do to a calibration ----------------------------------------------------------------------


def counts(shape: tuple[int, int], seed: int, dose: float = 100.0) -> np.ndarray:
    positions = lattice_positions(shape, 13.0, angle=0.1, margin=-9.0)
    return np.random.default_rng(seed).poisson(dose * (0.1 + gaussians(shape, positions, 2.4))).astype(float)


def spoil(image: np.ndarray, kind: str) -> np.ndarray:
    out = image.copy()
    if kind == "hot pixels":
        y, x = np.random.default_rng(1).integers(0, 224, (2, 30))
        out[y, x] = 65535.0
    elif kind == "one spike":
        out[70, 71] = 4000.0
    elif kind == "hot row":
        out[80] = 65535.0
    elif kind == "noisy hot row":
        out[80] += 5000.0
    elif kind == "dead rows":
        out[[60, 61, 100]] = 0.0
    elif kind == "saturated area":
        out[40:80, 50:90] = 65535.0
    elif kind == "border":
        out[:14], out[:, -11:] = 0.0, 0.0
    elif kind == "dark patch":
        out[:36, :36] = 0.0
    return out


@pytest.mark.parametrize(
    "kind",
    ["hot pixels", "one spike", "hot row", "noisy hot row", "dead rows", "saturated area", "border", "dark patch"],
)
def test_faulty_pixels_do_not_change_the_calibration(kind):
    image = counts((224, 224), 0)
    spoiled = spoil(image, kind)
    without, calibrator = NoiseCalibrator(mode="haadf").fit(image), NoiseCalibrator(mode="haadf").fit(spoiled)
    diagnostics = calibrator.diagnostics_[0]
    assert diagnostics["faults"]
    assert "saturation" not in diagnostics["faults"]
    if kind in ("hot pixels", "one spike"):
        np.testing.assert_array_equal(diagnostics["faulty"], spoiled != image)
    assert diagnostics["faulty"][spoiled != image].all()
    expected, found, std = without.noise_model_, calibrator.noise_model_, without.noise_model_std_
    assert abs(found.contrast - expected.contrast) < 0.01 * expected.contrast
    assert abs(found.level - expected.level) < 0.01 * expected.contrast
    assert abs(found.pointwise.gain - expected.pointwise.gain) < 2 * std["pointwise.gain"]
    assert abs(found.pointwise.readout - expected.pointwise.readout) < 2 * std["pointwise.readout"]
    assert found.pointwise.kind == expected.pointwise.kind == "poisson"
    assert found.background.amplitude == 0.0
    assert calibrator.noise_model_std_["contrast"] < 1.2 * std["contrast"]


def test_vacuum_is_no_fault_and_no_background_noise():
    shape = (200, 200)
    positions = lattice_positions(shape, 13.0, angle=0.1, margin=-9.0)
    everywhere = 0.2 + gaussians(shape, positions, 2.4)
    y, x = np.mgrid[:200, :200]
    crystal_part = 1 / (1 + np.exp((50 - np.maximum(y, x)) / 1.5))
    partly = 0.2 + gaussians(shape, positions[positions.max(axis=1) > 50], 2.4)
    rng = np.random.default_rng
    without = NoiseCalibrator(mode="haadf").fit(rng(0).poisson(100 * everywhere))
    fitted = NoiseCalibrator(mode="haadf").fit(rng(0).poisson(100 * crystal_part * partly))
    assert fitted.diagnostics_[0]["faults"] == {}
    assert not fitted.diagnostics_[0]["faulty"].any()
    assert without.noise_model_.background.amplitude == fitted.noise_model_.background.amplitude == 0.0
    assert abs(fitted.noise_model_.level - without.noise_model_.level) < 1.0
    gains = [c.noise_model_.pointwise.gain for c in (without, fitted)]
    assert abs(gains[1] - gains[0]) < 2 * without.noise_model_std_["pointwise.gain"]


def test_a_particle_in_vacuum_with_few_counts_has_the_noise_of_counts():
    shape = (300, 300)
    positions = lattice_positions(shape, 13.0, angle=0.2, margin=40)
    positions = positions[((positions - 150) ** 2).sum(axis=1) < 70**2]
    counted = np.random.default_rng(0).poisson(2.5 * gaussians(shape, positions, 2.4) + 0.03)
    fitted = NoiseCalibrator(mode="haadf").fit(counted)
    assert fitted.diagnostics_[0]["faults"] == {}
    assert fitted.noise_model_.digitization.low is None
    gain, error = fitted.noise_model_.pointwise.gain, fitted.noise_model_std_["pointwise.gain"]
    assert abs(gain - 1 / fitted.noise_model_.contrast) < 4 * error < 0.3
