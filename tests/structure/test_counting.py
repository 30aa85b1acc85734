from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from strategies import SIGMAS, gaussians, seeds

import stemkit
from stemkit.detection import Quality
from stemkit.structure import count_atoms, voronoi_intensities
from stemkit.structure.mixtures import Mixture, Sample, expected_errors, fit_free

LIBRARY = np.column_stack([np.arange(1, 16), 10.0 * np.arange(1, 16) * (1 - 0.01 * np.arange(1, 16))])


def intensities(n, noise, rng, numbers=range(1, 9), scale=1.0):
    """Numbers of atoms, and a table of their intensities; the means are those of the library, 7 to 10 apart."""
    atoms = rng.choice(list(numbers), n)
    values = scale * LIBRARY[atoms - 1, 1] + rng.normal(0, noise, n)
    return atoms, pd.DataFrame({"y": 0.0, "x": np.arange(float(n)), "intensity": values})


def counted(result):
    return result.columns["count"].to_numpy(dtype=float, na_value=np.nan)


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 5])
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_mixtures_are_at_least_as_likely_as_those_of_scikit_learn(k, seed):
    _, table = intensities(300, 1.5, np.random.default_rng(seed))
    values = table["intensity"].to_numpy()
    fit, sample = fit_free(Sample.from_values(values), k), Sample.from_values(values)
    other = GaussianMixture(k, covariance_type="tied", n_init=5, tol=1e-6, max_iter=1000, random_state=0)
    other.fit(values[:, None])
    theirs = other.score(values[:, None]) * len(values)
    assert fit.log_likelihood(sample) > theirs - 0.5
    same = Mixture(other.weights_, other.means_[:, 0], float(np.sqrt(other.covariances_[0, 0])), 2 * k)
    assert same.log_likelihood(sample) == pytest.approx(theirs, rel=1e-6)
    assert same.bic(sample) == pytest.approx(other.bic(values[:, None]), rel=1e-6)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(noise=st.floats(0.1, 1.3), seed=seeds)
def test_separated_components_are_counted(noise, seed):
    atoms, table = intensities(300, noise, np.random.default_rng(seed))
    result = count_atoms(table, max_components=14)
    assert len(result.components) == 8
    assert result.width == pytest.approx(noise, rel=SIGMAS / np.sqrt(2 * 280))
    wrong = (counted(result) != atoms).mean()
    assert abs(wrong - result.error_rate) < SIGMAS * max(result.error_rate_err, 1 / 300)
    pulls = (result.components["mean"] - LIBRARY[:8, 1]) / (noise / np.sqrt(result.components["n"]))
    assert np.abs(pulls).max() < SIGMAS


@pytest.mark.parametrize("n_unusual", [1, 2])
def test_unusual_columns_are_not_counts(n_unusual):
    values = np.random.default_rng(3).normal(10.0, 0.5, 225)
    values[:n_unusual] = 20.0 + 0.1 * np.arange(n_unusual)
    counts = count_atoms(pd.DataFrame({"y": 0.0, "x": np.arange(225.0), "intensity": values}))
    assert not counts.countable
    assert counts.verdict == f"not countable: {225 - n_unusual} of 225 columns have about the same intensity"


@pytest.mark.slow
def test_separated_components_are_called_countable():
    samples = [intensities(300, 0.9, np.random.default_rng(seed))[1] for seed in range(20)]
    assert np.mean([count_atoms(table, max_components=12).countable for table in samples]) >= 0.8


@pytest.mark.parametrize("noise", [1.8, 2.2, 2.6])
def test_the_error_rate_is_that_of_the_counts(noise):
    stated, found = [], []
    for seed in range(20):
        atoms, table = intensities(400, noise, np.random.default_rng(seed))
        result = count_atoms(table, library=LIBRARY)
        stated.append(result.error_rate)
        found.append((counted(result) != atoms).mean())
        assert result.beyond_one <= result.error_rate
    difference = np.subtract(found, stated)
    assert abs(difference.mean()) < SIGMAS * difference.std() / np.sqrt(20)
    assert np.mean(stated) > 0.005
    assert difference.std() < 0.02


