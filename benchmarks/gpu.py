"""Speed of training and inference: ``python benchmarks/gpu.py [--device cuda] [--compile] [--tiny]``.

Images per second and peak memory in training at 256 px with the shipped architecture (64 channels, 4 blocks,
downsampling 2) and that of the paper (8 blocks, downsampling 1): for drawing the images, for the network with its
optimiser on a fixed batch, and for both. Also the time to enhance 2048 x 2048 px, in total and of the network alone.
``--tiny`` uses small sizes and few steps, for a test on a CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from stemkit import SFINDenoiser
from stemkit.compute import autocast, describe_device, inference_dtype, resolve_device, torch_generator
from stemkit.denoising.general import RECIPE
from stemkit.denoising.sources import SynthesisSource, TrainingBatch
from stemkit.denoising.training import TrainingSchedule, train
from stemkit.denoising.weights import OUTPUTS, NetworkInfo, build, load_weights
from stemkit.networks import FoldedSFIN
from stemkit.synthesis.batches import draw_batch

SHIPPED = NetworkInfo(n_channels=64, n_blocks=4, downsampling=2, outputs=OUTPUTS)
PAPER = replace(SHIPPED, n_blocks=8, downsampling=1)


@dataclass(frozen=True)
class Sizes:
    """Edges in px, images in a batch, and number of timed steps."""

    crop: int = 256
    batch: int = 32
    batch_of_paper: int = 8
    steps: int = 20
    image: int = 2048


TINY = Sizes(crop=32, batch=2, batch_of_paper=1, steps=2, image=96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="small sizes, few steps")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile, which takes a minute")
    arguments = parser.parse_args()
    device, sizes = resolve_device(arguments.device), TINY if arguments.tiny else Sizes()
    say(f"{describe_device(device)}, torch {torch.__version__}; {sizes}")

    draw = drawing(sizes, device)
    report("drawing pairs", sizes.batch, timed(draw, sizes.steps, device), device)
    channels_last = {"plain": torch.contiguous_format, "channels last": torch.channels_last}
    for name, memory_format in channels_last.items():
        network = build(SHIPPED).to(device, memory_format=memory_format)
        step = stepping(network, network, fixed_batch(draw), device)
        report(f"network and optimiser, {name}", sizes.batch, timed(step, sizes.steps, device), device)
    network = build(SHIPPED).to(device)
    step = stepping(network, network, draw, device)
    report("training step, drawing included", sizes.batch, timed(step, sizes.steps, device), device)
    run_of_train(sizes, device)
    network = build(PAPER).to(device)
    step = stepping(network, network, fixed_batch(drawing(replace(sizes, batch=sizes.batch_of_paper), device)), device)
    report(
        "the paper's network and optimiser", sizes.batch_of_paper, timed(step, max(2, sizes.steps // 4), device), device
    )
    enhancement(sizes, device)
    if arguments.compile:
        for name, memory_format in channels_last.items():
            network = build(SHIPPED).to(device, memory_format=memory_format)
            start = time.perf_counter()
            step = stepping(torch.compile(network, dynamic=False), network, fixed_batch(draw), device)
            step()
            say(f"compiled in {time.perf_counter() - start:.1f} s")
            report(f"compiled network, {name}", sizes.batch, timed(step, sizes.steps, device), device)


# --- timed steps -------------------------------------------------------------------------------------------------


def drawing(sizes: Sizes, device: torch.device) -> Callable[[], TrainingBatch]:
    source, seeds = SynthesisSource(RECIPE, OUTPUTS, sizes.batch, [sizes.crop]), count()
    return lambda: source.draw(torch_generator(next(seeds), device), sizes.batch)


def fixed_batch(draw: Callable[[], TrainingBatch]) -> Callable[[], TrainingBatch]:
    """The same batch repeatedly."""
    batch = draw()
    return lambda: batch


def stepping(
    run: Callable[[Tensor], Tensor], network: nn.Module, draw: Callable[[], TrainingBatch], device: torch.device
):
    """A training step without reports."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        batch = draw()
        with autocast(device):
            predicted = run(batch.inputs).float()
        loss = (predicted - batch.targets).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step


def run_of_train(sizes: Sizes, device: torch.device) -> None:
    """The training loop of the package with its reports, from the second epoch on."""
    source = SynthesisSource(RECIPE, OUTPUTS, sizes.batch, [sizes.crop])
    reset_memory(device)
    schedule = TrainingSchedule(max_epochs=2, batches_per_epoch=sizes.steps, lr=1e-4)
    net = train(SHIPPED, source, schedule, device=device, seed=0, verbose=0)
    per_epoch, seconds = sizes.steps + 8, net.history[-1]["dur"]  # eight batches for validation
    report("stemkit's training, judging included", sizes.batch, seconds / per_epoch, device)


def enhancement(sizes: Sizes, device: torch.device) -> None:
    reset_memory(device)
    recipe = replace(RECIPE, spacing=(14.0, 20.0), empty=0.0)
    noisy = draw_batch(recipe, 1, (sizes.image, sizes.image), torch_generator(0, device)).noisy[0].cpu().numpy()
    denoiser = SFINDenoiser(device=str(device)).fit(noisy)
    reset_memory(device)
    seconds = timed(lambda: denoiser.transform(noisy), 3, device)
    say(f"{f'enhancing {sizes.image} px, end to end':45}{seconds:10.3f} s{memory(device)}")
    folded = FoldedSFIN(load_weights("auto")[0], inference_dtype(device), device)
    image = torch.as_tensor(np.ascontiguousarray(noisy), device=device)[None, None]
    reset_memory(device)
    seconds = timed(lambda: folded(image), 3, device)
    say(f"{f'enhancing {sizes.image} px, network alone':45}{seconds:10.3f} s{memory(device)}")


# --- figures -----------------------------------------------------------------------------------------------------


def timed(work: Callable[[], object], n: int, device: torch.device) -> float:
    """Seconds of one call: the median of several, after calls to warm up."""
    for _ in range(2):
        work()
    reset_memory(device)
    return float(np.median(list(_each(work, n, device))))


def _each(work: Callable[[], object], n: int, device: torch.device) -> Iterator[float]:
    for _ in range(n):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        yield time.perf_counter() - start


def report(name: str, batch: int, seconds: float, device: torch.device) -> None:
    say(f"{name:45}{batch / seconds:10.1f} images/s{1e3 * seconds:10.1f} ms/batch{memory(device)}")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> str:
    return f"{torch.cuda.max_memory_allocated(device) / 2**30:8.2f} GiB" if device.type == "cuda" else ""


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
