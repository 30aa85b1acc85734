"""Time and memory that methods take, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from stemkit import NoiseCalibrator, NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.benchmark.contestants import Contestant
from stemkit.synthesis import lattice, planar_cell

__all__ = ["SIZES", "cost_table"]

SIZES = (512, 1024)
#: The noise calibration, which denoisers that ask for the noise need once for an image.
CALIBRATION = "noise calibration"


def cost_table(rows: Sequence[Contestant], *, sizes: Sequence[int] = SIZES, verbose: bool = True) -> pd.DataFrame:
    """Seconds, and peak memory beyond what Python and the libraries take, for square images of a crystal.

    The image says its noise: calibration is a row of its own.

    Returns
    -------
    DataFrame
        ``method, px, seconds, GiB``: the better of two runs, and the first one's memory.
    """
    table = []
    everyone = [*rows, Contestant(CALIBRATION, "stemkit:NoiseCalibrator")]
    for row in tqdm(
        [row for row in everyone if row.place and not row.missing and not row.locates], desc="cost", disable=not verbose
    ):
        for size in sizes:
            parameters = {k: str(v) if isinstance(v, Path) else v for k, v in row.parameters.items()}
            asked = json.dumps([row.name, row.place, parameters, size])
            call = [sys.executable, "-m", "stemkit.benchmark.cost", asked]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            if done.returncode:
                raise OSError(f"{row.name} failed on {size} px: {done.stderr.strip()[-500:]}")
            seconds, gib = json.loads(done.stdout.splitlines()[-1])
            table.append((row.name, size, seconds, gib))
    return pd.DataFrame(table, columns=["method", "px", "seconds", "GiB"])


def _one(name: str, place: str, parameters: dict[str, object], size: int) -> tuple[float, float]:
    method = Contestant(name, place, parameters).method()
    crystal = lattice(
        planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6]), (size, size), spacing=14.0
    )
    noise = NoiseModel(pointwise=PointwiseNoise.counted(10.0, background=2.0))
    synthesizer = STEMSynthesizer(shape=(size, size), noise=noise, random_state=0)
    image = synthesizer.record(crystal).isel(image=0)["noisy"]
    if not isinstance(method, NoiseCalibrator):
        image.attrs["noise"] = json.dumps({"pixel_size": image.stem.pixel_size, **noise.to_dict()})
    method.fit(image[:64, :64]).transform(image[:64, :64])
    before, times = _peak(), []
    for _ in range(2):
        start = time.perf_counter()
        method.fit(image).transform(image)
        times.append(time.perf_counter() - start)
        if len(times) == 1:
            peak = _peak()
    return min(times), peak - before


def _peak() -> float:
    """Highest resident memory so far, GiB; NaN where the system does not tell.

    What ``getrusage`` gives begins with the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((float(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM")), float("nan"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_one(*json.loads(sys.argv[1]))))
