"""Training: a skorch net, and where its batches come from.

A source draws batches with a generator: fresh synthetic pairs, or crops of given pairs. An epoch is a number of
batches whose generator is seeded by the epoch's number, so that a run which was interrupted goes on to the same
result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import skorch
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback, GradientNormClipping, PassthroughScoring
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from stemkit.compute import autocast, seeded, torch_generator
from stemkit.denoising.weights import NetworkInfo, build
from stemkit.io.atomic import whole_file
from stemkit.synthesis.recipe import Recipe, draw_batch

__all__ = ["PairSource", "SynthesisSource", "train"]

LOSSES = ("l1", "l2")
#: Epochs of different runs must not share a seed.
EPOCH_STRIDE = 1_000_003
#: The share of each map in the loss.
SHARES = {"enhance": 1.0, "detect": 1.0, "superresolve": 0.3}


class Source(Protocol):
    """Where batches come from; ``taught`` names the network's outputs that the maps are for."""

    taught: tuple[str, ...]

    def draw(self, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Network inputs ``(n, 1, n_y, n_x)``; maps ``(n, n_taught, n_y, n_x)``, and ``unit`` ``(n,)``, in which errors
        count: the columns' contrast, or the truth's range.
        """


class SynthesisSource:
    """Fresh synthetic pairs for every batch.

    Parameters
    ----------
    recipe : Recipe
    outputs : tuple of str
    batch_size : int
    crop_sizes : sequence of int
        Each batch takes one of them; larger crops have fewer images.
    """

    def __init__(self, recipe: Recipe, outputs: Sequence[str], batch_size: int, crop_sizes: Sequence[int]):
        self.recipe, self.taught, self.batch_size, self.crop_sizes = recipe, tuple(outputs), batch_size, [*crop_sizes]

    def draw(self, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw a batch on the generator's device."""
        pick = int(torch.randint(len(self.crop_sizes), (1,), generator=generator, device=generator.device))
        size = self.crop_sizes[pick]
        n = max(2, round(self.batch_size * (min(self.crop_sizes) / size) ** 2))
        batch = draw_batch(self.recipe, n, (size, size), generator)
        offset, scale = _standard(batch.noisy)
        targets = vars(batch.targets)
        maps = [_in_network_units(targets[name], name, offset, scale) for name in self.taught]
        unit = 1.0 / scale.flatten()
        return ((batch.noisy - offset) / scale)[:, None], {"maps": torch.stack(maps, dim=1), "unit": unit}


class PairSource:
    """Random crops, flipped at random, of given pairs.

    Parameters
    ----------
    noisy, truth : list of ndarray
        Images, already in the network's units.
    batch_size, crop_size : int
        Crops are at most as large as the smallest image, and a multiple of ``multiple``.
    channel : str
        The network's output that the truth is for.
    """

    def __init__(
        self,
        noisy: list[NDArray],
        truth: list[NDArray],
        batch_size: int,
        crop_size: int,
        multiple: int,
        device: torch.device,
        channel: str = "enhance",
    ):
        smallest = min(min(image.shape) for image in noisy)
        self.size = max(multiple, min(crop_size, smallest) // multiple * multiple)
        self.noisy = [_at_least(torch.as_tensor(i, dtype=torch.float32), self.size).to(device) for i in noisy]
        self.truth = [_at_least(torch.as_tensor(i, dtype=torch.float32), self.size).to(device) for i in truth]
        self.batch_size = batch_size
        self.taught: tuple[str, ...] = (channel,)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw a batch on the generator's device."""
        crops = [self._crop(generator) for _ in range(self.batch_size)]
        noisy, truth = (torch.stack(part)[:, None] for part in zip(*crops, strict=True))
        return noisy, {"maps": truth, "unit": _range(truth[:, 0])}

    def _crop(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        def below(n: int) -> int:
            return int(torch.randint(n, (1,), generator=generator, device=generator.device))

        i = below(len(self.noisy))
        y, x = (below(n - self.size + 1) for n in self.noisy[i].shape)
        flips = [axis for axis in (0, 1) if below(2)]
        noisy, truth = (part[i][y : y + self.size, x : x + self.size].flip(flips) for part in (self.noisy, self.truth))
        return noisy, truth


def train(
    info: NetworkInfo,
    source: Source,
    *,
    device: torch.device,
    seed: int,
    max_epochs: int,
    batches_per_epoch: int,
    lr: float,
    loss: str = "l1",
    module: nn.Module | None = None,
    checkpoint: Path | None = None,
    verbose: int = 1,
) -> skorch.NeuralNet:
    """Train a network on a source; the same seed on the same device gives the same weights.

    Parameters
    ----------
    info : NetworkInfo
        Architecture and outputs.
    source : Source
    device : torch.device
    seed : int
    max_epochs, batches_per_epoch : int
    lr : float
        Highest learning rate of the schedule: a short warm-up, then a cosine to 0.
    loss : {"l1", "l2"}
    module : nn.Module, optional
        Start from this network instead of fresh weights.
    checkpoint : Path, optional
        Written after every epoch; an existing one is gone on from.
    verbose : int
        0 prints nothing, 1 shows a progress bar.

    Returns
    -------
    skorch.NeuralNet
        Fitted; ``module_`` is the network, ``history`` the epochs.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}, but is {loss!r}")
    settings = {"seed": seed, "max_epochs": max_epochs, "batches_per_epoch": batches_per_epoch, "lr": lr, "loss": loss}
    with seeded(seed, device):
        net = _Net(
            module if module is not None else build(info),
            criterion=nn.L1Loss if loss == "l1" else nn.MSELoss,
            outputs=info.outputs,
            taught=source.taught,
            optimizer=torch.optim.AdamW,
            lr=lr,
            max_epochs=max_epochs,
            iterator_train__batch_size=None,
            train_split=None,
            device=str(device),
            callbacks=[
                ("psnr", PassthroughScoring(name="psnr", on_train=True, lower_is_better=False)),
                ("clip", GradientNormClipping(1.0)),
                ("schedule", _Schedule(lr, max_epochs * batches_per_epoch)),
                ("checkpoint", _Checkpoint(checkpoint, settings)),
                ("progress", _Progress(max_epochs, batches_per_epoch, verbose)),
            ],
            callbacks__print_log=None,
            verbose=0,
        ).initialize()
        if checkpoint is not None and checkpoint.exists():
            _resume(net, checkpoint, settings)
        batches = _Batches(source, batches_per_epoch, seed, device, epoch=len(net.history))
        net.partial_fit(batches, epochs=max(0, max_epochs - len(net.history)))
        net.module_.eval()
    return net


def epochs_of(net: skorch.NeuralNet) -> list[dict[str, Any]]:
    """The history's epochs without their batches, in Python's own types (a checkpoint holds nothing to execute)."""
    return [
        {k: v.item() if isinstance(v, np.generic) else v for k, v in epoch.items() if k != "batches"}
        for epoch in net.history.to_list()
    ]


# --- the net -----------------------------------------------------------------------------------------------------


class _Net(skorch.NeuralNet):
    """A skorch net for image maps: mixed precision, and a loss in units of each image's contrast."""

    def __init__(self, *args: Any, outputs: Sequence[str] = (), taught: Sequence[str] = (), **kwargs: Any):
        self.outputs = outputs
        self.taught = taught
        super().__init__(*args, **kwargs)

    def infer(self, x: Tensor, **fit_params: Any) -> Tensor:
        with autocast(torch.device(self.device)):
            return super().infer(x, **fit_params).float()

    def get_loss(self, y_pred: Tensor, y_true: dict[str, Tensor], X: Any = None, training: bool = False) -> Tensor:
        # errors count in units of the contrast, as in PSNR; where there is next to none, in those of the noise
        unit = y_true["unit"].clamp_min(0.5)[:, None, None]
        total = torch.zeros((), device=y_pred.device)
        for i, name in enumerate(self.taught):
            predicted, truth = y_pred[:, list(self.outputs).index(name)], y_true["maps"][:, i]
            if name == "detect":
                # spots cover few pixels: a mean absolute error would call them all background
                total = total + SHARES[name] * nn.functional.mse_loss(predicted, truth)
            else:
                total = total + SHARES[name] * self.criterion_(predicted / unit, truth / unit)
            if training and name == self.taught[0]:
                error = ((predicted.detach() - truth) / (1.0 if name == "detect" else unit)).square().mean(dim=(1, 2))
                self.history.record_batch("psnr", float((-10 * torch.log10(error + 1e-12)).mean()))
        return total


class _Batches(IterableDataset):
    """An epoch of batches; each epoch has a generator of its own."""

    def __init__(self, source: Source, n: int, seed: int, device: torch.device, epoch: int):
        self.source, self.n, self.seed, self.device, self.epoch = source, n, seed, device, epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        generator = torch_generator(self.seed + EPOCH_STRIDE * (self.epoch + 1), self.device)
        self.epoch += 1
        for _ in range(self.n):
            yield self.source.draw(generator)


class _Schedule(Callback):
    """Warm-up over the first 2 % of the steps, then a cosine to 0; a function of the step's number alone."""

    def __init__(self, lr: float, n_steps: int):
        self.lr, self.n_steps = lr, n_steps

    def on_train_begin(self, net: skorch.NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.step_ = sum(epoch["train_batch_count"] for epoch in net.history)

    def on_batch_begin(
        self, net: skorch.NeuralNet, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        warm_up = max(1, self.n_steps // 50)
        progress = self.step_ / max(1, self.n_steps)
        factor = min((self.step_ + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
        for group in net.optimizer_.param_groups:
            group["lr"] = self.lr * factor
        self.step_ += 1


class _Progress(Callback):
    """A tqdm bar over all batches, with loss and PSNR."""

    def __init__(self, max_epochs: int, batches_per_epoch: int, verbose: int):
        self.max_epochs, self.batches_per_epoch, self.verbose = max_epochs, batches_per_epoch, verbose

    def on_train_begin(self, net: skorch.NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        from tqdm.auto import tqdm

        self.bar_ = tqdm(
            total=self.max_epochs * self.batches_per_epoch,
            initial=len(net.history) * self.batches_per_epoch,
            disable=self.verbose == 0,
            desc="training",
            unit="batch",
        )

    def on_batch_end(
        self, net: skorch.NeuralNet, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        self.bar_.update()

    def on_epoch_end(
        self, net: skorch.NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        last = net.history[-1]
        self.bar_.set_postfix(loss=f"{last['train_loss']:.4f}", psnr=f"{last.get('psnr', math.nan):.2f} dB")

    def on_train_end(self, net: skorch.NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.bar_.close()


class _Checkpoint(Callback):
    """Network, optimiser and history on disk after every epoch."""

    def __init__(self, path: Path | None, settings: dict[str, Any]):
        self.path, self.settings = path, settings

    def on_epoch_end(
        self, net: skorch.NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        if self.path is None:
            return
        state = {
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "history": epochs_of(net),
            "settings": self.settings,
        }
        with whole_file(self.path) as temporary:
            torch.save(state, temporary)


def _resume(net: skorch.NeuralNet, path: Path, settings: dict[str, Any]) -> None:
    state = torch.load(path, map_location=net.device, weights_only=True)
    if state.get("settings", settings) != settings:
        raise ValueError(
            f"checkpoint {path} was made with {state['settings']}, but this run asks for {settings}: go on with the "
            "same, or remove the checkpoint to begin again"
        )
    try:
        net.module_.load_state_dict(state["module"])
    except RuntimeError as error:
        raise ValueError(f"checkpoint {path} is of another network: remove it, or choose its architecture") from error
    net.optimizer_.load_state_dict(state["optimizer"])
    for epoch in state["history"]:
        net.history.new_epoch()
        for key, value in epoch.items():
            net.history.record(key, value)


# --- units -------------------------------------------------------------------------------------------------------


def _standard(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each image, its extreme 0.1 % clipped, as in :func:`stemkit.images.intensity_scale`."""
    flat = images.flatten(1)
    low, high = torch.quantile(flat, torch.tensor([0.001, 0.999], device=flat.device), dim=1, keepdim=True)
    clipped = torch.minimum(torch.maximum(flat, low), high)
    scale = clipped.std(dim=1, correction=0).clamp_min(1e-6)
    return clipped.mean(dim=1)[:, None, None], scale[:, None, None]


def _in_network_units(target: Tensor, name: str, offset: Tensor, scale: Tensor) -> Tensor:
    if name == "detect":
        return target
    return (target - offset) / scale if name == "enhance" else target / scale


def _range(images: Tensor) -> Tensor:
    return images.amax(dim=(1, 2)) - images.amin(dim=(1, 2))


def _at_least(image: Tensor, size: int) -> Tensor:
    """Small images continued by reflection up to the crop's size."""
    missing = [max(0, size - n) for n in image.shape]
    if not any(missing):
        return image
    return torch.as_tensor(np.pad(image.numpy(), [(0, m) for m in missing], mode="reflect"))
