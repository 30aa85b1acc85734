"""Repeat frames are aligned without blurring."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark.repeated import SPACING, particle, repeated
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft
from strategies import gaussians, seeds

from stemkit.benchmark.alignment import (
    BORDER_MARGIN,
    SMOOTHINGS,
    Alignment,
    _most_precise_smoothing,
    _transfer,
    align_frames,
)
from stemkit.benchmark.shifting import fourier_shift

steps = st.floats(-6, 6)


@given(steps, steps, st.floats(1.5, 4))
def test_a_shift_moves_columns_and_keeps_their_shape(dy, dx, sigma):
    at = np.array([[30.3, 25.8], [40.1, 47.9]])
    shape = (72, 80)
    expected = gaussians(shape, at + np.array([dy, dx]), sigma)
    np.testing.assert_allclose(fourier_shift(gaussians(shape, at, sigma), (dy, dx)), expected, atol=2e-4)


@given(st.integers(-5, 5), st.integers(-5, 5), seeds)
def test_a_shift_by_whole_pixels_moves_every_pixel(dy, dx, seed):
    image = np.random.default_rng(seed).normal(size=(24, 31))
    moved = fourier_shift(image, (dy, dx))
    inner = (slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(moved[inner], np.roll(image, (dy, dx), (0, 1))[inner], atol=1e-9)


@given(steps, steps, seeds)
@settings(max_examples=30)
def test_a_shift_keeps_the_variance_of_noise(dy, dx, seed):
    noise = np.random.default_rng(seed).normal(size=(128, 128))
    inner = (slice(8, -8), slice(8, -8))
    # pixels that enter at one border leave at the other: at most 12 of 112 rows and columns, of relative sd sqrt(2 / n)
    tolerance = 5 * np.sqrt(2 / 112**2 * 4 * 12 / 112) + 1 / 112
    assert fourier_shift(noise, (dy, dx))[inner].var() == pytest.approx(noise[inner].var(), rel=tolerance)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("radius", "extent"), [(np.inf, 5.0), (60.0, 5.0), (60.0, 20.0)])
def test_shifts_are_recovered_within_a_tenth_of_a_pixel(seed, radius, extent):
    data = repeated(seed, extent=extent, radius=radius)
    found = align_frames(data.frames, verbose=False)
    np.testing.assert_allclose(found.shifts, data.shifts, atol=0.1)


def test_shifts_beyond_half_a_lattice_vector_need_an_edge():
    """A lattice that fills the image looks the same one lattice vector further."""
    data = repeated(0, n=3, dose=50.0, radius=np.inf)
    along = np.array([np.cos(0.3), np.sin(0.3)])
    moved = np.stack([particle(shift, np.inf) for shift in (0 * along, 0.8 * SPACING * along, 0 * along)])
    noise = data.frames - data.truths
    found = align_frames(moved + noise, verbose=False)
    difference = found.shifts[1] - found.shifts[0]
    np.testing.assert_allclose(difference, -0.2 * SPACING * along, atol=0.1)


def test_the_common_area_is_the_same_part_of_the_specimen():
    shifts = np.array([[0.0, 0.4], [-7.3, 2.0], [3.1, -5.5]])
    shifts -= shifts.mean(axis=0)
    alignment = Alignment(shifts, np.ones(3), 1.0, (160, 168))
    frames = np.stack([particle(shift) for shift in shifts])
    assert alignment.area == (160 - 1 - 11 - 2 * BORDER_MARGIN, 168 - 1 - 8 - 2 * BORDER_MARGIN)
    for i in range(3):
        on_grid = alignment.on_grid_of(i, frames)
        assert on_grid.shape == (3, *alignment.area)
        np.testing.assert_array_equal(on_grid[i], frames[i][alignment.crop(i)])
        for other in on_grid:
            np.testing.assert_allclose(other, on_grid[i], atol=2e-3)


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=2, max_size=6))
def test_the_common_area_lies_in_every_frame(shifts):
    alignment = Alignment(np.array(shifts), np.ones(len(shifts)), 1.0, (100, 90))
    low, high = np.array(shifts).min(axis=0), np.array(shifts).max(axis=0)
    for i, shift in enumerate(np.array(shifts)):
        y, x = alignment.crop(i)
        first, last = np.array([y.start, x.start]) - shift, np.array([y.stop - 1, x.stop - 1]) - shift
        assert (first >= -low + BORDER_MARGIN - 1e-9).all()
        assert (last <= np.array([99, 89]) - high - BORDER_MARGIN + 1e-9).all()


def test_frames_without_common_structure_are_refused():
    frames = np.random.default_rng(0).normal(size=(4, 96, 96))
    with pytest.raises(ValueError, match=r"frames must show the same area, but no two of them correlate at shifts up"):
        align_frames(frames, verbose=False)


def test_frames_that_do_not_overlap_are_refused():
    wide = particle(radius=np.inf, shape=(80, 200)) + gaussians(
        (80, 200), np.array([[40.0, 75.0], [50.0, 90.0]]), 6.0, 3
    )
    frames = np.stack([wide[:, start : start + 90] for start in (0, 20, 60)])
    frames = frames + np.random.default_rng(0).normal(0, 0.05, frames.shape)
    with pytest.raises(ValueError, match=r"must overlap by at least 32 px .* all of them show 7\d by 2\d px only"):
        align_frames(frames, max_shift=60, verbose=False)


@pytest.mark.parametrize("value", [0, -3.0, np.nan, np.inf])
def test_a_largest_shift_must_be_positive(value):
    with pytest.raises(ValueError, match="max_shift must be a positive number of px or None, but is"):
        align_frames(repeated().frames, max_shift=value, verbose=False)


def test_a_frame_of_something_else_is_named():
    data = repeated(3, n=6)
    data.frames[2] = repeated(9, n=3, radius=20.0).frames[0][::-1, ::-1]
    with pytest.warns(UserWarning, match=r"frames\[2\] does not match the others: its correlation with their mean"):
        found = align_frames(data.frames, verbose=False)
    kept = [0, 1, 3, 4, 5]
    shifts = found.shifts[kept] - found.shifts[kept].mean(axis=0)
    np.testing.assert_allclose(shifts, data.shifts[kept] - data.shifts[kept].mean(axis=0), atol=0.15)


@pytest.mark.parametrize("sigma", [0.8, 2.0, 4.0])
@pytest.mark.parametrize("seed", range(2))
def test_shifts_are_nearly_as_precise_as_noise_allows(sigma, seed):
    """Within 4 times the Cramér-Rao bound of a known shape in white noise, for narrow and for wide columns."""
    rng = np.random.default_rng(seed)
    truth = gaussians((160, 160), rng.uniform(10, 150, (40, 2)), sigma)
    found = align_frames(truth + rng.normal(0, 0.2, (4, 160, 160)), verbose=False)
    gradient = sum((np.gradient(truth, axis=axis) ** 2).sum() for axis in (0, 1)) / 2
    limit = 0.2 * np.sqrt((1 + 1 / 3) / gradient)
    assert np.abs(found.shifts).max() < 4 * limit


def test_more_noise_needs_more_smoothing():
    truth = gaussians((160, 160), np.random.default_rng(0).uniform(10, 150, (40, 2)), 3.0)
    noise = np.random.default_rng(1).normal(size=(4, 160, 160))
    little, much = (align_frames(truth + level * noise, verbose=False).smoothing for level in (0.02, 0.6))
    assert little < much


def test_the_most_precise_filter_has_the_smallest_errors():
    """Errors of shifts along both axes of oblong frames, from the maximum of their correlation with the true image."""
    rng = np.random.default_rng(0)
    shape, level = (64, 144), 0.4
    truth = gaussians(shape, rng.uniform([6, 6], [58, 138], (40, 2)), 2.0)
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in shape))
    wave = [2j * np.pi * fft.fftfreq(shape[0])[:, None], 2j * np.pi * fft.rfftfreq(shape[1])]
    noise = fft.rfft2(level * rng.normal(size=(2, 200, *shape)) * window)
    signal = fft.rfft2((truth - truth.mean()) * window)

    def error(smoothing):
        _, transfer = _transfer(shape, smoothing)
        weight, square = transfer**2, 0.0
        for q in wave:
            # frames of 200 pairs are not displaced: the maximum is at the slope over the curvature
            pair = (signal + noise[0]) * (signal + noise[1]).conj()
            slope = (q * weight * pair).real.sum(axis=(1, 2))
            square += np.mean((slope / (weight * np.abs(q * signal) ** 2).sum()) ** 2)
        return np.sqrt(square)

    errors = {smoothing: error(smoothing) for smoothing in SMOOTHINGS}
    chosen = _most_precise_smoothing(truth + level * rng.normal(size=(2, *shape)))
    assert errors[chosen] < 1.05 * min(errors.values()) < 0.8 * max(errors.values())
