import os
import sys

import numpy as np
import pytest
import rsciio.hspy
import rsciio.tiff
import tifffile
import xarray as xr

import stemkit
from stemkit.atomic import whole_file
from stemkit.images.pixel_size import with_pixel_sizes
from stemkit.io import writing
from stemkit.io.writing import WRITABLE

IMAGE = np.arange(48, dtype=np.uint16).reshape(6, 8)


def content(path):
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    return path.read_bytes()


@pytest.mark.parametrize("suffix", WRITABLE)
def test_existing_files_are_kept(suffix, tmp_path):
    path = stemkit.write(IMAGE, tmp_path / f"a{suffix}")
    before = content(path)
    with pytest.raises(FileExistsError, match="pass overwrite=True to replace it"):
        stemkit.write(IMAGE + 1, path)
    assert content(path) == before
    stemkit.write(IMAGE + 1, path, overwrite=True)
    np.testing.assert_array_equal(stemkit.read(path).values, IMAGE + 1)


@pytest.mark.parametrize("suffix", WRITABLE)
def test_a_failure_leaves_the_old_file_and_nothing_else(suffix, tmp_path, monkeypatch):
    path = stemkit.write(IMAGE, tmp_path / f"a{suffix}")
    before = content(path)
    save = writing._SAVERS[suffix]

    def fail(image, place, provenance):
        save(image, place, provenance)
        assert place.parent == tmp_path
        raise OSError("disk full")

    monkeypatch.setitem(writing._SAVERS, suffix, fail)
    with pytest.raises(OSError, match="disk full"):
        stemkit.write(IMAGE + 1, path, overwrite=True)
    with pytest.raises(OSError, match="disk full"):
        stemkit.write(IMAGE, tmp_path / f"b{suffix}")
    assert os.listdir(tmp_path) == [path.name]
    assert content(path) == before


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupted():
        with whole_file(tmp_path / "a.tif") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt("by the user")

    with pytest.raises(KeyboardInterrupt, match="by the user"):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_a_written_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    path = stemkit.write(IMAGE, tmp_path / "a.tif")
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", ["a.png", "a.JPG"])
def test_pictures_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"stemkit\.plotting\.save_picture"):
        stemkit.write(IMAGE, tmp_path / name)


@pytest.mark.parametrize(("name", "format"), [("a.xyz", None), ("a", None), ("a.tif", "bmp")])
def test_unknown_formats(name, format, tmp_path):
    with pytest.raises(ValueError, match=r"not supported, use one of \.tif"):
        stemkit.write(IMAGE, tmp_path / name, format=format)


@pytest.mark.parametrize("format", ["tif", ".TIFF", "tiff"])
def test_format_overrides_the_suffix(format, tmp_path):
    path = stemkit.write(IMAGE, tmp_path / "a.dat", format=format)
    np.testing.assert_array_equal(tifffile.imread(path), IMAGE)


def test_places_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        stemkit.write(IMAGE, tmp_path / "no" / "a.tif")
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        stemkit.write(IMAGE, tmp_path / "a.tif", overwrite=True)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones(5), "must be one image"),
        (np.ones((3, 3)) * 1j, "[Cc]omplex"),
        (np.array([[1.0, np.nan]]), "must be finite"),
        (np.ones((0, 4)), "empty"),
        (xr.DataArray(np.ones((3, 4)), dims=("x", "y")), "dims"),
    ],
)
def test_what_is_no_image_is_refused(image, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        stemkit.write(image, tmp_path / "a.tif")
    assert os.listdir(tmp_path) == []


def test_a_list_is_refused(tmp_path):
    with pytest.raises(TypeError, match="one by one"):
        stemkit.write([IMAGE, IMAGE], tmp_path / "a.tif")


@pytest.mark.parametrize("stack", [False, True])
def test_imagej_understands_our_tiff(stack, tmp_path):
    values = np.stack([IMAGE, IMAGE + 1]) if stack else IMAGE
    image = with_pixel_sizes(xr.DataArray(values, dims=("image", "y", "x")[0 if stack else 1 :]), 0.02, 0.01)
    with tifffile.TiffFile(stemkit.write(image, tmp_path / "a.tif")) as tif:
        assert tif.is_imagej
        assert tif.imagej_metadata["unit"] == "nm"
        assert tif.imagej_metadata["images"] == (2 if stack else 1)
        tags = tif.pages[0].tags
        assert [np.divide(*tags.valueof(code)) for code in (282, 283)] == pytest.approx([100, 50])
        # ImageJ opens a stack as one block that follows its first page's offset
        assert tif.series[0].dataoffset is not None


@pytest.mark.parametrize("stack", [False, True])
def test_hyperspy_understands_our_tiff(stack, tmp_path):
    """HyperSpy reads TIFF files through RosettaSciIO."""
    values = np.stack([IMAGE, IMAGE + 1]) if stack else IMAGE
    image = with_pixel_sizes(xr.DataArray(values, dims=("image", "y", "x")[0 if stack else 1 :]), 0.02, 0.01)
    (signal,) = rsciio.tiff.file_reader(stemkit.write(image, tmp_path / "a.tif"))
    np.testing.assert_array_equal(signal["data"], values)
    assert [(a["scale"], a["units"]) for a in signal["axes"][-2:]] == [(0.02, "nm"), (0.01, "nm")]


def test_pixels_beyond_a_tiff(tmp_path):
    image = with_pixel_sizes(xr.DataArray(IMAGE, dims=("y", "x")), 1e-12, 1e-12)
    with pytest.raises(ValueError, match=r"can't store a pixel size of 1e-12 nm: write \.nc"):
        stemkit.write(image, tmp_path / "a.tif")


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.dm3").write_bytes(b"\0\0\0\3")
    monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", None)
    with pytest.raises(ImportError, match=r"a\.dm3 as DM3: .*pip install 'stemkit\[formats\]'"):
        stemkit.read(tmp_path / "a.dm3")


def test_hspy_is_written_without_rosettasciio(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rsciio", None)
    path = stemkit.write(IMAGE, tmp_path / "b.hspy")
    np.testing.assert_array_equal(stemkit.read(path).values, IMAGE)


def test_rosettasciio_reads_our_hspy(tmp_path):
    values = np.stack([IMAGE, IMAGE + 1, IMAGE + 2])
    image = with_pixel_sizes(xr.DataArray(values, dims=("frame", "y", "x")), 0.02, 0.01)
    image = image.assign_coords(time=("frame", [0.5, 1.0, 1.5], {"units": "s"}))
    image.attrs = {"title": "a/b", "voltage": 300.0, "mode": "bf"}
    (signal,) = rsciio.hspy.file_reader(stemkit.write(image, tmp_path / "a.hspy"))
    np.testing.assert_array_equal(signal["data"], values)
    assert [(a["name"], a["units"], a["scale"], a["offset"], a["navigate"]) for a in signal["axes"]] == [
        ("frame", "s", 0.5, 0.5, True),
        ("y", "nm", 0.02, 0.0, False),
        ("x", "nm", 0.01, 0.0, False),
    ]
    assert signal["metadata"]["General"]["title"] == "a/b"
    assert signal["metadata"]["Acquisition_instrument"]["TEM"]["beam_energy"] == 300.0
