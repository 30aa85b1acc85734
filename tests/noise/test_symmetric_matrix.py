from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from stemkit.noise.row_information import RowInformation
from stemkit.noise.shift_estimates import ShiftEstimates, _orthonormal
from stemkit.noise.symmetric_matrix import SymmetricMatrix


def estimates(seed: int, n_rows: int, n_columns: int = 40, window: int = 7) -> ShiftEstimates:
    """Estimates at columns some of which extend beyond the image, with two modes."""
    rng = np.random.default_rng(seed)
    first = rng.integers(-window // 2, n_rows - window // 2, n_columns)
    row = first[:, None] + np.arange(window)
    weight = np.where((row >= 0) & (row < n_rows), rng.uniform(0.5, 2.0, row.shape), 0.0)
    modes = _orthonormal(np.stack([np.ones(row.shape), rng.normal(size=row.shape)]), weight)
    shift = np.where(weight > 0, rng.normal(size=row.shape), 0.0)
    return ShiftEstimates(shift, weight, rng.uniform(0, 100, n_columns), modes, first, n_rows)


@given(st.integers(3, 40), seeds)
def test_the_tridiagonal_form_is_the_matrix(n, seed):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n, n))
    matrix, vector, s = factor @ factor.T, rng.normal(size=n), rng.uniform(0, 2)
    reduced = SymmetricMatrix(matrix).tridiagonal
    assert reduced.eigenvalues == pytest.approx(np.linalg.eigvalsh(matrix), abs=1e-9 * n**2)
    shrunk = reduced.rotated_back(reduced.shrunk(s, reduced.rotated(vector)))
    assert shrunk == pytest.approx(np.linalg.solve(np.eye(n) + s * matrix, vector), abs=1e-8)


@given(st.integers(9, 30), seeds)
def test_information_and_score_are_those_of_all_columns_together(n_rows, seed):
    one = estimates(seed, n_rows)
    found = RowInformation.of(one)
    weight, shift = (one.sparse(v).toarray() for v in (one.weight, one.shift))
    expected = np.diag(weight.sum(0))
    score = (weight * shift).sum(0)
    for mode in one.weighted_modes():
        dense = one.sparse(mode).toarray()
        expected -= dense.T @ dense
        score -= dense.T @ (dense * shift).sum(1)
    assert found.matrix.values == pytest.approx(expected, abs=1e-10)
    assert found.score == pytest.approx(score, abs=1e-10)
    assert one.by_row(one.weight) == pytest.approx(weight.sum(0))
