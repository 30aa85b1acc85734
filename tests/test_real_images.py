"""Real micrographs and simulated pairs through the whole pipeline, where the data folder is there."""

from contextlib import nullcontext
from pathlib import Path

import h5py
import numpy as np
import pytest
from sklearn.pipeline import Pipeline

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser
from stemkit.metrics import psnr

DATA = Path(__file__).parents[2] / "shared" / "data"
FILES = sorted((DATA / "real").glob("*"))
PAIRS = sorted((DATA / "pairs").rglob("*.h5"))
SCENES = DATA / "scenes" / "scenes.npz"
#: What the files themselves do not say: their names do.
PIXEL_SIZES = {"10_dso_8nm": 0.0078, "Si110_5nm": 0.0098, "G-GrainBoundary-6nm": 6 / 512, "MoS2": 0.0176}

pytestmark = pytest.mark.skipif(not FILES, reason="the data folder is not there")


def pixel_size(path):
    return next((size for name, size in PIXEL_SIZES.items() if path.name.startswith(name)), None)


@pytest.mark.filterwarnings("ignore:the image has no mode:UserWarning")
@pytest.mark.filterwarnings("ignore:.*without a unit:UserWarning")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_goes_through_the_pipeline(path):
    image = stemkit.read(path, pixel_size=pixel_size(path))
    steps = [("noise", NoiseCalibrator()), ("denoise", SFINDenoiser())]
    enhanced = Pipeline(steps).fit_transform(image)
    implausible = path.name.startswith("prismatic")  # this file says that a pixel is 1 nm wide
    with pytest.warns(UserWarning, match="check the pixel size") if implausible else nullcontext():
        columns = AtomDetector().fit_transform(enhanced)
    assert np.isfinite(enhanced).all()
    assert enhanced.shape == image.shape
    # intensities stay in the image's units
    assert abs(float(enhanced.mean()) - float(image.mean())) < 0.1 * float(image.std())
    # enhanced means less noise between neighbouring pixels
    # (a simulation without noise stays as it is)
    rough, before = (float(np.abs(np.diff(values, axis=0)).mean()) for values in (enhanced, image))
    assert rough < (1.01 if implausible else 1.0) * before
    assert np.isfinite(columns[["y", "x", "amplitude"]]).all().all()


@pytest.mark.parametrize("path", PAIRS, ids=lambda p: p.name)
def test_simulated_pairs_of_other_physics_gain(path):
    with h5py.File(path) as file:
        truth, recorded = (file[f"haadf/{name}"][()].astype(float) for name in ("raw", "stem00-blbk1"))
    image = stemkit.calibrated(recorded, pixel_size=0.0102).assign_attrs(mode="haadf")
    enhanced = Pipeline([("noise", NoiseCalibrator()), ("denoise", SFINDenoiser())]).fit_transform(image)
    before, after = (psnr(_affine(i, truth), truth) for i in (recorded, enhanced.values))
    assert after > before


@pytest.mark.parametrize("name", ["perovskite_d5", "perovskite_d30", "hex2D_d5", "hex2D_d30", "dense_d5", "dense_d30"])
def test_scenes_gain(name):
    with np.load(SCENES) as scenes:
        noisy, true_image = scenes[f"{name}_noisy"], scenes[name.split("_")[0] + "_clean"].astype(float)
    enhanced = SFINDenoiser(mode="haadf").fit_transform(noisy)
    assert psnr(_affine(enhanced, true_image), true_image) > psnr(_affine(noisy, true_image), true_image) + 3


def _affine(image, truth):
    gain, offset = np.polyfit(np.ravel(image).astype(float), truth.ravel(), 1)
    return gain * image + offset
