"""Training on pairs of aligned frames: ``python benchmarks/noise2noise.py [--real FRAMES.npz]``.

Enhanced images by the shipped weights, by weights that are fine-tuned on synthetic pairs like a frame, and by weights
that are fine-tuned on the aligned frames of the series as well (Noise2Noise).

Simulated series, of particles with drift and jitter, have a truth: the PSNR of the enhanced average is printed, and
that of an enhanced frame of a second series of the same specimen, which is not used in training. In both the background
is compared without its slow changes.

Of a recorded series the first three frames are used in training. Their enhanced average, and the other frames, each
enhanced alone, are compared with the frames that are not used: the unbiased mean squared error of
:func:`stemkit.benchmark.repeat_frames`, ``<d^2> - 2 <d m> + <f_j f_k>`` of the enhanced image d with the mean m of the
others and products of different ones, over the variance of the true image. The last term is the same for all methods.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from series import TRAVEL, draw, psnr, true_average

from stemkit import SFINDenoiser
from stemkit.denoising.base import Denoiser
from stemkit.series import SeriesAligner

#: Frames of a recorded series that are used in training.
TRAINED = 3


def trained(aligned: xr.DataArray, frame: xr.DataArray, options: dict) -> dict[str, tuple[Denoiser, float]]:
    """The denoisers with the CPU minutes of their training."""
    fits = {
        "shipped": lambda: SFINDenoiser().fit(frame),
        "synthetic pairs": lambda: SFINDenoiser(fine_tune=True, random_state=0, **options).fit(frame),
        "and aligned frames": lambda: SFINDenoiser(fine_tune=True, random_state=0, **options).fit(aligned),
    }
    out = {}
    for name, fit in fits.items():
        start = time.process_time()
        denoiser = fit()
        out[name] = denoiser, (time.process_time() - start) / 60
    return out


def simulated(n_frames: int, dose: float, size: int, seed: int, options: dict) -> list[dict]:
    """PSNR of an enhanced average, and of an enhanced frame of another series."""
    case, other = (draw("particle", n_frames, dose, size, s, travel=TRAVEL * size) for s in (seed, seed + 1000))
    aligner = SeriesAligner(denoiser=None).fit(case.frames)
    average = aligner.transform(case.frames)
    truth = true_average(aligner.displacements_, case, average.shape)
    true_image = other.true_image.values[0].astype(float)
    rows = [
        {
            "method": "none",
            "average dB": psnr(average.values, truth),
            "frame dB": psnr(other.frames.values[0], true_image),
        }
    ]
    for name, (denoiser, minutes) in trained(aligner.aligned(case.frames), case.frames[0], options).items():
        scores = {
            "average dB": psnr(denoiser.transform(average).values, truth),
            "frame dB": psnr(denoiser.transform(other.frames[0]).values, true_image),
        }
        rows.append({"method": name, **scores, "CPU min": minutes})
    return rows


def real(path: Path, options: dict) -> list[dict]:
    """Unbiased mean squared errors of enhanced recorded images."""
    values = np.load(path)["frames"].astype(np.float64)
    frames = xr.DataArray(values, dims=("frame", "y", "x"), attrs={"mode": "haadf"})
    used, held_back = frames[:TRAINED], values[TRAINED:]
    aligned = SeriesAligner(rows=False, coverage=0.0).fit(used).aligned(used)
    products = np.einsum("ayx,byx->ab", held_back, held_back) / held_back[0].size
    off_diagonal = products[~np.eye(len(products), dtype=bool)].mean()
    signal = off_diagonal - held_back.mean() ** 2
    average = used.mean("frame", keep_attrs=True)

    def error(image: NDArray, frames_: list[NDArray]) -> float:
        """Squared error against the truth, which these frames show, over the variance of the truth."""
        shown = np.mean([(image * frame).mean() for frame in frames_])
        return float(((image**2).mean() - 2 * shown + off_diagonal) / signal)

    def alone(enhanced: list[NDArray]) -> float:
        return float(np.mean([error(one, [*held_back[:k], *held_back[k + 1 :]]) for k, one in enumerate(enhanced)]))

    rows = [{"method": "none", "average": error(average.values, [*held_back]), "frame": alone([*held_back])}]
    for name, (denoiser, minutes) in trained(aligned, used[0], options).items():
        frame = alone([denoiser.transform(one).values for one in frames[TRAINED:]])
        rows.append(
            {"method": name, "average": error(denoiser.transform(average).values, [*held_back]), "frame": frame}
            | {"CPU min": minutes}
        )
    return rows


def report(title: str, rows: list[dict]) -> None:
    print(f"\n{title}\n{pd.DataFrame(rows).groupby('method', sort=False).mean().round(4).to_string()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="an .npz file with the array frames")
    parser.add_argument("--doses", type=float, nargs="*", default=[3.0, 30.0])
    parser.add_argument("--series", type=int, default=1, help="simulated series of each dose")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batches", type=int, default=25)
    parser.add_argument("--crop", type=int, default=64)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    options = {"lr": arguments.lr, "max_epochs": arguments.epochs, "batches_per_epoch": arguments.batches}
    options["crop_size"] = arguments.crop
    if arguments.real is not None:
        report(
            f"{arguments.real.name}: squared error over the variance of the true image", real(arguments.real, options)
        )
    for dose in arguments.doses:
        rows = []
        for seed in range(arguments.series):
            rows += simulated(arguments.frames, dose, arguments.size, 17 * seed + 1, options)
        report(f"simulated, {arguments.frames} frames of {dose:g} electrons", rows)


if __name__ == "__main__":
    main()
