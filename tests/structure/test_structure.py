from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from strategies import SIGMAS, seeds

from stemkit import AtomDetector, NoiseCalibrator, calibrated
from stemkit.structure import (
    displacement_map,
    find_vacancies,
    fit_lattice,
    missing_sites,
    neighbor_distances,
    pixel_size,
    site_occupancy,
    strain,
    strain_map,
    sublattices,
    weak_columns,
)

#: Vectors, sites and brightness of crystals, the shortest vector being 1.
CRYSTALS = {
    "square": (np.eye(2)[::-1], [(0, 0)], [1.0]),
    "rectangle": (np.array([[0, 1.0], [1.7, 0]]), [(0, 0)], [1.0]),
    "hexagonal": (np.array([[0, 1.0], [math.sqrt(3) / 2, 0.5]]), [(0, 0)], [1.0]),
    "honeycomb": (np.array([[0, 1.0], [math.sqrt(3) / 2, 0.5]]), [(0, 0), (1 / 3, 1 / 3)], [1.0, 0.6]),
    "perovskite": (np.eye(2)[::-1], [(0, 0), (0.5, 0.5)], [1.0, 0.5]),
    "dumbbells": (np.array([[0, 1.0], [1.41, 0]]), [(0, 0), (0.35, 0.0)], [1.0, 1.0]),
}
SPACING = 20.0
kinds = st.sampled_from(sorted(CRYSTALS))
angles = st.floats(0, math.pi)


class Crystal:
    """Columns of a crystal in px with everything that goes wrong, and the truth about them."""

    def __init__(
        self, kind="square", cells=(16, 16), angle=0.3, noise=0.03, missing=0.0, false=0.0, bend=0.0, stretch=0.0,
        islands=False, seed=0,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        vectors, sites, brightness = CRYSTALS[kind]
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        self.vectors = SPACING * vectors @ turn
        reach = 2 * max(cells)
        cell = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
        ideal = np.concatenate([(cell + np.array(s)) @ self.vectors for s in sites])
        self.site = np.repeat(np.arange(len(sites)), len(cell))
        size = SPACING * np.array(cells)
        inside = (np.abs(ideal) <= size / 2).all(axis=1)
        if islands:
            inside &= (np.abs(np.abs(ideal[:, 1]) - size[1] / 4) < 0.19 * size[1]) & (np.abs(ideal[:, 0]) < size[0] / 3)
        ideal, self.site = ideal[inside], self.site[inside]
        self.nearest = nearest(ideal)
        at = _bent(ideal, bend, stretch, size)
        at = at + rng.normal(0, noise * self.nearest, at.shape)
        amplitude = np.array(brightness)[self.site] * rng.normal(1, 0.04, len(at))
        there = rng.random(len(at)) >= missing
        extra = rng.uniform(at.min(axis=0), at.max(axis=0), (round(false * len(at)), 2))
        self.gone, self.gone_site = at[~there] + size, self.site[~there]
        self.site = np.concatenate([self.site[there], np.full(len(extra), -1)])
        order = rng.permutation(len(self.site))
        self.site = self.site[order]
        self.positions = np.concatenate([at[there], extra])[order] + size
        brightness = np.concatenate([amplitude[there], rng.uniform(0.3, 1, len(extra))])[order]
        self.table = pd.DataFrame({"y": self.positions[:, 0], "x": self.positions[:, 1], "amplitude": brightness})

    def check(self, lattice, accuracy=0.01, wrong=0.02):
        """The lattice is the true one, and columns belong where they came from, but for a share of them."""
        change = lattice.vectors @ np.linalg.inv(self.vectors)
        assert np.round(abs(np.linalg.det(change))) == 1
        assert np.abs(change - np.round(change)).max() < accuracy
        assert len(lattice.sites) == self.site.max() + 1
        real = self.site >= 0
        counts = pd.crosstab(self.site[real], lattice.site[real]).reindex(columns=range(len(lattice.sites))).fillna(0)
        assert len(set(counts.to_numpy().argmax(axis=1))) == len(lattice.sites)
        assert counts.to_numpy().max(axis=1).sum() >= (1 - wrong) * real.sum()


def _bent(at, bend, stretch, size):
    """Rows of columns on circles that turn by ``bend`` across the field, and x stretched by it to one side."""
    at = at.copy()
    at[:, 1] += stretch * np.where(at[:, 1] > 0, at[:, 1], 0)
    if bend:
        radius = size[1] / bend
        turn = at[:, 1] / radius
        at = np.stack([radius - (radius - at[:, 0]) * np.cos(turn), (radius - at[:, 0]) * np.sin(turn)], axis=1)
    return at


def nearest(positions):
    return float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))


