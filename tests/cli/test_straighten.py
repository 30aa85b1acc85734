"""``stemkit straighten``."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import stemkit
from stemkit.cli import main


@pytest.mark.parametrize("suffix", ["tif", "hspy", "nc"])
def test_brings_rows_back_and_says_how_far_they_were_off(tmp_path, torn, scene, capsys, suffix):
    assert main(["straighten", str(torn), "-o", str(tmp_path / "out"), "--format", suffix]) == 0
    straight = stemkit.read(tmp_path / "out" / f"torn_straightened.{suffix}")
    before, after = (np.mean((i.values - scene[0]["enhance"][0].values) ** 2) for i in (stemkit.read(torn), straight))
    assert after < before / 2
    assert straight.stem.pixel_size == pytest.approx(0.01, rel=1e-6)
    (line,) = capsys.readouterr().out.splitlines()
    px, pm = re.search(r"moved by ([\d.]+) px, ([\d.]+) pm", line).groups()
    # RMS of 96 displacements, and what the lattice leaves open
    assert float(px) == pytest.approx(0.8, rel=0.3)
    assert float(pm) == pytest.approx(10 * float(px), rel=0.01)
    made = json.loads(straight.attrs["stemkit"])
    assert made["step"] == "straighten"
    assert made["rms_shift_px"] == pytest.approx(float(px), rel=0.01)


def test_px_where_uncalibrated(tmp_path, torn, capsys):
    np.save(tmp_path / "bare.npy", stemkit.read(torn).values)
    assert main(["straighten", str(tmp_path / "bare.npy"), "-o", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(" px (RMS)\n")


@pytest.mark.usefixtures("drawn_figures")
def test_figure(tmp_path, torn):
    assert main(["straighten", str(torn), "-o", str(tmp_path), "--figure"]) == 0
    with Image.open(tmp_path / "torn_straightened.png") as picture:
        values = np.asarray(picture.convert("L"), dtype=float)
    # the two images are next to each other and differ
    third = values.shape[1] // 3
    left, right = values[100:-100, 20 : third - 20], values[100:-100, third + 20 : 2 * third - 20]
    assert min(left.std(), right.std()) > 30


def test_a_stack_has_a_figure_per_frame(tmp_path, torn):
    image = stemkit.read(torn)
    stack = xr.concat([image, image], dim="image", combine_attrs="override").transpose("image", "y", "x")
    stemkit.write(stack, tmp_path / "stack.tif")
    assert main(["straighten", str(tmp_path / "stack.tif"), "-o", str(tmp_path), "--figure"]) == 0
    assert stemkit.read(tmp_path / "stack_straightened.tif").shape == stack.shape
    assert {p.name for p in tmp_path.glob("*.png")} == {f"stack_straightened_00{i}.png" for i in range(2)}


def test_an_image_without_a_lattice_fails_and_the_others_run(tmp_path, torn, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "a.npy", np.random.default_rng(0).normal(size=(96, 96)))
    stemkit.write(stemkit.read(torn), folder / "b.tif")
    assert main(["straighten", str(folder), "-o", str(tmp_path / "out"), "--figure"]) == 1
    written = sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_file())
    assert written == ["b_straightened.png", "b_straightened.tif"]
    err = capsys.readouterr().err
    assert "a.npy: no lattice" in err
    assert "1 of 2 failed" in err


def test_does_not_replace_files_unless_asked(tmp_path, torn, capsys):
    (tmp_path / "torn_straightened.tif").write_bytes(b"precious")
    assert main(["straighten", str(torn), "-o", str(tmp_path)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "torn_straightened.tif").read_bytes() == b"precious"
    assert main(["straighten", str(torn), "-o", str(tmp_path), "--overwrite"]) == 0


def test_a_straightened_image_is_a_measurement(tmp_path, torn, scene):
    main(["straighten", str(torn), "-o", str(tmp_path)])
    straight = str(tmp_path / "torn_straightened.tif")
    assert main(["detect", straight, "-o", str(tmp_path)]) == 0
    found = pd.read_csv(tmp_path / "torn_straightened_columns.csv")
    assert stemkit.metrics.match_columns(found[["y", "x"]], scene[1][["y", "x"]], 0.04).recall > 0.95
    assert main(["enhance", straight, "-o", str(tmp_path)]) == 0
    made = json.loads(stemkit.read(tmp_path / "torn_straightened_enhanced.tif").attrs["stemkit"])
    assert (made["step"], made["previous"]["step"]) == ("enhance", "straighten")


@pytest.mark.parametrize("suffix", ["tif", "nc"])
def test_refuses_an_enhanced_image(tmp_path, tif, capsys, suffix):
    main(["enhance", str(tif), "-o", str(tmp_path), "--format", suffix])
    assert main(["straighten", str(tmp_path / f"image_enhanced.{suffix}"), "-o", str(tmp_path)]) == 1
    assert "straighten the recorded one" in capsys.readouterr().err
