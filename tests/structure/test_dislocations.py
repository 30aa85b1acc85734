"""Burgers vectors of dislocations whose displacement fields are known."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from strategies import SIGMAS, seeds

from stemkit.structure import find_dislocations, find_grains, fit_lattice
from stemkit.structure.bases import reduced_basis

A, ERROR = 0.39, 0.008  # nm
CELLS = {
    "square": [[0, 1.0], [1.0, 0]],
    "rectangular": [[0, 1.0], [1.2, 0]],
    "centred": [[0, 1.0], [0.9, 0.5]],
    "hexagonal": [[0, 1.0], [math.sqrt(0.75), 0.5]],
    "oblique": [[0, 1.0], [1.1, 0.25]],
}
angles = st.floats(0, math.pi)


def cell(kind, angle):
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return A * np.array(CELLS[kind]) @ turn


def filled(vectors, half=4.5, sites=((0.0, 0.0),)):
    reach = int(3 * half / min(np.hypot(*reduced_basis(vectors).T))) + 3
    cells = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    whole = np.concatenate([(cells + np.array(site)) @ vectors for site in sites])
    return whole[(np.abs(whole) < half).all(axis=1)]


def edge_field(positions, core, burgers, poisson=0.3):
    """Displacements of an edge dislocation in an isotropic crystal, Hirth and Lothe (1982), eq. 3-45."""
    length = math.hypot(*burgers)
    along = np.asarray(burgers) / length
    across = np.array([along[1], -along[0]])  # a quarter turn from +x towards +y
    xi, eta = (positions - core) @ along, (positions - core) @ across
    r2, stiff = xi**2 + eta**2, 1 - poisson
    u_along = length / (2 * math.pi) * (np.arctan2(eta, xi) + xi * eta / (2 * stiff * r2))
    logarithm = (1 - 2 * poisson) / (4 * stiff) * np.log(r2 / length**2)
    u_across = -length / (2 * math.pi) * (logarithm + (xi**2 - eta**2) / (4 * stiff * r2))
    return np.outer(u_along, along) + np.outer(u_across, across)


def measured(positions, rng, nearest=0.5 * A, error=ERROR):
    """Table without columns that overlap at the core."""
    kept = np.ones(len(positions), dtype=bool)
    for i, j in cKDTree(positions).query_pairs(nearest):
        kept[max(i, j)] &= ~kept[min(i, j)]
    table = pd.DataFrame(positions[kept] + rng.normal(0, error, (kept.sum(), 2)), columns=["y", "x"])
    table[["y_err", "x_err"]] = error
    return table


def lattice_of(table):
    with warnings.catch_warnings():
        # two halves of different tilt may look like two lattices
        warnings.simplefilter("ignore", UserWarning)
        return fit_lattice(table, order=False)


@pytest.mark.slow
@given(st.sampled_from(sorted(CELLS)), angles, seeds, st.sampled_from([(1, 0), (0, 1), (-1, 0), (0, -1)]))
@settings(max_examples=15, deadline=None)
def test_burgers_vectors_and_cores_are_those_of_the_field(kind, angle, seed, whole):
    rng = np.random.default_rng(seed)
    vectors = reduced_basis(cell(kind, angle))
    burgers, core = np.array(whole) @ vectors, rng.uniform(-2, 2, 2)
    perfect = filled(vectors)
    table = measured(perfect + edge_field(perfect, core, burgers), rng)
    lattice = lattice_of(table)
    found = find_dislocations(table, lattice)
    assert len(found) == 1
    row = found.iloc[0]
    assert row[["burgers_y", "burgers_x"]].to_numpy(dtype=float) == pytest.approx(burgers, abs=0.03 * A)
    assert row["length"] == pytest.approx(np.hypot(row["burgers_y"], row["burgers_x"]))
    near = row[["burgers_a", "burgers_b"]].to_numpy(dtype=float) @ lattice.vectors
    assert near == pytest.approx(burgers, abs=0.1 * A)
    assert np.hypot(row["y"] - core[0], row["x"] - core[1]) < 2 * A
    assert 0 < row["margin"] <= 0.5
    assert row["significance"] > 3


@pytest.mark.slow
@given(st.sampled_from(sorted(CELLS)), angles, seeds, st.floats(0, 0.08), st.floats(0, 0.05), st.floats(0, 0.015))
@settings(max_examples=15, deadline=None)
def test_perfect_crystals_have_none(kind, angle, seed, noise, missing, bend):
    """Strained by 3 %, bent by up to 0.015 rad per cell, with noise and vacancies."""
    rng = np.random.default_rng(seed)
    positions = filled(cell(kind, angle)) @ (np.eye(2) + rng.uniform(-0.03, 0.03, (2, 2)))
    positions[:, 0] += bend / A * positions[:, 1] ** 2 / 2
    positions = positions[rng.random(len(positions)) >= missing]
    table = measured(positions, rng, nearest=1e-9, error=noise * A + 1e-6)
    assert len(find_dislocations(table, lattice_of(table))) == 0


@pytest.mark.slow
def test_the_core_is_accurate_to_less_than_a_cell():
    distance = []
    for seed in range(9):
        rng = np.random.default_rng(seed)
        vectors = cell("square", rng.uniform(0, math.pi))
        core, perfect = rng.uniform(-2, 2, 2), filled(vectors)
        table = measured(perfect + edge_field(perfect, core, vectors[0]), rng)
        found = find_dislocations(table, lattice_of(table))
        distance.append(np.hypot(*(found[["y", "x"]].to_numpy()[0] - core)) / A)
    assert np.median(distance) < 0.7


def test_opposite_dislocations_are_two_and_their_sum_is_zero():
    vectors, rng = cell("square", 0.3), np.random.default_rng(0)
    perfect = filled(vectors, 6.0)
    cores = np.array([[-1.0, -2.5], [1.2, 2.6]])
    field = sum(edge_field(perfect, core, sign * vectors[1]) for core, sign in zip(cores, (1, -1), strict=True))
    table = measured(perfect + field, rng)
    found = find_dislocations(table, lattice_of(table)).sort_values("x")
    assert len(found) == 2
    assert (found[["burgers_a", "burgers_b"]].sum() == 0).all()
    assert found[["y", "x"]].to_numpy() == pytest.approx(cores, abs=1.5 * A)
    assert found["burgers_y"].iloc[0] == pytest.approx(vectors[1][0], abs=0.03 * A)


@pytest.mark.parametrize("sites", [((0, 0), (1 / 3, 1 / 3)), ((0, 0), (0.5, 0.5))])
def test_crystals_of_several_sites(sites):
    vectors, rng = cell("hexagonal" if sites[1][0] < 0.4 else "square", 0.2), np.random.default_rng(3)
    perfect = filled(vectors, 4.5, sites)
    core = np.array([0.4, -0.3])
    table = measured(perfect + edge_field(perfect, core, vectors[0]), rng, nearest=0.3 * A, error=0.004)
    table["amplitude"] = 1.0
    lattice = lattice_of(table)
    found = find_dislocations(table, lattice)
    assert len(found) == 1
    if len(lattice.sites) == 2:
        assert found[["burgers_y", "burgers_x"]].to_numpy()[0] == pytest.approx(vectors[0], abs=0.03 * A)


def test_a_low_angle_boundary_consists_of_dislocations_at_the_distance_of_frank():
    """A wall of edge dislocations at the distance h tilts the crystal by b / h."""
    vectors, rng = A * np.eye(2)[::-1], np.random.default_rng(0)
    perfect, h = filled(vectors, 7.5), 2.0
    cores = np.column_stack([np.arange(-20, 21) * h + 0.1, np.full(41, 0.13)])
    field = sum(edge_field(perfect, core, vectors[0]) for core in cores)
    table = measured(perfect + field - field.mean(axis=0), rng)
    inner = table[(table[["y", "x"]].abs() < 7.2).all(axis=1)].reset_index(drop=True)
    found = find_dislocations(inner, lattice_of(inner))
    assert (found["burgers_a"].abs() + found["burgers_b"].abs() == 1).all()
    steps = np.diff(np.sort(found["y"]))
    assert len(found) >= 5
    assert np.median(steps) == pytest.approx(h, rel=0.1)
    boundary = find_grains(inner).boundaries
    assert len(boundary) == 1
    tilt = abs(boundary["misorientation"].iloc[0])
    assert tilt == pytest.approx(math.degrees(2 * math.atan(A / (2 * h))), rel=0.1)


def test_a_table_without_a_crystal_has_none():
    table = pd.DataFrame(filled(cell("square", 0.0), 0.9), columns=["y", "x"])
    lattice = lattice_of(table)
    assert len(find_dislocations(table, lattice)) == 0
    with pytest.raises(ValueError, match="fitted to this table"):
        find_dislocations(table.iloc[1:], lattice)


def test_the_margin_is_less_certain_where_errors_are_large():
    vectors = cell("square", 0.1)
    perfect = filled(vectors)
    positions = perfect + edge_field(perfect, np.array([0.2, 0.1]), vectors[0])
    small, large = (measured(positions, np.random.default_rng(0), error=1e-4) for _ in range(2))
    large[["y_err", "x_err"]] *= 10
    found = [find_dislocations(table, lattice_of(table)) for table in (small, large)]
    assert found[0]["significance"].iloc[0] == pytest.approx(10 * found[1]["significance"].iloc[0], rel=0.02)
    assert found[0]["significance"].iloc[0] > SIGMAS
