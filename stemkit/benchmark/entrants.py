"""The networks that are compared: trained alike, so that what differs is the network, or what it was taught."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
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
    "train_entrants",
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
EQUAL_TIME = ", equal time"
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
        :func:`train_entrants` gives it as many images as take the time that SFIN took, instead of as many as SFIN has.
    """

    name: str
    info: NetworkInfo
    recipe: Recipe = RECIPE
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    cut: Callable[[nn.Module], None] | None = None
    equal_time: bool = False

    @property
    def file(self) -> str:
        """The stem of its weights file."""
        return self.name.lower().replace(",", "").replace(" ", "-")

    def on_time(self) -> Entrant:
        """The same, trained for as long as SFIN."""
        return dataclasses.replace(self, name=f"{self.name}{EQUAL_TIME}", equal_time=True)


def train_entrant(
    entrant: Entrant,
    folder: Path,
    n_images: int,
    *,
    seed: int = SEED,
    device: str = "auto",
    minutes: float | None = None,
) -> Path | None:
    """Train an entrant on a number of images and write its weights into a folder, if they are not there.

    Everything is written down after each epoch: the same call goes on from there.

    Parameters
    ----------
    entrant : Entrant
    folder : Path
    n_images : int
        Images of 128 px, in whole batches; those on which learning rates are tried come on top.
    seed : int
        Of the first weights and of all images.
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
        If there are fewer images than in a batch, or the folder holds weights of this name that were made otherwise.
    """
    if n_images < BATCH_SIZE:
        raise ValueError(f"n_images must be at least {BATCH_SIZE}, a batch, but is {n_images}")
    path = folder / f"{entrant.file}.safetensors"
    asked = {"images": n_images, "taught": _taught(entrant, seed), "rates": list(entrant.rates)}
    if path.exists():
        made = load_weights(path)[1].training
        changed = [name for name, value in asked.items() if made.get(name) != value]
        if changed:
            was, now = ({name: given.get(name) for name in changed} for given in (made, asked))
            raise ValueError(f"{path} was made with {was}, but {now} are asked for: remove it to train it again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    where, start = resolve_device(device), time.monotonic()

    def run(n: int, rate: float) -> Any:
        """A finished run, or None where the time is over."""
        left = None if minutes is None else minutes - (time.monotonic() - start) / 60
        if left is not None and left <= 0:
            return None
        net = _run(entrant, folder, n, rate, seed, where, left)
        return net if len(net.history) == net.max_epochs else None

    rate, tried = entrant.rates[0], dict[float, float]()
    if len(entrant.rates) > 1:
        for one in entrant.rates:
            net = run(max(BATCH_SIZE, round(TRIED_ON * n_images)), one)
            if net is None:
                return None
            tried[one] = min(net.history[:, "valid_loss"])
        rate = min(tried, key=lambda one: tried[one])
    net = run(n_images, rate)
    if net is None:
        return None
    net.module_(torch.zeros(1, 1, 32, 32, device=where))  # what is cut off is forgotten once more
    training = made_with(net, where, seed, {}) | asked
    durations = net.history[:, "dur"]
    # the fastest epoch says what the network takes, whatever else the machine had to do meanwhile
    pace = min(durations) * len(durations) / n_images
    training |= {
        "tried": {f"{one:g}": loss for one, loss in tried.items()},
        "seconds": sum(durations),
        "seconds_per_image": pace,
    }
    return save_weights(net.module_, dataclasses.replace(entrant.info, training=training), path)


def train_entrants(
    folder: Path,
    n_images: int,
    *,
    entrants: Sequence[Entrant] | None = None,
    seed: int = SEED,
    device: str = "auto",
    minutes: float | None = None,
) -> Iterator[tuple[str, Path | None]]:
    """Train who takes part, one after the other, each on so many images; rivals again for the time that SFIN took.

    A learning rate is chosen once for a network: SFIN without a part, and a rival on fewer images, take the same.

    Parameters
    ----------
    folder : Path
    n_images : int
    entrants : sequence of Entrant, optional
        SFIN first, and a rival before the same on equal time; all where nothing is said.
    seed, device, minutes
        As in :func:`train_entrant`.

    Yields
    ------
    name, path
        None, and then nothing more, where the time was over.
    """
    start, made = time.monotonic(), dict[str, dict[str, Any]]()
    for entrant in ENTRANTS if entrants is None else entrants:
        left = None if minutes is None else minutes - (time.monotonic() - start) / 60
        like = SFIN_ALIKE.name if entrant in ABLATIONS else entrant.name.removesuffix(EQUAL_TIME)
        n = n_images
        if entrant.equal_time:
            ours, theirs = (made[name]["seconds_per_image"] for name in (SFIN_ALIKE.name, like))
            n = max(BATCH_SIZE, round(n_images * ours / theirs))
        if like in made:
            entrant = dataclasses.replace(entrant, rates=(made[like]["lr"],))
        path = train_entrant(entrant, folder, n, seed=seed, device=device, minutes=left)
        yield entrant.name, path
        if path is None:
            return
        made[entrant.name] = load_weights(path)[1].training


def _source(entrant: Entrant) -> SynthesisSource:
    return SynthesisSource(entrant.recipe, entrant.info.outputs, BATCH_SIZE, [CROP_SIZE])


def _taught(entrant: Entrant, seed: int) -> str:
    """A text that differs where what is drawn, or the network that learns it, differs."""
    described = f"{_source(entrant).described} {entrant.info} {entrant.cut and entrant.cut.__name__} {seed}"
    return hashlib.sha256(described.encode()).hexdigest()


def _run(
    entrant: Entrant, folder: Path, n: int, rate: float, seed: int, device: torch.device, minutes: float | None
) -> Any:
    """One run: ``n`` images at a learning rate, with a checkpoint of its own."""
    with seeded(seed, device):
        module = build(entrant.info)
    if entrant.cut is not None:
        entrant.cut(module)
    n_epochs = max(1, round(n / EPOCH_IMAGES))
    return train(
        entrant.info,
        _source(entrant),
        device=device,
        seed=seed,
        max_epochs=n_epochs,
        batches_per_epoch=max(1, round(n / BATCH_SIZE / n_epochs)),
        lr=rate,
        module=module,
        checkpoint=folder / f"{entrant.file}-{n}-{rate:g}-{seed}.checkpoint",
        minutes=minutes,
    )


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
    """SFIN, trained alike but for one thing."""
    return dataclasses.replace(SFIN_ALIKE, name=name, **changed)


_SFIN = _info(**ARCHITECTURE)
SFIN_ALIKE = Entrant("SFIN, trained alike", _SFIN)
RIVALS = (
    Entrant("FCN", _info(architecture="fcn", n_channels=64, n_blocks=17)),
    Entrant("AtomSegNet", _info(architecture="atomsegnet", n_channels=64, n_blocks=0)),
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
