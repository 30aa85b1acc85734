"""
Calibrate the noise of an image
===============================

A STEM image is recorded pixel by pixel and row by row, and each step adds noise of its own. This page shows the parts
of :class:`stemkit.NoiseModel`, draws an image with known noise, measures the noise with
:class:`stemkit.NoiseCalibrator`, and uses the result.
"""

# %%
# The parts
# ---------
# Each part is drawn on the same crystal. Amplitudes are standard deviations as fractions of the contrast, here 1000
# counts.

# sphinx_gallery_thumbnail_number = 2
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from stemkit import (
    BackgroundNoise,
    NoiseCalibrator,
    NoiseModel,
    PointwiseNoise,
    ScanNoise,
    SFINDenoiser,
    STEMSynthesizer,
)
from stemkit.plotting import show_image

noiseless = NoiseModel(contrast=1000.0, level=200.0)
synthesizer = STEMSynthesizer(
    noise=noiseless, arrangements=("lattice",), shape=(320, 320), spacing=0.2, vacancies=0.0, random_state=17
)
true_image = synthesizer.sample(1)["enhance"][0]

parts = {
    "background": replace(noiseless, background=BackgroundNoise(amplitude=0.15, length=25.0)),
    "streaks": replace(noiseless, scan=ScanNoise(amplitude=0.1, length=15.0)),
    "jitter of the beam": replace(noiseless, scan=ScanNoise(jitter=1.0)),
    "pointwise": replace(noiseless, pointwise=PointwiseNoise(readout=0.15, gain=0.03)),
    "pointwise, correlated": replace(noiseless, pointwise=PointwiseNoise(readout=0.15, correlation_x=0.6)),
    "counted electrons": replace(noiseless, pointwise=PointwiseNoise.counted(6.0)),
}

fig, axes = plt.subplots(2, 3, figsize=(10.5, 7.4), layout="constrained")
for ax, (name, model) in zip(axes.flat, parts.items(), strict=True):
    show_image(model.apply(true_image, random_state=0)[:128, :128], ax, name)

# %%
# - The **background** is smooth: white noise filtered with a Gaussian of the given length in px. Contamination and
#   uneven illumination have this appearance.
# - **Streaks** are constant along a piece of a row and independent between rows.
# - **Jitter** displaces the beam along x, here by whole rows. It has no effect where the image is flat. ``jitter_y`` is
#   the displacement along y.
# - **Pointwise** noise has the variance ``readout^2 + gain * s`` in units of the contrast squared, where s is the
#   true signal: 0 at the background's level and 1 at a bright column.
# - A slow amplifier or the afterglow of a scintillator **correlates** it along the row.
# - **Counted** electrons have a Poisson distribution; ``gain`` is the signal of one electron, so that 1 / ``gain``
#   electrons per pixel correspond to the contrast.
#
# An image with known noise
# -------------------------
# Ten electrons per pixel at a bright column and one in the background, a jitter of half a pixel, weak streaks, and a
# little contamination.

true = NoiseModel(
    contrast=1000.0,
    level=200.0,
    background=BackgroundNoise(amplitude=0.05, length=25.0),
    scan=ScanNoise(amplitude=0.04, length=15.0, jitter=0.5),
    pointwise=PointwiseNoise.counted(10.0, background=1.0),
)
recorded = true.apply(true_image, random_state=3)
calibrator = NoiseCalibrator().fit(recorded)
found, std = calibrator.noise_model_, calibrator.noise_model_std_

# %%
# The table compares measured and true numbers. On the command line, use ``stemkit calibrate image.dm4 --figure``.
#
# The calibrator takes contrast and level from fits to the columns. Amplitudes of columns vary, and the intensity
# between overlapping columns is higher than that of the background, so that contrast and level may differ from those
# that the image was drawn with, and with them all fractions of the contrast. Therefore amplitudes are compared in
# counts, and the pixel noise at the measured level.

names = {
    "background.amplitude": "background (counts)",
    "background.length": "its length (px)",
    "scan.amplitude": "streaks (counts)",
    "scan.length": "their length (px)",
    "scan.jitter": "jitter (px)",
    "scan.jitter_y": "jitter across rows (px)",
    "pointwise.readout": "pixel noise between columns (counts)",
    "pointwise.gain": "signal of one electron (counts)",
    "pointwise.correlation_x": "correlation of neighbouring pixels",
}
fractions = [key for key, name in names.items() if "counts" in name]


def numbers(model):
    """The numbers of the model that are compared."""
    parts = model.to_dict()
    return {key: parts[key.split(".")[0]][key.split(".")[1]] for key in names}


table = pd.DataFrame({"true": numbers(true), "found": numbers(found), "standard error": {k: std[k] for k in names}})
table.loc[fractions] *= [true.contrast, found.contrast, found.contrast]
table.loc["pointwise.readout", "true"] = float(true.variance(np.array([[found.level]]))[0, 0]) ** 0.5
print(table.rename(names).round(2).to_string())
print("kind:", found.pointwise.kind)

