"""The noise of means of squares of pixels, and what is taken for an enhanced image."""

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


def view_of(noise: NoiseModel, values: np.ndarray, faulty: np.ndarray | None = None) -> NormalizedImage:
    return NormalizedImage(xr.DataArray(values, dims=("y", "x")), noise, 1.0, values, None, None, faulty)


def autoregressive(rng: np.random.Generator, shape: tuple[int, int], rho: float) -> np.ndarray:
    """Noise of variance 1 whose lag-k correlation along the row is rho^k."""
    white = rng.normal(size=shape)
    noise = white.copy()
    for i in range(1, shape[1]):
        noise[:, i] = rho * noise[:, i - 1] + math.sqrt(1 - rho**2) * white[:, i]
    return noise


def effective(n: int, rho: float) -> float:
    """Independent values among n along a row whose squares are correlated by rho^(2k)."""
    return n * (1 - rho**2) / (1 + rho**2)


@settings(max_examples=20)
@given(st.integers(1, 6), st.floats(-0.5, 0.7), st.floats(0.05, 0.5), seeds)
def test_means_of_correlated_noise(factor, rho, readout, seed):
    values = readout * autoregressive(np.random.default_rng(seed), SHAPE, rho)
    view = view_of(NoiseModel(pointwise=PointwiseNoise(readout, correlation_x=rho)), values).binned(factor)
    means, pointwise = view.recorded, view.noise.pointwise
    n = effective(means.size, pointwise.correlation_x)
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
    view = view_of(noise, values).binned(factor)
    n = view.recorded.size
    # a count of few electrons has the excess 1 / n
    excess = gain / max(level, gain / 4) / factor**2
    tolerance = SIGMAS * math.sqrt((2 + 3 * excess) / n)
    assert view.recorded.var() == pytest.approx(float(view.variance(np.float64(level))), rel=tolerance + 0.01)


@settings(max_examples=10)
@given(st.integers(2, 4), st.floats(0.1, 0.5), seeds)
def test_streaks_of_means(factor, amplitude, seed):
    """Offsets of whole rows, as rows of means have them."""
    rng = np.random.default_rng(seed)
    values = np.broadcast_to(amplitude * rng.normal(size=(4000, 1)), (4000, 8)).copy()
    noise = NoiseModel(scan=ScanNoise(amplitude, math.inf), pointwise=PointwiseNoise(0.1))
    view = view_of(noise, values).binned(factor)
    n = len(view.recorded)
    assert view.recorded[:, 0].std() == pytest.approx(view.noise.scan.amplitude, rel=SIGMAS / math.sqrt(2 * n))
    assert view.noise.scan.length == math.inf


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_lengths_are_in_the_new_pixels(factor):
    noise = NoiseModel(
        background=BackgroundNoise(0.2, 60.0),
        scan=ScanNoise(0.1, 40.0, jitter=0.6, jitter_length=24.0, jitter_y=0.3),
        pointwise=PointwiseNoise(0.1),
    )
    view = view_of(noise, np.zeros((60, 60))).binned(factor)
    binned_noise = view.noise
    assert binned_noise.background.length == pytest.approx(60.0 / factor)
    assert binned_noise.background.amplitude == 0.2
    assert binned_noise.scan.length == pytest.approx(40.0 / factor)
    assert binned_noise.scan.jitter_length == pytest.approx(24.0 / factor)
    # the mean of f independent rows, in pixels f times as large
    assert binned_noise.scan.jitter == pytest.approx(0.6 / factor / math.sqrt(factor))
    assert binned_noise.scan.jitter_y == pytest.approx(0.3 / factor / math.sqrt(factor))


def test_jitter_of_means_of_rows():
    """A slope seen by a beam that is displaced independently in each row."""
    factor, jitter, rng = 3, 0.7, np.random.default_rng(0)
    moved = jitter * rng.normal(size=(6000, 1))
    slope = 0.2
    values = slope * (np.arange(9.0) + moved)
    noise = NoiseModel(scan=ScanNoise(jitter=jitter, jitter_length=math.inf), pointwise=PointwiseNoise(0.1))
    view = view_of(noise, values).binned(factor)
    # the slope per new pixel is f times as steep
    found = (view.recorded - view.recorded.mean(axis=0)).std() / (factor * slope)
    assert found == pytest.approx(view.noise.scan.jitter, rel=SIGMAS / math.sqrt(2 * 2000))


def test_a_square_with_a_faulty_pixel_is_faulty():
    faulty = np.zeros((12, 12), dtype=bool)
    faulty[4, 7] = True
    view = view_of(NoiseModel(), np.zeros((12, 12)), faulty).binned(3)
    assert view.faulty is not None
    np.testing.assert_array_equal(np.argwhere(view.faulty), [[1, 2]])


@given(st.integers(1, 6), st.integers(1, 6), seeds)
def test_squares_of_squares_are_squares(one, other, seed):
    """Of white noise and of pixels that fill the squares."""
    values = np.random.default_rng(seed).normal(size=(one * other * 3, one * other * 2))
    view = view_of(NoiseModel(pointwise=PointwiseNoise(0.3, 0.2)), values)
    there, at_once = view.binned(one).binned(other), view.binned(one * other)
    np.testing.assert_allclose(there.recorded, at_once.recorded, atol=1e-12)
    assert there.noise.pointwise.readout == pytest.approx(at_once.noise.pointwise.readout)
    assert there.noise.pointwise.gain == pytest.approx(at_once.noise.pointwise.gain)


def test_means_keep_the_mean():
    values = np.random.default_rng(1).normal(size=(30, 42))
    assert bin_pixels(values, 3).mean() == pytest.approx(values.mean())


class TestEnhanced:
    @staticmethod
    def image(values: np.ndarray, **maps: np.ndarray) -> xr.DataArray:
        made = xr.DataArray(values, dims=("y", "x"), attrs={"mode": "bf"})
        return made.assign_coords({name: (("y", "x"), v) for name, v in maps.items()})

    def maps(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        return {name: rng.normal(5.0, 1.0, (64, 64)) for name in ("recorded", "enhance", "detect")}

    def test_a_recorded_image_has_none(self):
        view = NormalizedImage.from_image(self.image(self.maps()["recorded"]), "bf")
        assert view.enhanced is None
        assert view.detect is None

    def test_it_is_the_image_itself(self):
        maps = self.maps()
        view = NormalizedImage.from_image(self.image(maps["enhance"], recorded=maps["recorded"]), "bf")
        np.testing.assert_allclose(view.enhanced, (view.noise.level - maps["enhance"]) / view.noise.contrast)
        np.testing.assert_allclose(view.recorded, (view.noise.level - maps["recorded"]) / view.noise.contrast)

    def test_it_is_beside_another_map_that_is_the_image(self):
        maps = self.maps()
        view = NormalizedImage.from_image(self.image(maps["detect"], **maps), "bf")
        np.testing.assert_allclose(view.enhanced, (view.noise.level - maps["enhance"]) / view.noise.contrast)
        np.testing.assert_allclose(view.detect, maps["detect"])

    def test_the_detect_map_alone_is_none(self):
        maps = self.maps()
        detect = maps["detect"].astype(np.float32)
        view = NormalizedImage.from_image(
            self.image(detect.astype(float), recorded=maps["recorded"], detect=detect), "bf"
        )
        assert view.enhanced is None
        np.testing.assert_array_equal(view.detect, detect)
