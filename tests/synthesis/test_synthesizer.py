from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from sklearn.base import clone
from strategies import SIGMAS, crystal, modes, noise_models, pixel_sizes, seeds, shapes

import stemkit
from stemkit import NoiseCalibrator, NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.compute import torch_generator
from stemkit.periodicity import find_periodicity
from stemkit.synthesis import Columns, lattice, planar_cell, render, stacked
from stemkit.synthesis.batches import draw_batch
from stemkit.synthesis.noises import draw_noise
from stemkit.synthesis.recipe import ARRANGEMENTS, Recipe

MAPS = ["noisy", "enhance", "detect", "superresolve"]
TABLE = ["image", "y", "x", "y_px", "x_px", "amplitude", "sigma", "species", "defect"]
QUIET = NoiseModel(100.0, 20.0, pointwise=PointwiseNoise(readout=1e-6))


# --- seeds -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=8)
@given(st.integers(1, 6), st.integers(1, 6), seeds, modes)
def test_the_first_images_do_not_depend_on_the_number_of_images(n, more, seed, mode):
    synthesizer = STEMSynthesizer(shape=(32, 40), random_state=seed, mode=mode)
    short, short_table = synthesizer.sample(n, return_columns=True)
    long, long_table = synthesizer.sample(n + more, return_columns=True)
    xr.testing.assert_identical(short, long.isel(image=slice(0, n)))
    pd.testing.assert_frame_equal(short_table, long_table[long_table["image"] < n])


def test_same_seed_same_images_and_other_seeds_others():
    def drawn(seed):
        return STEMSynthesizer(shape=(32, 32), random_state=seed).sample(2)["noisy"].values

    assert np.array_equal(drawn(3), drawn(3))
    assert not np.array_equal(drawn(3), drawn(4))
    assert not np.array_equal(drawn(None), drawn(None))
    assert np.array_equal(drawn(np.random.RandomState(1)), drawn(np.random.RandomState(1)))
    first, second = drawn(3)
    assert not np.array_equal(first, second)


