from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imperfect_crystals import CRYSTALS, SPACING, Crystal, angles, kinds, square_table
from scipy.spatial import cKDTree
from strategies import SIGMAS, seeds

from stemkit.structure import (
    fit_lattice,
)


@pytest.mark.slow
@settings(max_examples=30)
@given(kinds, angles, seeds, st.floats(0.0, 0.05))
def test_lattices_of_any_kind_and_tilt_are_found(kind, angle, seed, noise):
    crystal = Crystal(kind, (14, 18), angle, noise, missing=0.1, false=0.05, seed=seed)
    crystal.check(fit_lattice(crystal.table), wrong=0.03)


@pytest.mark.parametrize("kind", CRYSTALS)
@pytest.mark.parametrize(
    "imperfection",
    [{"bend": 0.25}, {"stretch": 0.03}, {"islands": True}, {"cells": (8, 40)}, {"missing": 0.2, "false": 0.1}],
    ids=["bent", "stretched", "islands", "strip", "holes"],
)
def test_lattices_of_imperfect_crystals_are_found(kind, imperfection):
    crystal = Crystal(kind, **({"cells": (24, 24), "missing": 0.1, "false": 0.05} | imperfection))
    crystal.check(fit_lattice(crystal.table), accuracy=0.03, wrong=0.03)


def test_indices_are_right_across_a_strong_bend():
    crystal = Crystal("square", (12, 60), angle=0.0, noise=0.02, bend=0.8)
    lattice = fit_lattice(crystal.table)
    # neighbours in the table are neighbours in the lattice, though displacements grow to cells
    assert np.nanmax(np.abs(lattice.displacement)) > SPACING
    near = cKDTree(crystal.positions).query_pairs(1.25 * SPACING, output_type="ndarray")
    step = np.abs(lattice.indices[near[:, 0]] - lattice.indices[near[:, 1]]).sum(axis=1)
    assert (step == 1).all()


def test_each_place_holds_one_column():
    crystal = Crystal("honeycomb", false=0.3)
    lattice = fit_lattice(crystal.table)
    used = lattice.site >= 0
    places = np.column_stack([lattice.indices[used], lattice.site[used]])
    assert len(np.unique(places, axis=0)) == used.sum()


@pytest.mark.slow
@settings(max_examples=20)
@given(kinds, seeds, st.floats(0.005, 50.0), st.floats(-1e3, 1e3))
def test_the_lattice_moves_and_scales_with_the_columns(kind, seed, scale, shift):
    table = Crystal(kind, seed=seed, missing=0.05).table
    lattice = fit_lattice(table)
    other = fit_lattice(table.assign(y=table["y"] * scale + shift, x=table["x"] * scale - shift))
    assert other.vectors == pytest.approx(scale * lattice.vectors, abs=1e-6 * scale * SPACING)
    assert other.vectors_err == pytest.approx(scale * lattice.vectors_err, rel=1e-3)
    assert np.array_equal(other.indices, lattice.indices)
    assert np.array_equal(other.site, lattice.site)


@pytest.mark.slow
@given(kinds, seeds)
@settings(max_examples=10)
def test_displacements_are_from_the_ideal_places(kind, seed):
    crystal = Crystal(kind, noise=0.02, false=0.1, seed=seed)
    lattice = fit_lattice(crystal.table)
    used = lattice.site >= 0
    ideal = lattice.ideal(lattice.indices[used], lattice.site[used])
    assert lattice.displacement[used] == pytest.approx(crystal.positions[used] - ideal, abs=1e-9)
    assert np.isnan(lattice.displacement[~used]).all()
    assert (lattice.indices[~used] == 0).all()
    assert (~used).any()


@pytest.mark.slow
@pytest.mark.parametrize("stated", ["errors", "no errors", "too small"])
def test_errors_of_the_lattice_are_standard_deviations(stated):
    draws, pulls, n = [], [], 60
    rng = np.random.default_rng(1)
    truth = Crystal("honeycomb", (10, 10), noise=0.0)
    ideal = fit_lattice(truth.table)
    sigma = rng.uniform(0.1, 1.0, (len(truth.table), 2))
    for seed in range(n):
        at = truth.positions + np.random.default_rng(seed).normal(size=sigma.shape) * sigma
        table = truth.table.assign(y=at[:, 0], x=at[:, 1])
        if stated != "no errors":
            table[["y_err", "x_err"]] = sigma * (0.2 if stated == "too small" else 1.0)
        lattice = fit_lattice(table)
        draws.append(lattice)
        difference = [lattice.vectors - ideal.vectors, (lattice.sites - ideal.sites)[1:]]
        errors = [lattice.vectors_err, lattice.sites_err[1:]]
        own = [np.append(lattice.lengths - ideal.lengths, lattice.angle - ideal.angle)]
        own_err = [np.append(lattice.lengths_err, lattice.angle_err)]
        pulls.append(np.concatenate([(d / e).ravel() for d, e in zip(difference + own, errors + own_err, strict=True)]))
    rms = np.sqrt(np.mean(np.square(pulls), axis=0))
    # a standard deviation from n draws has a relative error of 1 / sqrt(2 n)
    assert np.abs(rms - 1).max() < SIGMAS / math.sqrt(2 * n)
    scatter = np.mean([lattice.scatter for lattice in draws])
    assert scatter < 0.2 if stated == "errors" else scatter > 0.3


