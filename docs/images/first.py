"""The first figure of the README: ``python docs/images/first.py`` writes ``first.png`` into the folder of this file.

A multislice image (abTEM, frozen phonons) of silicon atoms in graphene that was not used in training, with counting
noise and streaks. The pipeline has no information on the truth.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import Pipeline

from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise, SFINDenoiser
from stemkit.benchmark import simulated
from stemkit.metrics import match_columns, psnr
from stemkit.plotting import show_columns, show_image

CRYSTAL = "graphene_silicon"
#: Electrons per pixel at the brightest point, above the darkest (chosen).
DOSE = 40.0
#: Background, as a fraction of the dose (chosen).
BACKGROUND = 0.05
#: Edge of the simulated image, and of the part that is shown, px (chosen).
SIZE = 384
SHOWN = 176


def main(crystal: str = CRYSTAL, dose: float = DOSE, shown: int = SHOWN) -> None:
    true_image, truth = simulated(crystal, "haadf", shape=(SIZE, SIZE), pixel_size=0.01)
    level, contrast = float(true_image.min()), float(np.ptp(true_image.values))
    microscope = NoiseModel(
        contrast,
        level,
        "haadf",
        scan=ScanNoise(amplitude=0.03, length=20.0),
        pointwise=PointwiseNoise.counted(dose, background=BACKGROUND * dose),
    )
    recorded = microscope.apply(true_image, random_state=0).assign_attrs(mode="haadf")
    pipeline = Pipeline([("noise", NoiseCalibrator()), ("denoise", SFINDenoiser()), ("atoms", AtomDetector())])
    columns = pipeline.fit_transform(recorded)
    enhanced = pipeline[:-1].transform(recorded)
    match = match_columns(columns[["y", "x"]], truth[["y", "x"]], pipeline["atoms"].spacing_ / 3)
    sys.stdout.write(
        f"{psnr(recorded, true_image):.1f} dB recorded, {psnr(enhanced, true_image):.1f} dB enhanced; "
        f"{len(truth)} columns, "
        f"{len(columns)} found, F1 {match.f1:.3f}, RMS {1e3 * match.rms[0]:.1f}, {1e3 * match.rms[1]:.1f} pm, stated "
        f"{1e3 * columns['y_err'].median():.1f} pm\n"
    )
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.45), layout="constrained")
    heavy = truth.loc[truth["weight"] > 0.9 * truth["weight"].max(), ["y_px", "x_px"]].to_numpy()
    center = heavy[np.argmin(np.hypot(*(heavy - SIZE / 2).T))].round().astype(int)
    part = {d: slice(max(0, c - shown // 2), c + shown // 2) for d, c in zip(("y", "x"), center, strict=True)}
    show_image(recorded.isel(part), axes[0], f"recorded, {dose:g} electrons per pixel on silicon")
    show_image(enhanced.isel(part), axes[1], "enhanced")
    show_columns(recorded.isel(part), columns, axes[2], "measured in the recorded pixels", error_scale=5.0)
    figure.savefig(Path(__file__).with_name("first.png"), dpi=110)


if __name__ == "__main__":
    main()
