"""Networks trained for the comparison, on the same images or for the same time."""

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
from stemkit.denoising.training import TrainingSchedule, train, training_record
from stemkit.denoising.weights import OUTPUTS, NetworkInfo, build, load_weights, save_weights
from stemkit.networks.sfin import Interaction
from stemkit.noise.distribution import NORMAL_SHAPE
from stemkit.noise.drawing import NoiseParameters
from stemkit.synthesis.noises import draw_noise
from stemkit.synthesis.recipe import Recipe

__all__ = [
    "ABLATIONS",
    "BASELINES",
    "NETWORKS",
    "SFIN_SAME_TRAINING",
    "TrainingSpec",
    "gaussian_noise",
    "train_network",
    "train_networks",
    "without_frequency",
    "without_interaction",
]

#: Number of images in a batch (chosen).
BATCH_SIZE = 16
#: Edge of these images, px (chosen).
CROP_SIZE = 128
#: Images in an epoch, which ends with a checkpoint (chosen).
EPOCH_IMAGES = 1024
#: Learning rates are compared in runs on this fraction of the images (chosen).
RATE_SEARCH_FRACTION = 0.125
#: Learning rates that are compared (chosen).
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
#: Default seed of the first weights and of all images (chosen).
SEED = 7
#: Ending of the names of baselines that are trained for the time that SFIN takes.
EQUAL_TIME = ", equal time"
#: Noise models in the recipe with Gaussian noise (chosen).
N_NOISE_MODELS = 4096
#: Spacing of columns, px, for which these models are drawn (chosen: only their jitter depends on it, which is set to
#: zero).
NOISE_SPACING = 12.0
#: Signal at which the variance of the Gaussian noise is that of the recipe: half the amplitude of a column (chosen).
NOISE_SIGNAL = 0.5


@dataclass(frozen=True)
class TrainingSpec:
    """A network and how it is trained.

    Parameters
    ----------
    name : str
        Name in the tables.
    info : NetworkInfo
        Architecture and outputs.
    recipe : Recipe
        Distribution of the training images.
    learning_rates : tuple of float
        If there are several, the one with the lowest validation loss in a short run is used.
    ablate : callable, optional
        Disables a part of the network before training.
    equal_time : bool
        Whether :func:`train_networks` trains it on as many images as take the time that SFIN took, instead of the same
        number of images.
    """

    name: str
    info: NetworkInfo
    recipe: Recipe = RECIPE
    learning_rates: tuple[float, ...] = LEARNING_RATES
    ablate: Callable[[nn.Module], None] | None = None
    equal_time: bool = False

    @property
    def file_stem(self) -> str:
        """The name of its weights file, without suffix."""
        return self.name.lower().replace(",", "").replace(" ", "-")

    def for_equal_time(self) -> TrainingSpec:
        """The same network, trained for as long as SFIN."""
        return dataclasses.replace(self, name=f"{self.name}{EQUAL_TIME}", equal_time=True)


def train_network(
    spec: TrainingSpec,
    folder: Path,
    n_images: int,
    *,
    seed: int = SEED,
    device: str = "auto",
    minutes: float | None = None,
) -> Path | None:
    """Train a network and write its weights into a folder, unless they exist.

    A checkpoint is written after each epoch: after an interruption, the same call resumes the training.

    Parameters
    ----------
    spec : TrainingSpec
    folder : Path
    n_images : int
        Number of images of 128 x 128 px, in whole batches. The runs that compare learning rates use further images.
    seed : int
        Seed of the first weights and of all images.
    device : str
        As in :class:`~stemkit.SFINDenoiser`.
    minutes : float, optional
        Stop after the epoch in which this time ends.

    Returns
    -------
    Path or None
        The file of the weights; None if the time ended before they were complete.

    Raises
    ------
    ValueError
        If `n_images` is below the size of a batch, or the folder contains weights of this name that were trained with
        other settings.
    """
    if n_images < BATCH_SIZE:
        raise ValueError(f"n_images must be at least {BATCH_SIZE}, a batch, but is {n_images}")
    path = folder / f"{spec.file_stem}.safetensors"
    settings = {
        "images": n_images,
        "training_digest": _digest(spec, seed),
        "learning_rates": list(spec.learning_rates),
    }
    if path.exists():
        _check_settings(path, settings)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    run = _Runs(spec, folder, seed, resolve_device(device), minutes)
    losses = _compare_learning_rates(run, n_images)
    if losses is None:
        return None
    rate = min(losses, key=lambda each: losses[each]) if losses else spec.learning_rates[0]
    net = run(n_images, rate)
    if net is None:
        return None
    net.module_(torch.zeros(1, 1, 32, 32, device=run.device))  # a forward pass disables the ablated weights once more
    training = training_record(net, run.device, seed, {}) | settings | _durations(net, n_images)
    training["rate_losses"] = {f"{each:g}": loss for each, loss in losses.items()}
    return save_weights(net.module_, dataclasses.replace(spec.info, training=training), path)


