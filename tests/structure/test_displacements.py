from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from crystals import CAGES, POLAR, A, crystal, measured, pulls
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import SIGMAS, seeds

from stemkit.structure import (
    cage_displacements,
    domain_walls,
    fit_lattice,
    mean_displacements,
    polarization,
    sublattices,
)


@pytest.mark.parametrize("kind", CAGES)
@settings(max_examples=15, deadline=None)
@given(angle=st.floats(0, 3.1), seed=seeds)
def test_displacements_have_their_errors_and_no_bias(kind, angle, seed):
    true = crystal(kind, angle=angle)
    table = measured(true, np.random.default_rng(seed))
    result = cage_displacements(table, true["label"])
    assert sum(name.startswith("cage_") for name in result) == CAGES[kind][2]
    assert result.index.equals(table.index)
    known = result["displacement"].notna()
    assert known.equals(result["reason"] == "")
    assert known.sum() >= 0.7 * (true["label"] == 1).sum()
    z = pulls(result[known], POLAR)
    # cages share columns: their displacements have correlations of a sixth to a third with up to eight others
    assert np.abs(z.mean(axis=0)).max() < SIGMAS * np.sqrt(3 / len(z))
    assert np.abs(z.std(axis=0) - 1).max() < SIGMAS * np.sqrt(1.5 / (2 * len(z)))


@pytest.mark.slow
@pytest.mark.parametrize("angle", [0.0, np.pi / 4, 1.2])
def test_pulls_with_jitter_of_rows_are_one(angle):
    true = crystal(cells=16, angle=angle)
    z = []
    for seed in range(100):
        table = measured(true, np.random.default_rng(seed), error=(0.001, 0.002), jitter=0.02)
        z.append(pulls(cage_displacements(table, true["label"]).dropna(subset="displacement"), POLAR))
    z = np.stack(z)
    # columns of a row share the jitter, images are independent
    for of_image, expected in ((z.mean(axis=1), 0), ((z**2).mean(axis=1), 1)):
        error = of_image.std(axis=0) / np.sqrt(len(z))
        assert (np.abs(of_image.mean(axis=0) - expected) < SIGMAS * error).all()
        assert error.max() < 0.04


def test_jitter_of_a_row_cancels_between_its_columns():
    """B between two columns of A in the same row is not displaced from their centre, B between rows is."""
    in_row = crystal("edge centre", angle=0.0)
    between = crystal("edge centre", angle=np.pi / 2)
    errors = []
    for true in (in_row, between):
        rng = np.random.default_rng(1)
        table = measured(true, rng, error=(1e-5, 2e-5), jitter=0.02)
        result = cage_displacements(table, true["label"]).dropna(subset="displacement")
        errors.append(result[["displacement_y_err", "displacement_x_err"]].median().to_numpy())
    # the polar displacement along y separates the rows by a fifth of the width
    assert (errors[0] < 0.5 * errors[1]).all()


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_p_values_are_uniform_in_a_crystal_that_is_not_polar(seed):
    true = crystal(cells=40, polar=np.zeros(2))
    table = measured(true, np.random.default_rng(seed))
    p = cage_displacements(table, true["label"])["p_value"].dropna()
    for rate in (0.05, 0.3):
        # correlations between cages that share columns increase the variance
        assert abs((p < rate).mean() - rate) < SIGMAS * np.sqrt(1.5 * rate * (1 - rate) / len(p))


