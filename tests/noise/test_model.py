from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import (
    SIGMAS,
    amplitudes,
    contrasts,
    correlations,
    crystal,
    lengths,
    modes,
    noise_models,
    pixel_sizes,
    row_lengths,
    seeds,
    shapes,
    tukey_shapes,
)

import stemkit
from stemkit import BackgroundNoise, Digitization, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.compute import seed_from, torch_generator
from stemkit.noise.drawing import (
    NoiseParameters,
    add_noise,
    displace_rows,
    row_field,
    score_correlation,
    smooth_field,
    standard_noise,
    tukey_quantile,
    tukey_variance,
)

FLAT = np.zeros((256, 256))
SINGLE = settings(max_examples=15)


def tukey(shape: float) -> stats.rv_continuous:
    """The Tukey lambda distribution of unit variance."""
    return stats.tukeylambda(shape, scale=1 / math.sqrt(stats.tukeylambda.stats(shape, moments="v")))


def lagged(values: np.ndarray, lag: int, axis: int) -> float:
    """Mean product of values ``lag`` apart."""
    first = values.take(range(values.shape[axis] - lag), axis)
    return float((first * values.take(range(lag, values.shape[axis]), axis)).mean())


def samples_along(n: int, length: float) -> float:
    """Independent values of squared filtered noise among ``n``: its correlation exp(-k^2 / (2 l^2)) adds up."""
    lag = np.arange(1, n)
    return n / (1 + 2 * ((1 - lag / n) * np.exp(-(lag**2) / (2 * length**2))).sum())


# --- background --------------------------------------------------------------------------------------------------


@SINGLE
@given(amplitudes, lengths(2.0, 8.0), seeds)
def test_background_has_the_requested_variance_and_length(amplitude, length, seed):
    model = NoiseModel(background=BackgroundNoise(amplitude, length))
    field = model.apply(FLAT, random_state=seed) / amplitude
    error = math.sqrt(2 / samples_along(256, length) ** 2)
    assert abs((field**2).mean() - 1) < SIGMAS * error
    lag = round(1.5 * length)
    for axis in (0, 1):
        assert abs(lagged(field, lag, axis) - math.exp(-(lag**2) / (4 * length**2))) < SIGMAS * error


@SINGLE
@given(lengths(10.0, 40.0), st.integers(0, 2**20))
def test_opposite_borders_of_a_background_are_independent(length, seed):
    model = NoiseModel(background=BackgroundNoise(1.0, length))
    n = 40
    fields = np.stack([model.apply(np.zeros((8, 128)), random_state=seed + i) for i in range(n)])
    product = (fields[:, 4, 0] * fields[:, 4, -1]).mean()
    true = math.exp(-(127**2) / (4 * length**2))
    assert abs(product - true) < SIGMAS * math.sqrt((1 + true**2) / n)


@pytest.mark.parametrize("length", [1.5, 4.0, 9.0])
def test_lengths_are_exact_in_large_fields(length):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([length], dtype=torch.float64)
    rows = row_field(torch.Size((1, 4000, 512)), lengths, generator, torch.float64)[0].numpy()
    square = smooth_field(torch.Size((1, 1500, 1500)), lengths, generator, torch.float64)[0].numpy()
    lag = round(1.5 * length)
    expected = math.exp(-(lag**2) / (4 * length**2))
    assert abs(lagged(rows, lag, 1) - expected) < SIGMAS * math.sqrt(2 / (4000 * samples_along(512, length)))
    for axis in (0, 1):
        assert abs(lagged(square, lag, axis) - expected) < SIGMAS * math.sqrt(2) / samples_along(1500, length)


# --- scan --------------------------------------------------------------------------------------------------------


def row_samples(length: float) -> float:
    return 256 * (1.0 if math.isinf(length) else samples_along(256, length))


@SINGLE
@given(amplitudes, row_lengths(2.0, 12.0), seeds)
def test_streaks_have_the_requested_variance_and_length(amplitude, length, seed):
    model = NoiseModel(scan=ScanNoise(amplitude, length))
    field = model.apply(FLAT, random_state=seed) / amplitude
    error = math.sqrt(2 / row_samples(length))
    assert abs((field**2).mean() - 1) < SIGMAS * error
    lag = 5
    expected = 1.0 if math.isinf(length) else math.exp(-(lag**2) / (4 * length**2))
    assert abs(lagged(field, lag, 1) - expected) < SIGMAS * error


@SINGLE
@given(row_lengths(1.0, 12.0), seeds)
def test_rows_are_independent(length, seed):
    model = NoiseModel(scan=ScanNoise(1.0, length))
    field = model.apply(FLAT, random_state=seed)
    for lag in (1, 2, 128):
        assert abs(lagged(field, lag, 0)) < SIGMAS / math.sqrt(row_samples(length) * (1 - lag / 256))


