"""What a CUDA device computes, compared with the CPU."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from strategies import SIGMAS

from stemkit import AtomDetector, BackgroundNoise, NoiseModel, PointwiseNoise, ScanNoise, SFINDenoiser, STEMSynthesizer
from stemkit.columns import fit_columns
from stemkit.compute import torch_generator
from stemkit.denoising.sources import SynthesisSource
from stemkit.denoising.training import TrainingSchedule, train
from stemkit.denoising.weights import OUTPUTS, NetworkInfo, load_weights
from stemkit.metrics import psnr
from stemkit.networks import FoldedSFIN
from stemkit.noise.drawing import add_noise
from stemkit.synthesis import Columns
from stemkit.synthesis.batches import draw_batch
from stemkit.synthesis.recipe import Recipe
from stemkit.synthesis.rendering import render

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def pair():
    return STEMSynthesizer(shape=(256, 256), random_state=3).sample(1)


def flat(model: NoiseModel, n_images: int, seed: int = 0, **parts: float) -> torch.Tensor:
    """Noise on images of the background's level."""
    noise = model.parameters(n_images).take(torch.arange(n_images, device=DEVICE))
    for name, value in parts.items():
        setattr(noise, name, torch.full((n_images,), value, device=DEVICE))
    drawn = add_noise(torch.zeros((n_images, 256, 256), device=DEVICE), noise, torch_generator(seed, DEVICE))
    assert drawn.device == DEVICE
    assert torch.isfinite(drawn).all()
    return drawn


def test_pointwise_noise():
    drawn = flat(NoiseModel(pointwise=PointwiseNoise(0.2, shape=0.1349, correlation_x=0.4)), 16)
    n = drawn.numel()
    widened = math.sqrt((1 + 0.4**2) / (1 - 0.4**2))
    assert abs(float((drawn / 0.2).square().mean()) - 1) < SIGMAS * math.sqrt(2 / n) * widened
    neighbors = float((drawn[..., 1:] * drawn[..., :-1]).mean() / drawn.square().mean())
    assert abs(neighbors - 0.4) < SIGMAS / math.sqrt(n)


def test_counted_electrons():
    gain, dark = 0.05, 3.0
    drawn = flat(NoiseModel(pointwise=PointwiseNoise(gain * math.sqrt(dark), gain, kind="poisson")), 16)
    variance = gain**2 * dark
    n = drawn.numel()
    assert abs(float(drawn.mean())) < SIGMAS * math.sqrt(variance / n)
    assert abs(float(drawn.square().mean()) / variance - 1) < SIGMAS * math.sqrt((2 + 1 / dark) / n)


def test_correlated_noise():
    streaks = flat(NoiseModel(scan=ScanNoise(0.1, math.inf)), 16)
    assert torch.equal(streaks, streaks[..., :1].expand_as(streaks))
    assert abs(float((streaks[..., 0] / 0.1).square().mean()) - 1) < SIGMAS * math.sqrt(2 / (16 * 256))
    short = flat(NoiseModel(), 16, short_streaks=0.05, short_streak_length=3.0)
    # independent values in a row are at least 1 in 2 sqrt(pi) lengths
    error = math.sqrt(2 * 2 * math.sqrt(math.pi) * 3.0 / short.numel())
    assert abs(float((short / 0.05).square().mean()) - 1) < SIGMAS * error
    background = flat(NoiseModel(background=BackgroundNoise(0.1, 5.0)), 16)
    error = math.sqrt(2 * 4 * math.pi * 25.0 / background.numel())
    assert abs(float((background / 0.1).square().mean()) - 1) < SIGMAS * error


@pytest.mark.parametrize("part", ["jitter", "drift", "hum"])
def test_displacements(part):
    n = 64
    noise = NoiseModel().parameters(n).take(torch.arange(n, device=DEVICE))
    for name, value in {part: 0.8, "drift_rows": 4.0, "hum_period": 7.3}.items():
        setattr(noise, name, torch.full((n,), value, device=DEVICE))
    ramp = torch.arange(64.0, device=DEVICE).expand(n, 128, 64)
    shift = (add_noise(ramp, noise, torch_generator(0, DEVICE)) - ramp)[:, :, 16:-16]
    assert shift.device == DEVICE
    expected = 0.8**2 / (2 if part == "hum" else 1)
    # at the most, values within 4 sqrt(pi) rows depend on each other
    error = math.sqrt(2 * 4 * math.sqrt(math.pi) * 4.0 / (n * 128))
    assert abs(float(shift.square().mean()) / expected - 1) < SIGMAS * error


@pytest.mark.parametrize("size", [64, 256])
def test_batches(size):
    batch = draw_batch(Recipe(spacing=(4.0, 36.0), empty=0.05), 16, (size, size), torch_generator(1, DEVICE))
    for images in (batch.noisy, *vars(batch.targets).values()):
        assert images.device == DEVICE
        assert torch.isfinite(images).all()
    assert 0.0 <= float(batch.targets.detect.min()) <= float(batch.targets.detect.max()) <= 1.0
    again = draw_batch(Recipe(spacing=(4.0, 36.0), empty=0.05), 16, (size, size), torch_generator(1, DEVICE))
    torch.testing.assert_close(again.noisy, batch.noisy, rtol=0, atol=1e-3)


