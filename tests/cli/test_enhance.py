"""``stemkit enhance``."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import stemkit
from stemkit.cli import main


@pytest.mark.parametrize("suffix", ["tif", "hspy", "nc"])
def test_keeps_units_and_pixel_size(tmp_path, tif, image, suffix):
    assert main(["enhance", str(tif), "-o", str(tmp_path / "out"), "--format", suffix]) == 0
    enhanced = stemkit.read(tmp_path / "out" / f"image_enhanced.{suffix}")
    assert enhanced.shape == image.shape
    assert enhanced.stem.pixel_size == pytest.approx(0.01, rel=1e-6)
    assert float(enhanced.mean()) == pytest.approx(float(image.mean()), rel=0.05)
    assert json.loads(enhanced.attrs["stemkit"])["step"] == "enhance"


def test_sampling_and_precision_are_those_of_the_denoiser(tmp_path, tif, image):
    from stemkit import SFINDenoiser

    options = ["--sampling", "0.7", "--precision", "bfloat16"]
    assert main(["enhance", str(tif), "-o", str(tmp_path), *options]) == 0
    expected = SFINDenoiser(sampling=0.7, precision="bfloat16").fit_transform(stemkit.read(tif))
    np.testing.assert_allclose(stemkit.read(tmp_path / "image_enhanced.tif"), expected, rtol=1e-6)
    assert not np.allclose(SFINDenoiser().fit_transform(image), expected, rtol=1e-6)


@pytest.mark.parametrize("sampling", ["native", "0", "1.2", "nan"])
def test_impossible_samplings_are_refused(tmp_path, tif, sampling, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["enhance", str(tif), "-o", str(tmp_path), "--sampling", sampling])
    assert f"must be auto or a number in (0, 1], but is '{sampling}'" in capsys.readouterr().err


@pytest.mark.usefixtures("drawn_figures")
def test_png_is_a_picture(tmp_path, tif):
    assert main(["enhance", str(tif), "-o", str(tmp_path), "--format", "png"]) == 0
    from PIL import Image

    with Image.open(tmp_path / "image_enhanced.png") as picture:
        # square pixels, twice enlarged or more, and a scale bar, which is white
        assert picture.size[0] / picture.size[1] == pytest.approx(112 / 96, rel=0.02)
        values = np.asarray(picture.convert("L"))
    assert (values[-24:, 8:60] == 255).any()
    assert values.std() > 30


def test_a_stack_gives_a_picture_per_frame(tmp_path, image, capsys):
    stack = xr.concat([image, image], dim="image", combine_attrs="override").transpose("image", "y", "x")
    stemkit.write(stack, tmp_path / "stack.tif")
    assert main(["enhance", str(tmp_path / "stack.tif"), "-o", str(tmp_path), "--format", "png"]) == 0
    printed = capsys.readouterr().out.split()
    assert [p.rsplit("_", 1)[1] for p in printed] == ["000.png", "001.png"]
    assert all(Path(p).exists() for p in printed)


def test_region(tmp_path, tif):
    assert main(["enhance", str(tif), "-o", str(tmp_path), "--region", "10:74,20:100"]) == 0
    assert stemkit.read(tmp_path / "image_y10-74_x20-100_enhanced.tif").shape == (64, 80)


def test_pixel_size_for_a_file_without(tmp_path, image):
    np.save(tmp_path / "bare.npy", image.values)
    assert main(["enhance", str(tmp_path / "bare.npy"), "-o", str(tmp_path), "--pixel-size", "0.02"]) == 0
    assert stemkit.read(tmp_path / "bare_enhanced.tif").stem.pixel_size == pytest.approx(0.02, rel=1e-6)


def test_does_not_replace_files_unless_asked(tmp_path, tif, capsys):
    (tmp_path / "image_enhanced.tif").write_bytes(b"precious")
    assert main(["enhance", str(tif), "-o", str(tmp_path)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "image_enhanced.tif").read_bytes() == b"precious"
    assert main(["enhance", str(tif), "-o", str(tmp_path), "--overwrite"]) == 0
    assert stemkit.read(tmp_path / "image_enhanced.tif").shape == (96, 112)