def test_drawing_does_not_change_the_global_generators():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    STEMSynthesizer(shape=(32, 32), random_state=1).sample(1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


# --- what is handed out ------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(1, 5), shapes(8, 50), st.none() | pixel_sizes, modes, seeds)
def test_dataset(n, shape, pixel_size, mode, seed):
    synthesizer = STEMSynthesizer(shape=shape, pixel_size=pixel_size, mode=mode, random_state=seed)
    pairs = synthesizer.sample(n)
    assert list(pairs) == MAPS
    assert pairs.attrs["mode"] == mode
    assert set(pairs["arrangement"].values) <= set(ARRANGEMENTS)
    for name in MAPS:
        image = pairs[name]
        assert image.dims == ("image", "y", "x")
        assert image.shape == (n, *shape)
        assert image.dtype == np.float32
        assert image.attrs["mode"] == mode
        assert np.isfinite(image).all()
        assert image[0].stem.pixel_size == pytest.approx(pixel_size or 0.01)
    assert pairs["detect"].min() >= 0
    assert pairs["detect"].max() <= 1


@settings(max_examples=10)
@given(shapes(16, 60), pixel_sizes, modes, seeds)
def test_table_of_columns(shape, pixel_size, mode, seed):
    synthesizer = STEMSynthesizer(shape=shape, pixel_size=pixel_size, mode=mode, random_state=seed)
    _, table = synthesizer.sample(5, return_columns=True)
    assert list(table) == TABLE
    assert set(table["image"]) <= set(range(5))
    for axis, n in (("y", shape[0]), ("x", shape[1])):
        assert table[f"{axis}_px"].between(-0.5, n - 0.5, inclusive="left").all()
        np.testing.assert_allclose(table[axis], table[f"{axis}_px"] * pixel_size)
    assert (table["amplitude"] > 0).all()
    assert (table["sigma"] >= 0.4 * pixel_size * (1 - 1e-6)).all()


def test_spots_are_at_the_positions_of_the_table():
    synthesizer = STEMSynthesizer(shape=(96, 96), spacing=(0.07, 0.1), random_state=2)
    pairs, table = synthesizer.sample(4, return_columns=True)
    inner = table[table["y_px"].between(2, 93) & table["x_px"].between(2, 93)]
    rounded = inner[["y_px", "x_px"]].round().astype(int)
    detect = pairs["detect"].values[inner["image"], rounded["y_px"], rounded["x_px"]]
    # half a pixel off along both axes, through the narrowest spot
    assert len(detect) > 100
    assert detect.min() >= math.exp(-0.25 / 0.7**2) - 1e-5


def test_bf_is_dark_shallow_and_wide_where_it_is_heavy():
    def species(mode):
        synthesizer = STEMSynthesizer(
            shape=(96, 96), random_state=4, mode=mode, arrangements=("lattice",), spacing=0.1, noise=None
        )
        pairs, table = synthesizer.sample(60, return_columns=True)
        hosts = table[table["defect"] == "none"]
        return pairs, hosts.groupby(["image", "species"])[["amplitude", "sigma", "y_px", "x_px"]].median().reset_index()

    (bright, ours), (dark, theirs) = species("haadf"), species("bf")
    # the same places, seen otherwise
    np.testing.assert_array_equal(dark["detect"], bright["detect"])
    depth = theirs["amplitude"] / 0.5
    assert depth.mean() > ours["amplitude"].mean() + 0.05
    several = theirs.groupby("image").filter(lambda rows: len(rows) > 1)
    wider = several.groupby("image").apply(lambda rows: rows["amplitude"].corr(rows["sigma"])).mean()
    several = ours.groupby("image").filter(lambda rows: len(rows) > 1)
    assert wider > several.groupby("image").apply(lambda rows: rows["amplitude"].corr(rows["sigma"])).mean() + 0.2
    level = dark["enhance"].values.max(axis=(1, 2))
    assert (level <= 1.0 + 1e-6).all()


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_columns_stand_above_or_below_the_level_by_their_amplitude(mode):
    noise = NoiseModel(100.0, 300.0, mode, pointwise=PointwiseNoise(readout=1e-6))
    synthesizer = STEMSynthesizer(shape=(96, 96), random_state=1, noise=noise, arrangements=("sparse",))
    pairs, table = synthesizer.sample(4, return_columns=True)
    narrow = pairs["superresolve"].values * (-1 if mode == "bf" else 1)
    for image, rows in table.groupby("image"):
        positions = rows[["y_px", "x_px"]].to_numpy()
        away = cKDTree(positions).query(positions, k=2)[0][:, 1] if len(rows) > 1 else np.full(len(rows), np.inf)
        for _, row in rows[(away > 20) & rows["y_px"].between(8, 87) & rows["x_px"].between(8, 87)].iterrows():
            y, x = round(row["y_px"]), round(row["x_px"])
            width = max(row["sigma"] / 0.01 / 2, 0.5)
            off = (y - row["y_px"]) ** 2 + (x - row["x_px"]) ** 2
            assert narrow[image, y, x] == pytest.approx(row["amplitude"] * math.exp(-off / (2 * width**2)), rel=0.02)
    assert table["amplitude"].max() > 50.0


def test_images_have_the_given_noise():
    noise = NoiseModel(100.0, 20.0, pointwise=PointwiseNoise(readout=0.2, shape=0.14))
    pairs = STEMSynthesizer(shape=(64, 64), noise=noise, random_state=0).sample(4)
    difference = (pairs["noisy"] - pairs["enhance"]).values
    kurtosis = 3.0
    assert (difference**2).mean() == pytest.approx(400.0, rel=SIGMAS * math.sqrt((kurtosis - 1) / difference.size))


@settings(max_examples=8)
@given(noise_models(), seeds)
def test_any_noise_model_can_be_drawn(noise, seed):
    pairs = STEMSynthesizer(shape=(24, 24), noise=noise, random_state=seed).sample(2)
    assert pairs.attrs["mode"] == noise.mode
    assert np.isfinite(pairs["noisy"]).all()
    if noise.digitization.low is not None and noise.digitization.step is None:
        assert pairs["noisy"].min() >= noise.digitization.low - 1e-5 * (noise.contrast + abs(noise.level))


# --- what is drawn -----------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(st.floats(8.0, 20.0), pixel_sizes, seeds)
def test_spacing_is_kept(spacing, pixel_size, seed):
    synthesizer = STEMSynthesizer(
        shape=(96, 96),
        pixel_size=pixel_size,
        spacing=spacing * pixel_size,
        arrangements=("lattice",),
        random_state=seed,
    )
    _, table = synthesizer.sample(8, return_columns=True)
    medians = []
    for _, rows in table.groupby("image"):
        positions = rows[["y", "x"]].to_numpy() / pixel_size
        if len(rows) > 4:
            medians.append(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))
    # static displacements of 5 % of the spacing move nearest neighbours together
    assert np.median(medians) == pytest.approx(spacing, rel=0.15)


