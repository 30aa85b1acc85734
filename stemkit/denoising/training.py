"""Training: a skorch net that draws its batches itself.

What a step draws is a function of the seed and the step's number alone, so that a run which was interrupted goes on to
the same result. On a CPU the parts of a batch are worked on side by side, each with one thread.
"""

from __future__ import annotations

import copy
import hashlib
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import skorch
import torch
from skorch.callbacks import GradientNormClipping, PassthroughScoring
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import stemkit
from stemkit.compute import autocast, describe_device, seeded, torch_generator, workers
from stemkit.denoising.callbacks import BestSoFar, Checkpoint, EndEarly, Enough, Progress, Schedule, best_of, resume
from stemkit.denoising.sources import Source
from stemkit.denoising.weights import NetworkInfo, build

__all__ = ["made_with", "train"]

LOSSES = ("l1", "l2")
#: The share of each map in the loss.
SHARES = {"enhance": 1.0, "detect": 1.0, "superresolve": 0.3}
#: Parts of a batch on a CPU, and batches on which an epoch is judged.
PARTS, JUDGED = 2, 8
#: Steps of training and batches for judging have seeds of their own.
TRAINING, JUDGING = 0, 1


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
    patience: int | None = None,
    minutes: float | None = None,
    timed: bool = False,
    compile: bool = False,
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
        Highest learning rate of the schedule: a short warm-up, then a cosine to 0 at the last step.
    loss : {"l1", "l2"}
    module : nn.Module, optional
        Start from this network instead of fresh weights.
    checkpoint : Path, optional
        Written after every epoch; an existing one is gone on from.
    patience : int, optional
        Stop after so many epochs in a row that were not the best.
    minutes : float, optional
        Stop after the epoch in which so much time is over; training can resume from the checkpoint.
    timed : bool
        Whether the schedule of a run that begins follows its minutes, too: the learning rate is 0 when they are over,
        and the weights depend on the speed of the device. A run that resumes from a checkpoint, and one of 0 minutes,
        which is one epoch, follow the steps alone.
    compile : bool
        Let torch compile the network first, which takes a minute and a compiler; not on a CPU.
    verbose : int
        0 prints nothing, 1 shows a progress bar.

    Returns
    -------
    skorch.NeuralNet
        ``module_`` is the network as it was after its best epoch, on images that are held back, or after the last one
        where there are too few to hold any back. ``history`` are the epochs.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}, but is {loss!r}")
    # a checkpoint holds Python's own numbers alone
    seed, max_epochs, batches_per_epoch, lr = int(seed), int(max_epochs), int(batches_per_epoch), float(lr)
    settings = {
        "seed": seed,
        "max_epochs": max_epochs,
        "batches_per_epoch": batches_per_epoch,
        "lr": lr,
        "loss": loss,
        "outputs": list(info.outputs),
        "source": hashlib.sha256(source.described.encode()).hexdigest(),
        "start": None if module is None else _digest(module),
    }
    n_parts = min(PARTS, source.batch_size) if device.type == "cpu" else 1
    judged = None if source.held_back is None else _Steps(JUDGED, seed, n_parts, JUDGING)
    with seeded(seed, device), workers(n_parts) as together:
        net = _Net(
            module if module is not None else build(info),
            criterion=nn.L1Loss if loss == "l1" else nn.MSELoss,
            criterion__reduction="none",
            source=source,
            outputs=info.outputs,
            together=together,
            compiled=compile and device.type != "cpu",
            optimizer=torch.optim.AdamW,
            lr=lr,
            max_epochs=max_epochs,
            iterator_train__batch_size=None,
            iterator_valid__batch_size=None,
            train_split=None if judged is None else predefined_split(judged),
            device=str(device),
            callbacks=[
                ("psnr", PassthroughScoring(name="psnr", on_train=True, lower_is_better=False)),
                ("valid_psnr", PassthroughScoring(name="valid_psnr", lower_is_better=False)),
                ("clip", GradientNormClipping(1.0)),
                ("schedule", Schedule(lr, max_epochs * batches_per_epoch, minutes if timed else None)),
                ("best", BestSoFar(patience)),
                ("checkpoint", Checkpoint(checkpoint, settings)),
                ("progress", Progress(max_epochs, batches_per_epoch, source.batch_size, verbose)),
                ("end", EndEarly(minutes)),
            ],
            callbacks__print_log=None,
            verbose=0,
        ).initialize()
        if checkpoint is not None and checkpoint.exists():
            resume(net, checkpoint, settings)
        steps = _Steps(batches_per_epoch, seed, n_parts, TRAINING, epoch=len(net.history))
        net.notify("on_train_begin", X=steps, y=None)
        try:
            if not best_of(net).waits_too_long(net):
                net.fit_loop(steps, epochs=max(0, max_epochs - len(net.history)))
        except Enough:
            pass
        finally:
            net.notify("on_train_end", X=steps, y=None)
        net.module_.eval()
    return net


