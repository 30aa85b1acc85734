"""Time and memory of methods, each measured in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from tqdm import tqdm

from stemkit import NoiseCalibrator, NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.benchmark.methods import MethodSpec
from stemkit.images.provenance import noise_attr
from stemkit.synthesis import lattice, planar_cell

__all__ = ["SIZES", "Cost", "cost_table"]

#: Edges of the images, px (chosen).
SIZES = (512, 1024)
#: Row of the noise calibration, which denoisers that need the noise run once per image.
CALIBRATION = "noise calibration"
#: Edge of the part on which a method runs once before it is measured, px (chosen): libraries are loaded then.
WARM_UP_EDGE = 64
#: Number of runs, of which the fastest counts (chosen).
N_RUNS = 2
#: Spacing of the crystal's columns, px (chosen).
SPACING = 14.0
#: Electrons per pixel at the brightest columns, above the background (chosen).
DOSE = 10.0
#: Electrons per pixel between the columns (chosen).
BACKGROUND_DOSE = 2.0
#: Number of characters at the end of a failed process's error output that are quoted (chosen).
N_QUOTED = 500


@dataclass(frozen=True)
class Cost:
    """Cost of one method on one image.

    Attributes
    ----------
    seconds : float
        Elapsed time in the faster of two runs.
    gib : float
        Peak memory of the first run, GiB, beyond that of Python and the libraries; NaN if the system does not state it.
    """

    seconds: float
    gib: float


def cost_table(rows: Sequence[MethodSpec], *, sizes: Sequence[int] = SIZES, verbose: bool = True) -> pd.DataFrame:
    """Time and peak memory for square images of a crystal with known noise.

    Parameters
    ----------
    rows : sequence of MethodSpec
        Those that return an image and can be run are measured, and the noise calibration.
    sizes : sequence of int
        Edges of the images, px.
    verbose : bool
        Show progress.

    Returns
    -------
    DataFrame
        ``method, px, seconds, GiB``, as in :class:`Cost`.

    Raises
    ------
    OSError
        If the process of a method fails.
    """
    calibration = MethodSpec(CALIBRATION, "stemkit:NoiseCalibrator")
    measured = [row for row in [*rows, calibration] if row.import_path and not row.unavailable and not row.is_locator]
    table = []
    for row in tqdm(measured, desc="cost", disable=not verbose):
        for size in sizes:
            cost = _in_own_process(row, size)
            table.append((row.name, size, cost.seconds, cost.gib))
    return pd.DataFrame(table, columns=["method", "px", "seconds", "GiB"])


def _in_own_process(row: MethodSpec, size: int) -> Cost:
    parameters = {k: str(v) if isinstance(v, Path) else v for k, v in row.parameters.items()}
    argument = json.dumps([row.import_path, parameters, size])
    call = [sys.executable, "-m", "stemkit.benchmark.cost", argument]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{row.name} failed on {size} px: {done.stderr.strip()[-N_QUOTED:]}")
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def _measured(import_path: str, parameters: dict[str, Any], size: int) -> Cost:
    method = MethodSpec("", import_path, parameters).create()
    image = _image(size, with_noise=not isinstance(method, NoiseCalibrator))
    part = image[:WARM_UP_EDGE, :WARM_UP_EDGE]
    method.fit(part).transform(part)
    before, peaks, seconds = _peak_memory(), [], []
    for _ in range(N_RUNS):
        start = time.perf_counter()
        method.fit(image).transform(image)
        seconds.append(time.perf_counter() - start)
        peaks.append(_peak_memory())
    return Cost(min(seconds), peaks[0] - before)


def _image(size: int, with_noise: bool) -> xr.DataArray:
    """A recorded crystal, with the noise model in its attributes if requested."""
    cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6])
    crystal = lattice(cell, (size, size), spacing=SPACING)
    noise = NoiseModel(pointwise=PointwiseNoise.counted(DOSE, background=BACKGROUND_DOSE))
    synthesizer = STEMSynthesizer(shape=(size, size), noise=noise, random_state=0)
    image = synthesizer.record(crystal).isel(image=0)["noisy"]
    if with_noise:
        image.attrs["noise"] = noise_attr(image, noise.to_dict())
    return image


def _peak_memory() -> float:
    """Highest resident memory of this process, GiB; NaN where ``/proc`` is missing.

    ``getrusage`` cannot be used: its value starts at the peak of the parent process.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((float(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM")), float("nan"))


if __name__ == "__main__":
    cost = _measured(*json.loads(sys.argv[1]))
    sys.stdout.write(json.dumps([cost.seconds, cost.gib]))
