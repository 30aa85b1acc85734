"""Displacements along y of crystals some of whose columns are too faint to be fitted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from strategies import SIGMAS, gaussians, lattice_positions

from stemkit import NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.separation import FittedCrystal, separate_specimen

SHAPE = (192, 192)


def honeycomb(bond: float, sigma: float) -> tuple[np.ndarray, int]:
    """A honeycomb of rows of columns parallel to the scan lines, and the number of its columns in the image."""
    vectors = bond * np.array([[1.5, math.sqrt(0.75)], [1.5, -math.sqrt(0.75)]])
    cells = np.mgrid[-30:31, -30:31].reshape(2, -1).T @ vectors + np.array(SHAPE) / 2
    positions = np.concatenate([cells, cells + np.array([bond, 0.0])])
    near = positions[((positions > -4 * sigma) & (positions < np.array(SHAPE) + 4 * sigma)).all(axis=1)]
    return gaussians(SHAPE, near, sigma), int(((near > 0) & (near < SHAPE)).all(axis=1).sum())


def separated(true_image: np.ndarray, scan: ScanNoise, readout: float, seed: int) -> FittedCrystal:
    noise = NoiseModel(scan=scan, pointwise=PointwiseNoise(readout))
    crystal = separate_specimen(np.asarray(noise.apply(true_image, random_state=seed))).crystal
    assert crystal is not None
    return crystal


@pytest.mark.parametrize("bond", [9.0, 11.0])
@pytest.mark.parametrize("seed", range(3))
def test_columns_that_are_not_fitted_are_no_displacement(bond, seed):
    true_image, n_columns = honeycomb(bond, 0.31 * bond)
    found = separated(true_image, ScanNoise(0.16, 19.0), 0.3, seed)
    assert len(found.fits) < 0.95 * n_columns
    # a drift appears once in a thousand images
    assert found.displacement_y.parts.drift == 0
    y = found.displacement_y
    assert y.jitter < SIGMAS * y.jitter_std


@pytest.mark.parametrize("seed", range(3))
def test_drift_along_y_is_found_where_all_columns_are_fitted(seed):
    positions = lattice_positions(SHAPE, 16.0, margin=12.0)
    scan = ScanNoise(0.05, 19.0, drift_y=0.6, drift_rows=4.0)
    parts = separated(gaussians(SHAPE, positions, 2.8), scan, 0.1, seed).displacement_y.parts
    # a draw of a drift has more or less than its expected variance
    own = 0.6**2 * math.sqrt(2 * math.sqrt(2 * math.pi) * 4.0 / SHAPE[0])
    assert abs(parts.drift**2 - 0.6**2) < SIGMAS * math.hypot(2 * parts.drift * parts.std["drift"], own)
    assert parts.drift > 3 * parts.std["drift"]
