"""
Enhance an image, and look at what was taken away
=================================================

The image is a multislice simulation: physics that no part of stemkit has drawn, with the noise of a few electrons per
pixel. Its truth is known, so that one can see what enhancement gets right, and where it is unsure.
"""

# %%
# A simulated image, recorded with few electrons
# ----------------------------------------------
# Gallium nitride along [11-20] in ABF, by abTEM with frozen phonons. In bright field columns are dark: ``mode`` says
# that.

import matplotlib.pyplot as plt
import numpy as np

from stemkit import NoiseModel, PointwiseNoise, SFINDenoiser
from stemkit.benchmark import simulated
from stemkit.metrics import psnr, ssim
from stemkit.plotting import show_image

clean, columns = simulated("gallium_nitride_11-20", "abf", shape=(256, 256))
dark, bright = float(clean.min()), float(clean.max())
electrons = PointwiseNoise.counted(10.0, background=10.0 * bright / (bright - dark), mode="bf")
microscope = NoiseModel(bright - dark, bright, "bf", pointwise=electrons)
recorded = microscope.apply(clean, random_state=0).assign_attrs(mode="bf")

# %%
# One line
# --------
# The weights come with the package; ``average_flips`` asks the network four times, about the image and its mirror
# images. What comes back is an image like the one that went in, in its units, with the recorded pixels, the network's
# other maps, and the spread of the four answers as coordinates.

enhanced = SFINDenoiser(average_flips=True).fit_transform(recorded)
print(f"PSNR {psnr(recorded, clean):.1f} dB as recorded, {psnr(enhanced, clean):.1f} dB enhanced")
print(f"SSIM {ssim(recorded, clean):.2f} as recorded, {ssim(enhanced, clean):.2f} enhanced")
print("carried along:", ", ".join(str(name) for name in enhanced.coords))

fig, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
for ax, (title, image) in zip(axes, {"recorded": recorded, "enhanced": enhanced, "truth": clean}.items(), strict=True):
    show_image(image, ax, title)

# %%
# What was taken away, and where the network is unsure
# ----------------------------------------------------
# The residual, what was recorded less what came out, should be noise and nothing else: no lattice, no edges. Where its
# spectrum shows the peaks of the lattice, some of the specimen went with the noise. The spread of the four answers is
# no error bar. It is large where the answer depends on how the question is put, and says nothing of what all four have
# in common.

residual = recorded - enhanced.drop_vars("recorded")


def spectrum(image):
    """The low frequencies of the power spectrum, where the lattice is, on a logarithmic scale."""
    power = np.abs(np.fft.fftshift(np.fft.fft2(image.values - image.values.mean()))) ** 2
    return np.log10(1e-6 + power[80:177, 80:177])


fig, axes = plt.subplots(1, 4, figsize=(16, 4.3), layout="constrained")
show_image(residual, axes[0], "recorded - enhanced")
show_image(enhanced.coords["uncertainty"], axes[1], "spread of four answers")
show_image(spectrum(recorded), axes[2], "spectrum of what was recorded")
show_image(spectrum(residual), axes[3], "spectrum of the residual")

# %%
# Measure on the recorded pixels, not on the enhanced ones: :class:`~stemkit.AtomDetector` does, when it is given an
# enhanced image. It finds columns in what the network shows, and fits them to what was recorded.