def train_networks(
    folder: Path,
    n_images: int,
    *,
    specs: Sequence[TrainingSpec] | None = None,
    seed: int = SEED,
    device: str = "auto",
    minutes: float | None = None,
) -> Iterator[tuple[str, Path | None]]:
    """Train several networks one after the other.

    The learning rate of a network is chosen once: ablations of SFIN, and baselines trained for equal time, use the rate
    of the complete network and of the baseline trained on the same images.

    Parameters
    ----------
    folder : Path
    n_images : int
        Number of images for each; those with ``equal_time`` have as many as take the time that SFIN took.
    specs : sequence of TrainingSpec, optional
        SFIN has to come first, and a baseline before the same for equal time. Default: all networks of the tables.
    seed, device, minutes
        As in :func:`train_network`.

    Yields
    ------
    name : str
    path : Path or None
        None if the time ended; it is then the last item.
    """
    start, trained = time.monotonic(), dict[str, dict[str, Any]]()
    for spec in NETWORKS if specs is None else specs:
        remaining = _remaining(start, minutes)
        model = SFIN_SAME_TRAINING.name if spec in ABLATIONS else spec.name.removesuffix(EQUAL_TIME)
        n = n_images
        if spec.equal_time:
            sfin, own = (trained[name]["seconds_per_image"] for name in (SFIN_SAME_TRAINING.name, model))
            n = max(BATCH_SIZE, round(n_images * sfin / own))
        if model in trained:
            spec = dataclasses.replace(spec, learning_rates=(trained[model]["lr"],))
        path = train_network(spec, folder, n, seed=seed, device=device, minutes=remaining)
        yield spec.name, path
        if path is None:
            return
        trained[spec.name] = load_weights(path)[1].training


# --- runs --------------------------------------------------------------------------------------------------------


@dataclass
class _Runs:
    """Training runs of one network within a common limit of time."""

    spec: TrainingSpec
    folder: Path
    seed: int
    device: torch.device
    minutes: float | None

    def __post_init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, n_images: int, learning_rate: float) -> Any:
        """The trained net, or None if the time ended."""
        remaining = _remaining(self.start, self.minutes)
        if remaining is not None and remaining <= 0:
            return None
        net = self._train(n_images, learning_rate, remaining)
        return net if len(net.history) == net.max_epochs else None

    def _train(self, n_images: int, learning_rate: float, minutes: float | None) -> Any:
        with seeded(self.seed, self.device):
            module = build(self.spec.info)
        if self.spec.ablate is not None:
            self.spec.ablate(module)
        n_epochs = max(1, round(n_images / EPOCH_IMAGES))
        batches_per_epoch = max(1, round(n_images / BATCH_SIZE / n_epochs))
        return train(
            self.spec.info,
            _source(self.spec),
            TrainingSchedule(n_epochs, batches_per_epoch, learning_rate, minutes=minutes),
            device=self.device,
            seed=self.seed,
            module=module,
            checkpoint=self.folder / f"{self.spec.file_stem}-{n_images}-{learning_rate:g}-{self.seed}.checkpoint",
        )


def _compare_learning_rates(run: _Runs, n_images: int) -> dict[float, float] | None:
    """Lowest validation loss by learning rate, empty if there is only one rate; None if the time ended."""
    losses = dict[float, float]()
    if len(run.spec.learning_rates) == 1:
        return losses
    for rate in run.spec.learning_rates:
        net = run(max(BATCH_SIZE, round(RATE_SEARCH_FRACTION * n_images)), rate)
        if net is None:
            return None
        losses[rate] = min(net.history[:, "valid_loss"])
    return losses


def _durations(net: Any, n_images: int) -> dict[str, float]:
    durations = net.history[:, "dur"]
    # the fastest epoch is the least affected by other processes
    return {"seconds": sum(durations), "seconds_per_image": min(durations) * len(durations) / n_images}


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    training = load_weights(path)[1].training
    changed = [name for name, value in settings.items() if training.get(name) != value]
    if changed:
        found, requested = ({name: each.get(name) for name in changed} for each in (training, settings))
        raise ValueError(
            f"{path} was trained with {found}, but {requested} was requested: remove it to train it again, or choose "
            "another folder"
        )


