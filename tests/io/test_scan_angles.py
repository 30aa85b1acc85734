"""Rotation of the scan in files, degrees."""

import math
from pathlib import Path

import numpy as np
import pytest
import rsciio.hspy
import tifffile
from hypothesis import given
from hypothesis import strategies as st

import stemkit
from stemkit import SeriesAligner
from stemkit.io.signals import degrees
from stemkit.series.turns import scan_angles_of

IMAGE = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24)
FORMATS = Path(__file__).parents[2].parent / "shared" / "data" / "formats"


@given(st.floats(-1e3, 1e3))
def test_angles_are_within_half_a_turn(angle):
    found = degrees(math.radians(angle), radians=True)
    assert -180 < found <= 180
    assert math.remainder(found - angle, 360) == pytest.approx(0, abs=1e-9)


def test_numbers_of_texts_are_angles():
    assert degrees("1.5707963267948966", radians=True) == pytest.approx(90.0)
    assert degrees("-180") == 180.0


@pytest.mark.parametrize("value", [None, True, "", "none", float("nan"), float("inf"), [1.0]])
def test_what_is_no_angle_is_none(value):
    assert degrees(value) is None


def velox(tmp_path, make, angle):
    return make.velox(tmp_path / "a.emd", {"HAADF": IMAGE[..., None]}, rotation=math.radians(angle))


def dm3(tmp_path, make, angle):
    return make.dm3(tmp_path / "a.dm3", IMAGE, (0.01, 0.01), ("nm", "nm"), rotation=angle)


def fei_tiff(tmp_path, make, angle):
    settings = f"[Beam]\nHV=300000\nScanRotation={math.radians(angle)}\n[Scan]\nPixelWidth=1e-11\nPixelHeight=1e-11\n"
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, extratags=[(34682, "s", 0, settings, True)])
    return tmp_path / "a.tif"


@pytest.mark.parametrize(
    "original",
    [
        lambda angle: {"Scan": {"ScanRotation": str(math.radians(angle))}},
        lambda angle: {"ImageList": {"TagGroup0": {"ImageTags": {"DigiScan": {"Rotation": angle}}}}},
    ],
    ids=["from Velox", "from DigitalMicrograph"],
)
def test_hyperspy_keeps_what_the_microscope_wrote(original, tmp_path):
    signal = {
        "data": IMAGE,
        "axes": [{"offset": 0.0, "scale": 0.01, "units": "nm", "size": n, "navigate": False} for n in IMAGE.shape],
        "metadata": {"General": {"title": ""}, "Signal": {"signal_type": ""}},
        "original_metadata": original(-90.0),
        **{name: {} for name in ("learning_results", "models", "package_info", "tmp_parameters")},
        "attributes": {"_lazy": False},
    }
    rsciio.hspy.file_writer(tmp_path / "a.hspy", signal, show_progressbar=False)
    assert stemkit.read(tmp_path / "a.hspy").attrs["scan_angle"] == pytest.approx(-90.0)


@pytest.mark.parametrize("written", [velox, dm3, fei_tiff])
def test_the_rotation_of_the_scan_is_read(written, tmp_path, make):
    assert stemkit.read(written(tmp_path, make, 89.9)).attrs["scan_angle"] == pytest.approx(89.9, abs=1e-3)


def test_a_file_without_a_rotation_has_none(tmp_path, make):
    assert "scan_angle" not in stemkit.read(make.dm3(tmp_path / "a.dm3", IMAGE, (0.01, 0.01), ("nm", "nm"))).attrs
    assert "scan_angle" not in stemkit.read(make.ser(tmp_path / "a.ser", IMAGE, 1e-11)).attrs


def written_folder(tmp_path, make, angles):
    for i, angle in enumerate(angles):
        make.dm3(tmp_path / f"frame_{i}.dm3", IMAGE + i, (0.01, 0.01), ("nm", "nm"), rotation=angle)
    return tmp_path


def test_files_of_different_angles_are_a_series_with_angles(tmp_path, make):
    series = stemkit.read(written_folder(tmp_path, make, [0.0, 90.0, 0.0]))
    assert series.coords["scan_angle"].attrs == {"units": "degrees"}
    np.testing.assert_array_equal(series.coords["scan_angle"], [0, 90, 0])
    assert "scan_angle" not in series.attrs
    assert scan_angles_of(series) == [0, 90, 0]
    stemkit.write(series, tmp_path / "series.nc")
    assert scan_angles_of(stemkit.read(tmp_path / "series.nc")) == [0, 90, 0]


def test_files_of_one_angle_keep_it(tmp_path, make):
    series = stemkit.read(written_folder(tmp_path, make, [12.5, 12.5]))
    assert series.attrs["scan_angle"] == 12.5
    assert "scan_angle" not in series.coords


def test_an_angle_that_one_file_lacks_is_not_that_of_the_others(tmp_path, make):
    series = stemkit.read(written_folder(tmp_path, make, [90.0, None]))
    assert "scan_angle" not in series.attrs
    assert "scan_angle" not in series.coords


def test_a_list_of_images_has_their_angles(tmp_path, make):
    images = [stemkit.read(path) for path in sorted(written_folder(tmp_path, make, [0.0, 90.0]).iterdir())]
    assert scan_angles_of(images) == [0, 90]
    assert scan_angles_of([*images, images[0].values]) is None


def test_other_angles_of_files_are_refused_with_the_remedy():
    frames = stemkit.calibrated(np.random.default_rng(0).normal(size=(2, 32, 32)), pixel_size=0.01)
    frames = frames.rename(image="frame").assign_coords(scan_angle=("frame", [0.0, 30.0]))
    with pytest.raises(ValueError, match=r"\[0.0, 30.0\].*Align the frames of each angle as a series of its own"):
        SeriesAligner(denoiser=None).fit(frames)


@pytest.mark.skipif(not FORMATS.is_dir(), reason="no files of microscopes here")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "angle"), [("velox_spectrum_image.emd", 95.0), ("fei_dpc.emd", 0.0), ("stackbuilder.dm3", 0.0)]
)
def test_files_of_microscopes(name, angle):
    assert stemkit.read(FORMATS / name).attrs["scan_angle"] == pytest.approx(angle, abs=0.01)
