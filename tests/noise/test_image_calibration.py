"""Drift and hum of the beam in whole images."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, crystal, displacements

from stemkit import NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise

#: Suffixes of the names of displacements along x and along y.
suffixes = st.sampled_from(["", "_y"])

SHAPE = (256, 256)
TRUE_IMAGE = crystal(SHAPE, angle=0.3)


def calibrated(scan: ScanNoise, seed: int, readout: float = 0.05) -> NoiseCalibrator:
    image = NoiseModel(scan=scan, pointwise=PointwiseNoise(readout)).apply(TRUE_IMAGE, random_state=seed)
    return NoiseCalibrator(mode="haadf").fit(image)


@pytest.mark.slow
@settings(max_examples=4)
# the misfit of a row that crosses hardly any column is not that of a typical one
@example("_y", 0.375, 0.5, 2.39, 13)
@example("_y", 0.375, 0.5, 2.39, 265)
@given(suffixes, st.floats(0.2, 0.4), st.floats(0.5, 0.8), st.floats(2.0, 3.5), st.integers(0, 1000))
def test_drift_in_an_image_is_found(suffix, jitter, drift, rows, seed):
    scan = ScanNoise(**{f"jitter{suffix}": jitter, f"drift{suffix}": drift}, drift_rows=rows)
    calibrator = calibrated(scan, seed)
    found, std = calibrator.noise_model_.scan, calibrator.noise_model_std_
    drawn = displacements(NoiseModel(scan=scan), SHAPE, seed, 0 if suffix else 1)[8:-8, 128]
    assert getattr(found, f"displacement{suffix}") == pytest.approx(drawn.std(), rel=0.2)
    # a draw of a drift has more or less than its expected variance
    assert abs(getattr(found, f"drift{suffix}") - drift) < SIGMAS * math.hypot(
        std[f"scan.drift{suffix}"], drift * math.sqrt(math.sqrt(2 * math.pi) * rows / (2 * SHAPE[0]))
    )
    assert abs(found.drift_rows - rows) < SIGMAS * std["scan.drift_rows"] + 0.1 * rows
    assert abs(getattr(found, f"jitter{suffix}") - jitter) < 0.2 * jitter + SIGMAS * std[f"scan.jitter{suffix}"]


@settings(max_examples=4)
@given(suffixes, st.floats(0.3, 0.6), st.floats(1.4, 9.0), st.integers(0, 1000))
def test_hum_in_an_image_is_found_with_its_period(suffix, hum, period, seed):
    # frequencies near 1/2 per row cannot be distinguished from their aliases
    frequency = 1 / period
    assume(abs(frequency - 0.5) > 0.03)
    scan = ScanNoise(**{f"hum{suffix}": hum, f"jitter{suffix}": 0.2}, hum_period=1 / frequency)
    calibrator = calibrated(scan, seed)
    found, std = calibrator.noise_model_.scan, calibrator.noise_model_std_
    assert abs(getattr(found, f"hum{suffix}") - hum) < SIGMAS * std[f"scan.hum{suffix}"] + 0.1 * hum
    assert abs(1 / found.hum_period - frequency) < SIGMAS * std["scan.hum_period"] * frequency**2 + 1e-4
    # rarely, a part of the jitter, which is 0.2 px, is taken for a drift
    assert math.hypot(found.drift, found.drift_y) < 0.15


@pytest.mark.parametrize("scan", [ScanNoise(), ScanNoise(0.05, 20.0, 0.4, jitter_y=0.3), ScanNoise(jitter=0.8)])
def test_an_image_without_drift_and_hum_has_none(scan):
    calibrator = calibrated(scan, 0, readout=0.1)
    found, std = calibrator.noise_model_.scan, calibrator.noise_model_std_
    assert (found.drift, found.drift_y, found.hum, found.hum_y, found.short_amplitude) == (0, 0, 0, 0, 0)
    assert all(std[f"scan.{name}"] > 0 for name in ("drift", "drift_y", "hum", "hum_y"))
    assert math.isnan(std["scan.drift_rows"])
    assert math.isnan(std["scan.hum_period"])


def test_lengths_are_means_over_the_images_that_have_them():
    still = NoiseModel(scan=ScanNoise(jitter=0.2), pointwise=PointwiseNoise(0.05))
    humming = replace(still, scan=replace(still.scan, hum=0.6, hum_period=4.3))
    images = [one.apply(TRUE_IMAGE, random_state=i) for i, one in enumerate((still, humming, still))]
    calibrator = NoiseCalibrator(mode="haadf").fit(images)
    found = calibrator.noise_model_.scan
    assert found.hum_period == pytest.approx(4.3, abs=0.02)
    assert found.hum == pytest.approx(0.2, rel=0.15)
    assert calibrator.noise_model_std_["scan.hum"] > 0.1
