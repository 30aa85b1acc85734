"""The average of displaced rows by least squares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemkit.series.averaging import STIFFNESS, AverageGrid, average, placed, squared_residuals, transfer_function
from stemkit.series.extent import covered, largest_rectangle, union


def smooth_image(y, x, seed, shortest=9.0):
    """A sum of waves of wavelengths above ``shortest`` px, at any places."""
    random = np.random.default_rng(seed)
    out = np.zeros(np.broadcast(y, x).shape)
    for _ in range(12):
        wavelength, angle, phase = random.uniform(shortest, 40), random.uniform(0, np.pi), random.uniform(0, 6)
        out += np.cos(2 * np.pi * (y * np.sin(angle) + x * np.cos(angle)) / wavelength + phase)
    return out


def sampled(displacement, shape, seed):
    y = np.arange(shape[0])[:, None] + displacement[:, :1]
    x = np.arange(shape[1]) + displacement[:, 1:]
    return smooth_image(y, x, seed)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.0, 0.5), st.floats(-6, 6), st.floats(-6, 6))
def test_a_band_limited_image_comes_back(seed, n_frames, jitter, dy, dx):
    shape = (48, 56)
    random = np.random.default_rng(seed)
    moved = jitter * random.normal(size=(n_frames, shape[0], 2)).clip(-2, 2)
    moved += np.linspace(0, 1, n_frames)[:, None, None] * np.array([dy, dx])
    grid = AverageGrid((0, 0), shape)
    mean = average((placed(sampled(d, shape, seed), d, grid) for d in moved), grid)
    truth = smooth_image(np.arange(shape[0])[:, None], np.arange(shape[1]), seed)
    inner = mean.count == n_frames
    inner[:10] = inner[-10:] = inner[:, :12] = inner[:, -12:] = False
    # waves of 9 px lose less than 1 % to the splines; rows at the borders depend on their continuation
    assert np.sqrt(np.mean((mean.values - truth)[inner] ** 2)) < 0.02 * truth.std()


def test_one_frame_that_is_not_displaced_is_nearly_itself():
    random = np.random.default_rng(0)
    frame, grid = random.normal(size=(40, 30)), AverageGrid((0, 0), (40, 30))
    mean = average([placed(frame, np.zeros((40, 2)), grid)], grid)
    difference = (mean.values - frame)[3:-3, 3:-3]
    response = transfer_function(np.fft.fftfreq(34), 0.0)
    assert np.sqrt(np.mean(difference**2)) == pytest.approx(np.sqrt(np.mean((1 - response) ** 2)), rel=0.3)
    np.testing.assert_array_equal(mean.count[:, 2:-2], 1)
    np.testing.assert_array_equal(mean.count[:, :2], 0)


@pytest.mark.parametrize("offset", [0.0, 0.2, 0.5])
def test_the_transfer_function_is_that_of_the_average(offset):
    shape, k = (240, 8), 30
    wave = np.cos(2 * np.pi * k / shape[0] * (np.arange(shape[0]) + offset))
    frame = np.repeat(wave[:, None], shape[1], axis=1)
    grid = AverageGrid((0, 0), shape)
    mean = average([placed(frame, np.full((shape[0], 2), (offset, 0.0)), grid)], grid).values[20:-20, 4]
    expected = transfer_function(np.array([k / shape[0]]), offset)[0]
    reference = np.cos(2 * np.pi * k / shape[0] * np.arange(shape[0]))[20:-20]
    assert (mean @ reference) / (reference @ reference) == pytest.approx(expected, abs=1e-3)


def test_the_transfer_function_does_not_blur_columns():
    frequency = np.linspace(0, 0.2, 21)
    assert np.abs(transfer_function(frequency, 0.5) - 1).max() < 0.01
    assert STIFFNESS < 0.01


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 8))
def test_the_scatter_of_frames_is_their_noise(seed, n_frames):
    random = np.random.default_rng(seed)
    shape, sigma = (64, 64), random.uniform(0.5, 3)
    moved = 0.3 * random.normal(size=(n_frames, shape[0], 2)).clip(-2, 2)
    frames = [sampled(d, shape, seed) + random.normal(0, sigma, shape) for d in moved]
    grid = union(moved, shape)
    mean = average((placed(f, d, grid) for f, d in zip(frames, moved, strict=True)), grid)
    total, number = squared_residuals((placed(f, d, grid) for f, d in zip(frames, moved, strict=True)), mean)
    use = mean.count == n_frames
    variance = (total[use] / number[use]).mean() / (1 - 1 / n_frames)
    # about n_px (n - 1) degrees of freedom
    tolerance = 5 * np.sqrt(2 / (use.sum() * (n_frames - 1)))
    assert variance == pytest.approx(sigma**2, rel=tolerance + 0.05)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.floats(0.1, 0.95))
def test_the_largest_rectangle(seed, n_y, n_x, filled):
    mask = np.random.default_rng(seed).random((n_y, n_x)) < filled
    rows, columns = largest_rectangle(mask)
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    assert mask[rows, columns].all()
    best = max(
        ((b - a) * (d - c) for a in range(n_y) for b in range(a + 1, n_y + 1) for c in range(n_x)
         for d in range(c + 1, n_x + 1) if mask[a:b, c:d].all()),
        default=0,
    )  # fmt: skip
    assert area == best


def test_more_frames_than_show_anything_are_an_error():
    with pytest.raises(ValueError, match=r"coverage requires 3 frames .* at most 2"):
        covered(AverageGrid((0, 0), (4, 4)), np.full((4, 4), 2.0), 3)