def test_perfect_lattices_have_the_spacing_exactly():
    undisturbed = dict.fromkeys(("vacancies", "shifts", "interstitials", "islands", "strain"), 0.0)
    batch = draw_batch(Recipe(("lattice",), (12.0, 12.0), **undisturbed), 12, (80, 80), torch_generator(5))
    smallest = []
    for k in range(12):
        positions = torch.stack([batch.columns.y[k], batch.columns.x[k]], 1)[batch.columns.present[k]].numpy()
        smallest.append(cKDTree(positions).query(positions, k=2)[0][:, 1].min())
    # four in ten crystals are drawn without static displacements
    assert np.isclose(smallest, 12.0, rtol=1e-4).sum() >= 2
    assert max(smallest) <= 12.0 * (1 + 1e-4)


def test_vacancies_are_missing_columns():
    def table(vacancies):
        synthesizer = STEMSynthesizer(
            shape=(96, 96), spacing=0.08, vacancies=vacancies, arrangements=("lattice",), random_state=7
        )
        rows = synthesizer.sample(60, return_columns=True)[1]
        # interstitials are drawn next to columns that are present
        return rows[rows["defect"] != "interstitial"]

    full, holed = table(0.0), table(0.3)
    keys = ["image", "y_px", "x_px"]
    left = pd.merge(holed[keys], full[keys], on=keys)
    assert len(left) == len(holed)
    missing = 1 - holed.groupby("image").size() / full.groupby("image").size()
    assert missing.max() < 0.3 + SIGMAS * math.sqrt(0.3 * 0.7 / 60)
    # six images in ten have up to 30 %, uniformly
    spread = 0.3 * math.sqrt(0.6 / 3 - 0.3**2)
    assert abs(missing.mean() - 0.09) < SIGMAS * spread / math.sqrt(60)
    assert (missing == 0).sum() > 60 * (0.4 - SIGMAS * math.sqrt(0.24 / 60))


@pytest.mark.parametrize("arrangement", ["lattice", "random", "sparse"])
def test_images_have_the_requested_arrangement(arrangement):
    synthesizer = STEMSynthesizer(shape=(96, 96), arrangements=(arrangement,), spacing=0.1, random_state=0, noise=QUIET)
    pairs, table = synthesizer.sample(8, return_columns=True)
    assert set(pairs["arrangement"].values) == {arrangement}
    strength = np.median([find_periodicity(i.values).strength for i in pairs["superresolve"]])
    assert strength > 0.4 if arrangement == "lattice" else strength < 0.4
    per_image = len(table) / 8
    assert per_image < 0.5 * (96 / 10) ** 2 if arrangement == "sparse" else per_image > 0.3 * (96 / 10) ** 2