def test_known_vectors_and_origin_are_starting_points():
    crystal = Crystal("perovskite", angle=0.2)
    given_, found = crystal.vectors * 1.02, np.array([310.0, 290.0])
    lattice = fit_lattice(crystal.table, vectors=given_, origin=found)
    assert lattice.vectors == pytest.approx(crystal.vectors, abs=0.05)
    assert np.hypot(*(lattice.origin - found)) < SPACING
    # twice the cell has twice the sites
    doubled = fit_lattice(crystal.table, vectors=crystal.vectors * [[2], [1]])
    assert len(doubled.sites) == 4


def test_alternating_brightness_makes_the_cell_larger():
    crystal = Crystal("perovskite")
    assert len(fit_lattice(crystal.table).sites) == 2
    for small in (fit_lattice(crystal.table, order=False), fit_lattice(crystal.table[["y", "x"]])):
        assert len(small.sites) == 1
        assert small.lengths == pytest.approx(SPACING / math.sqrt(2), rel=0.01)


@given(seeds)
@settings(max_examples=15)
def test_brightness_without_order_does_not_change_the_cell(seed):
    table = Crystal("square", (9, 9), seed=seed).table
    brightness = np.random.default_rng(seed).uniform(0.3, 1.0, len(table))
    assert len(fit_lattice(table.assign(amplitude=brightness)).sites) == 1


@pytest.mark.slow
@given(angles, seeds)
@settings(max_examples=10)
def test_a_zigzag_makes_the_cell_larger(angle, seed):
    crystal = Crystal("square", (16, 16), angle, noise=0.02, missing=0.05, seed=seed)
    flat = fit_lattice(crystal.table)
    assert len(flat.sites) == 1
    b = flat.vectors[1]
    table = crystal.table.copy()
    table[["y", "x"]] += np.where(flat.indices[:, :1] % 2 == 1, 0.06, -0.06) * b
    assert len(fit_lattice(table, order=False).sites) == 1
    lattice = fit_lattice(table)
    assert sorted(lattice.lengths) == pytest.approx([SPACING, 2 * SPACING], rel=0.01)
    # half the larger vector along, 0.12 of the other across
    place = np.abs(lattice.sites[1] - np.round(lattice.sites[1]))
    along = place[:: 1 if lattice.lengths[0] > lattice.lengths[1] else -1]
    assert along == pytest.approx([0.5, 0.12], abs=0.01)


def test_lines_that_jitter_are_no_zigzag():
    for seed in range(30):
        crystal = Crystal("square", (10, 14), angle=0.0, noise=0.01)
        lines = np.round(crystal.positions[:, 0] / SPACING).astype(int)
        jitter = np.random.default_rng(seed).normal(0, 0.06 * SPACING, lines.max() + 1)
        table = crystal.table.assign(x=crystal.table["x"] + jitter[lines])
        assert len(fit_lattice(table).sites) == 1


def test_nine_columns_are_sufficient():
    y, x = np.mgrid[0:3, 0:3].reshape(2, -1) * SPACING
    lattice = fit_lattice(pd.DataFrame({"y": y, "x": x}))
    assert lattice.vectors == pytest.approx(np.array([[0, SPACING], [SPACING, 0]]), abs=1e-6)
    assert (lattice.site == 0).all()


@pytest.mark.slow
def test_many_columns():
    crystal = Crystal("perovskite", (100, 100), angle=1.1, missing=0.1, false=0.05)
    assert len(crystal.table) > 18_000
    crystal.check(fit_lattice(crystal.table), accuracy=1e-4, wrong=0.01)


def test_failed_fits_have_a_place_but_no_weight():
    crystal = Crystal("square")
    table = crystal.table.assign(y_err=0.6, x_err=0.6)
    before = fit_lattice(table)
    failed = table.copy()
    failed.loc[5, ["y_err", "x_err"]] = np.nan
    failed.loc[5, "y"] += 3.0
    after = fit_lattice(failed)
    assert after.site[5] == 0
    assert after.displacement[5, 0] == pytest.approx(before.displacement[5, 0] + 3.0, abs=0.2)
    assert after.vectors == pytest.approx(before.vectors, abs=0.02)


def test_a_lattice_describes_itself():
    text = repr(fit_lattice(Crystal("perovskite", noise=0.01).table))
    assert text.startswith("Lattice(a=")
    assert "2 sites" in text
    assert "px" in text


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_columns_are_refused(n):
    with pytest.raises(ValueError, match=f"at least 6 columns for a lattice, but contains {n}"):
        fit_lattice(square_table().head(n))


def test_columns_without_a_lattice_are_refused():
    at = np.random.default_rng(0).uniform(0, 400, (300, 2))
    with pytest.raises(ValueError, match="must contain a lattice, but among its 300 columns"):
        fit_lattice(pd.DataFrame({"y": at[:, 0], "x": at[:, 1]}))
    line = pd.DataFrame({"y": np.zeros(20), "x": np.arange(20.0)})
    with pytest.raises(ValueError, match="no two directions are periodic"):
        fit_lattice(line)
    with pytest.raises(ValueError, match="in several cells along two directions"):
        fit_lattice(line, vectors=[[0, 1], [1, 0]])
