"""``stemkit train``."""

import shutil
from importlib import import_module

import pytest
import torch

from stemkit.benchmark.truths import TRUTHS
from stemkit.cli import main
from stemkit.denoising import load_weights

#: A network that is trained in a second.
SMALL = ["--batches", "1", "--channels", "4", "--blocks", "1", "--crops", "32", "--batch-size", "2", "--judged", "0"]


@pytest.fixture(autouse=True)
def short_validation(monkeypatch):
    """Two batches instead of eight after each epoch."""
    monkeypatch.setattr("stemkit.denoising.training.N_VALIDATION", 2)


def train(folder, *arguments):
    return main(["train", "-o", str(folder), *SMALL, *map(str, arguments)])


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


@pytest.mark.slow
def test_writes_weights_and_card_and_resumes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stemkit.benchmark.evaluation.DOSES", (10.0,))
    monkeypatch.setattr("stemkit.benchmark.evaluation.HOSTS", ("square",))
    monkeypatch.setattr("stemkit.benchmark.evaluation.TRUTHS", {"vacancies": TRUTHS["vacancies"]})
    monkeypatch.setattr(import_module("stemkit.benchmark.scenes"), "SETS", ("simulated",))
    assert train(tmp_path, "--epochs", "2", "--minutes", "0") == 0
    printed = capsys.readouterr().out
    assert "1 epochs (of 2: not finished)" in printed
    assert train(tmp_path, "--epochs", "2", "--judged", "1") == 0
    printed = capsys.readouterr().out
    assert visible(tmp_path) == ["sfin-general.md", "sfin-general.safetensors"]
    card = (tmp_path / "sfin-general.md").read_text()
    assert card in printed
    for word in ("made by", "2 epochs of 1", "| simulated ", "enhanced", "contrast left", "haadf 10", "bf 10"):
        assert word in card


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--epochs", "0", "--epochs: must be an integer of at least 1, but is '0'"),
        ("--batches", "0", "--batches: must be an integer of at least 1, but is '0'"),
        ("--batches", "1.5", "--batches: must be an integer of at least 1, but is '1.5'"),
        ("--lr", "nan", "--lr: must be a positive number, but is 'nan'"),
        ("--channels", "-4", "--channels: must be an integer of at least 1, but is '-4'"),
        ("--batch-size", "0", "--batch-size: must be an integer of at least 1, but is '0'"),
        ("--minutes", "-1", "--minutes: must be a number of at least 0, but is '-1'"),
        ("--seed", "-1", "--seed: must be an integer of at least 0, but is '-1'"),
    ],
)
def test_impossible_numbers_are_refused_and_leave_nothing(tmp_path, option, value, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        train(tmp_path / "out", option, value)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_diverged_training_writes_no_weights(tmp_path, capsys):
    assert train(tmp_path, "--epochs", "1") == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    assert train(tmp_path, "--epochs", "4", "--lr", "1e10", "--overwrite") == 1
    assert "the training diverged in epoch " in (err := capsys.readouterr().err)
    assert "rate --lr 1e+10: use a smaller one, such as --lr 1e+09; no weights were written" in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    # nothing of it prevents the correct command
    assert train(tmp_path, "--epochs", "2", "--overwrite") == 0
    assert load_weights(tmp_path / "sfin-general.safetensors")[1].training["epochs_done"] == 2


def test_weights_of_another_run_are_not_replaced(tmp_path, capsys):
    assert train(tmp_path, "--epochs", "1", "--seed", "1") == 0
    weights = (tmp_path / "sfin-general.safetensors").read_bytes()
    assert train(tmp_path, "--epochs", "1", "--seed", "2") == 1
    assert "sfin-general.safetensors exists: pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "sfin-general.safetensors").read_bytes() == weights
    assert train(tmp_path, "--epochs", "1", "--seed", "1") == 0
    assert (tmp_path / "sfin-general.safetensors").read_bytes() == weights


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """The folder of a training that ended after the first of two epochs."""
    folder = tmp_path_factory.mktemp("unfinished")
    assert train(folder, "--epochs", "2", "--minutes", "0") == 0
    return folder


@pytest.mark.parametrize("missing", ["module", "optimizer", "history", "settings"])
def test_a_damaged_checkpoint_is_said_to_be_one(unfinished, tmp_path, missing, capsys):
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    (checkpoint,) = tmp_path.glob(".training/*.checkpoint")
    state = torch.load(checkpoint, weights_only=True)
    del state[missing]
    torch.save(state, checkpoint)
    capsys.readouterr()
    assert train(tmp_path, "--epochs", "2") == 1
    err = capsys.readouterr().err
    assert str(checkpoint) in err
    assert "remove it to begin again" in err


def test_without_its_checkpoint_a_training_begins_again(unfinished, tmp_path):
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    (checkpoint,) = tmp_path.glob(".training/*.checkpoint")
    checkpoint.unlink()
    assert train(tmp_path, "--epochs", "2") == 0
    assert load_weights(tmp_path / "sfin-general.safetensors")[1].training["epochs_done"] == 2