def test_rendering_is_that_of_the_cpu():
    batch = draw_batch(Recipe(spacing=(5.0, 20.0)), 8, (128, 160), torch_generator(2))
    there = Columns(**{name: value.to(DEVICE) for name, value in vars(batch.columns).items()})
    image = render(there, (128, 160))
    assert image.device == DEVICE
    torch.testing.assert_close(image.cpu(), render(batch.columns, (128, 160)), rtol=0, atol=1e-4)


# --- networks ----------------------------------------------------------------------------------------------------


def moved(after: torch.nn.Module, before: torch.nn.Module) -> torch.Tensor:
    pairs = zip(after.parameters(), before.parameters(), strict=True)
    return torch.cat([(a.detach().cpu() - b.detach().cpu()).flatten() for a, b in pairs])


def test_training_from_images(pair):
    model = SFINDenoiser(
        weights=None,
        n_channels=8,
        n_blocks=1,
        max_epochs=2,
        batches_per_epoch=4,
        batch_size=4,
        crop_size=64,
        random_state=0,
        device="cuda",
    ).fit(pair["noisy"].values)
    assert len(model.history_) == 2
    assert np.isfinite(model.history_[["train_loss", "valid_loss"]]).all(axis=None)
    assert np.isfinite(model.transform(pair["noisy"].values)).all()


def test_training_resumes(tmp_path):
    info = NetworkInfo(n_channels=8, n_blocks=1, downsampling=2, outputs=OUTPUTS)

    def run(checkpoint=None, minutes=None):
        source = SynthesisSource(Recipe(spacing=(6.0, 10.0)), OUTPUTS, batch_size=4, crop_sizes=(32, 48))
        schedule = TrainingSchedule(max_epochs=2, batches_per_epoch=4, lr=2e-3, minutes=minutes)
        return train(info, source, schedule, device=DEVICE, seed=5, checkpoint=checkpoint, verbose=0)

    whole = run()
    path = tmp_path / "run.checkpoint"
    first = run(checkpoint=path, minutes=0.0)
    assert len(first.history) == 1
    resumed = run(checkpoint=path)
    assert len(resumed.history) == 2
    # sums on a GPU are not always in the same order: the same within a small part of what the second epoch changes
    change = moved(whole.module_, first.module_)
    assert float(moved(resumed.module_, whole.module_).abs().mean()) < 0.1 * float(change.abs().mean())
    assert {group["step"].device.type for group in resumed.optimizer_.state.values()} == {"cpu"}


def test_folded_network_in_single_precision():
    module, _ = load_weights("auto")
    images = torch.randn((1, 1, 128, 160), generator=torch_generator(0))
    here = FoldedSFIN(module)(images)
    there = FoldedSFIN(module, device=DEVICE)(images.to(DEVICE)).cpu()
    # convolutions on a GPU may take 10 bits of each number's fraction
    assert float((there - here).square().mean().sqrt()) < 0.01 * float(here.std())


def test_enhancement(pair):
    noisy, truth = pair["noisy"].values, pair["enhance"].values
    here, there = (SFINDenoiser(device=device).fit(noisy).transform(noisy) for device in ("cpu", "cuda"))
    # a GPU works in bfloat16, with 8 bits: rounding errors of 0.4 % in each of some twenty layers
    assert np.sqrt(np.mean((there - here) ** 2)) < 0.05 * here.std()
    assert abs(psnr(there[0], truth[0]) - psnr(here[0], truth[0])) < 0.3


def test_tiles_and_flips(pair):
    noisy = pair["noisy"].values
    there = SFINDenoiser(device="cuda", tile_size=128, average_flips=True).fit(noisy).transform(noisy)
    here = SFINDenoiser(device="cpu", tile_size=128, average_flips=True).fit(noisy).transform(noisy)
    assert np.sqrt(np.mean((there - here) ** 2)) < 0.05 * here.std()


# --- columns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"elliptical": True}, {"streaks": 0.02, "correlation_x": 0.2}])
def test_fits(options):
    y, x = np.mgrid[:200, :240]
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(12, 190, 11.3), np.arange(12, 230, 11.3), indexing="ij"), -1).reshape(-1, 2)
    places = places + rng.normal(scale=0.3, size=places.shape)
    image = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * 2.4**2)) for a, b in places)
    image = image + 0.05 * rng.normal(size=image.shape)
    given = {"variance": 0.05**2, "iterations": 60, "tolerance": 1e-3, **options}
    here, there = (fit_columns(image, places.round(), 2.4, **given, device=device) for device in ("cpu", "cuda"))
    assert not here.failed.any()
    assert not there.failed.any()
    for name in ("y", "x", "amplitude", "sigma"):
        error = getattr(here, f"{name}_err")
        assert (np.abs(getattr(there, name) - getattr(here, name)) < 0.01 * error).all()
        np.testing.assert_allclose(getattr(there, f"{name}_err"), error, rtol=1e-3)


def test_detection(pair):
    noisy = pair["noisy"].values
    here, there = (AtomDetector(device=device).fit_transform(noisy) for device in ("cpu", "cuda"))
    assert len(there) == len(here) > 0
    for axis in ("y", "x"):
        apart = np.abs(there[axis] - here[axis]) / here[f"{axis}_err"]
        # steps end where they are shorter than a twentieth of the errors
        assert np.nanmedian(apart) < 0.01
        assert np.nanmax(apart) < 0.2
