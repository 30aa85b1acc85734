"""The grid on which a network is applied: what resampling preserves, which one is chosen, and how results come back."""

import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft
from strategies import SIGMAS, levels, seeds, shapes

from stemkit import NoiseModel, PointwiseNoise, SFINDenoiser, STEMSynthesizer
from stemkit.columns import find_peaks
from stemkit.denoising.sampling import CONSTANTS, chosen_grid, resampled, variance_fractions
from stemkit.images.provenance import RECORDED
from stemkit.synthesis import lattice, planar_cell, render

SHAPE = (160, 200)
KNOWN = (4.0, 36.0)


def crystal(spacing: float, shape: tuple[int, int] = SHAPE, sigma: float = 0.18) -> np.ndarray:
    columns = lattice(planar_cell("square"), shape, spacing=spacing, sigma=sigma * spacing, angle=17.0)
    return render(columns, shape)[0].numpy().astype(np.float64)


def noisy(true_image: np.ndarray, readout: float, seed: int = 0) -> np.ndarray:
    return true_image + readout * np.random.default_rng(seed).normal(size=true_image.shape)


class TestResampled:
    @given(shapes(8, 60), st.floats(0.2, 1.0), seeds, levels)
    def test_band_limited_images_are_recovered(self, shape, sampling, seed, level):
        coarse = tuple(max(2, round(n * sampling)) for n in shape)
        series = np.zeros(shape)
        series[: coarse[0], : coarse[1]] = np.random.default_rng(seed).normal(size=coarse)
        image = fft.idctn(series, norm="ortho") + level
        back = resampled(resampled(image, coarse), shape)
        np.testing.assert_allclose(back, image, atol=1e-3 * np.ptp(image))

    @given(shapes(2, 40), shapes(2, 40), st.floats(-1e9, 1e9))
    def test_constant_images_are_unchanged(self, shape, other, level):
        assert (resampled(np.full(shape, level), other) == level).all()

    @given(shapes(8, 40), st.floats(0.2, 3.0), seeds)
    def test_keep_the_mean(self, shape, factor, seed):
        image = np.random.default_rng(seed).normal(size=shape)
        other = tuple(max(2, round(n * factor)) for n in shape)
        assert resampled(image, other).mean() == pytest.approx(image.mean(), abs=1e-5)

    @given(st.tuples(st.integers(60, 120), st.integers(60, 120)), st.floats(0.3, 0.9), seeds)
    def test_white_noise_stays_white(self, shape, sampling, seed):
        coarse = tuple(round(n * sampling) for n in shape)
        noise = resampled(np.random.default_rng(seed).normal(size=shape), coarse)
        n = noise.size
        expected = n / (shape[0] * shape[1])
        assert noise.var() == pytest.approx(expected, rel=SIGMAS * np.sqrt(2 / n))
        for shifted in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1]):
            assert abs(shifted.mean()) < SIGMAS * expected / np.sqrt(shifted.size)

    @settings(max_examples=20)
    @given(st.floats(20.0, 45.0), st.floats(0.65, 0.9), st.integers(0, 1))
    def test_columns_at_the_border_do_not_ring(self, spacing, sampling, odd):
        image = crystal(spacing, (SHAPE[0] + odd, SHAPE[1]))
        coarse = tuple(round(n * sampling) for n in image.shape)
        error = np.abs(resampled(resampled(image, coarse), image.shape) - image) / np.ptp(image)
        assert error.max() < 0.02
        assert error[24:-24, 24:-24].max() < 1e-3

    def test_the_field_of_view_stays_the_same(self):
        image = crystal(30.0)
        half = resampled(image, (SHAPE[0] // 2, SHAPE[1] // 2))
        area = image.reshape(SHAPE[0] // 2, 2, SHAPE[1] // 2, 2).mean(axis=(1, 3))
        # the mean over a pixel is that of its centre up to the second derivative
        np.testing.assert_allclose(half, area, atol=0.03)

    def test_stacks_are_resampled_image_by_image(self):
        stack = np.random.default_rng(0).normal(size=(3, 21, 32)).astype(np.float32)
        together = resampled(stack, (15, 40))
        assert together.dtype == np.float32
        for one, image in zip(together, stack, strict=True):
            np.testing.assert_allclose(one, resampled(image, (15, 40)), atol=1e-6)

    def test_a_large_offset_does_not_reduce_the_precision(self):
        image = np.random.default_rng(0).normal(size=(40, 40))
        np.testing.assert_allclose(resampled(image + 1e7, (30, 30)) - 1e7, resampled(image, (30, 30)), atol=1e-5)


class TestVarianceShares:
    @given(st.floats(0.3, 3.0), seeds)
    def test_of_noise(self, readout, seed):
        true_image = crystal(20.0)
        expected = readout**2 / (readout**2 + true_image.var())
        assert variance_fractions(noisy(true_image, readout, seed))[0] == pytest.approx(expected, rel=0.1)

    @given(st.floats(0.1, 3.0), seeds)
    def test_of_slow_variation(self, readout, seed):
        true_image = crystal(20.0)
        # a sixteenth of the frequencies are slow
        expected = (true_image.var() + readout**2 / 16) / (true_image.var() + readout**2)
        assert variance_fractions(noisy(true_image, readout, seed))[1] == pytest.approx(expected, abs=0.05)

    def test_of_finely_spaced_columns_without_noise_are_small(self):
        assert max(variance_fractions(crystal(2.3, sigma=0.25))) < 0.1

    def test_of_a_constant_image_are_zero(self):
        assert variance_fractions(np.full((16, 16), 7.0)) == (0.0, 0.0)


class TestChosenGrid:
    def test_noisy_images_of_large_spacing_have_a_coarser_grid(self):
        assert chosen_grid(noisy(crystal(45.0), 1.2), "auto", KNOWN).sampling == CONSTANTS.coarser

    @pytest.mark.parametrize(
        ("spacing", "readout"), [(32.0, 1.2), (45.0, 0.1), (12.0, 1.2), (12.0, 0.1), (80.0, 0.1), (3.6, 1.0)]
    )
    def test_other_images_keep_their_grid(self, spacing, readout):
        assert chosen_grid(noisy(crystal(spacing), readout), "auto", KNOWN).sampling == 1.0

    @pytest.mark.parametrize(("spacing", "expected"), [(140.0, 108.0), (3.2, 4.0)])
    def test_a_clear_image_far_outside_the_range_is_brought_to_it(self, spacing, expected):
        image = crystal(spacing, (512, 512), 0.22)
        assert chosen_grid(image, "auto", KNOWN).sampling * spacing == pytest.approx(expected, rel=0.05)

    def test_a_noisy_image_of_larger_spacing_is_brought_near_the_range(self):
        image = noisy(crystal(90.0, (320, 320)), 1.2)
        assert chosen_grid(image, "auto", KNOWN).sampling * 90.0 == pytest.approx(45.0, rel=0.05)

    def test_a_clear_image_of_large_columns_is_not_taken_to_a_finer_grid(self):
        # correlated noise has near peaks in its correlogram, too
        true_image = crystal(40.0, (256, 256))
        for seed in range(5):
            noise = np.random.default_rng(seed).normal(size=(256, 257))
            assert chosen_grid(true_image + 0.05 * (noise[:, 1:] + noise[:, :-1]), "auto", KNOWN).sampling == 1.0

    @given(st.floats(0.01, 1.0))
    def test_a_number_is_the_sampling(self, sampling):
        assert chosen_grid(crystal(12.0, (32, 32)), sampling, None).sampling == sampling

    def test_noise_is_not_taken_for_columns(self):
        # the correlogram of noise has peaks at 2 to 3 px
        true_image = crystal(32.0)
        for seed in range(5):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert chosen_grid(noisy(true_image, 2.0, seed), "auto", KNOWN).sampling <= 1.0

    @given(shapes(1, 12), st.sampled_from(["auto", 1, 0.65, 0.1]), seeds)
    def test_small_images_have_a_grid(self, shape, sampling, seed):
        grid = chosen_grid(np.random.default_rng(seed).normal(size=shape), sampling, None)
        assert all(1 <= n <= own for n, own in zip(grid.shape(shape), shape, strict=True))


@pytest.fixture(scope="module")
def image():
    noise = NoiseModel(pointwise=PointwiseNoise(readout=0.3))
    crystal = lattice(planar_cell("hexagonal"), (141, 176), spacing=24.0, angle=12.0)
    return STEMSynthesizer(shape=(141, 176), noise=noise, random_state=1).record(crystal).isel(image=0)["noisy"]


class TestDenoiser:
    @pytest.mark.parametrize("sampling", ["auto", 1, 0.8, 0.65, np.float32(0.5)])
    def test_results_are_on_the_grid_of_the_image(self, image, sampling):
        result = SFINDenoiser(sampling=sampling).fit_transform(image)
        assert (result.shape, result.dims, result.dtype) == (image.shape, image.dims, image.dtype)
        assert result.stem.pixel_size == image.stem.pixel_size
        for name in ("y", "x", "detect", "superresolve", RECORDED):
            assert result.coords[name].shape == (image.coords[name] if name in "yx" else image).shape
        xr.testing.assert_identical(result["y"].variable, image["y"].variable)
        np.testing.assert_array_equal(result.coords[RECORDED], image)

    @pytest.mark.parametrize("sampling", [0.8, 0.65, 0.5])
    def test_columns_stay_where_they_are(self, image, sampling):
        own, other = (SFINDenoiser(sampling=s).fit_transform(image) for s in (1, sampling))
        for before, after in ((own, other), (own.coords["detect"], other.coords["detect"])):
            peaks = [
                find_peaks(m.values, threshold=m.values.min() + 0.5 * np.ptp(m.values), min_distance=10)
                for m in (before, after)
            ]
            nearest = np.hypot(*(peaks[0][:, None] - peaks[1][None]).T).min(axis=0)
            inner = ((peaks[0] > 12) & (peaks[0] < np.array(image.shape) - 13)).all(axis=1)
            assert inner.sum() > 20
            # a systematic shift would be half a pixel of either grid
            assert np.median(nearest[inner]) < 0.35

    def test_sampling_1_is_the_grid_of_the_image(self, image):
        own = SFINDenoiser(sampling=1).fit_transform(image)
        np.testing.assert_array_equal(SFINDenoiser(sampling=1.0).fit_transform(image), own)
        assert not np.allclose(SFINDenoiser(sampling=0.65).fit_transform(image), own, atol=1e-3)

    def test_stacks_lists_and_arrays(self, image):
        denoiser = SFINDenoiser(sampling=0.65, mode="haadf").fit(image)
        expected = denoiser.transform(image).values
        stack = np.stack([image.values, image.values[::-1]])
        np.testing.assert_allclose(denoiser.transform(stack)[0], expected, atol=1e-5)
        listed = denoiser.transform([image.values, image.values[:65, :90]])
        np.testing.assert_allclose(listed[0], expected, atol=1e-5)
        assert listed[1].shape == (65, 90)

    def test_constant_images_are_returned_unchanged(self):
        values = np.full((65, 80), 1234.5)
        np.testing.assert_array_equal(SFINDenoiser(sampling=0.65, mode="haadf").fit_transform(values), values)

    def test_faulty_pixels_are_interpolated_before_the_image_is_resampled(self, image):
        hot = image.copy(data=image.values.copy())
        hot[70, 80] += 1000 * np.ptp(image.values)
        expected = SFINDenoiser(sampling=0.65).fit_transform(image)
        result = SFINDenoiser(sampling=0.65).fit_transform(hot)
        assert float(abs(result - expected).max()) < 0.1 * np.ptp(expected.values)
        assert float(result.coords[RECORDED][70, 80]) == float(hot[70, 80])

    def test_the_spread_over_flips_is_on_the_grid_of_the_image(self, image):
        result = SFINDenoiser(sampling=0.65, average_flips=True).fit_transform(image)
        assert result.coords["uncertainty"].shape == image.shape
        assert (result.coords["uncertainty"] >= 0).all()

    def test_tiles_are_those_of_the_resampled_image(self, image):
        whole = SFINDenoiser(sampling=0.5).fit_transform(image)
        # 88 px are left of 176
        np.testing.assert_array_equal(SFINDenoiser(sampling=0.5, tile_size=96).fit_transform(image), whole)

    def test_a_number_that_leads_out_of_the_range_warns(self, image):
        with pytest.warns(UserWarning, match=r"columns are 2\.\d px apart at sampling=0\.1, but the network gives"):
            SFINDenoiser(sampling=0.1).fit_transform(image)


class TestPrecision:
    def test_bfloat16_gives_nearly_the_same(self, image):
        single, half = (SFINDenoiser(precision=p).fit_transform(image) for p in ("float32", "bfloat16"))
        assert 0 < float(abs(half - single).max()) < 0.02 * np.ptp(single.values)

    @pytest.mark.slow
    @pytest.mark.parametrize(("fast", "like"), [(True, "bfloat16"), (False, "float32")])
    def test_auto_is_the_fast_precision_of_the_device(self, image, monkeypatch, fast, like):
        monkeypatch.setattr("stemkit.compute._is_fast_in_half", lambda device: fast)
        expected = SFINDenoiser(precision=like).fit_transform(image)
        np.testing.assert_array_equal(SFINDenoiser(precision="auto").fit_transform(image), expected)
