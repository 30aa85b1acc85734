"""Tests of compiled functions against sums in NumPy and a dense solver."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gaussians, seeds

from stemkit.columns.compiled import add_columns, add_radial_profiles, solve_coupled

SHAPE = (40, 47)
NO_SCAN = np.empty((0, 0, 0))


def plain_sum(
    shape: tuple[int, int], parameters: np.ndarray, scan: np.ndarray | None = None, reach: float = np.inf
) -> np.ndarray:
    """Columns added one by one, each within ``reach`` px of the pixel at its centre."""
    rows, cols = np.indices(shape)
    moved = np.zeros((2, *shape)) if scan is None else scan
    total = np.zeros(shape)
    for y, x, amplitude, sigma, _, *axes in parameters:
        e1, e2 = axes or (0.0, 0.0)
        inverse = np.linalg.inv(sigma**2 * np.array([[1 + e1, e2], [e2, 1 - e1]]))
        away = np.stack([rows + moved[0] - y, cols + moved[1] - x])
        square = np.einsum("iyx,ij,jyx->yx", away, inverse, away)
        near = (rows - np.rint(y)) ** 2 + (cols - np.rint(x)) ** 2 <= (reach + 0.5) ** 2
        total += np.where(near, amplitude * np.exp(-0.5 * square), 0.0)
    return total


def random_columns(rng: np.random.Generator, n: int, *, elliptical: bool) -> np.ndarray:
    places = rng.uniform(-4.0, np.array(SHAPE) + 3.0, (n, 2))
    numbers = np.column_stack([rng.uniform(-1.0, 2.0, n), rng.uniform(0.8, 3.0, n), rng.normal(size=n)])
    shape = rng.uniform(-0.4, 0.4, (n, 2)) if elliptical else np.empty((n, 0))
    return np.hstack([places, numbers, shape])


@settings(max_examples=25)
@given(st.integers(0, 12), st.booleans(), st.booleans(), st.integers(3, 14), seeds)
def test_columns_are_added_as_in_a_plain_sum(n, elliptical, displaced, reach, seed):
    rng = np.random.default_rng(seed)
    parameters = random_columns(rng, n, elliptical=elliptical)
    scan = rng.normal(0, 0.7, (2, *SHAPE)) if displaced else None
    before = rng.normal(size=SHAPE)
    image = before.copy()
    add_columns(image, parameters, NO_SCAN if scan is None else scan, reach)
    np.testing.assert_allclose(image - before, plain_sum(SHAPE, parameters, scan, reach), atol=1e-8)


def test_an_elliptical_column_with_equal_axes_is_a_round_one():
    rng = np.random.default_rng(0)
    parameters = random_columns(rng, 9, elliptical=False)
    one, other = np.zeros(SHAPE), np.zeros(SHAPE)
    add_columns(one, parameters, NO_SCAN, 12)
    add_columns(other, np.hstack([parameters, np.zeros((9, 2))]), NO_SCAN, 12)
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_a_constant_displacement_of_the_beam_moves_the_columns():
    places = np.array([[14.2, 20.7], [27.9, 31.1]])
    parameters = np.column_stack([places, np.ones(2), np.full(2, 2.0), np.zeros(2)])
    image = np.zeros(SHAPE)
    add_columns(image, parameters, np.broadcast_to(np.array([1.3, -0.4])[:, None, None], (2, *SHAPE)).copy(), 20)
    np.testing.assert_allclose(image, gaussians(SHAPE, places - [1.3, -0.4], 2.0), atol=1e-8)


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(0, 4), st.sampled_from([5, 7]), seeds)
def test_coupled_equations_agree_with_a_dense_solver(n, k, n_parameters, seed):
    """Columns on a ring, each coupled with k at most; blocks of a positive definite matrix."""
    rng = np.random.default_rng(seed)
    which = np.arange(n)
    others = {(c, (c + step) % n) for c in which for step in range(1, k // 2 + 1)}
    partners = [sorted({j for pair in others if c in pair for j in pair if j != c}) for c in which]
    width = max(map(len, partners), default=0)
    coupled = np.full((n, width), n)
    for c, them in enumerate(partners):
        coupled[c, : len(them)] = them
    dense = np.zeros((n, n_parameters, n, n_parameters))
    own = np.empty((n, n_parameters, n_parameters))
    shared = np.zeros((n, width, n_parameters, n_parameters))
    for c, them in enumerate(partners):
        root = rng.normal(size=(n_parameters, 2 * n_parameters))
        own[c] = root @ root.T + n_parameters * np.eye(n_parameters)
        dense[c, :, c] = own[c]
        for place, j in enumerate(them):
            if j > c:
                block = rng.uniform(-0.3, 0.3, (n_parameters, n_parameters))
                dense[c, :, j], dense[j, :, c] = block, block.T
            shared[c, place] = dense[c, :, j]
    gradient = rng.normal(size=(n, n_parameters))
    size = n * n_parameters
    expected = np.linalg.solve(dense.reshape(size, size), gradient.ravel()).reshape(n, n_parameters)
    found = solve_coupled(own, shared, coupled, np.linalg.inv(own), gradient, 60, 1e-10)
    np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(expected).max())


def test_uncoupled_columns_are_solved_one_by_one():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 5, 9))
    own, gradient = root @ root.transpose(0, 2, 1), rng.normal(size=(6, 5))
    absent = np.full((6, 3), 6)
    # blocks of absent neighbours are not used
    shared = rng.normal(size=(6, 3, 5, 5))
    found = solve_coupled(own, shared, absent, np.linalg.inv(own), gradient, 20, 1e-9)
    np.testing.assert_allclose(found, np.linalg.solve(own, gradient[..., None])[..., 0], rtol=1e-6)


@pytest.mark.parametrize("elliptical", [False, True])
def test_columns_far_outside_the_frame_do_not_change_the_image(elliptical):
    parameters = random_columns(np.random.default_rng(2), 3, elliptical=elliptical)
    parameters[:, :2] = [[-500.0, 20.0], [20.0, 1e5], [-80.0, -80.0]]
    image = np.zeros(SHAPE)
    add_columns(image, parameters, NO_SCAN, 15)
    assert not image.any()


@given(st.integers(1, 5), st.integers(1, 8), st.floats(0.5, 3.0), seeds)
def test_radial_profiles_are_linearly_interpolated(n, n_rings, step, seed):
    rng = np.random.default_rng(seed)
    places, weights, values = rng.uniform(-3, 33, (n, 2)), rng.uniform(0, 2, n), rng.uniform(0, 1, n_rings)
    image = np.zeros((30, 28))
    add_radial_profiles(image, places, weights, values, step, 40)
    y, x = np.mgrid[:30, :28]
    centers = (np.arange(n_rings) + 0.5) * step
    expected = sum(
        w * np.interp(np.hypot(y - p[0], x - p[1]), centers, values, right=0.0)
        for p, w in zip(places, weights, strict=True)
    )
    np.testing.assert_allclose(image, expected, atol=1e-12)