def made_with(net: skorch.NeuralNet, device: torch.device, seed: int, before: dict[str, Any]) -> dict[str, Any]:
    """How a network was made, in plain numbers and strings: what its weights file says."""
    losses = net.history[:, "valid_loss" if "valid_loss" in net.history[-1] else "train_loss"] if net.history else []
    best = net.history[int(np.argmin(losses))] if len(losses) else {}
    made = {
        "stemkit": stemkit.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": describe_device(device),
        "seed": int(seed),
        "epochs": int(net.max_epochs),
        "epochs_done": len(net.history),
        "batches_per_epoch": sum(int(epoch["train_batch_count"]) for epoch in net.history[:1]),
        "batch_size": int(net.source.batch_size),
        "lr": float(net.lr),
        "seconds": round(sum(net.history[:, "dur"])) if net.history else 0,
    }
    made |= {name: round(float(best[name]), 5) for name in ("valid_loss", "valid_psnr") if name in best}
    return made | ({"before": before} if before else {})


def _digest(module: nn.Module) -> str:
    hashed = hashlib.sha256()
    for value in module.state_dict().values():
        hashed.update(value.cpu().numpy().tobytes())
    return hashed.hexdigest()


# --- the net -----------------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """What one part of a batch gave."""

    loss: Tensor
    psnr: Tensor
    gradients: Sequence[Tensor] = ()


