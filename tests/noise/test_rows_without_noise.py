"""Noise split by its correlation along the row, on images made of one part alone."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from stemkit.noise.components import measure_components


@settings(max_examples=60)
@given(st.integers(16, 64), st.floats(8.0, 40.0), st.floats(1.4, 4.5), st.floats(-6.0, -3.0), seeds)
def test_displaced_rows_with_hardly_any_noise_have_finite_statistics(n_rows, period, sigma, exponent, seed):
    """The regression on the slopes may explain more than all of the variance, by chance."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:n_rows, :96]
    signal = np.exp(-((y % period - period / 2) ** 2 + (x % period - period / 2) ** 2) / (2 * sigma**2))
    slope_y, slope = np.gradient(signal)
    rest = rng.normal(0, 0.5, (n_rows, 1)) * slope + 10**exponent * rng.normal(size=signal.shape)
    found = measure_components(rest, signal, slope, slope_y)
    assert all(
        map(math.isfinite, (found.readout, found.gain, found.streaks, found.residual_jitter, found.residual_jitter_y))
    )
    # by the order of magnitude nothing exceeds what there is
    assert found.readout + found.streaks < 10 * rest.std()
