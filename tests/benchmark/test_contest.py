"""Who is compared, how networks are trained for it, and the tables."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from stemkit import SFINDenoiser, WienerDenoiser
from stemkit.benchmark.contest import FULL, SHOWN, TABLES, Extent
from stemkit.benchmark.contestants import Contestant, contestants
from stemkit.benchmark.cost import cost_table
from stemkit.benchmark.entrants import (
    ABLATIONS,
    ENTRANTS,
    RIVALS,
    SFIN_ALIKE,
    plain_noise,
    train_entrant,
    train_entrants,
    without_frequency,
    without_interaction,
)
from stemkit.benchmark.localisation import MEASURED, displaced_crystal, localisation_table
from stemkit.benchmark.report import Report, pictures
from stemkit.benchmark.scenes import scenes
from stemkit.benchmark.separation import pairs_of_columns, separation_table
from stemkit.benchmark.table import evaluate
from stemkit.cli import main
from stemkit.cli.benchmark import NAMES
from stemkit.denoising import load_weights
from stemkit.networks.sfin import Interaction

TINY = dataclasses.replace(SFIN_ALIKE.info, n_channels=4, n_blocks=1)
LITTLE = Extent(1, 1, (30.0,), (3.0,), (64,))


class Shows:
    """A method that shows something of its own."""

    def __init__(self, values):
        self.values = values

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X.copy(data=self.values)


# --- who ---------------------------------------------------------------------------------------------------------


class TestContestants:
    def test_every_row_of_the_paper_is_there(self):
        names = [row.name for row in contestants()]
        assert {"recorded", "ABSF", "Wiener", "AtomSegNet", "FCN", "SFIN"} <= set(names)
        assert len(set(names)) == len(names)

    def test_in_short_without_what_takes_longest(self):
        names, short = ([row.name for row in contestants(quick=quick)] for quick in (False, True))
        assert set(names) - set(short) == {"SFIN, flips averaged"}

    def test_networks_without_weights_say_so(self):
        missing = {row.name for row in contestants() if row.missing}
        assert missing == {entrant.name for entrant in ENTRANTS}

    def test_one_s_own(self):
        added = contestants(add=["stemkit:WienerDenoiser"])[-1]
        assert added.name == "WienerDenoiser"
        assert isinstance(added.method(), WienerDenoiser)

    @pytest.mark.parametrize(
        "place",
        [
            "WienerDenoiser",
            "stemkit:Nothing",
            "no_such_module:Class",
            ":Class",
            "json:JSONDecoder",
            "stemkit.benchmark.separation:RichardsonLucy",
        ],
    )
    def test_one_s_own_that_is_not_there(self, place):
        with pytest.raises(ValueError, match="add must name a class"):
            contestants(add=[place])

    def test_one_s_own_has_a_name_of_its_own(self):
        twice = contestants(add=["stemkit:WienerDenoiser", "stemkit.denoising:WienerDenoiser"])[-2:]
        assert [row.name for row in twice] == ["WienerDenoiser", "stemkit.denoising:WienerDenoiser"]

    def test_targets(self):
        row = next(row for row in contestants() if row.name == "SFIN")
        assert row.method(target="detect").target == "detect"

    def test_rivals_are_run_where_they_are_installed(self):
        row = next(row for row in contestants(rivals=True) if row.name == "BM3D")
        if row.missing:
            assert row.missing == "the package bm3d is not installed"
        else:
            assert row.method().fit_transform(np.random.default_rng(0).normal(size=(64, 64))).shape == (64, 64)


# --- training ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_crops(monkeypatch):
    """Training on next to nothing."""
    monkeypatch.setattr("stemkit.benchmark.entrants.CROP_SIZE", 32)


@pytest.mark.usefixtures("small_crops")
class TestEntrants:
    def test_weights_and_how_they_were_made(self, tmp_path):
        entrant = dataclasses.replace(SFIN_ALIKE, info=TINY, rates=(1e-3, 1e-2))
        path = train_entrant(entrant, tmp_path, 128)
        made = load_weights(path)[1].training
        assert made["images"] == 128
        assert set(made["tried"]) == {"0.001", "0.01"}
        assert made["lr"] == float(min(made["tried"], key=made["tried"].get))
        # a second call finds them
        before = path.stat().st_mtime_ns
        assert train_entrant(entrant, tmp_path, 128) == path
        assert path.stat().st_mtime_ns == before
        with pytest.raises(ValueError, match="remove it to train it again"):
            train_entrant(entrant, tmp_path, 256)
        with pytest.raises(ValueError, match="remove it to train it again"):
            train_entrant(dataclasses.replace(entrant, cut=without_frequency), tmp_path, 128)
        with pytest.raises(ValueError, match="n_images must be at least 16, a batch, but is 0"):
            train_entrant(entrant, tmp_path, 0)

    def test_a_seed_is_another_run(self, tmp_path):
        entrant = dataclasses.replace(SFIN_ALIKE, info=TINY, rates=(1e-3,))
        first, second = (train_entrant(entrant, tmp_path / str(seed), 32, seed=seed) for seed in (1, 2))
        losses = [load_weights(path)[1].training["valid_loss"] for path in (first, second)]
        assert losses[0] != losses[1]
        with pytest.raises(ValueError, match="remove it to train it again"):
            train_entrant(entrant, tmp_path / "1", 32, seed=2)

    def test_rivals_have_the_time_that_sfin_took(self, tmp_path, monkeypatch):
        ours = dataclasses.replace(SFIN_ALIKE, info=TINY, rates=(1e-2, 1e-3))
        rival = dataclasses.replace(RIVALS[0], info=dataclasses.replace(RIVALS[0].info, n_channels=8), rates=(1e-3,))
        cut = dataclasses.replace(ours, name="cut", cut=without_frequency)
        monkeypatch.setattr("stemkit.benchmark.entrants.SFIN_ALIKE", ours)
        monkeypatch.setattr("stemkit.benchmark.entrants.ABLATIONS", (cut,))
        monkeypatch.setattr("stemkit.benchmark.entrants.ENTRANTS", (ours, rival, rival.on_time(), cut))
        made = {name: load_weights(path)[1].training for name, path in train_entrants(tmp_path, 64)}
        n = 64 * made[ours.name]["seconds_per_image"] / made[rival.name]["seconds_per_image"]
        assert made[f"{rival.name}, equal time"]["images"] == max(16, round(n))
        # what is cut off is trained at the rate that the whole has chosen
        assert made["cut"]["lr"] == made[ours.name]["lr"]
        assert not made["cut"]["tried"]

    def test_training_goes_on_where_time_was_over(self, tmp_path, monkeypatch):
        monkeypatch.setattr("stemkit.benchmark.entrants.EPOCH_IMAGES", 32)
        entrant = dataclasses.replace(SFIN_ALIKE, info=TINY, rates=(1e-3,))
        assert train_entrant(entrant, tmp_path / "pieces", 96, minutes=1e-6) is None
        pieces = train_entrant(entrant, tmp_path / "pieces", 96)
        at_once = train_entrant(entrant, tmp_path / "at once", 96)
        ours, theirs = (load_weights(path)[0].state_dict() for path in (pieces, at_once))
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)

    @pytest.mark.parametrize(
        ("cut", "silent"),
        [
            (without_frequency, lambda block: [block.convg2g.conv2.weight[:, block.channels :]]),
            (without_interaction, lambda block: [block.convl2g.weight, block.convg2l.weight]),
        ],
    )
    def test_what_is_cut_off_stays_so(self, tmp_path, cut, silent):
        entrant = dataclasses.replace(SFIN_ALIKE, name="cut", info=TINY, rates=(1e-2,), cut=cut)
        network, _ = load_weights(train_entrant(entrant, tmp_path, 64))
        blocks = [module for module in network.modules() if isinstance(module, Interaction)]
        assert len(blocks) == 2
        for block in blocks:
            assert all(not weight.any() for weight in silent(block))
            assert block.convl2l.weight.any()

    def test_what_the_ablations_leave_out(self):
        assert {entrant.name for entrant in ABLATIONS} == {
            "lattices only",
            "without random arrangements",
            "with Gaussian noise",
            "without frequency",
            "without interaction",
        }
        noise = plain_noise()
        assert not noise.streaks.any()
        assert not noise.gain.any()
        assert not noise.poisson.any()
        assert (noise.readout > 0).all()
        recipes = {entrant.name: entrant.recipe for entrant in ABLATIONS}
        assert recipes["lattices only"].arrangements == ("lattice",)
        whole = set(SFIN_ALIKE.recipe.arrangements)
        assert whole - set(recipes["without random arrangements"].arrangements) == {"random", "sparse"}
        assert recipes["with Gaussian noise"].arrangements == SFIN_ALIKE.recipe.arrangements


# --- tables ------------------------------------------------------------------------------------------------------


class TestDetection:
    def test_the_truth_is_right(self, monkeypatch):
        """F1 of the true map is 1: columns beyond the frame and spots that are two in one count for nobody."""
        truth = {values["noisy"].values.tobytes(): values["detect"].values for values in _pairs("haadf", 3)}

        class Knows(Shows):
            def transform(self, X):
                return X.copy(data=truth.get(X.values.tobytes(), X.values))

        row = Contestant("truth", "a:b", learnt=True)
        monkeypatch.setattr(Contestant, "method", lambda self, **changed: Knows(None))
        table = TABLES["detection"].make([row], dataclasses.replace(LITTLE, images=3))
        f1 = table[(table["score"] == "F1") & (table["set"] == "haadf")]["value"]
        assert len(f1) == 3
        assert (f1 == 1).all()


def _cost(rows):
    return pd.DataFrame({"method": [row.name for row in rows], "px": 64, "seconds": 1.0, "GiB": 0.1})


def _pairs(name, n):
    pairs = scenes(name, n).pairs
    return [pairs.isel(image=i) for i in range(n)]


class TestSeparation:
    def test_pairs_are_as_far_apart_as_asked(self):
        image, true = pairs_of_columns(3.0, 100.0, seed=1)
        places = true.to_numpy()
        n = len(places) // 2
        np.testing.assert_allclose(np.hypot(*(places[:n] - places[n:]).T), 6.0)
        assert image.shape == (256, 256)

    def test_columns_far_apart_are_found_in_the_recorded_image(self):
        table = separation_table({"recorded": None}, separations=(5.0,), doses=(300.0,), n=1, verbose=False)
        means = table.groupby("method")["f1"].mean()
        assert set(means.index) == {"recorded", "Richardson-Lucy"}
        assert (means > 0.98).all()

    def test_nothing_is_found_in_nothing(self):
        nothing = {"blank": Shows(np.zeros((256, 256)))}
        table = separation_table(nothing, separations=(3.0,), doses=(300.0,), n=1, verbose=False)
        assert table.set_index("method")["f1"]["blank"] == 0


class TestLocalisation:
    def test_the_detector_reaches_the_bound_and_tells_the_truth(self):
        table = localisation_table({"recorded": None}, doses=(30.0,), n=1, verbose=False).set_index("method")
        assert 0.9 < table["rms over limit"][MEASURED] < 1.15
        # all weights alike is not quite as good
        assert table["rms over limit"][MEASURED] < table["rms over limit"]["recorded"] < 1.4
        assert table["slope"][MEASURED] == pytest.approx(1, abs=0.05)
        assert table["lost"].max() == 0

    def test_a_perfect_lattice_is_no_measurement(self):
        seed = int(np.random.SeedSequence([2**43, 0, 30]).generate_state(1)[0])
        *_, ideal, _ = displaced_crystal(30.0, seed)
        y, x = np.mgrid[:256, :256]
        spots = sum(np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * 2.6**2)) for at in ideal)
        table = localisation_table({"lattice": Shows(spots)}, doses=(30.0,), n=1, verbose=False).set_index("method")
        assert table["slope"]["lattice"] == pytest.approx(0, abs=0.05)
        assert table["rms px"]["lattice"] == pytest.approx(0.5, rel=0.1)

    def test_others_may_locate(self):
        known = {"given": lambda image, places: places}
        table = localisation_table({}, locators=known, doses=(30.0,), n=1, verbose=False).set_index("method")
        # those of a perfect lattice
        assert table["rms px"]["given"] == pytest.approx(0.5, rel=0.1)
        assert table["slope"]["given"] == 0
        assert table["rms px"][MEASURED] < 0.15

    def test_an_image_of_nothing_knows_no_column(self):
        nothing = {"blank": Shows(np.zeros((256, 256)))}
        table = localisation_table(nothing, doses=(30.0,), n=1, verbose=False).set_index("method")
        assert table["lost"]["blank"] == 1
        assert np.isnan(table["rms over limit"]["blank"])


class TestReport:
    def test_tables_by_name(self):
        assert tuple(TABLES) == NAMES

    @pytest.mark.parametrize("name", ["enhancement", "detection"])
    def test_tables(self, name, tmp_path):
        rows = [row for row in contestants() if row.name in ("recorded", "SFIN", "FCN")]
        text = Report(tmp_path, LITTLE).table(name, rows)
        assert "| SFIN" in text
        assert "Not run: FCN (no weights ship, and none were trained)." in text
        written = (tmp_path / "tables.md").read_text()
        assert text in written
        assert f"images={LITTLE.images}" in written
        short = pd.read_csv(tmp_path / f"{name}_table.csv")
        assert set(short["method"]) <= set(pd.read_csv(tmp_path / f"{name}.csv")["method"])

    def test_a_table_is_made_again_where_it_would_differ(self, tmp_path, monkeypatch):
        made = []
        quickly = dataclasses.replace(TABLES["cost"], make=lambda rows, extent: made.append(rows) or _cost(rows))
        monkeypatch.setitem(TABLES, "cost", quickly)
        rows = [row for row in contestants() if row.name in ("ABSF", "Wiener")]
        first = Report(tmp_path, LITTLE).table("cost", rows)
        assert Report(tmp_path, LITTLE).table("cost", rows) == first
        assert len(made) == 1
        # another extent, another method, another parameter of one, an edited class of the user's own
        Report(tmp_path, FULL).table("cost", rows)
        Report(tmp_path, FULL).table("cost", rows[:1])
        Report(tmp_path, FULL).table("cost", [dataclasses.replace(rows[0], parameters={"mode": "bf"})])
        assert len(made) == 4
        monkeypatch.syspath_prepend(tmp_path)
        code = "import stemkit\n\nclass Mine(stemkit.WienerDenoiser):\n    pass\n"
        for n, text in enumerate((code, code, code + "    sharper = True\n")):
            (tmp_path / "edited_by_me.py").write_text(text)
            Report(tmp_path, FULL).table("cost", contestants(add=["edited_by_me:Mine"])[-1:])
            assert len(made) == (5, 5, 6)[n]

    def test_a_shift_is_not_judged_on_columns_that_are_lost(self):
        seen = {"method": ["a", "b"], "shows": "shifted columns", "dose": 3.0}
        found, bias = (pd.DataFrame({**seen, "score": score}) for score in ("found", "bias"))
        scores = pd.concat([found.assign(value=[1.0, 0.5]), bias.assign(value=[-0.1, 0.0])])
        short = TABLES["truths"].short(scores)
        assert short.loc["a", "shift bias, 3"] == pytest.approx(-0.1)
        assert np.isnan(short.loc["b", "shift bias, 3"])

    def test_what_is_shown_of_the_truths_is_there(self):
        judged = evaluate({"recorded": None}, ["truths"], n=1, doses=(30.0,), verbose=False)
        assert set(SHOWN) <= set(zip(judged["shows"], judged["score"], strict=True))

    def test_ablations_that_were_not_trained(self, tmp_path):
        text = Report(tmp_path, LITTLE).table("ablations", contestants())
        assert "Not run: SFIN, trained alike, lattices only" in text

    def test_pictures_have_a_title_for_each_method(self):
        figure = pictures([row for row in contestants() if row.name in ("recorded", "Wiener")])
        assert [axis.get_title() for axis in figure.axes[:3]] == ["recorded", "Wiener", "truth"]

    def test_cost(self):
        row = next(row for row in contestants() if row.name == "Wiener")
        held = np.ones(2**26)  # what this process holds is not the other's
        table = cost_table([row], sizes=(512,), verbose=False).set_index("method")
        assert held.any()
        assert table["seconds"]["Wiener"] > 0
        # the image in double precision, and its spectrum
        assert table["GiB"]["Wiener"] > 8 * 512**2 / 2**30


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stemkit.benchmark.contest.QUICK", LITTLE)
    only = [row for row in contestants() if row.name in ("recorded", "Wiener", "FCN")]
    monkeypatch.setattr("stemkit.benchmark.contestants.contestants", lambda *a, **k: only)
    folder = tmp_path / "out"
    assert main(["benchmark", "--quick", "--only", "superresolution", "localisation", "-o", str(folder)]) == 0
    tables = [f"{name}{end}.csv" for name in ("superresolution", "localisation") for end in ("", "_table")]
    tables += ["superresolution.md", "localisation.md"]
    assert {path.name for path in folder.iterdir()} == {*tables, "tables.md", "pictures.png"}
    assert "Localisation" in capsys.readouterr().out


def test_command_that_trains_in_pieces(tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["benchmark", "--train", "64", "--minutes", "1e-9", "-o", str(folder)]) == 0
    assert "the same call resumes it" in capsys.readouterr().err
    assert not (folder / "tables.md").exists()


def test_what_is_judged_is_an_image(tmp_path, small_crops):
    image = xr.DataArray(np.random.default_rng(0).normal(size=(64, 64)), dims=("y", "x"), attrs={"mode": "haadf"})
    entrant = dataclasses.replace(SFIN_ALIKE, info=TINY, rates=(1e-3,))
    weights = train_entrant(entrant, tmp_path, 32)
    assert SFINDenoiser(weights=weights).fit_transform(image).shape == (64, 64)
