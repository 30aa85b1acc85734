"""The plugin in the real viewer: ``nox -s napari``, on a virtual display."""

import time
from importlib.resources import files

import numpy as np
import pytest
import xarray as xr

import stemkit
from stemkit.io.reading import READABLE
from stemkit.napari.layers import as_image, columns_layer, image_layer
from stemkit.napari.reader import reader_of

napari = pytest.importorskip("napari")
npe2 = pytest.importorskip("npe2")
widgets = pytest.importorskip("qtpy.QtWidgets")
pytestmark = pytest.mark.filterwarnings("ignore")  # of napari and Qt

SPACING, PIXEL = 12.0, 0.02
MANIFEST = str(files("stemkit.napari") / "napari.yaml")


def crystal(seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:96, 0:96]
    true_image = np.exp(2 * (np.cos(2 * np.pi * y / SPACING) + np.cos(2 * np.pi * x / SPACING)) - 4)
    image = stemkit.calibrated(100 * true_image + rng.normal(0, 4, true_image.shape), pixel_size=PIXEL)
    return image.assign_attrs(mode="haadf")


@pytest.fixture
def viewer():
    if "stemkit" not in npe2.PluginManager.instance():
        npe2.PluginManager.instance().register(npe2.PluginManifest.from_file(MANIFEST))
    shown = napari.Viewer(show=False)
    yield shown
    shown.close()


def run(viewer, command, n_layers, **layers):
    """Start a command's widget as its button does, and wait for the layers."""
    _, widget = viewer.window.add_plugin_dock_widget("stemkit", command)
    for name, value in layers.items():
        getattr(widget, name).value = value
    widget()
    for _ in range(1500):
        widgets.QApplication.processEvents()
        if len(viewer.layers) >= n_layers:
            return viewer.layers[-1]
        time.sleep(0.02)
    raise AssertionError("no layer was added")


def test_the_manifest_is_valid():
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    patterns = {pattern[1:] for pattern in manifest.contributions.readers[0].filename_patterns}
    assert patterns <= set(READABLE)


def test_a_file_is_read_with_its_pixel_size(viewer, tmp_path):
    stemkit.write(crystal(), tmp_path / "crystal.nc")
    (layer,) = viewer.open(str(tmp_path / "crystal.nc"), plugin="stemkit")
    assert layer.scale == pytest.approx([PIXEL, PIXEL])
    assert [str(unit) for unit in layer.units] == ["nanometer", "nanometer"]
    assert as_image(layer).identical(stemkit.read(tmp_path / "crystal.nc"))
    assert reader_of("text.docx") is None


def test_columns_are_measured_corrected_and_measured_again(viewer):
    viewer.add_layer(napari.layers.Layer.create(*image_layer(crystal(), "crystal")))
    found = run(viewer, "Measure columns", 2, image=viewer.layers["crystal"])
    expected = stemkit.AtomDetector().fit_transform(crystal())
    assert len(found.data) == len(expected)
    assert np.allclose(found.features["x"], expected["x"])
    # by hand: one removed, one added 1.5 px from a true position, the others moved by 0.5 px
    middle = int(np.argmin(np.abs(found.data - 48).sum(axis=1)))
    place = found.data[middle].copy()
    found.data = np.concatenate([np.delete(found.data, middle, axis=0) + 0.5, [place + np.array([1.5, 0])]])
    again = run(viewer, "Measure corrected columns", 3, columns=found, image=viewer.layers["crystal"])
    assert len(again.data) == len(expected)
    inside = ((again.data > 5) & (again.data < 90)).all(axis=1)
    nearest = np.abs(again.data[inside] - SPACING * np.rint(again.data[inside] / SPACING))
    assert nearest.max() < 0.3


def test_an_enhanced_image_is_measured_in_its_recorded_pixels(viewer):
    viewer.add_layer(napari.layers.Layer.create(*image_layer(crystal(), "crystal")))
    enhanced = run(viewer, "Enhance", 2, image=viewer.layers["crystal"])
    assert enhanced.name == "crystal enhanced"
    assert np.array_equal(as_image(enhanced).coords["recorded"], crystal())
    assert np.abs(np.diff(enhanced.data)).mean() < 0.8 * np.abs(np.diff(crystal())).mean()


def test_a_series_is_averaged(viewer):
    frames = xr.concat([crystal(seed) for seed in range(3)], "frame")
    viewer.add_layer(napari.layers.Layer.create(*image_layer(frames, "series")))
    averaged = run(viewer, "Average a series", 2, series=viewer.layers["series"])
    assert averaged.data.ndim == 2
    assert averaged.scale == pytest.approx([PIXEL, PIXEL])


@pytest.mark.parametrize(("unit", "size"), [("nm", 0.02), ("angstrom", 0.2), ("um", 2e-5)])
def test_layers_of_others_keep_their_pixel_size(viewer, unit, size):
    layer = viewer.add_image(crystal().values, scale=(size, size), units=(unit, unit))
    assert as_image(layer).stem.pixel_size == pytest.approx(PIXEL)


def test_layers_without_a_unit_are_in_pixels_and_colours_are_refused(viewer):
    assert not as_image(viewer.add_image(np.zeros((8, 9)))).stem.is_calibrated
    with pytest.raises(ValueError, match="grey levels"):
        as_image(viewer.add_image(np.zeros((8, 9, 3), dtype=np.uint8), rgb=True))


def test_columns_are_drawn_where_the_image_has_them(viewer):
    image = crystal().isel(y=slice(24, None))
    table = stemkit.AtomDetector().fit_transform(image)
    shown = viewer.add_layer(napari.layers.Layer.create(*image_layer(image, "part")))
    points = viewer.add_layer(napari.layers.Layer.create(*columns_layer(table, image, "columns")))
    at = shown.world_to_data(points.data_to_world(points.data[0]))
    assert np.allclose(at, table[["y_px", "x_px"]].to_numpy()[0], atol=1e-6)
    assert points.data_to_world(points.data[0])[0] == pytest.approx(table["y"][0])
