"""Tests of fits with prior knowledge: expected positions, valid pixels, a known background."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, error_of_std, gaussians, lattice_positions, seeds

from stemkit.columns import ColumnFits, fit_columns

SHAPE = (400, 400)
SIGMA, LEVEL = 2.5, 0.1


def disturbed_lattice(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Columns that do not overlap, and an image of them in white noise."""
    rng = np.random.default_rng(seed)
    positions = lattice_positions(SHAPE, 20.0, margin=-10.0)
    positions = positions + rng.uniform(-0.5, 0.5, positions.shape)
    return positions, gaussians(SHAPE, positions, SIGMA) + rng.normal(0, LEVEL, SHAPE)


def with_prior(image: np.ndarray, start: np.ndarray, expected: np.ndarray, error: float, **more: object) -> ColumnFits:
    prior = np.column_stack([expected, np.full(len(expected), error)])
    return fit_columns(image, start, SIGMA, variance=LEVEL**2, prior=prior, tolerance=0.01, **more)


class TestPrior:
    @pytest.mark.parametrize("error", [np.inf, 1e4])
    def test_a_very_wide_prior_changes_nothing(self, error):
        positions, image = disturbed_lattice()
        free = fit_columns(image, positions, SIGMA, variance=LEVEL**2, tolerance=0.01)
        fits = with_prior(image, positions, positions + 3.0, error)
        np.testing.assert_array_equal(fits.failed, free.failed)
        np.testing.assert_allclose(fits.positions, free.positions, atol=1e-3 * free.y_err.max())
        np.testing.assert_allclose(fits.y_err, free.y_err, rtol=1e-6)
        np.testing.assert_allclose(fits.amplitude, free.amplitude, rtol=1e-4)

    def test_a_narrow_prior_determines_position_and_error(self):
        positions, image = disturbed_lattice()
        error = 1e-3
        fits = with_prior(image, positions, positions + 0.05, error)
        assert not fits.failed.any()
        # the error without the prior is 80 times as large
        np.testing.assert_allclose(fits.positions, positions + 0.05, atol=0.1 * error)
        np.testing.assert_allclose(np.r_[fits.y_err, fits.x_err], error, rtol=1e-3)

    @settings(max_examples=6)
    @given(st.floats(0.3, 3.0), seeds)
    def test_a_prior_counts_like_another_measurement(self, ratio, seed):
        positions, image = disturbed_lattice(seed)
        free = fit_columns(image, positions, SIGMA, variance=LEVEL**2, tolerance=0.01)
        own = float(np.median(free.y_err))
        error = ratio * own
        expected = positions + np.random.default_rng(seed).normal(0, error, positions.shape)
        fits = with_prior(image, positions, expected, error)
        good = ~fits.failed & ~free.failed
        assert good.mean() > 0.99
        # by noise, the residual of one column in 1000 has a significant slope, which is in its error
        good &= np.maximum(free.y_err, free.x_err) < 1.3 * own
        assert good.mean() > 0.8
        for axis, column in ((0, "y"), (1, "x")):
            ours, theirs = (getattr(f, column)[good] for f in (free, fits))
            e = getattr(free, f"{column}_err")[good]
            # apart from errors that are scaled by the residual, and changes of the width; by noise, the residual of one
            # column in 1000 has a significant slope, which is in its error
            combined = (1 / e**2 + 1 / error**2) ** -0.5
            assert np.isclose(getattr(fits, f"{column}_err")[good], combined, rtol=0.08).mean() > 0.99
            weight = e**-2 / (e**-2 + error**-2)
            mean = weight * ours + (1 - weight) * expected[good, axis]
            assert np.abs(theirs - mean).max() < 0.2 * own
            assert (theirs - mean).std() < 0.05 * own
            pull = (theirs - positions[good, axis]) / getattr(fits, f"{column}_err")[good]
            assert pull.std() == pytest.approx(1.0, rel=error_of_std(good.sum()) + 0.03)

    def test_a_prior_of_some_columns_does_not_affect_the_others(self):
        positions, image = disturbed_lattice()
        some = np.arange(len(positions)) % 3 == 0
        error = np.where(some, 0.01, np.inf)
        prior = np.column_stack([positions + 0.05, error])
        fits = fit_columns(image, positions, SIGMA, variance=LEVEL**2, prior=prior)
        free = fit_columns(image, positions, SIGMA, variance=LEVEL**2)
        np.testing.assert_allclose(fits.positions[~some], free.positions[~some], atol=1e-6)
        np.testing.assert_allclose(fits.y_err[some], 0.01, rtol=0.02)

    def test_a_prior_does_not_change_a_fixed_position(self):
        positions, image = disturbed_lattice()
        fits = with_prior(image, positions, positions + 1.0, 0.01, fit_position=False)
        np.testing.assert_array_equal(fits.positions, positions)
        assert (fits.y_err == 0).all()