class _Net(skorch.NeuralNet):
    """A skorch net for image maps: its batches are seeds, from which it draws; mixed precision, and a loss in units of
    each image's contrast.
    """

    def __init__(
        self,
        *args: Any,
        source: Source,
        outputs: Sequence[str] = (),
        together: Callable[..., list[Any]] | None = None,
        compiled: bool = False,
        **kwargs: Any,
    ):
        self.source = source
        self.outputs = outputs
        self.together = together
        self.compiled = compiled
        super().__init__(*args, **kwargs)

    def initialize_module(self) -> _Net:
        super().initialize_module()
        # each part of a batch has a network of its own: batch norms count along
        self.others_: list[nn.Module] = []
        self.run_: nn.Module = torch.compile(self.module_, dynamic=False) if self.compiled else self.module_  # type: ignore[assignment]
        return self

    def train_step_single(self, batch: Tensor, **fit_params: Any) -> dict[str, Any]:
        """Gradients of a batch: the mean over its parts."""
        seeds = batch.tolist()
        networks = self._networks(len(seeds), training=True)
        tasks = list(zip(networks, repeat(self.source), seeds, self._shares(len(seeds)), strict=False))
        assert self.together is not None
        parts: list[_Part] = self.together(self._learnt, tasks)
        for weight, *gradients in zip(self.module_.parameters(), *(part.gradients for part in parts), strict=True):
            weight.grad = torch.stack(gradients).mean(dim=0) if len(gradients) > 1 else gradients[0]
        for own, *others in zip(self.module_.buffers(), *(other.buffers() for other in self.others_), strict=True):
            if others and own.is_floating_point():
                own.copy_(torch.stack([own, *others]).mean(dim=0))
        return self._step(parts, "psnr")

    def validation_step(self, batch: Tensor, **fit_params: Any) -> dict[str, Any]:
        seeds = batch.tolist()
        networks = self._networks(len(seeds), training=False)
        assert self.together is not None
        tasks = list(zip(networks, repeat(self.source.held_back), seeds, self._shares(len(seeds)), strict=False))
        return self._step(self.together(self._judged, tasks), "valid_psnr")

    def _shares(self, n: int) -> list[int]:
        """Images of a batch in each of its parts."""
        return [self.source.batch_size // n + (k < self.source.batch_size % n) for k in range(n)]

    def _networks(self, n: int, training: bool) -> list[nn.Module]:
        """As many networks as a batch has parts, all with the same weights."""
        while len(self.others_) < n - 1:
            self.others_.append(copy.deepcopy(self.module_))
        state = self.module_.state_dict()
        for network in (self.module_, *self.others_):
            network.train(training)
        for other in self.others_:
            other.load_state_dict(state)
        # judging takes the network as it is: compiling it once more for evaluation costs more than it saves
        return [self.run_ if training else self.module_, *self.others_[: n - 1]]

    def _learnt(self, task: tuple[nn.Module, Source, int, int]) -> _Part:
        part = self._judged(task)
        return _Part(part.loss.detach(), part.psnr, torch.autograd.grad(part.loss, list(task[0].parameters())))

    def _judged(self, task: tuple[nn.Module, Source, int, int]) -> _Part:
        network, source, seed, n = task
        device = torch.device(self.device)
        inputs, truth = source.draw(torch_generator(seed, device), n)
        with torch.set_grad_enabled(self.module_.training):
            with autocast(device):
                predicted = network(inputs).float()
            return _Part(*self._loss(predicted, truth))

    def _loss(self, predicted: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss, and the PSNR of the first map that is taught."""
        # errors count in units of the contrast, as in PSNR; where there is next to none, in those of the noise
        unit, weight = truth["unit"].clamp_min(0.5)[:, None, None], truth["weight"]
        total, psnr = torch.zeros((), device=predicted.device), torch.tensor(torch.nan)
        for i, name in enumerate(self.source.taught):
            ours, theirs = predicted[:, list(self.outputs).index(name)], truth["maps"][:, i]
            # spots cover few pixels: a mean absolute error would call them all background
            squared = name == "detect"
            loss = (ours - theirs).square() if squared else self.criterion_(ours / unit, theirs / unit)
            total = total + SHARES[name] * (weight * loss).mean()
            if i == 0:
                error = ((ours.detach() - theirs) / (1.0 if name == "detect" else unit)).square().mean(dim=(1, 2))
                psnr = (-10 * torch.log10(error + 1e-12)).mean()
        return total, psnr

    def _step(self, parts: Sequence[_Part], score: str) -> dict[str, Any]:
        self.history.record_batch(score, float(np.mean([float(part.psnr) for part in parts])))
        return {"loss": torch.stack([part.loss for part in parts]).mean(), "y_pred": None}


class _Steps(IterableDataset):
    """The seeds of an epoch's steps, one for each part of a batch; those for judging are the same in each epoch."""

    def __init__(self, n: int, seed: int, n_parts: int, purpose: int, epoch: int = 0):
        self.n, self.seed, self.n_parts, self.purpose, self.epoch = n, seed, n_parts, purpose, epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Tensor]:
        key = [self.seed, self.purpose, self.epoch if self.purpose == TRAINING else 0]
        seeds = np.random.SeedSequence(key).generate_state(self.n * self.n_parts, np.uint64) >> np.uint64(1)
        self.epoch += 1
        yield from torch.as_tensor(seeds.astype(np.int64)).view(self.n, self.n_parts)
