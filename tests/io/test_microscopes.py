import h5py
import numpy as np
import pytest
import rsciio.emd
import rsciio.hspy

import stemkit
from stemkit.io.attributes import mode_of

IMAGE = np.arange(35, dtype=np.uint16).reshape(5, 7)
FRAMES = np.stack([IMAGE, IMAGE + 100, IMAGE + 200])


def hspy(path, values, axes, **metadata):
    signal = {
        "data": values,
        "axes": [{"offset": 0.0, "size": s, "navigate": False, **a} for s, a in zip(values.shape, axes, strict=True)],
        "metadata": {"General": {"title": ""}, "Signal": {"signal_type": ""}, **metadata},
        "original_metadata": {},
        "learning_results": {},
        "attributes": {},
        "models": {},
        "package_info": {},
        "tmp_parameters": {},
    }
    signal["attributes"]["_lazy"] = False
    rsciio.hspy.file_writer(path, signal, show_progressbar=False)
    return path


@pytest.mark.parametrize(
    ("detector", "mode"),
    [
        *[(name, "haadf") for name in ("HAADF", "haadf", "MAADF", "ADF", "LAADF-S", "DF4", "iDPC", "DCFI(HAADF)")],
        *[(name, "bf") for name in ("BF", "ABF", "BF-S", "JEOL ABF 2")],
        *[(name, None) for name in ("DPC", "dDPC", "A-C", "SE", "", None, "BF and HAADF", "buff")],
    ],
)
def test_mode_of_a_detector(detector, mode):
    assert mode_of(detector) == mode


# --- EMD ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "names", "sizes"),
    [
        (IMAGE, ("Y", "X"), (0.02, 0.01)),
        (IMAGE.T, ("x", "y"), (0.01, 0.02)),
        (FRAMES, ("time", "Y", "X"), (1.0, 0.02, 0.01)),
        (FRAMES.T, ("x", "y", "time"), (0.01, 0.02, 1.0)),
        (np.moveaxis(FRAMES, 0, -1), ("y", "x", "time"), (0.02, 0.01, 1.0)),
    ],
)
def test_ncem_has_scan_lines_along_x(stored, names, sizes, tmp_path, make):
    image = stemkit.read(make.ncem(tmp_path / "a.emd", stored, names, "[n_m]", sizes))
    np.testing.assert_array_equal(image.values, IMAGE if stored.ndim == 2 else FRAMES)
    assert image.stem.pixel_sizes == pytest.approx((0.02, 0.01))
    assert image.attrs["voltage"] == pytest.approx(300.0)
    assert image.attrs["dwell_time"] == pytest.approx(2e-6)


def test_ncem_written_by_rosettasciio(tmp_path):
    axes = [
        {"name": name, "size": size, "scale": scale, "offset": 0.0, "units": "nm", "navigate": False}
        for name, size, scale in (("y", 5, 0.02), ("x", 7, 0.01))
    ]
    metadata = {"General": {"title": "a"}, "Signal": {"signal_type": ""}}
    signal = {"data": IMAGE, "axes": axes, "metadata": metadata, "original_metadata": {}}
    rsciio.emd.file_writer(tmp_path / "a.emd", signal)
    image = stemkit.read(tmp_path / "a.emd")
    np.testing.assert_array_equal(image.values, IMAGE)
    assert image.stem.pixel_sizes == pytest.approx((0.02, 0.01))


def test_velox(tmp_path, make):
    path = make.velox(tmp_path / "a.emd", {"HAADF": IMAGE[..., None], "BF": np.moveaxis(FRAMES, 0, -1)})
    with pytest.warns(UserWarning, match=r"0 'HAADF' \(5 x 7\) is read.*1 'BF' \(3 x 5 x 7\)"):
        haadf = stemkit.read(path)
    np.testing.assert_array_equal(haadf.values, IMAGE)
    assert haadf.stem.pixel_sizes == pytest.approx((0.02, 0.01))
    wanted = {"detector": "HAADF", "mode": "haadf", "voltage": 200.0, "dwell_time": 5e-7, "source": "a.emd"}
    assert {k: haadf.attrs[k] for k in wanted} == wanted
    bright_field = stemkit.read(path, dataset="BF")
    np.testing.assert_array_equal(bright_field.values, FRAMES)
    assert bright_field.attrs["mode"] == "bf"


def test_two_datasets_of_one_name(tmp_path):
    with h5py.File(tmp_path / "a.hspy", "w") as file:
        for name in ("a", "b"):
            hspy(tmp_path / "one.hspy", IMAGE, [{"scale": 1.0}] * 2, General={"title": "same"})
            with h5py.File(tmp_path / "one.hspy") as one:
                one.copy("Experiments/same", file.require_group("Experiments"), name)
                file.attrs.update(one.attrs)
    with pytest.raises(ValueError, match="2 datasets named 'same': pass the index, 0 or 1"):
        stemkit.read(tmp_path / "a.hspy", dataset="same")


