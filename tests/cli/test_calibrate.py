"""``stemkit calibrate``."""

import json
import re

import numpy as np
import pytest

import stemkit
from stemkit import NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.cli import main
from stemkit.cli.calibrate import _line
from stemkit.cli.figures import save_and_close
from stemkit.synthesis import lattice, planar_cell


def test_table(tif, capsys):
    assert main(["calibrate", str(tif)]) == 0
    out = capsys.readouterr().out
    assert "pointwise.readout" in out
    assert "±" in out


def test_table_has_only_what_is_there(tif, capsys):
    main(["calibrate", str(tif)])
    out = capsys.readouterr().out
    assert "scan.jitter_length" in out
    assert "scan.jitter_y" in out
    assert "nan" not in out
    assert "digitization" not in out
    assert "dose" not in out


def test_dose_where_electrons_were_counted(tmp_path, capsys):
    # with this number of pixels the skewness of the noise is significant
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


def test_the_detector_and_what_is_wrong(tmp_path, image, capsys):
    clipped = image.clip(max=float(image.quantile(0.97)))
    path = str(stemkit.write(clipped, tmp_path / "clipped.tif"))
    assert main(["calibrate", path]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert float(lines["digitization.high"].split()[1]) == pytest.approx(float(clipped.max()), rel=1e-3)
    assert "digitization.low" not in lines
    assert "detector's range" in lines["!"]
    assert main(["calibrate", path, "--json"]) == 0
    (faults,) = json.loads(capsys.readouterr().out)["faults"]
    assert "saturation" in faults


def test_json_is_valid_where_nothing_is_known(tmp_path, capsys):
    np.save(tmp_path / "flat.npy", np.full((64, 64), 3.0))
    assert main(["calibrate", str(tmp_path / "flat.npy"), "--json"]) == 0
    described = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert described["std"]["contrast"] is None
    assert described["scan"]["jitter_length"] == "inf"


@pytest.mark.usefixtures("drawn_figures")
def test_figure(tmp_path, tif, capsys, monkeypatch):
    drawn = []

    def remembered(figure, path):
        drawn.append((figure, path))
        save_and_close(figure, path)

    monkeypatch.setattr("stemkit.cli.calibrate.save_and_close", remembered)
    assert main(["calibrate", str(tif), "--figure", "-o", str(tmp_path / "out")]) == 0
    ((figure, path),) = drawn
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert path == tmp_path / "out" / "image_noise.png"
    (readout,) = re.findall(r"readout ([\d.]+)", " ".join(ax.get_title() for ax in figure.axes))
    assert float(readout) == pytest.approx(0.1, rel=0.2)
    assert "pointwise.readout" in capsys.readouterr().out


def test_a_figure_is_replaced_by_the_same_command_alone(tmp_path, tif, capsys):
    command = ["calibrate", str(tif), "--figure", "-o", str(tmp_path / "out")]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert main([*command, "--mode", "bf"]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_the_figure_of_a_constant_image_says_that_there_is_no_noise(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr("stemkit.cli.calibrate.save_and_close", lambda figure, path: drawn.append(figure))
    np.save(tmp_path / "flat.npy", np.full((64, 64), 3.0))
    assert main(["calibrate", str(tmp_path / "flat.npy"), "--json", "--figure", "-o", str(tmp_path / "out")]) == 0
    (figure,) = drawn
    notes = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert notes == [
        ["no noise"],
        ["no noise"],
        ["not measured: no columns, or few pixels between them"],
        *[["no columns"]] * 3,
    ]
    assert json.loads(capsys.readouterr().out)["contrast"] is not None


def test_numbers_are_printed_even_if_the_figure_fails(tmp_path, tif, capsys, monkeypatch):
    def failing(figure, path):
        raise OSError(f"can't write {path}: the disk is full")

    monkeypatch.setattr("stemkit.cli.calibrate.save_and_close", failing)
    assert main(["calibrate", str(tif), "--json", "--figure", "-o", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["contrast"] == pytest.approx(1000.0, rel=0.1)
    assert "the disk is full" in printed.err


def test_without_a_figure_nothing_is_written(tmp_path, tif):
    assert main(["calibrate", str(tif), "-o", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out").exists()


def test_json_is_the_noise_model(tif, capsys):
    assert main(["calibrate", str(tif), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    parts = ("contrast", "level", "mode", "background", "scan", "pointwise", "digitization")
    model = NoiseModel.from_dict({k: described[k] for k in parts})
    assert model.pointwise.readout == pytest.approx(0.1, rel=0.2)


def test_an_infinite_length_has_no_error():
    assert "±" not in _line("scan.length", float("inf"), 0.0, "px", "length")
    assert "± 0.5" in _line("scan.length", 2.0, 0.5, "px", "length")
