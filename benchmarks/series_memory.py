"""Memory of the alignment of a series, rows included: ``python benchmarks/series_memory.py``.

The largest memory that ``fit`` and ``transform`` allocate at once is measured for two numbers of frames, and is a
linear function of it: ``a + b n`` bytes per pixel, which is extrapolated to other series. Both are above the 16 frames
whose spectra are kept. The frames themselves are single precision (4 bytes per pixel), in memory, and part of b. Only
some rounds of the refinement are computed, since each needs the same. Frames above 512 px are binned for the alignment
of whole frames, which these are not: large ones need less than is extrapolated.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
from series import SCAN, specimen

from stemkit import NoiseModel, PointwiseNoise
from stemkit.series import SeriesAligner, draw_displacements, draw_series, refinement


def peak(n_frames: int, size: int, denoiser: str | None) -> int:
    """Bytes."""
    moved = draw_displacements(n_frames, size, scan=SCAN, drift=(0.6, -0.8), random_state=0)
    columns = specimen("particle", size, float(np.abs(moved).max()) + 40.0, 1)
    noise = NoiseModel(10.0, 2.0, pointwise=PointwiseNoise.counted(10.0, background=2.0))
    frames = draw_series(columns, moved, shape=(size, size), noise=noise, random_state=0)
    tracemalloc.start()
    SeriesAligner(denoiser=denoiser).fit_transform(frames)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return int(largest + frames.nbytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, nargs=2, default=[20, 28])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--denoiser", default="none", choices=("auto", "none"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    refinement.CONSTANTS = replace(refinement.CONSTANTS, most_rounds=arguments.rounds)
    denoiser, pixels, start = None if arguments.denoiser == "none" else "auto", arguments.size**2, time.process_time()
    few, many = (peak(n, arguments.size, denoiser) / pixels for n in arguments.frames)
    per_frame = (many - few) / (arguments.frames[1] - arguments.frames[0])
    image = few - per_frame * arguments.frames[0]
    for n, value in zip(arguments.frames, (few, many), strict=True):
        print(f"{n} frames of {arguments.size} x {arguments.size}: {value * pixels / 2**20:.0f} MiB")
    print(f"{image:.0f} + {per_frame:.1f} n bytes per pixel, {time.process_time() - start:.0f} CPU s")
    print(f"100 frames of 1024 x 1024: {(image + 100 * per_frame) * 1024**2 / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
