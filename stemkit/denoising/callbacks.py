"""Callbacks of training: learning rate, progress bar, checkpoints, best network, early stopping."""

from __future__ import annotations

import copy
import io
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import skorch
import torch
from skorch.callbacks import Callback

from stemkit.atomic import whole_file

__all__ = [
    "Checkpoint",
    "DivergenceError",
    "Finite",
    "Progress",
    "RestoreBest",
    "Schedule",
    "StopOnTimeOrPatience",
    "StopTraining",
    "best_of",
    "epochs_of",
    "resume",
    "seed_of",
]


#: Ratio of all steps to those of the warm-up (chosen).
WARM_UP = 50


class StopTraining(Exception):  # noqa: N818 (no error)
    """Raised to end training before its last epoch."""


class DivergenceError(ValueError):
    """Raised if the loss or the weights are no longer finite."""


class Finite(Callback):
    """Ends a training that has diverged at the end of the epoch, before its network is kept or written.

    Raises
    ------
    DivergenceError
        If the loss of the training or of the validation, or a weight, is NaN or infinite.
    """

    def __init__(self, lr: float):
        self.lr = lr

    def on_epoch_end(
        self, net: skorch.NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        last = net.history[-1]
        losses = {name: float(last[name]) for name in ("train_loss", "valid_loss") if name in last}
        n = sum(int((~torch.isfinite(value)).sum()) for value in net.module_.state_dict().values())
        if n == 0 and all(map(math.isfinite, losses.values())):
            return
        found = ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
        raise DivergenceError(
            f"the training diverged in epoch {len(net.history)} ({found}; {n} weights are not finite) with the "
            f"learning rate lr={self.lr:g}: use a smaller one, such as lr={self.lr / 10:.2g}"
        )


class Schedule(Callback):
    """Learning rate with linear warm-up over the first 2 % of the steps, then a cosine to 0.

    It is a function of the step number only, except in a new run with a time limit: its progress is then the larger of
    the fractions of steps and of time, so that the learning rate is 0 at the time limit. A limit of 0 minutes, which is
    one epoch per run, has no influence.
    """

    def __init__(self, lr: float, n_steps: int, minutes: float | None = None):
        self.lr, self.n_steps, self.minutes = lr, n_steps, minutes

    def on_train_begin(self, net: skorch.NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.step_ = sum(epoch["train_batch_count"] for epoch in net.history)
        self.start_ = time.monotonic()
        self.timed_ = bool(self.minutes) and self.step_ == 0

    def on_batch_begin(
        self, net: skorch.NeuralNet, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        if not training:
            return
        warm_up_steps = max(1, self.n_steps // WARM_UP)
        elapsed = self._elapsed_fraction()
        progress = max(self.step_ / max(1, self.n_steps), elapsed)
        warm_up = max((self.step_ + 1) / warm_up_steps, elapsed * WARM_UP)
        factor = min(warm_up, 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
        for group in net.optimizer_.param_groups:
            group["lr"] = self.lr * factor
        self.step_ += 1

    def _elapsed_fraction(self) -> float:
        """Elapsed fraction of the time limit; 0 in runs whose schedule does not depend on time."""
        if not self.timed_ or self.minutes is None:
            return 0.0
        return (time.monotonic() - self.start_) / (60 * self.minutes)


class Progress(Callback):
    """Progress bar over all images, with rate, remaining time, loss and PSNR."""

    def __init__(self, max_epochs: int, batches_per_epoch: int, batch_size: int, verbose: int):
        self.max_epochs, self.batches_per_epoch = max_epochs, batches_per_epoch
        self.batch_size, self.verbose = batch_size, verbose

    def on_train_begin(self, net: skorch.NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        from tqdm.auto import tqdm

        per_epoch = self.batches_per_epoch * self.batch_size
        self.bar_ = tqdm(
            total=self.max_epochs * per_epoch,
            initial=len(net.history) * per_epoch,
            disable=self.verbose == 0,
            desc="training",
            unit=" images",
            unit_scale=True,
        )

    def on_batch_end(
        self, net: skorch.NeuralNet, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        if training:
            self.bar_.update(self.batch_size)

    def on_epoch_end(
        self, net: skorch.NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        last = net.history[-1]
        psnr = last.get("valid_psnr", last.get("psnr", math.nan))
        self.bar_.set_postfix(loss=f"{last.get('valid_loss', last['train_loss']):.4f}", psnr=f"{psnr:.2f} dB")

    def on_train_end(self, net: skorch.NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.bar_.close()


class RestoreBest(Callback):
    """Restores the network of the epoch with the lowest validation loss at the end of training.

    skorch's ``EarlyStopping(load_best=True)`` forgets the best network whenever training begins, and needs a validation
    loss: it cannot resume from a checkpoint, nor be used for few pairs.
    """

    def __init__(self, patience: int | None):
        self.patience = patience
        self.loss, self.epoch, self.state = math.inf, 0, None

    def on_epoch_end(
        self, net: skorch.NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        loss = net.history[-1].get("valid_loss")
        if loss is None:
            return
        if loss < self.loss:
            self.loss, self.epoch = float(loss), len(net.history)
            self.state = copy.deepcopy(net.module_.state_dict())

    def on_train_end(self, net: skorch.NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        if self.state is not None:
            net.module_.load_state_dict(self.state)

    def is_exhausted(self, net: skorch.NeuralNet) -> bool:
        """Whether at least ``patience`` epochs have passed since the best one."""
        return self.patience is not None and self.state is not None and len(net.history) - self.epoch >= self.patience


class Checkpoint(Callback):
    """Writes network, optimiser, history and best network to disk after every epoch."""

    def __init__(self, path: Path | None, settings: dict[str, Any]):
        self.path, self.settings = path, settings

    def on_epoch_end(
        self, net: skorch.NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        if self.path is None:
            return
        best = best_of(net)
        state = {
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "history": epochs_of(net),
            "settings": self.settings,
            "best": {"loss": best.loss, "epoch": best.epoch, "state": best.state},
        }
        content = io.BytesIO()  # torch's errors do not say that a disk is full
        torch.save(state, content)
        with whole_file(self.path) as temporary:
            temporary.write_bytes(content.getbuffer())


class StopOnTimeOrPatience(Callback):
    """Ends training after the epoch that exceeds the time limit or exhausts the patience of :class:`RestoreBest`."""

    def __init__(self, minutes: float | None):
        self.minutes = minutes

    def on_train_begin(self, net: skorch.NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.start_ = time.monotonic()

    def on_epoch_end(
        self, net: skorch.NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        late = self.minutes is not None and time.monotonic() - self.start_ >= 60 * self.minutes
        if late or best_of(net).is_exhausted(net):
            raise StopTraining


def best_of(net: skorch.NeuralNet) -> RestoreBest:
    """The :class:`RestoreBest` callback of a net."""
    found = dict(net.callbacks_)["best"]
    assert isinstance(found, RestoreBest)
    return found


def epochs_of(net: skorch.NeuralNet) -> list[dict[str, Any]]:
    """Epochs of the history without their batches, in built-in types (a checkpoint must load with ``weights_only``)."""
    return [
        {
            k: v.item() if isinstance(v, np.generic) else v
            for k, v in epoch.items()
            # the marks of best epochs are not restored when training resumes
            if k != "batches" and not k.endswith("_best")
        }
        for epoch in net.history.to_list()
    ]


def resume(net: skorch.NeuralNet, path: Path, settings: dict[str, Any]) -> None:
    """Resume from a checkpoint.

    Raises
    ------
    ValueError
        If the checkpoint was written with other settings or for another network.
    """
    state = _read(path)
    changed = [name for name, value in settings.items() if state["settings"].get(name) != value]
    if changed:
        was, now = ({name: s.get(name) for name in changed} for s in (state["settings"], settings))
        raise ValueError(
            f"checkpoint {path} must have the settings of this run, {now}, but has {was}: use the same settings, or "
            "remove the checkpoint to begin again"
        )
    try:
        net.module_.load_state_dict(state["module"])
    except RuntimeError as error:
        raise ValueError(
            f"checkpoint {path} must be of this architecture, but is of another one: use that one, or remove the file"
        ) from error
    net.optimizer_.load_state_dict(state["optimizer"])
    best = best_of(net)
    best.loss, best.epoch, best.state = (state["best"][key] for key in ("loss", "epoch", "state"))
    for epoch in state["history"]:
        net.history.new_epoch()
        for key, value in epoch.items():
            net.history.record(key, value)


def seed_of(path: Path) -> int:
    """Seed of the run that wrote a checkpoint."""
    return int(_read(path)["settings"]["seed"])


def _read(path: Path) -> dict[str, Any]:
    try:
        # states are copied to the device later; the optimiser's step counts must stay on the CPU
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["settings"]["seed"], state["best"]["state"]
    except Exception as error:  # torch raises many types for a bad file
        raise ValueError(
            f"checkpoint {path} must be written by training, but can't be read: remove it to begin again ({error})"
        ) from error
    return dict(state)
