"""Time and memory of the noise calibration: ``python benchmarks/calibration_speed.py [--sizes 512 1024 2048]``.

Each size runs in a process of its own, for its own peak memory; the memory of the imports is subtracted.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from pathlib import Path

#: Number of fits whose median time is printed (chosen).
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--spacings", type=float, nargs="+", default=[10.0, 16.0, 30.0], help="px")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return measure(int(arguments.one[0]), float(arguments.one[1]))
    import torch

    print(f"{platform.machine()}, {torch.get_num_threads()} threads; median of {REPEATS}")
    print("  size  spacing      fit   memory above the import")
    for size in arguments.sizes:
        for spacing in arguments.spacings:
            subprocess.run([sys.executable, __file__, "--one", str(size), str(spacing)], check=True)
    return None


def measure(size: int, spacing: float) -> None:
    """Print the line of one size (px) and spacing (px)."""
    import numpy as np
    from plain_scenes import Noise, add_noise, crystal

    from stemkit import NoiseCalibrator

    rng = np.random.default_rng(0)
    signal, _ = crystal("square", (size, size), spacing, 0.19 * spacing, rng)
    image = 100 + 1000 * add_noise(signal, Noise(), rng)[0]
    del signal
    # the first fit loads and compiles functions
    NoiseCalibrator(mode="haadf").fit(image[:128, :128])
    before = _peak(reset=True)
    NoiseCalibrator(mode="haadf").fit(image)
    memory = _peak() - before
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        NoiseCalibrator(mode="haadf").fit(image)
        seconds.append(time.perf_counter() - start)
    print(f"{size:6d} {spacing:8.0f} {sorted(seconds)[REPEATS // 2]:7.2f} s {memory / 2**20:10.0f} MB", flush=True)


def _peak(*, reset: bool = False) -> float:
    """Highest resident memory since the last reset, bytes (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
