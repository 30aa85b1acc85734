"""Tests of ColumnFits.unbinned: fits to a binned image agree with those to the image itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, gaussians, lattice_positions, seeds

from stemkit.columns import ColumnFits, fit_columns
from stemkit.detection.normalized_image import bin_pixels
from stemkit.detection.search import bin_positions

SHAPE = (360, 384)


def fitted_pair(
    sigma: float, spacing: float, level: float, factor: int, seed: int, **more: object
) -> tuple[ColumnFits, ColumnFits, ColumnFits]:
    """Fits of columns in white noise to the image and to the binned image, and fits to the image without noise."""
    rng = np.random.default_rng(seed)
    positions = lattice_positions(SHAPE, spacing, margin=-3 * sigma)
    positions = positions + rng.uniform(-0.5, 0.5, positions.shape)
    true_image = 2.0 + gaussians(SHAPE, positions, sigma, rng.uniform(0.7, 1.3, len(positions)))
    image = true_image + rng.normal(0, level, SHAPE)
    wide = np.sqrt(sigma**2 + (factor**2 - 1) / 12) / factor
    fine = fit_columns(image, positions, sigma, variance=level**2, tolerance=0.01, **more)
    coarse = fit_columns(
        bin_pixels(image, factor),
        bin_positions(positions, factor),
        wide,
        variance=(level / factor) ** 2,
        tolerance=0.01,
        **more,
    )
    true = fit_columns(true_image, positions, sigma, variance=level**2, tolerance=1e-3)
    return fine, coarse.unbinned(factor), true


@settings(max_examples=10)
@given(st.floats(4.0, 12.0), st.floats(5.0, 7.0), st.sampled_from([2, 4]), st.booleans(), seeds)
def test_without_noise_both_fits_agree(sigma, spacing, part, elliptical, seed):
    """Binning by a half or a quarter of a width."""
    fine, coarse, _ = fitted_pair(sigma, spacing * sigma, 1e-5, max(2, int(sigma / part)), seed, elliptical=elliptical)
    assert not fine.failed.any()
    assert not coarse.failed.any()
    # the mean of a Gaussian over squares is only approximately a wider Gaussian
    np.testing.assert_allclose(coarse.positions, fine.positions, atol=2e-3 * sigma)
    for name, tolerance in (("amplitude", 0.01), ("sigma", 0.01), ("intensity", 0.01)):
        np.testing.assert_allclose(getattr(coarse, name), getattr(fine, name), rtol=tolerance, err_msg=name)
    np.testing.assert_allclose(coarse.background, 2.0, atol=0.01)
    np.testing.assert_allclose(np.hypot(coarse.e1, coarse.e2), 0.0, atol=0.01)


@settings(max_examples=10)
@given(st.floats(4.0, 9.0), st.floats(5.0, 7.0), st.sampled_from([2, 4]), seeds)
def test_with_noise_both_fits_are_equally_accurate(sigma, spacing, part, seed):
    level, factor = 0.1, max(2, int(sigma / part))
    fine, coarse, true = fitted_pair(sigma, spacing * sigma, level, factor, seed)
    good = ~fine.failed & ~coarse.failed
    assert good.mean() > 0.99
    n = int(good.sum())
    # binning by f increases sigma^2 by (f^2 - 1) / 12
    loss = math.sqrt(1 + (factor**2 - 1) / 12 / sigma**2)
    for axis in ("y", "x"):
        ours, theirs = (getattr(f, f"{axis}_err")[good] for f in (fine, coarse))
        assert np.median(theirs / ours) == pytest.approx(1.0, abs=loss - 1 + 0.01)
        difference = (getattr(coarse, axis) - getattr(fine, axis))[good] / ours
        # windows of the binned image are wider by up to one of its pixels
        assert difference.std() < math.sqrt(loss**2 - 1) + 0.15
        assert abs(difference.mean()) < SIGMAS * difference.std() / math.sqrt(n)
    for name in ("y", "x", "amplitude", "sigma", "background", "intensity"):
        pull = ((getattr(coarse, name) - getattr(true, name)) / getattr(coarse, f"{name}_err"))[good]
        assert pull.std() == pytest.approx(1.0, rel=SIGMAS / math.sqrt(2 * n) + 0.05), name
        assert abs(pull.mean()) < SIGMAS / math.sqrt(n) + 0.1, name


def test_binning_by_one_changes_nothing():
    fine, coarse, _ = fitted_pair(4.0, 24.0, 0.1, 1, 0)
    for name, values in vars(fine).items():
        np.testing.assert_array_equal(getattr(coarse, name), values)


@given(st.integers(1, 9), st.floats(-50, 50), st.floats(-50, 50))
def test_binned_positions_are_those_of_the_bins_centers(factor, y, x):
    binned = bin_positions(np.array([[y, x]]), factor)
    np.testing.assert_allclose(factor * binned + (factor - 1) / 2, [[y, x]], atol=1e-9)
    indices = np.indices((4 * factor, 5 * factor)).astype(float)
    for axis in (0, 1):
        along = bin_pixels(indices[axis], factor)
        expected = np.indices((4, 5))[axis] * factor + (factor - 1) / 2
        np.testing.assert_allclose(along, expected)


def test_bins_that_exceed_the_image_repeat_its_border():
    values = np.arange(12.0).reshape(3, 4)
    np.testing.assert_allclose(bin_pixels(values, 3), [[values[:, :3].mean(), values[:, 3].mean()]])
