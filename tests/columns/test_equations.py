"""Tests of the normal equations and their minimisation: both implementations, and fits that are continued."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gaussians, lattice_positions, seeds

from stemkit.columns import fit_columns
from stemkit.columns.batched_levenberg_marquardt import BatchedLevenbergMarquardt
from stemkit.columns.compiled import normal_equations as compiled_equations
from stemkit.columns.equations import normal_equations, ramp_projections
from stemkit.columns.gaussians import derivatives, projected
from stemkit.columns.levenberg_marquardt import CompiledLevenbergMarquardt
from stemkit.columns.noise import FitNoise, LinearVariance
from stemkit.columns.problem import FitProblem, build_problem
from stemkit.columns.whitening import Whitening

H, W = 9, 11


def drawn(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([5, 7]), st.booleans(), seeds)
def test_projections_are_inner_products_of_the_derivatives(k, q, n_parameters, displaced, seed):
    generator = torch.Generator().manual_seed(seed)
    m = 3
    columns = drawn(generator, m, k, n_parameters) + 0.5
    columns[..., 3] += 1.0
    columns[..., 5:] = 0.3 * (columns[..., 5:] - 1.0)
    dy = (torch.arange(H) - 4.0 - drawn(generator, m, k, 1))[..., :, None]
    dx = (torch.arange(W) - 5.0 - drawn(generator, m, k, 1))[..., None, :]
    if displaced:
        dy, dx = dy + 0.3 * drawn(generator, m, 1, H, W), dx + 0.3 * drawn(generator, m, 1, H, W)
    share, onto = drawn(generator, m, k, H, W), drawn(generator, m, q, H, W) - 0.5
    found = projected(columns, dy, dx, share, onto)
    for i in range(k):
        jacobian = derivatives(columns[:, i], dy[:, i], dx[:, i], share[:, i])[1]
        expected = torch.einsum("mqhw,mphw->mqp", onto, jacobian)
        torch.testing.assert_close(found[:, i], expected)


@pytest.mark.parametrize("correlation_x", [0.0, 0.4])
@pytest.mark.parametrize("streaks", [0.0, 0.5])
def test_adjoint_of_whitening(correlation_x, streaks):
    generator = torch.Generator().manual_seed(0)
    use, variance = drawn(generator, 3, H, W) > 0.2, drawn(generator, 3, H, W) + 0.5
    whiten = Whitening(variance, use, FitNoise(None, correlation_x, streaks))
    ours, theirs = drawn(generator, 3, 2, H, W), drawn(generator, 3, 2, H, W)
    expected = (whiten(ours.clone()) * theirs).sum()
    torch.testing.assert_close((ours * whiten.adjoint(theirs)).sum(), expected)


def crowd(
    rng: np.random.Generator, n_parameters: int, displaced: bool, masked: bool, noise: FitNoise, sigma: float
) -> tuple[FitProblem, torch.Tensor, torch.Tensor]:
    """Random overlapping columns, some at the border, with weights and displacements: problem, start, widths."""
    shape = (50, 41)
    places = rng.uniform(-0.9, 1, (30, 2)) + rng.uniform(0, 1, (30, 2)) * np.array(shape)
    places = places.clip(-0.9, np.array(shape) - 0.1)
    image = gaussians(shape, places, sigma) + rng.normal(0, 0.1, shape)
    shifts = rng.normal(0, 0.5, (2, *shape)) if displaced else None
    weight = rng.uniform(0.3, 1.5, shape) * (rng.uniform(size=shape) > 0.1) if masked else None
    widths = sigma * rng.uniform(0.8, 1.2, len(places))
    start = np.column_stack([places, rng.uniform(0.5, 1.5, 30), widths, rng.normal(0, 0.1, 30)])
    start = np.column_stack([start, rng.uniform(-0.2, 0.2, (30, n_parameters - 5))])
    free = rng.uniform(size=start.shape) > 0.1
    problem = build_problem(image, places, widths, noise, shifts, weight, free, torch.device("cpu"))
    return problem, torch.as_tensor(start), torch.as_tensor(widths)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.sampled_from([5, 7]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.2]),
    st.booleans(),
    st.floats(1.2, 3.0),
    seeds,
)
def test_compiled_and_batched_equations_are_the_same(
    n_parameters, displaced, masked, correlation_x, streaks, weighted, sigma, seed
):
    rng = np.random.default_rng(seed)
    noise = FitNoise(LinearVariance(0.01, 0.02, 0.005) if weighted else None, correlation_x, streaks)
    problem, start, widths = crowd(rng, n_parameters, displaced, masked, noise, sigma)
    batched, compiled = (
        BatchedLevenbergMarquardt(problem, start, widths),
        CompiledLevenbergMarquardt(problem, start, widths),
    )
    some = rng.permutation(30)[:20]
    arguments = problem, batched.parameters, batched.center, torch.as_tensor(some)
    theirs, their_ramps = normal_equations(*arguments), ramp_projections(*arguments)
    state, ours = compiled.state, compiled.equations
    ramps = compiled_equations(
        compiled.arrays, state.parameters, state.center, some, np.ones(20, dtype=bool), ours, True
    )
    # the batched ones are in single precision
    for name in ("own", "shared", "gradient", "chi2", "pixels"):
        one, other = getattr(ours, name)[some], getattr(theirs, name).numpy()
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * np.abs(other).max() + 1e-9, err_msg=name)
    other = their_ramps.numpy()
    np.testing.assert_allclose(ramps, other, rtol=2e-4, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("columns", np.array([0, 30]), "columns must be numbers of rows"),
        ("columns", np.array([-1, 0]), "columns must be numbers of rows"),
        ("with_shared", np.ones(1, dtype=bool), "with_shared must have the length"),
        ("center", np.zeros((30, 2), dtype=np.int64), "a row for each column and one more"),
        ("own", np.empty((29, 5, 5)), "own and equations.shared must have the shapes"),
        ("shared", np.empty((30, 1, 5, 5)), "own and equations.shared must have the shapes"),
        ("gradient", np.empty((30, 4)), "gradient, chi2 and pixels must have"),
        ("chi2", np.empty(29), "gradient, chi2 and pixels must have"),
    ],
)
def test_compiled_equations_refuse_arrays_of_other_shapes(name, value, match):
    """Compiled code writes past the end of an array that is too small."""
    problem, start, widths = crowd(np.random.default_rng(0), 5, False, False, FitNoise(None, 0.0, 0.0), 2.0)
    fit = CompiledLevenbergMarquardt(problem, start, widths)
    given = {"columns": np.arange(2), "with_shared": np.ones(2, dtype=bool), "center": fit.state.center}
    equations = fit.equations
    if name in given:
        given[name] = value
    else:
        equations = equations._replace(**{name: value})
    with pytest.raises(ValueError, match=match):
        compiled_equations(
            fit.arrays, fit.state.parameters, given["center"], given["columns"], given["with_shared"], equations, False
        )


@pytest.mark.slow
@settings(max_examples=15)
@given(st.sampled_from([5, 7]), st.booleans(), st.booleans(), seeds)
def test_compiled_and_batched_fits_agree(n_parameters, with_prior, weighted, seed):
    """Parameters of overlapping columns agree within a tenth of their errors, and errors within 2 %."""
    rng = np.random.default_rng(seed)
    shape, sigma = (64, 70), 2.5
    places = lattice_positions(shape, 3.4 * sigma, margin=-3.0)
    places = places + rng.normal(0, 0.2, places.shape)
    n = len(places)
    image = gaussians(shape, places, sigma) + rng.normal(0, 0.05, shape)
    noise = FitNoise(LinearVariance(0.0025) if weighted else None, 0.0, 0.0, tilt=0.001)
    free = np.ones((n, n_parameters), dtype=bool)
    free[::5, 3] = False
    start = np.column_stack([places + rng.normal(0, 0.3, places.shape), np.full((n, 2), (1.0, sigma)), np.zeros(n)])
    start = torch.as_tensor(np.column_stack([start, np.zeros((n, n_parameters - 5))]))
    problem = build_problem(
        image, start[:, :2].numpy(), np.full(n, sigma), noise, None, None, free, torch.device("cpu")
    )
    widths = torch.full((n,), sigma, dtype=torch.float64)
    prior = None
    if with_prior:
        prior = torch.as_tensor(np.column_stack([places, np.where(np.arange(n) % 3, np.inf, 0.02)]))
    ends = []
    for kind in (BatchedLevenbergMarquardt, CompiledLevenbergMarquardt):
        minimizer = kind(problem, start.clone(), widths, prior)
        minimizer.run(40, 0.01)
        covariance, residual, _ = minimizer.errors(8)
        ends.append((minimizer.fitted, np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)), residual))
    (one, error, rms), (other, other_error, other_rms) = ends
    assert (np.abs(one - other)[:, :4] < 0.1 * error[:, :4] + 1e-6).all()
    np.testing.assert_allclose(error, other_error, rtol=0.02)
    np.testing.assert_allclose(rms, other_rms, rtol=1e-3)


@settings(max_examples=15)
@given(st.integers(0, 400), seeds)
def test_after_a_change_of_one_column_only_its_neighbours_are_fitted(chosen, seed):
    """A continued fit agrees with one of all columns; columns far away keep their numbers."""
    rng = np.random.default_rng(seed)
    shape, sigma, noise = (150, 150), 2.5, 0.05
    places = lattice_positions(shape, 3.6 * sigma, margin=-4.0)
    image = gaussians(shape, places, sigma) + rng.normal(0, noise, shape)
    before = fit_columns(image, places, sigma, variance=noise**2, tolerance=0.01, iterations=60)
    one = chosen % len(places)
    start = before.take(np.arange(len(before)))
    start.x[one], start.amplitude[one] = np.rint(start.x[one]), 0.6
    changed = np.arange(len(places)) == one
    again = fit_columns(image, start, sigma, variance=noise**2, changed=changed, tolerance=0.01, iterations=60)
    assert (np.abs(again.positions - before.positions) < 0.2 * before.y_err[:, None]).all()
    np.testing.assert_allclose(again.y_err, before.y_err, rtol=0.01)
    far = np.hypot(*(places - places[one]).T) > 60
    assert (np.abs(again.y - before.y) < 0.05 * before.y_err)[far].all()
    assert (again.y == before.y)[far].mean() > 0.9


def test_a_start_with_nan_does_not_affect_other_columns():
    shape, sigma = (60, 60), 2.5
    places = lattice_positions(shape, 8.5, margin=-4.0)
    image = gaussians(shape, places, sigma) + np.random.default_rng(0).normal(0, 0.02, shape)
    before = fit_columns(image, places, sigma, variance=4e-4)
    start = before.take(np.arange(len(places)))
    start.amplitude[7] = np.nan
    after = fit_columns(image, start, sigma, variance=4e-4)
    others = np.hypot(*(places - places[7]).T) > 25
    assert after.failed[7]
    assert not after.failed[others].any()
    assert (np.abs(after.y - before.y) < 0.2 * before.y_err)[others].all()


@pytest.mark.parametrize("kind", [BatchedLevenbergMarquardt, CompiledLevenbergMarquardt])
def test_an_infinite_precision_does_not_affect_other_columns(kind):
    """A prior with a standard deviation of 0 overflows."""
    shape, sigma = (70, 70), 2.5
    places = np.array([[20.0, 20.0], [20.0, 32.0], [45.0, 45.0]])
    image = gaussians(shape, places, sigma) + np.random.default_rng(0).normal(0, 0.02, shape)
    start = np.column_stack([places + 0.7, np.ones((3, 1)), np.full((3, 1), sigma), np.zeros((3, 1))])
    prior = torch.tensor([[20.0, 20.0, 0.0], [20.0, 32.0, 0.1], [45.0, 45.0, np.inf]], dtype=torch.float64)
    noise = FitNoise(LinearVariance(4e-4), 0.0, 0.0)
    free = np.ones((3, 5), dtype=bool)
    problem = build_problem(image, start[:, :2], np.full(3, sigma), noise, None, None, free, torch.device("cpu"))
    minimizer = kind(problem, torch.as_tensor(start), torch.full((3,), sigma, dtype=torch.float64), prior)
    minimizer.run(20, 0.05)
    assert np.abs(minimizer.fitted[2, :2] - 45.0).max() < 0.05


def test_a_column_with_a_new_neighbour_is_fitted_again():
    """Five sigmas apart, columns are not solved for together, but the tail of one is in the window of the other."""
    shape, sigma = (40, 64), 3.0
    places = np.array([[20.0, 24.0], [20.0, 39.0]])
    image = gaussians(shape, places, sigma) + np.random.default_rng(0).normal(0, 0.02, shape)
    first = fit_columns(image, places[:1], sigma, variance=4e-4)
    second = fit_columns(image, places[1:], sigma, variance=4e-4)
    both = first.concatenate(second)
    resumed = fit_columns(image, both, sigma, variance=4e-4, changed=np.array([False, True]), tolerance=0.01)
    anew = fit_columns(image, places, sigma, variance=4e-4, tolerance=0.01)
    assert np.abs(resumed.x - anew.x).max() < 0.1 * anew.x_err.max()
    assert np.abs(resumed.amplitude - anew.amplitude).max() < 0.1 * anew.amplitude_err.max()


def test_columns_that_are_not_movable_keep_their_numbers():
    shape, sigma = (50, 60), 2.5
    places = lattice_positions(shape, 8.5, margin=-4.0)
    image = gaussians(shape, places, sigma) + np.random.default_rng(0).normal(0, 0.02, shape)
    before = fit_columns(image, places, sigma, variance=4e-4)
    start = before.take(np.arange(len(places)))
    start.amplitude[:] *= 0.8
    movable = np.arange(len(places)) % 2 == 0
    after = fit_columns(image, start, sigma, variance=4e-4, changed=movable, movable=movable)
    np.testing.assert_array_equal(after.amplitude[~movable], start.amplitude[~movable])
    assert (after.amplitude[movable] > start.amplitude[movable]).all()
    with pytest.raises(ValueError, match="movable needs changed, and former fits"):
        fit_columns(image, places, sigma, variance=4e-4, movable=movable)


@pytest.mark.parametrize("prior", [[np.nan, 20.0, 0.1], [20.0, 20.0, 0.0], [20.0, 20.0, np.nan]])
def test_an_invalid_prior_is_refused(prior):
    with pytest.raises(ValueError, match="prior must contain finite positions"):
        fit_columns(np.zeros((40, 40)), np.array([[20.0, 20.0]]), 2.5, variance=1.0, prior=np.array([prior]))


def test_without_a_prior_the_expected_position_may_be_nan():
    shape, sigma = (40, 40), 2.5
    image = gaussians(shape, np.array([[20.0, 20.0]]), sigma) + np.random.default_rng(0).normal(0, 0.02, shape)
    fits = fit_columns(
        image, np.array([[20.5, 19.5]]), sigma, variance=4e-4, prior=np.array([[np.nan, np.nan, np.inf]])
    )
    assert abs(fits.y[0] - 20.0) < 4 * fits.y_err[0]
