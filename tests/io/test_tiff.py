import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

import stemkit

IMAGE = np.arange(120, dtype=np.uint16).reshape(10, 12)


def imagej(path, unit, resolution=(100.0, 50.0), values=IMAGE):
    tifffile.imwrite(path, values, imagej=True, resolution=resolution, metadata={"unit": unit} if unit else {})
    return path


@pytest.mark.parametrize(
    ("unit", "nm"), [("nm", 1), ("Angstrom", 0.1), (r"\u00B5m", 1e3), ("micron", 1e3), ("um", 1e3), ("pm", 1e-3)]
)
def test_imagej_units(unit, nm, tmp_path):
    image = stemkit.read(imagej(tmp_path / "a.tif", unit))
    assert image.stem.pixel_sizes == pytest.approx((0.02 * nm, 0.01 * nm))


@pytest.mark.parametrize("unit", [None, "pixel", "", "None"])
def test_uncalibrated_imagej(unit, tmp_path):
    image = stemkit.read(imagej(tmp_path / "a.tif", unit, (1.0, 1.0)))
    assert not image.coords


def test_an_unknown_unit_is_announced(tmp_path):
    with pytest.warns(UserWarning, match="'sec' is not known as a unit of length"):
        assert not stemkit.read(imagej(tmp_path / "a.tif", "sec")).coords


@pytest.mark.parametrize("unit", ["1/nm", "nm^-1", "mrad"])
def test_reciprocal_space(unit, tmp_path):
    with pytest.warns(UserWarning, match=r"a\.tif: the axes are in .* reciprocal space"):
        image = stemkit.read(imagej(tmp_path / "a.tif", unit))
    assert not image.coords
    assert stemkit.read(tmp_path / "a.tif", pixel_size=0.1).stem.pixel_size == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("unit", "resolution", "expected"),
    [
        ("INCH", 72, None),
        ("INCH", 300, None),
        ("CENTIMETER", 118, None),
        ("INCH", 2.54e9, 0.01),
        ("CENTIMETER", 1e9, 0.01),
        ("NONE", 1e9, None),
    ],
)
def test_resolution_unit_only_where_plausible(unit, resolution, expected, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, resolution=(resolution, resolution), resolutionunit=unit)
    image = stemkit.read(tmp_path / "a.tif")
    assert image.stem.is_calibrated == (expected is not None)
    if expected:
        assert image.stem.pixel_size == pytest.approx(expected)


def test_pages_are_a_stack(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for i in range(3):
            tif.write(IMAGE + i, contiguous=True)
    image = stemkit.read(tmp_path / "a.tif")
    assert image.dims == ("image", "y", "x")
    np.testing.assert_array_equal(image.values, IMAGE + np.arange(3, dtype=np.uint16)[:, None, None])


def test_pages_of_different_sizes_are_datasets(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(IMAGE, metadata=None)
        tif.write(IMAGE[:9], metadata=None)
    with pytest.warns(UserWarning, match="contains 2 images"):
        assert stemkit.read(tmp_path / "a.tif").shape == IMAGE.shape
    assert stemkit.read(tmp_path / "a.tif", dataset=1).shape == (9, 12)
    assert [d.name for d in stemkit.datasets(tmp_path / "a.tif")] == ["series 0", "series 1"]


def test_stack_of_stacks_is_refused(tmp_path):
    values = np.zeros((2, 3, 10, 12), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ValueError, match="4-D data"):
        stemkit.read(tmp_path / "a.tif")


def test_digitalmicrograph_tags(tmp_path):
    text = [(code, "s", 0, unit, True) for code, unit in ((65003, "\u00b5m".encode()), (65004, b"nm"))]
    scales = [(65009, "d", 1, 1e-5, True), (65010, "d", 1, 0.02, True)]
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, extratags=text + scales)
    assert stemkit.read(tmp_path / "a.tif").stem.pixel_sizes == pytest.approx((0.02, 0.01))


FEI = """[Beam]\nHV=300000\n[Scan]\nPixelWidth=1e-11\nPixelHeight=2e-11\nDwelltime=4e-06\n[Detectors]\nName=BF-S\n"""


@pytest.mark.parametrize("code", [34680, 34682])
def test_fei_text(code, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, extratags=[(code, "s", 0, FEI, True)])
    image = stemkit.read(tmp_path / "a.tif")
    assert image.stem.pixel_sizes == pytest.approx((0.02, 0.01))
    wanted = {"detector": "BF-S", "mode": "bf", "voltage": 300.0, "dwell_time": 4e-6}
    assert {k: image.attrs[k] for k in wanted} == wanted


def test_fei_xml(tmp_path):
    xml = (
        "<Metadata><BinaryResult><PixelSize><X unit='m'>1e-11</X><Y unit='m'>2e-11</Y></PixelSize>"
        "</BinaryResult></Metadata>"
    )
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, extratags=[(34683, "s", 0, xml, True)])
    assert stemkit.read(tmp_path / "a.tif").stem.pixel_sizes == pytest.approx((0.02, 0.01))


