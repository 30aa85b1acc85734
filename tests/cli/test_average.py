"""``stemkit average``."""

import re

import numpy as np
import pytest
import tifffile

from stemkit import NoiseModel, PointwiseNoise, read
from stemkit.cli import main
from stemkit.series import draw_displacements, draw_series
from stemkit.synthesis import cropped, disk, lattice, planar_cell


@pytest.fixture
def file(tmp_path):
    shape = (80, 80)
    columns = cropped(lattice(planar_cell("square"), shape, spacing=9.0, margin=30.0), disk((38.0, 42.0), 30.0))
    noise = NoiseModel(100.0, 20.0, pointwise=PointwiseNoise(readout=0.1))
    frames = draw_series(columns, draw_displacements(4, 80, drift=(2.0, -3.0)), shape=shape, noise=noise)
    path = tmp_path / "series.tif"
    tifffile.imwrite(path, frames.values, photometric="minisblack")
    return path


def average(file, *options):
    return main(
        ["average", str(file), "-o", str(file.parent), "--mode", "haadf", "--pixel-size", "0.02", "--fast", *options]
    )


def test_the_average_its_figure_and_the_frames_are_written(file, capsys):
    assert average(file, "--frames") == 0
    image = read(file.parent / "series_average.nc")
    assert image.dims == ("y", "x")
    assert {"n_frames", "standard_error"} <= set(image.coords)
    assert (file.parent / "series_drift.png").stat().st_size > 10_000
    frames = read(file.parent / "series_aligned.nc")
    assert frames.shape == (4, *image.shape)
    assert np.corrcoef(frames[0].values.ravel(), frames[3].values.ravel())[0, 1] > 0.5
    assert "4 of 4 frames" in capsys.readouterr().out


def test_all_parts_of_the_displacements_are_printed(file, capsys):
    assert average(file) == 0
    lines = capsys.readouterr().out.splitlines()
    # 2 and -3 px per frame, between the first and the last 6 and 9
    moved = re.search(
        r"between frames: up to ([\d.]+) px in all, ([\d.]+) px along x and ([\d.]+) px along y", lines[1]
    )
    assert [float(n) for n in moved.groups()] == pytest.approx([117**0.5, 3.0, 2.0], abs=0.4)
    for part in ("within frames", "linear and quadratic drift", "drift over", "jitter", "hum"):
        assert sum(line.strip().startswith(part) for line in lines) == 1


def folder_of(file, n=4):
    folder = file.parent / "series"
    folder.mkdir()
    frames = tifffile.imread(file)
    for i in range(n):
        tifffile.imwrite(folder / f"frame_{i + 8}.tif", frames[i])  # 8, 9, 10, 11: not alphabetical
    return folder


def test_a_folder_of_single_files_is_a_series_in_natural_order(file, capsys):
    folder = folder_of(file)
    assert average(folder) == 0
    assert "4 of 4 frames" in capsys.readouterr().out
    assert average(file, "--overwrite") == 0
    same = [read(file.parent / f"series_average.{ending}") for ending in ("nc",)]
    assert same[0].dims == ("y", "x")


def test_results_in_the_folder_are_not_frames(file, capsys):
    folder = folder_of(file)
    for _ in range(2):
        arguments = ["average", str(folder), "-o", str(folder), "--mode", "haadf", "--fast", "--overwrite"]
        assert main(arguments) == 0
    assert capsys.readouterr().out.count("4 of 4 frames") >= 1


def test_a_folder_of_series_is_several(file, capsys):
    folder = file.parent / "several"
    folder.mkdir()
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(folder / name, tifffile.imread(file), photometric="minisblack")
    assert average(folder) == 0
    assert {p.name for p in file.parent.glob("*_average.nc")} == {"a_average.nc", "b_average.nc"}


def test_scan_angles_are_repeated_and_checked(file, capsys):
    assert average(file, "--scan-angles", "0,90,0") == 1
    assert "--scan-angles has 3 angle(s), but the series has 4 frames" in capsys.readouterr().err
    assert average(file, "--scan-angles", "0,180") == 1
    assert "two directions at right angles" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        average(file, "--scan-angles", "north")


def test_frames_can_be_left_out(file, capsys):
    assert average(file, "--reject", "0,2", "--whole", "--format", "tif") == 0
    assert "2 of 2 frames" in capsys.readouterr().out
    assert read(file.parent / "series_average.tif").dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reject", "7"], "--reject names frame 7, but the series has the frames 0 to 3"),
        (["--reject", "0,1,2"], "at least 2"),
    ],
)
def test_what_cannot_be_averaged_is_said(file, capsys, options, message):
    assert average(file, *options) == 1
    assert message in capsys.readouterr().err


def test_numbers_of_frames_are_checked(file, capsys):
    with pytest.raises(SystemExit):
        average(file, "--reject", "first")
    assert "must be numbers of frames such as 0,3,7" in capsys.readouterr().err
