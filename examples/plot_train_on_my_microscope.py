"""
Train on my own microscope
==========================

The shipped network was trained on the noise of many microscopes. With ``fine_tune=True`` it is trained on that of one:
:meth:`~stemkit.SFINDenoiser.fit` measures the noise, the spacing and the contrast of the given images, synthesises
pairs like them, and continues training on these. No image without noise is needed.
"""

# %%
# Images from a scan with strong streaks
# --------------------------------------
# They stand for recorded images: their truth is used only at the end.

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from stemkit import NoiseModel, PointwiseNoise, ScanNoise, SFINDenoiser, STEMSynthesizer
from stemkit.compute import torch_generator
from stemkit.metrics import psnr
from stemkit.plotting import show_image
from stemkit.synthesis import displaced_randomly, lattice, planar_cell, removed, subset

microscope = NoiseModel(
    contrast=900.0,
    level=150.0,
    scan=ScanNoise(amplitude=0.25, length=np.inf, jitter=0.5),
    pointwise=PointwiseNoise(readout=0.3, gain=0.05, correlation_x=0.3),
)


def record(angle: float, seed: int) -> xr.Dataset:
    """One image of the crystal, rotated by an angle (degrees), with random vacancies."""
    perovskite = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.45])
    generator = torch_generator(seed)
    crystal = displaced_randomly(lattice(perovskite, (256, 256), spacing=11.0, sigma=2.6, angle=angle), 0.2, generator)
    crystal = removed(crystal, subset(crystal, 0.03, generator))
    return STEMSynthesizer(noise=microscope, pixel_size=0.01, random_state=seed).record(crystal)


mine = record(angle=8.0, seed=1)["noisy"]

# %%
# Training
# --------
# Training is limited to a minute here; a few minutes on a GPU, or a night on a CPU, give better results. With
# ``verbose=1`` a progress bar shows loss, PSNR and the remaining time; ``checkpoint="mine.checkpoint"`` writes a file
# after each epoch, from which the same call resumes after an interruption.

shipped = SFINDenoiser().fit(mine)
tuned = SFINDenoiser(fine_tune=True, lr=1e-3, max_epochs=5, batches_per_epoch=20, random_state=0).fit(mine)
tuned.history_[["train_loss", "valid_loss", "valid_psnr", "dur"]].round(4)

# %%
# Result
# ------
# Peak signal-to-noise ratio of other images of the same microscope, whose truth is known here.

others = xr.concat([record(angle, seed) for angle, seed in ((25.0, 2), (40.0, 3), (60.0, 4))], "image")
before = np.mean([psnr(*pair) for pair in zip(others["noisy"].values, others["enhance"].values, strict=True)])
for name, denoiser in {"shipped": shipped, "fine-tuned": tuned}.items():
    print(f"{name:>10}: {denoiser.score(others['noisy'], others['enhance']):.2f} dB")
print(f"  recorded: {before:.2f} dB")

fig, axes = plt.subplots(1, 4, figsize=(15, 4.1), layout="constrained")
shown = {
    "recorded": others["noisy"][0],
    "shipped network": shipped.transform(others["noisy"][0]),
    "fine-tuned": tuned.transform(others["noisy"][0]),
    "truth": others["enhance"][0],
}
for ax, (title, image) in zip(axes, shown.items(), strict=True):
    show_image(image, ax, title)

# %%
# The gain is small for noise that resembles that of the training of the shipped weights; it increases with the
# difference, and with the time of training. Always compare on an image that was not used for training: the synthesised
# images resemble the specimen only in the noise, the spacing and the widths that were measured, which are inaccurate
# for an image that is mostly support film or whose columns overlap.
#
# If pairs are available, such as simulations of a material, ``fit(noisy, true_images)`` trains on those, and
# ``weights=None`` starts from random weights, with any architecture. The network is ``tuned.net_``, a torch module;
# :func:`stemkit.denoising.save_weights` writes it for ``SFINDenoiser(weights="mine.safetensors")``.
