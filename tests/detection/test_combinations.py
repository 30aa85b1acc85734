"""Tests of combinations: frames that bins do not fill, a fixed background, several images, guided columns."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from strategies import gaussians, lattice_positions

from stemkit import AtomDetector
from stemkit.columns import fit_columns
from stemkit.columns.compiled import normal_equations
from stemkit.detection import Quality, good_columns
from stemkit.metrics import match_columns


def low_dose_image(dose: float = 0.15, seed: int = 0) -> xr.DataArray:
    """A lattice recorded with few electrons, with the maps of an ideal network."""
    rng, shape = np.random.default_rng(seed), (96, 96)
    positions = lattice_positions(shape, 16.0, margin=8.0)
    true_image = 0.02 + gaussians(shape, positions, 2.5)
    noisy = rng.poisson(dose * true_image) / dose
    spots = gaussians(shape, positions, 1.2)
    coords = {"recorded": (("y", "x"), noisy), "detect": (("y", "x"), spots)}
    return xr.DataArray(true_image, dims=("y", "x"), coords=coords, attrs={"mode": "haadf"})


@pytest.mark.parametrize("background", [None, 0.02])
def test_guided_columns_have_errors(background):
    table = AtomDetector(spacing=16.0, width=2.5, background=background).fit_transform(low_dose_image())
    guided = table[table["quality"] & Quality.GUIDED > 0]
    assert len(guided) > 10
    # at most the error of the network, a fifth of the width, which the pixels reduce
    errors = guided[["y_px_err", "x_px_err"]].to_numpy()
    assert ((errors > 0.1) & (errors < 0.2 * 2.5 + 1e-6)).all()


def test_guided_columns_with_shared_positions_are_flagged():
    images = [low_dose_image(seed=seed) for seed in (0, 1)]
    table = AtomDetector(spacing=16.0, width=2.5, shared_positions=True, background=0.02).fit_transform(images)
    guided = table["quality"] & Quality.GUIDED > 0
    assert guided.sum() > 10
    assert not guided[good_columns(table).index].any()
    assert table["background"].to_numpy() == pytest.approx(0.02)


@pytest.mark.parametrize("n", [97, 98, 99])
def test_columns_outside_a_frame_that_bins_do_not_fill_are_left_out(n):
    positions = np.array([(30.0, 30.0), (30.0, 75.0), (75.0, 30.0), (n + 2.0, 60.0)])
    image = gaussians((n, n), positions, 8.0) + np.random.default_rng(0).normal(0, 0.02, (n, n))
    table = AtomDetector(spacing=45.0, width=8.0, mode="haadf").fit_transform(image)
    assert (table[["y_px", "x_px"]].to_numpy() < n - 0.5).all()
    assert len(table) == 3


def test_elliptical_columns_of_a_binned_image_are_converted():
    y, x = np.mgrid[:160, :160] - 80.0
    e1, sigma = 0.5, 7.0
    image = np.exp(-0.5 * (y**2 / (1 + e1) + x**2 / (1 - e1)) / sigma**2)
    means = image.reshape(80, 2, 80, 2).mean(axis=(1, 3))
    fits = fit_columns(means, np.array([[39.5, 39.5]]), sigma / 2, elliptical=True, iterations=60).unbinned(2)
    assert fits.amplitude[0] == pytest.approx(1.0, abs=1e-4)
    assert fits.e1[0] == pytest.approx(e1, abs=1e-4)
    assert fits.sigma[0] == pytest.approx(sigma, rel=1e-4)


def test_the_residual_of_a_stack_is_the_median_of_all_columns():
    positions = lattice_positions((90, 90), 15.0, margin=4.0)
    rng = np.random.default_rng(0)
    crystal = gaussians((90, 90), positions, 2.4) + rng.normal(0, 0.05, (90, 90))
    table = AtomDetector(mode="haadf").fit_transform([rng.normal(0, 0.05, (90, 90)), crystal])
    assert table.attrs["residual"] == pytest.approx(np.median(table["residual"]))


def test_the_equations_are_compiled_once():
    positions = lattice_positions((60, 64), 9.0, margin=2.0)
    image = gaussians((60, 64), positions, 2.4)
    fit_columns(image, positions, 2.4)
    before = len(normal_equations.signatures)
    transposed = np.asfortranarray(image)
    fit_columns(transposed, positions, 2.4, valid=np.asfortranarray(np.ones((60, 64), dtype=bool)))
    fit_columns(image.astype(np.float32), positions, 2.4, shifts=np.zeros((2, 60, 64)), elliptical=True)
    fit_columns(image, positions[:1], 2.4, variance=0.01, streaks=0.1, tilt=0.1)
    assert len(normal_equations.signatures) == before


def test_a_prior_needs_a_variance():
    with pytest.raises(ValueError, match="prior needs a variance"):
        fit_columns(np.zeros((20, 20)), np.array([[10.0, 10.0]]), 2.0, prior=np.array([[10.0, 10.0, 1.0]]))


def test_columns_that_are_much_oversampled_are_found():
    shape = (900, 900)
    positions = lattice_positions(shape, 180.0, margin=60.0)
    image = gaussians(shape, positions, 36.0) + np.random.default_rng(0).normal(0, 0.1, shape)
    detector = AtomDetector(mode="haadf")
    table = detector.fit_transform(image)
    assert detector.periodic_
    assert detector.width_ == pytest.approx(36.0, rel=0.05)
    in_frame = positions[((positions > 20) & (positions < 880)).all(axis=1)]
    match = match_columns(table[["y_px", "x_px"]], in_frame, 60.0)
    assert match.recall == 1
    assert max(match.rms) < 0.5
    assert len(table) <= len(in_frame) + 6  # and some whose centres are near the border
