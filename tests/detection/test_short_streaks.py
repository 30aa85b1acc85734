"""Tests of streaks shorter than the width of a column."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from strategies import gaussians, labeled, lattice_positions

from stemkit import AtomDetector, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.detection.matched_filter import matched_filter, noise_variance
from stemkit.detection.normalized_image import NormalizedImage
from stemkit.metrics import match_columns

MODEL = NoiseModel(
    scan=ScanNoise(short_amplitude=0.1, short_length=1.2), pointwise=PointwiseNoise(readout=0.05), mode="haadf"
)


def recorded(true_image: np.ndarray, seed: int) -> xr.DataArray:
    return labeled(MODEL.apply(true_image, random_state=seed), MODEL)


@pytest.mark.parametrize("width", [1.5, 3.0, 6.0])
def test_variance_of_filtered_streaks(width):
    image = NormalizedImage.from_image(recorded(np.zeros((400, 400)), 0), None)
    filtered = matched_filter(image.recorded, width)
    expected = noise_variance(filtered.level, image, image.noise, width)
    inner = slice(40, -40), slice(40, -40)
    assert filtered.response[inner].var() == pytest.approx(expected[inner].mean(), rel=0.15)


def test_errors_are_the_scatter_of_the_positions():
    shape = (300, 300)
    positions = lattice_positions(shape, 22.0, margin=-12.0)
    pulls = []
    for seed in range(2):
        table = AtomDetector(spacing=22.0, width=3.5).fit_transform(recorded(gaussians(shape, positions, 3.5), seed))
        match = match_columns(table[["y_px", "x_px"]], positions, 5.0)
        assert match.recall == 1
        found, true = table.iloc[match.found], positions[match.true]
        pulls.append((found[["y_px", "x_px"]].to_numpy() - true) / found[["y_px_err", "x_px_err"]].to_numpy())
    y, x = np.concatenate(pulls).std(axis=0)
    assert 0.85 < y < 1.2
    assert 0.85 < x < 1.2
