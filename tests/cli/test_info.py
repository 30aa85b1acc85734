"""``stemkit info``."""

import re
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import stemkit
from stemkit.cli import main
from stemkit.images.pixel_size import with_pixel_sizes


def info(capsys, *arguments):
    """Properties that the command prints, by their labels."""
    assert main(["info", *map(str, arguments)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[2:14].strip(): line[14:] for line in lines[1:]}


def test_size_pixel_size_mode_and_range(tif, image, capsys):
    found = info(capsys, tif)
    assert found == {
        "size": "96 x 112 px, float32",
        "pixel size": "0.01 nm (0.96 x 1.12 nm)",
        "mode": "haadf",
        "range": f"{float(image.min()):.6g} to {float(image.max()):.6g}",
    }


def test_an_uncalibrated_image_and_pixels_that_are_not_square(tmp_path, image, capsys):
    np.save(tmp_path / "bare.npy", image.values)
    assert info(capsys, tmp_path / "bare.npy")["pixel size"] == "not known: give --pixel-size"
    oblong = with_pixel_sizes(image, 0.02, 0.01)
    path = stemkit.write(oblong, tmp_path / "oblong.tif")
    assert info(capsys, path)["pixel size"] == "0.02 nm (y) x 0.01 nm (x) (1.92 x 1.12 nm)"


def test_a_stack_is_described_as_a_whole(tmp_path, image, capsys):
    values = np.stack([image.values, -2 * image.values])
    np.save(tmp_path / "stack.npy", values)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COLUMNS", "200")
        found = info(capsys, tmp_path / "stack.npy")
    assert found["size"] == "2 frames of 96 x 112 px, float32"
    assert found["range"] == f"{values.min():.6g} to {values.max():.6g}"
    assert found["mode"] == "bf in 1 frame, haadf in 1 frame (inferred)"


def test_spacing_and_noise_on_request(tif, capsys):
    found = info(capsys, tif, "--noise")
    px, nm = map(float, re.match(r"([\d.]+) px, ([\d.]+) nm", found["spacing"]).groups())
    assert (px, nm) == (pytest.approx(14, rel=0.02), pytest.approx(0.14, rel=0.02))
    background = float(re.match(r"([\d.]+) % of the contrast at the background", found["noise"])[1])
    assert background == pytest.approx(10, rel=0.2)  # readout noise of 0.1


def test_spacing_of_all_frames(tmp_path, capsys):
    y, x = np.mgrid[:96, :96]
    spots = [np.exp(-((y % p - p / 2) ** 2 + (x % p - p / 2) ** 2) / 12) for p in (12, 16)]
    noise = np.random.default_rng(0).normal(size=(3, 96, 96))
    np.save(tmp_path / "stack.npy", np.stack([*spots, 0 * y]) + 0.1 * noise)
    spacing = info(capsys, tmp_path / "stack.npy", "--noise")["spacing"]
    low, high = map(float, re.match(r"([\d.]+) to ([\d.]+) px \(1 frame not periodic\)$", spacing).groups())
    assert (low, high) == (pytest.approx(12, rel=0.02), pytest.approx(16, rel=0.02))


def test_datasets_of_a_file_with_several(tmp_path, capsys):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(np.zeros((20, 30), np.uint8))
        file.write(np.zeros((10, 10), np.uint16))
    found = info(capsys, tmp_path / "two.tif")
    assert "20 x 30, uint8" in found["dataset 0"]
    assert "10 x 10, uint16" in found["dataset 1"]
    assert info(capsys, tmp_path / "two.tif", "--dataset", "1")["size"] == "10 x 10 px, uint16"


@pytest.mark.slow
def test_nothing_heavy_is_imported(tif):
    code = (
        "import sys; from stemkit.cli import main; main(sys.argv[1:]); "
        "print([name for name in ('torch', 'sklearn', 'matplotlib', 'numba', 'skorch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, "info", str(tif)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_frames_of_a_series_are_images_of_a_stack(tmp_path, image, capsys):
    series = xr.concat([image, image + 1], dim="frame").transpose("frame", "y", "x")
    path = stemkit.write(series, tmp_path / "series.nc")
    assert stemkit.read(path).dims == ("frame", "y", "x")
    assert info(capsys, path, "--noise")["size"] == "2 frames of 96 x 112 px, float32"


def test_frames_and_decreasing_coordinates(tmp_path, capsys):
    values = np.random.default_rng(0).normal(size=(3, 40, 32))
    y, x = ("y", -0.02 * np.arange(40), {"units": "nm"}), ("x", 0.02 * np.arange(32), {"units": "nm"})
    xr.DataArray(values, {"y": y, "x": x}, ("frame", "y", "x"), "images").to_netcdf(tmp_path / "series.nc")
    assert main(["info", str(tmp_path / "series.nc")]) == 0
    printed = capsys.readouterr()
    assert "3 frames of 40 x 32 px" in printed.out
    assert "0.02 nm (0.8 x 0.64 nm)" in printed.out
    assert "y decreases in the file: its rows are processed in reverse order" in printed.err


def test_numbers_records_and_the_dwell_time_are_readable(tmp_path, image, capsys):
    fields = np.zeros((4, 4), [("real", "<f4"), ("imag", "<f4")])
    np.savez(tmp_path / "parts.npz", image=image.values, dose=np.float64(3.0), wave=fields)
    found = info(capsys, tmp_path / "parts.npz")
    assert found["dataset 1"] == "dose: a number, float64, no image"
    assert found["dataset 2"].endswith(", several fields, no image")
    path = stemkit.write(image.assign_attrs(dwell_time=3.24e-5), tmp_path / "slow.nc")
    assert info(capsys, path)["dwell time"] == "32.4 µs"
