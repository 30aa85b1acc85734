"""Denoisers without training, and the functions that they use."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sklearn.base import clone

from stemkit import (
    ABSFDenoiser,
    BackgroundNoise,
    NLMDenoiser,
    NoiseCalibrator,
    NoiseModel,
    PeriodicDenoiser,
    PointwiseNoise,
    ScanNoise,
    STEMSynthesizer,
    WienerDenoiser,
)
from stemkit.benchmark.truths import TRUTHS
from stemkit.denoising.anscombe import StabilizedCounts
from stemkit.denoising.periodic import FRACTIONS, Overlap, _average, _filtered_noise, _lattice_offsets, _subpixel_shifts
from stemkit.denoising.spectral import information_limit, periodic_part, radial_background
from stemkit.metrics import psnr
from stemkit.synthesis import lattice, planar_cell

CLASSICAL = [WienerDenoiser(), ABSFDenoiser(), NLMDenoiser(), PeriodicDenoiser()]


def by_name(estimator):
    return type(estimator).__name__


@pytest.fixture(scope="module", params=["haadf", "bf"])
def pair(request):
    noise = NoiseModel(
        contrast=1000.0,
        level=200.0 if request.param == "haadf" else 2000.0,
        mode=request.param,
        pointwise=PointwiseNoise(readout=0.15, gain=0.1 if request.param == "haadf" else -0.01),
    )
    crystal = lattice(planar_cell("square"), (112, 128), spacing=11.0, sigma=2.4, angle=12.0)
    synthesizer = STEMSynthesizer(shape=(112, 128), noise=noise, mode=request.param, random_state=0)
    return synthesizer.record(crystal).isel(image=0)


@pytest.fixture(scope="module")
def enhance(pair):
    """The function that enhances the noisy image of the pair, once with each estimator."""
    return cache(lambda estimator: clone(estimator).fit_transform(pair["noisy"]))


@pytest.mark.parametrize("estimator", CLASSICAL, ids=by_name)
class TestAllOfThem:
    def test_enhance(self, estimator, pair, enhance):
        enhanced = enhance(estimator)
        assert psnr(enhanced, pair["enhance"]) > psnr(pair["noisy"], pair["enhance"]) + 5

    def test_carry_the_recorded_pixels_and_their_provenance(self, estimator, pair, enhance):
        enhanced = enhance(estimator)
        np.testing.assert_array_equal(enhanced.coords["recorded"], pair["noisy"])
        assert json.loads(enhanced.attrs["stemkit"])["method"] == type(estimator).__name__
        assert enhanced.attrs["mode"] == pair["noisy"].attrs["mode"]

    def test_faulty_pixels_change_nothing_elsewhere(self, estimator, pair):
        intact, spoiled = pair["noisy"], pair["noisy"].copy(deep=True)
        model = NoiseCalibrator().fit(intact)
        intact = model.transform(intact)
        y, x = np.random.default_rng(0).integers(4, 108, (2, 12))
        spoiled.values[y, x] = 1e4 * float(spoiled.max())
        spoiled.attrs = intact.attrs
        without, enhanced = (clone(estimator).fit_transform(image) for image in (intact, spoiled))
        np.testing.assert_array_equal(enhanced.coords["recorded"], spoiled)
        change = np.sqrt(((enhanced - without) ** 2).mean()).item()
        assert change < 0.1 * np.sqrt(((intact - without) ** 2).mean()).item()

    def test_do_not_depend_on_the_units(self, estimator, pair, enhance):
        plain = np.asarray(enhance(estimator))
        # of filters of the spectrum also small ones, such as fractions of the beam
        spectral = isinstance(estimator, WienerDenoiser | ABSFDenoiser)
        scale, level = (3e-6, 5e-4) if spectral else (3.0, 500.0)
        found = np.asarray(clone(estimator).fit_transform(pair["noisy"].astype(float) * scale + level))
        np.testing.assert_allclose((found - level) / scale, plain, rtol=1e-3)

    def test_a_constant_image_stays(self, estimator):
        image = xr.DataArray(np.full((40, 50), 7.0), dims=("y", "x"), attrs={"mode": "haadf"})
        np.testing.assert_array_equal(clone(estimator).fit_transform(image), image)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (WienerDenoiser(smoothing=-1.0), "smoothing must be a number of at least 0, but is -1.0"),
        (ABSFDenoiser(smoothing="much"), "smoothing must be a number of at least 0, but is 'much'"),
        (PeriodicDenoiser(n_neighbors=0), "n_neighbors must be an integer of at least 1, but is 0"),
        (PeriodicDenoiser(strength=-1), "strength must be a positive number, but is -1"),
        (NLMDenoiser(strength=0), "strength must be a positive number, but is 0"),
        (NLMDenoiser(patch_size=0), "patch_size must be an integer of at least 1, but is 0"),
    ],
)
def test_errors_name_the_parameter(estimator, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(np.zeros((40, 40)))


class TestSpectrum:
    @settings(deadline=None)
    @given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**16))
    def test_the_smooth_and_the_periodic_part_add_up_to_the_image(self, n_y, n_x, seed):
        values = np.random.default_rng(seed).normal(size=(n_y, n_x)).cumsum(axis=0)
        spectrum, rest = periodic_part(values)
        np.testing.assert_allclose(np.fft.irfft2(spectrum, s=values.shape) + rest, values, atol=1e-9)

    def test_differences_between_opposite_borders_are_not_in_the_spectrum(self):
        # a ramp has power at all frequencies along the axes; its periodic part has little
        y, _ = np.mgrid[:64, :48] / 64.0
        spectrum, _ = periodic_part(y)
        assert (np.abs(spectrum[1:]) ** 2).sum() < 0.05 * (np.abs(np.fft.rfft2(y)[1:]) ** 2).sum()

    @pytest.mark.parametrize("shape", [(64, 64), (63, 97), (200, 120)])
    def test_the_background_is_the_noise_s_mean_power(self, shape):
        noise = np.random.default_rng(0).normal(size=(8, *shape))
        backgrounds = [radial_background(np.abs(np.fft.rfft2(one)) ** 2, shape) for one in noise]
        assert np.mean(backgrounds) == pytest.approx(shape[0] * shape[1], rel=0.05)

    def test_bragg_peaks_do_not_change_the_background(self):
        y, x = np.mgrid[:128, :128]
        noise = np.random.default_rng(0).normal(size=(128, 128))
        crystal = 3 * np.cos(2 * np.pi * (0.125 * x + 0.03 * y)) + 3 * np.cos(2 * np.pi * 0.125 * y)
        with_it, without = (radial_background(np.abs(np.fft.rfft2(v)) ** 2, v.shape) for v in (noise + crystal, noise))
        np.testing.assert_allclose(with_it, without, rtol=0.2)

    def test_information_reaches_to_the_last_peak(self):
        y, x = np.mgrid[:128, :128]
        noise = np.random.default_rng(1).normal(size=(128, 128))
        crystal = np.cos(2 * np.pi * (16 * x + 12 * y) / 128) + np.cos(2 * np.pi * 10 * x / 128)
        assert information_limit(noise + crystal) == pytest.approx(20 / 128, abs=1e-9)
        assert information_limit(noise) == 0.0

    def test_wiener_keeps_a_crystal_and_removes_noise(self):
        y, x = np.mgrid[:128, :128]
        crystal = np.cos(2 * np.pi * (16 * x + 12 * y) / 128)
        noise = np.random.default_rng(2).normal(size=(128, 128))
        enhanced = WienerDenoiser(smoothing=0.0, mode="haadf").fit_transform(crystal + noise).values
        kept = (enhanced * crystal).sum() / (crystal**2).sum()
        assert kept == pytest.approx(1.0, abs=0.03)
        assert (enhanced - kept * crystal).std() < 0.65


class TestStabilizedCounts:
    @pytest.mark.parametrize(("dose", "readout"), [(4.0, 0.0), (20.0, 0.0), (2.0, 1.5), (10.0, 3.0)])
    def test_noise_has_unit_variance_and_the_inverse_has_no_bias(self, dose, readout):
        rng, gain = np.random.default_rng(0), 0.05
        counts = rng.poisson(dose, 400_000) + rng.normal(0, readout, 400_000)
        stabilized = StabilizedCounts(readout * gain, gain).forward(counts * gain)
        assert stabilized.std() == pytest.approx(1.0, abs=0.06)
        mean = StabilizedCounts(readout * gain, gain).inverse(np.array(stabilized.mean()))
        assert mean == pytest.approx(dose * gain, rel=0.02)
        # the transform's own inverse would be too low by about a quarter of an electron
        naive = ((stabilized.mean() / 2) ** 2 - 0.375 - readout**2) * gain
        assert abs(naive - dose * gain) > 4 * abs(mean - dose * gain)

    def test_dark_columns_have_fewer_electrons(self):
        rng, gain, level = np.random.default_rng(0), 0.02, 30.0
        # signal is what is missing from the level, in parts of the contrast
        signal = (level - rng.poisson(12.0, 400_000)) * gain
        stabilized = StabilizedCounts(np.sqrt(level) * gain, -gain).forward(signal)
        assert stabilized.std() == pytest.approx(1.0, abs=0.03)
        mean = StabilizedCounts(np.sqrt(level) * gain, -gain).inverse(np.array(stabilized.mean()))
        assert mean == pytest.approx((level - 12.0) * gain, rel=0.02)

    @given(st.floats(0.01, 1.0), st.floats(-2.0, 2.0))
    def test_without_gain_the_transform_is_linear(self, readout, signal):
        counts = StabilizedCounts(readout, 0.0)
        assert counts.forward(np.array(signal)) == pytest.approx(signal / readout)
        assert counts.inverse(counts.forward(np.array(signal))) == pytest.approx(signal)


class TestPeriodic:
    @pytest.mark.parametrize("shape", [(200, 200), (40, 90), (90, 40)])
    def test_offsets_are_the_shortest_lattice_vectors_up_to_half_the_image(self, shape):
        vectors = np.array([[7.0, 1.0], [-2.0, 9.0]])
        offsets = _lattice_offsets(vectors, 60, shape)
        steps = np.arange(-40, 41)
        every = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) @ vectors
        every = every[every.any(axis=1) & (np.abs(every[:, 0]) < shape[0] / 2) & (np.abs(every[:, 1]) < shape[1] / 2)]
        expected = np.sort(np.hypot(*every.T))[:60]
        both = np.concatenate([offsets, -offsets])
        np.testing.assert_allclose(np.sort(np.hypot(*both.T)), expected)
        # each vector once, with one sign
        assert len(np.unique(both.round(6), axis=0)) == len(both) == len(expected)

    @given(st.integers(12, 60), st.integers(-100, 100))
    def test_equivalent_pixels_are_lattice_vectors_apart(self, n, step):
        overlap = Overlap.for_step(n, step % (2 * n) - n)
        step = step % (2 * n) - n
        at = np.arange(n)
        np.testing.assert_array_equal(at[overlap.source] - at[overlap.target], step // FRACTIONS)
        back, source, shared = at[overlap.back_target], at[overlap.back_source], at[overlap.target][overlap.shared]
        # to the whole pixel a step away from what it belongs to, and the step back in whole pixels
        np.testing.assert_array_equal(back - shared, round(step / FRACTIONS + 1e-9))
        np.testing.assert_array_equal(source - back, -step // FRACTIONS)

    @settings(deadline=None)
    @given(st.integers(-80, 80), st.integers(-80, 80))
    def test_a_periodic_image_is_unchanged(self, step_y, step_x):
        """A wave whose crests are a step apart is the mean of itself."""
        step = np.array([step_y, step_x])
        assume(np.hypot(*step) > 8 * FRACTIONS)
        y, x = np.mgrid[:64, :48]
        wave = np.cos(2 * np.pi * FRACTIONS * (y * step[0] + x * step[1]) / (step**2).sum())
        offsets = step[None] / FRACTIONS
        inner = (slice(4, -4), slice(4, -4))
        mean = _average(wave, wave, offsets, 5, 1.0, 1.0)
        np.testing.assert_allclose(mean[inner], wave[inner], atol=0.02)

    @settings(deadline=None)
    @given(st.integers(0, FRACTIONS - 1), st.integers(0, FRACTIONS - 1))
    def test_shifts_by_fractions_of_a_pixel(self, y, x):
        rows, columns = np.mgrid[:40, :40]

        def spot(at_y, at_x):
            return np.exp(-((at_y - 20) ** 2 + (at_x - 19) ** 2) / (2 * 2.0**2))

        moved = _subpixel_shifts(spot(rows, columns), np.array([[y, x]]))[y, x]
        np.testing.assert_allclose(moved, spot(rows + y / FRACTIONS, columns + x / FRACTIONS), atol=0.006)

    def test_a_vacancy_is_not_filled(self):
        planted = TRUTHS["vacancies"].record(10.0, 5)
        enhanced = PeriodicDenoiser().fit_transform(planted.pair["noisy"])
        none = pd.DataFrame(columns=["y_px", "x_px"])
        assert abs(TRUTHS["vacancies"].judge(planted, enhanced, none)["contrast left"]) < 0.15

    def test_the_background_is_subtracted_on_request(self):
        noise = NoiseModel(background=BackgroundNoise(0.1, 30.0), pointwise=PointwiseNoise(readout=0.05))
        crystal = lattice(planar_cell("square"), (160, 160), spacing=11.0, sigma=2.4)
        pair = STEMSynthesizer(shape=(160, 160), noise=noise, random_state=0).record(crystal).isel(image=0)
        image = pair["noisy"].copy()
        image.attrs["noise"] = json.dumps({"pixel_size": image.stem.pixel_size, **noise.to_dict()})
        flat, kept = (PeriodicDenoiser(flatten=flatten).fit_transform(image) for flatten in (True, False))
        assert psnr(flat, pair["enhance"]) > psnr(kept, pair["enhance"]) + 3

    def test_keeps_the_mean_of_few_counts(self):
        crystal = lattice(planar_cell("square"), (160, 160), spacing=11.0, sigma=2.0)
        noise = NoiseModel(pointwise=PointwiseNoise.counted(3.0, background=0.2))
        pair = STEMSynthesizer(shape=(160, 160), noise=noise, random_state=0).record(crystal).isel(image=0)
        enhanced = PeriodicDenoiser().fit_transform(pair["noisy"])
        assert float(enhanced.mean()) == pytest.approx(float(pair["enhance"].mean()), abs=0.02)

    def test_streaks_do_not_prevent_the_average_of_patches(self):
        crystal = lattice(planar_cell("square"), (160, 160), spacing=11.0, sigma=2.0)
        noise = NoiseModel(scan=ScanNoise(amplitude=0.15, length=12.0), pointwise=PointwiseNoise(readout=0.1))
        pair = STEMSynthesizer(shape=(160, 160), noise=noise, random_state=0).record(crystal).isel(image=0)
        enhanced = PeriodicDenoiser().fit_transform(pair["noisy"])
        assert psnr(enhanced, pair["enhance"]) > psnr(pair["noisy"], pair["enhance"]) + 15

    @pytest.mark.parametrize("correlation", [0.0, 0.3, 0.5])
    def test_the_standard_deviation_of_filtered_noise(self, correlation):
        pointwise = PointwiseNoise(readout=1.0, correlation_x=correlation)
        model = NoiseModel(scan=ScanNoise(amplitude=0.5, length=12.0), pointwise=pointwise)
        noise = model.apply(np.zeros((400, 400)), random_state=0)
        stated = _filtered_noise(model, 0.5**2, 0.0, sigma=3.0)
        assert gaussian_filter(noise, 3.0).std() == pytest.approx(stated, rel=0.08)

    def test_an_image_without_noise_is_unchanged(self, pair):
        noise = NoiseModel(mode=pair["enhance"].attrs["mode"])
        image = pair["enhance"].assign_attrs(noise=json.dumps({"pixel_size": 0.01, **noise.to_dict()}))
        np.testing.assert_array_equal(PeriodicDenoiser().fit_transform(image), image)

    def test_without_a_lattice_neighbouring_patches_are_averaged(self):
        true_image = np.add.outer(np.linspace(0, 1, 64), np.linspace(0, 2, 64))
        noisy = true_image + np.random.default_rng(0).normal(0, 0.3, true_image.shape)
        image = xr.DataArray(noisy, dims=("y", "x"), attrs={"mode": "haadf"})
        assert psnr(PeriodicDenoiser().fit_transform(image), true_image) > psnr(noisy, true_image) + 5
