from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import columns_of, crystal, gaussians, lattice_positions, noise_models, seeds

from stemkit import NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.columns import fit_columns
from stemkit.noise.drawing import displace_rows
from stemkit.noise.repair import find_faults, recorded_rows, repaired, saturated, scan_faults

CLEAN = 5.0 + crystal((120, 130))
QUIET = NoiseModel(pointwise=PointwiseNoise(0.1))


#: A good row between two broken ones is far from both of its neighbours: not drawn.
broken_rows = st.sets(st.integers(3, 116), min_size=1, max_size=5).filter(lambda r: not {i + 2 for i in r} & r)


@settings(max_examples=20)
@given(broken_rows, st.sampled_from([0.0, 40.0, -3.0]), seeds)
def test_dead_rows_are_found_and_filled_from_the_nearest(rows, value, seed):
    noisy = QUIET.apply(CLEAN, random_state=seed)
    broken = noisy.copy()
    broken[list(rows)] = value
    good = recorded_rows(broken)
    assert set(np.flatnonzero(~good)) == rows
    filled = repaired(broken)
    np.testing.assert_array_equal(filled[good], noisy[good])
    assert {tuple(r) for r in filled[~good]} <= {tuple(r) for r in noisy[good]}
    assert f"{len(rows)} row(s) are no recording, the first is row {min(rows)}" in find_faults(broken)["rows"]


@settings(max_examples=20)
@given(noise_models(detector=False), seeds)
def test_noise_breaks_no_row(model, seed):
    noisy = model.apply(model.level + model.contrast * crystal((60, 70)), random_state=seed)
    assert recorded_rows(noisy).all()
    np.testing.assert_array_equal(repaired(noisy), noisy)


def test_a_scan_that_was_cut_short_says_so():
    noisy = QUIET.apply(CLEAN, random_state=0)
    noisy[-7:] = 0.0
    assert "7 row(s)" in find_faults(noisy)["rows"]
    assert "cut short" in find_faults(noisy)["rows"]
    noisy = np.roll(noisy, -20, axis=0)
    assert "cut short" not in find_faults(noisy)["rows"]


@pytest.mark.parametrize("image", [np.zeros((40, 50)), np.zeros((5, 9)), np.ones((60, 1)), np.eye(40)[:, :12]])
def test_images_of_nothing_have_no_broken_rows(image):
    assert recorded_rows(image).shape == (len(image),)
    assert repaired(image).shape == image.shape
    assert recorded_rows(np.zeros_like(image)).all()


@settings(max_examples=15)
@given(st.floats(5.3, 5.9), st.booleans(), seeds)
def test_saturated_pixels_are_those_at_the_end(end, upside_down, seed):
    sign = -1.0 if upside_down else 1.0
    clipped = sign * np.minimum(QUIET.apply(CLEAN, random_state=seed), end)
    np.testing.assert_array_equal(saturated(clipped), clipped == sign * end)
    assert f"{(clipped == sign * end).mean():.1%} of the pixels" in find_faults(clipped)["saturation"]


@settings(max_examples=15)
@given(st.floats(0.02, 0.1), seeds)
def test_digital_levels_are_not_saturation(step, seed):
    noisy = QUIET.apply(CLEAN, random_state=seed)
    for image in (noisy, np.round(noisy / step) * step, np.zeros((9, 9))):
        assert not saturated(image).any()


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
def test_hum_is_heard(amplitude, period, seed):
    y = np.arange(256)
    moved = torch.as_tensor(crystal((256, 256)))[None]
    moved = displace_rows(moved, torch.as_tensor(amplitude * np.sin(2 * np.pi * y / period))[None, :, None])[0]
    found = faults(QUIET.apply(moved.numpy(), random_state=seed))
    assert set(found) == {"hum"}
    heard = re.search(r"amplitude ([\d.]+) px, once in ([\d.]+) rows", found["hum"])
    # lines of the spectrum are 1 / 256 apart, and a line between two of them shows 64 % of its amplitude in each
    assert 0.5 * amplitude < float(heard[1]) < 1.2 * amplitude
    assert abs(1 / float(heard[2]) - 1 / period) < 1 / 256


@settings(max_examples=3)
@given(st.sampled_from([-0.8, -0.5, 0.5, 0.8]), seeds)
def test_a_flyback_is_seen_at_the_left_edge(shift, seed):
    shape = (320, 256)
    positions = lattice_positions(shape, 16.0, angle=0.02, margin=-6.0)
    moved = positions + np.stack([0 * positions[:, 0], shift * (positions[:, 1] < 18)], axis=1)
    image = QUIET.apply(gaussians(shape, moved, 2.6), random_state=seed)
    assert f"{shift:+.1f}"[:2] in faults(image)["flyback"]
    assert "flyback" not in faults(QUIET.apply(gaussians(shape, positions, 2.6), random_state=seed))


def test_few_columns_have_no_flyback():
    _, fits = columns_of((64, 64))
    assert scan_faults(QUIET.apply(crystal((64, 64)), random_state=0), fits, None) == {}
    everything = fit_columns(CLEAN, lattice_positions(CLEAN.shape, 18.0, margin=-8.0), 3.0)
    assert scan_faults(CLEAN, everything, None) == {}