def test_streaks_of_infinite_length_are_whole_rows():
    field = NoiseModel(scan=ScanNoise(0.3, math.inf)).apply(FLAT, random_state=0)
    assert (field == field[:, :1]).all()
    assert len(np.unique(field[:, 0])) == 256


@SINGLE
@given(st.floats(0.1, 2.0), row_lengths(2.0, 12.0), st.floats(0.05, 20.0), seeds)
def test_jitter_is_the_rms_displacement_along_x(jitter, length, slope, seed):
    ramp = np.broadcast_to(slope * np.arange(300.0), (256, 300))
    model = NoiseModel(scan=ScanNoise(jitter=jitter, jitter_length=length))
    shift = ((model.apply(ramp, random_state=seed) - ramp) / slope)[:, 22:-22] / jitter
    error = math.sqrt(2 / row_samples(length))
    assert abs((shift**2).mean() - 1) < SIGMAS * error
    expected = 1.0 if math.isinf(length) else math.exp(-25 / (4 * length**2))
    assert abs(lagged(shift, 5, 1) - expected) < SIGMAS * error
    assert abs(lagged(shift, 1, 0)) < SIGMAS / math.sqrt(row_samples(length))


def test_jitter_moves_nothing_along_y():
    ramp = np.broadcast_to(np.arange(64.0)[:, None], (64, 64))
    moved = NoiseModel(scan=ScanNoise(jitter=1.0)).apply(ramp, random_state=0)
    np.testing.assert_allclose(moved, ramp, atol=1e-12)


@SINGLE
@given(st.floats(0.1, 2.0), row_lengths(2.0, 12.0), st.floats(0.05, 20.0), seeds)
def test_jitter_y_is_the_rms_displacement_along_y(jitter, length, slope, seed):
    ramp = np.broadcast_to(slope * np.arange(280.0)[:, None], (280, 256))
    model = NoiseModel(scan=ScanNoise(jitter_y=jitter, jitter_length=length))
    shift = ((model.apply(ramp, random_state=seed) - ramp) / slope)[12:-12] / jitter
    error = math.sqrt(2 / row_samples(length))
    assert abs((shift**2).mean() - 1) < SIGMAS * error
    expected = 1.0 if math.isinf(length) else math.exp(-25 / (4 * length**2))
    assert abs(lagged(shift, 5, 1) - expected) < SIGMAS * error
    assert abs(lagged(shift, 1, 0)) < SIGMAS / math.sqrt(row_samples(length))
    np.testing.assert_allclose(model.apply(ramp.T, random_state=seed), ramp.T, atol=1e-9 * slope)


@SINGLE
@given(st.floats(0.1, 1.0), st.floats(0.1, 1.0), seeds)
def test_both_displacements_are_independent(along_x, along_y, seed):
    y, x = np.mgrid[:2048, :24].astype(float)
    model = NoiseModel(scan=ScanNoise(jitter=along_x, jitter_y=along_y))
    shift_y, shift_x = ((model.apply(r, random_state=seed) - r)[8:-8, 12] for r in (y, x))
    assert abs(np.corrcoef(shift_y, shift_x)[0, 1]) < SIGMAS / math.sqrt(2032)


@settings(max_examples=10)
@given(
    st.sampled_from([BackgroundNoise(), BackgroundNoise(0.1, 5.0)]),
    st.sampled_from([ScanNoise(), ScanNoise(0.1, 9.0, 0.5), ScanNoise(0.1, math.inf, 0.4, 20.0)]),
    correlations,
    seeds,
)
def test_the_noise_is_that_of_the_parts_drawn_in_order(background, scan, correlation, seed):
    model = NoiseModel(background=background, scan=scan, pointwise=PointwiseNoise(0.2, 0.05, 0.3, correlation))
    image = torch.as_tensor(crystal((30, 40), 9.0, 1.5))[None]
    noise = model.parameters()
    generator = torch_generator(int(np.random.default_rng(seed_from(seed)).integers(2**62)))
    by_hand = image
    if background.amplitude:
        by_hand = by_hand + background.amplitude * smooth_field(
            image.shape, noise.background_length, generator, image.dtype
        )
    if scan.jitter:
        by_hand = displace_rows(
            by_hand, scan.jitter * row_field(image.shape, noise.jitter_length, generator, image.dtype)
        )
    std = (0.04 + 0.05 * by_hand).clamp_min(0).sqrt()
    by_hand = by_hand + std * standard_noise(image.shape, noise, generator, image.dtype)
    if scan.amplitude:
        by_hand = by_hand + scan.amplitude * row_field(image.shape, noise.streak_length, generator, image.dtype)
    np.testing.assert_allclose(model.apply(image[0].numpy(), random_state=seed), by_hand[0], rtol=0, atol=1e-14)