# --- fit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_fit_takes_mode_noise_spacing_and_pixel_size(mode):
    sign = -1 if mode == "bf" else 1
    noise = NoiseModel(100.0, 300.0, mode, pointwise=PointwiseNoise(0.1))
    true_image = 300.0 + sign * 100.0 * crystal((128, 128), spacing=14.0, sigma=2.5)
    image = stemkit.calibrated(noise.apply(true_image, random_state=0), pixel_size=0.02).assign_attrs(mode=mode)
    fitted = STEMSynthesizer(shape=(48, 48), random_state=0, arrangements=("lattice",)).fit(image)
    assert fitted.mode_ == mode
    assert fitted.pixel_size_ == pytest.approx(0.02)
    # in nm
    assert fitted.spacing_ == (pytest.approx(0.9 * 0.28, rel=0.02), pytest.approx(1.1 * 0.28, rel=0.02))
    assert fitted.width_[0] < 0.05 < fitted.width_[1]
    assert fitted.noise_model_.pointwise.readout == pytest.approx(0.1, rel=0.15)
    pairs = fitted.sample(3)
    assert pairs.attrs["mode"] == mode
    assert pairs["noisy"][0].stem.pixel_size == pytest.approx(0.02)
    difference = (pairs["noisy"] - pairs["enhance"]).values
    assert difference.std() == pytest.approx(10.0, rel=0.2)


def test_fit_uses_the_attached_noise_model():
    noise = NoiseModel(7.0, 3.0, pointwise=PointwiseNoise(0.2, correlation_x=0.25))
    image = stemkit.calibrated(crystal((64, 64)), pixel_size=0.02)
    image.attrs = {"mode": "haadf", "noise": json.dumps({"pixel_size": 0.02, **noise.to_dict()})}
    assert STEMSynthesizer().fit(image).noise_model_ == noise


@pytest.mark.parametrize("pixel_size", [0.02, None])
def test_fitted_lengths_given_as_parameters_mean_the_same(pixel_size):
    image = xr.DataArray(3 + crystal((96, 96), spacing=12.0), dims=("y", "x"), attrs={"mode": "haadf"})
    image = image if pixel_size is None else stemkit.calibrated(image, pixel_size=pixel_size)
    fitted = STEMSynthesizer(noise=QUIET).fit(image)
    given = STEMSynthesizer(noise=QUIET, spacing=fitted.spacing_, width=fitted.width_).fit(image).recipe()
    assert given.spacing == pytest.approx(fitted.recipe().spacing)
    assert given.width == pytest.approx(fitted.recipe().width)
    assert fitted.recipe().spacing == (pytest.approx(10.8, rel=0.02), pytest.approx(13.2, rel=0.02))


def test_images_of_several_kinds_are_refused():
    image = stemkit.calibrated(3 + crystal((64, 64), spacing=12.0), pixel_size=0.02).assign_attrs(mode="haadf")
    dark = (-image).assign_attrs(mode="bf")
    with pytest.raises(ValueError, match=r"X must be images of one mode, but they are \['bf', 'haadf'\]"):
        STEMSynthesizer().fit([image, dark])
    for other in (stemkit.calibrated(image, pixel_size=0.03), image.drop_vars(["y", "x"])):
        with pytest.raises(ValueError, match="X must be images of one pixel size"):
            STEMSynthesizer().fit([image, other])
    labeled = [
        NoiseCalibrator().fit_transform(image + r * np.random.default_rng(0).normal(size=(64, 64))) for r in (0.1, 0.3)
    ]
    for pair in (labeled, [labeled[0], image]):
        with pytest.raises(ValueError, match="X must be images of one noise model"):
            STEMSynthesizer().fit(pair)


def test_all_images_count():
    rng, sigma = np.random.default_rng(0), 0.2
    near, far = (
        stemkit.calibrated(3 + crystal((96, 96), spacing=d) + sigma * rng.normal(size=(96, 96)), pixel_size=0.02)
        for d in (10.0, 14.0)
    )
    stack = [image.assign_attrs(mode="haadf") for image in (near, far)]
    fitted, reverse = STEMSynthesizer().fit(stack), STEMSynthesizer().fit(stack[::-1])
    assert fitted.spacing_ == reverse.spacing_ == (pytest.approx(0.18, rel=0.05), pytest.approx(0.308, rel=0.05))
    assert fitted.noise_model_.pointwise.readout == pytest.approx(reverse.noise_model_.pointwise.readout)
    carried = NoiseCalibrator().fit(stack).transform(stack)
    assert STEMSynthesizer().fit(carried).noise_model_.pointwise == fitted.noise_model_.pointwise


