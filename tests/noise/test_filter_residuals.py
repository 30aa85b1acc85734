from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, crystal, modes, seeds

from stemkit import NoiseModel, PointwiseNoise
from stemkit.noise.filter_residuals import residual_curve_model, residual_curves


def test_the_pointwise_curve_is_corrected_for_the_filter():
    noise = np.random.default_rng(0).normal(size=(256, 256)) * 0.1 + np.linspace(0, 1, 256)
    scan, pointwise = residual_curves(noise, 2.0)
    np.testing.assert_allclose(pointwise.y, 0.1, rtol=0.1)
    assert pointwise.intercept == pytest.approx(0.1, rel=0.05)
    assert abs(pointwise.slope) < 0.02
    assert len(scan.x) == len(scan.y) == len(scan.count)


def test_curves_of_a_constant_image():
    for curve in residual_curves(np.full((32, 32), 5.0), 2.0):
        assert len(curve.x) == 0
        assert curve.intercept == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=8)
@given(st.floats(0.05, 0.3), st.floats(0.0, 0.3), modes, seeds)
def test_pointwise_noise_of_a_flat_image_is_measured(readout, shape, mode, seed):
    known = NoiseModel(50.0, 7.0, mode, pointwise=PointwiseNoise(readout, shape=shape))
    image = known.apply(np.full((192, 192), 7.0), random_state=seed)
    found = residual_curve_model(image, mode=mode, contrast=50.0, level=7.0, sigma=2.0)
    assert (found.contrast, found.level, found.mode) == (50.0, 7.0, mode)
    assert found.background.amplitude == found.pointwise.correlation_x == 0
    assert found.scan.length == 2.0
    # a blur of 2 px takes a part of each pixel, and some of its shape
    assert found.pointwise.readout == pytest.approx(readout, rel=0.05 + SIGMAS * np.sqrt(2 / 192**2))
    assert found.pointwise.shape == pytest.approx(shape, abs=0.15)
    assert found.scan.jitter >= 0


def test_texture_of_a_noise_free_crystal_is_measured_as_noise():
    true_image = crystal((128, 128))
    model = residual_curve_model(true_image, mode="haadf", contrast=1.0, level=0.0, sigma=2.0)
    # the reason for calibration from fitted columns and registered rows
    assert model.scan.amplitude + model.scan.jitter > 0.02
