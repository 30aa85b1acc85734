"""Fits that are told something: where a column is expected, which pixels count, what the background is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, gaussians, lattice_positions, seeds

from stemkit.columns import ColumnFits, fit_columns

SHAPE = (400, 400)
SIGMA, LEVEL = 2.5, 0.1


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Columns that do not overlap, and an image of them in white noise."""
    rng = np.random.default_rng(seed)
    positions = lattice_positions(SHAPE, 20.0, margin=-10.0)
    positions = positions + rng.uniform(-0.5, 0.5, positions.shape)
    return positions, gaussians(SHAPE, positions, SIGMA) + rng.normal(0, LEVEL, SHAPE)


def spread_of(n: int) -> float:
    """Relative error of a standard deviation from n values."""
    return SIGMAS / math.sqrt(2 * n)


def with_prior(image: np.ndarray, start: np.ndarray, expected: np.ndarray, error: float, **more: object) -> ColumnFits:
    prior = np.column_stack([expected, np.full(len(expected), error)])
    return fit_columns(image, start, SIGMA, variance=LEVEL**2, prior=prior, tolerance=0.01, **more)


class TestPrior:
    @pytest.mark.parametrize("error", [np.inf, 1e4])
    def test_a_very_wide_one_changes_nothing(self, error):
        positions, image = scene()
        free = fit_columns(image, positions, SIGMA, variance=LEVEL**2, tolerance=0.01)
        told = with_prior(image, positions, positions + 3.0, error)
        np.testing.assert_array_equal(told.failed, free.failed)
        np.testing.assert_allclose(told.positions, free.positions, atol=1e-3 * free.y_err.max())
        np.testing.assert_allclose(told.y_err, free.y_err, rtol=1e-6)
        np.testing.assert_allclose(told.amplitude, free.amplitude, rtol=1e-4)

    def test_a_narrow_one_keeps_the_position_and_gives_it_its_error(self):
        positions, image = scene()
        error = 1e-3
        told = with_prior(image, positions, positions + 0.05, error)
        assert not told.failed.any()
        # the pixels' own error is 80 times as large
        np.testing.assert_allclose(told.positions, positions + 0.05, atol=0.1 * error)
        np.testing.assert_allclose(np.r_[told.y_err, told.x_err], error, rtol=1e-3)

    @settings(max_examples=6)
    @given(st.floats(0.3, 3.0), seeds)
    def test_one_in_between_counts_like_another_measurement(self, ratio, seed):
        positions, image = scene(seed)
        free = fit_columns(image, positions, SIGMA, variance=LEVEL**2, tolerance=0.01)
        own = float(np.median(free.y_err))
        error = ratio * own
        expected = positions + np.random.default_rng(seed).normal(0, error, positions.shape)
        told = with_prior(image, positions, expected, error)
        good = ~told.failed & ~free.failed
        assert good.mean() > 0.99
        for axis, column in ((0, "y"), (1, "x")):
            ours, theirs = (getattr(f, column)[good] for f in (free, told))
            e = getattr(free, f"{column}_err")[good]
            # where fits are not widened by what they leave, and have the same width
            np.testing.assert_allclose(
                getattr(told, f"{column}_err")[good], (1 / e**2 + 1 / error**2) ** -0.5, rtol=0.08
            )
            weight = e**-2 / (e**-2 + error**-2)
            mean = weight * ours + (1 - weight) * expected[good, axis]
            assert np.abs(theirs - mean).max() < 0.2 * own
            assert (theirs - mean).std() < 0.05 * own
            pull = (theirs - positions[good, axis]) / getattr(told, f"{column}_err")[good]
            assert pull.std() == pytest.approx(1.0, rel=spread_of(good.sum()) + 0.03)

    def test_one_of_some_columns_leaves_the_others_alone(self):
        positions, image = scene()
        some = np.arange(len(positions)) % 3 == 0
        error = np.where(some, 0.01, np.inf)
        prior = np.column_stack([positions + 0.05, error])
        told = fit_columns(image, positions, SIGMA, variance=LEVEL**2, prior=prior)
        free = fit_columns(image, positions, SIGMA, variance=LEVEL**2)
        np.testing.assert_allclose(told.positions[~some], free.positions[~some], atol=1e-6)
        np.testing.assert_allclose(told.y_err[some], 0.01, rtol=0.02)

    def test_it_says_nothing_of_a_position_that_is_not_fitted(self):
        positions, image = scene()
        told = with_prior(image, positions, positions + 1.0, 0.01, fit_position=False)
        np.testing.assert_array_equal(told.positions, positions)
        assert (told.y_err == 0).all()