def test_significance_is_that_of_a_normal_distribution():
    table = measured(crystal(), np.random.default_rng(0))
    result = cage_displacements(table).dropna(subset="displacement")
    assert 2 * stats.norm.sf(result["significance"]) == pytest.approx(result["p_value"].to_numpy(), rel=1e-6)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_displacements_from_the_lattice_have_their_errors(seed):
    true = crystal(cells=20)
    table = measured(true, np.random.default_rng(seed))
    lattice = fit_lattice(table)
    result = cage_displacements(table, reference="lattice", lattice=lattice).dropna(subset="displacement")
    z = pulls(result, POLAR)
    own = pulls(cage_displacements(table).loc[result.index], POLAR)
    assert np.abs(z.std(axis=0) - 1).max() < SIGMAS / np.sqrt(2 * len(z))
    assert z.mean() == pytest.approx(0, abs=SIGMAS / np.sqrt(2 * len(z)) + 0.2)
    assert result["displacement_y_err"].mean() < 0.95 * cage_displacements(table)["displacement_y_err"].mean()
    assert own.shape == z.shape
    mean = mean_displacements(table, result.reindex(table.index), np.zeros(len(table)))
    assert np.abs(pulls(mean, POLAR)).max() < SIGMAS


def test_errors_of_the_lattice_along_y_are_not_errors_along_x():
    table = measured(crystal(), np.random.default_rng(0))
    lattice = fit_lattice(table)
    lattice = replace(lattice, covariance=np.array([[[1e-6, 5e-7], [5e-7, 4e-6]], np.zeros((2, 2))]))
    result = cage_displacements(table, reference="lattice", lattice=lattice).dropna(subset="displacement")
    assert result["reference_x_err"].to_numpy() == pytest.approx(1000 * lattice.origin_err[1])
    row = result.index[0]
    cages = cage_displacements(table, lattice=lattice).filter(like="cage_").loc[row].astype(int)
    cell = (lattice.indices[cages] + lattice.sites[lattice.site[cages]]).mean(axis=0)
    expected = lattice.origin_err[0] ** 2 + cell @ lattice.covariance[0] @ cell
    assert result.loc[row, "reference_y_err"] == pytest.approx(1000 * np.sqrt(expected))


@pytest.mark.slow
@pytest.mark.parametrize("jitter", [0.0, 0.01])
def test_means_over_rows_have_their_errors(jitter):
    z, naive = [], []
    true = crystal(cells=16, angle=0.0)
    groups = np.round(true["y"] / A).astype(int)
    for seed in range(60):
        table = measured(true, np.random.default_rng(seed), jitter=jitter)
        result = cage_displacements(table, true["label"])
        means = mean_displacements(table, result, groups)
        z.append(pulls(means.dropna(), POLAR))
        squares = (result["displacement_x_err"] ** 2).groupby(groups)
        single = np.sqrt(squares.mean() / squares.count())
        naive.append((means["displacement_x_err"] / single).dropna())
    z = np.concatenate(z)
    # rows of B share rows of A: about two thirds of the means are independent
    assert np.sqrt((z**2).mean(axis=0)) == pytest.approx(1, abs=SIGMAS * np.sqrt(1.5 / (2 * len(z))))
    assert np.mean(naive) > (1.05 if jitter == 0 else 1.5)


def test_means_list_every_group_and_the_spread():
    true = crystal(polar=lambda b: np.where(b[:, 1:] > 0, POLAR, -POLAR))
    table = measured(true, np.random.default_rng(0))
    groups = pd.Series(np.where(true["x"] > 0, "right", "left"), index=true.index)
    groups[true["label"] == 0] = None
    result = cage_displacements(table, true["label"])
    means = mean_displacements(table, result, groups)
    assert means.index.tolist() == ["left", "right"]
    assert means["n"].sum() == result["displacement"].notna().sum()
    assert np.abs(pulls(means, [-POLAR, POLAR])).max() < SIGMAS
    numbered = mean_displacements(table, result, np.where(true["x"] > 0, 1, -1))
    assert numbered["displacement_x"].to_numpy() == pytest.approx(means["displacement_x"].to_numpy(), abs=5)
    everything = mean_displacements(table, result, np.zeros(len(table)))
    known = result["displacement_x"].dropna()
    assert everything["spread_x"].item() == pytest.approx(known.std())
    empty = mean_displacements(table, result, np.where(true["label"] == 0, 5, np.nan))
    assert empty["n"].tolist() == [0]
    assert empty["displacement_x"].isna().all()


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_no_walls_in_a_single_domain(seed):
    true = crystal(cells=20)
    table = measured(true, np.random.default_rng(seed), jitter=0.01)
    walls = domain_walls(table, cage_displacements(table, true["label"]), false_discovery_rate=0.001)
    assert len(walls) > 600
    assert walls["wall"].sum() <= 2