# --- lattice -----------------------------------------------------------------------------------------------------


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


# --- sublattices and distances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["perovskite", "honeycomb"])
def test_sublattices_are_by_falling_brightness(kind):
    crystal = Crystal(kind, missing=0.05)
    table = crystal.table.set_index(np.arange(len(crystal.table)) * 3 + 7)
    labels = sublattices(table, fit_lattice(table))
    assert labels.index.equals(table.index)
    assert (labels.to_numpy() == crystal.site).mean() > 0.99
    assert (sublattices(table).to_numpy() == crystal.site).mean() > 0.99


def test_sites_of_one_kind_are_put_together():
    crystal = Crystal("dumbbells")
    lattice = fit_lattice(crystal.table)
    assert sublattices(crystal.table, lattice).nunique() == 2
    assert (sublattices(crystal.table, lattice, n=1) == 0).all()


def test_a_site_of_two_kinds_is_divided():
    crystal = Crystal("square", (24, 24))
    rng = np.random.default_rng(0)
    heavy = rng.random(len(crystal.table)) < 0.3
    table = crystal.table.assign(amplitude=crystal.table["amplitude"] * np.where(heavy, 2.0, 1.0))
    labels = sublattices(table, fit_lattice(table))
    assert (labels.to_numpy() == np.where(heavy, 0, 1)).mean() > 0.99


def test_columns_off_the_lattice_are_on_no_sublattice():
    crystal = Crystal("square", false=0.2)
    lattice = fit_lattice(crystal.table)
    labels = sublattices(crystal.table, lattice)
    assert np.array_equal(labels == -1, lattice.site == -1)
    assert (labels == -1).sum() > 10


def test_distances_and_their_errors():
    table = pd.DataFrame({"y": [0.0, 4.0, 100.0], "x": [0.0, 3.0, 0.0], "y_err": 0.1, "x_err": 0.2, "x_jitter": 0.5})
    pairs = neighbor_distances(table)
    assert list(zip(pairs["i"], pairs["j"], strict=True)) == [(0, 1), (2, 1)]
    assert pairs["distance"][0] == 5.0
    assert pairs["distance_err"][0] == pytest.approx(math.sqrt(2 * (0.1 * 0.8) ** 2 + 2 * (0.2 * 0.6) ** 2))
    assert pairs["distance_jitter"][0] == pytest.approx(math.sqrt(2) * 0.5 * 0.6)
    assert pairs["angle"][0] == pytest.approx(math.degrees(math.atan2(4, 3)))


@given(kinds, seeds, st.integers(1, 5))
@settings(max_examples=15)
def test_distances_are_those_of_the_nearest(kind, seed, k):
    crystal = Crystal(kind, (6, 6), seed=seed)
    pairs = neighbor_distances(crystal.table, k)
    all_ = cKDTree(crystal.positions).query(crystal.positions, k=k + 1)[0][:, 1:]
    reached = set(np.round(pairs["distance"], 9))
    assert reached == set(np.round(all_.ravel(), 9))
    assert not pairs.apply(lambda p: frozenset((p["i"], p["j"])), axis=1).duplicated().any()


