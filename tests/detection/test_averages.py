"""Columns of averages, whose pixels are means of different numbers of frames."""

import json

import numpy as np
import pytest
import xarray as xr
from strategies import SIGMAS, gaussians, lattice_positions

from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise
from stemkit.metrics import match_columns

SHAPE = (120, 240)
SIGMA = 2.2
#: Standard deviation of a pixel of the mean of four frames.
NOISE = 0.05
POSITIONS = lattice_positions(SHAPE, 13.0, margin=8.0)


def average(seed=0):
    """Four frames contribute to the left half, one to the right one."""
    count = np.where(np.arange(SHAPE[1]) < SHAPE[1] // 2, 4, 1) * np.ones(SHAPE, dtype=int)
    noise = np.random.default_rng(seed).normal(0, NOISE, SHAPE) * np.sqrt(4 / count)
    model = NoiseModel(pointwise=PointwiseNoise(readout=NOISE))
    image = xr.DataArray(gaussians(SHAPE, POSITIONS, SIGMA) + noise, dims=("y", "x"), attrs={"mode": "haadf"})
    image.attrs["noise"] = json.dumps({"pixel_size": None, **model.to_dict()})
    return image.assign_coords(n_frames=(("y", "x"), count, {"typical": 4.0}))


def halves(table, border=12.0):
    inside = table[(table["quality"] == 0) & ((table["x_px"] - SHAPE[1] / 2).abs() > border)]
    return inside[inside["x_px"] < SHAPE[1] / 2], inside[inside["x_px"] > SHAPE[1] / 2]


def test_errors_contain_the_number_of_frames():
    left, right = halves(AtomDetector(spacing=13.0, width=SIGMA).fit_transform(average()))
    assert left["n_frames"].median() == pytest.approx(4.0, abs=0.1)
    assert right["n_frames"].median() == pytest.approx(1.0, abs=0.1)
    for name in ("y_err", "x_err", "amplitude_err"):
        assert right[name].median() / left[name].median() == pytest.approx(2.0, rel=0.1)
    assert left["snr"].median() / right["snr"].median() == pytest.approx(2.0, rel=0.1)
    for part in (left, right):
        assert part["residual"].median() == pytest.approx(1.0, abs=0.1)
        match = match_columns(part[["y_px", "x_px"]], POSITIONS, 3.0)
        error = part[["y_px", "x_px"]].to_numpy()[match.found] - POSITIONS[match.true]
        pull = error / part[["y_px_err", "x_px_err"]].to_numpy()[match.found]
        assert np.sqrt(np.mean(pull**2)) == pytest.approx(1.0, abs=SIGMAS / np.sqrt(2 * pull.size))


def test_a_part_has_the_errors_of_the_whole():
    image, detector = average(), AtomDetector(spacing=13.0, width=SIGMA)
    _, right = halves(detector.fit_transform(image))
    alone = detector.fit_transform(image[:, SHAPE[1] // 2 :])
    assert alone["x_err"].median() == pytest.approx(right["x_err"].median(), rel=0.05)


def test_wide_columns_that_are_binned_have_the_weights_of_their_frames():
    positions = np.array([(60.0, 60.0), (60.0, 180.0)])
    image = average()
    image.values += gaussians(SHAPE, positions, 12.0) - gaussians(SHAPE, POSITIONS, SIGMA)
    measured = AtomDetector(spacing=60.0, width=12.0).fit(image).measure(image, positions)
    assert measured["x_err"][1] / measured["x_err"][0] == pytest.approx(2.0, rel=0.05)


def test_the_noise_of_an_average_is_kept():
    image = average()
    calibrator = NoiseCalibrator().fit(image)
    assert calibrator.noise_model_.pointwise.readout == NOISE
    assert json.loads(calibrator.transform(image).attrs["noise"]) == json.loads(image.attrs["noise"])
    # without it, it is calibrated
    del image.attrs["noise"]
    assert NoiseCalibrator().fit(image).noise_model_.pointwise.readout != NOISE
