"""Every real micrograph through the whole pipeline, where the data folder is there."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "real"
FILES = sorted(FOLDER.glob("*")) if FOLDER.is_dir() else []
#: What the files themselves do not say: their names do.
PIXEL_SIZES = {"10_dso_8nm": 0.0078, "Si110_5nm": 0.0098, "G-GrainBoundary-6nm": 6 / 512, "MoS2": 0.0176}

pytestmark = pytest.mark.skipif(not FILES, reason="the folder with real micrographs is not there")


def pixel_size(path):
    return next((size for name, size in PIXEL_SIZES.items() if path.name.startswith(name)), None)


@pytest.mark.filterwarnings("ignore:the image does not say its mode:UserWarning")
@pytest.mark.filterwarnings("ignore:.*without a unit:UserWarning")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_goes_through_the_pipeline(path):
    image = stemkit.read(path, pixel_size=pixel_size(path))
    steps = [("noise", NoiseCalibrator()), ("denoise", SFINDenoiser())]
    enhanced = Pipeline(steps).fit_transform(image)
    columns = AtomDetector().fit_transform(enhanced)
    assert np.isfinite(enhanced).all()
    assert enhanced.shape == image.shape
    # intensities stay in the image's units
    assert abs(float(enhanced.mean()) - float(image.mean())) < 0.1 * float(image.std())
    # enhanced means less noise between neighbouring pixels
    assert float(np.abs(np.diff(enhanced, axis=0)).mean()) < float(np.abs(np.diff(image, axis=0)).mean())
    assert np.isfinite(columns[["y", "x", "amplitude"]]).all().all()