def _remaining(start: float, minutes: float | None) -> float | None:
    return None if minutes is None else minutes - (time.monotonic() - start) / 60


def _source(spec: TrainingSpec) -> SynthesisSource:
    return SynthesisSource(spec.recipe, spec.info.outputs, BATCH_SIZE, [CROP_SIZE])


def _digest(spec: TrainingSpec, seed: int) -> str:
    """Hash of the distribution of the training images, the network and the seed."""
    described = f"{_source(spec).fingerprint} {spec.info} {spec.ablate and spec.ablate.__name__} {seed}"
    return hashlib.sha256(described.encode()).hexdigest()


# --- ablations of the network ------------------------------------------------------------------------------------


def without_frequency(network: nn.Module) -> None:
    """Disable the output of the Fourier units: convolutions in real space remain, with all other weights."""
    _zero_before_forward(network, _zero_frequency)


def without_interaction(network: nn.Module) -> None:
    """Disable the exchange between the spatial and the frequency branch of each block."""
    _zero_before_forward(network, _zero_exchange)


def _zero_before_forward(network: nn.Module, zero: Callable[..., None]) -> None:
    """Set weights to zero before each forward pass, after each step of the optimiser."""
    for module in network.modules():
        if isinstance(module, Interaction):
            module.register_forward_pre_hook(zero)


@torch.no_grad()
def _zero_frequency(block: Interaction, images: object = None) -> None:
    block.convg2g.conv2.weight[:, block.channels :] = 0.0


@torch.no_grad()
def _zero_exchange(block: Interaction, images: object = None) -> None:
    block.convl2g.weight[:] = 0.0
    block.convg2l.weight[:] = 0.0


# --- networks of the tables --------------------------------------------------------------------------------------


def gaussian_noise() -> NoiseParameters:
    """White Gaussian noise alone, with the variance of the recipe's noise at half the amplitude of a column."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = draw_noise(torch.full((N_NOISE_MODELS,), NOISE_SPACING), generator)
    zero, infinite = torch.zeros(N_NOISE_MODELS), torch.full((N_NOISE_MODELS,), torch.inf)
    white = {
        "readout": (drawn.readout**2 + NOISE_SIGNAL * drawn.gain).clamp_min(0).sqrt(),
        "poisson": torch.zeros(N_NOISE_MODELS, dtype=torch.bool),
        "step": torch.full((N_NOISE_MODELS,), torch.nan),
        "shape": torch.full((N_NOISE_MODELS,), NORMAL_SHAPE),
        "streak_length": infinite,
        "jitter_length": infinite,
    }
    disabled = ("background", "streaks", "jitter", "jitter_y", "gain", "correlation_x")
    return dataclasses.replace(drawn, **white, **dict.fromkeys(disabled, zero))


def _info(**architecture: Any) -> NetworkInfo:
    return NetworkInfo(**architecture, outputs=OUTPUTS, spacing=RECIPE.spacing)


def _changed(name: str, **changed: Any) -> TrainingSpec:
    """SFIN with the same training, except for one change."""
    return dataclasses.replace(SFIN_SAME_TRAINING, name=name, **changed)


#: SFIN, with which the others are compared.
SFIN_SAME_TRAINING = TrainingSpec("SFIN, same training", _info(**ARCHITECTURE))
#: The other networks of the paper, of the sizes given there.
BASELINES = (
    TrainingSpec("FCN", _info(architecture="fcn", n_channels=64, n_blocks=17)),
    TrainingSpec("AtomSegNet", _info(architecture="atomsegnet", n_channels=64, n_blocks=0)),
)
#: Arrangements with some order.
ORDERED = tuple(name for name in RECIPE.arrangements if name not in ("random", "sparse"))
#: The ablations of the paper, of the training data and of the network.
ABLATIONS = (
    _changed("lattices only", recipe=dataclasses.replace(RECIPE, arrangements=("lattice",))),
    _changed("without random arrangements", recipe=dataclasses.replace(RECIPE, arrangements=ORDERED)),
    _changed("with Gaussian noise", recipe=dataclasses.replace(RECIPE, noise=gaussian_noise())),
    _changed("without frequency", ablate=without_frequency),
    _changed("without interaction", ablate=without_interaction),
)
#: All networks in the order of their training.
NETWORKS = (SFIN_SAME_TRAINING, *BASELINES, *(baseline.for_equal_time() for baseline in BASELINES), *ABLATIONS)
