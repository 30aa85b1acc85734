"""Tests of NormalizedImage: noise models of binned images, and the maps of a network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, seeds

from stemkit import BackgroundNoise, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.detection.normalized_image import NormalizedImage, bin_pixels

SHAPE = (480, 480)


def normalized(noise: NoiseModel, values: np.ndarray, faulty: np.ndarray | None = None) -> NormalizedImage:
    return NormalizedImage(xr.DataArray(values, dims=("y", "x")), noise, 1.0, values, None, None, faulty)


def autoregressive(rng: np.random.Generator, shape: tuple[int, int], rho: float) -> np.ndarray:
    """Noise of variance 1 whose lag-k correlation along the row is rho^k."""
    white = rng.normal(size=shape)
    noise = white.copy()
    for i in range(1, shape[1]):
        noise[:, i] = rho * noise[:, i - 1] + math.sqrt(1 - rho**2) * white[:, i]
    return noise


def effective_number(n: int, rho: float) -> float:
    """Number of independent values among n along a row whose squares have the correlation rho^(2k)."""
    return n * (1 - rho**2) / (1 + rho**2)


@settings(max_examples=20)
@given(st.integers(1, 6), st.floats(-0.5, 0.7), st.floats(0.05, 0.5), seeds)
def test_means_of_correlated_noise(factor, rho, readout, seed):
    values = readout * autoregressive(np.random.default_rng(seed), SHAPE, rho)
    image = normalized(NoiseModel(pointwise=PointwiseNoise(readout, correlation_x=rho)), values).binned(factor)
    means, pointwise = image.recorded, image.noise.pointwise
    n = effective_number(means.size, pointwise.correlation_x)
    assert means.var() == pytest.approx(pointwise.readout**2, rel=SIGMAS * math.sqrt(2 / n))
    found = (means[:, 1:] * means[:, :-1]).mean() / means.var()
    assert found == pytest.approx(pointwise.correlation_x, abs=SIGMAS / math.sqrt(means.size))
    # rows are independent
    assert (means[1:] * means[:-1]).mean() / means.var() == pytest.approx(0.0, abs=SIGMAS / math.sqrt(n))


@settings(max_examples=10)
@given(st.integers(1, 5), st.floats(0.05, 1.0), st.floats(0.1, 1.0), seeds)
def test_means_of_counts(factor, gain, level, seed):
    noise = NoiseModel(pointwise=PointwiseNoise(0.1, gain, kind="poisson"))
    values = noise.apply(np.full(SHAPE, level), random_state=seed)
    image = normalized(noise, values).binned(factor)
    n = image.recorded.size
    # a count of n electrons has an excess kurtosis of 1 / n
    excess = gain / max(level, gain / 4) / factor**2
    tolerance = SIGMAS * math.sqrt((2 + 3 * excess) / n)
    assert image.recorded.var() == pytest.approx(float(image.variance(np.float64(level))), rel=tolerance + 0.01)


@settings(max_examples=10)
@given(st.integers(2, 4), st.floats(0.1, 0.5), seeds)
def test_streaks_of_means(factor, amplitude, seed):
    """Offsets of whole rows, averaged over several rows."""
    rng = np.random.default_rng(seed)
    values = np.broadcast_to(amplitude * rng.normal(size=(4000, 1)), (4000, 8)).copy()
    noise = NoiseModel(scan=ScanNoise(amplitude, math.inf), pointwise=PointwiseNoise(0.1))
    image = normalized(noise, values).binned(factor)
    n = len(image.recorded)
    assert image.recorded[:, 0].std() == pytest.approx(image.noise.scan.amplitude, rel=SIGMAS / math.sqrt(2 * n))
    assert image.noise.scan.length == math.inf


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_lengths_are_in_the_new_pixels(factor):
    noise = NoiseModel(
        background=BackgroundNoise(0.2, 60.0),
        scan=ScanNoise(0.1, 40.0, jitter=0.6, jitter_length=24.0, jitter_y=0.3),
        pointwise=PointwiseNoise(0.1),
    )
    image = normalized(noise, np.zeros((60, 60))).binned(factor)
    binned_noise = image.noise
    assert binned_noise.background.length == pytest.approx(60.0 / factor)
    assert binned_noise.background.amplitude == 0.2
    assert binned_noise.scan.length == pytest.approx(40.0 / factor)
    assert binned_noise.scan.jitter_length == pytest.approx(24.0 / factor)
    # the mean of f independent rows, in pixels f times as large
    assert binned_noise.scan.jitter == pytest.approx(0.6 / factor / math.sqrt(factor))
    assert binned_noise.scan.jitter_y == pytest.approx(0.3 / factor / math.sqrt(factor))


def test_jitter_of_means_of_rows():
    """An image with a constant slope, whose rows are displaced independently."""
    factor, jitter, rng = 3, 0.7, np.random.default_rng(0)
    moved = jitter * rng.normal(size=(6000, 1))
    slope = 0.2
    values = slope * (np.arange(9.0) + moved)
    noise = NoiseModel(scan=ScanNoise(jitter=jitter, jitter_length=math.inf), pointwise=PointwiseNoise(0.1))
    image = normalized(noise, values).binned(factor)
    # the slope per new pixel is f times as steep
    found = (image.recorded - image.recorded.mean(axis=0)).std() / (factor * slope)
    assert found == pytest.approx(image.noise.scan.jitter, rel=SIGMAS / math.sqrt(2 * 2000))


def test_a_bin_with_a_faulty_pixel_is_faulty():
    faulty = np.zeros((12, 12), dtype=bool)
    faulty[4, 7] = True
    image = normalized(NoiseModel(), np.zeros((12, 12)), faulty).binned(3)
    assert image.faulty is not None
    np.testing.assert_array_equal(np.argwhere(image.faulty), [[1, 2]])


@given(st.integers(1, 6), st.integers(1, 6), seeds)
def test_binning_twice_is_binning_by_the_product(one, other, seed):
    """For white noise and images whose sides are multiples of the product."""
    values = np.random.default_rng(seed).normal(size=(one * other * 3, one * other * 2))
    image = normalized(NoiseModel(pointwise=PointwiseNoise(0.3, 0.2)), values)
    twice, once = image.binned(one).binned(other), image.binned(one * other)
    np.testing.assert_allclose(twice.recorded, once.recorded, atol=1e-12)
    assert twice.noise.pointwise.readout == pytest.approx(once.noise.pointwise.readout)
    assert twice.noise.pointwise.gain == pytest.approx(once.noise.pointwise.gain)


def test_binning_conserves_the_mean():
    values = np.random.default_rng(1).normal(size=(30, 42))
    assert bin_pixels(values, 3).mean() == pytest.approx(values.mean())


class TestEnhancedMaps:
    @staticmethod
    def image(values: np.ndarray, **maps: np.ndarray) -> xr.DataArray:
        made = xr.DataArray(values, dims=("y", "x"), attrs={"mode": "bf"})
        return made.assign_coords({name: (("y", "x"), v) for name, v in maps.items()})

    def maps(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        return {name: rng.normal(5.0, 1.0, (64, 64)) for name in ("recorded", "enhance", "detect")}

    def test_a_recorded_image_has_no_maps(self):
        image = NormalizedImage.from_image(self.image(self.maps()["recorded"]), "bf")
        assert image.enhanced is None
        assert image.detect is None

    def test_the_image_itself_is_the_enhanced_map(self):
        maps = self.maps()
        image = NormalizedImage.from_image(self.image(maps["enhance"], recorded=maps["recorded"]), "bf")
        np.testing.assert_allclose(image.enhanced, (image.noise.level - maps["enhance"]) / image.noise.contrast)
        np.testing.assert_allclose(image.recorded, (image.noise.level - maps["recorded"]) / image.noise.contrast)

    def test_the_enhanced_map_next_to_a_detect_map_as_image(self):
        maps = self.maps()
        image = NormalizedImage.from_image(self.image(maps["detect"], **maps), "bf")
        np.testing.assert_allclose(image.enhanced, (image.noise.level - maps["enhance"]) / image.noise.contrast)
        np.testing.assert_allclose(image.detect, maps["detect"])

    def test_a_detect_map_is_not_an_enhanced_image(self):
        maps = self.maps()
        detect = maps["detect"].astype(np.float32)
        image = NormalizedImage.from_image(
            self.image(detect.astype(float), recorded=maps["recorded"], detect=detect), "bf"
        )
        assert image.enhanced is None
        np.testing.assert_array_equal(image.detect, detect)
