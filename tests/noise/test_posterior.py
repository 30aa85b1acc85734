from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from stemkit.noise.displacement_parts import DisplacementParts
from stemkit.noise.posterior import RowPosterior
from stemkit.noise.spectrum import drift_factor


def test_a_fitted_noise_of_zero_leaves_displacements_finite():
    n = 40
    values, vectors = np.ones(n), np.eye(n)
    parts = DisplacementParts(0.3, 0.5, 4.0, noise=0.0, std={"drift^2": 0.01, "jitter^2": 0.01})
    posterior = RowPosterior.of(values, vectors, parts)
    score = np.random.default_rng(0).normal(size=n)
    drift, found = posterior.drift(score, parts)
    assert np.isfinite(drift).all()
    assert np.isfinite(found.drift)
    assert np.isfinite(posterior.jitter(score, found)).all()


@settings(max_examples=5)
@given(st.floats(0.2, 0.6), st.floats(0.4, 1.0), st.floats(2.0, 8.0), seeds)
def test_expected_drift_and_jitter_are_those_of_a_gaussian_process(jitter, drift, rows, seed):
    rng = np.random.default_rng(seed)
    n = 60
    root = rng.normal(size=(n, n))
    information = root @ root.T / n + np.eye(n)
    values, vectors = np.linalg.eigh(information)
    score = rng.normal(size=n)
    parts = DisplacementParts(jitter, drift, rows, std={"drift^2": 0.0, "jitter^2": 0.0})
    posterior = RowPosterior.of(values, vectors, parts)
    expected, found = posterior.drift(vectors.T @ score, parts)
    slow = drift**2 * drift_factor(n, rows) @ drift_factor(n, rows).T
    whole = slow + jitter**2 * np.eye(n)
    direct = slow @ np.linalg.solve(np.eye(n) + information @ whole, score)
    np.testing.assert_allclose(expected, direct - direct.mean(), atol=1e-8)
    left = np.linalg.inv(np.linalg.inv(whole) + information)
    covariance = vectors @ posterior.apply_displacement_covariance(vectors.T @ np.eye(n))
    np.testing.assert_allclose(covariance, left, atol=1e-8)
    center = np.eye(n) - 1 / n
    own = slow - slow @ information @ np.linalg.solve(np.eye(n) + whole @ information, slow)
    mean_square = float(expected @ expected + np.trace(center @ own)) / n
    assert found.drift == pytest.approx(math.sqrt(mean_square), rel=1e-6)