def test_parameters_take_precedence_over_fitted_values():
    image = stemkit.calibrated(3 + crystal((64, 64), spacing=12.0), pixel_size=0.02)
    fitted = STEMSynthesizer(shape=(24, 24), noise=QUIET, pixel_size=0.05, random_state=0, mode="haadf").fit(image)
    pairs = fitted.sample(1)
    assert pairs["noisy"][0].stem.pixel_size == pytest.approx(0.05)
    assert np.abs(pairs["noisy"] - pairs["enhance"]).max() < 0.01


def test_an_uncalibrated_image_gives_uncalibrated_images():
    fitted = STEMSynthesizer(shape=(24, 24), random_state=0, mode="haadf").fit(crystal((64, 64)))
    pairs, table = fitted.sample(1, return_columns=True)
    assert not pairs["noisy"][0].stem.is_calibrated
    np.testing.assert_array_equal(table["y"], table["y_px"])
    with pytest.raises(ValueError, match=r"width must be a positive number of px, or \(low, high\), but is -1"):
        fitted.set_params(width=-1).sample(1)
    with pytest.raises(ValueError, match=r"spacing must be at least 2\.0 px, but is 1"):
        fitted.set_params(spacing=1).sample(1)


# --- stream ------------------------------------------------------------------------------------------------------


def test_stream_is_endless_and_repeatable():
    synthesizer = STEMSynthesizer(shape=(24, 32), random_state=0, device="cpu")
    batches = list(itertools.islice(synthesizer.stream(3), 3))
    again = list(itertools.islice(synthesizer.stream(3), 3))
    for batch, other in zip(batches, again, strict=True):
        assert list(batch) == MAPS
        for name in MAPS:
            assert batch[name].shape == (3, 24, 32)
            assert batch[name].dtype == torch.float32
            assert torch.equal(batch[name], other[name])
    assert not torch.equal(batches[0]["noisy"], batches[1]["noisy"])


def test_stream_is_in_units_of_the_contrast():
    noise = NoiseModel(1e4, 5e4, "bf", pointwise=PointwiseNoise(readout=0.1))
    batch = next(STEMSynthesizer(shape=(32, 32), noise=noise, random_state=0, device="cpu").stream(8))
    assert batch["superresolve"].min() >= 0
    assert 0.5 < batch["superresolve"].max() < 5
    assert float((batch["noisy"] - batch["enhance"]).std()) == pytest.approx(0.1, rel=SIGMAS / math.sqrt(2 * 8 * 1024))


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mode": "df"}, "mode must be one of 'haadf', 'bf' or None, but is 'df'"),
        ({"shape": (7, 64)}, r"shape must be \(n_y, n_x\) of at least 8 px each"),
        ({"shape": (64, 64, 64)}, r"shape must be \(n_y, n_x\)"),
        ({"shape": 64}, r"shape must be \(n_y, n_x\)"),
        ({"shape": (64.5, 32)}, r"shape must be \(n_y, n_x\)"),
        ({"vacancies": -0.1}, "vacancies must be a fraction"),
        ({"vacancies": 1.0}, "vacancies must be a fraction"),
        ({"pixel_size": 0.0}, "pixel_size must be a positive number of nm"),
        ({"pixel_size": math.nan}, "pixel_size must be a positive number of nm"),
        ({"arrangements": ()}, "arrangements must be one or several of"),
        ({"arrangements": ("glass",)}, "arrangements must be one or several of"),
        ({"spacing": 0.0}, r"spacing must be a positive number of nm, or \(low, high\)"),
        ({"spacing": (0.3, 0.2)}, r"spacing must be a positive number of nm, or \(low, high\)"),
        ({"spacing": (0.1, 0.2, 0.3)}, r"spacing must be a positive number of nm, or \(low, high\)"),
        ({"spacing": "wide"}, r"spacing must be a positive number of nm, or \(low, high\)"),
        ({"mode": "bf", "noise": QUIET}, "noise is for mode 'haadf', but mode is 'bf'"),
        ({"random_state": -1}, "random_state must not be negative, but is -1"),
        ({"random_state": "seed"}, "random_state must be None, an int"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    synthesizer = clone(STEMSynthesizer(**{"shape": (32, 32), **parameters}))
    with pytest.raises(ValueError, match=message):
        synthesizer.sample(1)
    with pytest.raises(ValueError, match=message):
        next(synthesizer.stream(1))


@pytest.mark.parametrize("n", [0, -1, 1.5, "3"])
def test_impossible_numbers_of_images_are_refused(n):
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        STEMSynthesizer(shape=(32, 32)).sample(n)


def test_parameters_survive_cloning():
    synthesizer = STEMSynthesizer(noise=QUIET, shape=(32, 48), spacing=(0.1, 0.2), random_state=3)
    assert clone(synthesizer).get_params() == synthesizer.get_params()


# --- a specimen of one's own -------------------------------------------------------------------------------------


def specimen(n: int = 1) -> Columns:
    cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.5])
    return stacked([lattice(cell, (64, 72), spacing=12.0, angle=20.0 * k) for k in range(n)])


