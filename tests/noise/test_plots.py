from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from strategies import SIGMAS, crystal, modes, seeds

from stemkit import BackgroundNoise, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.filter_residuals import residual_curve_model

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
    starts = ["Figure 3: scan", "Figure 3: pointwise", "Pointwise: readout", "Displacement"]
    starts += ["Streaks", "Background", "Jitter along x", "Jitter along y"]
    assert [t.startswith(s) for t, s in zip(titles, starts, strict=True)] == [True] * 8
    assert f"{calibrator.noise_model_.scan.amplitude:.3g}" in titles[4]
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
    for i in (3, 6, 7):
        assert any("no columns" in t.get_text() for t in figure.axes[i].texts) == (not columns)
    figure.canvas.draw()


@pytest.mark.usefixtures("closed")
def test_one_image_of_several():
    images = [NoiseModel(pointwise=PointwiseNoise(r)).apply(crystal((96, 96)), random_state=0) for r in (0.05, 0.2)]
    calibrator = NoiseCalibrator(mode="haadf").fit(images)
    titles = [calibrator.plot(i).axes[2].get_title() for i in (0, 1)]
    assert titles[0] != titles[1]
    with pytest.raises(ValueError, match="not fitted"):
        NoiseCalibrator().plot()


@settings(max_examples=8)
@given(st.floats(0.05, 0.3), st.floats(0.0, 0.3), modes, seeds)
def test_figure_3_alone_tells_pointwise_noise_of_a_flat_image(readout, shape, mode, seed):
    known = NoiseModel(50.0, 7.0, mode, pointwise=PointwiseNoise(readout, shape=shape))
    image = known.apply(np.full((192, 192), 7.0), random_state=seed)
    found = residual_curve_model(image, mode=mode, contrast=50.0, level=7.0, sigma=2.0)
    assert (found.contrast, found.level, found.mode) == (50.0, 7.0, mode)
    assert found.background.amplitude == found.pointwise.correlation_x == 0
    assert found.scan.length == 2.0
    # a blur of 2 px takes a part of each pixel, and some of its shape
    assert found.pointwise.readout == pytest.approx(readout, rel=0.05 + SIGMAS * np.sqrt(2 / 192**2))
    assert found.pointwise.shape == pytest.approx(shape, abs=0.15)
    assert found.scan.jitter >= 0


def test_figure_3_alone_takes_a_crystal_for_noise():
    clean = crystal((128, 128))
    model = residual_curve_model(clean, mode="haadf", contrast=1.0, level=0.0, sigma=2.0)
    # what calibration from fitted columns and registered rows is for
    assert model.scan.amplitude + model.scan.jitter > 0.02
