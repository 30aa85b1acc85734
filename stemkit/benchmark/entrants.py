"""The networks that are compared: trained alike, so that what differs is the network, or what it was taught."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stemkit.compute import resolve_device, seeded
from stemkit.denoising.general import ARCHITECTURE, RECIPE
from stemkit.denoising.sources import SynthesisSource
from stemkit.denoising.training import made_with, train
from stemkit.denoising.weights import OUTPUTS, NetworkInfo, build, load_weights, save_weights
from stemkit.networks.sfin import Interaction
from stemkit.noise.drawing import NoiseParameters
from stemkit.synthesis.noises import draw_noise
from stemkit.synthesis.recipe import Recipe

__all__ = [
    "ABLATIONS",
    "ENTRANTS",
    "RIVALS",
    "SFIN_ALIKE",
    "Entrant",
    "train_entrant",
    "without_frequency",
    "without_interaction",
]

BATCH_SIZE, CROP_SIZE = 16, 128
#: An epoch, of so many images, ends with a checkpoint.
EPOCH_IMAGES = 1024
#: A learning rate is chosen by a run on this part of the images.
TRIED_ON = 0.125
#: Noises that are drawn for a recipe of its own noise.
NOISES = 4096
SEED = 7
#: A spacing, px, for noises; its jitter alone depends on it.
MIDDLE = 12.0


@dataclass(frozen=True)
class Entrant:
    """A network and what it is taught.

    Parameters
    ----------
    name : str
        As in the tables.
    info : NetworkInfo
    recipe : Recipe
        What training draws.
    rates : tuple of float
        Learning rates; where there are several, the best one on a short run is taken.
    cut : callable, optional
        Switches a part of the network off, before it is trained.
    equal_time : bool
        Trained for the time that SFIN took, instead of on as many images.
    """

    name: str
    info: NetworkInfo
    recipe: Recipe = RECIPE
    rates: tuple[float, ...] = (1e-3, 3e-3, 6e-3)
    cut: Callable[[nn.Module], None] | None = None
    equal_time: bool = False

    @property
    def file(self) -> str:
        """The stem of its weights file."""
        return self.name.lower().replace(",", "").replace(" ", "-")

    def on_time(self) -> Entrant:
        """The same, trained for as long as SFIN."""
        return dataclasses.replace(self, name=f"{self.name}, equal time", equal_time=True)


def train_entrant(
    entrant: Entrant, folder: Path, n_images: int, *, device: str = "auto", minutes: float | None = None
) -> Path | None:
    """Train an entrant on a number of images and write its weights into a folder, if they are not there.

    Everything is written down after each epoch: the same call goes on from there.

    Parameters
    ----------
    entrant : Entrant
    folder : Path
    n_images : int
        Images of 128 px; those on which learning rates are tried come on top.
    device : str
    minutes : float, optional
        Stop after the epoch in which so much time is over.

    Returns
    -------
    Path or None
        The weights; None where the time was over before they were done.

    Raises
    ------
    ValueError
        If the folder holds weights of this name that were made otherwise.
    """
    path = folder / f"{entrant.file}.safetensors"
    if path.exists():
        made = load_weights(path)[1].training
        if made.get("images") != n_images:
            raise ValueError(f"{path} was trained on {made.get('images')} images, not on {n_images}: remove it first")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    where, spent = resolve_device(device), 0.0
    rate, tried = entrant.rates[0], dict[str, float]()
    if len(entrant.rates) > 1:
        for rate in entrant.rates:
            left = None if minutes is None else minutes - spent
            net = _run(entrant, folder, max(BATCH_SIZE, round(TRIED_ON * n_images)), rate, where, left)
            spent += _minutes(net)
            if not _done(net):
                return None
            tried[f"{rate:g}"] = min(net.history[:, "valid_loss"])
        rate = float(min(tried, key=lambda name: tried[name]))
    net = _run(entrant, folder, n_images, rate, where, None if minutes is None else minutes - spent)
    if not _done(net):
        return None
    training = made_with(net, where, SEED, {}) | {"images": n_images, "tried": tried}
    net.module_(torch.zeros(1, 1, 32, 32, device=where))  # what is cut off is forgotten once more
    return save_weights(net.module_, dataclasses.replace(entrant.info, training=training), path)


def _run(entrant: Entrant, folder: Path, n: int, rate: float, device: torch.device, minutes: float | None) -> Any:
    """One run: ``n`` images at a learning rate."""
    # a run of its own for each number of images: what was tried is not gone on with
    with seeded(SEED, device):
        module = build(entrant.info)
    if entrant.cut is not None:
        entrant.cut(module)
    n_steps = max(1, n // BATCH_SIZE)
    n_epochs = max(1, round(n_steps * BATCH_SIZE / EPOCH_IMAGES))
    return train(
        entrant.info,
        SynthesisSource(entrant.recipe, entrant.info.outputs, BATCH_SIZE, [CROP_SIZE]),
        device=device,
        seed=SEED,
        max_epochs=n_epochs,
        batches_per_epoch=n_steps // n_epochs,
        lr=rate,
        module=module,
        checkpoint=folder / f"{entrant.file}-{n}-{rate:g}.checkpoint",
        minutes=minutes,
    )


def _done(net: Any) -> bool:
    return len(net.history) >= net.max_epochs


def _minutes(net: Any) -> float:
    return float(sum(net.history[:, "dur"])) / 60 if net.history else 0.0


# --- parts that are switched off ---------------------------------------------------------------------------------


def without_frequency(network: nn.Module) -> None:
    """SFIN whose Fourier units are not heard: it sees in space alone, with as many other weights."""
    _cut(network, _forget_frequency)


def without_interaction(network: nn.Module) -> None:
    """SFIN whose spatial and frequency halves do not read each other."""
    _cut(network, _forget_each_other)


def _cut(network: nn.Module, forget: Callable[..., None]) -> None:
    """Forget before each pass what the last step of training has learnt."""
    for module in network.modules():
        if isinstance(module, Interaction):
            module.register_forward_pre_hook(forget)


@torch.no_grad()
def _forget_frequency(block: Interaction, images: object = None) -> None:
    block.convg2g.conv2.weight[:, block.channels :] = 0.0


@torch.no_grad()
def _forget_each_other(block: Interaction, images: object = None) -> None:
    block.convl2g.weight[:] = 0.0
    block.convg2l.weight[:] = 0.0


# --- who takes part ----------------------------------------------------------------------------------------------


def plain_noise() -> NoiseParameters:
    """White Gaussian noise alone, as strong at a column's half height as the calibrated kinds are there."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = draw_noise(torch.full((NOISES,), MIDDLE), generator)
    nothing, never = torch.zeros(NOISES), torch.full((NOISES,), torch.inf)
    level = (drawn.readout**2 + 0.5 * drawn.gain).clamp_min(0).sqrt()
    white = {
        "readout": level,
        "poisson": torch.zeros(NOISES, dtype=torch.bool),
        "step": torch.full((NOISES,), torch.nan),
    }
    # Tukey's lambda of this shape is nearly normal
    white |= {"shape": torch.full((NOISES,), 0.14), "streak_length": never, "jitter_length": never}
    silent = ("background", "streaks", "jitter", "jitter_y", "gain", "correlation_x")
    return dataclasses.replace(drawn, **white, **dict.fromkeys(silent, nothing))


