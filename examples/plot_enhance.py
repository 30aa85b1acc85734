"""
Enhance an image and check the residual
=======================================

A multislice simulation with the noise of few electrons per pixel is enhanced, and
compared with the truth. Two checks that need no truth follow: the residual, and the
spread over mirror images.
"""

# %%
# A simulated image, recorded with few electrons
# ----------------------------------------------
# Gallium nitride along [11-20] in ABF, simulated by abTEM with frozen phonons. In
# bright field columns are dark: ``mode="bf"``.

import matplotlib.pyplot as plt
import numpy as np

from stemkit import NoiseModel, PointwiseNoise, SFINDenoiser
from stemkit.benchmark import simulated
from stemkit.metrics import psnr, ssim
from stemkit.plotting import show_image

true_image, columns = simulated("gallium_nitride_11-20", "abf", shape=(256, 256))
dark, bright = float(true_image.min()), float(true_image.max())
electrons = PointwiseNoise.counted(
    10.0, background=10.0 * bright / (bright - dark), mode="bf"
)
microscope = NoiseModel(bright - dark, bright, "bf", pointwise=electrons)
recorded = microscope.apply(true_image, random_state=0).assign_attrs(mode="bf")

# %%
# Enhancement
# -----------
# The weights are part of the package. ``average_flips`` applies the network to the
# image and three mirror images. The result is an image in the units of the input, with
# the recorded pixels, the network's other maps, and the standard deviation of the four
# results as coordinates.

enhanced = SFINDenoiser(average_flips=True).fit_transform(recorded)
for name, image in {"recorded": recorded, "enhanced": enhanced}.items():
    quality = (
        f"PSNR {psnr(image, true_image):.1f} dB, SSIM {ssim(image, true_image):.2f}"
    )
    print(f"{name}: {quality}")
print("coordinates:", ", ".join(str(name) for name in enhanced.coords))

fig, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
for ax, (title, image) in zip(
    axes,
    {"recorded": recorded, "enhanced": enhanced, "truth": true_image}.items(),
    strict=True,
):
    show_image(image, ax, title)

# %%
# Residual and spread
# -------------------
# The residual, recorded minus enhanced image, should be noise alone: no lattice, no
# edges. Peaks of the lattice in its spectrum show that part of the specimen was removed
# with the noise. The spread of the four results is not an error bar: it does not
# contain errors that all four have in common.

residual = recorded - enhanced.drop_vars("recorded")


def spectrum(image):
    """Logarithm of the power spectrum at low frequencies, which contain the lattice."""
    power = (
        np.abs(np.fft.fftshift(np.fft.fft2(image.values - image.values.mean()))) ** 2
    )
    return np.log10(1e-6 + power[80:177, 80:177])


fig, axes = plt.subplots(1, 4, figsize=(16, 4.3), layout="constrained")
show_image(residual, axes[0], "recorded - enhanced")
show_image(enhanced.coords["uncertainty"], axes[1], "spread of the four results")
show_image(spectrum(recorded), axes[2], "spectrum of the recorded image")
show_image(spectrum(residual), axes[3], "spectrum of the residual")

# %%
# Measure in the recorded pixels, not in the enhanced ones.
# :class:`~stemkit.AtomDetector` does so for an enhanced image: it finds columns in the
# enhanced image, and fits them in the recorded pixels.
