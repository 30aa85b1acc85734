"""
The noise of a scanning microscope, and how it is measured
==========================================================

A STEM image is recorded point after point and row after row, and its noise shows it. This page looks at the parts
of :class:`stemkit.NoiseModel` one by one, and then at what :class:`stemkit.NoiseCalibrator` finds in an image that
has all of them.
"""

# %%
# The parts
# ---------
# A specimen first. Amplitudes of noise are standard deviations as fractions of the contrast, here 1000 counts.

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from stemkit import BackgroundNoise, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise, STEMSynthesizer
from stemkit.plotting import show_image

nothing = NoiseModel(contrast=1000.0, level=200.0)
synthesizer = STEMSynthesizer(noise=nothing, arrangements=("lattice",), spacing=0.16, random_state=9)
clean = synthesizer.sample(1)["enhance"][0]

parts = {
    "background": replace(nothing, background=BackgroundNoise(amplitude=0.15, length=25.0)),
    "streaks": replace(nothing, scan=ScanNoise(amplitude=0.1, length=15.0)),
    "jitter of the beam": replace(nothing, scan=ScanNoise(jitter=0.8)),
    "pointwise": replace(nothing, pointwise=PointwiseNoise(readout=0.15, gain=0.03)),
    "pointwise, correlated": replace(nothing, pointwise=PointwiseNoise(readout=0.15, correlation_x=0.6)),
    "counted electrons": replace(nothing, pointwise=PointwiseNoise(readout=0.05, gain=0.1, kind="poisson")),
}

fig, axes = plt.subplots(2, 3, figsize=(10.5, 7.4), layout="constrained")
for ax, (name, model) in zip(axes.flat, parts.items(), strict=True):
    show_image(model.apply(clean, random_state=0)[:128, :128], ax, name)

# %%
# - The **background** is smooth: white noise through a Gaussian filter of the given length in px. Contamination and
#   uneven illumination look like this.
# - **Streaks** are constant along a piece of a row and independent between rows.
# - **Jitter** displaces the beam along x, here whole rows at a time. Where the image is flat it does nothing.
# - **Pointwise** noise has the variance ``readout^2 + gain * s`` in units of the contrast squared, where s is the
#   clean signal: 0 at the background's level and 1 at a bright column.
# - A slow amplifier or the afterglow of a scintillator **correlates** it along the row.
# - **Counted** electrons follow Poisson's law; ``gain`` is the signal of one electron, so that 1 / ``gain`` electrons
#   per pixel make the contrast.
#
# Calibration
# -----------
# Now an image with all of them at once.

true = NoiseModel(
    contrast=1000.0,
    level=200.0,
    background=BackgroundNoise(amplitude=0.03, length=25.0),
    scan=ScanNoise(amplitude=0.06, length=15.0, jitter=0.4),
    pointwise=PointwiseNoise(readout=0.08, gain=0.02, correlation_x=0.2),
)
recorded = true.apply(clean, random_state=1)
calibrator = NoiseCalibrator().fit(recorded)
found, std = calibrator.noise_model_, calibrator.noise_model_std_

# %%
# The calibrator takes contrast and level from fits to the columns. Columns differ in height, and between columns that
# overlap it is brighter than where there are none, so the two need not be the numbers that the image was drawn with;
# everything that is a fraction of the contrast moves along. The comparison is therefore in the image's own units. The
# stated deviations come from bands of rows of this one image.


def in_counts(model):
    """The model's numbers in counts and px."""
    dark, bright = model.variance(np.array([[200.0, 1200.0]]))[0] ** 0.5
    return {
        "contrast": model.contrast,
        "level": model.level,
        "streaks": model.scan.amplitude * model.contrast,
        "jitter (px)": model.scan.jitter,
        "pointwise at 200 counts": dark,
        "pointwise at 1200 counts": bright,
        "correlation along x": model.pointwise.correlation_x,
    }


table = pd.DataFrame({"true": in_counts(true), "calibrated": in_counts(found)})
table["stated deviation"] = pd.Series(
    {
        "streaks": std["scan.amplitude"] * found.contrast,
        "jitter (px)": std["scan.jitter"],
        "correlation along x": std["pointwise.correlation_x"],
    }
)
print(table.round(2).to_string(na_rep=""))

# %%
# Behind the fit
# --------------
# Rows are recorded independently, so a difference of neighbouring rows in which a smooth specimen cancels is noise.
# Its square, sorted by the signal, is the variance that ``readout`` and ``gain`` are the straight line of.

rows = calibrator.diagnostics_[0]["rows"]
signal = np.array([rows.signal.min(), rows.signal.max()])
line = found.pointwise.readout**2 + found.pointwise.gain * signal
drawn = true.variance(found.level + found.contrast * signal[None])[0] / found.contrast**2

fig, ax = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
ax.plot(rows.signal, rows.variance, "o", label="between rows")
ax.plot(signal, line, label=r"calibrated: readout$^2$ + gain $s$")
ax.plot(signal, drawn, "k--", linewidth=1, label="drawn")
ax.set(xlabel="signal s", ylabel=r"variance / contrast$^2$", ylim=(0, None))
ax.legend(frameon=False)

# %%
# Streaks are noise of rows, too. They are taken off before the fit: what is still correlated at a distance of several
# px along the row is theirs, or the jitter's.
#
# The curves of the paper
# -----------------------
# Li et al. (CVPR 2025, figure 3) split the noise with two blurs instead: one along the row, one in both directions.
# Their difference is taken as scan noise and shown against the gradient; the rest is taken as pointwise noise and
# shown against the pixel's value. These curves are among the calibrator's diagnostics. The same filters on the
# *clean* image show why the numbers above are not read from them: a crystal without any noise leaves a residual too.

of_clean = NoiseCalibrator().fit(clean).diagnostics_[0]
of_recorded = calibrator.diagnostics_[0]

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
