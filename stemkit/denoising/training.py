"""Training of a network with skorch, on batches drawn from a source.

The batch of a step is a function of the seed and the step number only, so that a resumed run gives the same result as
an uninterrupted one. On a CPU a batch is divided into two parts that are processed in parallel, one thread and one copy
of the network each: a step of 8 images of 128 px takes 0.92 s, and 1.79 s with one network and one thread; one network
with two threads is not faster (``benchmarks/training_speed.py --threads``).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skorch
import torch
from skorch.callbacks import Callback, GradientNormClipping, PassthroughScoring
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from stemkit._version import __version__
from stemkit.atomic import check_place, exclusive
from stemkit.compute import autocast, describe_device, seeded, torch_generator, workers
from stemkit.denoising.callbacks import (
    Checkpoint,
    Finite,
    Progress,
    RestoreBest,
    Schedule,
    StopOnTimeOrPatience,
    StopTraining,
    best_of,
    resume,
)
from stemkit.denoising.sources import Source, TrainingBatch
from stemkit.denoising.weights import NetworkInfo, build
from stemkit.parameters import check_option

__all__ = ["TrainingSchedule", "train", "training_record"]

#: Values of ``loss``: mean absolute and mean squared error.
LOSSES = ("l1", "l2")
#: Weight of each map in the loss (chosen).
MAP_WEIGHTS = {"enhance": 1.0, "detect": 1.0, "superresolve": 0.3}
#: Parts of a batch on a CPU; fixed, so that results do not depend on the number of cores (chosen).
N_PARTS = 2
#: Batches of the validation after each epoch (chosen).
N_VALIDATION = 8
#: Errors are divided by the contrast, but at least by this multiple of the image's standard deviation (chosen).
MIN_UNIT = 0.5
#: Mean squared error that is added before its logarithm is taken (chosen: the PSNR is at most 120 dB).
MIN_ERROR = 1e-12
#: Largest norm of the gradient (chosen).
MAX_GRADIENT = 1.0
#: Entry of the seeds of training batches.
TRAINING = 0
#: That of validation batches, which makes them differ from these.
VALIDATION = 1


@dataclass(frozen=True)
class TrainingSchedule:
    """Length and learning rate of a training.

    Parameters
    ----------
    max_epochs, batches_per_epoch : int
    lr : float
        Highest learning rate: a short warm-up, then a cosine to 0 at the last step.
    patience : int, optional
        Stop after this number of consecutive epochs without improvement.
    minutes : float, optional
        Stop after the epoch that exceeds this time; training can resume from the checkpoint.
    decay_lr_with_time : bool
        Whether the learning rate of a new run also decreases with time, to 0 at ``minutes``; the weights then depend on
        the speed of the device. It does not in a run that resumes from a checkpoint, nor with 0 minutes, which is one
        epoch.
    """

    max_epochs: int
    batches_per_epoch: int
    lr: float
    patience: int | None = None
    minutes: float | None = None
    decay_lr_with_time: bool = False

    def __post_init__(self) -> None:
        # a checkpoint must contain built-in types only
        for name, built_in in (("max_epochs", int), ("batches_per_epoch", int), ("lr", float)):
            object.__setattr__(self, name, built_in(getattr(self, name)))

    @property
    def n_steps(self) -> int:
        """Number of steps of all epochs."""
        return self.max_epochs * self.batches_per_epoch


def train(
    info: NetworkInfo,
    source: Source,
    schedule: TrainingSchedule,
    *,
    device: torch.device,
    seed: int,
    loss: str = "l1",
    module: nn.Module | None = None,
    checkpoint: Path | None = None,
    compile: bool = False,
    verbose: int = 1,
) -> skorch.NeuralNet:
    """Train a network on a source; the same seed on the same device gives the same weights.

    Parameters
    ----------
    info : NetworkInfo
        Architecture and outputs.
    source : Source
    schedule : TrainingSchedule
    device : torch.device
    seed : int
    loss : {"l1", "l2"}
    module : nn.Module, optional
        Start from this network instead of fresh weights.
    checkpoint : Path, optional
        Written after every epoch; training resumes from an existing one.
    compile : bool
        Compile the network with torch first, which takes about a minute and needs a compiler; ignored on a CPU.
    verbose : int
        0 prints nothing, 1 shows a progress bar.

    Returns
    -------
    skorch.NeuralNet
        ``module_`` is the network of the epoch with the lowest validation loss, or of the last epoch if there are too
        few images for a validation. ``history`` contains the epochs.

    Raises
    ------
    ValueError
        If ``loss`` is not one of those listed, the checkpoint is of another run, or the training diverges: its loss or
        weights are NaN or infinite at the end of an epoch.
    OSError
        If the checkpoint can't be written, before the first epoch; FileExistsError if another training is writing it.
    """
    check_option("loss", loss, LOSSES)
    if checkpoint is not None:
        check_place(checkpoint, overwrite=True)
    seed = int(seed)
    settings = {
        "seed": seed,
        "max_epochs": schedule.max_epochs,
        "batches_per_epoch": schedule.batches_per_epoch,
        "lr": schedule.lr,
        "loss": loss,
        "outputs": list(info.outputs),
        "source": hashlib.sha256(source.fingerprint.encode()).hexdigest(),
        "start": None if module is None else _digest(module),
    }
    n_parts = min(N_PARTS, source.batch_size) if device.type == "cpu" else 1
    validation = None if source.validation_source is None else _EpochSeeds(N_VALIDATION, seed, n_parts, VALIDATION)
    alone = contextlib.nullcontext() if checkpoint is None else exclusive(checkpoint)
    with alone, seeded(seed, device), workers(n_parts) as parallel_map:
        net = _Net(
            module if module is not None else build(info),
            criterion=nn.L1Loss if loss == "l1" else nn.MSELoss,
            criterion__reduction="none",
            source=source,
            outputs=info.outputs,
            parallel_map=parallel_map,
            compiled=compile and device.type != "cpu",
            optimizer=torch.optim.AdamW,
            lr=schedule.lr,
            max_epochs=schedule.max_epochs,
            iterator_train__batch_size=None,
            iterator_valid__batch_size=None,
            train_split=None if validation is None else predefined_split(validation),
            device=str(device),
            callbacks=_callbacks(source, schedule, Checkpoint(checkpoint, settings), verbose),
            callbacks__print_log=None,
            verbose=0,
        ).initialize()
        if checkpoint is not None and checkpoint.exists():
            resume(net, checkpoint, settings)
        _fit(net, _EpochSeeds(schedule.batches_per_epoch, seed, n_parts, TRAINING, epoch=len(net.history)))
        net.module_.eval()
    return net


def training_record(net: skorch.NeuralNet, device: torch.device, seed: int, before: dict[str, Any]) -> dict[str, Any]:
    """Record of the training for the weights file, in built-in types."""
    losses = net.history[:, "valid_loss" if "valid_loss" in net.history[-1] else "train_loss"] if net.history else []
    best = net.history[int(np.argmin(losses))] if len(losses) else {}
    made = {
        "stemkit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": describe_device(device),
        "seed": int(seed),
        "epochs": int(net.max_epochs),
        "epochs_done": len(net.history),
        "batches_per_epoch": int(net.history[0]["train_batch_count"]) if net.history else 0,
        "batch_size": int(net.source.batch_size),
        "lr": float(net.lr),
        "seconds": round(sum(net.history[:, "dur"])) if net.history else 0,
    }
    made |= {name: round(float(best[name]), 5) for name in ("valid_loss", "valid_psnr") if name in best}
    return made | ({"before": before} if before else {})


def _callbacks(
    source: Source, schedule: TrainingSchedule, checkpoint: Checkpoint, verbose: int
) -> list[tuple[str, Callback]]:
    """Callbacks of a training, in the order in which they are called."""
    minutes = schedule.minutes
    return [
        ("psnr", PassthroughScoring(name="psnr", on_train=True, lower_is_better=False)),
        ("valid_psnr", PassthroughScoring(name="valid_psnr", lower_is_better=False)),
        ("clip", GradientNormClipping(MAX_GRADIENT)),
        ("schedule", Schedule(schedule.lr, schedule.n_steps, minutes if schedule.decay_lr_with_time else None)),
        ("finite", Finite(schedule.lr)),
        ("best", RestoreBest(schedule.patience)),
        ("checkpoint", checkpoint),
        ("progress", Progress(schedule.max_epochs, schedule.batches_per_epoch, source.batch_size, verbose)),
        ("end", StopOnTimeOrPatience(minutes)),
    ]


def _fit(net: _Net, steps: _EpochSeeds) -> None:
    """Train up to the last epoch, or until a callback ends the training."""
    net.notify("on_train_begin", X=steps, y=None)
    try:
        if not best_of(net).is_exhausted(net):
            net.fit_loop(steps, epochs=max(0, net.max_epochs - len(net.history)))
    except StopTraining:
        pass
    finally:
        net.notify("on_train_end", X=steps, y=None)


def _digest(module: nn.Module) -> str:
    hashed = hashlib.sha256()
    for value in module.state_dict().values():
        hashed.update(value.cpu().numpy().tobytes())
    return hashed.hexdigest()


# --- the net -----------------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """Input of the computation of one part of a batch."""

    network: nn.Module
    source: Source
    seed: int
    n_images: int


@dataclass
class _Part:
    """Result of one part of a batch: loss, PSNR of the first target, and gradients of the network's parameters."""

    loss: Tensor
    psnr: Tensor
    gradients: Sequence[Tensor] = ()


