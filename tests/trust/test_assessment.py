"""assess: range, columns, uncertainty, and what it says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from strategies import gaussians

import stemkit
from stemkit import AtomDetector, NoiseModel, PointwiseNoise, SFINDenoiser
from stemkit.denoising import load_weights
from stemkit.trust.columns import judge_columns
from stemkit.trust.expected_noise import ExpectedNoise
from stemkit.trust.spread import (
    ErrorSources,
    Factors,
    calibrated_factors,
    error_sources,
    factors_of,
    network_uncertainty,
    spread,
)

SHAPE = (128, 128)


SIGMA = 2.5
GRID = np.array([(10.0 + 12 * i, 8.0 + 12 * j) for i in range(10) for j in range(10)])


@pytest.fixture(scope="module")
def pair():
    model = NoiseModel(pointwise=PointwiseNoise.counted(20.0, background=4.0))
    truth = gaussians(SHAPE, GRID, SIGMA)
    recorded = stemkit.calibrated(xr.DataArray(model.apply(truth, random_state=0), dims=("y", "x")), pixel_size=0.02)
    recorded.attrs["mode"] = "haadf"
    return recorded, SFINDenoiser(device="cpu").fit_transform(recorded)


def test_the_range_is_that_of_the_weights(pair):
    found = stemkit.assess(*pair)
    spacing = found.range.loc["spacing"]
    assert spacing["value"] == pytest.approx(12.0, rel=0.05)
    assert (spacing["low"], spacing["high"]) == load_weights("auto")[1].spacing
    assert spacing["status"] == "inside"
    assert found.range.loc["dose", "value"] == pytest.approx(20.0, rel=0.4)


def test_an_image_with_more_noise_than_in_the_training_is_outside():
    rng = np.random.default_rng(0)
    truth = gaussians(SHAPE, GRID, SIGMA)
    found = stemkit.assess(truth + 3.0 * rng.normal(size=SHAPE), truth, mode="haadf")
    # arrays do not say what enhanced them
    assert found.range.loc["noise", "status"] == "unknown"
    enhanced = xr.DataArray(truth, dims=("y", "x"))
    sha = load_weights("auto")[1].sha256
    enhanced.attrs["stemkit"] = f'{{"step": "enhance", "weights": "{sha}"}}'
    found = stemkit.assess(truth + 3.0 * rng.normal(size=SHAPE), enhanced, mode="haadf")
    assert found.range.loc["noise", "value"] == pytest.approx(3.0, rel=0.25)
    assert found.range.loc["noise", "status"] == "outside"
    assert any("noise is outside of the training" in text for text in found.warnings)


def test_true_columns_are_supported_and_a_wrong_one_is_not(pair):
    recorded, enhanced = pair
    table = AtomDetector().fit_transform(enhanced)
    wrong = table.iloc[[0]].copy()
    wrong.index = [10_000]
    # between four columns, with the height of noise
    wrong[["y_px", "x_px"]], wrong["amplitude"] = [52.0, 50.0], 0.02
    found = stemkit.assess(recorded, enhanced, pd.concat([table, wrong])).columns
    assert list(found.index) == [*table.index, 10_000]
    assert found.loc[10_000, "verdict"] == "may be invented"
    assert found.loc[10_000, "q_value"] > 0.05
    assert (found.loc[table.index, "verdict"] == "supported").mean() > 0.95


def test_a_column_filled_in_and_a_column_missed_are_named(pair):
    recorded, enhanced = pair
    table = AtomDetector().fit_transform(enhanced)
    (filled_y, filled_x), (missed_y, missed_x) = GRID[44], GRID[47]
    changed = enhanced.copy(
        data=enhanced.values + gaussians(SHAPE, GRID[[44, 47]], SIGMA, np.array([0.6, -1.0])).astype(enhanced.dtype)
    )
    found = stemkit.assess(recorded, changed, table)
    near = np.hypot(table["y_px"] - filled_y, table["x_px"] - filled_x) < 2
    assert found.columns.loc[near, "verdict"].tolist() == ["filled in"]
    assert len(found.missed) == 1
    place = found.missed.iloc[0]
    assert np.hypot(place["y_px"] - missed_y, place["x_px"] - missed_x) < 2
    assert "1 recorded column missed" in str(found)


def test_columns_in_pure_noise_are_not_supported():
    rng = np.random.default_rng(4)
    noise = xr.DataArray(rng.poisson(0.5, SHAPE).astype(float), dims=("y", "x"), attrs={"mode": "haadf"})
    # what a detector would fit to the highest pixels
    highest = np.argwhere(noise.values >= np.sort(noise.values, axis=None)[-40])
    table = pd.DataFrame(highest.astype(float), columns=["y_px", "x_px"])
    table["amplitude"] = noise.values[tuple(highest.T)] - 0.5
    table = table.assign(sigma=1.0, background=0.5, y_err=0.1)
    flat = np.full(SHAPE, 0.5)
    expected = ExpectedNoise.from_residual(noise.values - flat, flat)
    places = pd.DataFrame({"y_px": [], "x_px": [], "z": [], "q_value": []})
    judged = judge_columns(table, noise, "haadf", expected, places)
    assert (judged["q_value"] > 0.05).all()


def test_the_table_has_all_sections_and_reprs_are_readable(pair):
    found = stemkit.assess(*pair)
    assert found.table.index.get_level_values("section").unique().tolist() == ["range", "residual", "columns"]
    assert repr(found) == "Assessment(within the range of the training; only noise was removed)"
    assert "<table" in found._repr_html_()


def test_uncertainty_is_written_in_units_of_the_image(pair):
    recorded, _ = pair
    denoiser = SFINDenoiser(device="cpu", precision="float32").fit(recorded)
    found = network_uncertainty(recorded, denoiser)
    assert found.shape == SHAPE
    assert float(found.min()) > 0
    assert found.attrs["factor_95"] > 1.5
    larger = network_uncertainty(100 * recorded, denoiser)
    np.testing.assert_allclose(larger, 100 * found, rtol=1e-2)


def test_factors_contain_the_stated_fractions():
    rng = np.random.default_rng(0)
    n = 20_000
    # images in which one source each dominates, with factors 2, 3 and 0.5
    sources = [
        ErrorSources(np.full(n, a), b, np.full(n, c)) for a, b, c in [(1, 0.1, 0.1), (0.1, 1, 0.1), (0.1, 0.1, 1)]
    ]
    errors = [rng.normal(size=n) * one.half_width(Factors(2.0, 3.0, 0.5, wide=1.0)) for one in sources]
    found = calibrated_factors(errors, sources)
    # quantiles of the absolute value of a normal deviate: 1 and 2 standard deviations
    assert [found.spread, found.background, found.displacement] == pytest.approx([2.0, 3.0, 0.5], rel=0.05)
    assert found.wide == pytest.approx(2.0, rel=0.03)


def test_errors_that_all_results_have_in_common_are_part_of_the_uncertainty():
    rng = np.random.default_rng(1)
    truth = gaussians(SHAPE, GRID, SIGMA)
    results = np.stack([truth] * 8)
    noise = 0.05 * rng.normal(size=SHAPE)
    slow = 0.3 * np.sin(np.arange(SHAPE[0]) / 20)[:, None]
    still = error_sources(xr.DataArray(truth + noise, dims=("y", "x")), results, "haadf")
    waves = error_sources(xr.DataArray(truth + noise + slow, dims=("y", "x")), results, "haadf")
    assert still.spread.max() < 1e-12
    assert not still.displacement.any()
    assert waves.background == pytest.approx(0.3 / np.sqrt(2), rel=0.2)
    assert still.background < 0.1 * waves.background
    jitter = rng.normal(scale=0.5, size=SHAPE[0])
    at = np.arange(SHAPE[1])
    moved = np.stack([np.interp(at + d, at, row) for d, row in zip(jitter, truth, strict=True)])
    rows = error_sources(xr.DataArray(moved + noise, dims=("y", "x")), results, "haadf")
    slope = np.hypot(*np.gradient(truth))
    assert rows.displacement.max() == pytest.approx(0.5 * slope.max(), rel=0.2)
    # bright and dark columns alike
    dark = error_sources(xr.DataArray(-moved - noise, dims=("y", "x")), -results, "bf")
    np.testing.assert_allclose(dark.displacement, rows.displacement)


def test_the_spread_of_equal_results_is_zero_and_grows_with_their_differences():
    results = np.zeros((8, 40, 40))
    assert not spread(results).any()
    results[::2] = 2.0
    np.testing.assert_allclose(spread(results), 1.0)
    np.testing.assert_allclose(spread(results, 2.0), 1.0)


def test_other_weights_are_not_calibrated():
    with pytest.warns(UserWarning, match="was not calibrated for these weights"):
        factors_of("unknown")


@pytest.mark.parametrize(
    ("recorded", "enhanced", "message"),
    [
        (np.zeros((2, 64, 64)), np.zeros((64, 64)), "recorded must be a single image, but is a stack of 2"),
        (np.zeros((64, 64)), np.zeros((64, 65)), "must have one shape"),
        (np.zeros((16, 64)), np.zeros((16, 64)), "at least 32 px"),
        (np.eye(64), np.ones((64, 64)), "must have a contrast"),
    ],
)
def test_impossible_images_are_refused(recorded, enhanced, message):
    with pytest.raises(ValueError, match=message):
        stemkit.assess(recorded, enhanced)


def test_sets_of_images_count_equally_in_the_factors():
    """Three of four sets, which have few of the pixels, have errors of the spread, the fourth three times as large."""
    errors = [np.ones((8, 8)), -np.ones((8, 8)), np.ones((8, 8)), np.full((100, 100), 6.0)]
    spreads = [np.ones((8, 8))] * 3 + [np.full((100, 100), 2.0)]
    sources = [ErrorSources(s, 0.0, np.zeros_like(s)) for s in spreads]
    factors = calibrated_factors(errors, sources)
    assert (factors.spread, factors.wide) == pytest.approx((1.0, 3.0))