def test_distances_between_sublattices():
    crystal = Crystal("perovskite", noise=0.01)
    labels = sublattices(crystal.table, fit_lattice(crystal.table))
    pairs = neighbor_distances(crystal.table, 1, labels=labels, between=(0, 1))
    assert pairs["distance"].median() == pytest.approx(SPACING / math.sqrt(2), rel=0.03)
    assert (labels[pairs["i"]] == 0).all()
    assert (labels[pairs["j"]] == 1).all()
    assert len(pairs) == (labels == 0).sum()
    same = neighbor_distances(crystal.table, 1, labels=labels, between=(1, 1))
    assert same["distance"].median() == pytest.approx(SPACING, rel=0.03)


def test_the_pixel_size_follows_from_a_known_length():
    crystal = Crystal("square", noise=0.02)
    lattice = fit_lattice(crystal.table)
    size = pixel_size(lattice, 0.3905)
    assert abs(size.value - 0.3905 / SPACING) < SIGMAS * size.error
    assert size.error < 1e-3 * size.value
    in_nm = crystal.table.assign(y_px=crystal.table["y"], x_px=crystal.table["x"], y=crystal.table["y"] * 0.03)
    in_nm["x"] *= 0.03
    assert pixel_size(in_nm, 0.3905).value == pytest.approx(size.value)
    rectangle = fit_lattice(Crystal("rectangle", angle=0.0, noise=0.01).table)
    assert pixel_size(rectangle, (0.4, 0.68)).value == pytest.approx(0.02, rel=1e-3)
    assert pixel_size(rectangle, 0.4).value == pytest.approx(0.02, rel=1e-3)
    # lengths that disagree widen the error
    assert pixel_size(rectangle, (0.4, 0.70)).error == pytest.approx(0.0003, rel=0.2)


# --- missing columns ---------------------------------------------------------------------------------------------


def inner(positions, margin):
    low, high = positions.min(axis=0) + margin, positions.max(axis=0) - margin
    return lambda at: ((at > low) & (at < high)).all(axis=1)


@pytest.mark.parametrize("kind", CRYSTALS)
@pytest.mark.parametrize("bend", [0.0, 0.25], ids=["flat", "bent"])
def test_missing_columns_are_where_they_were(kind, bend):
    noise = 0.02
    crystal = Crystal(kind, (24, 24), noise=noise, missing=0.04, bend=bend)
    found = missing_sites(crystal.table, fit_lattice(crystal.table))
    off, which = cKDTree(crystal.gone).query(found[["y", "x"]])
    assert (off < 0.3 * crystal.nearest).all()
    # the column's own deviation and that of the mean of some neighbours
    rms = math.sqrt((off**2).mean() / 2)
    assert rms < noise * crystal.nearest * (1 + SIGMAS / math.sqrt(4 * len(off))) * math.sqrt(1.4) + 0.004 * SPACING
    deep = inner(crystal.positions, 5 * SPACING)(crystal.gone)
    assert np.isin(np.flatnonzero(deep), which).mean() > 0.9
    assert (found["n_neighbors"] >= 5).all()
    if kind == "perovskite":
        bright = np.array([1.0, 0.5])[crystal.gone_site[which]]
        assert found["expected"].to_numpy() / bright == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("kind", CRYSTALS)
@given(angle=angles, seed=seeds)
@settings(max_examples=8)
def test_nothing_is_missing_outside_a_crystal(kind, angle, seed):
    crystal = Crystal(kind, (20, 26), angle, noise=0.02, islands=True, seed=seed)
    assert len(missing_sites(crystal.table, fit_lattice(crystal.table))) == 0


def test_a_faint_column_or_a_stray_one_fills_its_place():
    crystal = Crystal("square", noise=0.01)
    table = crystal.table
    middle = int(np.argmin(((crystal.positions - crystal.positions.mean(axis=0)) ** 2).sum(axis=1)))
    without = table.drop(index=middle).reset_index(drop=True)
    assert len(missing_sites(without, fit_lattice(without))) == 1
    moved = table.copy()
    moved.loc[middle, "y"] += 0.25 * SPACING
    assert len(missing_sites(moved, fit_lattice(moved))) == 0


