from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from imperfect_crystals import SPACING, Crystal, angles, kinds

from stemkit import calibrated
from stemkit.structure import (
    displacement_map,
    fit_lattice,
    strain,
    strain_map,
)


@given(
    kind=kinds,
    angle=angles,
    values=st.tuples(*[st.floats(-0.03, 0.03)] * 3),
    turn=st.floats(-20, 20),
)
@settings(max_examples=25)
def test_uniform_strain_is_measured_against_a_reference(kind, angle, values, turn):
    crystal = Crystal(kind, (8, 8), angle, noise=0.0)
    exx, eyy, exy = values
    t = math.radians(turn)
    stretch = np.array([[1 + eyy, exy], [exy, 1 + exx]])  # (y, x)
    rotation = np.array([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]])
    at = crystal.positions @ (rotation @ stretch).T
    table = crystal.table.assign(y=at[:, 0], x=at[:, 1])
    lattice = fit_lattice(table)
    # the reference that corresponds to the fitted vectors
    reference = lattice.vectors @ np.linalg.inv(rotation @ stretch).T
    found = strain(table, lattice, reference=reference).dropna()
    assert len(found) > 0.6 * len(table)
    for name, value in {"exx": exx, "eyy": eyy, "exy": exy, "rotation": turn}.items():
        assert found[name].to_numpy() == pytest.approx(value, abs=1e-6), name
    assert strain(table, lattice)["exx"].abs().max() < 1e-6


def test_errors_of_the_strain_are_standard_deviations():
    pulls = []
    for seed in range(12):
        crystal = Crystal("hexagonal", (20, 20), noise=0.02, seed=seed)
        found = strain(crystal.table, fit_lattice(crystal.table)).dropna()
        pulls.append([(found[c] / found[f"{c}_err"]).std() for c in ("exx", "eyy", "exy", "rotation")])
    assert np.mean(pulls, axis=0) == pytest.approx(1, abs=0.08)


def test_columns_without_neighbours_have_no_strain():
    for seed in range(8):
        crystal = Crystal("dumbbells", (10, 10), missing=0.5, seed=seed)
        found = strain(crystal.table, fit_lattice(crystal.table, vectors=crystal.vectors))
        few = found["n_neighbors"] < 4
        assert few.any()
        assert found.loc[few, "exx"].isna().all()


def test_local_strain_is_that_of_the_field():
    crystal = Crystal("perovskite", (24, 30), angle=0.0, noise=0.005, stretch=0.04)
    found = strain(crystal.table, fit_lattice(crystal.table))
    middle = crystal.positions[:, 1].mean()
    right, left = found["x"] > middle + 2 * SPACING, found["x"] < middle - 2 * SPACING
    assert found["exx"][right].median() - found["exx"][left].median() == pytest.approx(0.04, rel=0.05)
    assert found["eyy"][right].median() - found["eyy"][left].median() == pytest.approx(0, abs=1e-3)


def test_a_bend_has_rotations_of_the_right_sign():
    crystal = Crystal("square", (12, 40), angle=0.0, noise=0.01, bend=0.4)
    found = strain(crystal.table, fit_lattice(crystal.table)).dropna()
    slope = np.polyfit(found["x"], found["rotation"], 1)[0] * 40 * SPACING
    # y grows to either side of the middle: to the right, x turns towards y
    assert slope == pytest.approx(math.degrees(0.4), rel=0.05)


def test_maps_are_on_the_grid_of_the_image_and_empty_outside():
    crystal = Crystal("square", (16, 16), noise=0.0, islands=True)
    size = 0.02
    image = calibrated(np.zeros((640, 650)), pixel_size=size)
    table = crystal.table.assign(y_px=crystal.table["y"], x_px=crystal.table["x"])
    table[["y", "x"]] *= size
    lattice = fit_lattice(table)
    maps = strain_map(table, lattice, image, coarsen=4)
    assert set(maps) == {"exx", "eyy", "exy", "rotation"}
    assert dict(maps.sizes) == {"y": 160, "x": 162}
    assert maps["x"].values == pytest.approx(image["x"].values[:648].reshape(-1, 4).mean(axis=1))
    assert maps["rotation"].attrs["units"] == "degree"
    assert np.nanmax(np.abs(maps["exx"])) < 1e-6
    inside = np.isfinite(maps["exx"].values)
    # two islands with nothing between or around them
    assert 0.05 < inside.mean() < 0.4
    assert not inside[:, 80].any()
    assert inside[80, 58]
    assert inside[80, 100]


def test_the_displacement_map_shows_displacements():
    crystal = Crystal("square", (16, 16), noise=0.03)
    lattice = fit_lattice(crystal.table)
    maps = displacement_map(crystal.table, lattice, np.zeros((650, 650)))
    rows = np.flatnonzero(np.hypot(*(crystal.positions - 320).T) < 100)
    at = {d: xr.DataArray(crystal.positions[rows, k]) for k, d in enumerate(("y", "x"))}
    for k, d in enumerate(("y", "x")):
        there = maps[f"displacement_{d}"].assign_coords(y=np.arange(650), x=np.arange(650)).interp(at)
        assert there.values == pytest.approx(lattice.displacement[rows, k], abs=0.15)
    assert maps["displacement_y"].attrs["units"] == "px"
    assert "y" not in maps.coords


def test_failed_fits_have_no_strain():
    crystal = Crystal("square")
    table = crystal.table.assign(y_err=0.6, x_err=0.6)
    lattice = fit_lattice(table)
    before = strain(table, lattice)
    failed = table.copy()
    failed.loc[5, ["y_err", "x_err"]] = np.nan
    failed.loc[5, "y"] += 3.0
    after = strain(failed, fit_lattice(failed))
    assert np.isnan(after.loc[5, "eyy"])
    others = after["eyy"].notna()
    np.testing.assert_allclose(after.loc[others, "eyy"], before.loc[others, "eyy"], atol=0.05)
