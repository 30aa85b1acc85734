"""Images of fitted columns, and the derivatives of their integrals."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gaussians, seeds

from stemkit.columns import ColumnFits, render_columns
from stemkit.columns.constants import RENDER_RADIUS, WINDOW_RADIUS
from stemkit.columns.rendering import fitted_change
from stemkit.columns.results import _intensity, _intensity_gradient

SHAPE = (60, 72)
#: Value of a column of height 1 at the radius where it is truncated.
TRUNCATED = np.exp(-(RENDER_RADIUS**2) / 2)


def fits(positions, **values):
    y, x = np.asarray(positions, dtype=float).T
    return ColumnFits.from_values(len(y), y=y, x=x, **values)


@given(seeds, st.floats(1.0, 4.0), st.floats(-3.0, 3.0))
@settings(max_examples=20)
def test_round_columns_are_drawn_up_to_the_radius(seed, sigma, amplitude):
    positions = np.random.default_rng(seed).uniform(-3, np.array(SHAPE) + 3, (4, 2))
    drawn = render_columns(fits(positions, amplitude=amplitude, sigma=sigma, background=7.0), SHAPE)
    np.testing.assert_allclose(drawn, gaussians(SHAPE, positions, sigma, amplitude), atol=4 * 3 * TRUNCATED)


@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(-2.0, 2.0), st.floats(-2.0, 2.0))
@settings(max_examples=20)
def test_ellipses_and_displaced_pixels(e1, e2, dy, dx):
    """The covariance in (y, x) is ``sigma^2 [[1 + e1, e2], [e2, 1 - e1]]``, the beam was at ``pixel + shift``."""
    y, x = np.indices(SHAPE).astype(float)
    shifts = np.stack([dy * np.sin(y), dx * np.cos(y)])
    off = np.stack([y + shifts[0] - 30.3, x + shifts[1] - 33.8], axis=-1)
    inverse = np.linalg.inv(9.0 * np.array([[1 + e1, e2], [e2, 1 - e1]]))
    expected = np.exp(-0.5 * np.einsum("...i,ij,...j", off, inverse, off))
    drawn = render_columns(fits([(30.3, 33.8)], amplitude=1.0, sigma=3.0, e1=e1, e2=e2), SHAPE, shifts)
    # within 4.5 sigma, less the largest displacement, of the centre
    inside = np.hypot(y - 30.3, x - 33.8) < RENDER_RADIUS * 3.0
    np.testing.assert_allclose(drawn[inside], expected[inside], atol=1e-9)


def test_an_empty_table_gives_an_empty_image():
    assert not render_columns(ColumnFits.from_values(0), SHAPE).any()
    assert not fitted_change(ColumnFits.from_values(0), np.ones(SHAPE)).any()


@given(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.floats(1.5, 3.5))
@settings(max_examples=20)
def test_the_change_of_a_column_is_what_a_field_adds_to_it(dy, dx, sigma):
    """A small displacement and a small change of the height are fitted; a constant is background."""
    at = np.array([[30.3, 33.8]])
    field = 1e-3 * (gaussians(SHAPE, at + np.array([dy, dx]), sigma, 1.1) - gaussians(SHAPE, at, sigma)) + 0.2
    changed = fitted_change(fits(at, amplitude=1.0, sigma=sigma), field)
    y, x = np.indices(SHAPE)
    inside = np.hypot(y - 30, x - 34) <= WINDOW_RADIUS * sigma
    # terms of higher order in the displacement remain
    np.testing.assert_allclose(changed[inside], field[inside] - 0.2, atol=1e-3 * (0.05 + 0.5 * (dy**2 + dx**2)))
    assert not changed[np.hypot(y - 30, x - 34) > np.ceil(WINDOW_RADIUS * sigma) + 1].any()


@given(st.floats(1.5, 3.5), st.sampled_from([-0.01, 0.01]))
@settings(max_examples=10)
def test_a_wider_or_narrower_column_is_a_change_of_it(sigma, change):
    at = np.array([[30.3, 33.8]])
    field = gaussians(SHAPE, at, (1 + change) * sigma) - gaussians(SHAPE, at, sigma)
    changed = fitted_change(fits(at, amplitude=1.0, sigma=sigma), field)
    y, x = np.indices(SHAPE)
    inside = np.hypot(y - 30, x - 34) <= WINDOW_RADIUS * sigma
    np.testing.assert_allclose(changed[inside], field[inside], atol=0.05 * np.abs(field).max())


@given(st.floats(0.1, 5.0), st.floats(0.8, 5.0), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.booleans())
def test_the_gradient_of_the_integral_is_that_of_its_formula(amplitude, sigma, e1, e2, elliptical):
    point = np.array([[1.0, 2.0, amplitude, sigma, 0.5, *([e1, e2] if elliptical else [])]])
    steps = 1e-6 * np.eye(point.shape[1])
    numerical = [(_intensity(point + step) - _intensity(point - step))[0] / 2e-6 for step in steps]
    np.testing.assert_allclose(_intensity_gradient(point)[0], numerical, rtol=1e-5, atol=1e-5)
