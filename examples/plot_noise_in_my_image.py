"""
What noise is in my image
=========================

A STEM image is recorded point after point and row after row, and its noise shows it. This page looks at the parts of
:class:`stemkit.NoiseModel` one by one, draws an image that has them, and lets :class:`stemkit.NoiseCalibrator` find
out. Then it puts the numbers to use.
"""

# %%
# The parts
# ---------
# A specimen first. Amplitudes of noise are standard deviations as fractions of the contrast, here 1000 counts.

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

nothing = NoiseModel(contrast=1000.0, level=200.0)
synthesizer = STEMSynthesizer(
    noise=nothing, arrangements=("lattice",), shape=(320, 320), spacing=0.2, vacancies=0.0, random_state=17
)
clean = synthesizer.sample(1)["enhance"][0]

parts = {
    "background": replace(nothing, background=BackgroundNoise(amplitude=0.15, length=25.0)),
    "streaks": replace(nothing, scan=ScanNoise(amplitude=0.1, length=15.0)),
    "jitter of the beam": replace(nothing, scan=ScanNoise(jitter=1.0)),
    "pointwise": replace(nothing, pointwise=PointwiseNoise(readout=0.15, gain=0.03)),
    "pointwise, correlated": replace(nothing, pointwise=PointwiseNoise(readout=0.15, correlation_x=0.6)),
    "counted electrons": replace(nothing, pointwise=PointwiseNoise.counted(6.0)),
}

fig, axes = plt.subplots(2, 3, figsize=(10.5, 7.4), layout="constrained")
for ax, (name, model) in zip(axes.flat, parts.items(), strict=True):
    show_image(model.apply(clean, random_state=0)[:128, :128], ax, name)

# %%
# - The **background** is smooth: white noise through a Gaussian filter of the given length in px. Contamination and
#   uneven illumination look like this.
# - **Streaks** are constant along a piece of a row and independent between rows.
# - **Jitter** displaces the beam along x, here whole rows at a time. Where the image is flat it does nothing.
#   ``jitter_y`` does the same across the rows.
# - **Pointwise** noise has the variance ``readout^2 + gain * s`` in units of the contrast squared, where s is the
#   clean signal: 0 at the background's level and 1 at a bright column.
# - A slow amplifier or the afterglow of a scintillator **correlates** it along the row.
# - **Counted** electrons follow Poisson's law; ``gain`` is the signal of one electron, so that 1 / ``gain`` electrons
#   per pixel make the contrast.
#
# An image with known noise
# -------------------------
# Ten electrons per pixel at a bright column and one beside it, a beam that trembles by half a pixel, some streaks, and
# a little contamination.

true = NoiseModel(
    contrast=1000.0,
    level=200.0,
    background=BackgroundNoise(amplitude=0.05, length=25.0),
    scan=ScanNoise(amplitude=0.04, length=15.0, jitter=0.5),
    pointwise=PointwiseNoise.counted(10.0, background=1.0),
)
recorded = true.apply(clean, random_state=3)
calibrator = NoiseCalibrator().fit(recorded)
found, std = calibrator.noise_model_, calibrator.noise_model_std_

# %%
# The numbers beside the truth. From a shell it is ``stemkit calibrate image.dm4 --figure``.
#
# The calibrator takes contrast and level from fits to the columns. Columns differ in height, and it is brighter between
# columns that overlap than where there are none, so these need not be the numbers that the image was drawn with, and
# everything that is a fraction of the contrast moves along. The comparison is therefore in the image's own units, the
# pixel noise that of the level that was found.

names = {
    "background.amplitude": "background (counts)",
    "background.length": "its length (px)",
    "scan.amplitude": "streaks (counts)",
    "scan.length": "their length (px)",
    "scan.jitter": "jitter (px)",
    "scan.jitter_y": "jitter across rows (px)",
    "pointwise.readout": "pixel noise between columns (counts)",
    "pointwise.gain": "signal of one electron (counts)",
    "pointwise.correlation_x": "correlation of neighbours",
}
fractions = [key for key, name in names.items() if "counts" in name]


def numbers(model):
    """Those of the model that have a name above."""
    parts = model.to_dict()
    return {key: parts[key.split(".")[0]][key.split(".")[1]] for key in names}


table = pd.DataFrame({"true": numbers(true), "found": numbers(found), "stated error": {k: std[k] for k in names}})
table.loc[fractions] *= [true.contrast, found.contrast, found.contrast]
table.loc["pointwise.readout", "true"] = float(true.variance(np.array([[found.level]]))[0, 0]) ** 0.5
print(table.rename(names).round(2).to_string())
print("kind:", found.pointwise.kind)

# %%
# A stated error says how far a number may be from the noise that is in this very image. The true numbers are those that
# it was drawn from, of which one image has a little more or less, above all of a background that is long. And a crystal
# that is not equally thick everywhere looks like background, too: nothing in the image tells the two apart.
#
# What the numbers come from
# --------------------------

