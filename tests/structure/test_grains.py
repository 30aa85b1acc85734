"""Grains, twins, phases and the boundaries between them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from strategies import SIGMAS, seeds

from stemkit.structure import Lattices, find_grains, fit_lattice, fit_lattices
from stemkit.structure.bases import reduced_basis
from stemkit.structure.relations import relation

A, ERROR = 0.39, 0.006  # nm
SQUARE = A * np.eye(2)[::-1]
HEXAGONAL = A * np.array([[0, 1.0], [math.sqrt(0.75), 0.5]])
angles = st.floats(0, math.pi)


def turned(degrees):
    """Rows ``(y, x)`` times this are turned from +x towards +y."""
    t = math.radians(degrees)
    return np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]])


def reflected(row):
    """Rows times this are mirrored at a line."""
    row = np.asarray(row) / np.linalg.norm(row)
    return 2 * np.outer(row, row) - np.eye(2)


def filled(vectors, half=4.0):
    reach = int(3 * half / min(np.hypot(*reduced_basis(vectors).T))) + 3
    whole = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T @ vectors
    return whole[(np.abs(whole) < half).all(axis=1)]


def bicrystal(first, second, normal, rng, half=4.0, at=0.0):
    """Table of two crystals on either side of a line, and which of the two each column belongs to."""
    one, other = filled(first, half), filled(second, half)
    one, other = one[one @ normal < at], other[other @ normal >= at]
    positions = np.vstack([one, other])
    kept = np.ones(len(positions), dtype=bool)
    for i, j in cKDTree(positions).query_pairs(0.6 * A):
        kept[max(i, j)] &= ~kept[min(i, j)]
    truth = np.repeat([0, 1], [len(one), len(other)])[kept]
    table = pd.DataFrame(positions[kept] + rng.normal(0, ERROR, (kept.sum(), 2)), columns=["y", "x"])
    table[["y_err", "x_err"]] = ERROR
    table.attrs["unit"] = "nm"
    return table, truth


def direction(angle):
    return np.array([math.cos(angle), math.sin(angle)])


def only_boundary(grains, truth):
    """The row of the boundary, and 1 if the first grain is the first crystal, otherwise -1."""
    assert len(grains.boundaries) == 1
    return grains.boundaries.iloc[0], 1 if truth[grains.labels.to_numpy() == 0].mean() < 0.5 else -1


@pytest.mark.slow
@pytest.mark.parametrize(("vectors", "symmetry"), [(SQUARE, 90), (HEXAGONAL, 60)])
def test_the_misorientation_has_its_error_and_no_bias(vectors, symmetry):
    z = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        degrees = np.linspace(4, 28, 10)[seed]
        first = vectors @ turned(rng.uniform(0, 180))
        table, truth = bicrystal(first, first @ turned(degrees), direction(rng.uniform(0, 6)), rng)
        grains = find_grains(table)
        row, sign = only_boundary(grains, truth)
        expected = (degrees + symmetry / 2) % symmetry - symmetry / 2
        z.append((sign * row["misorientation"] - expected) / row["misorientation_err"])
        assert row["same_phase"]
        assert (grains.labels.to_numpy() == (truth if sign > 0 else 1 - truth)).mean() > 0.9
        assert row["kind"] in ("low-angle boundary" if abs(expected) < 15 else "high-angle boundary", "twin")
    assert abs(np.mean(z)) < SIGMAS / np.sqrt(len(z))
    assert abs(np.mean(np.square(z)) - 1) < SIGMAS * np.sqrt(2 / len(z))


@given(seeds)
@settings(max_examples=4, deadline=None)
def test_a_twin_of_a_face_centred_crystal_is_named(seed):
    rng = np.random.default_rng(seed)
    first = 0.408 * np.array([[0, math.sqrt(0.5)], [0.5, math.sqrt(0.125)]]) @ turned(rng.uniform(0, 180))
    row_of_both = first[1]
    table, truth = bicrystal(
        first, first @ reflected(row_of_both), reflected(row_of_both) @ row_of_both @ turned(90), rng
    )
    row, _ = only_boundary(find_grains(table), truth)
    assert row["kind"] == "twin"
    # between {111} planes on both sides: 180 degrees minus twice the angle of [111] and [001], modulo the symmetry
    assert abs(row["misorientation"]) == pytest.approx(math.degrees(math.acos(1 / 3)), abs=0.1)
    along = math.degrees(math.atan2(*row_of_both))
    assert (row["direction"] - along + 90) % 180 - 90 == pytest.approx(0, abs=3)
    assert abs(row["plane_mismatch"]) < SIGMAS * row["plane_mismatch_err"]
    assert abs(row["plane_angle"]) < SIGMAS * row["plane_angle_err"]


def test_twins_of_a_monoclinic_crystal_are_mirror_images():
    first = np.array([[0, A], [0.47 * math.sin(1.4), 0.47 * math.cos(1.4)]])
    table, truth = bicrystal(first, first * [-1, 1], np.array([1.0, 0.0]), np.random.default_rng(0))
    row, _ = only_boundary(find_grains(table), truth)
    assert row["kind"] == "twin"
    assert np.isnan(row["misorientation"])
    assert row["same_phase"]
    assert row["plane_first"] in {(1, 0), (-1, 0)}


def test_domains_of_a_tetragonal_crystal_are_twins():
    first = np.array([[0, 0.390], [0.414, 0]])
    table, truth = bicrystal(
        first, first @ reflected([0.414, 0.390]), np.array([0.390, -0.414]), np.random.default_rng(0)
    )
    row, _ = only_boundary(find_grains(table), truth)
    assert row["kind"] == "twin"
    assert abs(row["misorientation"]) == pytest.approx(2 * math.degrees(math.atan(0.390 / 0.414)), abs=0.1)


@pytest.mark.parametrize("coherent", [True, False])
def test_film_and_substrate_are_phases_with_their_mismatch(coherent):
    z = []
    film = np.array([[0, 0.39], [0.41, 0]]) if coherent else 0.41 * np.eye(2)[::-1]
    for seed in range(7):
        rng = np.random.default_rng(seed)
        turn = turned(rng.uniform(0, 180))
        table, truth = bicrystal(SQUARE @ turn, film @ turn, np.array([-1.0, 0.0]) @ turn, rng)
        grains = find_grains(table)
        row, sign = only_boundary(grains, truth)
        assert row["kind"] == ("coherent interface" if coherent else "interface")
        assert not row["same_phase"]
        assert 7.5 < row["length"] < 12  # of the line through a square field of 8 nm
        mismatch = 0.0 if coherent else 0.02 / 0.4
        z.append(
            [
                (sign * row["plane_mismatch"] - mismatch) / row["plane_mismatch_err"],
                row["plane_angle"] / row["plane_angle_err"],
                row["misorientation"] / row["misorientation_err"],
            ]
        )
        assert row["strain"] == pytest.approx(0.02 / (0.39 if sign > 0 else 0.41), abs=SIGMAS * row["strain_err"])
    assert (np.abs(np.mean(np.square(z), axis=0) - 1) < SIGMAS * np.sqrt(2 / len(z))).all()


@given(angles, seeds, st.floats(0, 0.02), st.sampled_from(["square", "hexagonal"]))
@settings(max_examples=8, deadline=None)
def test_a_bent_or_strained_crystal_has_no_boundary(angle, seed, bend, kind):
    rng = np.random.default_rng(seed)
    positions = filled((SQUARE if kind == "square" else HEXAGONAL) @ turned(math.degrees(angle)))
    positions = positions @ (np.eye(2) + rng.uniform(-0.03, 0.03, (2, 2)))
    positions[:, 0] += bend / A * positions[:, 1] ** 2 / 2
    table = pd.DataFrame(positions + rng.normal(0, ERROR, positions.shape), columns=["y", "x"])
    grains = find_grains(table)
    assert len(grains.grains) == 1
    assert len(grains.boundaries) == 0
    assert len(grains.segments) == 0


def test_two_regions_of_one_lattice_are_two_grains():
    """Between them is another crystal; each grain is in contact with it, and they are not with each other."""
    rng = np.random.default_rng(0)
    outer, inner = filled(SQUARE, 6.0), filled(SQUARE @ turned(20), 6.0)
    positions = np.vstack([outer[np.abs(outer[:, 1]) > 2.2], inner[np.abs(inner[:, 1]) < 2.0]])
    table = pd.DataFrame(positions + rng.normal(0, ERROR, positions.shape), columns=["y", "x"])
    grains = find_grains(table)
    assert sorted(grains.grains["lattice"]) == [0, 0, 1]
    middle = grains.grains.index[grains.grains["lattice"] == 1][0]
    assert len(grains.boundaries) == 2
    assert ((grains.boundaries[["first", "second"]] == middle).sum(axis=1) == 1).all()
    assert grains.boundaries["length"].to_numpy() == pytest.approx(12, rel=0.1)
    for number, lattice in enumerate(grains.lattices):
        assert np.array_equal(lattice.site >= 0, grains.labels == number)
        on = lattice.site >= 0
        ideal = lattice.ideal(lattice.indices[on], lattice.site[on])
        assert positions[on] == pytest.approx(ideal + lattice.displacement[on], abs=0.05)


def test_tables_belong_together_and_local_lattices_are_those_of_the_grain():
    table, _ = bicrystal(SQUARE, SQUARE @ turned(20), direction(0.3), np.random.default_rng(1))
    table = table.set_index(pd.Index([f"c{k}" for k in range(len(table))]))
    grains = find_grains(table, fit_lattices(table))
    assert grains.labels.index.equals(table.index)
    assert grains.columns.index.equals(table.index)
    side = [grains.labels[grains.segments[s]].to_numpy() for s in ("i", "j")]
    assert (side[0] != side[1]).all()
    middle = (grains.segments[["y0", "x0"]].to_numpy() + grains.segments[["y1", "x1"]].to_numpy()) / 2
    between = (table.loc[grains.segments["i"], ["y", "x"]].to_numpy() + table.loc[grains.segments["j"], ["y", "x"]]) / 2
    assert np.hypot(*(middle - between.to_numpy()).T).max() < A
    for number, row in grains.grains.iterrows():
        local = grains.columns[grains.labels == number].dropna()
        assert np.median(local["orientation"]) == pytest.approx(row["orientation"], abs=0.1)
        assert np.median(np.hypot(local["a_y"], local["a_x"])) == pytest.approx(row["a"], rel=2e-3)
        inner = local[np.abs(local["rotation"]) < 5 * local["rotation_err"]]
        assert len(inner) > 0.8 * len(local)


def test_local_lattices_follow_a_rotation():
    """In a crystal that is bent, the orientation varies as the tangent does."""
    positions = filled(SQUARE)
    bend = 0.02 / A  # rad per nm
    positions[:, 0] += bend * positions[:, 1] ** 2 / 2
    columns = find_grains(pd.DataFrame(positions, columns=["y", "x"])).columns.dropna()
    expected = np.degrees(np.arctan(bend * columns["x"]))
    assert np.corrcoef(columns["orientation"], expected)[0, 1] > 0.999
    assert np.polyfit(expected, columns["orientation"], 1)[0] == pytest.approx(1, abs=0.02)


@given(angles, seeds, st.floats(-44, 44))
@settings(max_examples=10, deadline=None)
def test_the_relation_of_two_lattices_is_opposite_in_the_opposite_direction(angle, seed, degrees):
    rng = np.random.default_rng(seed)
    first = SQUARE @ turned(math.degrees(angle))
    one, other = (
        fit_lattice(pd.DataFrame(filled(v, 2.0) + rng.normal(0, 0.001, filled(v, 2.0).shape), columns=["y", "x"]))
        for v in (first, first @ turned(degrees))
    )
    there, back = relation(one, other, 0.03), relation(other, one, 0.03)
    assert there.rotation == pytest.approx(-back.rotation, abs=1e-6)
    assert there.rotation == pytest.approx(degrees, abs=SIGMAS * there.rotation_err)
    assert there.rotation_err == pytest.approx(back.rotation_err, rel=1e-3)


def test_tables_without_grains():
    rng = np.random.default_rng(0)
    for n in (0, 3, 60):
        table = pd.DataFrame(rng.uniform(0, 5, (n, 2)), columns=["y", "x"])
        grains = find_grains(table)
        assert (grains.labels == -1).all()
        assert len(grains.columns) == n
        assert len(grains.grains) == len(grains.boundaries) == len(grains.segments) == 0


def test_impossible_parameters_are_refused():
    table = pd.DataFrame(filled(SQUARE, 2.0), columns=["y", "x"])
    with pytest.raises(ValueError, match="coherent must be a fraction"):
        find_grains(table, coherent=0.5)
    with pytest.raises(ValueError, match="same_phase must be a fraction"):
        find_grains(table, same_phase=0.0)
    other = Lattices((fit_lattice(table),), pd.Series(np.zeros(len(table) - 1)))
    with pytest.raises(ValueError, match="fitted to this table"):
        find_grains(table.iloc[1:], other)
