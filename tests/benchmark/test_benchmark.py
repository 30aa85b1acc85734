"""The fixed sets, the planted structures, and the scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from stemkit import SFINDenoiser
from stemkit.benchmark import evaluate, scenes, simulated, simulation_parameters, summary
from stemkit.benchmark.held_back import HELD_BACK
from stemkit.benchmark.scenes import SETS
from stemkit.benchmark.scores import (
    image_maxima,
    intensity_slope,
    match_tables,
    position_error_limit,
    remaining_contrast,
    select_judged,
    shift_errors,
)
from stemkit.benchmark.simulated import SIMULATED
from stemkit.benchmark.truths import HOSTS, TRUTHS
from stemkit.columns import LinearVariance, fit_columns
from stemkit.images.mode import mode_sign
from stemkit.parameters import MODES
from stemkit.statistics import median_spacing
from stemkit.synthesis import Columns, columns_at, render
from stemkit.synthesis.recipe import ARRANGEMENTS


class Smoothing:
    """A Gaussian filter."""

    def __init__(self, sigma):
        self.sigma = sigma

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X.copy(data=gaussian_filter(X.values, self.sigma))


# --- sets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["haadf", "bf"])
def test_a_set_is_reproducible_and_its_first_images_do_not_depend_on_n(name):
    few, more = scenes(name, 3), scenes(name, 6)
    for key in few.pairs:
        np.testing.assert_array_equal(few.pairs[key], more.pairs[key][:3])
    assert (few.columns == more.columns[more.columns["image"] < 3]).all(axis=None)
    assert more.pairs.attrs["mode"] == name
    assert np.isfinite(more.pairs["noisy"]).all()


@pytest.mark.slow
def test_the_sets_contain_every_arrangement_and_every_held_back_structure():
    fixed = scenes("haadf")
    assert len(fixed) == 100
    shown = fixed.pairs["arrangement"].values
    held = fixed.pairs["held_back"].values
    assert set(shown[~held]) == set(ARRANGEMENTS)
    assert set(shown[held]) == set(HELD_BACK)
    assert not set(ARRANGEMENTS) & set(HELD_BACK)
    assert set(fixed.columns["image"]) <= set(range(100))
    # the sets of the two modes share no image
    other = scenes("bf", 4).pairs["detect"].values
    assert not any(np.array_equal(a, b) for a, b in zip(fixed.pairs["detect"].values, other, strict=False))


def test_unknown_sets_are_refused():
    with pytest.raises(ValueError, match="name must be one of 'haadf', 'bf', 'simulated'"):
        scenes("eels")
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        scenes("haadf", 0)
    with pytest.raises(ValueError, match="sets must contain haadf, bf, simulated, truths only, but contains xrd"):
        evaluate({}, ["haadf", "xrd"])


@pytest.mark.parametrize("name", HELD_BACK)
def test_held_back_structures(name):
    columns = HELD_BACK[name](11.0, (128, 140), torch.Generator().manual_seed(3))
    assert isinstance(columns, Columns)
    places = columns.places[0][columns.present[0]].numpy()
    inside = ((places > 0) & (places < (127, 139))).all(axis=1)
    assert inside.sum() > 15
    assert float(columns.amplitude[columns.present].max()) <= 1.0
    distance = cKDTree(places).query(places, k=2)[0][:, 1]
    if name != "atoms on a crystal":
        assert distance.min() == pytest.approx(11.0, rel=0.02)
    assert bool(torch.isfinite(render(columns, (128, 140))).all())


# --- simulated ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize("signal", ["haadf", "abf", "bf"])
def test_simulated_crystals(name, signal):
    image, columns = simulated(name, signal, shape=(90, 120), pixel_size=0.02)
    assert image.shape == (90, 120)
    assert image.stem.pixel_size == pytest.approx(0.02)
    assert image.attrs["mode"] == ("haadf" if signal == "haadf" else "bf")
    # fractions of the beam
    assert image.min() > 0
    assert image.max() < 1
    assert columns["y_px"].between(0, 89.5).all()
    assert columns["x_px"].between(0, 119.5).all()
    # another pixel size shows the same crystal
    fine, _ = simulated(name, signal, shape=(180, 240), pixel_size=0.01)
    np.testing.assert_allclose(fine.values[::2, ::2], image.values, atol=1e-9)
    assert simulation_parameters(name)["configurations"] >= 4


@pytest.mark.parametrize("name", ["gold_110", "gallium_nitride_11-20", "tungsten_diselenide"])
def test_heavy_columns_are_where_the_atoms_are(name):
    image, columns = simulated(name, "haadf", shape=(256, 256), pixel_size=0.01)
    heavy = columns[columns["weight"] > 0.9 * columns["weight"].max()]
    places = heavy[["y_px", "x_px"]].to_numpy()
    inner = places[((places > 20) & (places < 235)).all(axis=1)]
    fits = fit_columns(image.values, inner, 4.5)
    off = np.hypot(*(fits.positions - inner)[~fits.failed].T)
    # 1 px is 10 pm; light neighbours shift the fits of heavy columns by less than that
    assert np.median(off) < 1.0


def test_unknown_simulations_are_refused():
    with pytest.raises(ValueError, match="name must be one of 'gold_110'"):
        simulated("unobtainium")
    with pytest.raises(ValueError, match="signal must be one of"):
        simulated("gold_110", "eels")
    with pytest.raises(ValueError, match="pixel_size must be"):
        simulated("gold_110", pixel_size=0.0)


# --- scores ------------------------------------------------------------------------------------------------------


@given(st.floats(0.0, 1.5), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
@settings(max_examples=20)
def test_the_remaining_contrast_is_that_of_the_image(fraction, scale, level):
    places = np.array([(10.0, 10.0), (10.0, 30.0), (30.0, 20.0)])
    image = level + scale * render(columns_at(places[:2], [1.0, fraction], 2.0), (41, 41))[0].numpy()
    left = remaining_contrast(image, places[1:2], places[:1], places[2:])
    assert left == pytest.approx(fraction, abs=1e-3)
    assert remaining_contrast(-image, places[1:2], places[:1], places[2:], sign=-1) == pytest.approx(left)


def test_an_image_without_contrast_has_empty_vacancies():
    places = np.array([(10.0, 10.0), (10.0, 30.0), (30.0, 20.0)])
    flat = np.random.default_rng(0).normal(0, 1e-3, (41, 41))
    left = remaining_contrast(flat, places[1:2], places[:1], places[2:], contrast=1.0)
    assert left == pytest.approx(0.0, abs=0.01)


def test_scores_of_known_errors():
    true = np.array([(10.0, 10.0), (20.0, 30.0)])
    assert shift_errors(true + np.array([0.0, 0.5]), true, (0, 1)) == pytest.approx((0.5, 0.5))
    assert shift_errors(true + np.array([0.5, 0.0]), true, (0, 1)) == pytest.approx((0.0, 0.0))
    heights = np.array([0.8, 1.0, 1.2])
    assert intensity_slope(heights, heights) == pytest.approx(1.0)
    assert intensity_slope(3 + 0.5 * heights, heights) == pytest.approx(0.5)
    assert intensity_slope(np.full(3, 0.7), heights) == pytest.approx(0.0, abs=1e-9)
    assert position_error_limit(5.0) == pytest.approx(0.178, abs=1e-3)
    # the bound is continuous where a column removes all electrons
    assert position_error_limit(5.0, background=5.0, mode="bf") == pytest.approx(
        position_error_limit(5.0, background=5.0001, mode="bf"), rel=1e-2
    )


def test_maxima_are_the_columns_of_a_true_image():
    fixed = scenes("haadf", 2)
    true = fixed.columns[fixed.columns["image"] == 1]
    found = image_maxima(fixed.pairs["enhance"][1], 12.0)
    distance = cKDTree(found.to_numpy()).query(true[["y_px", "x_px"]].to_numpy())[0]
    assert np.median(distance) < 0.2


@pytest.mark.parametrize("name", SETS)
def test_a_perfect_method_finds_every_column(name):
    fixed, n_judged = scenes(name, 12), 0
    for i in range(12):
        true = fixed.columns[fixed.columns["image"] == i]
        if len(true) < 2:
            continue
        mode = str(fixed.pairs["mode"].values[i]) if name == "simulated" else name
        sign = -1 if mode == "bf" else 1
        spacing = median_spacing(true[["y_px", "x_px"]].to_numpy())
        shown = image_maxima(fixed.pairs["enhance"][i], spacing, sign=sign)
        judged = select_judged(shown, true, shown, spacing, (256, 256))
        if len(judged.true):
            match = match_tables(judged.found, judged.true, spacing)
            assert match.recall == 1.0
            assert match.f1 > 0.99
            n_judged += 1
    assert n_judged > 6


@pytest.mark.parametrize(("mode", "background"), [("haadf", 0.02), ("haadf", 8.0), ("bf", 30.0)])
def test_the_position_error_limit_is_reached_by_a_fit(mode, background):
    rng, sign = np.random.default_rng(0), mode_sign(mode)
    places = np.stack(np.meshgrid(*[np.arange(15.0, 400, 25)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    places += rng.uniform(-0.5, 0.5, places.shape)
    dose = 20.0
    shown = sign * dose * render(columns_at(places, 1.0, 2.5), (410, 410))[0].numpy() + background
    columns = sign * (rng.poisson(shown) - background)
    fits = fit_columns(columns, places, 2.5, variance=LinearVariance(background, sign, 0.02))
    rms = np.sqrt(((fits.x - places[:, 1]) ** 2).mean())
    assert rms == pytest.approx(position_error_limit(dose, background=background, mode=mode), rel=0.2)


def test_impossible_structures_are_refused():
    with pytest.raises(ValueError, match="background must be at least the dose"):
        position_error_limit(10.0, background=5.0, mode="bf")
    with pytest.raises(ValueError, match="host must be one of 'square'"):
        TRUTHS["edge"].record(3.0, 0, host="cubic")
    with pytest.raises(ValueError, match="mode must be one of 'haadf'"):
        TRUTHS["edge"].record(3.0, 0, mode="abf")


# --- truths ------------------------------------------------------------------------------------------------------


#: All scores of the true image, by planted structure; positions are checked in the test.
TRUE_SCORES = {
    "vacancies": {"contrast left": 0.0, "filled in": 0.0},
    "interstitials": {"height shown": 1.0, "found": 1.0},
    "substitutions": {"difference shown": 1.0},
    "shifted columns": {"found": 1.0, "bias": 0.0},
    "spread of heights": {"slope of sublattice 0": 1.0, "slope of sublattice 1": 1.0},
    "edge": {"invented beyond": 0.0, "found": 1.0},
    "nothing": {"columns per cell": 0.0, "rms over noise": 1.0},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", TRUTHS)
def test_the_truth_is_scored_as_true(name, host, mode):
    # at such a dose the recorded image is the true one
    planted = TRUTHS[name].record(1e7, 5, host=host, mode=mode)
    image = planted.pair["noisy"] * mode_sign(mode)
    values = TRUTHS[name].judge(planted, image, image_maxima(image, planted.host.spacing, contrast=1.0))
    if name == "shifted columns":
        limit = position_error_limit(1e7 * 0.6, background=planted.background, mode=mode)
        # the parabola through three pixels is less precise than the electrons allow
        assert 1 < values.pop("rms over limit") < 0.02 / limit
    assert values == pytest.approx(TRUE_SCORES[name], abs=0.03)


@pytest.mark.parametrize("host", HOSTS)
def test_columns_are_counted_per_unit_cell(host):
    columns = HOSTS[host].columns((0.3, 0.6))
    inside = ((columns.places[0] > 0) & (columns.places[0] < 256)).all(dim=1) & columns.present[0]
    # two in each cell
    assert int(inside.sum()) * HOSTS[host].cell_area / 256**2 == pytest.approx(2.0, rel=0.05)


def test_a_method_that_fills_vacancies_is_detected():
    planted = TRUTHS["vacancies"].record(1e7, 5)
    image = planted.pair["noisy"].copy(data=render(planted.crystal, (256, 256))[0].numpy())
    values = TRUTHS["vacancies"].judge(planted, image, image_maxima(image, planted.host.spacing, contrast=1.0))
    assert values["contrast left"] == pytest.approx(1.0, abs=0.02)
    assert values["filled in"] == 1.0


# --- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_is_tidy():
    methods = {"recorded": None, "smooth": Smoothing(1.0)}
    table = evaluate(methods, [*SETS, "truths"], n=1, doses=(30.0,), verbose=False)
    names = ["method", "set", "image", "shows", "crystal", "mode", "dose", "held_back", "score", "value"]
    assert list(table) == names
    assert set(table["method"]) == {"recorded", "smooth"}
    assert set(table["set"]) == {*SETS, "truths"}
    assert {"psnr", "ssim", "f1", "rms px", "seconds", "contrast left"} <= set(table["score"])
    assert {"stemkit", "torch", "device", "threads"} <= set(table.attrs)
    assert not table.duplicated(names[:-1]).any()
    by_set, by_truth = summary(table)
    psnr = table[(table["set"] == "bf") & (table["method"] == "smooth") & (table["score"] == "psnr")]["value"].mean()
    assert by_set.loc[("bf", False, "smooth"), "psnr"] == pytest.approx(psnr)
    assert ("vacancies", "contrast left", "recorded") in by_truth.index
    assert set(by_truth.columns) == {(mode, 30.0) for mode in MODES}
    again = evaluate({"recorded": None}, ["bf"], n=1, verbose=False)
    first = table[(table["method"] == "recorded") & (table["set"] == "bf") & (table["score"] == "psnr")]["value"]
    assert again[again["score"] == "psnr"]["value"].tolist() == first.tolist()


@pytest.mark.slow
def test_the_network_is_better_than_the_recorded_image():
    table = evaluate({"recorded": None, "sfin": SFINDenoiser()}, ["haadf"], n=4, verbose=False)
    means = table.groupby(["score", "method"])["value"].mean().unstack()
    assert means.loc["psnr", "sfin"] > means.loc["psnr", "recorded"] + 5
    assert means.loc["f1", "sfin"] > means.loc["f1", "recorded"]
    assert means.loc["rms px", "sfin"] < means.loc["rms px", "recorded"]
