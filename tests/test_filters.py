from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, signal

from stemkit.filters import gaussian_variance_gain, lanczos_weights, wide_gaussian


@pytest.mark.parametrize("sigma", [1.0, 4.0, 11.5, 30.0])
@pytest.mark.parametrize("axes", [(0, 1), (1,)])
def test_a_wide_gaussian_is_one(sigma, axes):
    values = np.random.default_rng(0).normal(size=(200, 240))
    exact = ndimage.gaussian_filter(values, [sigma * (axis in axes) for axis in (0, 1)])
    # noise that has gone through both is the same to a few per cent
    assert np.corrcoef(wide_gaussian(values, sigma, axes).ravel(), exact.ravel())[0, 1] > 0.995
    assert wide_gaussian(values, sigma, axes).std() == pytest.approx(exact.std(), rel=0.03)


def test_a_wide_gaussian_keeps_the_sum_of_a_spot():
    spot = np.zeros((301, 301))
    spot[150, 150] = 1.0
    smooth = wide_gaussian(spot, 20.0)
    y, _ = np.mgrid[:301, :301] - 150.0
    assert smooth.sum() == pytest.approx(1.0)
    assert np.sqrt((smooth * y**2).sum()) == pytest.approx(20.0, rel=0.02)


def test_a_filter_wider_than_the_image_is_its_mean():
    values = np.random.default_rng(1).normal(size=(40, 50)) + 3
    np.testing.assert_allclose(wide_gaussian(values, 500.0), values.mean(), atol=0.1)


LENGTHS = [(0.0, 0.0), (0.0, 6.0), (5.0, 5.0), (0.0, np.inf), (np.inf, 0.0)]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("sigmas", "weights"), [((1.5,), (1.0,)), ((1.2, 2.5), (1.0, -1.0))])
def test_the_variance_of_a_filtered_field(sigmas, weights, lengths):
    """Against the exact sum over the frequencies of a grid."""
    n = 512
    frequency = 2 * np.pi * np.fft.fftfreq(n)

    def gaussian(sigma):
        return np.exp(-((sigma * frequency) ** 2) / 2)

    def power(length):
        # mean 1 over the frequencies: the field has unit variance
        density = n * (frequency == 0) if np.isinf(length) else np.exp(-((length * frequency) ** 2))
        return density / density.mean()

    response = sum(w * np.outer(gaussian(s), gaussian(s)) for s, w in zip(sigmas, weights, strict=True))
    exact = (np.outer(*map(power, lengths)) * response**2).mean()
    assert gaussian_variance_gain(sigmas, weights, lengths=lengths) == pytest.approx(exact, rel=1e-3)


def test_noise_correlated_along_rows_is_reduced_less_by_a_filter():
    r, n, sigma = 0.4, 1024, 6.0
    white = np.random.default_rng(0).normal(size=(n, n))
    noise = signal.lfilter([np.sqrt(1 - r**2)], [1, -r], white, axis=1)
    filtered = ndimage.gaussian_filter(noise, sigma, mode="wrap")
    # n^2 / (4 pi sigma^2) independent values
    scatter = np.sqrt(2 * 4 * np.pi) * sigma / n
    assert filtered.var() == pytest.approx(gaussian_variance_gain(sigma, correlation_x=r), rel=4 * scatter + 0.02)


@pytest.mark.parametrize("n_taps", [4, 6, 8])
def test_lanczos_weights_interpolate_slow_waves(n_taps):
    fraction = np.array([[0.0, 0.25], [0.5, 0.9]])
    weights = lanczos_weights(fraction, n_taps)
    assert weights.shape == (2, 2, n_taps)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0)
    samples = np.arange(n_taps) - (n_taps // 2 - 1)
    np.testing.assert_allclose(weights[0, 0], samples == 0, atol=1e-12)
    wave = np.cos(2 * np.pi * 0.05 * samples)
    np.testing.assert_allclose(weights @ wave, np.cos(2 * np.pi * 0.05 * fraction), atol=0.01)
