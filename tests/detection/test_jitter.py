"""Tests of the position errors that displacements of the beam cause."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemkit import ScanNoise
from stemkit.detection.table import _jitter_error


def position_error(scan: ScanNoise, sigma: float, *, along_y: bool) -> float:
    """Standard deviation of the mean displacement of the rows, weighted by their information on the position."""
    row = np.arange(-60, 61)
    weight = np.exp(-((row / sigma) ** 2)) * (row**2 if along_y else 1.0)
    weight /= weight.sum()
    covariance = scan.autocovariance(row[:, None] - row, "y" if along_y else "x")
    return math.sqrt(weight @ covariance @ weight)


@settings(max_examples=40)
@given(
    st.booleans(),
    st.floats(1.5, 8.0),
    st.floats(0.0, 1.0),
    st.floats(0.05, 1.0),
    st.floats(1.0, 60.0),
    st.floats(0.0, 1.0),
    st.floats(2.5, 90.0),
)
def test_errors_follow_from_the_covariance_of_the_rows(along_y, sigma, jitter, drift, rows, hum, period):
    suffix = "_y" if along_y else ""
    parts = {f"jitter{suffix}": jitter, f"drift{suffix}": drift, f"hum{suffix}": hum}
    scan = ScanNoise(**parts, drift_rows=rows, hum_period=period)
    found = float(_jitter_error(scan, np.array([sigma]), along_y=along_y)[0])
    assert found == pytest.approx(position_error(scan, sigma, along_y=along_y), rel=0.03, abs=1e-3)


def test_a_slow_drift_is_not_averaged_over_the_rows():
    slow = ScanNoise(drift=0.4, drift_rows=200.0)
    fast = ScanNoise(jitter=0.4)
    sigma = np.array([3.0])
    assert float(_jitter_error(slow, sigma, along_y=False)[0]) == pytest.approx(0.4, rel=1e-3)
    assert float(_jitter_error(fast, sigma, along_y=False)[0]) < 0.2
    along_x_only = ScanNoise(drift=0.4, hum=0.4)
    assert float(_jitter_error(along_x_only, sigma, along_y=True)[0]) == 0
