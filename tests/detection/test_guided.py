"""Tests of guided columns, and of columns that a network shows in pure noise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from strategies import gaussians, labeled, lattice_positions

from stemkit import AtomDetector, NoiseModel, PointwiseNoise, SFINDenoiser
from stemkit.columns import column_response, find_peaks
from stemkit.detection import Quality
from stemkit.metrics import match_columns

SHAPE = (256, 256)
#: Spacing, sigma, and height of the columns in the middle of the cells.
LATTICES = {"square": (18.0, 3.0, 0.0), "centred": (24.0, 3.0, 0.6), "coarse": (26.0, 4.5, 0.0)}


def counted(true_image: np.ndarray, dose: float, seed: int, support: float = 0.1) -> xr.DataArray:
    """Counted electrons without readout noise, ``dose`` of them per pixel at a bright column."""
    values = np.random.default_rng(seed).poisson(dose * (support + true_image)) / dose
    return labeled(values, NoiseModel(1.0, support, pointwise=PointwiseNoise(0.01, 1 / dose, kind="poisson")))


def found_in(kind: str, dose: float, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Table and true positions of a lattice after enhancement, and the maxima of the enhanced image."""
    spacing, sigma, second = LATTICES[kind]
    rng = np.random.default_rng(seed)
    bases = [((0.0, 0.0), 1.0), ((0.5, 0.5), second)]
    parts = [(lattice_positions(SHAPE, spacing, 0.2, basis, margin=-4.0), height) for basis, height in bases if height]
    places = np.vstack([part for part, _ in parts])
    heights = np.concatenate([np.full(len(part), height) for part, height in parts])
    places = places + rng.uniform(-0.3, 0.3, places.shape)
    enhanced = SFINDenoiser().fit_transform(counted(gaussians(SHAPE, places, sigma, heights), dose, seed))
    response = column_response(enhanced.values, 0.7 * sigma)
    maxima = find_peaks(response, threshold=0.0, min_distance=2 * sigma)
    tall = response[tuple(maxima.round().astype(int).T)]
    return AtomDetector().fit_transform(enhanced), places, maxima[tall > 0.12 * np.quantile(tall, 0.95)]


@pytest.mark.parametrize("kind", LATTICES)
@pytest.mark.parametrize("dose", [1.0, 2.0, 3.0])
def test_fits_find_the_columns_that_the_network_shows(kind, dose):
    table, places, maxima = found_in(kind, dose, 0)
    radius = LATTICES[kind][0] / 4
    ours, shown = (match_columns(p, places, radius).f1 for p in (table[["y_px", "x_px"]], maxima))
    assert shown > 0.95
    assert ours > shown - 0.05


@pytest.mark.slow
def test_errors_of_guided_columns_are_the_scatter_of_their_positions():
    pulls, widths = [], []
    for seed in range(3):
        table, places, _ = found_in("centred", 1.0, seed)
        match = match_columns(table[["y_px", "x_px"]], places, 5.0)
        found = table.iloc[match.found]
        guided = found["quality"].to_numpy() & Quality.GUIDED > 0
        difference = found[["y_px", "x_px"]].to_numpy() - places[match.true]
        pulls.append((difference / found[["y_px_err", "x_px_err"]].to_numpy())[guided])
        widths.append((found["quality"].to_numpy() & Quality.WIDTH_FIXED > 0)[guided])
    every = np.concatenate(pulls)
    assert len(every) > 200
    assert 0.7 < every.std() < 1.3
    assert abs(every.mean()) < 0.2
    assert np.concatenate(widths).all()


@pytest.mark.slow
@pytest.mark.parametrize("level", [1.0, 3.0, None], ids=["one electron", "three electrons", "readout"])
def test_false_columns_in_enhanced_noise_are_rare(level):
    """Measured: 0.05 columns in 10,000 px, in counts and in readout noise."""
    n, n_images = 0, 4
    for seed in range(n_images):
        if level is None:
            noise = NoiseModel(1.0, 0.0, pointwise=PointwiseNoise(0.3))
            image = labeled(np.random.default_rng(seed).normal(0, 0.3, SHAPE), noise)
        else:
            image = counted(np.full(SHAPE, 0.9), level, seed)
        n += len(AtomDetector(spacing=18.0, width=3.0).fit_transform(SFINDenoiser().fit_transform(image)))
    assert n / (n_images * math.prod(SHAPE)) < 0.5e-4
