from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imperfect_crystals import SPACING, Crystal, kinds, square_table
from scipy.spatial import cKDTree
from strategies import SIGMAS, seeds

from stemkit.structure import (
    fit_lattice,
    neighbor_distances,
    pixel_size,
    sublattices,
)


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


def test_a_lattice_in_nm_has_no_pixels():
    table = square_table()
    table = table.assign(y_px=table["y"] * 50, x_px=table["x"] * 50)
    with pytest.raises(ValueError, match="source must be a lattice in px, but is in nm: give the table"):
        pixel_size(fit_lattice(table), 0.4)