# %%
# The standard error is that of the noise realised in this image. One image differs from the numbers it was drawn with
# by sampling, most of all in the amplitude of a background with a large length. A crystal of varying thickness is
# indistinguishable from background. Jitter across the rows has a larger error than that along them: columns as close as
# these share their pixels along y, and with them the noise.
#
# How the numbers are measured
# ----------------------------

figure = calibrator.plot()

# %%
# Points are measured, curves are fitted. A note in a panel says where they differ.
#
# - **Pointwise**: columns and displacements of rows are subtracted, and the difference of rows is noise. Its variance
#   is a straight line in the signal, given by ``readout`` and ``gain``.
# - **Streaks**: noise that is correlated over many pixels of a row; the first lag is the correlation of neighbouring
#   pixels.
# - **Background**: the only noise with a covariance between different rows.
# - **Displacement**: that of each row, registered to the columns that it crosses. :doc:`plot_straighten_the_rows`
#   shifts the rows back.
# - **Jitter**: spectra of the displacements along x and y, from which drift and hum are measured, too.
#
# Li et al. (`CVPR 2025 <https://arxiv.org/abs/2504.02555>`_) separate scan noise and pointwise noise by two Gaussian
# filters, one along the row and one in both directions. The residuals of these filters contain the crystal: they are not
# zero for the *true* image.

of_true, of_recorded = (c.diagnostics_[0] for c in (NoiseCalibrator().fit(true_image), calibrator))

fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
labels = {
    "scan": ("gradient (counts per px)", "scan residual (counts)"),
    "pointwise": ("pixel value (counts)", "pointwise residual (counts)"),
}
for ax, (name, (xlabel, ylabel)) in zip(axes, labels.items(), strict=True):
    for curves, label, color in ((of_recorded, "recorded", "tab:blue"), (of_true, "true image", "tab:gray")):
        curve = curves[name]
        ax.plot(curve.x, curve.y, "o", color=color, markersize=4, label=label)
        ax.plot(curve.x, curve.intercept + curve.slope * curve.x, color=color, linewidth=1)
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
axes[0].legend(frameon=False)

# %%
# The dose
# --------
# If the noise is that of counted electrons, their number is one over ``gain``. With the pixel size this is a dose per
# area: that of the electrons that the detector has counted above the background, in HAADF a small fraction of those
# that have passed the specimen.

relative = std["pointwise.gain"] / found.pointwise.gain
area = found.dose_per_area(recorded.stem.pixel_size)
drawn = true.dose * found.contrast / true.contrast
print(f"{found.dose:.1f} ± {relative * found.dose:.1f} electrons per pixel at a bright column, {drawn:.1f} were drawn")
print(f"{area:.0f} ± {relative * area:.0f} electrons per square angstrom")

# %%
# A simulated image for comparison
# --------------------------------
# A noise model is checked by drawing its noise. The network gives an estimate of the specimen; with the measured noise
# drawn on it, it should resemble the recorded image, without the same random values. The background is left out, since
# most of it is in the network's estimate. It is a quick check of the numbers for any image.

enhanced = SFINDenoiser().fit_transform(recorded)
simulated = replace(found, background=BackgroundNoise()).apply(enhanced, random_state=7)

fig, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
part = {"y": slice(90, 218), "x": slice(90, 218)}
for ax, (title, image) in zip(
    axes, {"recorded": recorded, "simulated": simulated, "enhanced image": enhanced}.items(), strict=True
):
    show_image(image.isel(part), ax, title)

# %%
# A quantitative comparison: the covariance along the row of the difference of neighbouring rows. The slow decrease is
# that of the streaks; the contribution of jitter has the period of the columns.


def along_row(image, lags):
    """Covariance along the row of the difference of rows, the network's estimate subtracted, counts squared."""
    rest = (image - enhanced).values
    rows = (rest[1:] - rest[:-1]) / np.sqrt(2)
    return [np.mean(rows[:, lag:] * rows[:, : rows.shape[1] - lag]) for lag in lags]


lags = np.arange(1, 50)
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
ax.axhline(0, color="0.8", linewidth=0.8)
ax.plot(lags, along_row(recorded, lags), "o", markersize=4, label="recorded")
ax.plot(lags, along_row(simulated, lags), label="simulated")
ax.set(xlabel="lag along the row (px)", ylabel="covariance (counts²)")
ax.legend(frameon=False)
for name, image in {"recorded": recorded, "simulated": simulated}.items():
    print(f"{name}: standard deviation of a pixel {along_row(image, [0])[0] ** 0.5:.0f} counts")

# %%
# Further use
# -----------
# - :class:`stemkit.AtomDetector` weights its fits with it: ``NoiseCalibrator`` precedes it in a pipeline
#   (:doc:`plot_whole_pipeline`).
# - ``STEMSynthesizer().fit(image)`` draws any number of pairs with this noise, and ``SFINDenoiser(fine_tune=True)``
#   trains on such pairs.
# - Simulated images with the noise of your microscope: ``found.apply(simulated)``, after ``replace(found, contrast=...,
#   level=...)`` in the simulation's units.
# - ``calibrator.diagnostics_[0]["faults"]`` lists faults of an image that are not noise: hot and dead pixels, dead
#   rows, constant areas, saturation, hum, fly-back; ``["faulty"]`` is the mask of these pixels.