figure = calibrator.plot()

# %%
# The first two curves are those of Li et al. (CVPR 2025, figure 3), in which noise is split by two blurs, one along
# the row and one in both directions. They are drawn for comparison. The numbers come from the other four:
#
# - **Variance against signal**: columns and displacements of rows are taken off, and what differs from row to row is
#   noise. Its variance is a straight line in the signal, of which ``readout`` and ``gain`` are the ends.
# - **Covariance along the row**: what is alike over many pixels is streaks; the first lag shows the correlation of
#   neighbours.
# - **Covariance between rows**: only the background has that.
# - **Where the rows stood**: each row, registered to the columns that it crosses. :doc:`plot_straighten_the_rows` puts
#   them back.
#
# Why not the paper's curves? The same filters on the *clean* image show it: a crystal without any noise leaves a
# residual too.

of_clean, of_recorded = (c.diagnostics_[0] for c in (NoiseCalibrator().fit(clean), calibrator))

fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
labels = {
    "scan": ("gradient (counts per px)", "scan residual (counts)"),
    "pointwise": ("pixel value (counts)", "pointwise residual (counts)"),
}
for ax, (name, (xlabel, ylabel)) in zip(axes, labels.items(), strict=True):
    for curves, label, colour in ((of_recorded, "recorded", "tab:blue"), (of_clean, "clean", "tab:gray")):
        curve = curves[name]
        ax.plot(curve.x, curve.y, "o", color=colour, markersize=4, label=label)
        ax.plot(curve.x, curve.intercept + curve.slope * curve.x, color=colour, linewidth=1)
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
axes[0].legend(frameon=False)

# %%
# The dose
# --------
# Where the noise is that of counted electrons, its growth with the signal counts them: one over ``gain``. With the
# pixel size this is a dose per area. It is that of the electrons that the detector has counted above the background,
# which in HAADF is a small part of those that have passed the specimen.

relative = std["pointwise.gain"] / found.pointwise.gain
area = found.dose_per_area(recorded.stem.pixel_size)
drawn = true.dose * found.contrast / true.contrast
print(f"{found.dose:.1f} ± {relative * found.dose:.1f} electrons per pixel at a bright column, {drawn:.1f} were drawn")
print(f"{area:.0f} ± {relative * area:.0f} electrons per square angstrom")

# %%
# A twin
# ------
# A noise model is worth what its drawings are worth. The network gives an estimate of the specimen; the noise that was
# found, drawn on it, makes an image that should look like the recorded one, though no
# grain is the same. The background stays out of it: most of that is still in the network's estimate. This works for
# your images, too, and is the quickest way to see whether the numbers can be trusted.

enhanced = SFINDenoiser().fit_transform(recorded)
twin = replace(found, background=BackgroundNoise()).apply(enhanced, random_state=7)

fig, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
part = {"y": slice(90, 218), "x": slice(90, 218)}
for ax, (title, image) in zip(
    axes, {"recorded": recorded, "its twin": twin, "enhanced: what the twin is drawn on": enhanced}.items(), strict=True
):
    show_image(image.isel(part), ax, title)

# %%
# And in numbers: what neighbouring rows do not have in common, and how that is correlated along the row. The slow fall
# is that of the streaks; jitter comes back with every column.


def along_row(image, lags):
    """Covariance along the row of the difference of rows, without the network's estimate, counts squared."""
    rest = (image - enhanced).values
    rows = (rest[1:] - rest[:-1]) / np.sqrt(2)
    return [np.mean(rows[:, lag:] * rows[:, : rows.shape[1] - lag]) for lag in lags]


lags = np.arange(1, 50)
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
ax.axhline(0, color="0.8", linewidth=0.8)
ax.plot(lags, along_row(recorded, lags), "o", markersize=4, label="recorded")
ax.plot(lags, along_row(twin, lags), label="twin")
ax.set(xlabel="lag along the row (px)", ylabel="covariance (counts²)")
ax.legend(frameon=False)
for name, image in {"recorded": recorded, "twin": twin}.items():
    print(f"{name}: deviation of a pixel {along_row(image, [0])[0] ** 0.5:.0f} counts")

# %%
# What to do with it
# ------------------
# - :class:`stemkit.AtomDetector` weights its fits with it: ``NoiseCalibrator`` stands before it in a pipeline
#   (:doc:`plot_whole_pipeline`).
# - ``STEMSynthesizer().fit(image)`` draws any number of pairs with this noise, and ``SFINDenoiser(fine_tune=True)``
#   trains on such pairs.
# - Simulated images get the noise of your microscope: ``found.apply(simulated)``, after ``replace(found, contrast=...,
#   level=...)`` in the simulation's units.
# - ``calibrator.diagnostics_[0]["faults"]`` says what is wrong with an image and is in no noise model: hot and
#   dead pixels, dead rows, constant areas, saturation, hum, fly-back; ``["faulty"]`` is the mask of these pixels.
