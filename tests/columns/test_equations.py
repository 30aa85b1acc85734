"""What the normal equations of overlapping columns are made of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from stemkit.columns.equations import Noise, _Whitening
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
