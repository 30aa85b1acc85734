"""Zarr folders, and ZSPY folders with the structure that HyperSpy writes."""

import json

import numpy as np
import pytest
import zarr

import stemkit

IMAGE = np.random.default_rng(5).integers(0, 60000, (20, 24)).astype(np.uint16)


def zspy(path, values, scales, units, zarr_format=2):
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    group = root.create_group("Experiments/scan")
    group.create_array("data", data=values, chunks=(8,) * values.ndim)
    for i, (n, scale, unit) in enumerate(zip(values.shape, scales, units, strict=True)):
        axis = {"name": "tyx"[3 - values.ndim :][i], "scale": scale, "units": unit, "size": n, "offset": 0.0}
        group.create_group(f"axis-{i}").attrs.update(axis)
    group.create_group("metadata/General").attrs["title"] = "scan"
    group.create_group("metadata/Acquisition_instrument/TEM").attrs["beam_energy"] = 300.0
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zspy(zarr_format, tmp_path):
    image = stemkit.read(zspy(tmp_path / "a.zspy", IMAGE, (0.2, 10.0), ("\u00c5", "pm"), zarr_format))
    np.testing.assert_array_equal(image.values, IMAGE)
    assert image.stem.pixel_sizes == pytest.approx((0.02, 0.01))
    assert (image.attrs["title"], image.attrs["voltage"]) == ("scan", 300.0)


def test_zspy_series(tmp_path):
    values = np.stack([IMAGE, IMAGE + 1])
    image = stemkit.read(zspy(tmp_path / "a.zspy", values, (0.5, 0.02, 0.01), ("s", "nm", "nm")))
    assert image.dims == ("frame", "y", "x")
    np.testing.assert_array_equal(image.values, values)
    np.testing.assert_array_equal(image.coords["time"].values, [0.0, 0.5])


def test_zarr_by_path(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    root.create_array("scan/raw", data=IMAGE)
    root.create_array("energies", data=np.arange(9))
    image = stemkit.read(tmp_path / "a.zarr")
    assert image.attrs["dataset"] == "scan/raw"
    np.testing.assert_array_equal(image.values, IMAGE)


@pytest.mark.parametrize("where", ["filters", "compressor"])
def test_codecs_that_could_execute_code_are_refused(where, tmp_path):
    path = zspy(tmp_path / "a.zspy", IMAGE, (0.02, 0.02), ("nm", "nm"))
    file = path / "Experiments" / "scan" / "data" / ".zarray"
    metadata = json.loads(file.read_text())
    metadata[where] = [{"id": "pickle"}] if where == "filters" else {"id": "pickle"}
    file.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=r"the codec 'pickle' .* could execute code"):
        stemkit.read(path)


def test_huge_declared_sizes(tmp_path):
    path = zspy(tmp_path / "a.zspy", IMAGE, (0.02, 0.02), ("nm", "nm"))
    file = path / "Experiments" / "scan" / "data" / ".zarray"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps({**metadata, "shape": [10**6, 10**6]}))
    with pytest.raises(ValueError, match=r"declares 2,000,000,000,000 bytes of pixels"):
        stemkit.read(path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a.zspy").write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match="its content is a ZIP archive"):
        stemkit.read(tmp_path / "a.zspy")
