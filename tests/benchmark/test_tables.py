"""The compared methods, the networks trained for them, and the tables."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from stemkit import SFINDenoiser, WienerDenoiser
from stemkit.benchmark.cost import Cost, _in_own_process, cost_table
from stemkit.benchmark.evaluation import evaluate
from stemkit.benchmark.localization import MEASURED, displaced_crystal, localization_table
from stemkit.benchmark.methods import MethodSpec, compared_methods
from stemkit.benchmark.report import Report, example_figure
from stemkit.benchmark.scenes import scenes
from stemkit.benchmark.separation import pairs_of_columns, separation_table
from stemkit.benchmark.tables import FULL, PRINTED_TRUTHS, TABLES, Extent
from stemkit.benchmark.trained import (
    ABLATIONS,
    BASELINES,
    NETWORKS,
    SFIN_SAME_TRAINING,
    gaussian_noise,
    train_network,
    train_networks,
    without_frequency,
    without_interaction,
)
from stemkit.cli import main
from stemkit.cli.benchmark import NAMES
from stemkit.denoising import load_weights
from stemkit.networks.sfin import Interaction

TINY = dataclasses.replace(SFIN_SAME_TRAINING.info, n_channels=4, n_blocks=1)
SMALL = Extent(1, 1, (30.0,), (3.0,), (64,))


class Constant:
    """A method that returns the same image always."""

    def __init__(self, values):
        self.values = values

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X.copy(data=self.values)


# --- methods ---------------------------------------------------------------------------------------------------------


class TestComparedMethods:
    def test_every_method_of_the_paper_is_compared(self):
        names = [row.name for row in compared_methods()]
        assert {"recorded", "ABSF", "Wiener", "AtomSegNet", "FCN", "SFIN"} <= set(names)
        assert len(set(names)) == len(names)

    def test_the_quick_tables_leave_out_the_slowest_method(self):
        names, quick_names = ([row.name for row in compared_methods(quick=quick)] for quick in (False, True))
        assert set(names) - set(quick_names) == {"SFIN, flips averaged"}

    def test_networks_without_weights_are_unavailable(self):
        unavailable = {row.name for row in compared_methods() if row.unavailable}
        assert unavailable == {spec.name for spec in NETWORKS}

    def test_an_added_class_is_compared(self):
        added = compared_methods(add=["stemkit:WienerDenoiser"])[-1]
        assert added.name == "WienerDenoiser"
        assert isinstance(added.create(), WienerDenoiser)

    @pytest.mark.parametrize(
        "import_path",
        [
            "WienerDenoiser",
            "stemkit:Nothing",
            "no_such_module:Class",
            ":Class",
            "json:JSONDecoder",
            "stemkit.benchmark.separation:RichardsonLucy",
        ],
    )
    def test_an_added_class_that_cannot_be_used_is_refused(self, import_path):
        with pytest.raises(ValueError, match="add must name a class"):
            compared_methods(add=[import_path])

    def test_an_added_class_has_a_unique_name(self):
        twice = compared_methods(add=["stemkit:WienerDenoiser", "stemkit.denoising:WienerDenoiser"])[-2:]
        assert [row.name for row in twice] == ["WienerDenoiser", "stemkit.denoising:WienerDenoiser"]

    def test_a_network_can_be_created_for_another_target(self):
        row = next(row for row in compared_methods() if row.name == "SFIN")
        assert row.create(target="detect").target == "detect"

    def test_other_packages_are_compared_if_they_are_installed(self):
        row = next(row for row in compared_methods(external=True) if row.name == "BM3D")
        if row.unavailable:
            assert row.unavailable == "the package bm3d is not installed"
        else:
            assert row.create().fit_transform(np.random.default_rng(0).normal(size=(64, 64))).shape == (64, 64)


# --- training ----------------------------------------------------------------------------------------------------


@pytest.fixture
def few_small_images(monkeypatch):
    """Train on small images, four in a batch, and validate with two batches."""
    monkeypatch.setattr("stemkit.benchmark.trained.CROP_SIZE", 32)
    monkeypatch.setattr("stemkit.benchmark.trained.BATCH_SIZE", 4)
    monkeypatch.setattr("stemkit.denoising.training.N_VALIDATION", 2)


@pytest.mark.usefixtures("few_small_images")
class TestTraining:
    @pytest.mark.slow
    def test_weights_state_how_they_were_trained(self, tmp_path):
        spec = dataclasses.replace(SFIN_SAME_TRAINING, info=TINY, learning_rates=(1e-3, 1e-2))
        path = train_network(spec, tmp_path, 32)
        training = load_weights(path)[1].training
        assert training["images"] == 32
        losses = training["rate_losses"]
        assert set(losses) == {"0.001", "0.01"}
        assert training["lr"] == float(min(losses, key=losses.get))
        # a second call does not train them again
        before = path.stat().st_mtime_ns
        assert train_network(spec, tmp_path, 32) == path
        assert path.stat().st_mtime_ns == before
        with pytest.raises(ValueError, match="remove it to train it again"):
            train_network(spec, tmp_path, 64)
        with pytest.raises(ValueError, match="remove it to train it again"):
            train_network(dataclasses.replace(spec, ablate=without_frequency), tmp_path, 32)
        with pytest.raises(ValueError, match="n_images must be at least 4, a batch, but is 0"):
            train_network(spec, tmp_path, 0)

    def test_another_seed_gives_another_network(self, tmp_path):
        spec = dataclasses.replace(SFIN_SAME_TRAINING, info=TINY, learning_rates=(1e-3,))
        first, second = (train_network(spec, tmp_path / str(seed), 8, seed=seed) for seed in (1, 2))
        losses = [load_weights(path)[1].training["valid_loss"] for path in (first, second)]
        assert losses[0] != losses[1]
        with pytest.raises(ValueError, match="remove it to train it again"):
            train_network(spec, tmp_path / "1", 8, seed=2)

    @pytest.mark.slow
    def test_baselines_are_trained_for_the_time_that_sfin_took(self, tmp_path, monkeypatch):
        """On as many images as follow from the times per image, which are given: SFIN takes three times as long."""
        sfin = dataclasses.replace(SFIN_SAME_TRAINING, info=TINY, learning_rates=(1e-2, 1e-3))
        tiny = dataclasses.replace(BASELINES[0].info, n_channels=8)
        baseline = dataclasses.replace(BASELINES[0], info=tiny, learning_rates=(1e-3,))
        ablation = dataclasses.replace(sfin, name="ablation", ablate=without_frequency)
        monkeypatch.setattr("stemkit.benchmark.trained.SFIN_SAME_TRAINING", sfin)
        monkeypatch.setattr("stemkit.benchmark.trained.ABLATIONS", (ablation,))
        seconds = iter((0.3, 0.1, 0.1, 0.3))
        monkeypatch.setattr(
            "stemkit.benchmark.trained._durations",
            lambda net, n: {"seconds": 1.0, "seconds_per_image": next(seconds)},
        )
        specs = (sfin, baseline, baseline.for_equal_time(), ablation)
        trained = {name: load_weights(path)[1].training for name, path in train_networks(tmp_path, 16, specs=specs)}
        assert trained[baseline.name]["images"] == 16
        assert trained[f"{baseline.name}, equal time"]["images"] == 3 * 16
        # an ablation is trained at the learning rate that was chosen for the complete network
        assert trained["ablation"]["lr"] == trained[sfin.name]["lr"]
        assert not trained["ablation"]["rate_losses"]

    def test_the_time_per_image_is_that_of_the_fastest_epoch(self, tmp_path, monkeypatch):
        monkeypatch.setattr("stemkit.benchmark.trained.EPOCH_IMAGES", 8)
        spec = dataclasses.replace(SFIN_SAME_TRAINING, info=TINY, learning_rates=(1e-3,))
        training = load_weights(train_network(spec, tmp_path, 24))[1].training
        assert 0 < training["seconds_per_image"] <= training["seconds"] / 24

    @pytest.mark.slow
    def test_an_interrupted_training_resumes_to_the_same_weights(self, tmp_path, monkeypatch):
        monkeypatch.setattr("stemkit.benchmark.trained.EPOCH_IMAGES", 8)
        spec = dataclasses.replace(SFIN_SAME_TRAINING, info=TINY, learning_rates=(1e-3,))
        assert train_network(spec, tmp_path / "pieces", 24, minutes=1e-6) is None
        pieces = train_network(spec, tmp_path / "pieces", 24)
        at_once = train_network(spec, tmp_path / "at once", 24)
        ours, theirs = (load_weights(path)[0].state_dict() for path in (pieces, at_once))
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)

    @pytest.mark.parametrize(
        ("ablate", "zero_weights"),
        [
            (without_frequency, lambda block: [block.convg2g.conv2.weight[:, block.channels :]]),
            (without_interaction, lambda block: [block.convl2g.weight, block.convg2l.weight]),
        ],
    )
    def test_an_ablated_part_stays_zero(self, tmp_path, ablate, zero_weights):
        spec = dataclasses.replace(SFIN_SAME_TRAINING, name="cut", info=TINY, learning_rates=(1e-2,), ablate=ablate)
        network, _ = load_weights(train_network(spec, tmp_path, 16))
        blocks = [module for module in network.modules() if isinstance(module, Interaction)]
        assert len(blocks) == 2
        for block in blocks:
            assert all(not weight.any() for weight in zero_weights(block))
            assert block.convl2l.weight.any()

    def test_the_recipes_of_the_ablations(self):
        assert {spec.name for spec in ABLATIONS} == {
            "lattices only",
            "without random arrangements",
            "with Gaussian noise",
            "without frequency",
            "without interaction",
        }
        noise = gaussian_noise()
        assert not noise.streaks.any()
        assert not noise.gain.any()
        assert not noise.poisson.any()
        assert (noise.readout > 0).all()
        recipes = {spec.name: spec.recipe for spec in ABLATIONS}
        assert recipes["lattices only"].arrangements == ("lattice",)
        whole = set(SFIN_SAME_TRAINING.recipe.arrangements)
        assert whole - set(recipes["without random arrangements"].arrangements) == {"random", "sparse"}
        assert recipes["with Gaussian noise"].arrangements == SFIN_SAME_TRAINING.recipe.arrangements


# --- tables ------------------------------------------------------------------------------------------------------


class TestDetection:
    def test_the_true_map_has_an_f1_of_one(self, monkeypatch):
        """Columns beyond the image and unresolved pairs count neither for nor against a method."""
        truth = {values["noisy"].values.tobytes(): values["detect"].values for values in _pairs("haadf", 3)}

        class Oracle(Constant):
            def transform(self, X):
                return X.copy(data=truth.get(X.values.tobytes(), X.values))

        row = MethodSpec("truth", "a:b", is_network=True)
        monkeypatch.setattr(MethodSpec, "create", lambda self, **changed: Oracle(None))
        table = TABLES["detection"].compute([row], dataclasses.replace(SMALL, images=3))
        f1 = table[(table["score"] == "F1") & (table["set"] == "haadf")]["value"]
        assert len(f1) == 3
        assert (f1 == 1).all()


def _cost(rows):
    return pd.DataFrame({"method": [row.name for row in rows], "px": 64, "seconds": 1.0, "GiB": 0.1})


def _pairs(name, n):
    pairs = scenes(name, n).pairs
    return [pairs.isel(image=i) for i in range(n)]


class TestSeparation:
    def test_pairs_have_the_requested_distance(self):
        image, true = pairs_of_columns(3.0, 100.0, seed=1)
        places = true.to_numpy()
        n = len(places) // 2
        np.testing.assert_allclose(np.hypot(*(places[:n] - places[n:]).T), 6.0)
        assert image.shape == (256, 256)

    @pytest.mark.slow
    def test_distant_columns_are_found_in_the_recorded_image(self):
        table = separation_table({"recorded": None}, separations=(5.0,), doses=(300.0,), n=1, verbose=False)
        means = table.groupby("method")["f1"].mean()
        assert set(means.index) == {"recorded", "Richardson-Lucy"}
        assert (means > 0.98).all()

    def test_an_empty_image_has_no_columns(self):
        nothing = {"blank": Constant(np.zeros((256, 256)))}
        table = separation_table(nothing, separations=(3.0,), doses=(300.0,), n=1, verbose=False)
        assert table.set_index("method")["f1"]["blank"] == 0


class TestLocalization:
    def test_the_detector_reaches_the_bound_without_bias(self):
        table = localization_table({"recorded": None}, doses=(30.0,), n=1, verbose=False).set_index("method")
        assert 0.9 < table["rms over limit"][MEASURED] < 1.15
        # equal weights are slightly less precise
        assert table["rms over limit"][MEASURED] < table["rms over limit"]["recorded"] < 1.4
        assert table["slope"][MEASURED] == pytest.approx(1, abs=0.05)
        assert table["lost"].max() == 0

    def test_a_perfect_lattice_has_a_slope_of_zero(self):
        seed = int(np.random.SeedSequence([2**43, 0, 30]).generate_state(1)[0])
        ideal = displaced_crystal(30.0, seed).ideal
        y, x = np.mgrid[:256, :256]
        spots = sum(np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * 2.6**2)) for at in ideal)
        table = localization_table({"lattice": Constant(spots)}, doses=(30.0,), n=1, verbose=False).set_index("method")
        assert table["slope"]["lattice"] == pytest.approx(0, abs=0.05)
        assert table["rms px"]["lattice"] == pytest.approx(0.5, rel=0.1)

    def test_locators_are_given_the_sites_of_the_lattice(self):
        known = {"given": lambda image, positions: positions}
        table = localization_table({}, locators=known, doses=(30.0,), n=1, verbose=False).set_index("method")
        # the given positions are those of the perfect lattice
        assert table["rms px"]["given"] == pytest.approx(0.5, rel=0.1)
        assert table["slope"]["given"] == 0
        assert table["rms px"][MEASURED] < 0.15

    def test_all_columns_are_lost_in_an_empty_image(self):
        nothing = {"blank": Constant(np.zeros((256, 256)))}
        table = localization_table(nothing, doses=(30.0,), n=1, verbose=False).set_index("method")
        assert table["lost"]["blank"] == 1
        assert np.isnan(table["rms over limit"]["blank"])


class TestReport:
    def test_the_command_has_the_names_of_all_tables(self):
        assert tuple(TABLES) == NAMES

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["enhancement", "detection"])
    def test_tables(self, name, tmp_path):
        rows = [row for row in compared_methods() if row.name in ("recorded", "SFIN", "FCN")]
        text = Report(tmp_path, SMALL).table(name, rows)
        assert "| SFIN" in text
        assert "Not run: FCN (no weights ship, and none were trained)." in text
        written = (tmp_path / "tables.md").read_text()
        assert text in written
        assert f"images={SMALL.images}" in written
        summary = pd.read_csv(tmp_path / f"{name}_table.csv")
        assert set(summary["method"]) <= set(pd.read_csv(tmp_path / f"{name}.csv")["method"])

    def test_a_table_is_computed_again_only_if_it_would_differ(self, tmp_path, monkeypatch):
        computed = []
        quickly = dataclasses.replace(TABLES["cost"], compute=lambda rows, extent: computed.append(rows) or _cost(rows))
        monkeypatch.setitem(TABLES, "cost", quickly)
        rows = [row for row in compared_methods() if row.name in ("ABSF", "Wiener")]
        first = Report(tmp_path, SMALL).table("cost", rows)
        assert Report(tmp_path, SMALL).table("cost", rows) == first
        assert len(computed) == 1
        # another extent, another method, another parameter of one, an edited class of the user's own
        Report(tmp_path, FULL).table("cost", rows)
        Report(tmp_path, FULL).table("cost", rows[:1])
        Report(tmp_path, FULL).table("cost", [dataclasses.replace(rows[0], parameters={"mode": "bf"})])
        assert len(computed) == 4
        monkeypatch.syspath_prepend(tmp_path)
        code = "import stemkit\n\nclass Edited(stemkit.WienerDenoiser):\n    pass\n"
        for n, text in enumerate((code, code, code + "    sharper = True\n")):
            (tmp_path / "edited_module.py").write_text(text)
            Report(tmp_path, FULL).table("cost", compared_methods(add=["edited_module:Edited"])[-1:])
            assert len(computed) == (5, 5, 6)[n]

    def test_the_bias_of_shifts_is_empty_if_many_columns_are_lost(self):
        seen = {"method": ["a", "b"], "shows": "shifted columns", "dose": 3.0}
        found, bias = (pd.DataFrame({**seen, "score": score}) for score in ("found", "bias"))
        scores = pd.concat([found.assign(value=[1.0, 0.5]), bias.assign(value=[-0.1, 0.0])])
        summary = TABLES["truths"].summarize(scores)
        assert summary.loc["a", "shift bias, 3"] == pytest.approx(-0.1)
        assert np.isnan(summary.loc["b", "shift bias, 3"])

    @pytest.mark.slow
    def test_the_printed_scores_of_planted_structures_exist(self):
        judged = evaluate({"recorded": None}, ["truths"], n=1, doses=(30.0,), verbose=False)
        assert set(PRINTED_TRUTHS) <= set(zip(judged["shows"], judged["score"], strict=True))

    def test_untrained_ablations_are_listed(self, tmp_path):
        text = Report(tmp_path, SMALL).table("ablations", compared_methods())
        assert "Not run: SFIN, same training, lattices only" in text

    def test_the_figure_has_a_title_for_each_method(self):
        figure = example_figure([row for row in compared_methods() if row.name in ("recorded", "Wiener")])
        assert [axis.get_title() for axis in figure.axes[:3]] == ["recorded", "Wiener", "truth"]

    @pytest.mark.slow
    def test_the_cost_of_a_method_is_measured_in_a_process_of_its_own(self):
        row = next(row for row in compared_methods() if row.name == "Wiener")
        held = np.ones(2**26)  # memory of this process, half a GiB, which must not count
        start = time.perf_counter()
        measured = _in_own_process(row, 512)
        assert held.any()
        assert 0 < measured.seconds < time.perf_counter() - start
        # more than the image in double precision, less than what this process holds
        assert 8 * 512**2 / 2**30 < measured.gib < 0.25

    def test_the_noise_calibration_is_a_row_of_the_costs(self, monkeypatch):
        measured = {("Wiener", 64): Cost(1.0, 0.1), ("Wiener", 128): Cost(4.0, 0.2)}
        measured |= {("noise calibration", n): Cost(9.0, 0.3) for n in (64, 128)}
        monkeypatch.setattr("stemkit.benchmark.cost._in_own_process", lambda row, size: measured[row.name, size])
        rows = [row for row in compared_methods() if row.name in ("recorded", "Wiener", "FCN")]
        table = cost_table(rows, sizes=(64, 128), verbose=False).set_index(["method", "px"])
        # neither the recorded image nor a network without weights
        assert {at: Cost(*values) for at, values in zip(table.index, table.to_numpy(), strict=True)} == measured


@pytest.mark.slow
def test_the_command_writes_tables_and_a_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stemkit.benchmark.tables.QUICK", SMALL)
    only = [row for row in compared_methods() if row.name in ("recorded", "Wiener", "FCN")]
    monkeypatch.setattr("stemkit.benchmark.methods.compared_methods", lambda *a, **k: only)
    folder = tmp_path / "out"
    assert main(["benchmark", "--quick", "--only", "superresolution", "localisation", "-o", str(folder)]) == 0
    tables = [f"{name}{end}.csv" for name in ("superresolution", "localisation") for end in ("", "_table")]
    tables += ["superresolution.md", "localisation.md"]
    assert {path.name for path in folder.iterdir()} == {*tables, "tables.md", "pictures.png"}
    assert "Localisation" in capsys.readouterr().out


def test_the_command_says_that_training_is_not_complete(tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["benchmark", "--train", "64", "--minutes", "1e-9", "-o", str(folder)]) == 0
    assert "the same call resumes it" in capsys.readouterr().err
    assert not (folder / "tables.md").exists()


def test_an_estimator_loads_the_trained_weights(tmp_path, few_small_images):
    image = xr.DataArray(np.random.default_rng(0).normal(size=(64, 64)), dims=("y", "x"), attrs={"mode": "haadf"})
    spec = dataclasses.replace(SFIN_SAME_TRAINING, info=TINY, learning_rates=(1e-3,))
    weights = train_network(spec, tmp_path, 8)
    assert SFINDenoiser(weights=weights).fit_transform(image).shape == (64, 64)