def test_record_shows_the_specimen_and_nothing_else():
    synthesizer = STEMSynthesizer(shape=(64, 72), noise=QUIET, pixel_size=0.02, random_state=0)
    pairs, table = synthesizer.record(specimen(), return_columns=True)
    true_image = 20.0 + 100.0 * render(specimen(), (64, 72)).numpy()
    np.testing.assert_allclose(pairs["enhance"], true_image, rtol=1e-5)
    np.testing.assert_allclose(pairs["noisy"], true_image, atol=0.01)
    assert pairs["arrangement"].values.tolist() == ["given"]
    assert pairs["noisy"][0].stem.pixel_size == pytest.approx(0.02)
    assert set(table["amplitude"].round(6)) == {100.0, 50.0}
    places = specimen().places[0].round()
    inside = ((places >= 0) & (places <= torch.tensor([63, 71]))).all(dim=1)
    assert len(table) == int((inside & specimen().present[0]).sum())


def test_recordings_differ_in_their_noise_alone():
    synthesizer = STEMSynthesizer(shape=(64, 72), noise=NoiseModel(pointwise=PointwiseNoise(0.2)), random_state=1)
    pairs, table = synthesizer.record(specimen(2), 3, return_columns=True)
    assert pairs.sizes["image"] == 6
    true_image = pairs["enhance"].values
    assert np.array_equal(true_image[0], true_image[2])
    assert np.array_equal(true_image[3], true_image[5])
    assert not np.array_equal(true_image[0], true_image[3])
    rest = (pairs["noisy"] - pairs["enhance"]).values
    assert rest.std() == pytest.approx(0.2, rel=0.03)
    assert abs(np.corrcoef(rest[0].ravel(), rest[1].ravel())[0, 1]) < 0.1
    assert table.groupby("image").size()[0] == table.groupby("image").size()[2]
    again = STEMSynthesizer(shape=(64, 72), noise=NoiseModel(pointwise=PointwiseNoise(0.2)), random_state=1)
    xr.testing.assert_identical(again.record(specimen(2), 3), pairs)