class TestValid:
    @pytest.mark.parametrize("value", [50.0, -50.0])
    @pytest.mark.parametrize("away", [0.0, 1.5])
    def test_a_faulty_pixel_under_a_column_does_not_move_it(self, value, away):
        positions, image = scene()
        place = (positions + np.array([0.0, away])).round().astype(int)
        valid = np.ones(SHAPE, dtype=bool)
        valid[tuple(place.T)] = False
        spoilt = np.where(valid, image, value)
        fits = fit_columns(spoilt, positions, SIGMA, variance=LEVEL**2, valid=valid)
        kept = ~fits.failed
        assert kept.mean() > 0.99
        pull = (fits.positions - positions)[kept] / np.column_stack([fits.y_err, fits.x_err])[kept]
        n = pull.size
        assert pull.std() == pytest.approx(1.0, rel=spread_of(n) + 0.02)
        assert abs(pull.mean()) < SIGMAS / math.sqrt(n)
        # the value itself has no weight
        other = fit_columns(np.where(valid, image, 0.3), positions, SIGMA, variance=LEVEL**2, valid=valid)
        np.testing.assert_allclose(fits.positions, other.positions, atol=0.02 * np.nanmax(fits.y_err))

    def test_the_errors_grow_by_the_information_that_is_lost(self):
        positions, image = scene()
        whole = fit_columns(image, positions, SIGMA, variance=LEVEL**2)
        # 1.2 sigma to the right is a pixel that tells much of x, and little of y
        at = (positions + np.array([0.0, 1.2 * SIGMA])).round().astype(int)
        valid = np.ones(SHAPE, dtype=bool)
        valid[tuple(at.T)] = False
        part = fit_columns(image, positions, SIGMA, variance=LEVEL**2, valid=valid)
        u = (at[:, 1] - positions[:, 1]) / SIGMA
        v = (at[:, 0] - positions[:, 0]) / SIGMA
        # of the information pi / 2 (A / s)^2 of x
        lost = u**2 * np.exp(-(u**2) - v**2) / SIGMA**2 / (np.pi / 2)
        grown = (whole.x_err / part.x_err) ** 2
        # height, width and background take a little more of it
        assert np.median(grown) == pytest.approx(np.median(1 - lost), abs=0.03)
        assert np.median(part.y_err / whole.y_err) == pytest.approx(1.0, abs=0.01)

    def test_a_column_on_no_valid_pixel_fails(self):
        positions, image = scene()
        valid = np.hypot(*(np.indices(SHAPE) - positions[40][:, None, None])) > 12
        fits = fit_columns(image, positions, SIGMA, variance=LEVEL**2, valid=valid)
        assert fits.failed[40]
        assert not np.delete(fits.failed, 40).any()


class TestBackground:
    @settings(max_examples=8)
    @given(st.floats(-5.0, 5.0), st.floats(0.1, 100.0), seeds)
    def test_one_that_is_known_makes_the_intensity_certain(self, level, scale, seed):
        positions, image = scene(seed)
        image = scale * (image + level)
        told = fit_columns(image, positions, SIGMA, variance=(scale * LEVEL) ** 2, background=scale * level)
        free = fit_columns(image, positions, SIGMA, variance=(scale * LEVEL) ** 2)
        np.testing.assert_allclose(told.background, scale * level, atol=1e-6 * scale)
        assert (told.background_err == 0).all()
        assert np.median(told.intensity_err) < 0.75 * np.median(free.intensity_err)
        pull = (told.intensity - scale * 2 * np.pi * SIGMA**2) / told.intensity_err
        assert pull.std() == pytest.approx(1.0, rel=spread_of(len(pull)) + 0.03)
        assert abs(pull.mean()) < SIGMAS / math.sqrt(len(pull)) + 0.1
