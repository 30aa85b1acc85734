"""Enhancement and detection on scenes with known truth: ``python benchmarks/scenes.py FOLDER``.

FOLDER contains ``scenes.npz`` (NAME_clean, NAME_d5_noisy, NAME_d30_noisy, NAME_pos) and ``vacancies.npz`` (clean, d3,
d5, d30, columns, vacancies); positions are (y, x) in px. PSNR and SSIM are after an affine fit to the truth; columns
within 4 px of the border are left out; columns are matched within a third of the nearest-neighbour distance."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser
from stemkit.metrics import match_columns, psnr, ssim
from stemkit.statistics import median_spacing

BORDER = 4
HALF_CELL = 8.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--flips", action="store_true")
    arguments = parser.parse_args()
    denoiser = SFINDenoiser(mode="haadf", weights=arguments.weights, average_flips=arguments.flips)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    table = enhancement(np.load(arguments.folder / "scenes.npz"), denoiser)
    print(table.round(3).to_string(index=False))
    print(table.drop(columns=["scene"]).mean().round(3).to_string())
    print(vacancies(np.load(arguments.folder / "vacancies.npz"), denoiser).round(3).to_string(index=False))


def enhancement(scenes: np.lib.npyio.NpzFile, denoiser: SFINDenoiser) -> pd.DataFrame:
    """PSNR, SSIM and F1 of each noisy image."""
    rows = []
    for name in sorted(key.removesuffix("_noisy") for key in scenes if key.endswith("_noisy")):
        scene = name.rsplit("_", 1)[0]
        true_image, true = scenes[f"{scene}_clean"].astype(float), scenes[f"{scene}_pos"]
        noisy = xr.DataArray(scenes[f"{name}_noisy"], dims=("y", "x"), attrs={"mode": "haadf"})
        labeled = NoiseCalibrator().fit_transform(noisy)
        enhanced = denoiser.fit_transform(labeled)
        before, after = (fitted(image.values, true_image) for image in (noisy, enhanced))
        rows.append(
            {
                "scene": name,
                "PSNR raw": psnr(before, true_image),
                "PSNR": psnr(after, true_image),
                "SSIM raw": ssim(before, true_image),
                "SSIM": ssim(after, true_image),
                "F1 raw": f1(labeled, true),
                "F1": f1(enhanced, true),
            }
        )
    return pd.DataFrame(rows)


def vacancies(scenes: np.lib.npyio.NpzFile, denoiser: SFINDenoiser) -> pd.DataFrame:
    """Contrast of the enhanced image at planted vacancies, relative to that of a column: 0 is correct."""
    rows = []
    for dose in ("d3", "d5", "d30"):
        enhanced = np.asarray(denoiser.fit_transform(scenes[dose].astype(np.float64)))
        between = np.median(patches(enhanced, scenes["columns"] + HALF_CELL))
        column = np.median(patches(enhanced, scenes["columns"]))
        left = (patches(enhanced, scenes["vacancies"]) - between) / (column - between)
        rows.append({"dose": dose, "contrast left, mean": left.mean(), "largest": left.max()})
    return pd.DataFrame(rows)


def f1(image: xr.DataArray, true: NDArray) -> float:
    """F1 of the columns away from the border."""

    def away(positions: NDArray) -> NDArray:
        return positions[((positions >= BORDER) & (positions < np.array(image.shape) - BORDER)).all(axis=1)]

    found = AtomDetector().fit_transform(image)[["y_px", "x_px"]].to_numpy()
    return match_columns(away(found), away(true), median_spacing(true) / 3).f1


def fitted(image: NDArray, truth: NDArray) -> NDArray:
    """The image after the affine fit of its intensities to the truth."""
    gain, offset = np.polyfit(image.ravel().astype(float), truth.ravel(), 1)
    return gain * image + offset


def patches(image: NDArray, positions: NDArray) -> NDArray:
    """Means of 3 x 3 px at positions within the image."""
    centers = np.round(positions).astype(int)
    centers = centers[((centers >= 1) & (centers < np.array(image.shape) - 1)).all(axis=1)]
    return np.array([image[y - 1 : y + 2, x - 1 : x + 2].mean() for y, x in centers])


if __name__ == "__main__":
    main()
