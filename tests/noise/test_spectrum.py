from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemkit.noise.spectrum import drift_factor, drift_spectrum


@settings(max_examples=5)
@given(st.floats(1.0, 20.0))
def test_the_spectrum_of_a_drift_is_that_of_its_autocovariance(rows):
    n = 120
    factor = drift_factor(n, rows)
    lag = np.arange(n)
    covariance = factor @ factor.T
    np.testing.assert_allclose(covariance, np.exp(-(((lag[:, None] - lag) / (2 * rows)) ** 2)), atol=2e-4)
    assert drift_spectrum(n, rows).sum() == pytest.approx(n)
