"""Tests of the detection of peaks and of the matched filter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import cKDTree
from strategies import SIGMAS, gaussians, lattice_positions, seeds, shapes

from stemkit import NoiseModel, PointwiseNoise
from stemkit.columns import column_response, find_peaks, peaks_above_noise


def noise(n: int, seed: int, correlation_x: float = 0.0) -> np.ndarray:
    pointwise = PointwiseNoise(1.0, shape=0.1349, correlation_x=correlation_x)
    return NoiseModel(pointwise=pointwise).apply(np.zeros((n, n)), random_state=seed)


# --- peaks -------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.floats(20.0, 28.0), st.floats(20.0, 28.0), st.floats(2.0, 5.0))
def test_peaks_are_found_between_pixels(y, x, sigma):
    found = find_peaks(gaussians((49, 49), np.array([[y, x]]), sigma), threshold=0.5, min_distance=3.0)
    # a parabola through three points of a Gaussian is off by less than (1 / 8) (1 / sigma)^2 of half a pixel
    assert found.shape == (1, 2)
    assert found[0] == pytest.approx([y, x], abs=0.5 / (8 * (sigma - 1) ** 2))


def test_peaks_come_highest_first():
    positions = lattice_positions((96, 96), 20.0, margin=-8.0)
    amplitude = np.linspace(1, 3, len(positions))
    found = find_peaks(gaussians((96, 96), positions, 2.0, amplitude), threshold=0.3, min_distance=5.0)
    assert len(found) == len(positions)
    _, which = cKDTree(positions).query(found)
    assert (np.diff(amplitude[which]) < 0.15).all()
    assert sorted(which) == list(range(len(positions)))
    assert which[0] == len(positions) - 1


@settings(max_examples=30)
@given(shapes(1, 40), st.floats(0.5, 12.0), st.floats(-1.0, 2.0), seeds)
def test_peaks_keep_their_distance_and_are_above_the_threshold(shape, min_distance, threshold, seed):
    values = np.random.default_rng(seed).normal(size=shape)
    found = find_peaks(values, threshold=threshold, min_distance=min_distance)
    if len(found) > 1:
        assert cKDTree(found).query(found, k=2)[0][:, 1].min() >= min_distance
    rows, cols = np.round(found).astype(int).clip(0, np.array(shape) - 1).T
    assert (found >= -0.5).all()
    assert (found <= np.array(shape) - 0.5).all()
    if values.max() > threshold:
        assert values[rows[0], cols[0]] <= values.max()
        highest = np.unravel_index(np.argmax(values), shape)
        assert found[0] == pytest.approx(np.array(highest), abs=0.5)
    else:
        assert len(found) == 0


def test_of_two_close_peaks_the_higher_one_stays():
    values = np.zeros((20, 20))
    values[5, 5], values[5, 9], values[5, 13] = 1.0, 3.0, 2.0
    near = find_peaks(values, threshold=0.5, min_distance=5.0)
    assert near.tolist() == [[5.0, 9.0]]
    # a peak that is removed does not remove others
    values[5, 5], values[5, 9], values[5, 13] = 3.0, 2.0, 1.0
    assert find_peaks(values, threshold=0.5, min_distance=5.0).tolist() == [[5.0, 5.0], [5.0, 13.0]]
    assert len(find_peaks(values, threshold=0.5, min_distance=3.0)) == 3
    assert len(find_peaks(values, threshold=1.5, min_distance=3.0)) == 2


def test_a_plateau_gives_one_peak():
    values = np.zeros((21, 21))
    values[9:12, 8:13] = 1.0
    found = find_peaks(values, threshold=0.5, min_distance=6.0)
    assert len(found) == 1
    assert 8.5 <= found[0, 0] <= 11.5
    assert 7.5 <= found[0, 1] <= 12.5


@pytest.mark.parametrize("corner", [(0, 0), (0, 19), (19, 0), (19, 19), (0, 7)])
def test_peaks_on_the_border_are_found(corner):
    values = gaussians((20, 20), np.array([corner], dtype=float), 2.0)
    assert find_peaks(values, threshold=0.5, min_distance=3.0)[0] == pytest.approx(corner, abs=0.01)


@pytest.mark.parametrize("values", [np.zeros((10, 10)), np.zeros((1, 1)), -np.ones((5, 3))])
def test_without_peaks_the_result_is_empty(values):
    assert find_peaks(values, threshold=0.0, min_distance=2.0).shape == (0, 2)


# --- response ----------------------------------------------------------------------------------------------------


@given(st.floats(-1e3, 1e3), st.floats(1.0, 6.0))
@settings(max_examples=15)
def test_response_to_a_constant_is_zero(level, sigma):
    np.testing.assert_allclose(column_response(np.full((30, 30), level), sigma), 0.0, atol=1e-9 * (1 + abs(level)))


@settings(max_examples=10)
@given(st.floats(1.5, 5.0))
def test_response_of_a_column_of_the_filters_width(sigma):
    image = gaussians((129, 129), np.array([[64.0, 64.0]]), sigma)
    # a Gaussian of variance s^2, filtered with one of variance t^2, has s^2 / (s^2 + t^2) of its height
    assert column_response(image, sigma)[64, 64] == pytest.approx(1 / 2 - 1 / 5, rel=0.02)


# --- noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1.5, 2.5, 4.0])
@pytest.mark.parametrize("significance", [3.0, 4.5])
def test_number_of_false_peaks_in_noise(sigma, significance):
    found = sum(
        len(peaks_above_noise(noise(192, s), sigma, noise=1.0, min_distance=2 * sigma, significance=significance))
        for s in range(8)
    )
    # a peak has several pixels: there are fewer peaks than pixels above the threshold
    expected = 8 * 192**2 * stats.norm.sf(significance)
    assert found <= expected + SIGMAS * math.sqrt(expected) + 3


@pytest.mark.parametrize("correlation_x", [0.0, 0.4])
@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_threshold_is_in_standard_deviations_of_the_filtered_noise(sigma, correlation_x):
    """The threshold at which the highest peak vanishes is its height over the assumed standard deviation."""
    values = noise(512, 3, correlation_x)
    inner = column_response(values, sigma)[20:-20, 20:-20]
    # the filtered noise is correlated over 4 pi sigma^2 px
    error = math.sqrt(4 * math.pi * sigma**2 / inner.size / 2)
    measured = float(inner.std())
    highest = float(inner.max())

    def peaks(significance: float) -> int:
        found = peaks_above_noise(
            values, sigma, noise=1.0, min_distance=1.0, significance=significance, correlation_x=correlation_x
        )
        return int(((found > 20) & (found < 490)).all(axis=1).sum())

    low, high = 1.0, 12.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if peaks(middle) else (low, middle)
    assumed = highest / low
    # the formula holds for columns wider than the correlation length
    assert assumed == pytest.approx(measured, rel=SIGMAS * error + (0.1 if correlation_x else 0.02))


def test_columns_in_noise_are_found():
    positions = lattice_positions((192, 192), 16.0, margin=-6.0)
    image = gaussians((192, 192), positions, 2.5) + 0.3 * noise(192, 0)
    found = peaks_above_noise(image, 2.5, noise=0.3, min_distance=8.0)
    distance, which = cKDTree(positions).query(found)
    assert sorted(which) == list(range(len(positions)))
    assert distance.max() < 2.0


# --- neighbours --------------------------------------------------------------------------------------------------
