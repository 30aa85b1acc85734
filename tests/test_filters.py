from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from stemkit.filters import wide_gaussian


@pytest.mark.parametrize("sigma", [1.0, 4.0, 11.5, 30.0])
@pytest.mark.parametrize("axes", [(0, 1), (1,)])
def test_a_wide_gaussian_is_one(sigma, axes):
    values = np.random.default_rng(0).normal(size=(200, 240))
    exact = ndimage.gaussian_filter(values, [sigma * (axis in axes) for axis in (0, 1)])
    # noise that has gone through both is the same to a few per cent
    assert np.corrcoef(wide_gaussian(values, sigma, axes).ravel(), exact.ravel())[0, 1] > 0.995
    assert wide_gaussian(values, sigma, axes).std() == pytest.approx(exact.std(), rel=0.03)


def test_a_wide_gaussian_keeps_the_sum_of_a_spot():
    spot = np.zeros((301, 301))
    spot[150, 150] = 1.0
    smooth = wide_gaussian(spot, 20.0)
    y, _ = np.mgrid[:301, :301] - 150.0
    assert smooth.sum() == pytest.approx(1.0)
    assert np.sqrt((smooth * y**2).sum()) == pytest.approx(20.0, rel=0.02)


def test_a_filter_wider_than_the_image_is_its_mean():
    values = np.random.default_rng(1).normal(size=(40, 50)) + 3
    np.testing.assert_allclose(wide_gaussian(values, 500.0), values.mean(), atol=0.1)
