"""The picture of the page on enhancing: ``python docs/images/enhancing.py`` writes ``enhancing.png``.

Multislice images (abTEM, frozen phonons) that were not used in training, with counting noise, streaks and jitter.
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
from saving import save

from stemkit import NoiseModel, PointwiseNoise, ScanNoise, SFINDenoiser
from stemkit.benchmark import simulated
from stemkit.metrics import psnr
from stemkit.plotting import show_image

#: Crystal, signal, electrons per pixel of the contrast, and of the background (chosen).
CASES = (
    ("graphene_silicon", "haadf", 3.0, 0.3),
    ("graphene_silicon", "haadf", 30.0, 1.5),
    ("gallium_nitride_11-20", "bf", 30.0, 60.0),
)
#: Edge of the simulated image, and of the part that is shown, px (chosen).
SIZE, SHOWN = 320, 120


def main() -> None:
    figure, axes = plt.subplots(len(CASES), 3, figsize=(7.6, 8.1), layout="constrained")
    denoiser = SFINDenoiser()
    for row, (crystal, mode, dose, background) in zip(axes, CASES, strict=True):
        true_image, truth = simulated(crystal, mode, shape=(SIZE, SIZE), pixel_size=0.01)
        noise = NoiseModel(
            float(np.ptp(true_image.values)),
            float(true_image.min()),
            mode,
            scan=ScanNoise(amplitude=0.03, length=20.0, jitter=0.4),
            pointwise=PointwiseNoise.counted(dose, background=background),
        )
        recorded = noise.apply(true_image, random_state=0).assign_attrs(mode=mode)
        enhanced = denoiser.fit_transform(recorded)
        sys.stdout.write(
            f"{crystal} {mode} {dose:g}: {psnr(recorded, true_image):.1f}, {psnr(enhanced, true_image):.1f} dB\n"
        )
        heavy = truth.loc[truth["weight"] > 0.9 * truth["weight"].max(), ["y_px", "x_px"]].to_numpy()
        center = heavy[np.argmin(np.hypot(*(heavy - SIZE / 2).T))].round().astype(int)
        part = {d: slice(max(0, c - SHOWN // 2), c + SHOWN // 2) for d, c in zip(("y", "x"), center, strict=True)}
        show_image(recorded.isel(part), row[0], f"{mode.upper()}, {dose:g} electrons per pixel")
        show_image(enhanced.isel(part), row[1], f"enhanced: {psnr(enhanced, true_image):.1f} dB")
        show_image(true_image.isel(part), row[2], "without noise")
    save(figure, "enhancing.png", dpi=80)


if __name__ == "__main__":
    main()
