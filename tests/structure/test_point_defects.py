"""Point defects and brightness classes in crystals with known truth."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import seeds

from stemkit import AtomDetector, NoiseModel, PointwiseNoise, calibrated
from stemkit.structure import brightness_classes, fit_lattice, point_defects
from stemkit.structure.multiple_tests import benjamini_hochberg, local_false_discovery_rate
from stemkit.structure.point_defects import maxima_of_noise

VECTORS = np.array([[0, 0.4], [0.4, 0]])
BORDER = 0.9


def crystal(seed, changes=(), *, n=16, spread=0.03, error=0.04, trend=0.4):
    """Columns of a perovskite with a wedge, some of them changed by these factors: ``true``."""
    rng = np.random.default_rng(seed)
    cell = np.mgrid[0:n, 0:n].reshape(2, -1).T * 0.4
    table = pd.DataFrame(np.concatenate([cell, cell + 0.2]), columns=["y", "x"])
    table["amplitude"] = np.repeat([2.0, 1.0], n * n) * (1 + trend * table["x"] / table["x"].max())
    table["amplitude"] *= rng.normal(1, spread, len(table))
    inside = ((table[["y", "x"]] > BORDER) & (table[["y", "x"]] < n * 0.4 - BORDER)).all(axis=1)
    table["true"] = 1.0
    table.loc[rng.choice(np.flatnonzero(inside), len(changes), replace=False), "true"] = list(changes)
    table["amplitude_err"] = error * rng.uniform(0.7, 1.3, len(table))
    table["amplitude"] = table["amplitude"] * table["true"] + table["amplitude_err"] * rng.normal(size=len(table))
    table[["y", "x"]] += rng.normal(0, 0.003, (len(table), 2))
    table["sigma"] = 0.06
    table.attrs["unit"] = "nm"
    return table


def found(table, **options):
    return point_defects(table, fit_lattice(table, VECTORS), **options)


@cache
def without_defects(seed):
    """A crystal without defects, and its lattice."""
    table = crystal(seed, n=12)
    return table, fit_lattice(table, VECTORS)


@pytest.mark.slow
def test_a_crystal_without_defects_has_none_at_the_stated_rate():
    results = [point_defects(*without_defects(seed)) for seed in range(40)]
    any_found = sum(len(result.defects) > 0 for result in results)
    # the false discovery rate is then the probability of any discovery, which is at most 0.05
    assert any_found <= stats.binom.isf(1e-3, 40, 0.05)
    pull = np.sqrt(np.mean([result.columns["significance"].var() for result in results]))
    assert 0.95 < pull < 1.05


@pytest.mark.slow
def test_false_discoveries_power_and_probabilities_among_defects():
    false, detected, probability, correct = [], [], [], []
    for seed in range(25):
        table = crystal(seed, [0.8] * 8 + [1.2] * 8)
        defects = found(table).defects
        true = table["true"].loc[defects["column"].astype(int)].to_numpy()
        false.append(np.mean(true == 1) if len(true) else 0.0)
        detected.append((true != 1).sum() / 16)
        probability += defects["probability"].tolist()
        correct += (true != 1).tolist()
        assert (np.where(true < 1, "weak", "strong") == defects["kind"])[true != 1].all()
    assert np.mean(false) < 0.05 + 3 * np.std(false) / 5
    assert 0.2 < np.mean(detected) < 1.0
    # a probability that is not overestimated
    error = np.sqrt(0.05 / len(correct))
    assert np.mean(correct) > np.mean(probability) - 3 * error


@pytest.mark.slow
def test_the_detection_limit_is_found_with_the_stated_power():
    hits = []
    for seed in range(25):
        perfect, lattice = without_defects(seed)
        limits = point_defects(perfect, lattice, power=0.8).columns
        rng = np.random.default_rng(seed)
        inside = ((perfect[["y", "x"]] > BORDER) & (perfect[["y", "x"]] < 12 * 0.4 - BORDER)).all(axis=1)
        row = rng.choice(np.flatnonzero(inside))
        changed = perfect.copy()
        # the measured value contains noise already: the true one is changed by the limit
        changed.loc[row, "amplitude"] -= limits["detectable"][row] * limits["expected"][row]
        hits.append(row in point_defects(changed, lattice).defects["column"].dropna().astype(int).tolist())
    # 0.8 with a standard deviation of 0.08
    assert 0.55 < np.mean(hits) <= 1.0


def test_a_thickness_step_of_a_wedge_is_no_defect_and_columns_keep_their_index():
    table = crystal(3, trend=3.0).set_index(pd.Index([f"c{i}" for i in range(512)]))
    result = found(table)
    assert len(result.defects) == 0
    assert result.columns.index.equals(table.index)
    assert (result.columns["reason"] == "").mean() > 0.95


def test_a_crystal_without_noise_and_errors_has_its_defects_only():
    y, x = np.mgrid[0:8, 0:8].reshape(2, -1) * 20.0
    table = pd.DataFrame({"y": y, "x": x, "amplitude": 1.0})
    assert len(point_defects(table, fit_lattice(table)).defects) == 0
    table.loc[27, "amplitude"] = 0.99
    defects = point_defects(table, fit_lattice(table)).defects
    assert defects[["kind", "column"]].to_numpy().tolist() == [["weak", 27]]


def test_columns_that_are_not_compared_have_a_reason():
    table = crystal(1)
    table["quality"] = 0
    table.loc[[5, 40], "quality"] = 1
    table.loc[7, "amplitude"] = np.nan
    columns = found(table).columns
    assert (columns.loc[[5, 40], "reason"] == "EDGE").all()
    assert columns.loc[7, "reason"] == "no brightness"
    assert columns.loc[[5, 7, 40], "p_value"].isna().all()


def test_interstitials_are_tested_against_the_maxima_of_noise():
    table = crystal(2)
    extra = pd.DataFrame({"y": [3.1, 2.3], "x": [3.3, 4.1], "amplitude": [0.4, 0.12], "true": 1.0})
    extra[["amplitude_err", "sigma"]] = 0.04, 0.06
    table = pd.concat([table, extra], ignore_index=True)
    result = found(table)
    assert result.defects[["kind", "column", "site"]].to_numpy().tolist() == [["interstitial", 512, -1]]
    assert result.columns.loc[513, "kind"] == ""
    assert result.columns.loc[513, "q_value"] > 0.05


@settings(max_examples=20, deadline=None)
@given(st.floats(1.5, 6.0))
def test_the_number_of_maxima_decreases_as_those_of_a_gaussian_field(u):
    assert maxima_of_noise(np.array([u]))[0] == pytest.approx(u * np.exp(-(u**2) / 2) / (2 * np.sqrt(2 * np.pi)))


def test_the_number_of_maxima_is_that_of_filtered_noise():
    from scipy import ndimage

    sigma, size, above = 4.0, 1500, 2.8
    field = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(size, size)), sigma, mode="wrap")
    field /= field.std()
    peaks = (field == ndimage.maximum_filter(field, 3, mode="wrap")) & (field > above)
    expected = maxima_of_noise(np.array([above]))[0] * size**2 / (2 * np.pi * sigma**2)
    assert abs(peaks.sum() - expected) < 4 * np.sqrt(expected) + 0.1 * expected


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(50, 500))
def test_local_false_discovery_rates_follow_the_mixture(seed, n):
    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.uniform(size=n), stats.norm.sf(rng.normal(5, 1, n // 5))])
    rate = local_false_discovery_rate(p, len(p))
    order = np.argsort(p)
    assert (np.diff(rate[order]) >= -1e-9).all()
    assert rate.min() >= 0
    assert rate.max() <= 1
    assert (local_false_discovery_rate(p, 3 * len(p)) >= rate - 1e-9).all()
    assert (benjamini_hochberg(p, 3 * len(p)) >= benjamini_hochberg(p, len(p)) - 1e-12).all()


def test_unknown_p_values_remain_unknown():
    p = np.array([0.001, np.nan, 0.5])
    assert np.isnan(benjamini_hochberg(p, 10)).tolist() == [False, True, False]
    assert np.isnan(local_false_discovery_rate(p, 10)).tolist() == [False, True, False]


@pytest.mark.slow
def test_vacancies_are_measured_in_the_image():
    rng = np.random.default_rng(0)
    table = crystal(4, n=12, spread=0.0, error=0.0, trend=0.0)
    gone = [40, 220]
    shown = table.drop(index=gone)
    pixel = 0.02
    at = np.arange(250) * pixel - 0.3
    y, x = (np.exp(-0.5 * ((at - shown[[d]].to_numpy()) / 0.06) ** 2) for d in ("y", "x"))
    true_image = 0.2 + (y * shown[["amplitude"]].to_numpy()).T @ x
    noise = NoiseModel(contrast=2.0, level=0.2, pointwise=PointwiseNoise.counted(60.0))
    image = noise.apply(calibrated(true_image, pixel_size=pixel), random_state=rng.integers(100))
    detector = AtomDetector()
    columns = detector.fit_transform(image)
    lattice = fit_lattice(columns)
    result = point_defects(columns, lattice, image, detector)
    vacancies = result.defects[result.defects["kind"] == "vacancy"]
    true = table.loc[gone, ["y", "x"]].to_numpy() + 0.3
    apart = np.linalg.norm(vacancies[["y", "x"]].to_numpy()[:, None] - true, axis=-1)
    assert apart.shape == (2, 2)
    assert (apart.min(axis=0) < 0.03).all()
    assert (vacancies["probability"] > 0.95).all()
    assert result.interstitial_limit > 0
    without = point_defects(columns, lattice)
    assert without.missing["p_value"].isna().all()
    assert "not tested" in without.verdict


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"false_discovery_rate": 0.0}, "false_discovery_rate must be a fraction above 0 and below 1"),
        ({"power": 1.0}, "power must be a fraction above 0 and below 1"),
        ({"image": np.zeros((4, 4))}, "image and detector must be given both"),
        ({"by": "mass"}, "must have the column 'mass'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        found(crystal(0, n=8), **options)


# --- classes -----------------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(seeds, st.floats(0.05, 0.2), st.floats(0.0, 1.0))
def test_probabilities_of_classes_are_those_of_errors(seed, spread, trend):
    table = crystal(seed, n=20, spread=0.0, error=0.0, trend=trend)
    table["amplitude"] *= np.exp(np.random.default_rng(seed).normal(0, spread, len(table)))
    true = np.repeat([0, 1], 400)
    classes = brightness_classes(table, n=2)
    wrong = float((classes["class"].to_numpy() != true).mean())
    expected = classes.attrs["error_rate"]
    assert abs(wrong - expected) < 4 * np.sqrt((expected + 1e-3) / 800)
    assert classes.attrs["ratios"][1] == pytest.approx(0.5, abs=0.01 + 5 * spread / np.sqrt(400))


def test_classes_without_a_positive_brightness_are_none():
    table = crystal(1, n=10)
    table.loc[[3, 4], "amplitude"] = [-1.0, np.nan]
    classes = brightness_classes(table)
    assert classes["class"].loc[[3, 4]].tolist() == [-1, -1]
    assert classes.filter(like="probability_").shape[1] == 2
    assert classes["class"].drop([3, 4]).isin([0, 1]).all()


def test_an_impossible_trend_is_refused():
    with pytest.raises(ValueError, match="trend must be an integer from 0 to 3"):
        brightness_classes(crystal(0, n=6), trend=4)