@given(shapes(), seeds)
@settings(max_examples=25)
def test_no_displacement_is_the_identity_and_whole_pixels_are_exact(shape, seed):
    images = torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.equal(displace_rows(images, torch.zeros(1, shape[0], 1, dtype=torch.float64)), images)
    by_one = displace_rows(images, torch.ones(1, shape[0], 1, dtype=torch.float64))
    assert torch.equal(by_one[..., :-1], images[..., 1:])
    assert torch.equal(by_one[..., -1], images[..., -1])


@given(shapes(), seeds)
@settings(max_examples=25)
def test_a_model_without_noise_is_the_identity(shape, seed):
    image = np.random.default_rng(seed).normal(size=shape)
    assert np.array_equal(NoiseModel().apply(image, random_state=seed), image)


@SINGLE
@given(amplitudes, st.floats(0.1, 2.0), st.floats(0.01, 0.3), contrasts, seeds)
def test_streaks_and_jitter_add_in_quadrature(amplitude, jitter, slope, contrast, seed):
    ramp = np.broadcast_to(contrast * slope * np.arange(64.0), (2048, 64))
    model = NoiseModel(contrast, 0.0, scan=ScanNoise(amplitude, math.inf, jitter))
    rows = (model.apply(ramp, random_state=seed) - ramp)[:, 32] / contrast
    expected = amplitude**2 + (jitter * slope) ** 2
    assert abs((rows**2).mean() / expected - 1) < SIGMAS * math.sqrt(2 / 2048)


def displaced(axis: int, n_images: int, shape: tuple[int, int], seed: int, **parts: float) -> np.ndarray:
    """Displacements along an axis, px, as ramps show them: images of the rows (and columns) far from the border."""
    noise = NoiseModel().parameters(n_images)
    for name, value in parts.items():
        setattr(noise, name, torch.full((n_images,), value, dtype=torch.float64))
    edge = 24
    n_y, n_x = shape[0] + 2 * edge, shape[1] + 2 * edge
    y, x = torch.meshgrid(torch.arange(n_y), torch.arange(n_x), indexing="ij")
    ramp = (x if axis else y).to(torch.float64).expand(n_images, n_y, n_x)
    return (add_noise(ramp, noise, torch_generator(seed)) - ramp)[:, edge:-edge, edge:-edge].numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "axis"), [("", 1), ("_y", 0)])
@SINGLE
@given(st.floats(0.1, 2.0), st.floats(1.0, 10.0), seeds)
def test_drift_is_correlated_over_rows_and_constant_along_them(suffix, axis, drift, rows, seed):
    n_images, n = 40, 256
    shift = displaced(axis, n_images, (n, 3), seed, **{"drift" + suffix: drift, "drift_rows": rows}) / drift
    np.testing.assert_allclose(shift, shift[:, :, :1].repeat(3, 2), atol=1e-9)
    assert np.abs(displaced(1 - axis, 1, (16, 16), seed, **{"drift" + suffix: drift, "drift_rows": rows})).max() < 1e-9
    error = math.sqrt(2 / (n_images * samples_along(n, rows)))
    for lag in (0, 1, 2, 5, 20):
        expected = math.exp(-(lag**2) / (4 * rows**2))
        assert abs(lagged(shift[:, :, 0], lag, 1) - expected) < SIGMAS * error


@pytest.mark.parametrize(("suffix", "axis"), [("", 1), ("_y", 0)])
@SINGLE
@given(st.floats(0.1, 2.0), st.floats(2.3, 20.0), seeds)
def test_hum_is_a_sine_in_time(suffix, axis, hum, period, seed):
    parts = {"hum" + suffix: hum, "hum_period": period}
    shape, edge = (200, 52), 24
    shift = displaced(axis, 3, shape, seed, **parts) / hum
    # a row of the whole image lasts 1 / period of a period
    y, x = np.mgrid[: shape[0], : shape[1]]
    time = 2 * np.pi * (y + x / (shape[1] + 2 * edge)) / period
    waves = np.stack([np.sin(time).ravel(), np.cos(time).ravel()], axis=1)
    size, _, _, _ = np.linalg.lstsq(waves, shift.reshape(3, -1).T)
    np.testing.assert_allclose(np.hypot(*size), 1.0, atol=1e-9)
    np.testing.assert_allclose((waves @ size).T.reshape(shift.shape), shift, atol=1e-9)


def test_phases_of_hum_are_random():
    shift = displaced(1, 400, (1, 1), 0, hum=1.0, hum_period=7.0)
    assert abs(shift.mean()) < SIGMAS * math.sqrt(0.5 / 400)
    assert abs((shift**2).mean() - 0.5) < SIGMAS * math.sqrt(0.125 / 400)


