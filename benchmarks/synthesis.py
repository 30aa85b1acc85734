"""Speed of the synthesis: ``python benchmarks/synthesis.py [--size PX] [--seconds S]``.

Pairs per second, with all targets: batches as in training, on all devices; ``sample``, which draws on the CPU and
returns a Dataset; and each arrangement alone. The second table contains the time of each step."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import pandas as pd
import torch

from stemkit import STEMSynthesizer
from stemkit.compute import describe_device, torch_generator
from stemkit.synthesis import Recipe
from stemkit.synthesis.batches import draw_batch, recorded
from stemkit.synthesis.recipe import ARRANGEMENTS
from stemkit.synthesis.rendering import render_targets
from stemkit.synthesis.specimens import draw_columns
from stemkit.synthesis.supports import draw_support


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each measurement")
    arguments = parser.parse_args()
    shape = (arguments.size, arguments.size)
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {arguments.size} px")
    rows: list[dict[str, object]] = []
    for device in devices:
        name, generator = describe_device(device), torch_generator(0, device)

        def batches(n: int, recipe: Recipe, generator: torch.Generator = generator) -> Callable[[], object]:
            return lambda: draw_batch(recipe, n, shape, generator)

        for n in (4, 16, 64):
            rows.append(
                {
                    "device": name,
                    "what": f"batches of {n}",
                    "pairs/s": n / seconds(batches(n, Recipe()), arguments.seconds),
                }
            )
        for arrangement in ARRANGEMENTS:
            rate = 16 / seconds(batches(16, Recipe(arrangements=(arrangement,))), arguments.seconds)
            rows.append({"device": name, "what": arrangement, "pairs/s": rate})
    synthesizer = STEMSynthesizer(shape=shape, random_state=0)
    rows.append({"device": "cpu", "what": "sample(32)", "pairs/s": 32 / seconds(lambda: synthesizer.sample(32), 4.0)})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.0f}".format))
    print(parts(shape, arguments.seconds).to_string(index=False, float_format="{:.2f}".format))


def parts(shape: tuple[int, int], least: float) -> pd.DataFrame:
    n, g, recipe = 16, torch_generator(1), Recipe()
    specimens = draw_columns(recipe, n, shape, g)
    columns, kind = specimens.columns, specimens.arrangement
    support = draw_support(recipe, kind, columns.spacing, shape, g)
    tail, spread = torch.full((n,), 0.1), torch.full((n,), 2.0)
    true_image = render_targets(columns, shape, support, tail, spread).enhance
    steps: dict[str, Callable[[], object]] = {
        "columns": lambda: draw_columns(recipe, n, shape, g),
        "support": lambda: draw_support(recipe, kind, columns.spacing, shape, g),
        "rendering": lambda: render_targets(columns, shape, support, tail, spread),
        "noise": lambda: recorded(true_image, columns.spacing, None, g),
    }
    return pd.DataFrame([{"cpu": k, "ms per pair": 1e3 * seconds(step, least) / n} for k, step in steps.items()])


def seconds(work: Callable[[], object], least: float) -> float:
    """Mean time of a call, after one to warm up."""
    work()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < least:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        count += 1
    return (time.perf_counter() - start) / count


if __name__ == "__main__":
    main()