def test_differences_of_neighbours_have_their_errors():
    true = crystal(cells=30)
    z = []
    for seed in range(10):
        table = measured(true, np.random.default_rng(seed), jitter=0.01)
        pairs = domain_walls(table, cage_displacements(table, true["label"]))
        names = ["difference_y", "difference_x"]
        z.append(pairs[names].to_numpy() / pairs[[f"{n}_err" for n in names]].to_numpy())
    assert np.sqrt((np.concatenate(z) ** 2).mean(axis=0)) == pytest.approx(1, abs=0.05)


def test_walls_are_where_the_displacement_changes():
    true = crystal(cells=20, angle=0.0, polar=lambda b: np.where(b[:, 1:] > 0.1, POLAR, -POLAR))
    table = measured(true, np.random.default_rng(3), error=(0.001, 0.002))
    walls = domain_walls(table, cage_displacements(table, true["label"]), min_difference=10.0)
    walls = walls[walls["wall"]]
    assert len(walls) == 19  # one per row of cages
    assert walls["x"].to_numpy() == pytest.approx(0.0, abs=0.05)
    assert np.abs(walls["turn"]).min() > 130


def test_columns_without_a_displacement_have_a_reason():
    true = crystal()
    table = measured(true, np.random.default_rng(0))
    inner = true.index[(true["label"] == 1) & (true[["y", "x"]].abs().max(axis=1) < 1)]
    outer = true.index[(true["label"] == 0) & (true[["y", "x"]].abs().max(axis=1) < 1)]
    table.loc[inner[0], ["y_err", "x_err"]] = np.nan
    table.loc[outer[-1], ["y_err", "x_err"]] = np.nan
    result = cage_displacements(table, true["label"])
    assert result.loc[inner[0], "reason"] == "the fit failed"
    assert (result["reason"] == "the fit of a column of the cage failed").sum() == 4
    assert set(result.loc[true["label"] == 0, "reason"]) == {"not of sublattice 1"}
    removed = table.drop(index=outer[-1])
    assert (cage_displacements(removed, true["label"].drop(outer[-1]))["reason"] == "no complete cage").sum() == 23 + 4


def test_a_table_without_errors_has_none():
    table = crystal()[["y", "x", "amplitude"]]
    result = cage_displacements(table)
    known = result.dropna(subset="displacement")
    assert known[["displacement_y", "displacement_x"]].to_numpy() == pytest.approx(np.tile(POLAR, (len(known), 1)))
    assert known[["displacement_y_err", "p_value", "significance"]].isna().all(axis=None)
    assert result.attrs["units"]["displacement_y"] == "px"
    with pytest.raises(ValueError, match="must have cages and errors"):
        domain_walls(table, result)


def test_sublattices_and_cages_are_found():
    true = crystal()
    table = measured(true, np.random.default_rng(0))
    pd.testing.assert_frame_equal(cage_displacements(table), cage_displacements(table, true["label"]))
    assert (sublattices(table, fit_lattice(table), 2) == true["label"]).all()


def test_tables_read_back_from_csv_give_the_same():
    table = measured(crystal(), np.random.default_rng(0), jitter=0.01)
    table.index = table.index * 3 + 7
    result = cage_displacements(table)
    copies = []
    for frame in (table.assign(unit="nm"), result):
        text = io.StringIO(frame.to_csv())
        copies.append(pd.read_csv(text, index_col=0))
    pd.testing.assert_frame_equal(cage_displacements(copies[0]), result, check_dtype=False)
    pd.testing.assert_frame_equal(
        mean_displacements(copies[0], copies[1], np.ones(len(table))),
        mean_displacements(table, result, np.ones(len(table))),
    )
    pd.testing.assert_frame_equal(domain_walls(copies[0], copies[1]), domain_walls(table, result))


