import struct
import zlib

import numpy as np
import pytest
import tifffile
import xarray as xr
from PIL import Image

import stemkit
from stemkit.images.pixel_size import with_pixel_sizes
from stemkit.io import DatasetInfo
from stemkit.io.reading import READABLE

IMAGE = np.random.default_rng(1).integers(0, 255, (24, 32)).astype(np.uint8)


def save_picture(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


# --- at the door -------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        stemkit.read(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.docx", "a"])
def test_unknown_suffix(name, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"must be one of \.dm3, .*\.png"):
        stemkit.read(tmp_path / name)


def test_folder_without_images(tmp_path):
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(ValueError, match=r"the folder contains no image file .*\.tif.*: give another folder"):
        stemkit.read(tmp_path / "a.tif")
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        stemkit.datasets(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("written", "name", "text"),
    [
        ("a.tif", "a.png", r"its content is TIFF: rename it to \.tif or \.tiff"),
        ("a.npy", "a.dm4", r"its content is NumPy: rename it to \.npy"),
        ("a.hspy", "a.mrc", r"its content is HDF5: rename it to \.emd or \.hspy"),
    ],
)
def test_a_wrong_suffix_is_named(written, name, text, tmp_path):
    stemkit.write(IMAGE, tmp_path / written).rename(tmp_path / name)
    with pytest.raises(ValueError, match=text):
        stemkit.read(tmp_path / name)


@pytest.mark.parametrize("suffix", READABLE)
@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n", b"II*\0", b"\x89HDF\r\n\x1a\n"])
def test_damaged_files(suffix, content, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"can't read .*a{suffix} as "):
        stemkit.read(path)
    with pytest.raises(ValueError, match=rf"can't read .*a{suffix} as "):
        stemkit.datasets(path)


@pytest.mark.parametrize("suffix", ["tif", "hspy", "nc", "npy", "png", "emd", "mrc", "ser"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated_files(suffix, part, tmp_path, make):
    values = np.random.default_rng(0).integers(0, 60000, (40, 50)).astype(np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        save_picture(path, values)
    elif suffix == "emd":
        make.velox(path, {"HAADF": values[..., None]})
    elif suffix == "mrc":
        make.mrc(path, values, None)
    elif suffix == "ser":
        make.ser(path, values, 1e-11)
    else:
        stemkit.write(values, path)
    np.testing.assert_array_equal(stemkit.read(path).values, values)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ValueError, match="can't read"):
        stemkit.read(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("part", [0.5, 0.95])
def test_truncated_strips_are_not_filled_with_zeros(compression, part, tmp_path):
    values = np.random.default_rng(0).integers(0, 60000, (64, 50)).astype(np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, compression=compression, rowsperstrip=8)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ValueError, match="can't read"):
        stemkit.read(path)


@pytest.mark.parametrize("pixel_size", [0, -1.0, np.nan, np.inf, "0.1", True, [0.1, 0.2]])
def test_impossible_pixel_sizes_are_refused(pixel_size, tmp_path):
    with pytest.raises(ValueError, match="pixel_size must be a positive number"):
        stemkit.read(tmp_path / "a.tif", pixel_size=pixel_size)


@pytest.mark.parametrize("suffix", ["tif", "hspy", "nc"])
def test_pixel_size_overrides(suffix, tmp_path):
    image = with_pixel_sizes(xr.DataArray(IMAGE, dims=("y", "x")), 0.2, 0.1)
    assert stemkit.read(stemkit.write(image, tmp_path / f"a.{suffix}"), pixel_size=0.5).stem.pixel_sizes == (0.5, 0.5)


# --- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.PNG"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_png(name, dtype, tmp_path):
    values = IMAGE.astype(dtype) * (257 if dtype == "uint16" else 1)
    image = stemkit.read(save_picture(tmp_path / name, values))
    assert image.dtype == dtype
    assert image.dims == ("y", "x")
    assert not image.stem.is_calibrated
    np.testing.assert_array_equal(image.values, values)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_png_in_colour_channels(mode, tmp_path):
    Image.fromarray(IMAGE).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(stemkit.read(tmp_path / "a.png").values, IMAGE)


def test_jpeg(tmp_path):
    smooth = np.tile(np.arange(0, 128, 4, dtype=np.uint8), (24, 1))
    image = stemkit.read(save_picture(tmp_path / "a.jpg", smooth, quality=95))
    assert np.abs(image.values.astype(int) - smooth).max() < 8


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_coloured_pictures_are_refused(suffix, tmp_path):
    colored = np.stack([IMAGE, IMAGE, IMAGE.T.reshape(IMAGE.shape)], axis=-1)
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        save_picture(path, colored)
    elif suffix == "tif":
        tifffile.imwrite(path, colored, photometric="rgb")
    else:
        np.save(path, colored)
    with pytest.raises(ValueError, match="coloured picture"):
        stemkit.read(path)
    assert not stemkit.datasets(path)[0].is_image


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_grey_tiff_in_colour_channels(planar, tmp_path):
    channels = np.stack([IMAGE] * 3, axis=-1 if planar == "contig" else 0)
    tifffile.imwrite(tmp_path / "a.tif", channels, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(stemkit.read(tmp_path / "a.tif").values, IMAGE)


def test_sixteen_bit_colour_is_not_halved(tmp_path):
    """Pillow reads 16-bit channels as 8-bit ones without a word, and can't write them: this is such a file by hand."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress(2 * (b"\0" + np.full(6, 4660, ">u2").tobytes()))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match="several 16-bit channels"):
        stemkit.read(path)


# --- arrays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.ones(7), "1-D data"),
        (np.ones((2, 2, 2, 2)), "4D-STEM"),
        (np.ones((3, 3)) * 1j, "complex"),
        (np.array([["a", "b"]]), "no numbers"),
        (np.ones((0, 4)), "empty"),
    ],
)
def test_arrays_that_are_no_image(values, what, tmp_path):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=f"can't read .* as an image: it contains .*{what}"):
        stemkit.read(tmp_path / "a.npy")


def test_pickles_are_not_executed(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        stemkit.read(tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_byte_order_becomes_native(suffix, tmp_path):
    values = IMAGE.astype(">u2") * 200
    if suffix == "npy":
        np.save(tmp_path / "a.npy", values)
    else:
        tifffile.imwrite(tmp_path / "a.tif", values, byteorder=">")
    image = stemkit.read(tmp_path / f"a.{suffix}")
    assert image.dtype == np.uint16
    assert image.dtype.isnative
    np.testing.assert_array_equal(image.values, values)


# --- which dataset -----------------------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path):
    path = tmp_path / "several.nc"
    variables = {
        "spectrum": (("e",), np.ones(5)),
        "HAADF": (("y", "x"), np.ones((4, 6))),
        "BF": (("y", "x"), np.zeros((4, 6))),
        "frames": (("t", "row", "column"), np.ones((3, 4, 6))),
    }
    axes = {"y": ("y", np.arange(4) * 0.2, {"units": "Å"}), "x": ("x", np.arange(6) * 0.1, {"units": "Å"})}
    xr.Dataset(variables, axes).to_netcdf(path, engine="h5netcdf")
    return path


def test_the_first_image_is_taken_with_a_warning(several):
    with pytest.warns(UserWarning, match=r"1 'HAADF' \(4 x 6\) is read.*dataset=.*2 'BF'.*3 'frames' \(3 x 4 x 6\)"):
        image = stemkit.read(several)
    assert image.attrs["dataset"] == "HAADF"
    assert image.stem.pixel_sizes == pytest.approx((0.02, 0.01))


@pytest.mark.parametrize("dataset", ["BF", 2, np.int64(2), "2"])
def test_a_dataset_is_chosen(several, dataset):
    image = stemkit.read(several, dataset=dataset)
    assert image.attrs["dataset"] == "BF"
    assert not image.any()


def test_a_dimension_of_time_makes_a_series(several):
    assert stemkit.read(several, dataset="frames").dims == ("frame", "y", "x")
    assert stemkit.read(several, dataset="frames", frames=False).dims == ("image", "y", "x")


@pytest.mark.parametrize("dataset", ["nothing", 7, -1, "7"])
def test_datasets_that_are_not_there(several, dataset):
    with pytest.raises(ValueError, match=r"has no dataset .*0 'spectrum' \(5\), 1 'HAADF'"):
        stemkit.read(several, dataset=dataset)


def test_a_dataset_that_is_no_image(several):
    with pytest.raises(ValueError, match=r"'spectrum' .* it is 1-D data"):
        stemkit.read(several, dataset="spectrum")


@pytest.mark.parametrize("dataset", [1.0, True])
def test_dataset_of_the_wrong_type(several, dataset):
    with pytest.raises(TypeError, match="dataset must be an index or a name"):
        stemkit.read(several, dataset=dataset)


def test_datasets_lists_all(several):
    found = stemkit.datasets(several)
    assert [(d.name, d.is_image) for d in found] == [
        ("spectrum", False),
        ("HAADF", True),
        ("BF", True),
        ("frames", True),
    ]
    assert found[1].pixel_sizes == pytest.approx((0.02, 0.01))
    assert found[3] == DatasetInfo(3, "frames", (3, 4, 6), "float64", None, True, "image", ("frame", "y", "x"))
    assert (found[0].content, found[0].dims) == ("1-D data (a spectrum or a line profile)", ())


def test_datasets_has_the_pixel_size_of_our_netcdf(tmp_path):
    image = with_pixel_sizes(xr.DataArray(IMAGE, dims=("y", "x")), 0.2, 0.1)
    (found,) = stemkit.datasets(stemkit.write(image, tmp_path / "a.nc"))
    assert found.pixel_sizes == pytest.approx((0.2, 0.1))


def test_netcdf_written_by_xarray(tmp_path):
    image = with_pixel_sizes(xr.DataArray(IMAGE, dims=("y", "x"), name="scan"), 0.2, 0.1).transpose("x", "y")
    image.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    xr.testing.assert_equal(stemkit.read(tmp_path / "a.nc"), image.transpose("y", "x"))


def test_classic_netcdf(tmp_path):
    xr.DataArray(IMAGE.astype(np.float32), dims=("y", "x")).to_netcdf(tmp_path / "a.nc", engine="scipy")
    np.testing.assert_array_equal(stemkit.read(tmp_path / "a.nc").values, IMAGE)
