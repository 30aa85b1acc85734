from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from stemkit.synthesis import Columns, stacked
from stemkit.synthesis.rendering import blurred, render, render_targets, through_probe

NONE = torch.zeros(1)


def columns(y, x, amplitude=1.0, sigma=2.0, spacing=20.0, present=True) -> Columns:
    y, x = (torch.atleast_1d(torch.as_tensor(v, dtype=torch.float64))[None] for v in (y, x))
    full = [torch.broadcast_to(torch.as_tensor(v, dtype=torch.float64), y.shape).clone() for v in (amplitude, sigma)]
    mask = torch.broadcast_to(torch.as_tensor(present), y.shape)
    kind = torch.zeros_like(y, dtype=torch.long)
    return Columns(y, x, *full, kind, mask, kind, torch.tensor([spacing], dtype=torch.float64))


def targets(one: Columns, shape=(49, 61), specimen=None, tail=0.0, spread=2.0):
    specimen = torch.zeros(1, *shape, dtype=torch.float64) if specimen is None else specimen
    numbers = (torch.tensor([v], dtype=torch.float64) for v in (tail, spread))
    maps = render_targets(one, shape, specimen, *numbers)
    return tuple(getattr(maps, k)[0].numpy() for k in ("enhance", "detect", "superresolve"))


@settings(max_examples=40)
@given(st.floats(20, 28), st.floats(20, 40), st.floats(0.2, 3.0), st.floats(0.1, 50.0))
def test_an_isolated_column_stands_where_it_was_put(y, x, sigma, amplitude):
    image = render(columns(y, x, amplitude, sigma), (49, 61))[0].numpy()
    total = image.sum()
    assert total == pytest.approx(2 * math.pi * sigma**2 * amplitude, rel=1e-3)
    rows, cols = np.indices(image.shape)
    # limit of the sampling: pixels wider than the column
    most = max(1e-3, 1.01 * math.exp(-2 * (math.pi * sigma) ** 2) / math.pi)
    assert (rows * image).sum() / total == pytest.approx(y, abs=most)
    assert (cols * image).sum() / total == pytest.approx(x, abs=most)
    # a pixel's own width comes in where columns are averaged over it
    own = 1 / 12 if sigma < 1 else 0.0
    if sigma > 0.6:
        assert ((rows - y) ** 2 * image).sum() / total == pytest.approx(sigma**2 + own, rel=1e-2)