@SINGLE
@given(amplitudes, st.floats(1.5, 7.0), amplitudes, seeds)
def test_short_streaks_add_to_streaks(amplitude, length, whole, seed):
    scan = ScanNoise(whole, math.inf, short_amplitude=amplitude, short_length=length)
    field = NoiseModel(scan=scan).apply(FLAT, random_state=seed)
    # the mean of a row has the streaks and little of the short ones
    mean = field.mean(axis=1, keepdims=True)
    of_mean = amplitude**2 / samples_along(256, length * math.sqrt(2))
    assert abs((mean**2).mean() / (whole**2 + of_mean) - 1) < SIGMAS * math.sqrt(2 / 256) + 0.1
    rest = (field - mean) / amplitude
    error = math.sqrt(2 / row_samples(length)) + 4 * length / 256
    for lag in (0, 1, 3):
        assert abs(lagged(rest, lag, 1) - math.exp(-(lag**2) / (4 * length**2))) < SIGMAS * error
    assert abs(lagged(rest, 1, 0)) < SIGMAS * error


@SINGLE
@given(noise_models(), shapes(2, 30), seeds)
def test_parts_of_amplitude_zero_change_no_bit(model, shape, seed):
    images = torch.as_tensor(crystal(shape, 8.0, 1.5)).expand(3, *shape)
    plain, with_lengths = model.parameters(3), model.parameters(3)
    for name in ("drift_rows", "hum_period", "short_streak_length"):
        setattr(with_lengths, name, torch.full((3,), 5.0, dtype=torch.float64))
    assert isinstance(plain, NoiseParameters)
    drawn = [add_noise(images, noise, torch_generator(seed)) for noise in (plain, with_lengths)]
    assert torch.equal(*drawn)


# --- pointwise ---------------------------------------------------------------------------------------------------


@SINGLE
@given(amplitudes, st.floats(-0.3, 0.3), st.floats(-0.5, 1.5), tukey_shapes, modes, seeds)
def test_pointwise_variance_is_a_line_in_the_signal(readout, gain, signal, shape, mode, seed):
    model = NoiseModel(50.0, 7.0, mode, pointwise=PointwiseNoise(readout, gain, shape))
    true_image = np.full((256, 256), 7.0 + (-50.0 if mode == "bf" else 50.0) * signal)
    noise = model.apply(true_image, random_state=seed) - true_image
    expected = max(readout**2 + gain * signal, 0.0) * 2500
    np.testing.assert_allclose(model.variance(true_image), expected, atol=1e-9)
    kurtosis = 3 + tukey_excess(shape)
    assert abs((noise**2).mean() - expected) <= SIGMAS * expected * math.sqrt((kurtosis - 1) / noise.size)
    assert abs(noise.mean()) <= SIGMAS * math.sqrt(expected / noise.size)


def tukey_excess(shape: float) -> float:
    return float(stats.tukeylambda.stats(shape, moments="k"))


@settings(max_examples=10)
@given(st.floats(-0.3, 0.5).map(lambda shape: round(shape, 6)), seeds)
def test_pointwise_noise_is_tukey_lambda(shape, seed):
    model = NoiseModel(pointwise=PointwiseNoise(1.0, shape=shape))
    noise = model.apply(FLAT[:128], random_state=seed).ravel()
    assert stats.kstest(noise, tukey(shape).cdf).pvalue > 1e-6


def test_shapes_of_distributions_are_distinguished():
    noise = NoiseModel(pointwise=PointwiseNoise(1.0, shape=-0.2)).apply(FLAT, random_state=0).ravel()
    assert stats.kstest(noise, tukey(0.14).cdf).pvalue < 1e-6


@given(st.floats(-0.39, 3.0))
def test_variance_of_the_tukey_lambda(shape):
    assert tukey_variance(shape) == pytest.approx(float(stats.tukeylambda.stats(shape, moments="v")), rel=1e-4)


@given(st.floats(-0.39, 1.0), st.floats(-4.0, 4.0))
def test_quantiles_of_the_tukey_lambda(shape, score):
    found = tukey_quantile(
        torch.full((1, 1, 1), score, dtype=torch.float64), torch.tensor([shape], dtype=torch.float64)
    )
    scale = math.sqrt(tukey_variance(shape))
    expected = stats.tukeylambda.ppf(stats.norm.cdf(score), shape) / scale
    assert float(found) == pytest.approx(float(expected), rel=1e-3, abs=1e-6)


