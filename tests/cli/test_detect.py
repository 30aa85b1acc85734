"""``stemkit detect``."""

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, SeriesAligner
from stemkit.cli import main
from stemkit.detection.exports import read_columns
from stemkit.images.lazy import is_lazy
from stemkit.series import draw_displacements, draw_series
from stemkit.synthesis import cropped, disk, lattice, planar_cell


def detect(*arguments):
    return main(["detect", *map(str, arguments)])


def test_table_in_nm(tmp_path, tif, scene):
    assert detect(tif, "-o", tmp_path / "out") == 0
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_file()] == ["image_columns.csv"]
    table = pd.read_csv(tmp_path / "out" / "image_columns.csv")
    assert set(table["unit"]) == {"nm"}
    found = stemkit.metrics.match_columns(table[["y", "x"]], scene[1][["y", "x"]], 0.04)
    assert found.recall > 0.95


@pytest.fixture(scope="module")
def frames():
    shape = (80, 80)
    columns = cropped(lattice(planar_cell("square"), shape, spacing=9.0, margin=30.0), disk((38.0, 42.0), 30.0))
    noise = NoiseModel(100.0, 20.0, pointwise=PointwiseNoise(readout=0.1))
    moved = draw_displacements(3, 80, drift=(2.0, -3.0), random_state=0)
    series = draw_series(columns, moved, shape=shape, noise=noise, pixel_size=0.02, random_state=0)
    return series.astype(np.float32)


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_figures")
def test_a_series_is_aligned_and_averaged_as_by_a_pipeline(tmp_path, frames, capsys):
    stemkit.write(frames, tmp_path / "series.nc")
    assert detect(tmp_path / "series.nc", "-o", tmp_path, "--no-enhance", "--figure") == 0
    assert "3 of 3 frames aligned" in capsys.readouterr().out
    pipeline = Pipeline(
        [("align", SeriesAligner(denoiser=None)), ("noise", NoiseCalibrator()), ("atoms", AtomDetector())]
    )
    expected = pipeline.fit_transform(stemkit.read(tmp_path / "series.nc"))
    assert expected["n_frames"].median() == pytest.approx(3.0, abs=0.1)
    pd.testing.assert_frame_equal(read_columns(tmp_path / "series_columns.csv"), expected)
    assert (tmp_path / "series_columns.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_frames_can_be_measured_together_and_alone(tmp_path, frames):
    stemkit.write(frames, tmp_path / "series.nc")
    tables = []
    for option in ("--no-enhance", "--all-frames", "--per-frame"):
        folder = tmp_path / option
        assert detect(tmp_path / "series.nc", "-o", folder, "--no-enhance", option) == 0
        tables.append(read_columns(folder / "series_columns.csv"))
    average, together, alone = tables
    assert len(together) == len(average)
    assert (together["x"] - average["x"]).abs().median() < average["x_err"].median()
    assert not np.allclose(together["x_err"], average["x_err"], rtol=1e-3)
    assert set(average["image"]) == {0}
    assert set(alone["image"]) == {0, 1, 2}
    assert alone["x_err"].median() / average["x_err"].median() == pytest.approx(3**0.5, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--no-enhance", "--all-frames", "--per-frame"])
def test_frames_of_large_files_are_read_when_they_are_needed(tmp_path, frames, monkeypatch, option):
    pytest.importorskip("dask")
    pytest.importorskip("zarr")
    path = stemkit.write(frames, tmp_path / "series.zarr")
    fitted, fit, tables = [], SeriesAligner.fit, []
    monkeypatch.setattr(SeriesAligner, "fit", lambda self, X: fitted.append(X) or fit(self, X))
    for large in (2**28, 0):
        monkeypatch.setattr("stemkit.cli.common.MAX_BYTES_IN_MEMORY", large)
        assert detect(path, "-o", tmp_path / f"{large}", "--no-enhance", option) == 0
        tables.append(read_columns(tmp_path / f"{large}" / "series_columns.csv"))
    pd.testing.assert_frame_equal(*tables)
    assert [is_lazy(images) for images in fitted] == ([] if option == "--per-frame" else [False, True])


def test_a_folder_is_a_series_if_asked(tmp_path, frames, capsys):
    (tmp_path / "fast").mkdir()
    for i, frame in enumerate(frames):
        stemkit.write(frame, tmp_path / "fast" / f"scan_{i}.tif")
    options = ["-o", tmp_path / "out", "--no-enhance", "--mode", "haadf"]
    assert detect(tmp_path / "fast", "--series", *options) == 0
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_file()] == ["fast_columns.csv"]
    assert "3 of 3 frames aligned" in capsys.readouterr().out
    assert detect(tmp_path / "fast", *options) == 0
    assert len([p for p in (tmp_path / "out").iterdir() if p.is_file()]) == 4


@pytest.mark.parametrize("option", ["--series", "--all-frames"])
def test_one_image_is_no_series(tmp_path, tif, capsys, option):
    assert detect(tif, "-o", tmp_path, option) == 1
    assert f"{option} needs the frames of a series" in capsys.readouterr().err


def n_true(scene, y=slice(0, 96), x=slice(0, 112)):
    """Number of columns in a part of the image."""
    at = scene[1][["y_px", "x_px"]].to_numpy()
    low, high = np.array([y.start, x.start]), np.array([y.stop, x.stop])
    return int(((at > low - 0.5) & (at < high - 0.5)).all(axis=1).sum())


def test_without_network(tmp_path, tif, scene):
    assert main(["detect", str(tif), "-o", str(tmp_path), "--no-enhance"]) == 0
    table = pd.read_csv(tmp_path / "image_columns.csv")
    assert len(table) == pytest.approx(n_true(scene), abs=3)
    found = stemkit.metrics.match_columns(table[["y", "x"]], scene[1][["y", "x"]], 0.04)
    assert found.precision > 0.95


def test_the_lattice_and_its_vacancies(tmp_path, tif, capsys):
    options = ["--no-enhance", "--lattice", "--pixel-size-error", "0.02", "-o", str(tmp_path)]
    assert main(["detect", str(tif), *options]) == 0
    out = capsys.readouterr().out
    assert "° (statistical errors; the pixel size adds 2 % to a and b), 1 site, " in out
    assert "Lattice(" not in out
    n = len(pd.read_csv(tmp_path / "image_vacancies.csv"))
    assert n == 0  # the crystal is complete
    assert "image_vacancies.csv: 0 vacancies\n  lattice 1: a = 0.1" in out


def test_columns_without_a_lattice_are_written_with_a_note(tmp_path, capsys):
    rng = np.random.default_rng(1)
    at = np.array(
        [(24, 20), (70, 33), (41, 75), (96, 88), (25, 101), (60, 104), (98, 40), (68, 62), (35, 48), (101, 15)]
    )
    y, x = np.mgrid[:120, :120]
    true_image = sum(np.exp(-((y - p) ** 2 + (x - q) ** 2) / 18.0) for p, q in at)
    np.save(tmp_path / "atoms.npy", true_image + rng.normal(0, 0.05, true_image.shape))
    assert main(["detect", str(tmp_path / "atoms.npy"), "--no-enhance", "--lattice", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "note: no lattice was fitted, and atoms_vacancies.csv was not written: table must" in out
    found = pd.read_csv(tmp_path / "atoms_columns.csv")[["y_px", "x_px"]].to_numpy()
    assert len(found) == len(at)
    assert np.hypot(*(found[:, None] - at).transpose(2, 0, 1)).min(axis=0).max() < 0.3
    assert not (tmp_path / "atoms_vacancies.csv").exists()


def test_px_where_uncalibrated(tmp_path, image):
    np.save(tmp_path / "bare.npy", image.values)
    assert main(["detect", str(tmp_path / "bare.npy"), "-o", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "bare_columns.csv")
    assert set(table["unit"]) == {"px"}
    np.testing.assert_allclose(table["x"], table["x_px"])


def test_refuses_an_enhanced_file_without_the_recorded_one(tmp_path, tif, capsys):
    main(["enhance", str(tif), "-o", str(tmp_path)])
    enhanced = str(tmp_path / "image_enhanced.tif")
    assert main(["detect", enhanced, "-o", str(tmp_path)]) == 1
    assert "--recorded" in capsys.readouterr().err
    assert main(["detect", enhanced, "--recorded", str(tif), "-o", str(tmp_path)]) == 0
    assert main(["detect", str(tif), "-o", str(tmp_path)]) == 0
    a, b = (pd.read_csv(tmp_path / f"{n}_columns.csv") for n in ("image_enhanced", "image"))
    assert a["x_err"].median() == pytest.approx(b["x_err"].median(), rel=0.1)


def test_a_netcdf_carries_its_recorded_pixels(tmp_path, tif, scene):
    main(["enhance", str(tif), "-o", str(tmp_path), "--format", "nc"])
    assert main(["detect", str(tmp_path / "image_enhanced.nc"), "-o", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "image_enhanced_columns.csv")
    assert len(table) == pytest.approx(n_true(scene), abs=3)
    # errors are those of the recorded pixels: fits to the enhanced ones state a fraction
    off = stemkit.metrics.match_columns(table[["y", "x"]], scene[1][["y", "x"]], 0.04)
    errors = np.hypot(table["y_err"], table["x_err"]).to_numpy()[off.found]
    # in white noise (2 / pi)^1/2 of the noise over the amplitude along each axis, px of 0.01 nm
    assert np.median(errors) == pytest.approx(0.01 * 0.1 * 2 / np.pi**0.5, rel=0.4)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (["--significance", "70"], {"significance": 70.0}),
        (["--spacing", "0.2", "--width", "0.05"], {"spacing": 0.2, "width": 0.05}),
        (["--elliptical"], {"elliptical": True}),
    ],
)
def test_options_are_the_detector_s_parameters(tmp_path, tif, options, parameters):
    assert detect(tif, "--no-enhance", "-o", tmp_path, *options) == 0
    image = NoiseCalibrator().fit_transform(stemkit.read(tif))
    expected = AtomDetector(**parameters).fit_transform(image)
    pd.testing.assert_frame_equal(read_columns(tmp_path / "image_columns.csv"), expected)
    plain = AtomDetector().fit_transform(image)
    assert plain.shape != expected.shape or not np.allclose(plain["sigma"], expected["sigma"], rtol=1e-6)


@pytest.mark.parametrize("option", ["--significance", "--spacing", "--width"])
@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "wide"])
def test_impossible_lengths_are_refused(tif, option, value, capsys):
    with pytest.raises(SystemExit, match="2"):
        detect(tif, option, value)
    assert f"{option}: must be a positive number, but is {value!r}" in capsys.readouterr().err


def test_a_part_that_was_enhanced_is_measured_on_the_same_part(tmp_path, tif, scene):
    region = ["--region", "10:90,20:100"]
    main(["enhance", str(tif), "-o", str(tmp_path), *region])
    enhanced = tmp_path / "image_y10-90_x20-100_enhanced.tif"
    assert detect(enhanced, "--recorded", tif, *region, "-o", tmp_path) == 0
    table = pd.read_csv(tmp_path / "image_y10-90_x20-100_enhanced_columns.csv")
    assert len(table) == pytest.approx(n_true(scene, slice(10, 90), slice(20, 100)), abs=3)


def test_an_enhanced_image_is_no_measurement(tmp_path, tif, capsys):
    main(["enhance", str(tif), "-o", str(tmp_path)])
    enhanced = str(tmp_path / "image_enhanced.tif")
    assert main(["detect", enhanced, "--recorded", enhanced, "-o", str(tmp_path)]) == 1
    assert "--recorded must be a recorded image" in capsys.readouterr().err


def test_measured_must_fit(tmp_path, tif, image, capsys):
    other = stemkit.write(image[:50], tmp_path / "other.tif")
    main(["enhance", str(tif), "-o", str(tmp_path)])
    enhanced = str(tmp_path / "image_enhanced.tif")
    assert main(["detect", enhanced, "--recorded", str(other), "-o", str(tmp_path)]) == 1
    assert "--recorded must have the image's shape" in capsys.readouterr().err
