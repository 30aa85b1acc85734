"""Tests of the image of fitted columns."""

import numpy as np
import pytest
from strategies import gaussians, lattice_positions

import stemkit
from stemkit import AtomDetector, NoiseModel, PointwiseNoise
from stemkit.detection import fitted_image

SHAPE = (160, 160)


@pytest.mark.parametrize("mode", ["haadf", "bf"])
@pytest.mark.parametrize("elliptical", [False, True])
def test_the_residual_is_the_noise(mode, elliptical):
    sign = 1 if mode == "haadf" else -1
    true_image = 500.0 + sign * gaussians(SHAPE, lattice_positions(SHAPE, 15.0, margin=-4.0), 2.6, 100.0)
    noise = NoiseModel(100.0, 500.0, mode, pointwise=PointwiseNoise(readout=0.1))
    image = stemkit.calibrated(noise.apply(true_image, random_state=0), pixel_size=0.02).assign_attrs(mode=mode)
    table = AtomDetector(elliptical=elliptical).fit_transform(image)
    fitted = fitted_image(table, image)
    np.testing.assert_array_equal(fitted.coords["x"], image.coords["x"])
    rest = (image - fitted).values[12:-12, 12:-12]
    # the residual of a fit is smaller than the noise of 10
    assert 8.5 < rest.std() < 10.5
    assert abs(rest.mean()) < 0.5


def test_without_columns_the_image_is_constant():
    image = np.full((32, 32), 3.0)
    table = AtomDetector(mode="haadf").fit_transform(image)
    np.testing.assert_array_equal(fitted_image(table, image, mode="haadf"), image)


def test_a_stack_is_refused():
    with pytest.raises(ValueError, match="must be a single image"):
        fitted_image(AtomDetector(mode="haadf").fit_transform(np.zeros((32, 32))), np.zeros((2, 32, 32)))