def test_places_at_the_border_need_the_shape():
    y, x = np.mgrid[0:10, 0:10].reshape(2, -1) * SPACING + SPACING / 2
    table = pd.DataFrame({"y": y, "x": x, "sigma": 2.0}).drop(index=4).reset_index(drop=True)
    lattice = fit_lattice(table)
    assert len(missing_sites(table, lattice)) == 0
    found = missing_sites(table, lattice, (200, 200))
    assert found[["y", "x"]].to_numpy() == pytest.approx(np.array([[10.0, 90.0]]))
    # with more of the image, the crystal ends within it, and nothing says that it went on
    assert len(missing_sites(table.assign(y=table["y"] + 200), fit_lattice(table), (400, 200))) <= 1


def test_missing_columns_in_both_units():
    crystal = Crystal("square", missing=0.05)
    size = 0.02
    in_px = missing_sites(crystal.table, fit_lattice(crystal.table))
    table = crystal.table.assign(y_px=crystal.table["y"], x_px=crystal.table["x"])
    table["y"], table["x"] = table["y"] * size + 7, table["x"] * size - 3
    found = missing_sites(table, fit_lattice(table))
    assert found["y_px"].to_numpy() == pytest.approx(in_px["y_px"].to_numpy())
    assert found["x"].to_numpy() == pytest.approx(in_px["x_px"].to_numpy() * size - 3)
    assert fit_lattice(table).unit == "nm"


def test_vacancies_are_distinguished_from_missed_columns():
    crystal = Crystal("square", (24, 24), missing=0.05)
    error, rng = 0.05, np.random.default_rng(0)
    table = crystal.table.assign(amplitude_err=0.0)
    missing = missing_sites(table, fit_lattice(table))
    missed = rng.random(len(missing)) < 0.5
    measured = pd.DataFrame({"amplitude": missed + rng.normal(0, error, len(missing)), "amplitude_err": error})
    found = site_occupancy(missing, measured)
    assert (found["significance"][~missed] > 8).all()
    assert (found["significance"][missed].abs() < SIGMAS).all()
    assert (found["presence"][missed] > 10).all()
    assert (found["presence"][~missed].abs() < SIGMAS).all()
    pull = (found["occupancy"] - missed) / found["occupancy_err"]
    assert pull.abs().max() < SIGMAS
    assert pull.std() == pytest.approx(1, abs=0.4)
    first = found.iloc[0]
    assert first["significance"] == pytest.approx(
        (first["expected"] - first["amplitude"]) / math.hypot(error, first["spread"])
    )


class Measurement:
    """Measures a brightness of 1 at hidden columns and 0 at vacancies, with an error."""

    def __init__(self, hidden, error, rng):
        self.tree, self.error, self.rng = cKDTree(hidden), error, rng

    def is_column(self, sites):
        return self.tree.query(sites[["y", "x"]])[0] < SPACING / 3

    def measure(self, image, sites, *, neighbors, fix_positions):
        assert fix_positions
        brightness = self.is_column(sites) + self.rng.normal(0, self.error, len(sites))
        return pd.DataFrame({"amplitude": brightness, "amplitude_err": self.error})


def test_false_vacancies_are_rarer_than_the_stated_rate():
    false_fraction, power, unadjusted = [], [], []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        crystal = Crystal("square", (24, 24), missing=0.06, seed=seed)
        table, lattice = crystal.table.assign(amplitude_err=0.0), fit_lattice(crystal.table)
        detector = Measurement(crystal.gone[rng.random(len(crystal.gone)) < 0.9], 0.25, rng)
        found = find_vacancies(table, lattice, np.zeros((500, 500)), detector)
        wrong = detector.is_column(found)
        false_fraction.append((found["vacant"] & wrong).sum() / max(found["vacant"].sum(), 1))
        power += found["vacant"][~wrong].tolist()
        unadjusted += (found["significance"][wrong] > 1.645).tolist()
    assert np.mean(false_fraction) <= 0.05
    assert np.mean(power) > 0.5
    # without the adjustment, one in twenty columns would be called a vacancy
    assert np.mean(unadjusted) == pytest.approx(0.05, abs=SIGMAS * math.sqrt(0.05 * 0.95 / len(unadjusted)))


