"""Everything that has a ``device`` runs on one that is not the CPU, with the CPU's results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretended import MixedDevicesError, Pretended, pretended_device

from stemkit import AtomDetector, FCNDenoiser, SFINDenoiser, STEMSynthesizer
from stemkit.columns import fit_columns
from stemkit.compute import torch_generator
from stemkit.denoising.general import RECIPE
from stemkit.denoising.sources import SynthesisSource
from stemkit.denoising.weights import OUTPUTS
from stemkit.metrics import match_columns
from stemkit.synthesis.batches import draw_batch

TINY = {"weights": None, "n_channels": 4, "n_blocks": 1, "max_epochs": 1, "batches_per_epoch": 1, "batch_size": 2}


@pytest.fixture(scope="module")
def pairs():
    return STEMSynthesizer(shape=(96, 96), random_state=1).sample(2)


def test_mixed_devices_are_found(monkeypatch):
    with pretended_device(monkeypatch) as device:
        there, here = torch.ones(3, device=device), torch.ones(3)
        assert (there + 1).device == device
        assert (there.cpu() + here).tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(MixedDevicesError, match="aten::add"):
            there + here
        with pytest.raises(MixedDevicesError, match="generator"):
            torch.rand(3, generator=torch_generator(0, device))
        with pytest.raises(MixedDevicesError, match="generator"):
            torch.rand(3, generator=torch_generator(0), device=device)
        with pytest.raises(MixedDevicesError, match="aten::index"):
            there[torch.zeros(2, dtype=torch.long)] = here[:2]
    assert isinstance(there, Pretended)


@pytest.mark.parametrize("seed", range(6))
def test_batches_are_drawn_on_their_device(seed, monkeypatch):
    here = draw_batch(RECIPE, 6, (48, 64), torch_generator(seed))
    with pretended_device(monkeypatch) as device:
        there = draw_batch(RECIPE, 6, (48, 64), torch_generator(seed, device))
        assert there.noisy.device == there.targets.detect.device == device
        true_image, noisy = there.targets.enhance.cpu(), there.noisy.cpu()
    # the other device draws whole images at once, the CPU what is near to each column
    torch.testing.assert_close(true_image, here.targets.enhance, rtol=0, atol=1e-4)
    assert torch.isfinite(noisy).all()


def test_training_steps_are_drawn_on_their_device(monkeypatch):
    with pretended_device(monkeypatch) as device:
        batch = SynthesisSource(RECIPE, OUTPUTS, 4, [48, 64], 1.0).draw(torch_generator(1, device), 4)
        assert {value.device for value in vars(batch).values()} == {device}


@pytest.mark.slow
def test_enhancement(pairs, monkeypatch):
    noisy = pairs["noisy"].values
    here = SFINDenoiser(device="cpu", average_flips=True, tile_size=64, precision="float32").fit(noisy).transform(noisy)
    with pretended_device(monkeypatch) as device:
        there = (
            SFINDenoiser(device=str(device), average_flips=True, tile_size=64, precision="float32")
            .fit(noisy)
            .transform(noisy)
        )
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-3 * here.std())


@pytest.mark.parametrize("estimator", [SFINDenoiser, FCNDenoiser])
def test_training_on_pairs(estimator, pairs, monkeypatch):
    given = {k: v for k, v in TINY.items() if k != "n_blocks"} | {"crop_size": 32, "random_state": 0}
    with pretended_device(monkeypatch) as device:
        model = estimator(**given, device=str(device)).fit(pairs["noisy"].values, pairs["enhance"].values)
        assert np.isfinite(model.history_["train_loss"]).all()
        assert {p.device.type for p in model.net_.parameters()} == {"cpu"}


@pytest.mark.slow
def test_training_on_what_is_synthesised(pairs, monkeypatch):
    monkeypatch.setattr("stemkit.denoising.training.N_VALIDATION", 1)
    with pretended_device(monkeypatch) as device:
        model = SFINDenoiser(**TINY, crop_size=32, random_state=0, device=str(device)).fit(pairs["noisy"].values)
        assert np.isfinite(model.history_[["train_loss", "valid_loss"]]).all(axis=None)


@pytest.mark.parametrize("options", [{}, {"elliptical": True, "streaks": 0.05, "correlation_x": 0.2}])
def test_fits(options, pairs, monkeypatch):
    y, x = np.mgrid[:60, :60]
    places = np.array([[15.2, 16.1], [15.6, 24.3], [40.0, 30.7]])
    image = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * 2.5**2)) for a, b in places)
    image = image + 0.05 * np.random.default_rng(0).normal(size=image.shape)
    here = fit_columns(image, places.round(), 2.5, **options)
    with pretended_device(monkeypatch) as device:
        there = fit_columns(image, places.round(), 2.5, **options, device=device)
    np.testing.assert_allclose(there.x, here.x, rtol=0, atol=0.01 * here.x_err.max())


@pytest.mark.slow
def test_detection(monkeypatch):
    crystals = STEMSynthesizer(shape=(96, 96), arrangements=("lattice",), spacing=0.11, random_state=3)
    noisy = crystals.sample(1)["noisy"].values
    here = AtomDetector(device="cpu").fit_transform(noisy)
    with pretended_device(monkeypatch) as device:
        there = AtomDetector(device=str(device)).fit_transform(noisy)
    assert len(here) > 40
    match = match_columns(there[["y", "x"]], here[["y", "x"]], 1.0)
    assert match.f1 > 0.95
    # columns are fitted by other code on a GPU
    difference = there["x"].to_numpy()[match.found] - here["x"].to_numpy()[match.true]
    assert np.quantile(np.abs(difference) / here["x_err"].to_numpy()[match.true], 0.9) < 0.2