# --- HSPY --------------------------------------------------------------------------------------------------------


def test_hspy_units_and_metadata(tmp_path):
    axes = [{"scale": 0.2, "units": "\u00c5"}, {"scale": 10.0, "units": "pm"}]
    instrument = {"TEM": {"beam_energy": 80.0, "dwell_time": 3e-6}}
    image = stemkit.read(
        hspy(tmp_path / "a.hspy", IMAGE, axes, Acquisition_instrument=instrument, General={"title": "a/b"})
    )
    assert image.stem.pixel_sizes == pytest.approx((0.02, 0.01))
    assert image.attrs["voltage"] == 80.0
    assert image.attrs["dwell_time"] == 3e-6
    assert image.attrs["title"] == image.attrs["dataset"] == "a/b"
    assert "mode" not in image.attrs


@pytest.mark.parametrize("units", [None, "", "pixel", "<undefined>"])
def test_uncalibrated_stays_uncalibrated(units, tmp_path):
    image = stemkit.read(hspy(tmp_path / "a.hspy", IMAGE, [{"scale": 1.0, "units": units}] * 2))
    assert not image.coords


@pytest.mark.parametrize(("units", "text"), [(("s", "s"), "'s' is not known"), (("nm", None), "only one of the two")])
def test_a_calibration_that_is_not_used_is_announced(units, text, tmp_path):
    path = hspy(tmp_path / "a.hspy", IMAGE, [{"scale": 1.0, "units": unit} for unit in units])
    with pytest.warns(UserWarning, match=text):
        assert not stemkit.read(path).coords


def test_a_scale_without_a_unit_is_announced(tmp_path):
    path = hspy(tmp_path / "a.hspy", IMAGE, [{"scale": 0.0093}] * 2)
    with pytest.warns(UserWarning, match=r"0\.0093 without a unit, taken as nm"):
        assert stemkit.read(path).stem.pixel_size == pytest.approx(0.0093)
    assert stemkit.read(path, pixel_size=0.01).stem.pixel_size == pytest.approx(0.01)


def test_a_diffraction_pattern_has_no_pixel_size(tmp_path):
    path = hspy(tmp_path / "a.hspy", IMAGE, [{"scale": 0.1, "units": "1/nm"}] * 2)
    with pytest.warns(UserWarning, match="reciprocal space"):
        assert not stemkit.read(path).coords


def test_backward_axes_have_positive_pixels(tmp_path):
    path = hspy(tmp_path / "a.hspy", IMAGE, [{"scale": -0.02, "units": "nm"}, {"scale": 0.01, "units": "nm"}])
    assert stemkit.read(path).stem.pixel_sizes == pytest.approx((0.02, 0.01))


@pytest.mark.parametrize(
    ("values", "axes", "kind", "what"),
    [
        (FRAMES, [{"scale": 1.0}, {"scale": 1.0}, {"scale": 1.0, "units": "eV"}], "", "a spectrum image"),
        (FRAMES, [{"scale": 1.0}] * 3, "EELS", "a spectrum image"),
        (FRAMES, [{"scale": 1.0, "navigate": n} for n in (True, True, False)], "", "a spectrum image"),
        (IMAGE, [{"scale": 1.0}, {"scale": 1.0, "units": "keV"}], "EDS_TEM", "spectra"),
        (np.zeros((2, 2, 3, 3)), [{"scale": 1.0}] * 4, "", "4D-STEM"),
        (IMAGE * 1j, [{"scale": 1.0}] * 2, "", "complex"),
    ],
)
def test_signals_that_are_no_image(values, axes, kind, what, tmp_path):
    path = hspy(tmp_path / "a.hspy", values, axes, Signal={"signal_type": kind})
    with pytest.raises(ValueError, match=f"it contains .*{what}"):
        stemkit.read(path)
    assert not stemkit.datasets(path)[0].is_image


# --- MRC, SER ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [IMAGE, FRAMES, IMAGE.astype(np.float32)])
def test_mrc(values, tmp_path, make):
    image = stemkit.read(make.mrc(tmp_path / "a.mrc", values, (1.0, 0.7)))
    assert image.dtype == values.dtype
    np.testing.assert_array_equal(image.values, values)
    assert image.stem.pixel_sizes == pytest.approx((0.02, 0.01))


def test_mrc_without_a_cell_is_uncalibrated(tmp_path, make):
    assert not stemkit.read(make.mrc(tmp_path / "a.mrc", IMAGE, None)).coords


def test_ser(tmp_path, make):
    image = stemkit.read(make.ser(tmp_path / "a.ser", IMAGE, 1e-11))
    np.testing.assert_array_equal(image.values, IMAGE)
    assert image.stem.pixel_size == pytest.approx(0.01)
