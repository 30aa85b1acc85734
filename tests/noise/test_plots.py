from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from strategies import crystal

from stemkit import BackgroundNoise, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.plots import plot_calibration

mpl.use("agg")

RICH = NoiseModel(
    100.0, 20.0, background=BackgroundNoise(0.1, 15.0), scan=ScanNoise(0.05, 20.0, 0.4), pointwise=PointwiseNoise(0.1)
)


@pytest.fixture
def closed():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("columns", [True, False], ids=["columns", "no columns"])
def test_panels(columns):
    image = RICH.apply(20 + 100 * crystal((192, 192)) * columns, random_state=0)
    calibrator = NoiseCalibrator(mode="haadf").fit(image)
    figure = calibrator.plot()
    assert isinstance(figure, Figure)
    titles = [ax.get_title() for ax in figure.axes]
    starts = ["Pointwise: readout", "Streaks", "Background", "Displacement", "Jitter along x", "Jitter along y"]
    assert [t.startswith(s) for t, s in zip(titles, starts, strict=True)] == [True] * 6
    assert f"{calibrator.noise_model_.scan.amplitude:.3g}" in titles[1].replace("\n", " ")
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
    for i in (3, 4, 5):
        assert any("no columns" in t.get_text() for t in figure.axes[i].texts) == (not columns)
    figure.canvas.draw()


@pytest.mark.usefixtures("closed")
def test_one_image_of_several():
    images = [NoiseModel(pointwise=PointwiseNoise(r)).apply(crystal((96, 96)), random_state=0) for r in (0.05, 0.2)]
    calibrator = NoiseCalibrator(mode="haadf").fit(images)
    titles = [calibrator.plot(i).axes[0].get_title() for i in (0, 1)]
    assert titles[0] != titles[1]
    with pytest.raises(ValueError, match="not fitted"):
        NoiseCalibrator().plot()


@pytest.mark.usefixtures("closed")
def test_rows_of_a_part_are_those_of_the_image():
    image = RICH.apply(20 + 100 * crystal((900, 400)), random_state=0)
    calibrator = NoiseCalibrator(mode="haadf").fit(image)
    rows = calibrator.diagnostics_[0]["part"][0]
    assert rows.stop - rows.start < 900
    panel = calibrator.plot().axes[3]
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), np.arange(rows.start, rows.stop))
    assert f"rows {rows.start} to {rows.stop - 1} of 900" in panel.get_title().replace("\n", " ")


@pytest.mark.usefixtures("closed")
def test_a_fit_that_misses_its_points_is_noted():
    calibrator = NoiseCalibrator(mode="haadf").fit(RICH.apply(20 + 100 * crystal((192, 192)), random_state=0))
    assert calibrator.plot().axes[0].get_legend() is None
    components = calibrator.diagnostics_[0]["components"]
    calibrator.diagnostics_[0]["components"] = replace(components, variance=components.variance[::-1] * 3)
    assert "RMS distance from the fit" in calibrator.plot().axes[0].get_legend().get_title().get_text()


@pytest.mark.usefixtures("closed")
def test_titles_are_not_wider_than_their_panels():
    calibrator = NoiseCalibrator(mode="haadf").fit(RICH.apply(20 + 100 * crystal((192, 192)), random_state=0))
    scan = ScanNoise(0.00302, length=np.inf, short_amplitude=0.00499, short_length=1.43, drift=0.359, hum=0.387)
    figure = plot_calibration(replace(calibrator.noise_model_, scan=scan), calibrator.diagnostics_[0])
    figure.canvas.draw()
    assert "whole rows and 0.00499" in figure.axes[1].get_title().replace("\n", " ")
    for ax in figure.axes:
        assert ax.title.get_window_extent().width <= 1.02 * ax.get_window_extent().width


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("axis", ["x", "y"])
def test_rejected_drift_is_noted(axis):
    calibrator = NoiseCalibrator(mode="haadf").fit(RICH.apply(20 + 100 * crystal((192, 192)), random_state=0))
    diagnostics = calibrator.diagnostics_[0]
    found = diagnostics[f"displacement_{axis}"]
    fitted = found.spectrum.highest(len(found.parts.fitted))
    diagnostics[f"displacement_{axis}"] = replace(found, parts=found.parts.jitter_only(fitted))
    panels = calibrator.plot().axes
    noted = ["specimen" in panels[i].get_legend().get_title().get_text() for i in (4, 5)]
    assert noted == [axis == "x", axis == "y"]