def test_probabilities_are_frequencies():
    atoms, table = intensities(4000, 3.0, np.random.default_rng(0))
    result = count_atoms(table, library=LIBRARY)
    columns = result.columns
    right = counted(result) == atoms
    for low, high in ((0.0, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.0)):
        some = columns["probability"].between(low, high).to_numpy()
        expected = columns["probability"][some]
        error = np.sqrt((expected * (1 - expected)).sum()) / some.sum()
        assert some.sum() > 100
        assert abs(right[some].mean() - expected.mean()) < SIGMAS * error + 0.005
    inside = (columns["count_low"] <= atoms) & (atoms <= columns["count_high"])
    assert inside.mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("noise", [4.0, 8.0, 20.0])
def test_overlapping_intensities_are_not_countable(noise):
    for seed in range(3):
        _, table = intensities(300, noise, np.random.default_rng(seed), numbers=range(1, 13))
        result = count_atoms(table)
        assert not result.countable
        assert result.verdict.startswith("not countable")
        known = count_atoms(table, library=LIBRARY)
        assert not known.countable
        assert "expected to be wrong" in known.verdict


def test_bic_finds_components_that_icl_does_not_separate():
    atoms, table = intensities(20_000, 3.0, np.random.default_rng(1), numbers=range(1, 9))
    one, eight = (count_atoms(table, criterion=c, max_components=12) for c in ("icl", "bic"))
    assert "BIC prefers 8" in one.verdict
    assert len(eight.components) == 8
    assert (counted(eight) != atoms).mean() == pytest.approx(eight.error_rate, abs=0.02)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, scale=st.floats(0.85, 1.15))
def test_a_library_counts_when_thicknesses_are_missing_and_its_scale_is_fitted(seed, scale):
    numbers = (2, 3, 4, 7, 8, 11)
    atoms, table = intensities(200, 0.8, np.random.default_rng(seed), numbers, scale)
    result = count_atoms(table, library=LIBRARY, scale=(0.8, 1.25))
    assert result.scale == pytest.approx(scale, rel=0.01)
    assert result.countable
    assert (counted(result) == atoms).mean() > 0.98
    assert set(result.components.loc[result.components["n"] > 0, "count"]) == set(numbers)


def test_a_scale_that_is_not_determined_is_not_countable():
    even = np.column_stack([np.arange(1, 13), 10.0 * np.arange(1, 13)])
    rng = np.random.default_rng(0)
    # a single thickness: any scale that shifts the numbers by one describes it
    table = pd.DataFrame({"y": 0.0, "x": np.arange(100.0), "intensity": 60 + rng.normal(0, 0.5, 100)})
    result = count_atoms(table, library=even, scale=(0.8, 1.25))
    assert not result.countable
    assert "other scales" in result.verdict


def test_columns_at_the_border_are_counted_but_not_fitted():
    rng = np.random.default_rng(0)
    atoms, table = intensities(200, 0.8, rng)
    table["quality"] = 0
    edge = rng.choice(200, 40, replace=False)
    table.loc[edge, "intensity"] *= rng.uniform(0.3, 1, 40)
    unknown = count_atoms(table, max_components=14)
    table.loc[edge, "quality"] = Quality.EDGE + Quality.FAINT
    table.loc[edge[0], "quality"] = Quality.FAILED
    result = count_atoms(table, max_components=14)
    rest = np.setdiff1d(np.arange(200), edge)
    assert (counted(result)[rest] == atoms[rest]).all()
    assert (counted(unknown)[rest] != atoms[rest]).any()
    assert result.columns.loc[edge[1:], "reason"].eq("EDGE").all()
    assert result.columns.loc[edge[1:], "count"].notna().all()
    assert result.columns.loc[edge[0], "reason"] == "no intensity"
    assert result.columns["count"].isna().sum() == 1
    assert not result.columns.loc[edge, "fitted"].any()
    masked = count_atoms(table.drop(columns="quality"), exclude=table["quality"] > 0, max_components=14)
    assert counted(masked)[rest] == pytest.approx(counted(result)[rest])


