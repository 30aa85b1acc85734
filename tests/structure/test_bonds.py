"""Bonds, angles between them, rings, dumbbells and mean distances."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from crystals import crystal, measured
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from strategies import SIGMAS, seeds

from stemkit.structure import bond_angles, bonds, dumbbells, mean_distances, neighbor_distances, ring_pairs, rings

BOND = 0.142  # nm, graphene
angles = st.floats(0, np.pi)


def graphene(cells=12, angle=0.1, bond=BOND):
    """True positions of a honeycomb as a table."""
    true = crystal("honeycomb", cells, angle, polar=np.zeros(2))
    true[["y", "x"]] *= bond / (0.4 / np.sqrt(3))
    return true


def turned(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def positions(table):
    return table[["y", "x"]].to_numpy()


def vectors(true, pairs):
    return positions(true)[pairs["j"]] - positions(true)[pairs["i"]]


def true_angles(true, found):
    to_i, to_j = (positions(true)[found[side]] - positions(true)[found["center"]] for side in ("i", "j"))
    turn = np.arctan2(*to_j.T) - np.arctan2(*to_i.T)
    return np.degrees(turn) % 360


# --- bonds and angles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jitter", [0.0, 0.01])
def test_distances_angles_and_areas_have_their_errors(jitter):
    true = graphene(20)
    pulls = {name: [] for name in ("distance", "angle", "between", "area")}
    for seed in range(12):
        table = measured(true, np.random.default_rng(seed), error=(0.0008, 0.0015), jitter=jitter)
        found = bonds(table)
        step = vectors(true, found)
        pulls["distance"].append((found["distance"] - np.hypot(*step.T)) / found["distance_err"])
        direction = (found["angle"] - np.degrees(np.arctan2(*step.T)) + 90) % 180 - 90
        pulls["angle"].append(direction / found["angle_err"])
        between = bond_angles(table, found)
        turn = (between["angle"] - true_angles(true, between) + 180) % 360 - 180
        pulls["between"].append(turn / between["angle_err"])
        ring = rings(table, found)
        ring = ring[ring["size"] == 6]
        pulls["area"].append((ring["area"] - 1.5 * np.sqrt(3) * BOND**2) / ring["area_err"])
    for name, values in pulls.items():
        of_image = np.array([np.mean(np.square(v)) for v in values])
        # rows displace many columns together: images are independent, bonds are not
        error = of_image.std() / np.sqrt(len(of_image))
        assert 0.95 - SIGMAS * error / 2 < np.sqrt(of_image.mean()) < 1.05 + SIGMAS * error / 2, name
        assert error < 0.03 if jitter == 0 else error < 0.1, name
        assert abs(np.mean([v.mean() for v in values])) < 0.06, name


def test_a_column_that_bonds_share_enters_the_error_of_their_angle():
    table = pd.DataFrame({"y": [0.0, 0, 1], "x": [0.0, 1, 0], "y_err": 0.01, "x_err": 0.01})
    found = bond_angles(table, bonds(table))
    assert sorted(found["angle"]) == pytest.approx([90, 270])
    assert found["angle_err"].to_numpy() == pytest.approx(np.degrees(0.01) * 2)
    straight = pd.DataFrame({"y": [0.0, 0, 0], "x": [0.0, 1, 2], "y_err": 0.01, "x_err": 0.01})
    pairs = pd.DataFrame({"i": [0, 1], "j": [1, 2]})
    assert bond_angles(straight, pairs)["angle_err"].to_numpy() == pytest.approx(np.degrees(0.01) * np.sqrt(6))


@given(angles, seeds, st.floats(0, 0.08))
@settings(max_examples=10, deadline=None)
def test_every_angle_around_a_column_is_listed(angle, seed, missing):
    rng = np.random.default_rng(seed)
    true = graphene(6, angle)
    table = true[rng.random(len(true)) >= missing]
    table = table.set_index(pd.Index([f"c{k}" for k in range(len(table))]))
    found = bonds(table)
    count = pd.concat([found["i"], found["j"]]).value_counts()
    around = bond_angles(table, found).groupby("center")["angle"].agg(["size", "sum"])
    assert around["sum"].to_numpy() == pytest.approx(360)
    several = count[count > 1]
    assert around["size"].sort_index().to_dict() == several.sort_index().to_dict()


@given(angles, seeds, st.floats(0, 0.05), st.floats(0, 0.03))
@settings(max_examples=15, deadline=None)
def test_neighbours_of_a_strained_honeycomb_are_three_at_120_degrees(angle, seed, noise, strain):
    rng = np.random.default_rng(seed)
    true = graphene(8, angle)
    true[["y", "x"]] = positions(true) @ (np.eye(2) + rng.uniform(-strain, strain, (2, 2)))
    table = true.copy()
    table[["y", "x"]] += rng.normal(0, noise * BOND, (len(true), 2))
    found = bonds(table)
    assert found["distance"].between(BOND * 0.6, BOND * 1.4).all()
    sizes = rings(table, found)["size"]
    assert (sizes == 6).all()
    assert len(sizes) == 7 * 7  # each cell is the corner of a ring, but those of the last row and column


# --- rings -------------------------------------------------------------------------------------------------------


def pruned(n, pairs):
    """Number of columns, of bonds and of connected parts without bonds that end."""
    i, j = pairs[["i", "j"]].to_numpy().T
    while True:
        count = np.bincount(np.concatenate([i, j]), minlength=n)
        kept = (count[i] > 1) & (count[j] > 1)
        if kept.all():
            break
        i, j = i[kept], j[kept]
    used = np.unique(np.concatenate([i, j]))
    graph = csr_array((np.ones(len(i)), (i, j)), shape=(n, n))
    parts = connected_components(graph, directed=False)[1][used]
    return len(used), len(i), len(np.unique(parts))


@given(seeds, st.integers(3, 300), st.floats(0.5, 2.0))
@settings(max_examples=25, deadline=None)
def test_rings_of_any_graph_follow_euler(seed, n, reach):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.uniform(0, 1, (n, 2)), columns=["y", "x"])
    pairs = bonds(table, max_distance=reach / np.sqrt(n))
    found = rings(table, pairs)
    columns, edges, parts = pruned(n, pairs)
    assert len(found) == edges - columns + parts
    for ring, row in found.iterrows():
        assert row["size"] == len(row["atoms"])
        assert all(ring in found.at[other, "neighbors"] for other in row["neighbors"])
        at = positions(table.loc[list(row["atoms"])])
        following = np.roll(at, -1, axis=0)
        area = abs((at[:, 0] * following[:, 1] - at[:, 1] * following[:, 0]).sum()) / 2
        assert row["area"] == pytest.approx(area, abs=1e-12)


def stone_wales(true):
    """A bond in the middle turned by 90 degrees and shortened by a tenth."""
    pairs = bonds(true)
    k = int(np.hypot(pairs["y"] - true["y"].mean(), pairs["x"] - true["x"].mean()).argmin())
    i, j = pairs.loc[k, ["i", "j"]].astype(int)
    center, step = positions(pairs)[k], vectors(true, pairs)[k]
    changed = true.copy()
    changed.loc[[i, j], ["y", "x"]] = center + np.outer([-0.45, 0.45], step @ turned(np.pi / 2))
    return changed


@given(angles)
@settings(max_examples=8, deadline=None)
def test_a_turned_bond_is_two_pairs_of_five_and_seven(angle):
    table = stone_wales(graphene(8, angle))
    found = rings(table)
    assert found["size"].value_counts().drop(6).to_dict() == {5: 2, 7: 2}
    pairs = ring_pairs(found)
    assert len(pairs) == 2
    assert pairs["i"].is_unique
    assert pairs["j"].is_unique
    assert (found.loc[pairs["i"], "size"] == 5).all()
    assert (found.loc[pairs["j"], "size"] == 7).all()
    # a dipole of dislocations: the pairs point in opposite directions
    assert abs(np.diff(pairs["angle"])[0]) % 360 == pytest.approx(180, abs=1e-6)


def test_a_vacancy_is_a_ring_of_twelve_and_a_bond_that_ends_is_in_none():
    true = graphene(8)
    middle = np.hypot(true["y"] - true["y"].mean(), true["x"] - true["x"].mean()).idxmin()
    found = rings(true.drop(middle))
    assert sorted(found["size"].unique()) == [6, 12]
    atoms = found.loc[found["size"] == 12, "atoms"].iloc[0]
    assert middle not in atoms
    hexagon = pd.DataFrame({"y": np.sin(np.arange(6) * np.pi / 3), "x": np.cos(np.arange(6) * np.pi / 3)})
    tail = pd.concat([hexagon, pd.DataFrame({"y": [0.0], "x": [2.0]})], ignore_index=True)
    assert len(bonds(tail)) == 7
    assert rings(tail)["atoms"].map(sorted).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_tables_without_bonds():
    for n in (0, 1, 2):
        table = pd.DataFrame({"y": np.zeros(n), "x": np.arange(n, dtype=float)})
        pairs = bonds(table)
        assert len(pairs) == max(n - 1, 0)
        assert len(bond_angles(table, pairs)) == 0
        assert len(rings(table, pairs)) == 0
        assert len(ring_pairs(rings(table, pairs))) == 0
        assert len(dumbbells(table)) == (n == 2)


# --- dumbbells ---------------------------------------------------------------------------------------------------


def silicon(cells=10, angle=0.3, polarity=0.0):
    """True positions of the columns of Si or GaAs [110], and their brightness: a quarter of the lattice parameter."""
    a = 0.5431
    cell = np.mgrid[0:cells, 0:cells].reshape(2, -1).T
    cell = np.concatenate([cell * [a, a / np.sqrt(2)], (cell + 0.5) * [a, a / np.sqrt(2)]])
    at = np.concatenate([cell, cell + np.array([a / 4, 0])]) @ turned(angle)
    label = np.repeat([0, 1], len(cell))
    table = pd.DataFrame({"y": at[:, 0], "x": at[:, 1], "label": label})
    return table.assign(amplitude=1 + polarity * (2 * label - 1))


@pytest.mark.parametrize("jitter", [0.0, 0.005])
@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi / 2])
def test_dumbbells_have_their_distance_angle_polarity_and_errors(jitter, angle):
    true = silicon(12, angle, 0.1)
    pulls, of_mean = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        table = measured(true, rng, error=(0.001, 0.002), jitter=jitter).assign(amplitude_err=0.03)
        table["amplitude"] += rng.normal(0, 0.03, len(table))
        found = dumbbells(table)
        assert len(found) == 288
        step = vectors(true, found)
        turn = (found["angle"] - np.degrees(np.arctan2(*step.T)) + 180) % 360 - 180
        # the second column of the crystal is the brighter one, at +y before the rotation
        sign = np.where(found["j"] >= 288, 1, -1)
        pulls.append(
            np.column_stack(
                [
                    (found["distance"] - np.hypot(*step.T)) / found["distance_err"],
                    turn / found["angle_err"],
                    (found["polarity"] - 0.1 * sign) / found["polarity_err"],
                ]
            )
        )
        mean = mean_distances(table, found).iloc[0]
        truth = np.array([0.5431 / 4, 0.1 * sign[0]])
        difference = mean[["distance", "polarity"]].to_numpy() - truth
        of_mean.append(difference / mean[["distance_err", "polarity_err"]].to_numpy())
        assert len(np.unique(sign)) == 1
    square = np.mean(np.square(pulls), axis=1)
    error = square.std(axis=0) / np.sqrt(len(square))
    assert (np.abs(np.sqrt(square.mean(axis=0)) - 1) < 0.05 + SIGMAS * error / 2).all()
    assert error.max() < 0.2
    assert np.abs(of_mean).max() < SIGMAS


@pytest.mark.parametrize("angle", [-80, -50, -40, -10, 0, 40, 50, 89, 130, 140])
def test_dumbbells_point_to_the_right_or_down_if_they_are_steep(angle):
    turn = np.radians(angle)
    sites = np.mgrid[0:4, 0:4].reshape(2, -1).T
    table = pd.DataFrame(
        np.concatenate([sites, sites + 0.2 * np.array([np.sin(turn), np.cos(turn)])]), columns=["y", "x"]
    )
    found = dumbbells(table.sample(frac=1, random_state=0))
    assert len(found) == 16
    step = table.loc[found["j"]].to_numpy() - table.loc[found["i"]].to_numpy()
    steep = 45 < angle % 180 < 135
    assert (step[:, 0 if steep else 1] > 0).all()


def test_the_mean_over_many_dumbbells_has_the_error_of_shared_rows():
    z = []
    true = silicon(8, 0.5)
    for seed in range(50):
        table = measured(true, np.random.default_rng(seed), error=(0.0005, 0.001), jitter=0.02)
        mean = mean_distances(table, dumbbells(table))
        z.append((mean["distance"].iloc[0] - 0.5431 / 4) / mean["distance_err"].iloc[0])
    assert abs(np.std(z) - 1) < SIGMAS / np.sqrt(2 * len(z))
    assert abs(np.mean(z)) < SIGMAS / np.sqrt(len(z)) + 0.3  # noise lengthens distances


@given(angles, seeds)
@settings(max_examples=8, deadline=None)
def test_significant_polarity_in_silicon_is_as_rare_as_stated(angle, seed):
    rng = np.random.default_rng(seed)
    table = silicon(25, angle).drop(columns="label").assign(amplitude_err=0.05)
    table["amplitude"] += rng.normal(0, 0.05, len(table))
    found = dumbbells(table)
    assert len(found) == 1250
    for limit, rate in ((1.96, 0.05), (2.58, 0.01)):
        assert abs((found["significance"] > limit).mean() - rate) < SIGMAS * np.sqrt(rate / len(found))


@given(st.sampled_from(["perovskite", "honeycomb", "tetragonal"]), angles, seeds)
@settings(max_examples=10, deadline=None)
def test_crystals_without_dumbbells_have_none(kind, angle, seed):
    table = measured(crystal(kind, angle=angle, polar=np.zeros(2)), np.random.default_rng(seed))
    assert len(dumbbells(table)) <= 2


# --- means -------------------------------------------------------------------------------------------------------


def test_means_of_groups_and_of_neighbour_distances():
    table = pd.DataFrame({"y": 0.0, "x": [0.0, 1, 3, 6], "y_err": 0.1, "x_err": 0.1})
    pairs = pd.DataFrame({"i": [0, 1, 2], "j": [1, 2, 3]})
    means = mean_distances(table, pairs, ["a", "a", "b"])
    assert means["distance"].tolist() == [1.5, 3.0]
    # in "a" the middle column cancels: the error is that of the whole length
    assert means["distance_err"].to_numpy() == pytest.approx([0.1 / np.sqrt(2), 0.1 * np.sqrt(2)])
    assert means["distance_spread"].iloc[0] == pytest.approx(np.sqrt(0.5))
    assert np.isnan(means["distance_spread"].iloc[1])
    assert mean_distances(table, neighbor_distances(table)).loc[0, "n"] == 3


def test_the_pixel_size_enters_total_errors_of_nm_only():
    table = pd.DataFrame({"y": 0.0, "x": [0.0, 1, 2], "y_err": 0.01, "x_err": 0.01})
    pairs = pd.DataFrame({"i": [0, 1], "j": [1, 2]})
    for unit, scale in (("nm", 0.03), ("px", 0.0)):
        table.attrs["unit"] = unit
        mean = mean_distances(table, pairs, pixel_size_error=0.03).iloc[0]
        assert mean["distance_total_err"] == pytest.approx(np.hypot(mean["distance_err"], scale))


def test_a_failed_fit_is_in_no_mean():
    table = pd.DataFrame({"y": 0.0, "x": [0.0, 1, 2, 9], "y_err": 0.1, "x_err": [0.1, 0.1, 0.1, np.nan]})
    pairs = pd.DataFrame({"i": [0, 1, 2], "j": [1, 2, 3]})
    mean = mean_distances(table, pairs).iloc[0]
    assert (mean["n"], mean["distance"]) == (2, 1.0)
    assert np.isfinite(mean["distance_err"])


def test_tables_without_errors_have_none():
    true = graphene(5)
    found = bonds(true)
    assert found["distance_err"].isna().all()
    assert rings(true, found)["area_err"].isna().all()
    assert bond_angles(true, found)["angle_err"].isna().all()
    assert mean_distances(true, found)["distance_err"].isna().all()
    assert "polarity" not in dumbbells(true[["y", "x"]])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda t: bonds(t, max_distance=-1), "max_distance must be a positive number of px or None"),
        (lambda t: bonds(pd.concat([t, t])), "unique index"),
        (lambda t: rings(t, pd.DataFrame({"i": [999], "j": [0]})), "pairs of columns of this table"),
        (lambda t: bond_angles(t, t), "bonds must be a table of pairs of columns, but lacks i, j"),
        (lambda t: ring_pairs(rings(t), (6, 6)), "two different numbers"),
        (lambda t: dumbbells(t, max_ratio=2), "max_ratio must be a fraction above 0 and below 1"),
        (lambda t: dumbbells(t, by="volume"), "must have the column 'volume'"),
        (lambda t: mean_distances(t, bonds(t), [1]), "groups must be one per pair"),
        (lambda t: mean_distances(t, bonds(t), pixel_size_error=2), "pixel_size_error must be a fraction"),
    ],
)
def test_impossible_parameters_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call(graphene(4))
