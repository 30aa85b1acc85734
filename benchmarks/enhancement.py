"""Cost and quality of the enhancement: ``python benchmarks/enhancement.py [--only PART ...]``.

speed     processor and elapsed seconds and peak memory by size, for the shipped weights by precision, and for the
          network of the paper at full resolution
sizes     PSNR of the same central 128 px in images of increasing size
tiles     difference between tiles and the whole image, as a fraction of its range
sets      the fixed sets of :mod:`stemkit.benchmark`, compared with the Gaussian filter of the best width for each image
truths    planted vacancies, interstitials, substitutions, shifts, heights and edges, and images of noise alone
training  fine-tuning on simulated images of one microscope, and a grid search

Each line of ``speed`` is measured in its own process.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy.ndimage import gaussian_filter
from sklearn.model_selection import GridSearchCV

from stemkit import (
    NoiseModel,
    PointwiseNoise,
    ScanNoise,
    SFINDenoiser,
    STEMSynthesizer,
)
from stemkit.benchmark import evaluate, scenes, summary
from stemkit.benchmark.scenes import SETS
from stemkit.denoising.weights import NetworkInfo, build
from stemkit.metrics import psnr
from stemkit.synthesis import lattice, planar_cell, removed, subset

SIZES = (512, 1024, 2048, 4096)
#: Precision of the shipped weights, and the network of the paper.
NETWORKS = ("auto", "float32", "paper")
#: Largest edge, px, for the network of the paper at full resolution, which takes minutes beyond it (chosen).
TOO_LARGE = 1024


class Oracle:
    """A Gaussian filter with the width of the lowest error against the true image."""

    def __init__(self, truth: dict[bytes, np.ndarray]):
        self.truth = truth

    def fit(self, X: xr.DataArray, y: object = None) -> Oracle:
        return self

    def transform(self, X: xr.DataArray) -> xr.DataArray:
        true_image = self.truth[X.values.tobytes()]
        filtered = [gaussian_filter(X.values.astype(float), s) for s in np.geomspace(0.3, 12.0, 24)]
        return X.copy(data=max(filtered, key=lambda image: psnr(image, true_image)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--images", type=int, default=24, help="of each set (default: 24)")
    parser.add_argument("--run", nargs=2, metavar=("NETWORK", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        one_run(arguments.run[0], int(arguments.run[1]), arguments.weights)
        return
    pd.set_option("display.width", 160)
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.weights}")
    for part in arguments.only:
        print(f"\n{part}")
        print(PARTS[part](arguments).to_string())


# --- cost --------------------------------------------------------------------------------------------------------


def speed(arguments: argparse.Namespace) -> pd.DataFrame:
    """Processor and elapsed seconds, the least of two runs, and peak memory of the process; what Python and torch take
    before is ``start``.
    """
    rows = []
    for size in SIZES:
        row: dict[str, object] = {"px": size}
        for name in NETWORKS:
            if name == "paper" and size > TOO_LARGE:
                continue
            call = [sys.executable, __file__, "--run", name, str(size), "--weights", arguments.weights]
            given = subprocess.run(call, capture_output=True, text=True, check=True)
            cpu, elapsed, peak, start = map(float, given.stdout.split())
            row |= {f"{name} CPU s": round(cpu, 2), f"{name} s": round(elapsed, 2), f"{name} GiB": round(peak, 2)}
            row |= {"start GiB": round(start, 2)}
        rows.append(row)
    return pd.DataFrame(rows).set_index("px")


def one_run(network: str, size: int, weights: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.poisson(5.0, (size, size)).astype(np.float32)
    if network == "paper":
        module = build(NetworkInfo(64, 8, 1, ("enhance",), "standard", None)).eval()
        # as published: batch norms are not folded into the convolutions
        run: Callable[[], object] = partial(_plain, module, image)
    else:
        denoiser = SFINDenoiser(weights=weights, mode="haadf", sampling=1, precision=network).fit(image[:64, :64])
        run = partial(denoiser.transform, image)
    start, times = _peak(), []
    for _ in range(1 if network == "paper" and size > 512 else 2):
        before = time.process_time(), time.perf_counter()
        run()
        times.append((time.process_time() - before[0], time.perf_counter() - before[1]))
    print(*np.min(times, axis=0), _peak(), start)


@torch.inference_mode()
def _plain(module: torch.nn.Module, image: np.ndarray) -> torch.Tensor:
    return module(torch.as_tensor(image)[None, None])


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# --- quality -----------------------------------------------------------------------------------------------------


def sizes(arguments: argparse.Namespace) -> pd.DataFrame:
    rows = []
    for dose in (3.0, 10.0, 30.0):
        pair = crystal(2048, dose)
        for size in (128, 256, 512, 1024, 2048):
            part = pair.isel(y=_middle(2048, size), x=_middle(2048, size))
            enhanced = SFINDenoiser(weights=arguments.weights).fit_transform(part["noisy"])
            at = {"y": _middle(size, 128), "x": _middle(size, 128)}
            rows.append((dose, size, psnr(enhanced.isel(at), part["enhance"].isel(at))))
    return pd.DataFrame(rows, columns=["dose", "px", "PSNR"]).pivot(index="dose", columns="px", values="PSNR").round(2)


def tiles(arguments: argparse.Namespace) -> pd.DataFrame:
    rows = []
    for dose in (3.0, 30.0):
        image = crystal(1536, dose)["noisy"]
        whole = SFINDenoiser(weights=arguments.weights).fit_transform(image).values
        for size in (512, 768, 1024):
            tiled = SFINDenoiser(weights=arguments.weights, tile_size=size).fit_transform(image).values
            error = (tiled - whole) / np.ptp(whole)
            rows.append((dose, size, np.sqrt((error**2).mean()), np.abs(error).max()))
    return pd.DataFrame(rows, columns=["dose", "tile", "RMS", "largest"]).set_index(["dose", "tile"]).round(4)


def sets(arguments: argparse.Namespace) -> pd.DataFrame:
    truth = {}
    for name in SETS:
        fixed = scenes(name, arguments.images).pairs
        for noisy, true_image in zip(fixed["noisy"].values, fixed["enhance"].values, strict=True):
            truth[noisy.tobytes()] = true_image
    methods = {"recorded": None, "oracle Gaussian": Oracle(truth), "stemkit": SFINDenoiser(weights=arguments.weights)}
    return summary(evaluate(methods, SETS, n=arguments.images))[0].round(3)


def truths(arguments: argparse.Namespace) -> pd.DataFrame:
    table = evaluate({"stemkit": SFINDenoiser(weights=arguments.weights)}, ["truths"])
    return summary(table)[1].droplevel("method").round(3)


# --- training ----------------------------------------------------------------------------------------------------


def training(arguments: argparse.Namespace) -> pd.DataFrame:
    """A microscope with strong streaks and few electrons: the shipped network, the same after training on what one of
    its images taught, and the best of a grid of small networks trained on pairs.
    """
    noise = NoiseModel(1.0, 0.1, scan=ScanNoise(0.15, 30.0), pointwise=PointwiseNoise.counted(4.0, background=0.5))
    mine = STEMSynthesizer(noise=noise, spacing=0.14, width=0.03, random_state=11)
    own, test_pairs = mine.sample(2), mine.set_params(random_state=12).sample(8)
    rows = {"recorded": np.mean([psnr(*pair) for pair in zip(test_pairs["noisy"], test_pairs["enhance"], strict=True)])}
    shipped = SFINDenoiser(weights=arguments.weights).fit(own["noisy"])
    rows["shipped"] = shipped.score(test_pairs["noisy"], test_pairs["enhance"])
    tuned = SFINDenoiser(weights=arguments.weights, fine_tune=True, lr=5e-4, max_epochs=6, random_state=0)
    rows["fine-tuned on two images without truth"] = tuned.fit(own["noisy"]).score(
        test_pairs["noisy"], test_pairs["enhance"]
    )
    small = SFINDenoiser(weights=None, max_epochs=4, n_blocks=2, random_state=0)
    search = GridSearchCV(small, {"n_channels": [16, 32], "lr": [1e-3, 4e-3]}, cv=2)
    pairs = mine.set_params(random_state=13).sample(12)
    search.fit(pairs["noisy"], pairs["enhance"])
    print(pd.DataFrame(search.cv_results_)[["params", "mean_test_score", "mean_fit_time"]].to_string())
    rows[f"best of the grid, {search.best_params_}"] = search.score(test_pairs["noisy"], test_pairs["enhance"])
    return pd.DataFrame({"PSNR": rows}).round(2)


# --- small pieces ------------------------------------------------------------------------------------------------


def crystal(size: int, dose: float) -> xr.Dataset:
    """A rotated crystal of two kinds of columns with vacancies, in counts."""
    cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6])
    columns = lattice(cell, (size, size), spacing=12.0, sigma=2.0, angle=17.0)
    columns = removed(columns, subset(columns, 0.03, torch.Generator().manual_seed(1)))
    noise = NoiseModel(1.0, 0.0, pointwise=PointwiseNoise.counted(dose, background=0.1 * dose))
    return STEMSynthesizer(shape=(size, size), noise=noise, random_state=3).record(columns).isel(image=0)


def _middle(n: int, size: int) -> slice:
    return slice((n - size) // 2, (n - size) // 2 + size)


PARTS: dict[str, Callable[[argparse.Namespace], pd.DataFrame]] = {
    "speed": speed,
    "sizes": sizes,
    "tiles": tiles,
    "sets": sets,
    "truths": truths,
    "training": training,
}

if __name__ == "__main__":
    main()
