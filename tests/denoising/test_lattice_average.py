"""The average of an enhanced image over the translations of its lattice."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from stemkit import NoiseModel, PointwiseNoise, SFINDenoiser, STEMSynthesizer
from stemkit.benchmark import scores
from stemkit.benchmark.truths import TRUTHS
from stemkit.denoising.lattice_average import _linear_variance, _Noise, _solve_3x3, combine_with_lattice
from stemkit.denoising.translations import Translations, _convolved, _kernel, _refined
from stemkit.metrics import psnr
from stemkit.periodicity import find_periodicity
from stemkit.synthesis import lattice, planar_cell

NOISE = NoiseModel(1.0, 0.0, "haadf", pointwise=PointwiseNoise.counted(10.0, background=1.0))


def crystal(spacing=13.0, angle=17.0, shape=(192, 192), seed=0):
    columns = lattice(planar_cell("square"), shape, spacing=spacing, sigma=0.17 * spacing, angle=angle)
    return STEMSynthesizer(shape=shape, noise=NOISE, random_state=seed).record(columns).isel(image=0)


@pytest.fixture(scope="module")
def network():
    return SFINDenoiser().fit(crystal()["noisy"])


class TestTranslations:
    @given(spacing=st.floats(8.0, 24.0), angle=st.floats(0.0, 90.0))
    @settings(max_examples=10, deadline=None)
    def test_do_not_change_a_noise_free_crystal(self, spacing, angle):
        true_image = crystal(spacing, angle)["enhance"].values.astype(np.float32)
        found = Translations.from_images(true_image, true_image)
        assert psnr(found.mean(true_image), true_image) > 35

    def test_noise_is_averaged_with_the_weights(self):
        shape, vectors = (192, 192), np.array([[10.3, 1.7], [-2.1, 9.6]])
        found = Translations._with_window(shape, vectors, 10.0, 8.0)
        squares = fft.rfft2(_kernel(shape, vectors, 8.0) ** 2)
        expected = _convolved(np.ones(shape, np.float32), squares, found.padded) / found.cells**2
        noise = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
        # the noise that is left repeats with the lattice: about as many values as its cell has pixels are independent
        limit = 6 * np.sqrt(2 / (len(noise) * abs(np.linalg.det(vectors))))
        power = np.mean([found.mean(one) ** 2 for one in noise]) / expected.mean()
        assert abs(power - 1) < limit

    @given(spacing=st.floats(9.0, 20.0), angle=st.floats(0.0, 90.0), error=st.floats(-0.2, 0.2))
    @settings(max_examples=10, deadline=None)
    def test_vectors_are_refined(self, spacing, angle, error):
        true_image = crystal(spacing, angle)["enhance"].values.astype(float)
        start = find_periodicity(true_image).vectors + error
        lengths = np.hypot(*_refined(true_image, start).T)
        assert abs(lengths.min() - spacing) < 0.03

    def test_weights_do_not_depend_on_the_sign_of_a_translation(self):
        kernel = _kernel((64, 64), np.array([[10.3, 1.7], [-2.1, 9.6]]), 3.0)
        opposite = np.roll(kernel[::-1, ::-1], (1, 1), (0, 1))
        np.testing.assert_allclose(kernel, opposite, atol=1e-6)

    def test_noise_has_no_lattice(self):
        noise = np.random.default_rng(0).normal(size=(128, 128))
        assert Translations.from_images(noise, noise) is None


class TestNoise:
    @given(seed=st.integers(0, 2**31), correlation=st.sampled_from([0.0, 0.3]), width=st.floats(1.5, 4.0))
    @settings(max_examples=10, deadline=None)
    def test_chi_squared_of_noise_is_three(self, seed, correlation, width):
        rng = np.random.default_rng(seed)
        signal = np.tile(np.linspace(1, 3, 256), (256, 1))
        white = rng.normal(size=(256, 256 + 64))
        for k in range(1, white.shape[1]):
            white[:, k] = correlation * white[:, k - 1] + np.sqrt(1 - correlation**2) * white[:, k]
        recorded = signal + np.sqrt(signal) * white[:, 64:]
        noise = _Noise.from_residual(recorded - signal, signal)
        mean = float(noise.chi_squared(recorded - noise.row_offsets - signal, width).mean())
        # correlated noise is taken for white behind filters wider than its correlation, which these hardly are
        assert (2.2 if correlation else 2.6) < mean < 3.4

    @given(slope=st.floats(0.1, 2.0), offset=st.floats(0.5, 2.0), seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_variance_is_a_line_in_the_signal(self, slope, offset, seed):
        rng = np.random.default_rng(seed)
        signal = rng.random((256, 256))
        true = offset + slope * signal
        found = _linear_variance(np.sqrt(true) * rng.normal(size=true.shape), signal)(signal)
        # the square of a normal value has twice the square of its mean as variance
        limit = 6 * np.sqrt(2 / true.size) * true.max() * 2
        assert np.abs(found - true).max() < limit

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=20, deadline=None)
    def test_normal_equations(self, seed):
        rng = np.random.default_rng(seed)
        root, right = rng.normal(size=(5, 3, 3)), rng.normal(size=(3, 5))
        matrix = root @ root.transpose(0, 2, 1)
        found = _solve_3x3({(i, j): matrix[:, i, j] for i in range(3) for j in range(i, 3)}, right)
        ridged = matrix + 0.02 * np.eye(3)
        np.testing.assert_allclose(np.einsum("nij,jn->in", ridged, found), right, rtol=1e-5, atol=1e-6)


class TestCombination:
    def test_a_crystal_has_a_smaller_error(self, network):
        pair = crystal(seed=3)
        before = network.transform(pair["noisy"])
        after = SFINDenoiser(lattice="auto").fit_transform(pair["noisy"])
        assert psnr(after, pair["enhance"]) > psnr(before, pair["enhance"]) + 1

    @pytest.mark.parametrize(
        ("name", "score", "loss"), [("vacancies", "contrast left", 0.05), ("edge", "invented beyond", 0.0)]
    )
    def test_defects_stay(self, name, score, loss):
        planted = TRUTHS[name].record(30.0, seed=1)
        noisy = planted.pair["noisy"]
        given = {}
        for choice in ("off", "auto"):
            enhanced = SFINDenoiser(lattice=choice).fit_transform(noisy)
            bare = noisy.copy(data=enhanced.values)
            found = scores.image_maxima(bare, planted.host.spacing, contrast=1.0)
            given[choice] = TRUTHS[name].judge(planted, bare, found)[score]
        assert abs(given["auto"]) <= abs(given["off"]) + loss

    def test_without_a_lattice_the_result_is_the_network_s(self, network):
        noise = torch.randn(96, 96, generator=torch.Generator().manual_seed(0)).numpy()
        plain = network.transform(noise)
        np.testing.assert_array_equal(SFINDenoiser(lattice="auto").fit_transform(noise), plain)

    def test_units_do_not_matter(self):
        pair = crystal(seed=5)
        noisy, true_image = (pair[name].values.astype(float) for name in ("noisy", "enhance"))
        enhanced = 0.5 * true_image + 0.5 * true_image.mean()
        one = combine_with_lattice(noisy, enhanced)
        for factor, level in ((100.0, 7.0), (1e-20, 0.0), (1.0, 1e5)):
            other = combine_with_lattice(factor * noisy + level, factor * enhanced + level)
            np.testing.assert_allclose((other - level) / factor, one, atol=2e-3)

    def test_sign_does_not_matter(self):
        noisy = crystal(seed=6)["noisy"].values
        bright = SFINDenoiser(lattice="auto", mode="haadf").fit_transform(noisy)
        dark = SFINDenoiser(lattice="auto", mode="bf").fit_transform(-noisy)
        np.testing.assert_allclose(-dark, bright, atol=1e-4)

    def test_an_unknown_choice_is_refused(self):
        with pytest.raises(ValueError, match="lattice must be one of 'auto', 'off', but is 'yes'"):
            SFINDenoiser(lattice="yes").fit(crystal()["noisy"])
