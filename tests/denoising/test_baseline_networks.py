"""The baselines of SFIN: networks with the same interface."""

import numpy as np
import pytest
from sklearn.base import clone

from stemkit import AtomSegNetDenoiser, FCNDenoiser, NoiseModel, PointwiseNoise, SFINDenoiser, STEMSynthesizer
from stemkit.denoising import load_weights, save_weights
from stemkit.metrics import psnr
from stemkit.synthesis import lattice, planar_cell

pytestmark = pytest.mark.slow
TRAINING = {"max_epochs": 4, "batches_per_epoch": 30, "crop_size": 32, "random_state": 0, "device": "cpu"}
BASELINES = [FCNDenoiser(n_layers=5, n_channels=8, **TRAINING), AtomSegNetDenoiser(n_channels=8, **TRAINING)]


@pytest.fixture(scope="module")
def pairs():
    noise = NoiseModel(contrast=1000.0, level=200.0, pointwise=PointwiseNoise(readout=0.4))
    crystal = lattice(planar_cell("hexagonal"), (64, 64), spacing=11.0, sigma=2.5, angle=20.0)
    return STEMSynthesizer(shape=(64, 64), noise=noise, random_state=0).record(crystal, 8)


@pytest.fixture(scope="module", params=BASELINES, ids=lambda e: type(e).__name__)
def fitted(request, pairs):
    return clone(request.param).fit(pairs["noisy"], pairs["enhance"])


def test_learns_from_pairs(fitted, pairs):
    before = np.mean([psnr(n, e) for n, e in zip(pairs["noisy"].values, pairs["enhance"].values, strict=True)])
    assert fitted.score(pairs["noisy"], pairs["enhance"]) > before + 3
    assert fitted.history_["train_loss"].iloc[-1] < fitted.history_["train_loss"].iloc[0]
    assert fitted.info_.outputs == ("enhance",)


@pytest.mark.parametrize("shape", [(33, 47), (40, 64)])
def test_any_shape(fitted, pairs, shape):
    noisy, true_image = (pairs[name][0, : shape[0], : shape[1]] for name in ("noisy", "enhance"))
    result = fitted.transform(noisy)
    assert result.shape == shape
    # the contrast of a network that is hardly trained depends on the size, but not what it shows
    after, before = (np.corrcoef(image.values.ravel(), true_image.values.ravel())[0, 1] for image in (result, noisy))
    assert after > before + 0.05


def test_weights_can_be_read_from_a_file(fitted, pairs, tmp_path):
    path = save_weights(fitted.net_, fitted.info_, tmp_path / "baseline.safetensors")
    assert load_weights(path)[1].architecture == fitted._architecture
    again = type(fitted)(weights=path, device="cpu").fit(pairs["noisy"])
    ours, theirs = fitted.transform(pairs["noisy"]), again.transform(pairs["noisy"])
    # in half precision
    np.testing.assert_allclose(theirs, ours, atol=0.01 * float(np.ptp(ours.values)))
    with pytest.raises(ValueError, match=r"architecture 'sfin', but .* are of '(fcn|atomsegnet)'"):
        SFINDenoiser(weights=path).fit(pairs["noisy"])


def test_learns_from_images_alone(fitted, pairs):
    denoiser = clone(fitted).set_params(max_epochs=1, batches_per_epoch=1).fit(pairs["noisy"][:2])
    assert denoiser.info_.outputs == ("enhance", "detect", "superresolve")
    assert {"detect", "superresolve"} <= set(denoiser.transform(pairs["noisy"]).coords)


def test_the_network_has_the_requested_size():
    denoiser = FCNDenoiser(n_layers=3, max_epochs=0, device="cpu").fit(np.zeros((40, 40)), np.ones((40, 40)))
    assert (denoiser.info_.n_blocks, denoiser.info_.n_channels) == (3, 64)