def test_rendering_is_the_sum_over_columns():
    y, x = [5.2, 11.0, -3.0], [7.7, 30.1, 12.0]
    amplitude, sigma = np.array([1.0, 2.0, 0.5]), np.array([1.5, 3.0, 2.0])
    rows, cols = np.indices((20, 40))
    expected = sum(
        a * np.exp(-((rows - j) ** 2 + (cols - i) ** 2) / (2 * s**2))
        for j, i, a, s in zip(y, x, amplitude, sigma, strict=True)
    )
    found = render(columns(y, x, torch.as_tensor(amplitude), torch.as_tensor(sigma)), (20, 40))[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(st.integers(0, 3), st.booleans(), st.integers(0, 100))
@settings(max_examples=20)
def test_a_turned_or_mirrored_crystal_is_the_image_turned_or_mirrored(turns, mirror, seed):
    rng = np.random.default_rng(seed)
    y, x = rng.uniform(-5, 45, (2, 30))
    sigma = torch.as_tensor(rng.uniform(0.4, 4.0, 30))
    image = render(columns(y, x, 1.0, sigma), (41, 41))[0].numpy()
    places = np.array([y, x]) - 20
    for _ in range(turns):
        places = np.array([-places[1], places[0]])
    if mirror:
        places = places * np.array([[1], [-1]])
    changed = render(columns(*(places + 20), 1.0, sigma), (41, 41))[0].numpy()
    expected = np.rot90(image, turns)
    np.testing.assert_allclose(changed, expected[:, ::-1] if mirror else expected, atol=1e-9)


def test_images_of_a_batch_are_independent():
    rng = np.random.default_rng(0)
    ones = [columns(*rng.uniform(0, 60, (2, n)), sigma=float(n)) for n in (3, 1, 7)]
    together = render(stacked(ones), (130, 61))
    for image, one in zip(together, ones, strict=True):
        torch.testing.assert_close(image, render(one, (130, 61))[0])


@given(st.floats(0.5, 3.0), st.floats(0.2, 3.0))
@settings(max_examples=20)
def test_the_source_s_size_widens_columns_and_keeps_their_sum(sigma, source):
    one = columns(24.3, 30.6, 2.0, sigma)
    plain, wide = (render(c, (49, 61))[0].numpy() for c in (one, blurred(one, source)))
    assert wide.sum() == pytest.approx(plain.sum(), rel=1e-3)
    rows = np.arange(49)[:, None]
    spread = (wide * (rows - 24.3) ** 2).sum() / wide.sum()
    assert spread == pytest.approx(sigma**2 + source**2, abs=0.09)


def test_a_probe_of_any_shape():
    at = np.arange(-9, 10)
    ring = np.exp(-((np.hypot(at[:, None], at) - 4.0) ** 2) / 2)
    ring[9:, :] *= 2.0
    image = render(columns(24.0, 30.0, 1.0, 0.5), (49, 61))
    seen = through_probe(image, ring)[0].numpy()
    expected = signal.fftconvolve(image[0].numpy(), ring / ring.sum(), mode="same")
    np.testing.assert_allclose(seen, expected, atol=1e-12)
    assert seen.sum() == pytest.approx(float(image.sum()))
    # a probe that is a point changes nothing
    np.testing.assert_allclose(through_probe(image, [[3.0]])[0], image[0], atol=1e-12)
    with pytest.raises(ValueError, match="two odd sizes"):
        through_probe(image, np.ones((4, 4)))
    with pytest.raises(ValueError, match="positive sum"):
        through_probe(image, np.zeros((3, 3)))


def test_absent_columns_are_not_rendered():
    one = columns([10.0, 30.0], [10.0, 30.0], present=[True, False])
    for values in targets(one):
        assert values[10, 10] > 0.5
        assert np.abs(values[25:36, 25:36]).max() < 1e-6


@settings(max_examples=30)
@given(st.floats(2.0, 60.0), st.floats(0.8, 4.0), st.floats(0.1, 5.0))
def test_detect_has_spots_of_height_one_for_all_columns(spacing, sigma, amplitude):
    _, detect, _ = targets(columns(24.0, 30.0, amplitude, sigma, spacing))
    spot = min(max(0.12 * spacing, 0.7), 2.0)
    assert detect[24, 30] == pytest.approx(1.0, abs=1e-9)
    assert detect[24, 31] == pytest.approx(math.exp(-0.5 / spot**2), rel=1e-6)
    assert detect[26, 30] == pytest.approx(math.exp(-2 / spot**2), rel=1e-6)


def test_detect_stays_at_one_where_columns_overlap():
    _, detect, _ = targets(columns([24.0, 24.0], [30.0, 30.5], spacing=20.0))
    assert detect.max() == 1.0


@settings(max_examples=30)
@given(st.floats(1.0, 4.0), st.floats(0.1, 5.0))
def test_superresolve_has_half_the_width_and_the_height(sigma, amplitude):
    specimen = torch.full((1, 49, 61), 3.0, dtype=torch.float64)
    enhance, _, narrow = targets(columns(24.0, 30.0, amplitude, sigma), specimen=specimen)
    width = max(sigma / 2, 0.5)
    assert narrow[24, 30] == pytest.approx(amplitude, rel=1e-9)
    assert narrow[24, 31] / amplitude == pytest.approx(math.exp(-0.5 / width**2), rel=1e-6)
    assert narrow[0, 0] == pytest.approx(0.0, abs=1e-9)
    assert enhance[0, 0] == pytest.approx(3.0, abs=1e-4)
    assert enhance[24, 30] == pytest.approx(3.0 + amplitude, rel=1e-9)


@given(st.floats(0.0, 0.3), st.floats(1.5, 2.6))
@settings(max_examples=20)
def test_tails_widen_a_column_and_keep_its_height(tail, spread):
    enhance, _, _ = targets(columns(24.0, 30.0, 2.0, 2.0), tail=tail, spread=spread)
    assert enhance[24, 30] == pytest.approx(2.0, rel=1e-9)
    expected = 2 * ((1 - tail) * math.exp(-4.5) + tail * math.exp(-4.5 / spread**2))
    assert enhance[24, 36] == pytest.approx(expected, rel=1e-6)