@SINGLE
@given(correlations, tukey_shapes, seeds)
def test_correlation_along_x_is_that_of_the_noise_itself(correlation, shape, seed):
    model = NoiseModel(pointwise=PointwiseNoise(1.0, shape=shape, correlation_x=correlation))
    noise = model.apply(FLAT, random_state=seed)
    # an estimated lag-1 correlation has a deviation of at most 1 / sqrt(n), the variance divided out
    assert abs(lagged(noise, 1, 1) / (noise**2).mean() - correlation) < SIGMAS / 256
    widening = math.sqrt((1 + correlation**2) / (1 - correlation**2))
    assert abs(lagged(noise, 1, 0)) < SIGMAS * widening / 256
    assert stats.kstest(noise[:, ::16].ravel(), tukey(shape).cdf).pvalue > 1e-6


def test_correlation_is_measured_after_the_mapping():
    # uniform noise, the shape farthest from normal: its scores have to be correlated by 0.618
    noise = NoiseModel(pointwise=PointwiseNoise(1.0, shape=1.0, correlation_x=0.6)).apply(
        np.zeros((512, 512)), random_state=0
    )
    assert abs(lagged(noise, 1, 1) / (noise**2).mean() - 0.6) < SIGMAS / 512


def test_normal_noise_needs_the_correlation_of_its_scores():
    np.testing.assert_allclose(
        score_correlation(np.full(3, 0.1349), np.array([-0.5, 0.0, 0.7])), [-0.5, 0, 0.7], atol=1e-3
    )


@settings(max_examples=20)
@given(tukey_shapes, correlations)
def test_scores_of_a_correlation(shape, correlation):
    r = float(score_correlation(np.array([shape]), np.array([correlation]))[0])
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    first, second = (v.ravel() for v in np.meshgrid(nodes, nodes))
    quantiles = [
        tukey_quantile(torch.as_tensor(z)[None, None], torch.tensor([shape], dtype=torch.float64)).numpy().ravel()
        for z in (first, r * first + math.sqrt(1 - r**2) * second)
    ]
    mapped = (np.outer(weights, weights).ravel() * quantiles[0] * quantiles[1]).sum() / (2 * math.pi)
    assert mapped == pytest.approx(correlation, abs=2e-4)


def test_correlation_falls_off_as_a_power():
    model = NoiseModel(pointwise=PointwiseNoise(1.0, shape=0.1349, correlation_x=0.6))
    noise = model.apply(np.zeros((512, 512)), random_state=3)
    for lag in (2, 3, 6):
        assert abs(lagged(noise, lag, 1) - 0.6**lag) < SIGMAS * math.sqrt((1 + 0.36) / (1 - 0.36) * 2) / 512


@SINGLE
@given(st.floats(0.002, 0.3), st.floats(0.1, 1.0), st.floats(0.0, 1.2), contrasts, modes, seeds)
def test_counted_electrons(gain, dark, signal, contrast, mode, seed):
    # the background's level holds `dark` electrons in haadf and as many as the columns take away, and more, in bf
    sign = -1.0 if mode == "bf" else 1.0
    readout = math.sqrt(gain**2 * dark if mode == "haadf" else gain * (1.3 + dark))
    model = NoiseModel(contrast, 3.0, mode, pointwise=PointwiseNoise(readout, sign * gain, kind="poisson"))
    true_image = np.full((128, 128), 3.0 + sign * contrast * signal)
    noisy = model.apply(true_image, random_state=seed)
    variance = float(model.variance(true_image)[0, 0])
    expected = (readout**2 + sign * gain * signal) * contrast**2
    assert variance == pytest.approx(expected, rel=1e-9)
    assert abs(noisy.mean() - true_image[0, 0]) < SIGMAS * math.sqrt(variance / true_image.size)
    kurtosis = 3 + (gain * contrast) ** 2 / variance
    spread = SIGMAS * variance * math.sqrt((kurtosis - 1) / true_image.size)
    assert abs(((noisy - true_image) ** 2).mean() - variance) < spread
    electrons = ((noisy - 3.0) * sign / contrast + sign * readout**2 / gain) / (sign * gain)
    np.testing.assert_allclose(electrons, np.round(electrons), atol=1e-5)
    assert electrons.min() > -0.5


