"""Formulas of the scores on repeat frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from strategies import SIGMAS, seeds, shapes

from stemkit.benchmark.frame_scores import (
    Moments,
    ceiling,
    correlation_with_mean,
    jackknife_error,
    mean_squared_error,
    signal_variance,
    spearman_brown,
    split_half_correlation,
)
from stemkit.benchmark.rings import ring_ceiling
from stemkit.trust.rings import Rings, resolution, threshold_curve

variances = st.floats(0.01, 100.0)


def model_covariance(signal, noise):
    """Of frames with a common signal and independent noise."""
    return signal + np.diag(np.asarray(noise, dtype=float))


# --- correlation and error ---------------------------------------------------------------------------------------


@given(seeds, st.integers(3, 6), shapes(4, 20))
def test_scores_from_moments_are_those_of_the_images(seed, n, shape):
    rng = np.random.default_rng(seed)
    stacks = rng.normal(5, 2, (n, n, *shape)) + rng.normal(size=shape)
    moments = Moments.from_stacks(stacks)
    for i, stack in enumerate(stacks):
        others = [j for j in range(n) if j != i]
        mean = stack[others].mean(axis=0)
        assert correlation_with_mean(moments.covariance[i], i, others) == pytest.approx(
            np.corrcoef(stack[i].ravel(), mean.ravel())[0, 1], abs=1e-9
        )
        of_mean = stack[others].var(axis=0, ddof=1).mean() / (n - 1)
        expected = ((stack[i] - mean) ** 2).mean() - of_mean
        assert mean_squared_error(moments.second[i], i, others) == pytest.approx(expected, abs=1e-9)


@given(seeds, variances, st.integers(3, 6), st.floats(0, 3), st.floats(0, 2))
@settings(max_examples=30)
def test_the_error_is_unbiased_whatever_the_method_and_the_noise(seed, variance, n, offset, scale):
    """The denoised image has an offset, a wrong contrast and noise; frames have unequal noise."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(0, 10, (100, 100)), 3)
    noise = np.sqrt(variance * np.linspace(0.5, 2, n))[:, None, None]
    stack = truth + noise * rng.normal(size=(n, 100, 100))
    stack[0] = offset + scale * truth + np.sqrt(variance) * rng.normal(size=truth.shape)
    others = list(range(1, n))
    true = float(((stack[0] - truth) ** 2).mean())
    # Var(-2 <(d - t) (m - t)>) + Var of the mean of <e_j e_k> over pairs
    of_mean = float((noise[1:] ** 2).sum()) / (n - 1) ** 2
    squares = (noise[1:] ** 2).ravel()
    of_pairs = 2 * (squares.sum() ** 2 - (squares**2).sum()) / ((n - 1) * (n - 2)) ** 2
    std = np.sqrt((4 * true * of_mean + of_pairs) / truth.size)
    assert abs(mean_squared_error(Moments.from_stacks([stack]).second[0], 0, others) - true) < SIGMAS * std


def test_a_constant_image_has_no_correlation():
    stack = np.random.default_rng(0).normal(size=(3, 8, 8))
    stack[0] = 2.0
    assert np.isnan(correlation_with_mean(Moments.from_stacks([stack]).covariance[0], 0, [1, 2]))


# --- ceiling -----------------------------------------------------------------------------------------------------


@given(variances, variances, st.floats(0.2, 20), st.floats(0.2, 20))
def test_reliabilities_of_means_follow_from_each_other(signal, noise, first, second):
    r = signal / (signal + noise)
    assert spearman_brown(r, first) == pytest.approx(signal / (signal + noise / first))
    assert spearman_brown(spearman_brown(r, first), second) == pytest.approx(spearman_brown(r, first * second))


@given(variances, variances, st.integers(2, 9), st.integers(1, 20))
def test_the_ceiling_of_equal_frames_is_that_of_their_model(signal, noise, n, n_averaged):
    covariance = model_covariance(signal, [noise] * n)
    half = n // 2
    assert split_half_correlation(covariance, range(n)) == pytest.approx(signal / (signal + noise / half))
    expected = np.sqrt(signal / (signal + noise / n_averaged))
    assert ceiling(covariance, range(n), n_averaged) == pytest.approx(expected)
    assert signal_variance(covariance) == pytest.approx(signal)


@given(st.lists(variances, min_size=4, max_size=7), variances)
def test_the_ceiling_does_not_depend_on_the_order_of_frames(noise, signal):
    a = ceiling(model_covariance(signal, noise), range(len(noise)), 3)
    b = ceiling(model_covariance(signal, noise[::-1]), range(len(noise)), 3)
    assert a == pytest.approx(b)


def test_splits_beyond_the_limit_are_sampled_evenly():
    """Of 20 frames of unequal noise the sampled splits give the mean over all pairs of halves."""
    noise = np.linspace(0.5, 1.5, 20)
    sampled = float(split_half_correlation(model_covariance(1.0, noise), range(20)))
    rng = np.random.default_rng(1)
    values = []
    for _ in range(4000):
        order = rng.permutation(20)
        a, b = 1 + noise[order[:10]].sum() / 100, 1 + noise[order[10:]].sum() / 100
        values.append(1 / np.sqrt(a * b))
    assert sampled == pytest.approx(np.mean(values), abs=SIGMAS * np.std(values) * np.sqrt(1 / 2000 + 1 / 4000))


def test_frames_without_signal_have_a_ceiling_of_zero():
    covariance = model_covariance(-0.1, [1.0] * 4)
    assert ceiling(covariance, range(4), 3) == 0


@given(seeds, st.integers(3, 12))
def test_the_jackknife_of_a_mean_is_its_standard_error(seed, n):
    values = np.random.default_rng(seed).normal(size=n)
    expected = values.std(ddof=1) / np.sqrt(n)
    assert jackknife_error(lambda frames: values[frames].mean(), n) == pytest.approx(expected)


