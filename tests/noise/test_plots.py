from __future__ import annotations

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from strategies import crystal

from stemkit import BackgroundNoise, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise

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
