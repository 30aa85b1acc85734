"""Contents of Velox files other than images: spectra, maps and computed images."""

import json

import h5py
import numpy as np
import pytest

import stemkit

IMAGE = np.arange(35, dtype=np.uint16).reshape(5, 7)


@pytest.fixture
def spectrum_image(tmp_path, make):
    """A map of an element before the image of the detector, and an EDS stream."""
    path = make.velox(tmp_path / "a.emd", {"Fe": IMAGE[..., None] * 2, "HAADF": IMAGE[..., None]})
    with h5py.File(path, "a") as file:
        del file["Operations/StemInputOperation/0"]
        group = file[f"Data/Image/{0:032x}"]
        metadata = json.loads(group["Metadata"][:, 0].tobytes().rstrip(b"\0"))
        metadata["BinaryResult"] |= {"Detector": "SuperX", "DetectorIndex": ""}
        metadata["Detectors"] = {"Detector-0": {"DetectorName": "SuperX1", "DetectorType": "AnalyticalDetector"}}
        text = json.dumps(metadata).encode().ljust(2000, b"\0")
        group["Metadata"][:, 0] = np.frombuffer(text, np.uint8)
        file["Data/SpectrumStream/0/Data"] = np.full((999, 1), 65535, np.uint16)
        shown = {"display": {"id": "x", "label": "Fe"}, "dataPath": group.name}
        file["Presentation/Displays/ImageDisplay/0"] = [json.dumps(shown).encode()]
    return path


def test_the_image_of_a_detector_comes_before_a_map(spectrum_image):
    with pytest.warns(UserWarning, match=r"1 'HAADF' \(5 x 7\) is read.*0 'Fe' \(5 x 7\)"):
        image = stemkit.read(spectrum_image)
    np.testing.assert_array_equal(image.values, IMAGE)
    assert image.attrs["detector"] == "HAADF"


def test_what_else_is_in_the_file_is_listed(spectrum_image):
    found = stemkit.datasets(spectrum_image)
    assert [(d.name, d.is_image, d.content) for d in found] == [
        ("Fe", True, "map of a spectrum image"),
        ("HAADF", True, "image"),
        ("", False, "an EDS spectrum stream"),
    ]
    np.testing.assert_array_equal(stemkit.read(spectrum_image, dataset="Fe").values, IMAGE * 2)


def test_computed_images_come_after_those_they_were_computed_from(tmp_path, make):
    path = make.velox(tmp_path / "a.emd", {"DF4": IMAGE[..., None], "DF4-A": IMAGE[..., None] + 1})
    with h5py.File(path, "a") as file:
        del file["Operations/StemInputOperation/0"]
        made = {"dataPath": f"/Data/Image/{0:032x}", "integrationMode": "true", "enableFilter": "true"}
        file["Operations/SurfaceReconstructionOperation/0"] = [json.dumps(made).encode()]
    with pytest.warns(UserWarning, match="1 'DF4-A' .* is read"):
        assert stemkit.read(path).attrs["detector"] == "DF4-A"
    image = stemkit.read(path, dataset="Filtered iDPC")
    assert image.attrs["mode"] == "haadf"
    assert stemkit.datasets(path)[0].content == "computed image"


def test_a_unit_that_is_no_length_is_announced(tmp_path, make):
    path = make.velox(tmp_path / "a.emd", {"HAADF": IMAGE[..., None]})
    with h5py.File(path, "a") as file:
        group = file[f"Data/Image/{0:032x}"]
        text = group["Metadata"][:, 0].tobytes().replace(b'"PixelUnitX": "m"', b'"PixelUnitX": "1/m"')
        group["Metadata"][:, 0] = np.frombuffer(text[:2000], np.uint8)
    with pytest.warns(UserWarning, match="reciprocal space"):
        assert not stemkit.read(path).coords
