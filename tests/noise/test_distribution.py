from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, modes, seeds

from stemkit import NoiseModel, PointwiseNoise
from stemkit.noise.differences import row_difference
from stemkit.noise.distribution import NORMAL_SHAPE, fit_tukey_shape, is_counted

SHAPE = (256, 256)
EVERYWHERE = np.ones((252, 256), dtype=bool)


def standardised(
    pointwise: PointwiseNoise, std: float, seed: int, mode: str = "haadf"
) -> tuple[np.ndarray, np.ndarray]:
    """Noise on a flat image over its std, columns bright, and that std, pixel by pixel."""
    noise = NoiseModel(mode=mode, pointwise=pointwise).apply(np.zeros(SHAPE), random_state=seed)
    bright = noise.ravel() * (-1.0 if mode == "bf" else 1.0)
    return bright / std, np.full(bright.size, std)


def difference(pointwise: PointwiseNoise, seed: int, mode: str = "haadf") -> np.ndarray:
    """Fourth difference of noise on a flat image, columns bright."""
    noise = NoiseModel(mode=mode, pointwise=pointwise).apply(np.zeros(SHAPE), random_state=seed)
    return row_difference(noise * (-1.0 if mode == "bf" else 1.0))


@settings(max_examples=12)
@given(st.floats(-0.3, 0.6), st.floats(0.0, 0.4), seeds)
def test_the_shape_of_drawn_noise(shape, correlation, seed):
    found, error = fit_tukey_shape(difference(PointwiseNoise(1.0, 0, shape, correlation), seed), 1.0, EVERYWHERE)
    # the scatter of eight blocks has an error of a quarter; light tails are hardly distinguishable
    assert abs(found - shape) < SIGMAS * 1.25 * error + 0.01
    assert error < 0.02 + 0.2 * max(shape, 0)


@settings(max_examples=6)
@given(st.floats(-0.25, 0.1), st.floats(0.5, 0.9), seeds)
def test_shape_of_noise_with_additional_normal_noise(shape, fraction, seed):
    mixed = math.sqrt(fraction) * difference(PointwiseNoise(1.0, shape=shape), seed)
    mixed += math.sqrt(1 - fraction) * row_difference(np.random.default_rng(seed).normal(size=SHAPE))
    found, error = fit_tukey_shape(mixed, fraction, EVERYWHERE)
    assert abs(found - shape) < SIGMAS * 1.25 * error + 0.02


def test_hidden_noise_and_few_pixels_have_no_shape():
    noise = difference(PointwiseNoise(1.0, shape=-0.2), 0)
    for fraction, known in ((0.2, EVERYWHERE), (1.0, EVERYWHERE & (np.arange(256) < 1))):
        shape, error = fit_tukey_shape(noise, fraction, known)
        assert shape == NORMAL_SHAPE
        assert math.isnan(error)


@settings(max_examples=8)
@given(st.floats(0.5, 20.0), st.floats(0.0, 0.3), modes, seeds)
def test_counted_electrons_are_identified_by_their_skewness(rate, correlation, mode, seed):
    gain = -0.05 if mode == "bf" else 0.05
    pointwise = PointwiseNoise(abs(gain) * math.sqrt(rate), gain, correlation_x=correlation, kind="poisson")
    noise, std = standardised(pointwise, math.sqrt(gain**2 * rate), seed, mode)
    assert is_counted(noise, gain, std, correlation)
    # counts of the other sign have the opposite skewness
    assert not is_counted(noise, -gain, std, correlation)


@settings(max_examples=8)
@given(st.floats(3.0, 12.0), st.floats(-0.05, 0.4), seeds)
def test_symmetric_noise_is_not_counted(rate, shape, seed):
    readout = 0.05 * math.sqrt(rate)
    noise, std = standardised(PointwiseNoise(readout, shape=shape), readout, seed)
    assert not is_counted(noise, 0.05, std, 0.0)
    assert not is_counted(noise, 0.0, std, 0.0)
