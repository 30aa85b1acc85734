from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, columns_of, realised_background, seeds

from stemkit import BackgroundNoise, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.background import OtherNoise, between_columns, measure_background

SHAPE = (256, 256)
_, FITS = columns_of(SHAPE)
USE = between_columns(SHAPE, FITS)


def measured(model: NoiseModel, seed: int):
    other = OtherNoise(model.pointwise.readout**2, model.scan.amplitude**2, model.scan.length)
    return measure_background(model.apply(np.zeros(SHAPE), random_state=seed), USE, FITS, other)


@settings(max_examples=10)
@given(st.floats(0.05, 0.3), st.floats(10.0, 25.0), st.floats(0.01, 0.15), seeds)
def test_amplitude_and_length_of_the_field_that_was_drawn(amplitude, length, readout, seed):
    model = NoiseModel(background=BackgroundNoise(amplitude, length), pointwise=PointwiseNoise(readout))
    found = measured(model, seed)
    # the fits are exact here and have taken nothing, which measure_background gives back all the same
    realised = realised_background(model, SHAPE, seed).std()
    # a field in which long waves happen to dominate is taken for a longer one, of 0.78 of its amplitude
    assert 0.7 * realised < found.amplitude < 1.35 * realised
    assert abs(found.length - length) < SIGMAS * found.length_std
    assert len(found.distance) == len(found.covariance) == len(found.fitted)


@settings(max_examples=8)
@given(st.floats(0.05, 0.3), st.floats(0.0, 0.1), st.just(math.inf) | st.floats(10.0, 40.0), seeds)
def test_other_noise_is_no_background(readout, streaks, length, seed):
    found = measured(NoiseModel(scan=ScanNoise(streaks, length), pointwise=PointwiseNoise(readout)), seed)
    assert found.amplitude < 0.02 + SIGMAS * found.amplitude_std


def test_a_small_part_of_an_image_has_no_background():
    field = realised_background(NoiseModel(background=BackgroundNoise(0.3, 8.0)), (256, 256), 0)
    for rest, use in ((field[:20], USE[:20]), (field, np.zeros(SHAPE, dtype=bool))):
        found = measure_background(rest, use, FITS, OtherNoise(0.0, 0.0, 20.0))
        assert found.amplitude == 0
        assert math.isnan(found.amplitude_std)


@settings(max_examples=10)
@given(st.floats(10.0, 30.0), st.floats(0.12, 0.2))
def test_pixels_between_columns(spacing, width):
    _, fits = columns_of((80, 90), spacing, width * spacing)
    apart = between_columns((80, 90), fits)
    y, x = np.mgrid[:80, :90]
    distance = np.hypot(y[..., None] - fits.y, x[..., None] - fits.x).min(-1)
    reach = float(np.median(fits.sigma))
    assert apart[distance > 2.01 * reach].all()
    assert not apart[distance < 1.29 * reach].any()
    assert between_columns((80, 90), None).all()
