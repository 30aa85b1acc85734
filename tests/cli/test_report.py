"""``stemkit report``: pages of files, their index, and the command that makes a page again."""

import html
import re
import shlex
import sys

import numpy as np
import pytest
import tifffile
import xarray as xr

pytest.importorskip("bokeh")

import stemkit
from stemkit.cli import main


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:96, 0:96]
    for name, spacing in (("fine", 9.0), ("coarse", 13.0)):
        true_image = np.exp(2 * (np.cos(2 * np.pi * y / spacing) + np.cos(2 * np.pi * x / spacing)))
        tifffile.imwrite(tmp_path / f"{name}.tif", (true_image + rng.normal(0, 3, true_image.shape)).astype(np.float32))
    (tmp_path / "broken.tif").write_bytes(b"no image")
    return tmp_path


@pytest.mark.slow
def test_pages_and_an_index_of_a_folder(folder, capsys):
    out = folder / "out"
    command = ["report", str(folder), "-o", str(out), "--pixel-size", "0.02", "--mode", "haadf", "--no-enhance"]
    assert main(command) == 1  # one file is broken
    printed = capsys.readouterr()
    assert "broken.tif" in printed.err
    assert sorted(p.name for p in out.glob("*.html")) == ["coarse_report.html", "fine_report.html", "index.html"]
    index = (out / "index.html").read_text(encoding="utf-8")
    spacings = re.findall(r"<td>([\d.]+) nm</td>", index)
    assert [float(s) for s in spacings] == pytest.approx([13 * 0.02, 9 * 0.02], rel=0.02)
    page = html.unescape((out / "fine_report.html").read_text(encoding="utf-8"))
    again = next(line for line in re.findall(r"<pre[^>]*>([^<]+)</pre>", page) if line.startswith("stemkit report"))
    assert shlex.split(again)[2:] == [
        str(folder / "fine.tif"), "--pixel-size", "0.02", "--mode", "haadf", "--no-enhance", "-o", str(out),
    ]  # fmt: skip
    times = {p: p.stat().st_mtime_ns for p in out.glob("*_report.html")}
    assert main(command) == 1
    assert "finished before" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.glob("*_report.html")} == times


def test_without_bokeh_the_command_says_what_to_install(folder, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("stemkit.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bokeh.layouts", None)  # its import fails
    assert main(["report", str(folder / "fine.tif"), "-o", str(folder / "out")]) == 1
    assert 'pip install "stemkit[report]"' in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_series_is_averaged(tmp_path, capsys):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:96, 0:96]
    bump = 1 + 0.6 * np.exp(-((y - 40) ** 2 + (x - 55) ** 2) / 400)
    true_image = bump * np.exp(2 * (np.cos(2 * np.pi * y / 12) + np.cos(2 * np.pi * x / 12)))
    frames = np.stack([np.roll(true_image, (k, -k), (0, 1)) + rng.normal(0, 4, true_image.shape) for k in range(3)])
    stemkit.write(xr.DataArray(frames, dims=("frame", "y", "x"), attrs={"mode": "haadf"}), tmp_path / "series.nc")
    assert main(["report", str(tmp_path / "series.nc"), "-o", str(tmp_path), "--no-enhance"]) == 0
    page = html.unescape((tmp_path / "series_report.html").read_text(encoding="utf-8"))
    assert "3 of 3 frames are averaged" in page
    assert sorted(p.name for p in tmp_path.glob("*.html")) == ["index.html", "series_report.html"]


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_figures")
def test_analyses_that_are_asked_for_are_sections(tmp_path):
    rng = np.random.default_rng(2)
    y, x = np.mgrid[0:128, 0:128]
    true_image = np.zeros((128, 128))
    # two sublattices; the fainter columns are 0.5 px from the centres of their cages along x
    for first, height, shift in ((4.0, 1.0, 0.0), (12.0, 0.5, 0.5)):
        for v in np.arange(first, 128, 16.0):
            for u in np.arange(first, 128, 16.0):
                true_image += height * np.exp(-((y - v) ** 2 + (x - u - shift) ** 2) / (2 * 2.2**2))
    tifffile.imwrite(tmp_path / "cells.tif", (100 * true_image + rng.normal(0, 3, true_image.shape)).astype(np.float32))
    out = tmp_path / "out"
    command = ["report", str(tmp_path / "cells.tif"), "-o", str(out), "--pixel-size", "0.02", "--mode", "haadf"]
    assert main([*command, "--no-enhance", "--polarization", "--counts", "--grains", "--n-cage", "4"]) == 0
    text = html.unescape((out / "cells_report.html").read_text(encoding="utf-8"))
    headings = re.findall(r'<h2 id="section-\d+">([^<]+)</h2>', text)
    assert headings == ["Lattices", "Polarisation", "Numbers of atoms", "Grains"]
    # one lattice with two sites in a cell of 16 x 16 px; no column is missing
    a, b, angle, ratio, sites, _, missing = re.findall(r"<td>([^<]+)</td>", text.partition("Lattices, with")[2])[:7]
    for cell, true in ((a, 16 * 0.02), (b, 16 * 0.02), (angle, 90.0), (ratio, 1.0)):
        value, error = map(float, cell.split("±"))
        assert abs(value - true) < 5 * error
    assert (sites, missing) == ("2", "0")
    assert "Lattice(" not in text
    # a perfect crystal is one grain, and all columns of a sublattice have one number of atoms
    assert "1 grain" in text
    assert "brightest sublattice: not countable: only one component is separated" in text
    mean_y, mean_x = re.search(r"\d+ vectors, mean y ([-.\de]+) and x ([-.\de]+) pm", text).groups()
    assert float(mean_y) == pytest.approx(0, abs=1.5)
    assert float(mean_x) == pytest.approx(0.5 * 20, abs=1.5)
    assert 'alt="Polarisation: displacement of each column' in text
    again = next(line for line in re.findall(r"<pre[^>]*>([^<]+)</pre>", text) if line.startswith("stemkit report"))
    assert {"--polarization", "--counts", "--grains", "--n-cage"} <= set(shlex.split(again))
    assert "--strain" not in again


def test_an_analysis_that_fails_says_why_and_the_page_is_written(folder, capsys):
    rng = np.random.default_rng(1)
    tifffile.imwrite(folder / "noise.tif", rng.normal(0, 3, (64, 64)).astype(np.float32))
    out = folder / "out"
    command = ["report", str(folder / "noise.tif"), "-o", str(out), "--pixel-size", "0.02", "--mode", "haadf"]
    assert main([*command, "--no-enhance", "--polarization", "--rings"]) == 0
    text = html.unescape((out / "noise_report.html").read_text(encoding="utf-8"))
    assert text.count("Not determined: ") == 2
    assert main([*command, "--no-enhance", "--born-charge", "2"]) != 0
    assert "--born-charge and --cell-volume must be given both" in capsys.readouterr().err