@SINGLE
@given(st.floats(5.0, 60.0), st.floats(-0.4, 0.6), modes, seeds)
def test_correlated_counts_keep_their_variance_and_some_skewness(rate, correlation, mode, seed):
    sign = -1.0 if mode == "bf" else 1.0
    gain = sign * 0.05
    pointwise = PointwiseNoise(abs(gain) * math.sqrt(rate), gain, correlation_x=correlation, kind="poisson")
    noise = NoiseModel(mode=mode, pointwise=pointwise).apply(FLAT, random_state=seed) * sign
    z = noise / (gain * math.sqrt(rate))
    # sums over a row of what squares, products and cubes share with their neighbours
    widened = (1 + abs(correlation)) / (1 - abs(correlation))
    assert abs(z.mean()) < SIGMAS * math.sqrt(widened) / 256
    assert abs((z**2).mean() - 1) < SIGMAS * math.sqrt((2 + 1 / rate) * widened) / 256
    assert abs(lagged(z, 1, 1) - correlation) < SIGMAS * math.sqrt((2 + 1 / rate) * widened) / 256
    assert abs(lagged(z, 1, 0)) < SIGMAS * math.sqrt(widened) / 256
    skewness = (1 - correlation**2) ** 1.5 / (1 - correlation**3) / math.sqrt(rate)
    assert abs((z**3).mean() - skewness) < SIGMAS * math.sqrt((15 + 25 / rate) * widened) / 256


@given(st.floats(0.5, 1e4), st.floats(0.0, 50.0), contrasts, pixel_sizes, modes)
def test_counted_electrons_by_their_dose(dose, background, contrast, pixel_size, mode):
    background += dose if mode == "bf" else 0.0
    model = NoiseModel(contrast, 3.0, mode, pointwise=PointwiseNoise.counted(dose, background=background, mode=mode))
    sign = -1.0 if mode == "bf" else 1.0
    # the variance of counts is their mean
    electrons = model.variance(np.array([[3.0, 3.0 + sign * contrast]]))[0] * (dose / contrast) ** 2
    assert electrons == pytest.approx([background, background + sign * dose], rel=1e-6, abs=1e-6 * dose)
    assert model.dose == pytest.approx(dose)
    assert model.dose_per_area(pixel_size) == pytest.approx(dose / (10 * pixel_size) ** 2)


def test_noise_that_ignores_the_signal_has_no_dose():
    model = NoiseModel(pointwise=PointwiseNoise(0.1))
    assert math.isinf(model.dose)
    assert math.isinf(model.dose_per_area(0.01))
    for size in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="pixel_size must be a positive number of nm, but is"):
            model.dose_per_area(size)


def test_fewer_electrons_where_bf_columns_are_dark():
    model = NoiseModel(1.0, 1.0, "bf", pointwise=PointwiseNoise(0.2, -0.03))
    at_level, at_column = model.variance(np.array([[1.0, 0.0]]))[0]
    assert at_level == pytest.approx(0.04)
    assert at_column == pytest.approx(0.01)


# --- digitisation ------------------------------------------------------------------------------------------------


@given(modes, st.floats(-20.0, 20.0), st.floats(21.0, 120.0), st.integers(2, 300), seeds)
@settings(max_examples=25)
def test_values_are_clipped_and_on_digital_levels(mode, low, high, n_levels, seed):
    step = (high - low) / n_levels
    model = NoiseModel(50.0, 40.0, mode, pointwise=PointwiseNoise(0.8), digitization=Digitization(low, high, step))
    noisy = model.apply(np.full((64, 64), 40.0), random_state=seed)
    np.testing.assert_allclose((noisy - low) / step, np.round((noisy - low) / step), atol=1e-6)
    assert noisy.min() >= low - 1e-9
    assert noisy.max() <= high + 1e-9
    free = replace(model, digitization=Digitization()).apply(np.full((64, 64), 40.0), random_state=seed)
    assert np.abs(noisy - np.clip(free, low, high)).max() <= step / 2 * (1 + 1e-6)


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_values_are_clipped_at_one_end_only(mode):
    model = NoiseModel(10.0, 5.0, mode, pointwise=PointwiseNoise(1.0), digitization=Digitization(low=0.0))
    noisy = model.apply(np.full((64, 64), 5.0), random_state=0)
    assert noisy.min() == pytest.approx(0.0, abs=1e-12)
    assert noisy.max() > 20.0
    noisy = replace(model, digitization=Digitization(high=10.0)).apply(np.full((64, 64), 5.0), random_state=0)
    assert noisy.max() == pytest.approx(10.0)
    assert noisy.min() < -10.0


def test_levels_without_a_lower_end_are_multiples_of_the_step():
    model = NoiseModel(10.0, 5.3, pointwise=PointwiseNoise(1.0), digitization=Digitization(step=0.7))
    noisy = model.apply(np.full((64, 64), 5.0), random_state=0)
    np.testing.assert_allclose(noisy / 0.7, np.round(noisy / 0.7), atol=1e-9)


# --- together ----------------------------------------------------------------------------------------------------


