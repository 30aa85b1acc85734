"""Tests of faint sublattices next to bright columns, and of faint spots that are not part of a crystal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import labeled, lattice_positions, seeds

from stemkit import AtomDetector, NoiseModel, PointwiseNoise
from stemkit.columns import find_peaks
from stemkit.detection import Quality
from stemkit.detection.recurring_maxima import at_recurring_maxima
from stemkit.metrics import match_columns

SHAPE, SPACING, WIDTH = (160, 160), 16.0, 2.5
PIXELS = np.indices(SHAPE)


def drawn(places: np.ndarray, heights: np.ndarray | float, sigma: float, tails: float = 0.0) -> np.ndarray:
    """Gaussians, and for ``tails`` a Lorentzian of this height and twice the width in addition."""
    image = np.zeros(SHAPE)
    for (y, x), height in zip(places, np.broadcast_to(heights, len(places)), strict=True):
        square = ((PIXELS[0] - y) ** 2 + (PIXELS[1] - x) ** 2) / sigma**2
        image += height * (np.exp(-square / 2) + tails / (1 + square / 4) ** 1.5)
    return image


class TestMeanMaximum:
    @pytest.mark.slow
    @settings(max_examples=15)
    @given(st.floats(0.26, 0.5), st.floats(0.0, 0.3), st.floats(0.0, 0.5), seeds)
    def test_a_sublattice_is_found_and_tails_are_not(self, faint, tails, angle, seed):
        rng = np.random.default_rng(seed)
        columns = lattice_positions(SHAPE, SPACING, angle)
        centers = lattice_positions(SHAPE, SPACING, angle, (0.5, 0.5))
        noise = rng.normal(0, 0.02, SHAPE)
        image = drawn(columns, 1.0, WIDTH, tails) + noise
        shown = centers + rng.normal(0, 0.3, centers.shape)
        heights = np.full(len(shown), faint)
        assert not at_recurring_maxima(image, shown, heights, columns, WIDTH, 5.0).any()
        image += drawn(centers, faint, WIDTH)
        # next to the border, the nearest column is another one than inside
        assert at_recurring_maxima(image, shown, heights, columns, WIDTH, 5.0).mean() > 0.9

    def test_maxima_where_rings_of_the_probe_meet_are_no_sublattice(self):
        """The first ring of an aberration-free probe has 1.75 % of its peak; four of them meet between the columns."""
        columns, centers = (lattice_positions(SHAPE, SPACING, 0.2, shift) for shift in ((0.0, 0.0), (0.5, 0.5)))
        image = np.random.default_rng(0).normal(0, 0.005, SHAPE)
        radius = SPACING / np.sqrt(2)  # of the ring
        for y, x in columns:
            distance = np.hypot(PIXELS[0] - y, PIXELS[1] - x)
            image += np.exp(-(distance**2) / (2 * WIDTH**2))
            image += 0.0175 * np.exp(-((distance - radius) ** 2) / (2 * 1.5**2))
        found = at_recurring_maxima(image, centers, np.full(len(centers), 1.0), columns, WIDTH, 5.0)
        assert found.mean() > 0.9  # they are maxima of the mean image
        assert not at_recurring_maxima(image, centers, np.full(len(centers), 0.065), columns, WIDTH, 5.0).any()

    @settings(max_examples=15)
    @given(st.floats(0.0, 0.5), seeds)
    def test_maxima_of_noise_are_no_sublattice(self, angle, seed):
        columns = lattice_positions(SHAPE, SPACING, angle)
        image = drawn(columns, 1.0, WIDTH) + np.random.default_rng(seed).normal(0, 0.3, SHAPE)
        peaks = find_peaks(image, threshold=0.0, min_distance=3.0)
        assert not at_recurring_maxima(image, peaks, np.ones(len(peaks)), columns, WIDTH, 5.0).any()

    def test_few_free_places_are_vacancies(self):
        """A place that most columns have a neighbour at is no sublattice, whatever is at the other places."""
        columns = lattice_positions(SHAPE, 12.0, 0.0)
        kept = np.arange(len(columns)) % 15 > 0
        image = drawn(columns, 1.0, WIDTH)
        missing = columns[~kept] + [0.0, 0.5]  # the nearest column is always the one to the right
        assert len(missing) > 10
        assert not at_recurring_maxima(image, missing, np.ones(len(missing)), columns[kept], WIDTH, 5.0).any()


@pytest.mark.parametrize("sigma", [1.9, 2.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_faint_sublattice_is_not_the_misfit_of_the_bright_one(sigma, seed):
    """All of 225 columns are far above the noise."""
    rng = np.random.default_rng(seed)
    row, col = np.indices((15, 15)).reshape(2, -1)
    places = 8.0 + 8.0 * np.column_stack([row, col]) + rng.uniform(-0.2, 0.2, (225, 2))
    heights = np.where((row + col) % 2 == 0, 1.0, 0.45)
    image = drawn(places, heights, sigma)[:128, :128] + rng.normal(0, 0.05, (128, 128))
    noise = NoiseModel(1.0, 0.0, pointwise=PointwiseNoise(0.05))
    found = AtomDetector().fit_transform(labeled(image, noise))
    assert match_columns(found[["y_px", "x_px"]], places, 8.0 / 3).f1 > 0.985


class TestFaintSpotsInVacuum:
    """A particle of bright columns, and spots of the same width in the vacuum around it."""

    SPOTS = np.array([[15.0, 20.0], [18.0, 140.0], [140.0, 18.0], [143.0, 141.0]])

    def measured(self, snr: float) -> tuple[pd.DataFrame, np.ndarray]:
        """The table for spots of this significance, and the columns of the particle."""
        sites = lattice_positions(SHAPE, 12.0, 0.1)
        crystal = sites[np.hypot(*(sites - 80).T) < 45]
        level = 0.1 / (np.sqrt(np.pi) * WIDTH)  # the standard error of an amplitude on a known background
        image = drawn(crystal, 1.0, WIDTH) + drawn(self.SPOTS, snr * level, WIDTH)
        image += np.random.default_rng(0).normal(0, 0.1, SHAPE)
        noise = NoiseModel(1.0, 0.0, pointwise=PointwiseNoise(0.1))
        return AtomDetector(width=WIDTH, spacing=12.0).fit_transform(labeled(image, noise)), crystal

    def test_spots_at_the_level_of_the_noise_are_not_columns(self):
        table, crystal = self.measured(4.0)
        outside = np.hypot(table["y_px"] - 80, table["x_px"] - 80) > 57
        assert not (outside & (table["quality"] & Quality.FAINT > 0)).any()
        assert match_columns(table[["y_px", "x_px"]], crystal, 3.0).recall == 1

    def test_significant_spots_are(self):
        table, _ = self.measured(12.0)
        assert match_columns(table[["y_px", "x_px"]], self.SPOTS, 3.0).recall == 1
