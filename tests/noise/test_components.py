from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, crystal, seeds

from stemkit import NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.components import NoiseComponents, measure_components
from stemkit.noise.shift_estimates import derivative

TRUE_IMAGE = crystal((256, 256))
FEW = settings(max_examples=6)


def separated(model: NoiseModel, seed: int, **how) -> NoiseComponents:
    """Components of the noise of a crystal whose true image is known."""
    noisy = model.apply(TRUE_IMAGE, random_state=seed)
    return measure_components(noisy, TRUE_IMAGE, derivative(TRUE_IMAGE), derivative(TRUE_IMAGE, 0), **how)


@FEW
@given(
    st.floats(0.05, 0.3), st.floats(0.0, 0.05), st.floats(-0.2, 0.5), st.floats(0.03, 0.1), st.floats(8.0, 30.0), seeds
)
def test_noise_is_separated_by_its_correlation_along_the_row(readout, gain, correlation, streaks, length, seed):
    pointwise = PointwiseNoise(readout, gain, 0.1349, correlation)
    found = separated(NoiseModel(scan=ScanNoise(streaks, length), pointwise=pointwise), seed)
    std = found.std
    # fourth differences of this crystal leave less than 1e-3 of it
    assert abs(found.readout - readout) < SIGMAS * std["readout"] + 0.02 * readout
    assert abs(found.gain - gain) < SIGMAS * std["gain"] + 0.002
    assert abs(found.correlation_x - correlation) < SIGMAS * std["correlation_x"] + 0.01
    assert abs(found.streaks - streaks) < SIGMAS * std["streaks"] + 0.05 * streaks
    assert abs(found.streak_length - length) < SIGMAS * std["streak_length"] + 0.05 * length
    assert found.residual_jitter**2 < SIGMAS * std["residual_jitter^2"] + 0.01
    assert found.residual_jitter_y**2 < SIGMAS * std["residual_jitter_y^2"] + 0.01
    np.testing.assert_allclose(found.fitted[0], found.covariance[0], rtol=0.1)
    assert found.lag.shape == found.covariance.shape == found.fitted.shape
    assert found.signal.shape == found.variance.shape == found.count.shape


@FEW
@given(st.floats(0.3, 0.8), st.floats(0.3, 0.8), seeds)
def test_residual_displacements_are_found_on_the_slopes(along_x, along_y, seed):
    model = NoiseModel(scan=ScanNoise(jitter=along_x, jitter_y=along_y), pointwise=PointwiseNoise(0.05))
    found = separated(model, seed)
    # 256 rows, and slopes that change over a displacement of a quarter of a column
    scatter = SIGMAS / math.sqrt(2 * 256) + 0.15
    assert found.residual_jitter == pytest.approx(along_x, rel=scatter)
    assert found.residual_jitter_y == pytest.approx(along_y, rel=scatter)
    assert found.streaks < 0.04


@FEW
@given(st.floats(0.05, 0.2), st.integers(1, 60), seeds)
def test_outliers_and_invalid_pixels_do_not_count(readout, n_outliers, seed):
    model, rng = NoiseModel(pointwise=PointwiseNoise(readout)), np.random.default_rng(seed)
    noisy = model.apply(TRUE_IMAGE, random_state=seed)
    valid = np.ones(TRUE_IMAGE.shape, dtype=bool)
    valid[100:140, 50:90] = False
    noisy[~valid] = 7.0 * rng.normal(size=1600)
    noisy.ravel()[rng.choice(TRUE_IMAGE.size, n_outliers)] += 30.0
    found = measure_components(noisy, TRUE_IMAGE, derivative(TRUE_IMAGE), derivative(TRUE_IMAGE, 0), valid=valid)
    assert abs(found.readout - readout) < SIGMAS * found.std["readout"] + 0.02 * readout
    assert found.streaks < 0.2 * readout


@pytest.mark.parametrize("image", [np.ones((7, 40)), np.ones((40, 11)), np.ones((40, 40))])
def test_images_that_are_too_small_or_constant_have_no_noise(image):
    still = np.zeros_like(image)
    found = measure_components(image, still, still, still)
    assert (found.readout, found.gain, found.streaks, found.residual_jitter, found.residual_jitter_y) == pytest.approx(
        (0,) * 5, abs=1e-12
    )
    assert found.gain == 0


@FEW
@given(st.floats(0.06, 0.12), st.floats(25.0, 60.0), st.floats(0.06, 0.12), st.floats(1.5, 4.0), seeds)
@example(streaks=0.09, length=44.0, short=0.12, short_length=3.5, seed=445076)  # far from streaks of one length
def test_streaks_of_two_lengths_are_distinguished(streaks, length, short, short_length, seed):
    scan = ScanNoise(streaks, length, short_amplitude=short, short_length=short_length)
    found = separated(NoiseModel(scan=scan, pointwise=PointwiseNoise(0.05)), seed)
    std = found.std
    assert abs(found.streaks - streaks) < SIGMAS * std["streaks"] + 0.05 * streaks
    assert abs(found.streak_length - length) < SIGMAS * std["streak_length"] + 0.05 * length
    assert abs(found.short_streaks - short) < SIGMAS * std["short_streaks"] + 0.05 * short
    assert abs(found.short_length - short_length) < SIGMAS * std["short_length"] + 0.05 * short_length
    # long streaks: the image contains hundreds of independent ones
    assert found.streak_variance == pytest.approx(streaks**2 + short**2, rel=0.25)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.integers(16, 64), st.floats(8.0, 40.0), st.floats(1.4, 4.5), st.floats(-6.0, -3.0), seeds)
def test_displaced_rows_with_hardly_any_noise_have_finite_statistics(n_rows, period, sigma, exponent, seed):
    """The regression on the slopes may explain more than all of the variance, by chance."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:n_rows, :96]
    signal = np.exp(-((y % period - period / 2) ** 2 + (x % period - period / 2) ** 2) / (2 * sigma**2))
    slope_y, slope = np.gradient(signal)
    rest = rng.normal(0, 0.5, (n_rows, 1)) * slope + 10**exponent * rng.normal(size=signal.shape)
    found = measure_components(rest, signal, slope, slope_y)
    assert all(
        map(math.isfinite, (found.readout, found.gain, found.streaks, found.residual_jitter, found.residual_jitter_y))
    )
    # within an order of magnitude of all noise
    assert found.readout + found.streaks < 10 * rest.std()
