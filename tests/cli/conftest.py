"""Images and figures of the tests of commands."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

import stemkit
from stemkit import NoiseModel, PointwiseNoise, ScanNoise, STEMSynthesizer
from stemkit.synthesis import lattice, planar_cell


@pytest.fixture(scope="session")
def scene():
    noise = NoiseModel(contrast=1000.0, level=300.0, pointwise=PointwiseNoise(readout=0.1))
    crystal = lattice(planar_cell("square"), (96, 112), spacing=14.0, sigma=3.0, angle=8.0)
    synthesizer = STEMSynthesizer(shape=(96, 112), noise=noise, pixel_size=0.01, random_state=2)
    return synthesizer.record(crystal, return_columns=True)


@pytest.fixture
def image(scene):
    return scene[0]["noisy"][0].drop_vars("arrangement")


@pytest.fixture
def tif(tmp_path, image):
    return stemkit.write(image, tmp_path / "image.tif")


@pytest.fixture
def torn(tmp_path, scene):
    """A file whose rows are displaced by 0.8 px."""
    noise = NoiseModel(contrast=1000.0, scan=ScanNoise(jitter=0.8), pointwise=PointwiseNoise(readout=0.05))
    image = noise.apply(scene[0]["enhance"][0].drop_vars("arrangement"), random_state=0)
    return stemkit.write(image, tmp_path / "torn.tif")


@pytest.fixture
def drawn_figures():
    """The files of figures are what a user sees."""


@pytest.fixture(autouse=True)
def quick_figures(request, monkeypatch):
    """Figures are made, but their files are blank: to draw one takes longer than most commands.

    One test of each kind of figure, at least, uses ``drawn_figures``.
    """
    if "drawn_figures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: Image.new("RGB", (8, 8)).save(file, "png"))
