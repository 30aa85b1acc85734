"""Memory of the alignment of a series, rows included: ``python benchmarks/series_memory.py``.

The largest memory that ``fit`` and ``transform`` allocate at once is measured for two numbers of frames, while whole
frames are aligned and in all that follows. Each is a linear function ``a + b n`` bytes per pixel, which is extrapolated
to 100 frames. Both numbers should be above the 16 frames whose spectra are kept, which otherwise count for b. The
frames themselves are single precision (4 bytes per pixel), in memory, and part of b. Only some rounds of the refinement
are computed, since each needs the same. Frames above 512 px are binned for the alignment of whole frames. What torch
allocates for the network is in the resident memory, which is that of the process with all its libraries.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import tracemalloc
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from series import SCAN, specimen

from stemkit import NoiseModel, PointwiseNoise
from stemkit.series import SeriesAligner, aligner, draw_displacements, draw_series, refinement, rigid

STAGES = ("whole frames", "rows and average")


def peaks(n_frames: int, size: int, denoiser: str | None) -> list[int]:
    """Bytes, in each of :data:`STAGES`."""
    moved = draw_displacements(n_frames, size, scan=SCAN, drift=(0.6, -0.8), random_state=0)
    columns = specimen("particle", size, float(np.abs(moved).max()) + 40.0, 1)
    noise = NoiseModel(10.0, 2.0, pointwise=PointwiseNoise.counted(10.0, background=2.0))
    frames = draw_series(columns, moved, shape=(size, size), noise=noise, random_state=0)
    largest = []

    def whole(*args: Any, **options: Any) -> rigid.RigidShifts:
        found = rigid.rigid_shifts(*args, **options)
        largest.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        return found

    aligner.rigid_shifts = whole
    tracemalloc.start()
    SeriesAligner(denoiser=denoiser).fit_transform(frames)
    largest.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    return [value + frames.nbytes for value in largest]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, nargs=2, default=[20, 28])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--denoiser", default="none", choices=("auto", "none"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    refinement.CONSTANTS = replace(refinement.CONSTANTS, max_rounds=arguments.rounds)
    denoiser, pixels, start = None if arguments.denoiser == "none" else "auto", arguments.size**2, time.process_time()
    few, many = (peaks(n, arguments.size, denoiser) for n in arguments.frames)
    total = []
    for stage, *values in zip(STAGES, few, many, strict=True):
        low, high = (value / pixels for value in values)
        per_frame = (high - low) / (arguments.frames[1] - arguments.frames[0])
        image = low - per_frame * arguments.frames[0]
        total.append(image + 100 * per_frame)
        print(f"{stage}: {image:.0f} + {per_frame:.1f} n bytes per pixel")
        for n, value in zip(arguments.frames, values, strict=True):
            print(f"  {n} frames of {arguments.size} x {arguments.size}: {value / 2**20:.0f} MiB")
    print(f"100 frames of {arguments.size} x {arguments.size}: {max(total) * pixels / 2**30:.2f} GiB, extrapolated")
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    print(f"resident at most: {kib / 2**10:.0f} MiB, {time.process_time() - start:.0f} CPU s")


if __name__ == "__main__":
    main()
