"""Images per CPU second of training: ``python benchmarks/training_speed.py [--profile] [--threads]``.

Forward and backward pass of the shipped architecture on one thread, in mixed precision if the CPU supports it and in
single precision: the least time of several rounds. The time for drawing the images is printed separately. The profile
lists the operations by time. ``--threads`` compares ways to use two threads for a step of twice as many images: one
network with two threads, and two copies of the network with one thread each, as in training. Its seconds are CPU
seconds of the thread that works longest, which equal the elapsed time on two idle cores; on busy cores those of one
network with two threads include waiting.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from stemkit.compute import autocast, torch_generator
from stemkit.denoising.general import RECIPE
from stemkit.denoising.sources import SynthesisSource
from stemkit.denoising.weights import load_weights

CPU = torch.device("cpu")
#: Number of operations in the profile.
SHOWN = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="edge of the crops, px (default: 128)")
    parser.add_argument("--images", type=int, default=4, help="images in a step (default: 4, half a batch of 8)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--threads", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    module, info = load_weights("auto")
    module.train()
    source = SynthesisSource(RECIPE, info.outputs, arguments.images, [arguments.size])
    batch = source.draw(torch_generator(0, CPU), arguments.images)
    mixed = not isinstance(autocast(CPU), contextlib.nullcontext)
    steps: dict[str, Callable[[], object]] = {
        "drawing": lambda: source.draw(torch_generator(0, CPU), arguments.images),
        "single precision": lambda: step(module, batch.inputs, batch.targets, mixed=False),
    }
    if mixed:
        steps["bfloat16"] = lambda: step(module, batch.inputs, batch.targets, mixed=True)
    print(f"{platform.machine()}, torch {torch.__version__}, {arguments.size} px, {arguments.images} images a step")
    for name, seconds in least(steps, arguments.rounds).items():
        rate, per_image = arguments.images / seconds, 1e3 * seconds / arguments.images
        print(f"{name}: {rate:.1f} images per CPU second ({per_image:.0f} ms)")
    if arguments.threads:
        for name, seconds in ways_to_use_two_threads(
            module, batch.inputs, batch.targets, arguments.rounds, mixed
        ).items():
            print(f"{name}: {seconds:.2f} s a step of {2 * arguments.images} images")
    if arguments.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            steps["bfloat16" if mixed else "single precision"]()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=SHOWN, max_name_column_width=40))


def step(module: nn.Module, images: Tensor, maps: Tensor, *, mixed: bool) -> None:
    with autocast(CPU, mixed):
        predicted = module(images).float()
    torch.autograd.grad((predicted - maps).abs().mean(), list(module.parameters()))


def ways_to_use_two_threads(
    module: nn.Module, images: Tensor, maps: Tensor, rounds: int, mixed: bool
) -> dict[str, float]:
    """Seconds of a step on two halves of a batch, the least of several rounds."""

    def seconds(network: nn.Module, n_halves: int, n_threads: int) -> float:
        torch.set_num_threads(n_threads)
        start = time.thread_time()
        step(network, images.repeat(n_halves, 1, 1, 1), maps.repeat(n_halves, 1, 1, 1), mixed=mixed)
        return time.thread_time() - start

    names = ("one network, one thread", "one network, two threads", "two copies, one thread each")
    best = dict.fromkeys(names, float("inf"))
    copies = [module, copy.deepcopy(module)]
    for _ in range(rounds):
        for name, n_threads in zip(names, (1, 2), strict=False):
            best[name] = min(best[name], seconds(module, 2, n_threads))
        with ThreadPoolExecutor(2) as pool:
            halves = max(pool.map(lambda network: seconds(network, 1, 1), copies))
        best[names[2]] = min(best[names[2]], halves)
    torch.set_num_threads(1)
    return best


def least(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of each, in turn, so that other loads on the machine affect all of them equally."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, run in steps.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


if __name__ == "__main__":
    main()
