"""Pixels that are no measurement are found, and columns and noise are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import crystal, gaussians, lattice_positions, noise_models, seeds

from stemkit import NoiseModel, PointwiseNoise
from stemkit.pixels import fault_search, faulty_pixels, filled, find_pixel_faults
from stemkit.pixels.filled_image import FilledImage

SHAPE = (300, 320)
#: One pixel in 1e5 may be taken for a faulty one: two of an image of 96,000.
FEW = 2
QUIET = NoiseModel(pointwise=PointwiseNoise(0.1))

#: Spacing and sigma of the columns, px: from undersampled to wide ones.
columns = st.one_of(
    st.tuples(st.floats(3.0, 9.0), st.floats(0.8, 1.1)), st.tuples(st.floats(9.0, 30.0), st.floats(1.0, 4.0))
)


def lattice(spacing: float, sigma: float, angle: float) -> np.ndarray:
    """A square lattice of Gaussian columns, its brightest pixel 1."""
    image = gaussians(SHAPE, lattice_positions(SHAPE, spacing, angle=angle, margin=-4 * sigma), sigma)
    return image / image.max()


angles = st.floats(0.0, 0.8)


@pytest.mark.slow
@settings(max_examples=25)
@given(columns, angles, st.floats(-1.6, 5.7), st.sampled_from([0.0, 0.05, 0.5]), seeds)
def test_counts_are_not_faulty(lengths, angle, log_dose, background, seed):
    image = lattice(*lengths, angle) + background
    counts = np.random.default_rng(seed).poisson(np.exp(log_dose) * image)
    assert faulty_pixels(counts).sum() <= FEW
    assert faulty_pixels(counts.max() - counts).sum() <= FEW


@pytest.mark.slow
@settings(max_examples=25)
@given(columns, angles, st.floats(-5.0, 0.5), st.booleans(), st.booleans(), seeds)
def test_readout_noise_is_not_faulty(lengths, angle, log_noise, heavy, dark, seed):
    rng = np.random.default_rng(seed)
    uniform = rng.uniform(size=SHAPE)
    noise = (uniform**-0.1 - (1 - uniform) ** -0.1) / -0.1 / 2.3 if heavy else rng.normal(size=SHAPE)
    image = lattice(*lengths, angle) + np.exp(log_noise) * noise
    image = -image if dark else image
    assert faulty_pixels(image).sum() <= FEW


@pytest.mark.slow
@settings(max_examples=25)
@given(
    columns,
    angles,
    st.floats(0.0, 0.3),
    st.sampled_from([np.uint8, np.uint16, np.uint32, np.float32, np.float64]),
    st.floats(0.0, 0.05),
    seeds,
)
def test_digital_and_clipped_images_are_not_faulty(lengths, angle, noise, dtype, clipped, seed):
    image = lattice(*lengths, angle) + noise * np.random.default_rng(seed).normal(size=SHAPE)
    low, high = np.quantile(image, [clipped, 1 - clipped])
    top, offset = (255, 0) if dtype == np.uint8 else (3000, 1000) if dtype == np.uint16 else (5e4, 1e6)
    image = (np.clip((image - low) / (high - low), 0, 1) * top + offset).astype(dtype)
    assert faulty_pixels(image).sum() <= FEW


@settings(max_examples=20)
@given(noise_models(digitized=False), seeds)
def test_noise_of_the_model_is_not_faulty(model, seed):
    noisy = model.apply(model.level + model.contrast * crystal((100, 110)), random_state=seed)
    assert faulty_pixels(noisy).sum() <= FEW


def test_islands_in_vacuum_and_empty_images_have_no_faults():
    rng = np.random.default_rng(0)
    island = lattice_positions((361, 361), 12.0, angle=0.2, margin=60)
    island = gaussians((361, 361), island[((island - 180) ** 2).sum(1) < 90**2], 2.0)
    for dose in (0.5, 3.0, 100.0):
        counts = rng.poisson(dose * island + 0.03)
        assert not faulty_pixels(counts).any()
        assert not faulty_pixels(rng.poisson(dose * island)).any()
    for image in (
        np.zeros((40, 50)),
        np.zeros((5, 9)),
        np.ones((60, 1)),
        rng.normal(size=(1, 1)),
        np.full((361, 361), 7),
    ):
        assert not faulty_pixels(image).any()
        assert filled(image) is image


@pytest.mark.slow
@settings(max_examples=20)
@given(columns, angles, st.floats(3.0, 200.0), st.sampled_from([8.0, 100.0, 1e4]), st.integers(1, 60), seeds)
def test_hot_pixels_are_found_and_nothing_else(lengths, angle, dose, height, n, seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(dose * (0.2 + lattice(*lengths, angle)))
    y, x = rng.integers(0, SHAPE[0], (2, n))
    hot = np.zeros(SHAPE, dtype=bool)
    hot[y, x] = True
    spoiled = np.where(hot, counts.max() * height, counts)
    found = find_pixel_faults(spoiled)
    assert found.hot[hot].all()
    assert (found.mask & ~hot).sum() <= FEW
    assert filled(spoiled).max() <= 2 * counts.max()


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (3, 3), (4, 3), (1, 5)])
def test_clusters_are_removed_from_their_corners_inwards(size):
    counts = np.random.default_rng(0).poisson(50 * (0.2 + lattice(12.0, 2.0, 0.1)))
    spoiled = counts.copy()
    spoiled[100 : 100 + size[0], 203 : 203 + size[1]] = 40000
    np.testing.assert_array_equal(faulty_pixels(spoiled), spoiled != counts)


@settings(max_examples=10)
@given(st.integers(0, SHAPE[0] - 2), st.sampled_from(["zero", "65535", "offset", "twice zero"]), seeds)
def test_rows_that_are_no_recording_are_found(row, kind, seed):
    counts = np.random.default_rng(seed).poisson(100 * (0.2 + lattice(12.0, 2.0, 0.1)))
    spoiled = counts.copy()
    rows = [row, row + 1] if kind == "twice zero" else [row]
    spoiled[rows] = spoiled[rows] + 5000 if kind == "offset" else 65535 if kind == "65535" else 0
    found = find_pixel_faults(spoiled)
    assert np.flatnonzero(found.rows.any(axis=1)).tolist() == rows
    assert found.mask.sum() == len(rows) * SHAPE[1]
    # a cubic through the neighbours is as good as the neighbours are
    error = filled(spoiled)[rows] - 100 * (0.2 + lattice(12.0, 2.0, 0.1))[rows]
    assert np.sqrt((error**2).mean()) < 15


@settings(max_examples=10)
@given(st.integers(8, 60), st.integers(8, 60), st.sampled_from([0.0, 60.0, 65535.0]), st.floats(-1e6, 1e6), seeds)
def test_constant_areas_are_found(height, width, value, offset, seed):
    counts = np.random.default_rng(seed).poisson(100 * (0.2 + lattice(12.0, 2.0, 0.1))).astype(float)
    spoiled = counts.copy()
    spoiled[90 : 90 + height, 120 : 120 + width] = value
    found = find_pixel_faults(spoiled + np.rint(offset))
    assert found.constant[90 : 90 + height, 120 : 120 + width].all()
    assert found.mask.sum() <= height * width + 4


def test_a_border_that_alignment_added_is_no_recording():
    noisy = QUIET.apply(5.0 + crystal(SHAPE), random_state=0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    outside = (y + 0.1 * x < 25) | (x - 0.1 * y < 12) | (y + 0.1 * x > 310)
    mask = faulty_pixels(np.where(outside, 0.0, noisy))
    assert (mask & ~outside).sum() == 0
    # of the narrow ends of a wedge a few pixels are left
    assert (outside & ~mask).sum() < 0.02 * outside.sum()


def test_columns_clipped_at_the_top_are_recordings():
    image = np.minimum(lattice(30.0, 4.5, 0.1), 0.6) + 0.01 * np.random.default_rng(0).normal(size=SHAPE)
    assert not faulty_pixels(np.minimum(image, 0.58)).any()


@settings(max_examples=10)
@given(st.sampled_from([(slice(5, 6), slice(7, 8)), (slice(5, 8), slice(None)), (slice(5, 9), slice(10, 11))]), seeds)
def test_gaps_are_filled_exactly_where_the_image_is_cubic(gap, seed):
    a = np.random.default_rng(seed).normal(size=6)
    y, x = np.mgrid[:20, :24] / 10
    cubic = a[0] + a[1] * x + a[2] * y**2 + a[3] * x**3 + a[4] * y**3 + a[5] * x * y
    mask = np.zeros(cubic.shape, dtype=bool)
    mask[gap] = True
    np.testing.assert_allclose(filled(np.where(mask, 99.0, cubic), mask), cubic, atol=1e-10)


def test_an_area_is_filled_within_the_range_of_its_surroundings():
    values = np.random.default_rng(0).uniform(3, 5, (90, 80))
    mask = np.zeros(values.shape, dtype=bool)
    mask[10:60, 20:70], mask[0, 0] = True, True
    out = filled(values, mask)
    assert 3 <= out[10:60, 20:70].min() <= out[10:60, 20:70].max() <= 5
    np.testing.assert_array_equal(out[~mask], values[~mask])
    assert filled(values.astype(np.float32), mask).dtype == np.float32
    assert filled(values.astype(np.uint16), mask).dtype == np.float64


def test_a_pixel_is_judged_by_its_neighborhood():
    counts = np.random.default_rng(0).poisson(50 * (0.2 + lattice(12.0, 2.0, 0.1)))
    counts[[40, 150, 260], [40, 150, 260]] = 9000
    whole = faulty_pixels(counts)
    np.testing.assert_array_equal(faulty_pixels(counts[:, ::-1])[:, ::-1], whole)
    np.testing.assert_array_equal(faulty_pixels(counts.T).T, whole)
    np.testing.assert_array_equal(faulty_pixels(counts[100:])[10:], whole[110:])
    np.testing.assert_array_equal(faulty_pixels(0.25 * counts + 64.0), whole)


def faulty_image():
    """Pixels, rows and an area that are faulty, next to the borders of bands of 300 rows, too."""
    rng = np.random.default_rng(4)
    image = np.tile(lattice(12.0, 3.0, 0.0)[:288, :312], (3, 1)) * 100 + rng.normal(0.0, 3.0, (864, 312))
    at = rng.integers(10, 300, (30, 2)) * (2, 1)
    image[tuple(at.T)] = 900.0
    image[[299, 300]] = 5.0
    image[340:400, 40:120] = 20.0
    return image


def test_a_large_image_is_searched_in_bands_with_the_same_result(monkeypatch):
    image = faulty_image()
    whole = find_pixel_faults(image)
    assert whole.mask.sum() > 5000
    small = dataclasses.replace(fault_search.CONSTANTS, max_searched_pixels=1000, min_band=300)
    monkeypatch.setattr(fault_search, "CONSTANTS", small)
    banded = find_pixel_faults(image)
    for kind in ("hot", "dead", "rows", "constant"):
        assert (getattr(banded, kind) != getattr(whole, kind)).sum() <= FEW


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
@pytest.mark.parametrize("limit", [2**23, 1000])
def test_a_filled_image_is_that_with_interpolated_pixels_as_a_whole_and_in_parts(monkeypatch, dtype, limit):
    image = (faulty_image() + 100).astype(dtype)
    small = dataclasses.replace(fault_search.CONSTANTS, max_searched_pixels=limit, min_band=300)
    monkeypatch.setattr(fault_search, "CONSTANTS", small)
    found, expected = FilledImage.of(image), filled(image)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    whole = np.array(found)
    # the mean of the pixels around an area depends on the band
    np.testing.assert_allclose(whole[340:400, 40:120], expected[340:400, 40:120], atol=20 if limit == 1000 else 0)
    expected[340:400, 40:120] = whole[340:400, 40:120]
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(found[20:410, 100:], expected[20:410, 100:])
    numbers = np.ix_([7, 5, 5, 300, 299], [311, 0, 40, 41, 40])
    np.testing.assert_array_equal(found[numbers], expected[numbers])
    np.testing.assert_array_equal(FilledImage.of(image, averaged=True), image)
