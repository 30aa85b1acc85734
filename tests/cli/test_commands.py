"""The ``stemkit`` command, through its entry point."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import stemkit
from stemkit import NoiseModel, PointwiseNoise, ScanNoise, STEMSynthesizer
from stemkit.cli import main
from stemkit.synthesis import lattice, planar_cell


@pytest.fixture(scope="module")
def scene():
    noise = NoiseModel(contrast=1000.0, level=300.0, pointwise=PointwiseNoise(readout=0.1))
    crystal = lattice(planar_cell("square"), (96, 112), spacing=14.0, sigma=3.0, angle=8.0)
    synthesizer = STEMSynthesizer(shape=(96, 112), noise=noise, pixel_size=0.01, random_state=2)
    return synthesizer.record(crystal, return_columns=True)


@pytest.fixture
def image(scene):
    return scene[0]["noisy"][0].drop_vars("arrangement")


@pytest.fixture
def tif(tmp_path, image):
    return stemkit.write(image, tmp_path / "image.tif")


@pytest.mark.parametrize("command", [[sys.executable, "-m", "stemkit"], [str(Path(sys.executable).parent / "stemkit")]])
def test_the_installed_command(command):
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"stemkit {stemkit.__version__}"


class TestEnhance:
    @pytest.mark.parametrize("suffix", ["tif", "hspy", "nc"])
    def test_keeps_units_and_pixel_size(self, tmp_path, tif, image, suffix):
        assert main(["enhance", str(tif), "-o", str(tmp_path / "out"), "--format", suffix]) == 0
        enhanced = stemkit.read(tmp_path / "out" / f"image_enhanced.{suffix}")
        assert enhanced.shape == image.shape
        assert enhanced.stem.pixel_size == pytest.approx(0.01, rel=1e-6)
        assert float(enhanced.mean()) == pytest.approx(float(image.mean()), rel=0.05)
        assert json.loads(enhanced.attrs["stemkit"])["step"] == "enhance"

    def test_sampling_and_precision_are_those_of_the_denoiser(self, tmp_path, tif, image):
        from stemkit import SFINDenoiser

        options = ["--sampling", "0.7", "--precision", "bfloat16"]
        assert main(["enhance", str(tif), "-o", str(tmp_path), *options]) == 0
        expected = SFINDenoiser(sampling=0.7, precision="bfloat16").fit_transform(stemkit.read(tif))
        np.testing.assert_allclose(stemkit.read(tmp_path / "image_enhanced.tif"), expected, rtol=1e-6)
        assert not np.allclose(SFINDenoiser().fit_transform(image), expected, rtol=1e-6)

    @pytest.mark.parametrize("sampling", ["native", "0", "1.2", "nan"])
    def test_impossible_samplings_are_refused(self, tmp_path, tif, sampling, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["enhance", str(tif), "-o", str(tmp_path), "--sampling", sampling])
        assert f"must be auto or a number in (0, 1], but is '{sampling}'" in capsys.readouterr().err

    def test_png_is_a_picture(self, tmp_path, tif):
        assert main(["enhance", str(tif), "-o", str(tmp_path), "--format", "png"]) == 0
        from PIL import Image

        with Image.open(tmp_path / "image_enhanced.png") as picture:
            assert min(picture.size) >= 96

    def test_a_stack_gives_a_picture_per_frame(self, tmp_path, image, capsys):
        stack = xr.concat([image, image], dim="image", combine_attrs="override").transpose("image", "y", "x")
        stemkit.write(stack, tmp_path / "stack.tif")
        assert main(["enhance", str(tmp_path / "stack.tif"), "-o", str(tmp_path), "--format", "png"]) == 0
        printed = capsys.readouterr().out.split()
        assert [p.rsplit("_", 1)[1] for p in printed] == ["000.png", "001.png"]
        assert all(Path(p).exists() for p in printed)

    def test_region(self, tmp_path, tif):
        assert main(["enhance", str(tif), "-o", str(tmp_path), "--region", "10:74,20:100"]) == 0
        assert stemkit.read(tmp_path / "image_enhanced.tif").shape == (64, 80)

    def test_pixel_size_for_a_file_without(self, tmp_path, image):
        np.save(tmp_path / "bare.npy", image.values)
        assert main(["enhance", str(tmp_path / "bare.npy"), "-o", str(tmp_path), "--pixel-size", "0.02"]) == 0
        assert stemkit.read(tmp_path / "bare_enhanced.tif").stem.pixel_size == pytest.approx(0.02, rel=1e-6)

    def test_does_not_replace_files_unless_asked(self, tmp_path, tif, capsys):
        (tmp_path / "image_enhanced.tif").write_bytes(b"precious")
        assert main(["enhance", str(tif), "-o", str(tmp_path)]) == 1
        assert "--overwrite" in capsys.readouterr().err
        assert (tmp_path / "image_enhanced.tif").read_bytes() == b"precious"
        assert main(["enhance", str(tif), "-o", str(tmp_path), "--overwrite"]) == 0
        assert stemkit.read(tmp_path / "image_enhanced.tif").shape == (96, 112)


class TestBatches:
    def test_one_bad_file_is_reported_and_the_others_run(self, tmp_path, tif, image, capsys):
        folder = tmp_path / "folder"
        folder.mkdir()
        stemkit.write(image, folder / "a.tif")
        stemkit.write(image, folder / "c.nc")
        (folder / "b.tif").write_bytes(b"II*\0 broken")
        (folder / "notes.txt").write_text("not an image")
        assert main(["enhance", str(folder), "-o", str(tmp_path / "out")]) == 1
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_enhanced.tif", "c_enhanced.tif"]
        err = capsys.readouterr().err
        assert "b.tif" in err
        assert "1 of 3 failed" in err

    def test_files_of_one_name_keep_their_suffixes(self, tmp_path, image):
        stemkit.write(image, tmp_path / "a.tif")
        stemkit.write(image, tmp_path / "a.nc")
        out = tmp_path / "out"
        assert main(["enhance", str(tmp_path / "a.tif"), str(tmp_path / "a.nc"), "-o", str(out)]) == 0
        assert sorted(p.name for p in out.iterdir()) == ["a_nc_enhanced.tif", "a_tif_enhanced.tif"]

    def test_files_of_one_name_in_two_folders(self, tmp_path, image):
        for folder in ("x", "y"):
            (tmp_path / folder).mkdir()
            stemkit.write(image, tmp_path / folder / "a.tif")
        out = tmp_path / "out"
        assert main(["enhance", str(tmp_path / "x"), str(tmp_path / "y"), "-o", str(out)]) == 0
        assert sorted(p.name for p in out.iterdir()) == ["x_a_tif_enhanced.tif", "y_a_tif_enhanced.tif"]

    @pytest.mark.parametrize("path", ["missing.tif", "empty"])
    def test_nothing_to_do_is_a_failure(self, tmp_path, capsys, path):
        (tmp_path / "empty").mkdir()
        assert main(["info", str(tmp_path / path)]) == 1
        assert path in capsys.readouterr().err


class TestDetect:
    def test_table_in_nm_and_a_figure(self, tmp_path, tif, scene):
        assert main(["detect", str(tif), "-o", str(tmp_path)]) == 0
        table = pd.read_csv(tmp_path / "image_columns.csv")
        assert set(table["unit"]) == {"nm"}
        found = stemkit.metrics.match_columns(table[["y", "x"]], scene[1][["y", "x"]], 0.04)
        assert found.recall > 0.95
        assert (tmp_path / "image_columns.png").stat().st_size > 10_000

    def test_without_network(self, tmp_path, tif):
        assert main(["detect", str(tif), "-o", str(tmp_path), "--no-enhance"]) == 0
        assert len(pd.read_csv(tmp_path / "image_columns.csv")) > 20

    def test_the_lattice_and_its_vacancies(self, tmp_path, tif, capsys):
        options = ["--no-enhance", "--lattice", "--pixel-size-error", "0.02", "-o", str(tmp_path)]
        assert main(["detect", str(tif), *options]) == 0
        out = capsys.readouterr().out
        assert "Lattice(a=0.1" in out
        assert "statistical errors, and 2 % of both lengths from the pixel size" in out
        n = len(pd.read_csv(tmp_path / "image_vacancies.csv"))
        assert f"{n} {'vacancy' if n == 1 else 'vacancies'}" in out

    def test_columns_without_a_lattice_are_written_with_a_note(self, tmp_path, capsys):
        rng = np.random.default_rng(1)
        at = np.array(
            [(24, 20), (70, 33), (41, 75), (96, 88), (25, 101), (60, 104), (98, 40), (68, 62), (35, 48), (101, 15)]
        )
        y, x = np.mgrid[:120, :120]
        clean = sum(np.exp(-((y - p) ** 2 + (x - q) ** 2) / 18.0) for p, q in at)
        np.save(tmp_path / "atoms.npy", clean + rng.normal(0, 0.05, clean.shape))
        assert main(["detect", str(tmp_path / "atoms.npy"), "--no-enhance", "--lattice", "-o", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "note: no lattice was fitted, and atoms_vacancies.csv was not written: table must" in out
        assert len(pd.read_csv(tmp_path / "atoms_columns.csv")) >= 8
        assert not (tmp_path / "atoms_vacancies.csv").exists()

    def test_px_where_uncalibrated(self, tmp_path, image):
        np.save(tmp_path / "bare.npy", image.values)
        assert main(["detect", str(tmp_path / "bare.npy"), "-o", str(tmp_path)]) == 0
        table = pd.read_csv(tmp_path / "bare_columns.csv")
        assert set(table["unit"]) == {"px"}
        np.testing.assert_allclose(table["x"], table["x_px"])

    def test_refuses_an_enhanced_file_without_the_recorded_one(self, tmp_path, tif, capsys):
        main(["enhance", str(tif), "-o", str(tmp_path)])
        enhanced = str(tmp_path / "image_enhanced.tif")
        assert main(["detect", enhanced, "-o", str(tmp_path)]) == 1
        assert "--recorded" in capsys.readouterr().err
        assert main(["detect", enhanced, "--recorded", str(tif), "-o", str(tmp_path)]) == 0
        assert main(["detect", str(tif), "-o", str(tmp_path)]) == 0
        a, b = (pd.read_csv(tmp_path / f"{n}_columns.csv") for n in ("image_enhanced", "image"))
        assert a["x_err"].median() == pytest.approx(b["x_err"].median(), rel=0.1)

    def test_a_netcdf_carries_its_recorded_pixels(self, tmp_path, tif):
        main(["enhance", str(tif), "-o", str(tmp_path), "--format", "nc"])
        assert main(["detect", str(tmp_path / "image_enhanced.nc"), "-o", str(tmp_path)]) == 0
        assert len(pd.read_csv(tmp_path / "image_enhanced_columns.csv")) > 20

    def test_a_part_that_was_enhanced_is_measured_on_the_same_part(self, tmp_path, tif):
        region = ["--region", "10:90,20:100"]
        main(["enhance", str(tif), "-o", str(tmp_path), *region])
        enhanced = str(tmp_path / "image_enhanced.tif")
        assert main(["detect", enhanced, "--recorded", str(tif), *region, "-o", str(tmp_path)]) == 0

    def test_an_enhanced_image_is_no_measurement(self, tmp_path, tif, capsys):
        main(["enhance", str(tif), "-o", str(tmp_path)])
        enhanced = str(tmp_path / "image_enhanced.tif")
        assert main(["detect", enhanced, "--recorded", enhanced, "-o", str(tmp_path)]) == 1
        assert "--recorded must be a recorded image" in capsys.readouterr().err

    def test_measured_must_fit(self, tmp_path, tif, image, capsys):
        other = stemkit.write(image[:50], tmp_path / "other.tif")
        main(["enhance", str(tif), "-o", str(tmp_path)])
        enhanced = str(tmp_path / "image_enhanced.tif")
        assert main(["detect", enhanced, "--recorded", str(other), "-o", str(tmp_path)]) == 1
        assert "--recorded must have the image's shape" in capsys.readouterr().err


@pytest.fixture
def torn(tmp_path, scene):
    """A file whose rows are displaced by 0.8 px."""
    noise = NoiseModel(contrast=1000.0, scan=ScanNoise(jitter=0.8), pointwise=PointwiseNoise(readout=0.05))
    image = noise.apply(scene[0]["enhance"][0].drop_vars("arrangement"), random_state=0)
    return stemkit.write(image, tmp_path / "torn.tif")


class TestStraighten:
    @pytest.mark.parametrize("suffix", ["tif", "hspy", "nc"])
    def test_brings_rows_back_and_says_how_far_they_were_off(self, tmp_path, torn, scene, capsys, suffix):
        assert main(["straighten", str(torn), "-o", str(tmp_path / "out"), "--format", suffix]) == 0
        straight = stemkit.read(tmp_path / "out" / f"torn_straightened.{suffix}")
        before, after = (
            np.mean((i.values - scene[0]["enhance"][0].values) ** 2) for i in (stemkit.read(torn), straight)
        )
        assert after < before / 2
        assert straight.stem.pixel_size == pytest.approx(0.01, rel=1e-6)
        (line,) = capsys.readouterr().out.splitlines()
        px, pm = re.search(r"displaced by ([\d.]+) px, ([\d.]+) pm", line).groups()
        # RMS of 96 displacements, and what the lattice leaves open
        assert float(px) == pytest.approx(0.8, rel=0.3)
        assert float(pm) == pytest.approx(10 * float(px), rel=0.01)
        made = json.loads(straight.attrs["stemkit"])
        assert made["step"] == "straighten"
        assert made["rms_shift_px"] == pytest.approx(float(px), rel=0.01)

    def test_px_where_uncalibrated(self, tmp_path, torn, capsys):
        np.save(tmp_path / "bare.npy", stemkit.read(torn).values)
        assert main(["straighten", str(tmp_path / "bare.npy"), "-o", str(tmp_path)]) == 0
        assert capsys.readouterr().out.endswith(" px (RMS)\n")

    def test_figure(self, tmp_path, torn):
        assert main(["straighten", str(torn), "-o", str(tmp_path), "--figure"]) == 0
        assert (tmp_path / "torn_straightened.png").stat().st_size > 10_000

    def test_a_stack_has_a_figure_per_frame(self, tmp_path, torn):
        image = stemkit.read(torn)
        stack = xr.concat([image, image], dim="image", combine_attrs="override").transpose("image", "y", "x")
        stemkit.write(stack, tmp_path / "stack.tif")
        assert main(["straighten", str(tmp_path / "stack.tif"), "-o", str(tmp_path), "--figure"]) == 0
        assert stemkit.read(tmp_path / "stack_straightened.tif").shape == stack.shape
        assert {p.name for p in tmp_path.glob("*.png")} == {f"stack_straightened_00{i}.png" for i in range(2)}

    def test_an_image_without_a_lattice_fails_and_the_others_run(self, tmp_path, torn, capsys):
        folder = tmp_path / "folder"
        folder.mkdir()
        np.save(folder / "a.npy", np.random.default_rng(0).normal(size=(96, 96)))
        stemkit.write(stemkit.read(torn), folder / "b.tif")
        assert main(["straighten", str(folder), "-o", str(tmp_path / "out"), "--figure"]) == 1
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b_straightened.png", "b_straightened.tif"]
        err = capsys.readouterr().err
        assert "a.npy: no lattice" in err
        assert "1 of 2 failed" in err

    def test_does_not_replace_files_unless_asked(self, tmp_path, torn, capsys):
        (tmp_path / "torn_straightened.tif").write_bytes(b"precious")
        assert main(["straighten", str(torn), "-o", str(tmp_path)]) == 1
        assert "--overwrite" in capsys.readouterr().err
        assert (tmp_path / "torn_straightened.tif").read_bytes() == b"precious"
        assert main(["straighten", str(torn), "-o", str(tmp_path), "--overwrite"]) == 0

    def test_a_straightened_image_is_a_measurement(self, tmp_path, torn, scene):
        main(["straighten", str(torn), "-o", str(tmp_path)])
        straight = str(tmp_path / "torn_straightened.tif")
        assert main(["detect", straight, "-o", str(tmp_path)]) == 0
        found = pd.read_csv(tmp_path / "torn_straightened_columns.csv")
        assert stemkit.metrics.match_columns(found[["y", "x"]], scene[1][["y", "x"]], 0.04).recall > 0.95
        assert main(["enhance", straight, "-o", str(tmp_path)]) == 0
        made = json.loads(stemkit.read(tmp_path / "torn_straightened_enhanced.tif").attrs["stemkit"])
        assert (made["step"], made["previous"]["step"]) == ("enhance", "straighten")

    @pytest.mark.parametrize("suffix", ["tif", "nc"])
    def test_refuses_an_enhanced_image(self, tmp_path, tif, capsys, suffix):
        main(["enhance", str(tif), "-o", str(tmp_path), "--format", suffix])
        assert main(["straighten", str(tmp_path / f"image_enhanced.{suffix}"), "-o", str(tmp_path)]) == 1
        assert "straighten the recorded one" in capsys.readouterr().err


class TestCalibrateAndInfo:
    def test_table(self, tif, capsys):
        assert main(["calibrate", str(tif)]) == 0
        out = capsys.readouterr().out
        assert "pointwise.readout" in out
        assert "±" in out

    def test_table_has_only_what_is_there(self, tif, capsys):
        main(["calibrate", str(tif)])
        out = capsys.readouterr().out
        assert "scan.jitter_length" in out
        assert "scan.jitter_y" in out
        assert "nan" not in out
        assert "detector" not in out
        assert "dose" not in out

    def test_dose_where_electrons_were_counted(self, tmp_path, capsys):
        # so many pixels that the skewness of the noise is beyond doubt
        noise = NoiseModel(contrast=1000.0, level=200.0, pointwise=PointwiseNoise.counted(4.0, background=1.0))
        crystal = lattice(planar_cell("square"), (320, 320), spacing=20.0, sigma=4.0, angle=8.0)
        synthesizer = STEMSynthesizer(shape=(320, 320), noise=noise, pixel_size=0.01, random_state=16)
        image = synthesizer.record(crystal)["noisy"][0].drop_vars("arrangement")
        path = str(stemkit.write(image, tmp_path / "counted.tif"))
        assert main(["calibrate", path]) == 0
        lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        assert lines["pointwise.kind"].split()[1] == "poisson"
        assert "e/Å^2" in lines["dose"]
        assert main(["calibrate", path, "--json"]) == 0
        dose = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["dose"]
        # a pixel of 0.01 nm is a hundredth of a square angstrom
        per_pixel, per_area = (dose[k]["value"] for k in ("electrons_per_pixel", "electrons_per_square_angstrom"))
        assert per_area == pytest.approx(100 * per_pixel)
        assert per_pixel == pytest.approx(4, rel=0.3)

    def test_the_detector_and_what_is_wrong(self, tmp_path, image, capsys):
        clipped = image.clip(max=float(image.quantile(0.97)))
        path = str(stemkit.write(clipped, tmp_path / "clipped.tif"))
        assert main(["calibrate", path]) == 0
        lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        assert float(lines["detector.high"].split()[1]) == pytest.approx(float(clipped.max()), rel=1e-3)
        assert "detector.low" not in lines
        assert "detector's range" in lines["!"]
        assert main(["calibrate", path, "--json"]) == 0
        (faults,) = json.loads(capsys.readouterr().out)["faults"]
        assert "saturation" in faults

    def test_json_is_valid_where_nothing_is_known(self, tmp_path, capsys):
        np.save(tmp_path / "flat.npy", np.full((64, 64), 3.0))
        assert main(["calibrate", str(tmp_path / "flat.npy"), "--json"]) == 0
        described = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert described["std"]["contrast"] is None
        assert described["scan"]["jitter_length"] == "inf"

    def test_figure(self, tmp_path, tif, capsys):
        assert main(["calibrate", str(tif), "--figure", "-o", str(tmp_path / "out")]) == 0
        assert (tmp_path / "out" / "image_noise.png").stat().st_size > 10_000
        assert main(["calibrate", str(tif), "--figure", "-o", str(tmp_path / "out")]) == 1
        assert "--overwrite" in capsys.readouterr().err

    def test_without_a_figure_nothing_is_written(self, tmp_path, tif):
        assert main(["calibrate", str(tif), "-o", str(tmp_path / "out")]) == 0
        assert not (tmp_path / "out").exists()

    def test_json_is_the_noise_model(self, tif, capsys):
        assert main(["calibrate", str(tif), "--json"]) == 0
        described = json.loads(capsys.readouterr().out)
        parts = ("contrast", "level", "mode", "background", "scan", "pointwise", "detector")
        model = NoiseModel.from_dict({k: described[k] for k in parts})
        assert model.pointwise.readout == pytest.approx(0.1, rel=0.2)

    def test_info(self, tif, capsys):
        assert main(["info", str(tif)]) == 0
        out = capsys.readouterr().out
        assert "96 x 112 px" in out
        assert "0.01 nm" in out
        assert "haadf" in out


class TestMessages:
    def test_notes_name_the_file_and_the_command_s_options(self, tmp_path, image, capsys):
        for name in ("a", "b"):
            np.save(tmp_path / f"{name}.npy", -image.values)
        assert main(["info", str(tmp_path)]) == 0
        notes = [line for line in capsys.readouterr().err.splitlines() if "its columns look dark" in line]
        assert len(notes) == 2
        assert all("pass --mode to set it" in note for note in notes)
        assert "a.npy" in notes[0]
        assert "b.npy" in notes[1]

    def test_output_must_be_a_folder(self, tif, capsys):
        assert main(["enhance", str(tif), "-o", str(tif)]) == 1
        assert "-o must name a folder" in capsys.readouterr().err


class TestArguments:
    @pytest.mark.parametrize("region", ["10:20", "a:b,c:d", "20:10,0:5"])
    def test_region_says_its_form(self, tif, region, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["info", str(tif), "--region", region])
        assert "--region" in capsys.readouterr().err

    def test_region_beyond_the_image(self, tif, capsys):
        assert main(["info", str(tif), "--region", "0:500,0:10"]) == 1
        assert "must lie within the image, 96 by 112 px" in capsys.readouterr().err

    def test_a_bad_weights_name_lists_the_known_ones(self, tmp_path, tif, capsys):
        assert main(["enhance", str(tif), "-o", str(tmp_path), "--weights", "nothing"]) == 1
        assert "sfin-general" in capsys.readouterr().err


def test_demo_gains_and_finds(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    names = [f"{mode}_{seed}" for mode in ("haadf", "bf") for seed in (20, 21, 22)]
    for name in names:
        line = next(row.split() for row in out.splitlines() if row.split()[:1] == [name])
        before, after, f1 = float(line[1]), float(line[3]), float(line[7])
        assert after > before + 5
        assert f1 > 0.9
        assert (tmp_path / f"{name}.png").exists()
        assert (tmp_path / f"{name}_columns.csv").exists()


def test_train_writes_weights_and_card(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stemkit.benchmark.evaluation.DOSES", (10.0,))
    monkeypatch.setattr("stemkit.benchmark.evaluation.HOSTS", ("square",))
    arguments = ["train", "-o", str(tmp_path), "--epochs", "2", "--batches", "1", "--channels", "4", "--blocks", "1"]
    assert main([*arguments, "--minutes", "0", "--judged", "0"]) == 0
    printed = capsys.readouterr().out
    assert "1 epochs (of 2: not finished)" in printed
    assert main([*arguments, "--judged", "1"]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "sfin-general.safetensors").exists()
    card = (tmp_path / "sfin-general.md").read_text()
    assert card in printed
    for word in ("made by", "2 epochs of 1", "| simulated ", "enhanced", "contrast left", "haadf 10", "bf 10"):
        assert word in card