def test_foreign_stemkit_keys_do_no_harm(tmp_path):
    text = "ImageJ=1.53t\nunit=nm\nstemkit_attrs=[1, 2]\nstemkit_shape={}\n"
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, description=text, metadata=None, resolution=(100, 100))
    image = stemkit.read(tmp_path / "a.tif")
    assert image.shape == IMAGE.shape
    assert set(image.attrs) == {"source"}


# --- compression, and files in which strips are missing -----------------------------------------------------------


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zlib", "zstd", "lzma"])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_compressions(compression, predictor, byteorder, tmp_path):
    if predictor and compression == "packbits":
        pytest.skip("TIFF has no predictor for it")
    values = np.random.default_rng(0).integers(0, 60000, (64, 50)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression, predictor=predictor, byteorder=byteorder)
    np.testing.assert_array_equal(stemkit.read(tmp_path / "a.tif").values, values)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressions_written_by_pillow(compression, tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (64, 50)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(stemkit.read(tmp_path / "a.tif").values, values)


def test_a_missing_decompressor_is_named(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, compression="lzw")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImportError, match=r"a\.tif as TIF: .*LZW.*pip install 'stemkit\[formats\]'"):
        stemkit.read(tmp_path / "a.tif")


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_missing_strips_are_not_filled_with_zeros(tile, compression, tmp_path):
    values = np.random.default_rng(0).integers(0, 60000, (64, 64)).astype(np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, tile=tile, compression=compression, rowsperstrip=None if tile else 8)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages[0].tags
        for code in (273, 324):
            if code in tags:
                tags[code].overwrite([0, *tags[code].value[1:]])
    with pytest.raises(ValueError, match=r"1 of \d+ of its strips or tiles are missing"):
        stemkit.read(path)


def test_a_sparse_tile_is_refused(tmp_path):
    tiles = iter([np.ones((16, 16), np.uint8), None, None, np.ones((16, 16), np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", tiles, shape=(32, 32), dtype=np.uint8, tile=(16, 16))
    with pytest.raises(ValueError, match="2 of 4 of its strips or tiles are missing"):
        stemkit.read(tmp_path / "a.tif")


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_file_whose_last_pages_are_missing(bigtiff, byteorder, tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as tif:
        for i in range(3):
            tif.write(IMAGE + i, metadata=None)
    assert stemkit.read(path).shape == (3, *IMAGE.shape)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.5)])
    with pytest.raises(ValueError, match="outside the file: it is truncated or damaged"):
        stemkit.read(path)


def test_pages_in_a_loop(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, metadata=None)
    content = bytearray(path.read_bytes())
    start = int.from_bytes(content[4:8], "little")
    link = start + 2 + 12 * int.from_bytes(content[start : start + 2], "little")
    content[link : link + 4] = content[4:8]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="its pages form a loop"):
        stemkit.read(path)


def test_a_small_file_can_not_be_a_large_image(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((30, 30), np.uint8), compression="zlib", rowsperstrip=30)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages[0].tags
        for code in (256, 257, 278):
            tags[code].overwrite(30000)
    with pytest.raises(ValueError, match="declares 900,000,000 bytes of pixels, but the file contains"):
        stemkit.read(path)