def test_expected_errors_are_those_of_two_components():
    mixture = Mixture(np.array([0.5, 0.5]), np.array([0.0, 2.0]), 1.0, 4)
    assert expected_errors(mixture) == pytest.approx(0.15865525, rel=1e-4)  # beyond one standard deviation
    swallowed = Mixture(np.array([0.98, 0.02]), np.array([0.0, 0.1]), 1.0, 4)
    assert expected_errors(swallowed)[0] < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["nm", "px"])
def test_voronoi_sums_are_those_of_the_columns(unit):
    rng = np.random.default_rng(0)
    places = 16.0 * np.mgrid[0:8, 0:8].reshape(2, -1).T + 16 + rng.uniform(-0.5, 0.5, 2)
    atoms = rng.integers(1, 6, 64)
    image = 7.0 + gaussians((144, 144), places, 2.2, 10.0 * atoms)
    size = 0.02 if unit == "nm" else 1.0
    given = stemkit.calibrated(image, pixel_size=size) if unit == "nm" else image
    table = pd.DataFrame(places * size, columns=["y", "x"], index=np.arange(64) + 5)
    table.attrs["unit"] = unit
    sums = voronoi_intensities(given, table, background=7.0, variance=image)
    assert sums.index.equals(table.index)
    assert sums["voronoi"].to_numpy() == pytest.approx(2 * np.pi * 2.2**2 * 10 * atoms * size**2, rel=0.02)
    assert sums["area"].to_numpy() == pytest.approx(sums["n_pixels"].to_numpy() * size**2)
    assert not sums["at_border"].any()
    noise = [
        voronoi_intensities(given + rng.normal(size=image.shape) * np.sqrt(image), table, background=7.0)["voronoi"]
        for _ in range(60)
    ]
    pulls = np.std(noise, axis=0) / sums["voronoi_err"]
    assert pulls.mean() == pytest.approx(1, abs=SIGMAS / np.sqrt(2 * 60 * 64) + 0.01)
    counts = count_atoms(table.join(sums), by="voronoi")
    assert (counted(counts) == atoms).all()


def test_every_pixel_belongs_to_its_nearest_column():
    rng = np.random.default_rng(1)
    places = rng.uniform(0, 40, (30, 2))
    places[1] = places[0] + 0.05  # in the same pixel
    table = pd.DataFrame(places, columns=["y", "x"])
    pixel = np.stack(np.meshgrid(np.arange(41), np.arange(41), indexing="ij"), axis=-1)
    distance = np.linalg.norm(pixel[:, :, None] - places, axis=-1)
    owner = distance.argmin(axis=-1)
    for radius in (6.0, 100.0):
        sums = voronoi_intensities(np.ones((41, 41)), table, max_radius=radius)
        expected = np.bincount(owner[distance.min(axis=-1) <= radius], minlength=30)
        assert sums["n_pixels"].tolist() == expected.tolist()


def test_impossible_inputs_are_refused():
    _, table = intensities(50, 1.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least 10 columns"):
        count_atoms(table[:5])
    with pytest.raises(ValueError, match="must have the column 'voronoi'"):
        count_atoms(table, by="voronoi")
    with pytest.raises(ValueError, match="criterion must be one of"):
        count_atoms(table, criterion="aic")
    with pytest.raises(ValueError, match="library must have two or more rows"):
        count_atoms(table, library=[1.0, 2.0])
    with pytest.raises(ValueError, match="both increasing"):
        count_atoms(table, library=LIBRARY[::-1])
    with pytest.raises(ValueError, match="scale must be a positive number"):
        count_atoms(table, library=LIBRARY, scale=(2.0, 1.0))
    with pytest.raises(ValueError, match="n_components must be an integer"):
        count_atoms(table, n_components=0)
    with pytest.raises(ValueError, match="exclude must be one True or False"):
        count_atoms(table, exclude=[True])
    with pytest.raises(ValueError, match="image must be a single image"):
        voronoi_intensities(np.ones((2, 9, 9)), table)
    with pytest.raises(ValueError, match="variance must be a number or have"):
        voronoi_intensities(np.ones((9, 9)), table, variance=np.ones(3))
    with pytest.raises(ValueError, match="max_radius must be a positive number"):
        voronoi_intensities(np.ones((9, 9)), table, max_radius=0)
