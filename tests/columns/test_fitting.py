"""Tests of fit_columns: numbers, errors, failures, overlapping columns, and fits that are continued."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, error_of_std, gaussians, lattice_positions, seeds

from stemkit import NoiseModel, PointwiseNoise
from stemkit.columns import ColumnFits, LinearVariance, fit_columns

SHAPE = (400, 400)
SIGMA = 2.5


def disturbed_lattice(spacing: float = 20.0, margin: float = -10.0) -> np.ndarray:
    positions = lattice_positions(SHAPE, spacing, margin=margin)
    return positions + np.random.default_rng(0).uniform(-0.5, 0.5, positions.shape)


def started(positions: np.ndarray, by: float = 0.5) -> np.ndarray:
    return positions + np.random.default_rng(1).uniform(-by, by, positions.shape)


def pulls(fits: ColumnFits, positions: np.ndarray) -> np.ndarray:
    return np.column_stack([(fits.y - positions[:, 0]) / fits.y_err, (fits.x - positions[:, 1]) / fits.x_err])


# --- exact -------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.floats(1.5, 5.0), st.floats(0.1, 1e4), st.floats(-1e3, 1e3), st.floats(-0.3, 0.4), st.booleans(), seeds)
def test_a_noise_free_column_is_recovered(sigma, amplitude, background, widening, weighted, seed):
    rng = np.random.default_rng(seed)
    position = rng.uniform(28, 32, (1, 2))
    true = sigma * (1 + widening)
    image = background + gaussians((61, 61), position, true, amplitude)
    variance = 0.01 * amplitude**2 if weighted else None
    fits = fit_columns(image, position + rng.uniform(-0.7, 0.7, (1, 2)), sigma, variance=variance)
    assert not fits.failed.any()
    assert (fits.y[0], fits.x[0]) == pytest.approx(tuple(position[0]), abs=1e-3)
    assert fits.amplitude[0] == pytest.approx(amplitude, rel=1e-3)
    assert fits.sigma[0] == pytest.approx(true, rel=1e-3)
    assert fits.background[0] == pytest.approx(background, abs=1e-3 * amplitude)


def test_overlapping_columns_are_recovered():
    positions = lattice_positions((120, 120), 9.0, margin=1.0)
    fits = fit_columns(gaussians((120, 120), positions, SIGMA), started(positions, 0.3), SIGMA)
    inner = ((positions > 15) & (positions < 104)).all(axis=1)
    assert not fits.failed[inner].any()
    # columns 3.6 sigma apart, fitted together
    off = np.hypot(fits.y - positions[:, 0], fits.x - positions[:, 1])[inner]
    assert off.max() < 1e-3
    np.testing.assert_allclose(fits.amplitude[inner], 1.0, atol=1e-3)


def test_a_fixed_width_is_kept():
    positions = disturbed_lattice()
    image = gaussians(SHAPE, positions, SIGMA) + np.random.default_rng(0).normal(0, 0.05, SHAPE)
    fits = fit_columns(image, started(positions), SIGMA, fit_sigma=False)
    assert (fits.sigma == SIGMA).all()
    assert (fits.sigma_err == 0).all()
    assert not fits.failed.any()
    free = fit_columns(image, started(positions), SIGMA)
    # a known width reduces the error of the amplitude
    assert np.median(fits.amplitude_err) < np.median(free.amplitude_err)
    assert np.std(pulls(fits, positions)) == pytest.approx(1.0, rel=error_of_std(2 * len(positions)) + 0.02)


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_white_noise_gives_the_errors_of_theory(weighted):
    positions, level = disturbed_lattice(), 0.05
    image = 3.0 + gaussians(SHAPE, positions, SIGMA) + np.random.default_rng(2).normal(0, level, SHAPE)
    variance = level**2 if weighted else None
    fits = fit_columns(image, started(positions), SIGMA, variance=variance)
    n = 2 * len(positions)
    assert n > 400
    assert not fits.failed.any()
    # Fisher information of a Gaussian in white noise; beyond 2.5 sigma lie 1.4 % of it
    theory = math.sqrt(2 / math.pi) * level
    off = fits.positions - positions
    assert off.std() == pytest.approx(theory, rel=error_of_std(n) + 0.01)
    assert abs(off.mean()) < SIGMAS * theory / math.sqrt(n)
    stated = np.r_[fits.y_err, fits.x_err]
    assert stated.mean() == pytest.approx(theory, rel=0.03)
    assert pulls(fits, positions).std() == pytest.approx(1.0, rel=error_of_std(n) + 0.02)
    for name, true in (("amplitude", 1.0), ("sigma", SIGMA), ("background", 3.0)):
        pull = (getattr(fits, name) - true) / getattr(fits, f"{name}_err")
        assert pull.std() == pytest.approx(1.0, rel=error_of_std(n / 2) + 0.03)
    if weighted:
        # the RMS of a residual over about 120 pixels
        assert fits.residual.mean() == pytest.approx(1.0, abs=SIGMAS / math.sqrt(2 * 120 * n / 2) + 0.005)
    else:
        assert (fits.residual == 1).all()


@pytest.mark.parametrize("correlation_x", [0.3, 0.6])
def test_correlated_noise_widens_the_errors(correlation_x):
    positions = disturbed_lattice()
    noise = NoiseModel(pointwise=PointwiseNoise(0.05, shape=0.1349, correlation_x=correlation_x))
    image = noise.apply(gaussians(SHAPE, positions, SIGMA), random_state=4)

    def fitted(stated: float) -> ColumnFits:
        return fit_columns(image, started(positions), SIGMA, variance=0.0025, correlation_x=stated)

    fits = fitted(correlation_x)
    n = len(positions)
    for axis, pull in zip("yx", pulls(fits, positions).T, strict=True):
        assert pull.std() == pytest.approx(1.0, rel=error_of_std(n) + 0.02), axis
    ignored = pulls(fitted(0.0), positions)
    assert ignored.std() > 1.2
    # weights with the correlation are more accurate
    if correlation_x > 0.5:
        off, coarse = ((f.x - positions[:, 1]).std() for f in (fits, fitted(0.0)))
        assert off < 0.99 * coarse


@pytest.mark.parametrize("dose", [10.0, 50.0])
def test_counted_electrons(dose):
    positions = disturbed_lattice()
    noise = NoiseModel(1.0, 0.0, pointwise=PointwiseNoise(math.sqrt(0.5 / dose**2), 1 / dose, kind="poisson"))
    image = noise.apply(gaussians(SHAPE, positions, SIGMA), random_state=5)

    variance = LinearVariance(0.5 / dose**2, 1 / dose, 0.5 / dose**2)
    # a start within the error, as that of the detector
    fits = fit_columns(image, started(positions, 0.3), SIGMA, variance=variance)
    kept = ~fits.failed
    assert kept.mean() > 0.97
    n = 2 * kept.sum()
    off = (fits.positions - positions)[kept]
    pull = pulls(fits, positions)[kept]
    # counts around the columns and a free background cost a little above 1 / sqrt(2 pi dose)
    bound = 1 / math.sqrt(2 * math.pi * dose)
    assert (1 - error_of_std(n)) * bound < off.std() < (1.25 + error_of_std(n)) * bound
    assert pull.std() == pytest.approx(1.0, rel=error_of_std(n) + 0.08)
    assert abs(off.mean()) < SIGMAS * off.std() / math.sqrt(n)
    assert fits.residual.mean() == pytest.approx(1.0, abs=0.06)


@settings(max_examples=5)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_fits_scale_with_the_units(scale, offset):
    positions = lattice_positions((100, 100), 20.0, margin=-8.0)
    image = gaussians((100, 100), positions, SIGMA) + np.random.default_rng(0).normal(0, 0.05, (100, 100))
    one, other = (fit_columns(v, started(positions), SIGMA) for v in (image, scale * image + offset))
    np.testing.assert_allclose(other.y, one.y, atol=1e-4)
    np.testing.assert_allclose(other.y_err, one.y_err, rtol=1e-3)
    np.testing.assert_allclose(other.amplitude, scale * one.amplitude, rtol=1e-3)
    np.testing.assert_allclose(other.background, scale * one.background + offset, rtol=1e-5, atol=1e-3 * scale)


# --- failures -----------------------------------------------------------------------------------------------


def test_without_positions_the_result_is_empty():
    fits = fit_columns(np.zeros((20, 20)), np.empty((0, 2)), 2.0)
    assert len(fits) == 0
    assert fits.y.shape == fits.residual.shape == (0,)
    assert fits.failed.dtype == bool


@pytest.mark.parametrize("weighted", [False, True])
def test_a_constant_image_has_no_columns_to_fit(weighted):
    variance = 1.0 if weighted else None
    fits = fit_columns(np.full((40, 40), 3.0), np.array([[20.0, 20.0], [10.0, 12.0]]), 2.0, variance=variance)
    assert (fits.failed | (np.abs(fits.amplitude) <= 3 * fits.amplitude_err)).all()


def test_a_start_on_the_flank_of_another_column_fails():
    image = gaussians((61, 61), np.array([[30.0, 30.0]]), SIGMA)
    fits = fit_columns(image, np.array([[30.0, 36.0]]), SIGMA)
    assert fits.failed.all()
    # a failed fit has its starting values
    assert (fits.y[0], fits.x[0]) == (30.0, 36.0)


def test_a_column_of_another_width_fails():
    wide = gaussians((121, 121), np.array([[60.0, 60.0]]), 8.0)
    assert fit_columns(wide, np.array([[60.0, 60.0]]), 2.5).failed.all()


def test_columns_outside_the_frame_fail_and_do_not_affect_others():
    positions = np.array([[20.0, 20.0], [20.0, -3 * SIGMA]])
    image = gaussians((41, 61), positions[:1], SIGMA)
    fits = fit_columns(image, positions, SIGMA)
    np.testing.assert_array_equal(fits.failed, [False, True])
    assert fits.x[0] == pytest.approx(20.0, abs=1e-4)
    assert fits.amplitude[1] == 0


def test_a_failure_does_not_affect_other_columns():
    positions = np.array([[30.0, 30.0], [30.0, 90.0]])
    image = gaussians((61, 121), positions, SIGMA)
    fits = fit_columns(image, np.array([[30.2, 29.7], [29.8, 90.3], [30.0, 60.0]]), SIGMA)
    assert not fits.failed[:2].any()
    np.testing.assert_allclose(fits.positions[:2], positions, atol=1e-3)


@pytest.mark.parametrize("position", [(0.3, 30.0), (59.6, 30.0), (30.0, 0.4), (0.2, 59.7)])
def test_columns_on_the_border_have_larger_errors(position):
    level = 0.02
    image = gaussians((60, 60), np.array([position]), SIGMA) + np.random.default_rng(3).normal(0, level, (60, 60))
    fits = fit_columns(image, np.array([position]), SIGMA, variance=level**2)
    assert not fits.failed.any()
    assert np.abs(pulls(fits, np.array([position]))).max() < SIGMAS
    whole = math.sqrt(2 / math.pi) * level
    assert max(fits.y_err[0], fits.x_err[0]) > 1.3 * whole


def test_take():
    positions = disturbed_lattice()[:5]
    fits = fit_columns(gaussians(SHAPE, positions, SIGMA), positions, SIGMA)
    assert len(fits.take(np.array([True, False, True, False, False]))) == 2
    np.testing.assert_array_equal(fits.take(np.array([4, 0])).x, fits.x[[4, 0]])


# --- columns that overlap ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [2.0, 3.0, 4.0])
def test_pairs_reach_their_joint_cramer_rao_bound(apart):
    """Fisher information of two Gaussians on one background, by finite differences."""
    level, n = 0.05, 150
    rng = np.random.default_rng(7)
    centers = np.stack(np.mgrid[0:15, 0:10], axis=-1).reshape(-1, 2) * 40.0 + 20
    middle = centers + rng.uniform(-0.5, 0.5, centers.shape)
    half = apart * SIGMA / 2 * np.array([0.0, 1.0])
    positions = np.vstack([middle - half, middle + half])
    shape = (600, 400)
    image = gaussians(shape, positions, SIGMA) + rng.normal(0, level, shape)
    fits = fit_columns(image, positions, SIGMA, variance=level**2)
    kept = ~fits.failed
    assert kept.mean() > 0.97

    def model(p: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[:61, :61] - 30.0
        return p[8] + sum(
            p[i + 2] * np.exp(-((y - p[i]) ** 2 + (x - p[i + 1]) ** 2) / (2 * p[i + 3] ** 2)) for i in (0, 4)
        )

    true = np.array([0, -half[1], 1, SIGMA, 0, half[1], 1, SIGMA, 0.0])
    steps = np.eye(9) * 1e-4
    jacobian = np.stack([(model(true + s) - model(true - s)).ravel() / 2e-4 for s in steps])
    bound = level * np.sqrt(np.diag(np.linalg.inv(jacobian @ jacobian.T)))[1]
    off = (fits.x - positions[:, 1])[kept]
    # the bound is for one background, the fit has two that are penalised for differing
    assert off.std() == pytest.approx(bound, rel=error_of_std(2 * n) + 0.1)
    assert (off / fits.x_err[kept]).std() == pytest.approx(1.0, rel=error_of_std(2 * n) + 0.1)


def test_weights_with_streaks_are_more_accurate():
    positions, level, streak = disturbed_lattice(), 0.05, 0.1
    rng = np.random.default_rng(3)
    rows = rng.normal(0, streak, (SHAPE[0], 1))
    image = gaussians(SHAPE, positions, SIGMA) + rng.normal(0, level, SHAPE) + rows

    def fitted(streaks: float) -> ColumnFits:
        start = started(positions, 0.3)
        return fit_columns(image, start, SIGMA, variance=level**2, streaks=streaks)

    known, unknown = fitted(streak), fitted(0.0)
    good = ~known.failed & ~unknown.failed
    off, coarse = ((f.y - positions[:, 0])[good].std() for f in (known, unknown))
    assert off < 0.75 * coarse
    assert ((known.y - positions[:, 0]) / known.y_err)[good].std() == pytest.approx(1.0, rel=0.3)


def test_errors_include_the_slope_of_the_background():
    positions, slope = disturbed_lattice(), 0.003
    rng = np.random.default_rng(3)
    image = gaussians(SHAPE, positions, SIGMA)
    moved = []
    for tilt in rng.normal(0, slope, 60):
        fits = fit_columns(
            image + tilt * np.arange(SHAPE[1]) + rng.normal(0, 0.01, SHAPE),
            positions[150:153],
            SIGMA,
            variance=1e-4,
            tilt=slope,
        )
        moved.append((fits.x[1] - positions[151, 1]) / fits.x_err[1])
    assert np.std(moved) == pytest.approx(1.0, rel=error_of_std(60))


def test_a_continued_fit_stays_where_it_is():
    positions = disturbed_lattice()
    image = gaussians(SHAPE, positions, SIGMA) + np.random.default_rng(0).normal(0, 0.05, SHAPE)
    first = fit_columns(image, started(positions), SIGMA)
    again = fit_columns(image, first, SIGMA)
    np.testing.assert_allclose(again.x, first.x, atol=0.2 * first.x_err.max())


def test_columns_of_two_widths():
    positions = disturbed_lattice(spacing=30.0)
    wide = np.arange(len(positions)) % 2 == 0
    image = gaussians(SHAPE, positions[wide], 2 * SIGMA) + gaussians(SHAPE, positions[~wide], SIGMA)
    fits = fit_columns(image, started(positions, 0.3), np.where(wide, 2.0, 1.0) * SIGMA)
    inner = ((positions > 15) & (positions < 385)).all(axis=1)
    assert not fits.failed[inner].any()
    np.testing.assert_allclose(fits.sigma[inner], np.where(wide, 2.0, 1.0)[inner] * SIGMA, rtol=1e-2)


def test_only_changed_columns_are_fitted_again():
    positions = disturbed_lattice()
    rng = np.random.default_rng(3)
    image = gaussians(SHAPE, positions, SIGMA) + rng.normal(0, 0.05, SHAPE)

    variance = 0.05**2
    before = fit_columns(image, positions, SIGMA, variance=variance)
    changed = np.arange(len(positions)) == 40
    moved = replace(before, x=before.x + 0.3)
    after = fit_columns(image, moved, SIGMA, variance=variance, changed=changed)
    # the others keep their numbers, the changed column converges again
    np.testing.assert_array_equal(after.x[~changed], moved.x[~changed])
    np.testing.assert_array_equal(after.last_step[~changed], before.last_step[~changed])
    assert abs(after.x[40] - before.x[40]) < 0.05 * before.x_err[40]
    assert after.x_err[40] == pytest.approx(before.x_err[40], rel=0.02)


def test_neighbours_of_changed_columns_are_fitted_again():
    positions = lattice_positions((120, 120), 9.0, margin=1.0)
    image = gaussians((120, 120), positions, SIGMA) + np.random.default_rng(3).normal(0, 0.02, (120, 120))

    variance = 0.02**2
    before = fit_columns(image, positions, SIGMA, variance=variance)
    changed = np.hypot(*(positions - 60).T) < 15
    moved = replace(before, x=before.x + np.where(changed, 1.0, 0.0))
    after = fit_columns(image, moved, SIGMA, variance=variance, changed=changed)
    assert (np.abs(after.x - before.x) / before.x_err).max() < 0.2


def test_a_coarse_tolerance_takes_fewer_steps():
    positions = lattice_positions((120, 120), 9.0, margin=1.0)
    image = gaussians((120, 120), positions, SIGMA) + np.random.default_rng(3).normal(0, 0.02, (120, 120))

    def fitted(tolerance: float) -> ColumnFits:
        return fit_columns(image, started(positions), SIGMA, variance=0.02**2, tolerance=tolerance)

    coarse, fine = fitted(0.5), fitted(0.05)
    assert fine.last_step.max() < 0.05
    assert 0.05 < coarse.last_step.max() < 0.5
    assert (np.abs(coarse.x - fine.x) / fine.x_err).max() < 1.0


@pytest.mark.parametrize("beyond", [0.9, 1.5, 3.0, 6.0])
def test_a_column_outside_the_frame_does_not_displace_its_neighbour(beyond):
    places = np.array([[-beyond, 30.0], [9.0 - beyond, 30.0], [30.0, 30.0]])
    image = 0.2 + gaussians((64, 64), places, 3.0, np.array([1.0, 0.6, 1.0]))
    image += np.random.default_rng(3).normal(0, 0.02, image.shape)
    inner = fit_columns(image, places + 0.3, 3.0, variance=0.02**2).take([1, 2])
    alone = fit_columns(image, places[1:] + 0.3, 3.0, variance=0.02**2)
    assert not inner.failed.any()
    assert (np.abs(inner.y - places[1:, 0]) < 3.5 * inner.y_err).all()
    assert alone.failed[0] or abs(alone.y[0] - places[1, 0]) > 3.5 * alone.y_err[0]
