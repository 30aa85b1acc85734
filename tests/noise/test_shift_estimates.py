from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, gaussians, lattice_positions, seeds

from stemkit import NoiseModel, PointwiseNoise, ScanNoise
from stemkit.columns import ColumnFits, fit_columns
from stemkit.noise.image_calibration import row_mean_fraction
from stemkit.noise.shift_estimates import _without_profile, derivative, estimate_shifts, noise_variance

SHAPE = (256, 256)
#: Rows of columns at every distance from the scan lines.
POSITIONS = lattice_positions(SHAPE, 16.0, angle=0.3)
TRUE_IMAGE = gaussians(SHAPE, POSITIONS, 2.6)
FITS = fit_columns(TRUE_IMAGE, POSITIONS, 2.6)
STILL = np.zeros((2, *SHAPE))


@pytest.mark.parametrize("axis", [0, 1])
@settings(max_examples=4)
@given(st.floats(0.02, 0.1), st.floats(0.0, 0.1), st.floats(2.0, 20.0), seeds)
def test_stated_variance_is_that_of_correlated_noise(axis, readout, streaks, length, seed):
    model = NoiseModel(scan=ScanNoise(streaks, length), pointwise=PointwiseNoise(readout))
    noise = model.apply(np.zeros(SHAPE), random_state=seed)
    variance = noise_variance(noise, np.zeros(SHAPE, dtype=bool), TRUE_IMAGE, 2.6)[axis]
    estimates = estimate_shifts(noise, derivative(TRUE_IMAGE, axis), FITS, STILL, variance, axis=axis)
    used = estimates.weight > 0
    # neighbouring columns share streaks: fewer independent estimates than there are
    tolerance = SIGMAS * math.sqrt(2 / used.sum() * 4) + 0.1
    assert np.mean(estimates.weight[used] * estimates.shift[used] ** 2) == pytest.approx(1.0, abs=tolerance)


@pytest.mark.parametrize("spacing", [2.2, 3.5])
@pytest.mark.parametrize("axis", [0, 1])
def test_close_columns_share_their_noise(axis, spacing):
    """The mean displacement of a row scatters as the weights state where columns have pixels in common, too."""
    shape, rng = (128, 128), np.random.default_rng(0)
    positions = lattice_positions(shape, 2.6 * spacing, angle=0.3)
    slope = derivative(gaussians(shape, positions, 2.6), axis)
    y, x = positions.T
    fits = ColumnFits.from_values(len(y), y=y, x=x, amplitude=1.0, sigma=2.6)
    squared = []
    for _ in range(8):
        noise, variance = 0.05 * rng.normal(size=shape), np.full(shape, 0.05**2)
        estimates = estimate_shifts(noise, slope, fits, np.zeros((2, *shape)), variance, axis=axis)
        weight = estimates.by_row(estimates.weight)
        used = weight > 0.2 * np.median(weight)
        squared.append((estimates.by_row(estimates.weight * estimates.shift)[used] ** 2 / weight[used]).mean())
    # neighbouring rows are independent: a scatter of 0.05
    assert np.mean(squared) == pytest.approx(1.0, abs=0.2)


@given(st.sampled_from([2.0**-40, 2.0**-14, 0.5, 2.0**20]), st.sampled_from([0.01, -0.01]))
@settings(max_examples=8)
def test_variance_of_dark_columns_has_the_square_of_the_unit(unit, gain):
    """The variance decreases towards the columns of bright field by the same fraction in any unit."""
    noise = np.sqrt(np.maximum(0.15**2 + gain * TRUE_IMAGE, 0.0)) * np.random.default_rng(0).normal(size=SHAPE)
    faulty = np.zeros(SHAPE, dtype=bool)
    first = noise_variance(noise, faulty, TRUE_IMAGE, 2.6)
    second = noise_variance(unit * noise, faulty, unit * TRUE_IMAGE, 2.6)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(other, unit**2 * one, rtol=1e-12)
    bright, dark = first[1][TRUE_IMAGE > 0.9].mean(), first[1][TRUE_IMAGE < 0.05].mean()
    assert bright / dark == pytest.approx(1 + 0.95 * gain / 0.15**2, abs=0.15)


@settings(max_examples=5)
@given(st.floats(0.05, 0.3), seeds)
def test_displacements_along_y_keep_their_size(rms, seed):
    true = rms * np.random.default_rng(seed).normal(size=SHAPE[0])
    residual = true[:, None] * derivative(TRUE_IMAGE, 0)
    estimates = estimate_shifts(residual, derivative(TRUE_IMAGE, 0), FITS, STILL, np.ones(SHAPE), axis=0)
    weighted = estimates.weight * true[estimates.row]
    assert (weighted * estimates.shift).sum() / (weighted * true[estimates.row]).sum() == pytest.approx(1.0, abs=0.03)


def test_a_profile_that_all_columns_share_is_no_displacement():
    # columns higher than wide: the residual is the same above and below each of them
    distance = np.arange(SHAPE[0])[:, None] - POSITIONS[:, 0]
    along_x = np.exp(-0.5 * ((np.arange(SHAPE[1])[:, None] - POSITIONS[:, 1]) / 2.6) ** 2)
    profile = 0.05 * distance * (distance**2 / 2.6**2 - 3) * np.exp(-0.5 * (distance / 2.6) ** 2)
    residual = profile @ along_x.T
    estimates = estimate_shifts(residual, derivative(TRUE_IMAGE, 0), FITS, STILL, np.ones(SHAPE), axis=0)
    used = estimates.weight > 0
    # it is removed in steps of a pixel; without that the RMS is 0.5 px
    assert np.sqrt(np.average(estimates.shift[used] ** 2, weights=estimates.weight[used])) < 0.12


@given(st.floats(3.0, 1e4), st.integers(16, 2048))
def test_variance_of_the_mean_of_a_row(length, n_x):
    distance = np.abs(np.subtract.outer(np.arange(n_x), np.arange(n_x)))[:: max(1, n_x // 64)]
    # the mean over a thinned set of rows of the covariance matrix, whose rows have equal weight
    expected = np.mean(np.exp(-((distance / (2 * length)) ** 2)))
    assert row_mean_fraction(length, n_x) == pytest.approx(expected, rel=0.05)
    assert row_mean_fraction(math.inf, n_x) == 1.0


def test_columns_without_a_weight_do_not_spoil_the_others():
    rng = np.random.default_rng(4)
    dy = np.linspace(-3, 3, 40)[None] * np.ones((9, 1))
    rows = np.arange(40)[None] + np.zeros((9, 1), dtype=int)
    # all columns have one of two amplitudes, so that the middle third has none at some distances
    amplitude = np.repeat([1.0, 2.0], [5, 4])
    weight = np.where(rng.random(dy.shape) < 0.5, 1e6, 0.0)
    shift = rng.normal(0, 1e-3, dy.shape)
    out = _without_profile(shift, weight, dy, rows, amplitude)
    assert np.isfinite(out).all()
    assert np.array_equal(out[weight == 0], shift[weight == 0])
    assert not np.isnan(_without_profile(shift, np.zeros_like(weight), dy, rows, amplitude)).any()
