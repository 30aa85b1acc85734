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
        clean = np.exp(2 * (np.cos(2 * np.pi * y / spacing) + np.cos(2 * np.pi * x / spacing)))
        tifffile.imwrite(tmp_path / f"{name}.tif", (clean + rng.normal(0, 3, clean.shape)).astype(np.float32))
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
    clean = bump * np.exp(2 * (np.cos(2 * np.pi * y / 12) + np.cos(2 * np.pi * x / 12)))
    frames = np.stack([np.roll(clean, (k, -k), (0, 1)) + rng.normal(0, 4, clean.shape) for k in range(3)])
    stemkit.write(xr.DataArray(frames, dims=("frame", "y", "x"), attrs={"mode": "haadf"}), tmp_path / "series.nc")
    assert main(["report", str(tmp_path / "series.nc"), "-o", str(tmp_path), "--no-enhance"]) == 0
    page = html.unescape((tmp_path / "series_report.html").read_text(encoding="utf-8"))
    assert "3 of 3 frames are averaged" in page
    assert sorted(p.name for p in tmp_path.glob("*.html")) == ["index.html", "series_report.html"]
