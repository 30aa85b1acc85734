"""
When not to trust it
====================

An enhanced image is an estimate: what an image of this kind usually shows, given these pixels. This page shows where
that goes wrong, and how stemkit says so.
"""

# %%
# A shifted column is drawn towards its site
# ------------------------------------------
#
# A crystal all of whose columns stand a little beside their places. Positions are fitted to the enhanced image, as one
# should not, and to the recorded pixels, as :class:`~stemkit.AtomDetector` does:
import matplotlib.pyplot as plt
import numpy as np

from stemkit import AtomDetector, NoiseModel, PointwiseNoise, SFINDenoiser, STEMSynthesizer
from stemkit.benchmark.localisation import displaced_crystal
from stemkit.columns import fit_columns
from stemkit.detection import good_columns

fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharex=True, sharey=True, layout="constrained")
for ax, dose in zip(axes, (3.0, 10.0, 30.0), strict=True):
    image, true, ideal, _ = displaced_crystal(dose, seed=1)
    enhanced = SFINDenoiser().fit_transform(image)
    fits = fit_columns(enhanced.values, np.round(true), 2.6)
    measured = AtomDetector().fit(image).measure(image, np.round(true))
    asked = (true - ideal).ravel()
    for name, found, colour in (
        ("fitted to the enhanced image", np.column_stack([fits.y, fits.x]), "tab:red"),
        ("fitted to the recorded pixels", measured[["y_px", "x_px"]].to_numpy(), "tab:blue"),
    ):
        shown = (found - ideal).ravel()
        known = np.isfinite(shown) & (np.abs(shown - asked) < 3)
        slope = (shown[known] @ asked[known]) / (asked[known] @ asked[known])
        ax.plot(asked, shown, ".", ms=2, color=colour, label=f"{name}: slope {slope:.2f}")
    ax.plot([-2, 2], [-2, 2], color="k", lw=0.8)
    ax.set(title=f"{dose:g} electrons per pixel", xlabel="true displacement (px)", xlim=(-2, 2), ylim=(-2, 2))
    ax.legend(fontsize=6, loc="upper left")
axes[0].set_ylabel("found (px)")

# %%
# The recorded pixels scatter about the truth. The enhanced image scatters less, and about something else: a smaller
# displacement. At a low dose strain, polarisation and relaxation come out too small, with a spread that looks good.
# That is why the table of columns is measured on the recorded pixels, whatever was enhanced before.
#
# There may be nothing
# --------------------
#
# Two images without a single column: counted electrons, and grain like that of an amorphous film.
rng = np.random.default_rng(0)
counts = rng.poisson(3.0, (256, 256)).astype(float)
grain = NoiseModel(1.0, 0.0, "haadf", pointwise=PointwiseNoise(readout=0.4)).apply(np.zeros((256, 256)), random_state=1)
spectrum = np.fft.rfft2(rng.normal(size=(256, 256)))
size = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256))
film = np.fft.irfft2(spectrum * np.exp(-((size / 0.06) ** 2)), s=(256, 256))
film = film / film.std() + grain
fig, axes = plt.subplots(2, 2, figsize=(6, 6), layout="constrained")
for row, (name, image) in zip(axes, {"counts": counts, "film": film}.items(), strict=True):
    enhanced = SFINDenoiser(mode="haadf", sampling=1).fit_transform(image)
    table = AtomDetector(mode="haadf").fit_transform(image)
    for ax, values, title in zip(row, (image, enhanced), (name, "enhanced"), strict=True):
        ax.imshow(values, cmap="gray", vmin=image.min(), vmax=image.max())
        ax.set(title=title, xticks=[], yticks=[])
    good = good_columns(table)
    row[1].plot(good["x_px"], good["y_px"], "y.", ms=3)
    print(f"{name}: {len(table)} columns found, {len(good)} of them good")

# %%
# The network removes pure noise. It does not remove the grain of a film, which is as large as columns, and some of it
# looks like columns in the enhanced image. The detector analyses the recorded image: where nothing is periodic, a
# column has to exceed the variation of the support (:doc:`/measuring`). Columns that are found in such an image have no
# lattice (:func:`~stemkit.structure.fit_lattices`).
#
# The network's own doubt
# -----------------------
#
# ``average_flips=True`` shows the network the four mirror images. Where it answers them differently it does not know;
# the spread comes as the coordinate ``uncertainty``. Here, a crystal that ends, at two electrons per pixel:
from stemkit.compute import torch_generator  # noqa: E402
from stemkit.synthesis import cropped, half_plane, lattice, planar_cell, removed, subset  # noqa: E402

crystal = lattice(planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6]), (256, 256), spacing=16.0)
crystal = cropped(crystal, half_plane((128.0, 128.0), 30.0))
crystal = removed(crystal, subset(crystal, 0.05, torch_generator(0)))
noise = NoiseModel(pointwise=PointwiseNoise.counted(2.0, background=0.2))
pair = STEMSynthesizer(noise=noise, random_state=0).record(crystal).isel(image=0)
enhanced = SFINDenoiser(average_flips=True).fit_transform(pair["noisy"])
doubt = np.asarray(enhanced.coords["uncertainty"])
error = np.abs(enhanced.values - pair["enhance"].values)
fig, axes = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained")
panels = {"recorded": pair["noisy"], "enhanced": enhanced, "uncertainty": doubt, "true error": error}
for ax, (title, values) in zip(axes, panels.items(), strict=True):
    ax.imshow(np.asarray(values), cmap="gray" if title in ("recorded", "enhanced") else "magma", vmin=0)
    ax.set(title=title, xticks=[], yticks=[])
order = np.argsort(doubt, axis=None)
certain, doubtful = order[: doubt.size // 2], order[-doubt.size // 10 :]
print(f"RMS error where the network is sure: {np.sqrt((error.ravel()[certain] ** 2).mean()):.3f} of the contrast")
print(f"and where it doubts most: {np.sqrt((error.ravel()[doubtful] ** 2).mean()):.3f}")
print(f"RMS uncertainty {np.sqrt((doubt**2).mean()):.3f}, RMS error {np.sqrt((error**2).mean()):.3f}")

# %%
# It doubts where it errs, but too little: what all four mirror images get wrong alike, such as a vacancy that no
# electron shows, has no spread. Read it as a lower bound.
#
# And else
# --------
#
# - *Intensities.* What is rare is drawn towards what is usual: heights of columns differ less than they should
#   (:doc:`/enhancing` has the figures). ``amplitude`` and ``intensity`` of the table are measured on recorded pixels.
# - *Slow variation* of up to about a tenth of the contrast is taken for noise and removed. Stronger variation stays.
# - *Spacings* below those of the training: an image with little noise is resampled to a finer grid and the result
#   brought back; one with more noise is not improved by it. Where columns are sampled too coarsely, a warning says so.
# - *Other images.* It knows columns. Diffraction patterns, spectra and images without atomic resolution come out as
#   something that they are not.