def test_vacancies_of_an_image():
    y, x = np.mgrid[0:128, 0:128]
    sites = np.mgrid[8:128:16, 8:128:16].reshape(2, -1).T
    vacant, missed = sites[27], sites[37]
    clean = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for a, b in sites if (a, b) != tuple(vacant))
    noise = np.random.default_rng(0).normal(0, 3, clean.shape)
    image = NoiseCalibrator().fit_transform(calibrated(100 * clean + noise, pixel_size=0.02))
    detector = AtomDetector().fit(image)
    table = detector.transform(image)
    table = table[np.hypot(*(table[["y_px", "x_px"]] - missed).to_numpy().T) > 8].reset_index(drop=True)
    found = find_vacancies(table, fit_lattice(table), image, detector)
    assert len(found) == 2
    (one,) = found[found["vacant"]].itertuples()
    assert (one.y_px, one.x_px) == pytest.approx(tuple(vacant), abs=0.5)
    assert found.loc[~found["vacant"], "occupancy"].item() == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match="false_discovery_rate must be a fraction above 0 and below 1, but is 5"):
        find_vacancies(table, fit_lattice(table), image, detector, false_discovery_rate=5)


def test_a_crystal_without_missing_sites_has_no_vacancies():
    table = Crystal("square", (12, 12)).table
    found = find_vacancies(
        table, fit_lattice(table), np.zeros((300, 300)), Measurement([[0, 0]], 0.1, np.random.default_rng(0))
    )
    assert len(found) == 0
    assert found["vacant"].dtype == bool


def test_a_failed_measurement_decides_nothing():
    missing = pd.DataFrame({"expected": [1.0], "spread": [0.1]})
    measured = pd.DataFrame({"amplitude": [0.0], "amplitude_err": [np.nan], "quality": [2]})
    found = site_occupancy(missing, measured)
    assert found[["significance", "presence", "occupancy"]].isna().all(axis=None)


def test_weak_columns_are_found_and_others_are_not():
    crystal = Crystal("perovskite", (24, 24))
    table = crystal.table.assign(amplitude_err=0.01)
    weak = np.flatnonzero(crystal.site == 1)[10:200:19]
    table.loc[weak, "amplitude"] *= 0.4
    lattice = fit_lattice(table)
    found = weak_columns(table, lattice, significance=5.0)
    assert set(found.index) == set(weak)
    assert found["occupancy"].to_numpy() == pytest.approx(0.4, abs=0.07)
    assert found["significance"].is_monotonic_decreasing
    every = weak_columns(table, lattice, significance=-math.inf)
    assert len(every) > 0.98 * len(table)
    z = every["significance"].drop(index=weak)
    assert z.std() == pytest.approx(1, abs=0.15)


# --- strain ------------------------------------------------------------------------------------------------------


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


# --- refusals ----------------------------------------------------------------------------------------------------


def square_table():
    return Crystal("square", (6, 6)).table


@pytest.mark.parametrize(
    "function",
    [
        fit_lattice,
        sublattices,
        neighbor_distances,
        lambda t: missing_sites(t, fit_lattice(square_table())),
        lambda t: weak_columns(t, fit_lattice(square_table())),
        lambda t: strain(t, fit_lattice(square_table())),
        lambda t: strain_map(t, fit_lattice(square_table()), np.zeros((9, 9))),
        lambda t: displacement_map(t, fit_lattice(square_table()), np.zeros((9, 9))),
        lambda t: pixel_size(t, 0.4),
    ],
)
def test_tables_that_are_none_are_refused(function):
    table = square_table()
    with pytest.raises(ValueError, match=r'one image, but contains 2: choose one with table\[table\["image"\] == 0\]'):
        function(table.assign(image=np.arange(len(table)) % 2))
    with pytest.raises(ValueError, match="the columns y and x, but lacks x"):
        function(table.drop(columns="x"))
    with pytest.raises(TypeError, match=r"table must be the result of AtomDetector.*, a DataFrame, but is"):
        function(table.to_numpy())


