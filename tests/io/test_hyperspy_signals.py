"""Conversion from and to signals of HyperSpy."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, WienerDenoiser
from stemkit.io import from_hyperspy, to_hyperspy


class Signal:
    """What HyperSpy's signals have that a conversion needs; NumPy converts them without their axes."""

    def __init__(self, values, *, scale=1.0, units="<undefined>", metadata=None, signal_dimension=2):
        self.data = np.asarray(values)
        self.ndim = self.data.ndim
        axes = [SimpleNamespace(name=n, scale=scale, units=units) for n in "xy"]
        self.axes_manager = SimpleNamespace(
            signal_dimension=signal_dimension,
            navigation_dimension=self.data.ndim - signal_dimension,
            signal_axes=axes,
        )
        self.metadata = SimpleNamespace(as_dictionary=lambda: metadata or {})

    def __array__(self, dtype=None, copy=None):
        return self.data


@pytest.mark.parametrize(("scale", "units"), [(20.0, "pm"), (0.2, "Å"), (0.02, "nm"), (2e-5, "µm"), (-0.02, "nm")])
def test_pixel_size_in_any_unit(scale, units):
    image = from_hyperspy(Signal(np.arange(12.0).reshape(3, 4), scale=scale, units=units))
    assert image.dims == ("y", "x")
    assert image.stem.pixel_size == pytest.approx(0.02)


def test_a_stack_and_its_metadata():
    metadata = {
        "General": {"title": "HAADF"},
        "Acquisition_instrument": {"TEM": {"beam_energy": 200, "dwell_time": 1e-6}},
    }
    image = from_hyperspy(Signal(np.zeros((2, 3, 4)), scale=0.1, units="nm", metadata=metadata))
    assert image.dims == ("image", "y", "x")
    assert (image.stem.mode, image.attrs["voltage"], image.attrs["dwell_time"]) == ("haadf", 200.0, 1e-6)


def test_an_uncalibrated_signal_has_no_pixel_size_and_a_dropped_one_is_said():
    assert not from_hyperspy(Signal(np.zeros((3, 4)))).stem.is_calibrated
    with pytest.warns(UserWarning, match=r"scale of 0\.5 .* units '1/nm'.* pixel size is left out"):
        image = from_hyperspy(Signal(np.zeros((3, 4)), scale=0.5, units="1/nm"))
    assert not image.stem.is_calibrated


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="two signal dimensions and at most one navigation dimension, but has 1 and 2"):
        from_hyperspy(Signal(np.zeros((3, 4, 5)), signal_dimension=1))
    with pytest.raises(TypeError, match="must be a HyperSpy signal, but is ndarray"):
        from_hyperspy(np.zeros((3, 4)))


@pytest.mark.parametrize("estimator", [NoiseCalibrator(), WienerDenoiser(), AtomDetector()])
def test_estimators_refuse_signals_and_name_the_conversion(estimator):
    signal = Signal(np.random.default_rng(0).normal(size=(64, 64)), scale=0.02, units="nm")
    with pytest.raises(TypeError, match=r"HyperSpy signal.*from_hyperspy\(signal\)"):
        estimator.fit(signal)
    with pytest.raises(TypeError, match=r"HyperSpy signal.*from_hyperspy\(signal\)"):
        estimator.fit([signal, signal])


def test_without_hyperspy(monkeypatch):
    monkeypatch.setitem(sys.modules, "hyperspy.api", None)
    with pytest.raises(ImportError, match="pip install hyperspy"):
        to_hyperspy(stemkit.calibrated(np.zeros((3, 4)), pixel_size=0.1))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_there_and_back(shape):
    pytest.importorskip("hyperspy.api")
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    image = stemkit.calibrated(values, pixel_size=0.02).assign_attrs(mode="bf", voltage=300.0, title="part")
    signal = to_hyperspy(image)
    assert signal.axes_manager[-1].units == "nm"
    assert signal.metadata.Acquisition_instrument.TEM.beam_energy == 300
    back = from_hyperspy(signal)
    np.testing.assert_array_equal(back, image)
    assert back.stem.pixel_size == pytest.approx(0.02)
    assert back.attrs == image.attrs


def test_the_frames_of_a_series_stay_frames():
    pytest.importorskip("hyperspy.api")
    frames = xr.DataArray(np.arange(24.0).reshape(2, 3, 4), dims=("frame", "y", "x"))
    signal = to_hyperspy(stemkit.calibrated(frames, pixel_size=0.02))
    assert (signal.axes_manager.navigation_dimension, signal.axes_manager.signal_dimension) == (1, 2)
    back = from_hyperspy(signal)
    assert back.dims == ("frame", "y", "x")
    np.testing.assert_array_equal(back, frames)
    named = Signal(np.zeros((2, 3, 4)), scale=0.1, units="nm")
    named.axes_manager.navigation_axes = [SimpleNamespace(name="frame")]
    assert from_hyperspy(named).dims == ("frame", "y", "x")
    named.axes_manager.navigation_axes = [SimpleNamespace(name="time")]
    assert from_hyperspy(named).dims == ("image", "y", "x")
