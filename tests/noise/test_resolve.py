from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from strategies import crystal

from stemkit import NoiseModel, PointwiseNoise
from stemkit.noise.resolve import resolve_noise

MODEL = NoiseModel(3.0, 1.0, pointwise=PointwiseNoise(0.07))


def image(**attrs: object) -> xr.DataArray:
    noisy = NoiseModel(pointwise=PointwiseNoise(0.1)).apply(crystal((96, 96)), random_state=0)
    return xr.DataArray(noisy, dims=("y", "x"), attrs={"mode": "haadf", **attrs})


def test_the_attached_model_is_used():
    assert resolve_noise(image(noise=json.dumps(MODEL.to_dict())), "haadf") == MODEL


def test_without_an_attached_model_the_noise_is_calibrated():
    found = resolve_noise(image(), None)
    assert found.pointwise.readout * found.contrast == pytest.approx(0.1, rel=0.1)


def test_the_noise_may_be_calibrated_on_other_images():
    quiet = xr.DataArray(crystal((96, 96)), dims=("y", "x"), attrs={"mode": "haadf"})
    other = quiet + np.random.default_rng(0).normal(0, 0.2, quiet.shape)
    found = resolve_noise(quiet, "haadf", other)
    assert found.pointwise.readout * found.contrast == pytest.approx(0.2, rel=0.1)


def test_an_attached_model_of_the_other_mode_is_refused():
    with pytest.raises(ValueError, match="was calibrated in mode 'haadf'"):
        resolve_noise(image(noise=json.dumps(MODEL.to_dict())), "bf")