class TestValid:
    @pytest.mark.parametrize("value", [50.0, -50.0])
    @pytest.mark.parametrize("away", [0.0, 1.5])
    def test_an_invalid_pixel_does_not_displace_a_column(self, value, away):
        positions, image = disturbed_lattice()
        place = (positions + np.array([0.0, away])).round().astype(int)
        valid = np.ones(SHAPE, dtype=bool)
        valid[tuple(place.T)] = False
        spoilt = np.where(valid, image, value)
        fits = fit_columns(spoilt, positions, SIGMA, variance=LEVEL**2, valid=valid)
        kept = ~fits.failed
        assert kept.mean() > 0.99
        pull = (fits.positions - positions)[kept] / np.column_stack([fits.y_err, fits.x_err])[kept]
        n = pull.size
        assert pull.std() == pytest.approx(1.0, rel=error_of_std(n) + 0.02)
        assert abs(pull.mean()) < SIGMAS / math.sqrt(n)
        # the value itself has no weight
        other = fit_columns(np.where(valid, image, 0.3), positions, SIGMA, variance=LEVEL**2, valid=valid)
        np.testing.assert_allclose(fits.positions, other.positions, atol=0.02 * np.nanmax(fits.y_err))

    def test_invalid_pixels_increase_the_errors_by_the_lost_information(self):
        positions, image = disturbed_lattice()
        whole = fit_columns(image, positions, SIGMA, variance=LEVEL**2)
        # a pixel 1.2 sigma to the right contains much information on x, and little on y
        at = (positions + np.array([0.0, 1.2 * SIGMA])).round().astype(int)
        valid = np.ones(SHAPE, dtype=bool)
        valid[tuple(at.T)] = False
        part = fit_columns(image, positions, SIGMA, variance=LEVEL**2, valid=valid)
        u = (at[:, 1] - positions[:, 1]) / SIGMA
        v = (at[:, 0] - positions[:, 0]) / SIGMA
        # of the information pi / 2 (A / s)^2 of x
        lost = u**2 * np.exp(-(u**2) - v**2) / SIGMA**2 / (np.pi / 2)
        grown = (whole.x_err / part.x_err) ** 2
        # amplitude, width and background lose a little, too
        assert np.median(grown) == pytest.approx(np.median(1 - lost), abs=0.03)
        assert np.median(part.y_err / whole.y_err) == pytest.approx(1.0, abs=0.01)

    def test_a_column_on_no_valid_pixel_fails(self):
        positions, image = disturbed_lattice()
        valid = np.hypot(*(np.indices(SHAPE) - positions[40][:, None, None])) > 12
        fits = fit_columns(image, positions, SIGMA, variance=LEVEL**2, valid=valid)
        assert fits.failed[40]
        assert not np.delete(fits.failed, 40).any()


class TestBackground:
    @settings(max_examples=8)
    @given(st.floats(-5.0, 5.0), st.floats(0.1, 100.0), seeds)
    def test_a_known_background_reduces_the_error_of_the_intensity(self, level, scale, seed):
        positions, image = disturbed_lattice(seed)
        image = scale * (image + level)
        fits = fit_columns(image, positions, SIGMA, variance=(scale * LEVEL) ** 2, background=scale * level)
        free = fit_columns(image, positions, SIGMA, variance=(scale * LEVEL) ** 2)
        np.testing.assert_allclose(fits.background, scale * level, atol=1e-6 * scale)
        assert (fits.background_err == 0).all()
        assert np.median(fits.intensity_err) < 0.75 * np.median(free.intensity_err)
        pull = (fits.intensity - scale * 2 * np.pi * SIGMA**2) / fits.intensity_err
        assert pull.std() == pytest.approx(1.0, rel=error_of_std(len(pull)) + 0.03)
        assert abs(pull.mean()) < SIGMAS / math.sqrt(len(pull)) + 0.1
