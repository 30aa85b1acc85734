"""What happens around the steps of training: schedule, progress, checkpoints, the best network so far."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import skorch
import torch
from skorch.callbacks import Callback

from stemkit.io.atomic import whole_file

__all__ = [
    "BestSoFar",
    "Checkpoint",
    "EndEarly",
    "Enough",
    "Progress",
    "Schedule",
    "best_of",
    "epochs_of",
    "resume",
    "seed_of",
]


class Enough(Exception):  # noqa: N818 (no error)
    """Training ends before its last epoch."""


class Schedule(Callback):
    """Warm-up over the first 2 % of the steps, then a cosine to 0.

    It is a function of the step's number alone, except in a run that begins with a limit of time: its progress is the
    larger of that in steps and that in time, so that the learning rate is 0 when the time is over. With a limit of 0
    minutes, one epoch per run, it is that of the steps.
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
        warm_up = max(1, self.n_steps // 50)
        spent = self._time_spent()
        progress = max(self.step_ / max(1, self.n_steps), spent)
        risen = max((self.step_ + 1) / warm_up, spent * 50)
        factor = min(risen, 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
        for group in net.optimizer_.param_groups:
            group["lr"] = self.lr * factor
        self.step_ += 1

    def _time_spent(self) -> float:
        """The fraction of the time that is over; 0 where time does not count."""
        if not self.timed_ or self.minutes is None:
            return 0.0
        return (time.monotonic() - self.start_) / (60 * self.minutes)


class Progress(Callback):
    """A tqdm bar over all images, with their rate and what is left, loss and PSNR."""

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


class BestSoFar(Callback):
    """Keeps the network after its best epoch, on what is held back, and goes back to it at the end."""

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

    def waits_too_long(self, net: skorch.NeuralNet) -> bool:
        """Whether the best epoch is longer ago than the patience."""
        return self.patience is not None and self.state is not None and len(net.history) - self.epoch >= self.patience


class Checkpoint(Callback):
    """Network, optimiser, history and the best network on disk after every epoch."""

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
        with whole_file(self.path) as temporary:
            torch.save(state, temporary)


class EndEarly(Callback):
    """Ends training after the epoch in which its time is over, or the patience of :class:`BestSoFar`."""

    def __init__(self, minutes: float | None):
        self.minutes = minutes

    def on_train_begin(self, net: skorch.NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.start_ = time.monotonic()

    def on_epoch_end(
        self, net: skorch.NeuralNet, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        late = self.minutes is not None and time.monotonic() - self.start_ >= 60 * self.minutes
        if late or best_of(net).waits_too_long(net):
            raise Enough


def best_of(net: skorch.NeuralNet) -> BestSoFar:
    """The net's callback of that kind."""
    found = dict(net.callbacks_)["best"]
    assert isinstance(found, BestSoFar)
    return found


def epochs_of(net: skorch.NeuralNet) -> list[dict[str, Any]]:
    """The history's epochs without their batches, in Python's own types (a checkpoint holds nothing to execute)."""
    return [
        {
            k: v.item() if isinstance(v, np.generic) else v
            for k, v in epoch.items()
            # which epoch was the best is not known again after an interruption
            if k != "batches" and not k.endswith("_best")
        }
        for epoch in net.history.to_list()
    ]


def resume(net: skorch.NeuralNet, path: Path, settings: dict[str, Any]) -> None:
    """Go on from a checkpoint.

    Raises
    ------
    ValueError
        If it is of another run or another network.
    """
    state = _read(path)
    changed = [name for name, value in settings.items() if state["settings"].get(name) != value]
    if changed:
        was, now = ({name: s.get(name) for name in changed} for s in (state["settings"], settings))
        raise ValueError(
            f"checkpoint {path} was made with {was}, but this run asks for {now}: go on with the same, or remove the "
            "checkpoint to begin again"
        )
    try:
        net.module_.load_state_dict(state["module"])
    except RuntimeError as error:
        raise ValueError(f"checkpoint {path} is of another network: remove it, or choose its architecture") from error
    net.optimizer_.load_state_dict(state["optimizer"])
    best = best_of(net)
    best.loss, best.epoch, best.state = (state["best"][key] for key in ("loss", "epoch", "state"))
    for epoch in state["history"]:
        net.history.new_epoch()
        for key, value in epoch.items():
            net.history.record(key, value)


def seed_of(path: Path) -> int:
    """The seed of the run that a checkpoint is of."""
    return int(_read(path)["settings"]["seed"])


def _read(path: Path) -> dict[str, Any]:
    try:
        # network and optimiser copy to their device; an optimiser's step counts, read in every step, stay on the CPU
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["settings"]["seed"], state["best"]["state"]
    except Exception as error:  # torch raises many types for a bad file
        raise ValueError(
            f"can't read {path} as a checkpoint of training: remove it to begin again ({error})"
        ) from error
    return dict(state)
