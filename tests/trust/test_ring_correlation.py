"""Fourier ring correlation of two images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import stemkit

SHAPE = (128, 128)


def frames(noise, n=2, blur=1.5):
    rng = np.random.default_rng(0)
    true_image = gaussian_filter(rng.normal(size=SHAPE), blur)
    true_image /= true_image.std()
    return np.stack([true_image + noise * rng.normal(size=SHAPE) for _ in range(n)])


def test_equal_images_correlate_up_to_nyquist_s_frequency():
    first = frames(0.1)[0]
    found = stemkit.fourier_ring_correlation(first, first)
    np.testing.assert_allclose(found.table["correlation"].dropna(), 1.0)
    assert found.resolution["half-bit"] == pytest.approx(2.0, rel=0.02)
    assert found.unit == "px"


def test_the_resolution_is_where_signal_and_noise_are_equal_enough():
    first, second = frames(0.3)
    found = stemkit.fourier_ring_correlation(first, second)
    # spectrum of the signal: 4 pi s^2 exp(-(2 pi q s)^2) per px; correlation S / (S + N) = 1/7 at S = N / 6
    q = np.sqrt(np.log(4 * np.pi * 1.5**2 / (0.3**2 / 6))) / (2 * np.pi * 1.5)
    assert 1 / found.resolution["1/7"] == pytest.approx(q, rel=0.2)


def test_noise_does_not_correlate():
    rng = np.random.default_rng(1)
    found = stemkit.fourier_ring_correlation(rng.normal(size=SHAPE), rng.normal(size=SHAPE))
    assert abs(found.table["correlation"].mean()) < 0.05


def test_frames_are_divided_into_even_and_odd_ones():
    series = frames(0.5, n=6)
    found = stemkit.fourier_ring_correlation(series)
    expected = stemkit.fourier_ring_correlation(series[::2].mean(axis=0), series[1::2].mean(axis=0))
    np.testing.assert_allclose(found.table, expected.table)


def test_the_unit_is_nm_with_a_pixel_size():
    pair = [stemkit.calibrated(one, pixel_size=0.02) for one in frames(0.3)]
    found = stemkit.fourier_ring_correlation(*pair)
    px = stemkit.fourier_ring_correlation(*frames(0.3))
    assert found.unit == "nm"
    assert found.resolution["half-bit"] == pytest.approx(0.02 * px.resolution["half-bit"])
    assert "nm (half-bit)" in str(found)
    assert "<table" in found._repr_html_()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((np.zeros((8, 8)),), "at least 2 frames"),
        ((np.zeros((8, 8)), np.zeros((8, 9))), "one shape"),
        ((np.zeros((2, 8, 8)), np.zeros((8, 8))), "one image each"),
    ],
)
def test_unsuitable_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        stemkit.fourier_ring_correlation(*images)