@SINGLE
@given(amplitudes, amplitudes, amplitudes, seeds)
def test_parts_are_independent(background, streaks, readout, seed):
    model = NoiseModel(
        background=BackgroundNoise(background, 2.0),
        scan=ScanNoise(streaks, 2.0),
        pointwise=PointwiseNoise(readout, shape=0.1349),
    )
    noise = model.apply(FLAT, random_state=seed)
    parts = np.array([background, streaks, readout]) ** 2
    samples = np.array([samples_along(256, 2.0) ** 2, row_samples(2.0), FLAT.size])
    # the squares of the parts fluctuate, and so do their products
    error = math.sqrt(
        (2 * parts**2 / samples).sum() + 4 * sum(parts[i] * parts[j] / samples[i] for i, j in ((0, 1), (0, 2), (1, 2)))
    )
    assert abs((noise**2).mean() - parts.sum()) < SIGMAS * error


@settings(max_examples=30)
@given(noise_models(digitized=False), shapes(2, 40), seeds)
def test_noise_scales_with_contrast_and_moves_with_level(model, shape, seed):
    signal = crystal(shape, spacing=8.0, sigma=1.5)
    sign = -1.0 if model.mode == "bf" else 1.0
    scaled = model.apply(model.level + sign * model.contrast * signal, random_state=seed)
    plain = replace(model, contrast=1.0, level=0.0).apply(sign * signal, random_state=seed)
    # rounding may move a count by one electron where the rate is at the edge of two
    back = (scaled - model.level) / model.contrast
    assert (np.abs(back - plain) > 1e-6 * (1 + abs(model.level) / model.contrast)).mean() < 0.01


@settings(max_examples=25)
@given(noise_models(), shapes(1, 20), seeds)
def test_same_seed_same_noise(model, shape, seed):
    image = np.full(shape, model.level)
    first = model.apply(image, random_state=seed)
    assert np.isfinite(first).all()
    assert np.array_equal(first, model.apply(image, random_state=seed))
    assert (image == model.level).all()


def test_other_seeds_other_noise():
    model = NoiseModel(pointwise=PointwiseNoise(0.1))
    drawn = [model.apply(FLAT, random_state=s) for s in (0, 1, None, None, np.random.RandomState(5))]
    assert len({d[0, 0] for d in drawn}) == 5
    assert np.array_equal(drawn[-1], model.apply(FLAT, random_state=np.random.RandomState(5)))


# --- containers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_dtype", "expected"), [("f4", "f4"), ("f8", "f8"), ("f2", "f4"), ("u1", "f4"), ("i4", "f4"), ("u2", "f4")]
)
def test_dtype(given_dtype, expected):
    model = NoiseModel(pointwise=PointwiseNoise(0.1))
    image = np.full((16, 16), 3, dtype=given_dtype)
    assert model.apply(image, random_state=0).dtype == np.dtype(expected)
    assert model.variance(image).dtype == np.dtype(expected)


@settings(max_examples=20)
@given(pixel_sizes, shapes(2, 20), modes)
def test_dataarrays_keep_attributes_and_coordinates(pixel_size, shape, mode):
    image = stemkit.calibrated(np.ones(shape), pixel_size=pixel_size).assign_attrs(mode=mode, dose=12.5).rename("scan")
    for out in (NoiseModel(mode=mode).apply(image, random_state=0), NoiseModel(mode=mode).variance(image)):
        assert out.dims == image.dims
        assert out.attrs == image.attrs
        assert out.name == "scan"
        xr.testing.assert_identical(out.coords.to_dataset(), image.coords.to_dataset())
        assert out.stem.pixel_size == pytest.approx(pixel_size)


def test_each_image_of_a_stack_has_noise_of_its_own():
    model = NoiseModel(pointwise=PointwiseNoise(0.1))
    stack = xr.DataArray(np.zeros((3, 16, 16)), dims=("image", "y", "x"), coords={"image": [4, 5, 6]})
    noisy = model.apply(stack, random_state=0)
    assert noisy.dims == stack.dims
    assert noisy["image"].values.tolist() == [4, 5, 6]
    assert not np.array_equal(noisy[0], noisy[1])
    assert np.array_equal(model.apply(stack.values, random_state=0), noisy.values)
    assert np.array_equal(model.apply(stack.values[0], random_state=0), noisy.values[0])


def test_lists_may_hold_different_sizes():
    noisy = NoiseModel(pointwise=PointwiseNoise(0.1)).apply([np.zeros((9, 12)), np.zeros((5, 7))], random_state=0)
    assert isinstance(noisy, list)
    assert [n.shape for n in noisy] == [(9, 12), (5, 7)]


# --- plain numbers -----------------------------------------------------------------------------------------------


@given(noise_models())
def test_a_model_is_the_same_after_json(model):
    # without NaN and infinity, which JSON does not have
    text = json.dumps(model.to_dict(), allow_nan=False)
    assert NoiseModel.from_dict(json.loads(text)) == model
    assert NoiseModel.from_dict(model.to_dict()) == model