def test_recordings_that_are_refused():
    with pytest.raises(TypeError, match="specimen must be Columns"):
        STEMSynthesizer().record(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        STEMSynthesizer().record(specimen(), 0)
    with pytest.raises(ValueError, match="width must be a positive number of nm"):
        STEMSynthesizer(width=(-1, 2)).sample(1)


def test_columns_have_the_requested_width():
    table = STEMSynthesizer(
        shape=(96, 96), arrangements=("lattice",), spacing=0.12, width=0.025, random_state=0
    ).sample(40, return_columns=True)[1]
    hosts = table[table["defect"] == "none"]
    # species are wider or narrower than the image's own width by a fifth or so
    assert hosts.groupby(["image", "species"])["sigma"].median().median() == pytest.approx(0.025, rel=0.1)


def test_widths_are_learnt():
    synthesizer = STEMSynthesizer(shape=(160, 160), noise=NoiseModel(pointwise=PointwiseNoise(0.1)), random_state=0)
    for sigma in (2.0, 3.0):
        image = synthesizer.record(lattice(planar_cell("square"), (160, 160), spacing=14.0, sigma=sigma))["noisy"]
        fitted = STEMSynthesizer().fit(image.isel(image=0))
        low, high = fitted.recipe().width
        assert low < sigma / 14.0 < high
        assert high - low < 0.1
        assert fitted.width_ == (pytest.approx(0.14 * low, rel=0.02), pytest.approx(0.14 * high, rel=0.02))


@given(seeds)
@settings(max_examples=5)
def test_every_arrangement_can_be_drawn_at_every_spacing(seed):
    for name in ARRANGEMENTS:
        recipe = Recipe(arrangements=(name,), spacing=(2.5, 80.0))
        batch = draw_batch(recipe, 3, (64, 80), torch_generator(seed))
        for image in (batch.noisy, *vars(batch.targets).values()):
            assert image.shape == (3, 64, 80)
            assert bool(torch.isfinite(image).all())
        assert batch.names == [name] * 3
        assert float(batch.targets.detect.max()) <= 1.0
        assert bool((batch.columns.amplitude[batch.columns.present] > 0).all())


def test_bright_field_has_a_positive_number_of_electrons_everywhere():
    noise = NoiseModel(mode="bf", pointwise=PointwiseNoise.counted(10.0, background=15.0, mode="bf"))
    pairs = STEMSynthesizer(noise=noise, shape=(64, 64), random_state=0).sample(48)
    depth = noise.level - pairs["enhance"].min(("y", "x"))
    assert float(depth.max()) > 2.0 * noise.contrast
    # where there were none, neighbouring pixels would be equal
    flat = (pairs["noisy"].diff("x") == 0).mean(("y", "x"))
    assert float(flat.max()) < 0.3


def test_an_empty_image_shows_its_support_alone():
    batch = draw_batch(Recipe(empty=0.5), 60, (48, 48), torch_generator(3))
    empty = ~batch.columns.present.any(1)
    assert 18 <= int(empty.sum()) <= 42
    assert float(batch.targets.detect[empty].abs().max()) == 0.0
    assert float(batch.targets.superresolve[empty].abs().max()) == 0.0
    assert bool((batch.noisy[empty].std(dim=(1, 2)) > 0).all())


@pytest.mark.parametrize("name", ["lattice", "twin", "grains", "phases", "dislocation"])
def test_crystals_cover_the_whole_image(name):
    nothing = dict.fromkeys(("vacancies", "embedded", "shifts", "interstitials", "islands", "strain"), 0.0)
    batch = draw_batch(Recipe((name,), (10.0, 10.0), **nothing), 12, (160, 160), torch_generator(1))
    grid = np.stack(np.meshgrid(*[np.arange(0, 160, 4.0)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    for k in range(12):
        places = batch.columns.places[k][batch.columns.present[k]].numpy()
        # the widest gaps are those of cells with one column, and of borders
        assert (cKDTree(places).query(grid)[0] > 35).mean() < 0.02


def test_bright_field_counts_fewer_electrons_where_columns_are():
    dark = draw_batch(Recipe(dark=1.0), 40, (48, 48), torch_generator(2))
    noise = draw_noise(dark.columns.spacing, torch_generator(3), torch.ones(40, dtype=torch.bool))
    assert bool((noise.gain <= 0).all())
    # the variance is nowhere negative, down to a column's full depth
    assert bool((noise.readout**2 + noise.gain >= -1e-6).all())
    # nor in the thickest film: nothing is clipped at no electrons
    depth = dark.targets.enhance.amax(dim=(1, 2))
    noise = draw_noise(dark.columns.spacing, torch_generator(3), torch.ones(40, dtype=torch.bool), depth)
    assert float(depth.max()) > 1.5
    assert bool((noise.readout**2 + noise.gain * depth >= -1e-6).all())
    bright = draw_noise(dark.columns.spacing, torch_generator(3))
    assert bool((bright.gain >= 0).all())
