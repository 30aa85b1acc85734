"""
Train on my own microscope
==========================

The network that ships knows the noise of many microscopes a little. ``fine_tune=True`` makes it learn that of one:
:meth:`~stemkit.SFINDenoiser.fit` measures the noise, the spacing and the contrast of the images it is given,
synthesises pairs like them, and goes on training on those. No image without noise is needed.
"""

# %%
# Images from a scan with strong streaks
# --------------------------------------
# They stand for one's own: nothing below looks at their truth until the end.

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from stemkit import NoiseModel, PointwiseNoise, ScanNoise, SFINDenoiser, STEMSynthesizer
from stemkit.compute import torch_generator
from stemkit.metrics import psnr
from stemkit.plotting import show_image
from stemkit.synthesis import displaced_randomly, lattice, planar_cell, removed, some

microscope = NoiseModel(
    contrast=900.0,
    level=150.0,
    scan=ScanNoise(amplitude=0.25, length=np.inf, jitter=0.5),
    pointwise=PointwiseNoise(readout=0.3, gain=0.05, correlation_x=0.3),
)


def record(angle: float, seed: int) -> xr.Dataset:
    """One image of the crystal, turned by an angle, with vacancies of its own."""
    perovskite = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.45])
    generator = torch_generator(seed)
    crystal = displaced_randomly(lattice(perovskite, (256, 256), spacing=11.0, sigma=2.6, angle=angle), 0.2, generator)
    crystal = removed(crystal, some(crystal, 0.03, generator))
    return STEMSynthesizer(noise=microscope, pixel_size=0.01, random_state=seed).record(crystal)


mine = record(angle=8.0, seed=1)["noisy"]

# %%
# Training
# --------
# A few minutes on a GPU, or a night on a CPU, do more than the minute that this page takes. With ``verbose=1`` a bar
# shows loss, PSNR and the time that is left; ``checkpoint="mine.checkpoint"`` writes a file after each epoch, from
# which the same call goes on if it was interrupted.

shipped = SFINDenoiser().fit(mine)
tuned = SFINDenoiser(fine_tune=True, lr=1e-3, max_epochs=5, batches_per_epoch=20, random_state=0).fit(mine)
tuned.history_[["train_loss", "valid_loss", "valid_psnr", "dur"]].round(4)

# %%
# What it has brought
# -------------------
# On other images of the same microscope. Now their truth is looked at.

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
# Gains are small where the shipped weights know such noise already; they grow with what is unusual about the
# microscope, and with the time that training is given. Always compare on an image that was not trained on: what is
# synthesised is only as much like the specimen as the noise, the spacing and the widths that were found in it, and an
# image that is mostly film or whose columns merge gives poor ones.
#
# Where pairs are at hand, such as simulations of one's own material, ``fit(noisy, clean)`` trains on those, and
# ``weights=None`` begins from scratch, with an architecture of one's choice. The network is ``tuned.net_``, a plain
# torch module; :func:`stemkit.denoising.save_weights` writes it for ``SFINDenoiser(weights="mine.safetensors")``.
