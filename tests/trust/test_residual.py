"""Tests of the residual: noise is noise, planted errors are found where they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from strategies import gaussians

from stemkit import BackgroundNoise, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.trust.column_field import _border, normal_scores, two_sided_noise_peaks
from stemkit.trust.displaced_rows import _Parts, fit_displacements
from stemkit.trust.expected_noise import ExpectedNoise, column_width
from stemkit.trust.residual import check_residual

SHAPE = (160, 192)
SIGMA, SPACING = 2.5, 12.0


def crystal(shape=SHAPE, dx=0.0, sigma=SIGMA):
    """Gaussian columns on a rotated square lattice, of height 1 above 0."""
    steps = np.stack(np.meshgrid(np.arange(-20, 30), np.arange(-20, 30)), axis=-1).reshape(-1, 2)
    return gaussians(shape, SPACING * steps @ np.array([[0.96, 0.28], [-0.28, 0.96]]) + (0.0, dx), sigma)


TRUE_IMAGE = crystal()
NOISES = {
    "white": NoiseModel(pointwise=PointwiseNoise(readout=0.2)),
    "counted": NoiseModel(pointwise=PointwiseNoise.counted(5.0, background=1.0)),
    "jitter": NoiseModel(pointwise=PointwiseNoise(readout=0.1), scan=ScanNoise(jitter=0.5, jitter_y=0.3)),
    "streaks": NoiseModel(pointwise=PointwiseNoise(readout=0.2), scan=ScanNoise(amplitude=0.1)),
    "background": NoiseModel(pointwise=PointwiseNoise(readout=0.2), background=BackgroundNoise(0.05, 40.0)),
}


def residual_of(enhanced, name="white", seed=0, calibrated=False):
    model = NOISES[name]
    residual = model.apply(TRUE_IMAGE, random_state=seed) - enhanced
    expected = (
        ExpectedNoise.from_model(model, enhanced) if calibrated else ExpectedNoise.from_residual(residual, enhanced)
    )
    return check_residual(residual, enhanced, expected)


def test_the_width_of_a_column_is_that_of_its_gaussian():
    y, x = np.indices((80, 80))
    single = np.exp(-((y - 40) ** 2 + (x - 39.5) ** 2) / (2 * SIGMA**2))
    assert column_width(single) == pytest.approx(SIGMA, rel=0.05)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("name", NOISES)
def test_tests_of_noise_are_not_significant(name, calibrated):
    p = [residual_of(TRUE_IMAGE, name, seed, calibrated).p for seed in range(3)]
    # three images: one below 1 % by chance is unlikely, and none may be far below
    assert sorted(p)[1] > 0.01
    assert min(p) > 1e-4


@pytest.mark.parametrize("height", [-1.0, 1.0])
def test_a_column_that_was_removed_or_added_is_found_at_its_place(height):
    y, x = np.indices(SHAPE)
    middle = (81.0, 90.0)
    column = np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / (2 * SIGMA**2))
    found = residual_of(TRUE_IMAGE + height * column)
    assert "columns" in found.structure.index
    place = found.places.iloc[0]
    assert np.hypot(place["y_px"] - middle[0], place["x_px"] - middle[1]) < 3
    assert np.sign(place["z"]) == -height
    assert place["q_value"] < 0.01


def test_the_lattice_in_the_residual_of_a_blur_has_the_expected_size():
    enhanced = gaussian_filter(TRUE_IMAGE, 1.0)
    found = residual_of(enhanced)
    assert "lattice" in found.structure.index
    removed = (TRUE_IMAGE - enhanced).std() / enhanced.std()
    assert found.table.loc["lattice", "value"] == pytest.approx(removed, rel=0.4)


@pytest.mark.parametrize("name", ["white", "counted", "jitter", "background"])
def test_blur_is_found_where_a_lattice_is_not(name):
    enhanced = gaussian_filter(TRUE_IMAGE, 0.8)
    # the variance of the filter, over that of the columns, for small ones half of it is the excess of the width
    expected = 0.5 * 0.8**2 / column_width(enhanced) ** 2
    found = [residual_of(enhanced, name, seed).table.loc["blur"] for seed in range(3)]
    assert max(row["p"] for row in found) < 0.01
    assert np.mean([row["value"] for row in found]) == pytest.approx(expected, rel=0.2)
    sharp = [residual_of(TRUE_IMAGE, name, seed).table.loc["blur", "p"] for seed in range(3)]
    assert min(sharp) > 1e-3


def test_low_contrast_and_kept_noise_are_reported_as_blur():
    faint = residual_of(TRUE_IMAGE.mean() + 0.9 * (TRUE_IMAGE - TRUE_IMAGE.mean()), "white")
    assert "blur" in faint.structure.index
    rng = np.random.default_rng(5)
    noise = 0.3 * rng.normal(size=SHAPE)
    kept = TRUE_IMAGE + 0.5 * gaussian_filter(noise, 1.0)
    residual = TRUE_IMAGE + noise - kept
    assert "blur" in check_residual(residual, kept, ExpectedNoise.from_residual(residual, kept)).structure.index
    # an image that is too sharp is none of them
    sharp = residual_of(2 * TRUE_IMAGE - gaussian_filter(TRUE_IMAGE, 0.8), "white")
    assert sharp.table.loc["blur", "value"] < 0
    assert "blur" not in sharp.structure.index


def test_a_shift_of_the_image_is_measured():
    found = residual_of(crystal(dx=0.3))
    assert found.table.loc["shift", "value"] == pytest.approx(0.3, abs=0.06)
    assert "shift" in found.structure.index


def test_locally_stronger_noise_is_found():
    rng = np.random.default_rng(1)
    strong = np.where(np.hypot(*(np.indices(SHAPE) - 80)) < 16, 2.0, 1.0)
    residual = 0.2 * strong * rng.normal(size=SHAPE)
    found = check_residual(residual, TRUE_IMAGE, ExpectedNoise.from_residual(residual, TRUE_IMAGE))
    assert "variance" in found.structure.index
    # the median square has noise of variance 1, the strongest one of up to 4
    assert 2.5 < found.table.loc["variance", "value"] < 6


def test_correlated_residuals_are_not_white():
    rng = np.random.default_rng(2)
    residual = 0.2 * rng.normal(size=SHAPE) + 0.2 * gaussian_filter(rng.normal(size=SHAPE), 1.0)
    found = check_residual(residual, TRUE_IMAGE, ExpectedNoise.from_residual(residual, TRUE_IMAGE))
    assert "whiteness" in found.structure.index


def test_displacements_of_rows_are_removed():
    rng = np.random.default_rng(3)
    shifts = 0.4 * rng.normal(size=(SHAPE[0], 1))
    noise = 0.02 * rng.normal(size=SHAPE)
    residual = np.gradient(TRUE_IMAGE, axis=1) * shifts + noise
    rows = fit_displacements(residual, TRUE_IMAGE, np.full(SHAPE, 0.02))
    assert rows.rms == pytest.approx(0.4, rel=0.2)
    assert np.mean(rows.residual**2) == pytest.approx(1.0, abs=0.4)
    assert np.mean((residual / 0.02) ** 2) > 4


def test_the_variance_of_counts_is_measured():
    model = NoiseModel(pointwise=PointwiseNoise.counted(4.0, background=2.0))
    residual = model.apply(TRUE_IMAGE, random_state=0) - TRUE_IMAGE
    found, true = ExpectedNoise.from_residual(residual, TRUE_IMAGE), ExpectedNoise.from_model(model, TRUE_IMAGE)
    np.testing.assert_allclose(
        found.variance_at(np.array([0.1, 0.9])), true.variance_at(np.array([0.1, 0.9])), rtol=0.1
    )
    np.testing.assert_allclose(true.variance_at(np.array([0.1, 0.9])), [2.4 / 16, 5.6 / 16], rtol=0.02)


def test_the_expected_number_of_noise_peaks_is_that_of_white_noise():
    width, level = 2.0, 3.0
    counts = []
    for seed in range(8):
        residual = np.random.default_rng(seed).normal(size=SHAPE)
        found = check_residual(residual, TRUE_IMAGE, ExpectedNoise(np.ones(SHAPE), (1.0, 0.0, 0.0), (0.0, 1.0), 0.0))
        counts.append((found.places["z"].abs() > level).sum())
        width = found.width
    expected = float(two_sided_noise_peaks(np.array([level]), SHAPE, width)[0])
    # the removed displacements and offsets take some noise with them
    assert 0.4 * expected < np.mean(counts) < 1.2 * expected


@pytest.mark.parametrize("skewness", [0.5, 2.0])
def test_scores_of_skew_noise_are_normal(skewness):
    # gamma noise whose skewness after the filter is that of the argument
    after = skewness * 0.389
    shape = 4 / after**2
    t = (np.random.default_rng(0).gamma(shape, size=400_000) - shape) / np.sqrt(shape)
    z = normal_scores(t, 1.0, skewness)
    for level, expected in ((2.0, 0.02275), (3.0, 0.00135)):
        assert np.mean(z > level) == pytest.approx(expected, rel=0.25)
        assert np.mean(z < -level) == pytest.approx(expected, rel=0.25)


def test_rows_are_divided_along_x():
    """Into parts of about the length of the jitter, whatever the number of rows; sums are those of their pixels."""
    rng = np.random.default_rng(0)
    std, values = rng.uniform(1, 2, (2, 12, 170))
    parts = _Parts(std, 40)
    assert parts.starts.tolist() == [0, 42, 85, 127]
    assert parts.lengths.tolist() == [42, 43, 42, 43]
    expected = [values[:, start : start + n].sum(axis=1) for start, n in zip(parts.starts, parts.lengths, strict=True)]
    np.testing.assert_allclose(parts.summed(values), np.transpose(expected))
    at_pixels = parts.spread(parts.summed(values))[:, [0, 41, 42, 169]]
    np.testing.assert_array_equal(at_pixels, parts.summed(values)[:, [0, 0, 1, 3]])


def test_the_number_of_noise_peaks_is_that_of_the_formula():
    z, width = np.linspace(1.5, 6, 10), 2.0
    border = _border((100, 120), width)
    area = (100 - 2 * border) * (120 - 2 * border)
    of_one_sign = area * 0.825 / width**2 * z * np.exp(-(z**2) / 2) / (2 * np.pi) ** 1.5
    np.testing.assert_allclose(two_sided_noise_peaks(z, (100, 120), width), 2 * of_one_sign, rtol=1e-3)
