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

from stemkit import NoiseModel, PointwiseNoise, ScanNoise, SFINDenoiser, STEMSynthesizer
from stemkit.metrics import psnr
from stemkit.plotting import show_image

microscope = NoiseModel(
    contrast=900.0,
    level=150.0,
    scan=ScanNoise(amplitude=0.25, length=np.inf, jitter=0.5),
    pointwise=PointwiseNoise(readout=0.3, gain=0.05, correlation_x=0.3),
)
mine = STEMSynthesizer(noise=microscope, arrangements=("lattice",), spacing=0.13, pixel_size=0.01, shape=(192, 192))
images = mine.set_params(random_state=21).sample(2)["noisy"]

# %%
# Training
# --------
# A few minutes on a GPU, or a night on a CPU, do more than the minute that this page takes. With ``verbose=1`` a bar
# shows loss, PSNR and the time that is left; ``checkpoint="mine.checkpoint"`` writes a file after each epoch, from
# which the same call goes on if it was interrupted.

shipped = SFINDenoiser().fit(images)
tuned = SFINDenoiser(fine_tune=True, lr=5e-4, max_epochs=4, batches_per_epoch=12, random_state=0).fit(images)
tuned.history_[["train_loss", "valid_loss", "valid_psnr", "dur"]].round(4)

# %%
# What it has brought
# -------------------
# On other images of the same microscope. Now their truth is looked at.

others = mine.set_params(random_state=22).sample(6)
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
# Where pairs are at hand, such as simulations of one's own material, ``fit(noisy, clean)`` trains on those, and
# ``weights=None`` begins from scratch, with an architecture of one's choice. The network is ``tuned.net_``, a plain
# torch module; :func:`stemkit.denoising.save_weights` writes it for ``SFINDenoiser(weights="mine.safetensors")``.
