"""Weights compared in one table: ``python benchmarks/weights.py former=FILE shipped=auto [--scenes FOLDER] ...``.

Each column is a set of weights, NAME=FILE or NAME=auto for those that ship; ``git show COMMIT:PATH > FILE`` gives
former ones. The rows are

sets     PSNR (dB) and SSIM on the first images of the fixed sets of :mod:`stemkit.benchmark`
truths   planted structures at 3, 10 and 30 electrons per pixel, HAADF and BF: contrast left at vacancies, height of
         interstitials, bias of shifted columns (correct values: 0, 1, 0)
rows     PSNR (dB) on images of 30 electrons per pixel whose rows are displaced by 1 px RMS along x, and on the same
         images without displacement
scenes   PSNR (dB) and SSIM on ``scenes.npz`` in a folder (``--scenes FOLDER``), see ``benchmarks/scenes.py``
frames   correlation of each enhanced frame with the mean of the others, and mean squared error against it, corrected
         for its noise (``--frames FILE``, :func:`stemkit.benchmark.repeat_frames`)
cost     processor seconds and peak memory (GiB, with Python and torch) for 1024 x 1024 px
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scenes import fitted
from sklearn.pipeline import Pipeline, make_pipeline

from stemkit import NoiseModel, PointwiseNoise, RowAligner, ScanNoise, SFINDenoiser, STEMSynthesizer
from stemkit.benchmark import evaluate, repeat_frames, summary
from stemkit.benchmark.scenes import SETS
from stemkit.metrics import psnr, ssim

#: Displacements of 1 px RMS: independent rows, hum, and rows that are correlated.
DISPLACEMENTS = {
    "none": ScanNoise(),
    "independent": ScanNoise(jitter=1.0),
    "hum, once in 4.7 rows": ScanNoise(hum=np.sqrt(2.0), hum_period=4.7),
    "hum, once in 10 rows": ScanNoise(hum=np.sqrt(2.0), hum_period=10.0),
    "drift, 1.5 rows": ScanNoise(drift=1.0, drift_rows=1.5),
    "drift, 4 rows": ScanNoise(drift=1.0, drift_rows=4.0),
}
#: Scores of planted structures that are shown.
PLANTED = {"vacancies": "contrast left", "interstitials": "height shown", "shifted columns": "bias"}

Table = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--images", type=int, default=24, help="of each set, and a third of it of each kind of rows")
    parser.add_argument("--recordings", type=int, default=2, help="of each planted structure")
    parser.add_argument("--align", action="store_true", help="also with RowAligner before the denoiser")
    parser.add_argument("--scenes", type=Path, metavar="FOLDER")
    parser.add_argument("--frames", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    arguments.named = dict(each.split("=", 1) for each in arguments.weights)
    # images without a lattice, whose rows are not aligned
    warnings.filterwarnings("ignore", message="no lattice of columns")
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads; {' '.join(sys.argv)}")
    for part in arguments.only:
        table = PARTS[part](arguments)
        if table:
            print(f"\n{part}\n{pd.DataFrame(table).T.round(4).to_string()}", flush=True)


def denoisers(arguments: argparse.Namespace) -> dict[str, SFINDenoiser | Pipeline]:
    methods: dict[str, SFINDenoiser | Pipeline] = {}
    for name, weights in arguments.named.items():
        methods[name] = SFINDenoiser(weights=weights)
        if arguments.align:
            methods[f"{name}, aligned"] = make_pipeline(RowAligner(), SFINDenoiser(weights=weights))
    return methods


def sets(arguments: argparse.Namespace) -> Table:
    scores = summary(evaluate(denoisers(arguments), SETS, n=arguments.images))[0]
    table: Table = {}
    for (name, held_back, weights), row in scores.iterrows():
        for score in ("psnr", "ssim"):
            drawn = "held back" if held_back else "drawn"
            table.setdefault(f"{name}, {drawn}: {score}", {})[weights] = float(row[score])
    return table


def truths(arguments: argparse.Namespace) -> Table:
    scores = summary(evaluate(denoisers(arguments), ["truths"], n=arguments.recordings))[1]
    table: Table = {}
    for shows, score in PLANTED.items():
        for weights in denoisers(arguments):
            for (mode, dose), value in scores.loc[(shows, score, weights)].items():
                table.setdefault(f"{shows}: {score}, {mode}, {dose:g} electrons", {})[weights] = float(value)
    return table


def rows(arguments: argparse.Namespace) -> Table:
    table: Table = {}
    for name, scan in DISPLACEMENTS.items():
        noise = NoiseModel(scan=scan, pointwise=PointwiseNoise.counted(30.0, background=6.0))
        pairs = STEMSynthesizer(noise=noise, random_state=0).sample(max(1, arguments.images // 3))
        for weights, denoiser in denoisers(arguments).items():
            enhanced = denoiser.fit_transform(pairs["noisy"])
            found = [psnr(one, true) for one, true in zip(enhanced, pairs["enhance"], strict=True)]
            table.setdefault(f"rows: {name}", {})[weights] = float(np.mean(found))
    return table


def scenes(arguments: argparse.Namespace) -> Table:
    if arguments.scenes is None:
        return {}
    found = np.load(arguments.scenes / "scenes.npz")
    table: Table = {"psnr": {}, "ssim": {}}
    for weights, denoiser in denoisers(arguments).items():
        values = []
        for name in sorted(key for key in found if key.endswith("_noisy")):
            true_image = found[f"{name.rsplit('_', 2)[0]}_clean"].astype(float)
            noisy = xr.DataArray(found[name], dims=("y", "x"), attrs={"mode": "haadf"})
            enhanced = fitted(denoiser.fit_transform(noisy).values, true_image)
            values.append((psnr(enhanced, true_image), ssim(enhanced, true_image)))
        table["psnr"][weights], table["ssim"][weights] = map(float, np.mean(values, axis=0))
    return table


def frames(arguments: argparse.Namespace) -> Table:
    if arguments.frames is None:
        return {}
    recorded = np.load(arguments.frames)["frames"].astype(float)
    found = repeat_frames(recorded, denoisers(arguments), mode="haadf", calibrate=False, verbose=False)
    found = found.set_index(["score", "method"])["value"]
    return {score: {w: float(found[score, w]) for w in denoisers(arguments)} for score in ("correlation", "mse")}


def cost(arguments: argparse.Namespace) -> Table:
    table: Table = {"CPU s": {}, "peak memory, GiB": {}}
    script = str(Path(__file__).with_name("enhancement.py"))
    for name, weights in arguments.named.items():
        call = [sys.executable, script, "--run", "auto", "1024", "--weights", weights]
        cpu, _, peak, _ = map(float, subprocess.run(call, capture_output=True, text=True, check=True).stdout.split())
        table["CPU s"][name], table["peak memory, GiB"][name] = cpu, peak
    return table


PARTS: dict[str, Callable[[argparse.Namespace], Table]] = {
    "sets": sets,
    "truths": truths,
    "rows": rows,
    "scenes": scenes,
    "frames": frames,
    "cost": cost,
}

if __name__ == "__main__":
    main()