def test_polarization_follows_from_the_charge():
    table = measured(crystal(), np.random.default_rng(0))
    result = cage_displacements(table)
    one = polarization(result, 7.0, 0.064)
    # C/m2 = 100 uC/cm2
    expected = 7 * 1.602176634e-19 * result["displacement_x"] * 1e-12 / 0.064e-27 * 100
    assert one["polarization_x"].to_numpy() == pytest.approx(expected.to_numpy(), nan_ok=True)
    assert one.attrs["units"]["polarization_x"] == "uC/cm2"
    two = polarization(result, [[7.0, 0.0], [0.0, 3.0]], 0.064)
    assert (two["polarization_x_err"] / one["polarization_x_err"]).dropna().to_numpy() == pytest.approx(3 / 7)
    assert two["polarization_y"].equals(one["polarization_y"])
    mean = polarization(mean_displacements(table, result, np.zeros(len(table))), (7.0, 7.0), 0.064)
    assert mean["polarization_x"].item() == pytest.approx(one["polarization_x"].mean())


def test_impossible_inputs_are_refused():
    true = crystal()
    table = measured(true, np.random.default_rng(0))
    result = cage_displacements(table)
    with pytest.raises(ValueError, match="unique index"):
        cage_displacements(pd.concat([table, table]))
    with pytest.raises(ValueError, match="reference must be one of"):
        cage_displacements(table, reference="mean")
    with pytest.raises(ValueError, match="center must be one of the labels"):
        cage_displacements(table, true["label"], center=4)
    with pytest.raises(ValueError, match="two different sublattices"):
        cage_displacements(table, true["label"], center=0)
    with pytest.raises(ValueError, match="one per column"):
        cage_displacements(table, true["label"][:5])
    with pytest.raises(ValueError, match="n_cage must be an integer of at least 2"):
        cage_displacements(table, n_cage=1)
    with pytest.raises(ValueError, match="at least 500 columns"):
        cage_displacements(table, n_cage=500)
    with pytest.raises(ValueError, match="lattice with one site"):
        cage_displacements(table[true["label"] == 0])
    with pytest.raises(ValueError, match="another index"):
        mean_displacements(table[3:], result, np.zeros(len(table) - 3))
    with pytest.raises(ValueError, match="groups must be one per column"):
        mean_displacements(table, result, [1, 2])
    with pytest.raises(ValueError, match="false_discovery_rate must be a fraction above 0 and below 1"):
        domain_walls(table, result, false_discovery_rate=0)
    with pytest.raises(ValueError, match="born_charge must be"):
        polarization(result, [1.0, 2.0, 3.0], 0.064)
    with pytest.raises(ValueError, match="cell_volume must be"):
        polarization(result, 1.0, 0.0)
    with pytest.raises(ValueError, match="lacks displacement_y"):
        polarization(table, 1.0, 1.0)
    table.attrs["unit"] = "px"
    with pytest.raises(ValueError, match="must be in pm"):
        polarization(cage_displacements(table), 1.0, 1.0)


def test_errors_of_the_ideal_centre_are_those_of_its_own_axis():
    rng = np.random.default_rng(0)
    table = crystal("perovskite", cells=14).drop(columns="label")
    table[["y_err", "x_err"]] = 0.02, 0.002
    table[["y", "x"]] += rng.normal(size=(len(table), 2)) * [0.02, 0.002]
    table.attrs["unit"] = "nm"
    found = cage_displacements(table, reference="lattice").dropna(subset="displacement")
    ratio = found["reference_y_err"] / found["reference_x_err"]
    # both axes are fitted with the same design, so that the errors are everywhere as those of the columns
    assert ratio.min() > 7
    assert ratio.max() < 14
