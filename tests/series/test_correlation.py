"""Correlation of two frames over their overlap."""

import numpy as np
from hypothesis import given, settings
from strategies import seeds, shapes

from stemkit.series.correlation import Spectra


@given(seeds, shapes(7, 16))
@settings(max_examples=10)
def test_the_correlation_is_that_of_the_pixels_that_overlap(seed, shape):
    """Of the pixels p of the first frame and ``p + s`` of the second, for every shift s."""
    first, second = np.random.default_rng(seed).normal(size=(2, *shape))
    reach = (3, 5)
    found = Spectra(first, reach).with_(Spectra(second, reach))
    assert found.shape == (7, 11)
    for sy in range(-3, 4):
        for sx in range(-5, 6):
            ours, theirs = (
                tuple(slice(max(0, sign * s), min(n, n + sign * s)) for s, n in zip((sy, sx), shape, strict=True))
                for sign in (-1, 1)
            )
            a, b = first[ours], second[theirs]
            expected = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
            np.testing.assert_allclose(found[sy + 3, sx + 5], expected, atol=1e-5)