def _info(**shape: Any) -> NetworkInfo:
    return NetworkInfo(**shape, outputs=OUTPUTS, spacing=RECIPE.spacing)


def _without(name: str, **changed: Any) -> Entrant:
    """SFIN, trained alike but for one thing, at the rate that suits it as a whole."""
    return dataclasses.replace(SFIN_ALIKE, name=name, rates=(3e-3,), **changed)


_SFIN = _info(**ARCHITECTURE)
SFIN_ALIKE = Entrant("SFIN, trained alike", _SFIN)
RIVALS = (
    Entrant("FCN", _info(architecture="fcn", width=64, n_blocks=17)),
    Entrant("AtomSegNet", _info(architecture="atomsegnet", width=64, n_blocks=0)),
)
ORDERED = tuple(name for name in RECIPE.arrangements if name not in ("random", "sparse"))
#: What the paper takes away, from the data and from the network.
ABLATIONS = (
    _without("lattices only", recipe=dataclasses.replace(RECIPE, arrangements=("lattice",))),
    _without("without random arrangements", recipe=dataclasses.replace(RECIPE, arrangements=ORDERED)),
    _without("with Gaussian noise", recipe=dataclasses.replace(RECIPE, noise=plain_noise())),
    _without("without frequency", cut=without_frequency),
    _without("without interaction", cut=without_interaction),
)
ENTRANTS = (SFIN_ALIKE, *RIVALS, *(rival.on_time() for rival in RIVALS), *ABLATIONS)