@given(noise_models())
def test_a_model_written_before_jitter_y_can_be_read(model):
    described = model.to_dict()
    del described["scan"]["jitter_y"]
    assert NoiseModel.from_dict(described) == replace(model, scan=replace(model.scan, jitter_y=0.0))


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_a_model_is_the_same_after_writing_and_reading(suffix, tmp_path):
    pytest.importorskip({"nc": "h5netcdf", "zarr": "zarr"}[suffix])
    model = NoiseModel(
        50.0, 3.0, "bf", scan=ScanNoise(0.1, math.inf, 0.2, 7.0, 0.3), digitization=Digitization(high=200.0)
    )
    image = xr.DataArray(np.ones((4, 5)), dims=("y", "x"), attrs={"noise": json.dumps(model.to_dict())}, name="image")
    path = tmp_path / f"image.{suffix}"
    image.to_zarr(path, consolidated=False) if suffix == "zarr" else image.to_netcdf(path, engine="h5netcdf")
    opened = xr.open_zarr(path, consolidated=False) if suffix == "zarr" else xr.open_dataset(path, engine="h5netcdf")
    with opened as back:
        assert NoiseModel.from_dict(json.loads(back["image"].attrs["noise"])) == model


def test_the_earlier_name_of_the_digitisation_is_read():
    model = NoiseModel(50.0, 3.0, digitization=Digitization(low=0.0, high=255.0, step=1.0))
    earlier = model.to_dict()
    earlier["detector"] = earlier.pop("digitization")
    assert NoiseModel.from_dict(json.loads(json.dumps(earlier))) == model


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match=r"has no \['colour'\]"):
        NoiseModel.from_dict({"colour": 3})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseModel(contrast=0.0), "contrast of NoiseModel must be a positive number"),
        (lambda: NoiseModel(contrast=math.nan), "contrast of NoiseModel must be a positive number"),
        (lambda: NoiseModel(level=math.inf), "level of NoiseModel must be a finite number"),
        (lambda: NoiseModel(mode="df"), "mode must be one of 'haadf', 'bf', but is 'df'"),
        (lambda: BackgroundNoise(-0.1), "amplitude of BackgroundNoise must be a number of at least 0"),
        (lambda: BackgroundNoise(0.1, 0.0), "length of BackgroundNoise must be a positive number"),
        (lambda: BackgroundNoise(0.1, math.inf), "length of BackgroundNoise must be a positive number"),
        (lambda: ScanNoise(-0.1), "amplitude of ScanNoise must be a number of at least 0"),
        (lambda: ScanNoise(0.1, -1.0), "length of ScanNoise must be at least 0"),
        (lambda: ScanNoise(0.1, math.nan), "length of ScanNoise must be at least 0"),
        (lambda: ScanNoise(jitter=math.inf), "jitter of ScanNoise must be a number of at least 0"),
        (lambda: ScanNoise(jitter_length=-1.0), "jitter_length of ScanNoise must be at least 0"),
        (lambda: PointwiseNoise(-0.1), "readout of PointwiseNoise must be a number of at least 0"),
        (lambda: PointwiseNoise(gain=math.nan), "gain of PointwiseNoise must be a finite number"),
        (lambda: PointwiseNoise(shape=-0.4), r"shape of PointwiseNoise must be a finite number above -0\.4"),
        (lambda: PointwiseNoise(correlation_x=1.0), "correlation_x of PointwiseNoise must be between -1 and 1"),
        (lambda: PointwiseNoise(kind="gauss"), "kind must be one of 'tukey', 'poisson', but is 'gauss'"),
        (lambda: PointwiseNoise(kind="poisson"), "gain must not be 0"),
        (lambda: PointwiseNoise.counted(0.0), "dose must be a positive number"),
        (lambda: PointwiseNoise.counted(math.inf), "dose must be a positive number"),
        (lambda: PointwiseNoise.counted(9.0, mode="df"), "mode must be one of 'haadf', 'bf', but is 'df'"),
        (lambda: PointwiseNoise.counted(9.0, background=-1.0), "background must be at least 0 electrons"),
        (lambda: PointwiseNoise.counted(20.0, background=10.0, mode="bf"), "background must be at least 20 electrons"),
        (lambda: ScanNoise(jitter_y=-1.0), "jitter_y of ScanNoise must be a number of at least 0"),
        (lambda: Digitization(step=0.0), "step must be a positive number or None"),
        (lambda: Digitization(step=math.inf), "step must be a positive number or None, but is inf"),
        (lambda: Digitization(low=math.nan), "low of Digitization must be a finite number or None"),
        (lambda: Digitization(high=math.inf), "high of Digitization must be a finite number or None"),
        (lambda: Digitization(2.0, 1.0), "low must be below high"),
    ],
)
def test_impossible_noise_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
