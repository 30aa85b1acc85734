"""Training on pairs of aligned frames: ``python benchmarks/noise2noise.py [--real FRAMES.npz]``.

One frame of a series is left out. The mean of the others is enhanced with the shipped weights, with weights that are
fine-tuned on synthetic pairs like this mean, and with weights that are fine-tuned on pairs of the means of two halves
of these frames (Lehtinen et al., "Noise2Noise", ICML 2018, https://arxiv.org/abs/1803.04189): the noise of one half is
not predictable from the other, so that the squared error is smallest for the image without noise. The results are
compared with the frame that was left out, and in simulated series with the truth.

The mean squared difference from the frame left out is the error plus the noise of this frame, which is the same for
all: its difference from that of the shipped weights is printed, in percent of the variance of the noise that remains
in the mean, with its standard error over the frames left out; negative is better.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit import NoiseModel, PointwiseNoise, SFINDenoiser
from stemkit.denoising.base import Denoiser
from stemkit.metrics import psnr
from stemkit.series import draw_series
from stemkit.synthesis import cropped, facets, lattice, planar_cell


def simulated(n_frames: int, dose: float, seed: int, size: int = 128) -> tuple[NDArray, NDArray]:
    """Aligned frames of a particle, and the image without noise."""
    cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.5])
    columns = lattice(cell, (size, size), spacing=8.0, sigma=1.9, angle=8.0 + 10 * seed, margin=20.0)
    particle = cropped(columns, facets((0.48 * size, 0.52 * size), 0.4 * size, angle=10.0))
    noise = NoiseModel(dose, 0.2 * dose, pointwise=PointwiseNoise.counted(dose, background=0.2 * dose))
    still = np.zeros((n_frames, size, 2))
    frames = draw_series(particle, still, shape=(size, size), noise=noise, random_state=seed)
    clean = draw_series(particle, still[:1], shape=(size, size), noise=NoiseModel(dose, 0.2 * dose))
    return frames.values, clean.values[0]


def halves(frames: NDArray) -> tuple[list[NDArray], list[NDArray]]:
    """Means of every half of the frames, and of the other half."""
    numbers = range(len(frames))
    noisy, target = [], []
    for chosen in itertools.combinations(numbers, len(frames) // 2):
        rest = [i for i in numbers if i not in chosen]
        for a, b in ((list(chosen), rest), (rest, list(chosen))):
            noisy.append(frames[a].mean(axis=0))
            target.append(frames[b].mean(axis=0))
    # pairs at the end are used for validation
    order = np.random.default_rng(0).permutation(len(noisy))
    return [noisy[i] for i in order], [target[i] for i in order]


def trained(frames: NDArray, options: dict) -> dict[str, Denoiser]:
    """The denoisers, fitted to the frames that are not left out."""
    mean = frames.mean(axis=0)
    return {
        "shipped": SFINDenoiser(mode="haadf").fit(mean),
        "synthetic pairs": SFINDenoiser(mode="haadf", fine_tune=True, random_state=0, **options).fit(mean),
        "pairs of frames": SFINDenoiser(mode="haadf", fine_tune=True, random_state=0, loss="l2", **options).fit(
            *halves(frames)
        ),
    }


def left_out(frames: NDArray, k: int, truth: NDArray | None, options: dict) -> list[dict]:
    """Scores of the mean of all frames but one."""
    others = np.delete(frames, k, axis=0)
    mean = others.mean(axis=0)
    remaining = others.var(axis=0, ddof=1).mean() / len(others)
    start = time.process_time()
    methods = trained(others, options)
    minutes = (time.process_time() - start) / 60
    rows = []
    for name, image in {"mean": mean} | {name: d.transform(mean) for name, d in methods.items()}.items():
        score = {"method": name, "left out": k, "difference": float(((frames[k] - image) ** 2).mean() / remaining)}
        rows.append(score | ({} if truth is None else {"PSNR": psnr(image, truth)}) | {"CPU min": minutes})
    return rows


def report(title: str, rows: list[dict]) -> None:
    table = pd.DataFrame(rows)
    by_frame = table.pivot_table("difference", ["series", "left out"], "method", sort=False)
    relative = 100 * by_frame.sub(by_frame["shipped"], axis=0)
    out = pd.DataFrame({"% of noise": relative.mean(), "+-": relative.std() / np.sqrt(len(relative))})
    if "PSNR" in table:
        out["PSNR"] = table.groupby("method")["PSNR"].mean()
    print(
        f"\n{title}, {table['CPU min'].mean():.1f} CPU minutes for both trainings\n{out.round(2).to_string()}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="an .npz file with the array frames, aligned")
    parser.add_argument("--bin", type=int, default=2, help="pixels of --real that are averaged along each axis")
    parser.add_argument("--doses", type=float, nargs="*", default=[3.0, 20.0])
    parser.add_argument("--series", type=int, default=2, help="simulated series of each dose")
    parser.add_argument("--left-out", type=int, default=2, help="frames of each series that are left out in turns")
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    options = {"lr": arguments.lr, "max_epochs": arguments.epochs, "crop_size": 64}
    for dose in arguments.doses:
        rows = []
        for seed in range(arguments.series):
            frames, truth = simulated(arguments.frames, dose, seed)
            for k in range(arguments.left_out):
                rows += [row | {"series": seed} for row in left_out(frames, k, truth, options)]
        report(f"simulated, {arguments.frames} frames of {dose:g} electrons", rows)
    if arguments.real is not None:
        frames = np.load(arguments.real)["frames"].astype(np.float64)
        n, b = frames.shape[1] // arguments.bin, arguments.bin
        frames = frames[:, : n * b, : n * b].reshape(len(frames), n, b, n, b).mean(axis=(2, 4))
        rows = [row | {"series": 0} for k in range(arguments.left_out) for row in left_out(frames, k, None, options)]
        report(arguments.real.name, rows)


if __name__ == "__main__":
    main()