# --- what the numbers mean ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_the_largest_number(dtype, tmp_path):
    values = IMAGE.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", np.iinfo(dtype).max - values, photometric="miniswhite")
    image = stemkit.read(tmp_path / "a.tif")
    assert image.dtype == dtype
    np.testing.assert_array_equal(image.values, values)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_one_bit(photometric, tmp_path):
    values = IMAGE % 3 == 0
    tifffile.imwrite(tmp_path / "a.tif", values ^ (photometric == "miniswhite"), photometric=photometric)
    Image.fromarray(values).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        image = stemkit.read(tmp_path / name)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image.values, values)


def test_a_palette_of_greys_gives_grey_values(tmp_path):
    indices = (IMAGE % 7).astype(np.uint8)
    grays = np.linspace(250, 10, 256).astype(np.uint8)
    picture = Image.fromarray(indices, mode=None)
    picture.putpalette(np.repeat(grays, 3).tolist())
    for name in ("a.tif", "a.png"):
        picture.save(tmp_path / name)
        np.testing.assert_array_equal(stemkit.read(tmp_path / name).values, grays[indices])


def test_a_palette_of_colours_is_refused(tmp_path):
    colors = np.arange(768, dtype=np.uint16).reshape(3, 256) * 85
    tifffile.imwrite(tmp_path / "a.tif", (IMAGE % 256).astype(np.uint8), photometric="palette", colormap=colors)
    with pytest.raises(ValueError, match="coloured picture"):
        stemkit.read(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("suffix", ["tif", "npy", "npz"])
def test_colours_of_any_type_are_no_stack(dtype, suffix, tmp_path):
    values = np.random.default_rng(0).random((40, 50, 3)) * 250
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, values.astype(dtype), photometric="rgb")
    elif suffix == "npy":
        np.save(path, values.astype(dtype))
    else:
        np.savez(path, a=values.astype(dtype))
    with pytest.raises(ValueError, match="coloured picture"):
        stemkit.read(path)


def test_a_rotated_copy_of_our_file_keeps_its_own_shape(tmp_path):
    """Another program has rotated the pixels and kept the description."""
    path = stemkit.write(IMAGE, tmp_path / "a.tif")
    with tifffile.TiffFile(path) as tif:
        text = tif.pages[0].description
    tifffile.imwrite(tmp_path / "b.tif", IMAGE.T, description=text, metadata=None)
    np.testing.assert_array_equal(stemkit.read(tmp_path / "b.tif").values, IMAGE.T)


# --- OME ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "nm"), [(None, 1e3), ("µm", 1e3), ("nm", 1.0), ("pm", 1e-3), ("fm", 1e-6), ("Å", 0.1), ("mm", 1e6)]
)
def test_ome_units(unit, nm, tmp_path):
    metadata = {"axes": "YX", "PhysicalSizeX": 0.01 / nm, "PhysicalSizeY": 0.02 / nm}
    if unit is not None:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, IMAGE, metadata=metadata, resolution=(1e6, 1e6), resolutionunit="CENTIMETER")
    image = stemkit.read(path)
    assert image.stem.pixel_sizes == pytest.approx((0.02, 0.01))
    np.testing.assert_array_equal(image.values, IMAGE)


def test_a_unit_of_ome_that_is_no_length_is_announced(tmp_path):
    metadata = {"axes": "YX", "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}
    metadata |= {"PhysicalSizeXUnit": "reference frame", "PhysicalSizeYUnit": "reference frame"}
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, metadata=metadata)
    with pytest.warns(UserWarning, match="'reference frame' is not known as a unit of length"):
        assert not stemkit.read(tmp_path / "a.ome.tif").coords


def test_entities_are_not_expanded(tmp_path):
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    xml = f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY e0 "x">{entities}]><OME>&e9;</OME>'
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, description=xml, metadata=None)
    assert stemkit.read(tmp_path / "a.tif").shape == IMAGE.shape
