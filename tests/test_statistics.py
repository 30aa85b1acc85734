"""Statistics of images."""

import numpy as np
import pytest

from stemkit.statistics import (
    gaussian_width,
    median_spacing,
    nearest_distances,
    robust_rms,
    robust_std,
    row_correlation,
)


@pytest.mark.parametrize("width", [1.5, 3.0, 6.0])
def test_width_of_a_gaussian(width):
    n = 2 * int(20 * width) + 1
    profile = np.exp(-((np.arange(n) - n // 2) ** 2) / (2 * width**2))
    # slopes are differences over two pixels, and 1 % of the power is that of the mean
    assert gaussian_width(7.0 * np.outer(profile, profile)) == pytest.approx(width, rel=0.01 + 0.3 / width**2)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.6])
def test_correlation_of_rows_does_not_contain_the_specimen(correlation):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 400))
    for k in range(1, 400):
        noise[:, k] = correlation * noise[:, k - 1] + np.sqrt(1 - correlation**2) * noise[:, k]
    specimen = np.repeat(np.repeat(rng.normal(size=(20, 20)), 20, axis=0), 20, axis=1)
    # a blend of equal variances: 19 of 20 neighbours are in the same square along both axes
    limit = 5 / 400
    assert row_correlation(noise) == pytest.approx(correlation, abs=limit)
    assert row_correlation(noise + specimen) == pytest.approx(correlation / 2, abs=0.03)


def test_constant_images_have_limits():
    assert gaussian_width(np.ones((20, 20))) == 1.0
    assert row_correlation(np.zeros((20, 20))) == 0.0


def test_nearest_distances():
    positions = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
    assert nearest_distances(positions).tolist() == [5.0, 1.0, 1.0]
    assert median_spacing(positions, 7.0) == 1.0
    for few in (np.array([[0.0, 0.0]]), np.empty((0, 2))):
        assert nearest_distances(few).shape == (0,)
        assert median_spacing(few, 7.0) == 7.0


def test_robust_standard_deviations_ignore_outliers():
    values = 5.0 + np.random.default_rng(0).normal(scale=2.0, size=10_000)
    values[:50] = 1e6
    # the error of the median absolute deviation is 1.17 / sqrt(n); the outliers displace it by less than 1 %
    assert robust_std(np.append(values, np.nan)) == pytest.approx(2.0, rel=0.05)
    assert robust_rms(values - 5.0) == pytest.approx(2.0, rel=0.05)
    assert robust_rms(values) > 6.0