class _Net(skorch.NeuralNet):
    """A skorch net whose batches are seeds for the source, with mixed precision and a loss in units of the contrast."""

    def __init__(
        self,
        *args: Any,
        source: Source,
        outputs: Sequence[str] = (),
        parallel_map: Callable[..., list[Any]] | None = None,
        compiled: bool = False,
        **kwargs: Any,
    ):
        self.source = source
        self.outputs = outputs
        self.parallel_map = parallel_map
        self.compiled = compiled
        super().__init__(*args, **kwargs)

    def initialize_module(self) -> _Net:
        super().initialize_module()
        # each part of a batch has its own copy of the network, since batch norms update their statistics
        self.copies_: list[nn.Module] = []
        self.compiled_: nn.Module = torch.compile(self.module_, dynamic=False) if self.compiled else self.module_  # type: ignore[assignment]
        return self

    def train_step_single(self, batch: Tensor, **fit_params: Any) -> dict[str, Any]:
        """Gradients of a batch, the mean over its parts."""
        parts = self._parts(batch, self.source, self._with_gradients, training=True)
        for weight, *gradients in zip(self.module_.parameters(), *(part.gradients for part in parts), strict=True):
            weight.grad = torch.stack(gradients).mean(dim=0) if len(gradients) > 1 else gradients[0]
        for own, *others in zip(self.module_.buffers(), *(other.buffers() for other in self.copies_), strict=True):
            if others and own.is_floating_point():
                own.copy_(torch.stack([own, *others]).mean(dim=0))
        return self._step(parts, "psnr")

    def validation_step(self, batch: Tensor, **fit_params: Any) -> dict[str, Any]:
        source = self.source.validation_source
        assert source is not None
        return self._step(self._parts(batch, source, self._evaluated, training=False), "valid_psnr")

    def _parts(self, batch: Tensor, source: Source, step: Callable[[_Task], _Part], training: bool) -> list[_Part]:
        """Results of the parts of a batch, which have equal numbers of images, up to one."""
        seeds, size = batch.tolist(), self.source.batch_size
        n = len(seeds)
        n_images = [size // n + (k < size % n) for k in range(n)]
        assert self.parallel_map is not None
        tasks = map(_Task, self._networks(n, training), repeat(source), seeds, n_images)
        return self.parallel_map(step, list(tasks))

    def _networks(self, n: int, training: bool) -> list[nn.Module]:
        """One network for each of ``n`` parts of a batch, with the same weights."""
        while len(self.copies_) < n - 1:
            self.copies_.append(copy.deepcopy(self.module_))
        state = self.module_.state_dict()
        for network in (self.module_, *self.copies_):
            network.train(training)
        for other in self.copies_:
            other.load_state_dict(state)
        # validation uses the network without compilation: compiling it again for evaluation costs more than it saves
        return [self.compiled_ if training else self.module_, *self.copies_[: n - 1]]

    def _with_gradients(self, task: _Task) -> _Part:
        part = self._evaluated(task)
        return _Part(part.loss.detach(), part.psnr, torch.autograd.grad(part.loss, list(task.network.parameters())))

    def _evaluated(self, task: _Task) -> _Part:
        device = torch.device(self.device)
        batch = task.source.draw(torch_generator(task.seed, device), task.n_images)
        with torch.set_grad_enabled(self.module_.training):
            with autocast(device):
                predicted = task.network(batch.inputs).float()
            return self._scored(predicted, batch)

    def _scored(self, predicted: Tensor, batch: TrainingBatch) -> _Part:
        """Loss and PSNR; the PSNR counts all pixels alike, and its target may contain noise (aligned frames)."""
        # errors are in units of at least MIN_UNIT standard deviations of the image
        unit = batch.error_unit.clamp_min(MIN_UNIT)[:, None, None]
        total, psnr = torch.zeros((), device=predicted.device), torch.tensor(torch.nan)
        for i, name in enumerate(self.source.target_names):
            estimate, target = predicted[:, list(self.outputs).index(name)], batch.targets[:, i]
            if name == "detect":
                # spots cover few pixels: the minimum of the mean absolute error is an empty map
                loss = squares = (estimate - target).square()
            else:
                squares = ((estimate - target) / unit).square()
                loss = self.criterion_(estimate / unit, target / unit)
                loss = torch.where(batch.squared_error[:, None, None], squares, loss)
            total = total + MAP_WEIGHTS[name] * (batch.weight[:, i] * loss).mean()
            if i == 0:
                psnr = (-10 * torch.log10(squares.detach().mean(dim=(1, 2)) + MIN_ERROR)).mean()
        return _Part(total, psnr)

    def _step(self, parts: Sequence[_Part], score: str) -> dict[str, Any]:
        self.history.record_batch(score, float(np.mean([float(part.psnr) for part in parts])))
        return {"loss": torch.stack([part.loss for part in parts]).mean(), "y_pred": None}


class _EpochSeeds(IterableDataset):
    """Seeds of an epoch's steps, one for each part of a batch; each iteration is the next epoch.

    Those of the validation are the same in each epoch.
    """

    def __init__(self, n: int, seed: int, n_parts: int, purpose: int, epoch: int = 0):
        self.n, self.seed, self.n_parts, self.purpose, self.epoch = n, seed, n_parts, purpose, epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Tensor]:
        key = [self.seed, self.purpose, self.epoch if self.purpose == TRAINING else 0]
        # seeds of torch are non-negative 64-bit integers: without the sign bit
        seeds = np.random.SeedSequence(key).generate_state(self.n * self.n_parts, np.uint64) >> np.uint64(1)
        self.epoch += 1
        yield from torch.as_tensor(seeds.astype(np.int64)).view(self.n, self.n_parts)
