import numpy as np
import pytest
import tifffile

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
