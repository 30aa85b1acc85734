"""What the normal equations of overlapping columns are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gaussians, seeds

from stemkit.columns.descent import Descent, scene_of
from stemkit.columns.equations import Noise, Variance, _Whitening, batched, batched_slopes, compiled
from stemkit.columns.gaussians import derivatives, projected

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
    whiten = _Whitening(variance, use, Noise(None, correlation_x, streaks))
    ours, theirs = drawn(generator, 3, 2, H, W), drawn(generator, 3, 2, H, W)
    there = (whiten(ours.clone()) * theirs).sum()
    torch.testing.assert_close((ours * whiten.adjoint(theirs)).sum(), there)


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
    """Columns near each other and at the border, with all that can be wrong with their pixels."""
    rng = np.random.default_rng(seed)
    shape = (50, 41)
    places = rng.uniform(-0.9, 1, (30, 2)) + rng.uniform(0, 1, (30, 2)) * np.array(shape)
    places = places.clip(-0.9, np.array(shape) - 0.1)
    image = gaussians(shape, places, sigma) + rng.normal(0, 0.1, shape)
    noise = Noise(Variance(0.01, 0.02, 0.005) if weighted else None, correlation_x, streaks)
    shifts = rng.normal(0, 0.5, (2, *shape)) if displaced else None
    valid = rng.uniform(size=shape) > 0.1 if masked else None
    widths = sigma * rng.uniform(0.8, 1.2, len(places))
    start = np.column_stack([places, rng.uniform(0.5, 1.5, 30), widths, rng.normal(0, 0.1, 30)])
    start = np.column_stack([start, rng.uniform(-0.2, 0.2, (30, n_parameters - 5))])
    free = rng.uniform(size=start.shape) > 0.1
    scene = scene_of(image, places, widths, noise, shifts, valid, free, torch.device("cpu"))
    descent = Descent(scene, torch.as_tensor(start), torch.as_tensor(widths))
    some = torch.as_tensor(rng.permutation(30)[:20])
    arguments = scene, descent.parameters, descent.centre, some
    ours, rises = compiled(*arguments, with_shared=True, with_rises=True)
    theirs = batched(*arguments, with_shared=True)
    # the batched ones are in single precision
    for name in ("own", "shared", "gradient", "chi2", "pixels"):
        one, other = getattr(ours, name).numpy(), getattr(theirs, name).numpy()
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * np.abs(other).max() + 1e-9, err_msg=name)
    other = batched_slopes(*arguments).numpy()
    np.testing.assert_allclose(rises.numpy(), other, rtol=2e-4, atol=2e-5 * np.abs(other).max())
