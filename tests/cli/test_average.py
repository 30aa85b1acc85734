"""``stemkit average``."""

import re

import numpy as np
import pytest
import tifffile

from stemkit import NoiseModel, PointwiseNoise, read, write
from stemkit.cli import main
from stemkit.cli.average import _slow, series_figure
from stemkit.cli.common import read_when_needed
from stemkit.images.lazy import is_lazy
from stemkit.series import SeriesAligner, draw_displacements, draw_series
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


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_figures")
def test_the_average_its_figure_and_the_frames_are_written(file, capsys):
    assert average(file, "--frames") == 0
    image = read(file.parent / "series_average.nc")
    assert image.dims == ("y", "x")
    assert {"n_frames", "standard_error"} <= set(image.coords)
    assert (file.parent / "series_drift.png").read_bytes()[:4] == b"\x89PNG"
    frames = read(file.parent / "series_aligned.nc")
    assert frames.shape == (4, *image.shape)
    assert np.corrcoef(frames[0].values.ravel(), frames[3].values.ravel())[0, 1] > 0.5
    assert "4 of 4 frames" in capsys.readouterr().out


def test_frames_of_large_files_are_read_when_they_are_needed(file, monkeypatch):
    pytest.importorskip("dask")
    pytest.importorskip("zarr")
    fitted = []
    fit = SeriesAligner.fit
    monkeypatch.setattr(SeriesAligner, "fit", lambda self, X: fitted.append(X) or fit(self, X))
    assert average(file, "--whole", "--frames") == 0
    in_memory, aligned = (read(file.parent / f"series_{name}.nc") for name in ("average", "aligned"))
    monkeypatch.setattr("stemkit.cli.common.MAX_BYTES_IN_MEMORY", 0)
    (file.parent / "series_average.nc").unlink()
    assert average(file, "--whole", "--frames") == 0
    assert [is_lazy(frames) for frames in fitted] == [False, True]
    np.testing.assert_array_equal(read(file.parent / "series_aligned.zarr"), aligned)
    np.testing.assert_array_equal(read(file.parent / "series_average.nc"), in_memory)


def test_the_size_of_a_folder_is_that_of_its_files(file, monkeypatch):
    pytest.importorskip("zarr")
    path = write(read(file), file.parent / "series.zarr")
    monkeypatch.setattr("stemkit.cli.common.MAX_BYTES_IN_MEMORY", 80 * 80 * 4)
    assert path.stat().st_size < 80 * 80 * 4
    assert read_when_needed(path)


def test_the_figure_shows_the_average_and_the_displacements(file, monkeypatch):
    given, drawn = [], []

    def remembered(*arguments):
        given.append(arguments)
        return series_figure(*arguments)

    monkeypatch.setattr("stemkit.cli.average.series_figure", remembered)
    monkeypatch.setattr("stemkit.cli.average.save_and_close", lambda figure, path: drawn.append((figure, path)))
    assert average(file) == 0
    ((aligner, image),), ((figure, path),) = given, drawn
    assert path == file.parent / "series_drift.png"
    shown, count, frames, along_x, along_y, text = figure.axes[:6]
    np.testing.assert_array_equal(shown.images[0].get_array(), image.values)
    np.testing.assert_array_equal(count.images[0].get_array(), image.n_frames.values)
    # 2 px along y and -3 px along x from each frame to the next
    np.testing.assert_allclose(np.diff(frames.lines[0].get_xdata()), -3.0, atol=0.4)
    np.testing.assert_allclose(np.diff(frames.lines[0].get_ydata()), 2.0, atol=0.4)
    assert [note.get_text() for note in frames.texts] == ["0", "1", "2", "3"]
    rows = aligner.displacements_ - aligner.displacements_.mean(axis=1, keepdims=True)
    for axes, axis in ((along_x, 1), (along_y, 0)):
        np.testing.assert_allclose([line.get_ydata() for line in axes.lines], rows[..., axis], atol=1e-12)
    assert "within frames" in text.texts[0].get_text()


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


def test_drift_within_frames_is_that_of_its_axis():
    t = np.linspace(-1, 1, 1001)
    moved = np.stack([0.3 * t, 1.0 - 2.0 * t**2], axis=-1)[None].repeat(3, axis=0)
    moved[:, :, 1] += 5.0 * np.arange(3)[:, None]  # displacements of whole frames do not count
    # RMS of a line and of a parabola about their means, (1/3)^1/2 and (4/45)^1/2; x comes first
    assert _slow(moved) == pytest.approx([2.0 * (4 / 45) ** 0.5, 0.3 * (1 / 3) ** 0.5], rel=0.01)


def folder_of(file, n=4):
    folder = file.parent / "series"
    folder.mkdir()
    frames = tifffile.imread(file)
    for i in range(n):
        tifffile.imwrite(folder / f"frame_{i + 8}.tif", frames[i])  # 8, 9, 10, 11: not alphabetical
    return folder


@pytest.mark.slow
def test_a_folder_of_single_files_is_a_series_in_natural_order(file, capsys):
    folder = folder_of(file)
    assert average(folder, "--whole", "--frames") == 0
    assert "4 of 4 frames" in capsys.readouterr().out
    from_folder = [read(file.parent / f"series_{name}.nc") for name in ("average", "aligned")]
    assert average(file, "--whole", "--frames", "--overwrite") == 0
    for one, other in zip(from_folder, ("average", "aligned"), strict=True):
        np.testing.assert_array_equal(one.values, read(file.parent / f"series_{other}.nc").values)


def test_results_in_the_folder_are_not_frames(file, capsys):
    folder = folder_of(file)
    arguments = ["average", str(folder), "-o", str(folder), "--mode", "haadf", "--fast", "--whole", "--overwrite"]
    for options in ([], ["--reject", "0"]):
        assert main([*arguments, *options]) == 0
        assert f"{4 - len(options) // 2} of {4 - len(options) // 2} frames" in capsys.readouterr().out


def test_a_folder_of_series_is_several(file, capsys):
    folder = file.parent / "several"
    folder.mkdir()
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(folder / name, tifffile.imread(file), photometric="minisblack")
    assert average(folder, "--whole") == 0
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
