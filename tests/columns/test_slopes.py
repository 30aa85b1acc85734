"""Tests of position errors on backgrounds with a slope."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import gaussians, lattice_positions

from stemkit.columns import fit_columns
from stemkit.columns.solving import MAX_JOINT

SHAPE, SIGMA, NOISE = (180, 180), 2.5, 0.05


def fits_on(background: np.ndarray, tilt: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Errors of positions ``(n, 2)``, px, of a lattice on a background, and the stated ones."""
    rng = np.random.default_rng(3)
    places = lattice_positions(SHAPE, 15.0, 0.2)
    places = places + rng.uniform(-0.3, 0.3, places.shape)
    places = places[((places > 10) & (places < SHAPE[0] - 10)).all(axis=1)]
    image = gaussians(SHAPE, places, SIGMA) + background + rng.normal(0, NOISE, SHAPE)
    fits = fit_columns(image, places, SIGMA, variance=NOISE**2, tilt=tilt)
    return fits.positions - places, fits.position_errors


def pulls_on(background: np.ndarray, tilt: float = 0.0) -> np.ndarray:
    """Errors of positions relative to the stated ones, ``(n, 2)``, of a lattice on a background."""
    errors, stated = fits_on(background, tilt)
    return errors / stated


@pytest.mark.parametrize("axis", [0, 1])
def test_slopes_that_the_residual_shows_do_not_displace_columns(axis):
    """With a constant background alone, columns would be displaced by 0.64 px (RMS)."""
    wave = 0.3 * np.sin(np.arange(SHAPE[axis]) / 8.0)
    background = np.broadcast_to(wave[:, None] if axis == 0 else wave, SHAPE)
    errors, stated = fits_on(background)
    assert np.sqrt(np.nanmean(errors[:, axis] ** 2)) < 0.25
    # slopes along the other axis are not significant: positions and errors are those of a flat background
    assert np.sqrt(np.nanmean(errors[:, 1 - axis] ** 2)) < 0.05
    assert np.nanstd(errors / stated, axis=0)[axis] < 1.25


def test_a_steep_edge_is_in_the_errors_of_the_columns_on_it():
    """Without the slopes, the columns on the edge are displaced by up to ten stated errors."""
    x = np.arange(SHAPE[1])
    edge = np.broadcast_to(1.5 / (1 + np.exp(-(x - 90) / 6.0)), SHAPE)
    pulls = pulls_on(edge)
    failed = np.isnan(pulls).any(axis=1)
    assert failed.mean() < 0.05
    assert np.abs(pulls[~failed]).max() < 5.0


def test_errors_on_a_flat_background_are_those_of_the_noise():
    pulls = pulls_on(np.zeros(SHAPE))
    assert pulls.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * pulls.size))


def test_a_slope_that_the_columns_exclude_is_not_in_their_errors():
    """A standard deviation of slopes of 0.05 per px would make the errors seven times as large."""
    assert pulls_on(np.zeros(SHAPE), tilt=0.05).std() > 0.8


def test_an_edge_does_not_hide_a_column_from_the_search():
    """With the slope in its error, the amplitude of a clear column on an edge would not be significant."""
    rng = np.random.default_rng(3)
    places = lattice_positions(SHAPE, 15.0, 0.2)
    places = places[((places > 10) & (places < SHAPE[0] - 10)).all(axis=1) & (places[:, 1] < 95)]
    edge = np.broadcast_to(1.5 / (1 + np.exp((np.arange(SHAPE[1]) - 95) / 4.0)), SHAPE)
    image = gaussians(SHAPE, places, SIGMA) + edge + rng.normal(0, NOISE, SHAPE)
    quick, final = (fit_columns(image, places, SIGMA, variance=NOISE**2, joint=joint) for joint in (2, MAX_JOINT))
    ratio = (final.amplitude_err / quick.amplitude_err)[places[:, 1] > 80]
    assert np.nanmax(ratio) > 1.5
    assert np.nanmedian((final.amplitude_err / quick.amplitude_err)[places[:, 1] < 60]) < 1.1


@pytest.mark.parametrize("spacing", [10.8, 12.6])
def test_the_misfit_of_close_columns_does_not_displace_them(spacing):
    """Columns with wings, 3.6 and 4.2 widths apart, whose misfit has a slope at each of their neighbours."""
    rng, sigma = np.random.default_rng(3), 3.0
    places = lattice_positions((160, 160), spacing, 0.2)
    places = places + rng.uniform(-0.3, 0.3, places.shape)
    places = places[((places > 8) & (places < 152)).all(axis=1)]
    amplitude = np.where(rng.random(len(places)) < 0.5, 1.0, 0.3)
    image = gaussians((160, 160), places, sigma, amplitude) + gaussians((160, 160), places, 2 * sigma, 0.2 * amplitude)
    fits = fit_columns(image + rng.normal(0, 0.01, image.shape), places, sigma, variance=0.01**2)
    assert not fits.failed.any()
    assert fits.position_errors.max() < 0.5
    assert np.sqrt(((fits.positions - places) ** 2).mean()) < 0.195
