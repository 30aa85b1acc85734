from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, columns_of, displacements, seeds

from stemkit import NoiseModel, PointwiseNoise, ScanNoise
from stemkit.columns import render_columns
from stemkit.noise.registration import BeamDisplacement, register_rows
from stemkit.noise.shift_estimates import ShiftEstimates, derivative, estimate_shifts
from stemkit.statistics import robust_rms

SHAPE = (192, 192)
TRUE_IMAGE, FITS = columns_of(SHAPE, 16.0, 2.6)
FEW = settings(max_examples=4)


def estimated(values: np.ndarray, noise: float, shifts: np.ndarray | None = None, axis: int = 1) -> ShiftEstimates:
    shifts = np.zeros((2, *values.shape)) if shifts is None else shifts
    columns = render_columns(FITS, values.shape, shifts)
    variance = np.full(values.shape, noise**2)
    return estimate_shifts(values - columns, derivative(columns, axis), FITS, shifts, variance, axis=axis)


def registered(
    jitter: float, length: float, noise: float, seed: int, axis: int = 1
) -> tuple[BeamDisplacement, np.ndarray]:
    """Rows registered in three rounds, and where they were."""
    scan = ScanNoise(jitter_length=length, **{("jitter_y", "jitter")[axis]: jitter})
    model = NoiseModel(scan=scan, pointwise=PointwiseNoise(noise))
    noisy, shifts = model.apply(TRUE_IMAGE, random_state=seed), np.zeros((2, *SHAPE))
    for _ in range(3):
        found = register_rows(estimated(noisy, noise, shifts, axis), SHAPE)
        shifts[axis] = found.shifts
    return found, displacements(model, SHAPE, seed, axis)


@FEW
@given(st.floats(0.02, 0.1), st.floats(0.0, 0.3), seeds)
def test_estimates_scatter_as_their_weights_state(noise, shift, seed):
    model = NoiseModel(pointwise=PointwiseNoise(noise, shape=0.1349))
    moved = render_columns(FITS, SHAPE, np.stack([np.zeros(SHAPE), np.full(SHAPE, shift)]))
    estimates = estimated(model.apply(moved, random_state=seed), noise)
    used = estimates.weight > 0
    z = (estimates.shift[used] - shift) * np.sqrt(estimates.weight[used])
    # a shift of a third of a pixel is not quite a slope
    assert abs(z.mean()) < SIGMAS / math.sqrt(z.size) + 0.1 * shift * np.sqrt(estimates.weight[used]).mean()
    # columns in the same rows share pixels only in their tails
    assert abs(z.std() - 1) < SIGMAS / math.sqrt(2 * z.size) + 0.1 * shift / noise
    assert np.abs(z).max() < SIGMAS + 1 + 0.1 * shift / noise


@FEW
@given(st.floats(0.3, 0.6), st.floats(0.03, 0.1), seeds)
def test_rows_that_are_displaced_as_a_whole_are_registered(jitter, noise, seed):
    found, true = registered(jitter, math.inf, noise, seed)
    # displacements of the ramp end at its border
    rows = true[:, 96] - true[:, 96].mean()
    assert abs(found.jitter - rows.std()) < SIGMAS * found.jitter_std
    assert math.isinf(found.length)
    assert (found.shifts == found.shifts[:, :1]).all()
    assert found.shifts.mean() == pytest.approx(0.0, abs=1e-9)
    estimates = estimated(TRUE_IMAGE, noise)
    crossed = estimates.by_row(estimates.weight) > 1 / jitter**2
    error = robust_rms((found.shifts[:, 0] - rows)[crossed & (np.abs(rows) < 2 * jitter)])
    assert error < 0.45 * jitter
    # displacements beyond the linear range of the slope have larger errors than stated, up to four times
    assert 0.2 * error < math.sqrt(found.error_covariance[0]) < 3 * error


@FEW
@given(st.floats(0.2, 0.5), st.floats(0.02, 0.06), seeds)
def test_rows_are_registered_along_y_too(jitter, noise, seed):
    found, true = registered(jitter, math.inf, noise, seed, axis=0)
    assert abs(found.jitter - true[4:-4].std()) < SIGMAS * found.jitter_std
    assert (found.shifts - true)[4:-4, 0].std() < 0.6 * jitter


@FEW
@given(st.floats(0.3, 0.8), st.floats(15.0, 35.0), seeds)
def test_the_length_of_displacements_along_the_row_is_found(jitter, length, seed):
    found, true = registered(jitter, length, 0.03, seed)
    assert abs(found.length - length) < SIGMAS * found.length_std + 0.1 * length
    inside = np.s_[:, 20:-20]
    assert abs(found.jitter - true[inside].std()) < SIGMAS * found.jitter_std
    assert (found.shifts - true)[inside].std() < 0.5 * true[inside].std()
    # the covariance of the error decreases with the lag
    assert found.error_covariance_at(np.array([0.0])) > 2 * abs(found.error_covariance_at(np.array([60.0])))


@FEW
@given(st.floats(0.02, 0.1), seeds)
def test_rows_without_displacement_are_not_displaced(noise, seed):
    found, _ = registered(0.0, math.inf, noise, seed)
    assert found.jitter < SIGMAS * found.jitter_std
    assert np.abs(found.shifts).max() < noise


def test_rows_without_columns_have_no_displacement():
    found = register_rows(estimated(TRUE_IMAGE, 0.1).unweighted(), SHAPE)
    assert (found.shifts == np.zeros(SHAPE)).all()
    assert found.jitter == 0
    assert math.isnan(found.jitter_std)
    assert found.error_covariance_at(np.array([0.0, 5.0])) == pytest.approx(0.0)


def test_rows_between_columns_have_no_weight():
    lone = FITS.take(np.arange(4))
    estimates = estimate_shifts(np.zeros(SHAPE), derivative(TRUE_IMAGE), lone, np.zeros((2, *SHAPE)), np.ones(SHAPE))
    y = np.arange(SHAPE[0])
    weight = estimates.sparse(estimates.weight).toarray()
    far = np.abs(y[None] - lone.y[:, None]) > 2.2 * lone.sigma[:, None] + 1.5
    assert (weight[far] == 0).all()
    near = np.abs(y[None] - lone.y[:, None]) < lone.sigma[:, None]
    assert (weight[near] > 0).all()


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=5))
def test_the_slope_of_a_polynomial_is_exact(coefficients):
    x = np.linspace(-1, 1, 21)
    image = np.broadcast_to(np.polyval(coefficients, x), (5, 21))
    expected = np.polyval(np.polyder(coefficients), x) * 0.1
    np.testing.assert_allclose(derivative(image)[2, 2:-2], expected[2:-2], atol=1e-12)
    np.testing.assert_allclose(derivative(image.T, axis=0)[2:-2, 2], expected[2:-2], atol=1e-12)