# --- rings -------------------------------------------------------------------------------------------------------


@given(seeds, shapes(16, 50))
@settings(max_examples=20)
def test_rings_sum_the_coefficients_at_their_frequencies(seed, shape):
    """All of those of the full transform, with both of each conjugate pair."""
    first, second = np.random.default_rng(seed).normal(size=(2, *shape))
    rings = Rings(shape)
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in shape))
    full = [np.fft.fft2((image - (image * window).sum() / window.sum()) * window) for image in (first, second)]
    q = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    radius = q * min(shape)
    halves = np.isclose(radius % 1, 0.5)  # between two rings: rounding decides
    product = rings.product(rings.transform(first), rings.transform(second))
    for k, frequency in enumerate(rings.frequency):
        inside = np.round(radius) == k + 1
        assert frequency == pytest.approx((k + 1) / min(shape))
        if not (halves & (np.abs(radius - k - 1) < 0.6)).any():
            assert product[k] == pytest.approx((full[0] * full[1].conj())[inside].real.sum(), rel=1e-9, abs=1e-6)


def test_the_ring_correlation_of_noise_has_the_expected_spread():
    rings = Rings((96, 110))
    rng = np.random.default_rng(0)
    z = []
    for _ in range(40):
        a, b = (rings.transform(rng.normal(size=(96, 110))) for _ in range(2))
        z.append(rings.correlation(a, b) * np.sqrt(rings.n_independent))
    z = np.array(z)[:, 5:]
    assert abs(z.mean()) < SIGMAS / np.sqrt(z.size / 3)
    # neighbouring rings share coefficients: a third of the values is independent
    assert (z**2).mean() == pytest.approx(1.0, abs=SIGMAS * np.sqrt(2 / (z.size / 3)))


def test_the_ceiling_of_rings_is_that_of_the_true_image():
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.normal(size=(128, 128)), 1.0) * 6
    frames = truth + rng.normal(size=(6, 128, 128))
    rings = Rings((128, 128))
    limit = ring_ceiling(rings, frames, 6)
    true = rings.correlation(rings.transform(truth), rings.transform(frames.mean(axis=0)))
    known = np.isfinite(limit) & (rings.n_independent > 50)
    assert known.sum() > 15
    assert not np.isfinite(limit[-10:]).any()
    np.testing.assert_allclose(limit[known], true[known], atol=0.1)


@pytest.mark.parametrize("n", [3, 12])
def test_noise_alone_has_no_ceiling(n):
    """Above three standard deviations are 0.13 % of the rings, so that one of 38 is improbable."""
    rings = Rings((80, 80))
    for seed in range(5):
        limit = ring_ceiling(rings, np.random.default_rng(seed).normal(size=(n, 80, 80)), n)
        # the distribution in the innermost rings, of a few coefficients, has longer tails
        assert not np.isfinite(limit[5:]).any()


def test_frequencies_are_in_the_pixels_unit():
    rings, in_nm = Rings((64, 80)), Rings((64, 80), (0.02, 0.02))
    assert rings.frequency[-1] == pytest.approx(0.5)
    np.testing.assert_allclose(in_nm.frequency, rings.frequency / 0.02)
    np.testing.assert_allclose(in_nm.n_independent, rings.n_independent)


def test_a_wave_is_in_the_ring_of_its_frequency():
    y, x = np.mgrid[:64, :96] * np.array([0.02, 0.01]).reshape(2, 1, 1)
    rings = Rings((64, 96), (0.02, 0.01))
    wave = np.cos(2 * np.pi * (6.0 * y + 8.0 * x))
    transform = rings.transform(wave)
    strongest = rings.frequency[np.argmax(rings.product(transform, transform))]
    assert strongest == pytest.approx(10.0, abs=1 / (96 * 0.01))


@given(st.floats(4, 1e6))
def test_the_half_bit_threshold_is_the_published_one(n):
    root = np.sqrt(n)
    published = (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    assert threshold_curve(np.array([n]))[0] == pytest.approx(min(published, 1), abs=1e-4)


def test_thresholds():
    np.testing.assert_array_equal(threshold_curve(np.array([9.0, 100.0]), "1/7"), [1 / 7, 1 / 7])
    with pytest.raises(ValueError, match="threshold must be one of 'half-bit', '1/7', but is '3-sigma'"):
        threshold_curve(np.ones(3), "3-sigma")


class TestResolution:
    frequency = np.arange(1, 11) / 20

    @given(st.floats(0.06, 0.49))
    def test_a_falling_line_is_crossed_where_it_meets_the_threshold(self, crossing):
        curve = 0.2 - (self.frequency - crossing)
        assert resolution(self.frequency, curve, np.full(10, 0.2)) == pytest.approx(1 / crossing)

    def test_the_last_of_several_crossings_counts(self):
        curve = np.array([0.9, 0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        limit = np.full(10, 0.4)
        assert resolution(self.frequency, curve, limit) == pytest.approx(1 / (0.2 + 0.05 / 2))

    def test_above_the_threshold_everywhere_it_is_the_last_ring_and_below_there_is_none(self):
        assert resolution(self.frequency, np.ones(10), np.full(10, 0.4)) == pytest.approx(2.0)
        assert np.isnan(resolution(self.frequency, np.zeros(10), np.full(10, 0.4)))

    def test_unknown_rings_are_left_out(self):
        curve = np.array([np.nan, 0.9, 0.9, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0, np.nan])
        expected = 1 / (0.15 + (0.5 / 0.9) * 0.1)
        assert resolution(self.frequency, curve, np.full(10, 0.4)) == pytest.approx(expected)
