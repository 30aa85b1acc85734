from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from imperfect_crystals import CRYSTALS, SPACING, Crystal, angles, inner
from scipy.spatial import cKDTree
from strategies import SIGMAS, seeds

from stemkit import AtomDetector, NoiseCalibrator, calibrated
from stemkit.structure import (
    find_vacancies,
    fit_lattice,
    missing_sites,
    site_occupancy,
    weak_columns,
)


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", CRYSTALS)
@given(angle=angles, seed=seeds)
@example(angle=1.5, seed=0)
@settings(max_examples=8)
def test_nothing_is_missing_outside_a_crystal(kind, angle, seed):
    crystal = Crystal(kind, (20, 26), angle, noise=0.02, islands=True, seed=seed)
    found = missing_sites(crystal.table, fit_lattice(crystal.table))
    # at some angles of the rectangle, the border of an island has a notch of one site between six others
    assert len(found) <= 1
    assert (found["n_neighbors"] == 6).all()


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


@pytest.mark.slow
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
    true_image = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for a, b in sites if (a, b) != tuple(vacant))
    noise = np.random.default_rng(0).normal(0, 3, true_image.shape)
    image = NoiseCalibrator().fit_transform(calibrated(100 * true_image + noise, pixel_size=0.02))
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


def test_few_places_have_the_spread_of_their_site():
    crystal = Crystal("square", missing=0.02)
    table = crystal.table
    table = table.assign(amplitude=100 * np.random.default_rng(0).normal(1, 0.05, len(table)), amplitude_err=0.5)
    missing = missing_sites(table, fit_lattice(table))
    assert len(missing) > 1
    # the columns of the site, not the neighbours of each place, have a spread of 5
    assert missing["spread"].between(3.5, 7.0).all()