def test_positions_must_be_finite():
    table = square_table()
    table.loc[3, "x"] = np.nan
    with pytest.raises(ValueError, match=r"finite positions, but 1 row\(s\) have none, the first at index 3"):
        fit_lattice(table)


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


def test_impossible_parameters_are_refused():
    table = square_table()
    lattice = fit_lattice(table)
    with pytest.raises(ValueError, match=r"vectors must be two rows \(y, x\)"):
        fit_lattice(table, vectors=[1.0, 2.0])
    with pytest.raises(ValueError, match="vectors must point in two directions"):
        fit_lattice(table, vectors=[[1, 0], [2, 0]])
    with pytest.raises(ValueError, match=r"origin must be two finite numbers \(y, x\)"):
        fit_lattice(table, origin=[1.0])
    with pytest.raises(ValueError, match="lattice must have been fitted to this table"):
        strain(table.head(10), lattice)
    with pytest.raises(ValueError, match=r"min_neighbors must be an integer from 3 to 8, but is 9"):
        missing_sites(table, lattice, min_neighbors=9)
    with pytest.raises(ValueError, match="one row for each of the 2 missing sites, but has 1"):
        site_occupancy(pd.DataFrame({"expected": [1, 1], "spread": 0}), pd.DataFrame({"amplitude": [1]}))
    with pytest.raises(ValueError, match="table must have the column 'intensity'"):
        weak_columns(table, lattice, by="intensity")
    with pytest.raises(ValueError, match="table must have the column 'amplitude'"):
        sublattices(table[["y", "x"]])
    with pytest.raises(ValueError, match="n must be at most 1, the number of sites of the lattice"):
        sublattices(table, lattice, n=2)
    with pytest.raises(ValueError, match="n must be an integer of at least 1 or None"):
        sublattices(table, n=0)
    with pytest.raises(ValueError, match="number of different amplitudes, 1, but is 2"):
        sublattices(table.assign(amplitude=1.0), n=2)
    with pytest.raises(ValueError, match="n_neighbors must be an integer of at least 1, but is 0"):
        neighbor_distances(table, 0)
    with pytest.raises(ValueError, match="labels must be the sublattice of each"):
        neighbor_distances(table, between=(0, 1))
    with pytest.raises(ValueError, match=r"between must be two sublattices of \[0\]"):
        neighbor_distances(table, labels=sublattices(table, lattice), between=(0, 1))
    with pytest.raises(ValueError, match="spacing must be one or two positive numbers of nm"):
        pixel_size(lattice, -1.0)
    with pytest.raises(ValueError, match="reference must be two independent rows"):
        strain(table, lattice, reference=[[1, 0], [1, 0]])
    with pytest.raises(ValueError, match="coarsen must be an integer from 1 to"):
        strain_map(table, lattice, np.zeros((9, 9)), coarsen=0)
    with pytest.raises(ValueError, match="like must be a single image, but is a stack of 2"):
        strain_map(table, lattice, np.zeros((2, 9, 9)))


def test_a_lattice_in_nm_has_no_pixels():
    table = square_table()
    table = table.assign(y_px=table["y"] * 50, x_px=table["x"] * 50)
    with pytest.raises(ValueError, match="source must be a lattice in px, but is in nm: give the table"):
        pixel_size(fit_lattice(table), 0.4)


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


def test_few_places_have_the_spread_of_their_site():
    crystal = Crystal("square", missing=0.02)
    table = crystal.table
    table = table.assign(amplitude=100 * np.random.default_rng(0).normal(1, 0.05, len(table)), amplitude_err=0.5)
    missing = missing_sites(table, fit_lattice(table))
    assert len(missing) > 1
    # the columns of the site, not the neighbours of each place, have a spread of 5
    assert missing["spread"].between(3.5, 7.0).all()
