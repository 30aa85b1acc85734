"""
Limits of enhanced images
=========================

An enhanced image is an estimate that combines the recorded pixels with the statistics
of the training images. This page shows where it is wrong, and how to notice it.
"""

# %%
# Displaced columns are biased towards their sites
# ------------------------------------------------
#
# All columns of this crystal are randomly displaced. Positions are fitted to the
# enhanced image, which is wrong, and to the recorded pixels, as
# :class:`~stemkit.AtomDetector` does:
import matplotlib.pyplot as plt
import numpy as np

from stemkit import (
    AtomDetector,
    NoiseModel,
    PointwiseNoise,
    SFINDenoiser,
    STEMSynthesizer,
)
from stemkit.benchmark.localization import displaced_crystal
from stemkit.columns import fit_columns
from stemkit.detection import good_columns

fig, axes = plt.subplots(
    1, 3, figsize=(9, 3.2), sharex=True, sharey=True, layout="constrained"
)
for ax, dose in zip(axes, (3.0, 10.0, 30.0), strict=True):
    crystal = displaced_crystal(dose, seed=1)
    image, true, ideal = crystal.image, crystal.true, crystal.ideal
    enhanced = SFINDenoiser().fit_transform(image)
    fits = fit_columns(enhanced.values, np.round(true), 2.6)
    measured = AtomDetector().fit(image).measure(image, np.round(true))
    displacement = (true - ideal).ravel()
    for name, found, color in (
        ("fitted to the enhanced image", np.column_stack([fits.y, fits.x]), "tab:red"),
        (
            "fitted to the recorded pixels",
            measured[["y_px", "x_px"]].to_numpy(),
            "tab:blue",
        ),
    ):
        shown = (found - ideal).ravel()
        known = np.isfinite(shown) & (np.abs(shown - displacement) < 3)
        x = displacement[known]
        slope = (shown[known] @ x) / (x @ x)
        ax.plot(
            displacement,
            shown,
            ".",
            ms=2,
            color=color,
            label=f"{name}: slope {slope:.2f}",
        )
    ax.plot([-2, 2], [-2, 2], color="k", lw=0.8)
    ax.set(
        title=f"{dose:g} electrons per pixel",
        xlabel="true displacement (px)",
        xlim=(-2, 2),
        ylim=(-2, 2),
    )
    ax.legend(fontsize=6, loc="upper left")
axes[0].set_ylabel("measured displacement (px)")

# %%
# Positions from the recorded pixels scatter around the true ones. Those from the
# enhanced image scatter less, but around smaller displacements: at a low dose strain,
# polarisation and relaxation are underestimated, with a small scatter that hides the
# bias. Therefore the table of columns is always measured in the recorded pixels.
#
# Images without columns
# ----------------------
#
# Two images without columns: counted electrons, and structure like that of an amorphous
# film.
rng = np.random.default_rng(0)
counts = rng.poisson(3.0, (256, 256)).astype(float)
grain = NoiseModel(1.0, 0.0, "haadf", pointwise=PointwiseNoise(readout=0.4)).apply(
    np.zeros((256, 256)), random_state=1
)
spectrum = np.fft.rfft2(rng.normal(size=(256, 256)))
size = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256))
film = np.fft.irfft2(spectrum * np.exp(-((size / 0.06) ** 2)), s=(256, 256))
film = film / film.std() + grain
fig, axes = plt.subplots(2, 2, figsize=(6, 6), layout="constrained")
for row, (name, image) in zip(
    axes, {"counts": counts, "film": film}.items(), strict=True
):
    enhanced = SFINDenoiser(mode="haadf", sampling=1).fit_transform(image)
    table = AtomDetector(mode="haadf").fit_transform(image)
    for ax, values, title in zip(
        row, (image, enhanced), (name, "enhanced"), strict=True
    ):
        ax.imshow(values, cmap="gray", vmin=image.min(), vmax=image.max())
        ax.set(title=title, xticks=[], yticks=[])
    good = good_columns(table)
    row[1].plot(good["x_px"], good["y_px"], "y.", ms=3)
    print(f"{name}: {len(table)} columns found, {len(good)} of them good")

# %%
# The network removes pure noise. It does not remove the structure of a film, which is
# as large as columns, and some of it looks like columns in the enhanced image. The
# detector analyses the recorded image: where nothing is periodic, a column has to
# exceed the variation of the support (:doc:`/measuring`). Columns that are found in
# such an image have no lattice (:func:`~stemkit.structure.fit_lattices`).
#
# Spread over mirror images
# -------------------------
#
# ``average_flips=True`` applies the network to the four mirror images. The standard
# deviation of its results is the coordinate ``uncertainty``. Here, the edge of a
# crystal with vacancies at two electrons per pixel:
from stemkit.compute import torch_generator  # noqa: E402
from stemkit.synthesis import cropped, half_plane, lattice, planar_cell, removed, subset  # noqa: E402

crystal = lattice(
    planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6]),
    (256, 256),
    spacing=16.0,
)
crystal = cropped(crystal, half_plane((128.0, 128.0), 30.0))
crystal = removed(crystal, subset(crystal, 0.05, torch_generator(0)))
noise = NoiseModel(pointwise=PointwiseNoise.counted(2.0, background=0.2))
pair = STEMSynthesizer(noise=noise, random_state=0).record(crystal).isel(image=0)
enhanced = SFINDenoiser(average_flips=True).fit_transform(pair["noisy"])
spread = np.asarray(enhanced.coords["uncertainty"])
error = np.abs(enhanced.values - pair["enhance"].values)
fig, axes = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained")
panels = {
    "recorded": pair["noisy"],
    "enhanced": enhanced,
    "uncertainty": spread,
    "true error": error,
}
for ax, (title, values) in zip(axes, panels.items(), strict=True):
    ax.imshow(
        np.asarray(values),
        cmap="gray" if title in ("recorded", "enhanced") else "magma",
        vmin=0,
    )
    ax.set(title=title, xticks=[], yticks=[])
order = np.argsort(spread, axis=None)
certain, least_certain = order[: spread.size // 2], order[-spread.size // 10 :]
parts = {"half with the smallest": certain, "tenth with the largest": least_certain}
for name, pixels in parts.items():
    rms = np.sqrt((error.ravel()[pixels] ** 2).mean())
    print(f"RMS error of the {name} spread: {rms:.3f} of the contrast")
rms_spread, rms_error = (np.sqrt((each**2).mean()) for each in (spread, error))
print(f"RMS uncertainty {rms_spread:.3f}, RMS error {rms_error:.3f}")

# %%
# The spread is large where the error is large, but smaller than the error: errors that
# all four results have in common, such as a filled vacancy, have no spread. It is a
# lower bound of the error.
#
# Further limits
# --------------
#
# - *Intensities* are biased towards usual values: heights of columns differ less than
#   they should (:doc:`/enhancing` has the figures). ``amplitude`` and ``intensity`` of
#   the table are measured in the recorded pixels.
# - *Slow variation* of up to about a tenth of the contrast is treated as noise and
#   removed; stronger variation is kept.
# - *Spacings* below those of the training: an image with little noise is resampled to a
#   finer grid, and the result back to its own; this does not improve images with more
#   noise. A warning is issued if columns are sampled too coarsely.
# - *Other images.* The network was trained on columns. Its results for diffraction
#   patterns, spectra and images without atomic resolution are meaningless.
