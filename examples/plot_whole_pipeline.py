"""
From a recorded image to columns with error bars
================================================

All steps on an image with known truth: its noise is measured, a network enhances it,
and its atomic columns are found in the enhanced image and measured in the recorded one.
The results are compared with the truth.
"""

# %%
# An image with known truth
# -------------------------
# The noise is given as standard deviations relative to the contrast of a bright column;
# lengths and the jitter of the beam are in px. The synthesizer draws a noisy image of a
# crystal, the image without noise, and a table of its columns.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.pipeline import Pipeline

from stemkit import (
    AtomDetector,
    BackgroundNoise,
    NoiseCalibrator,
    NoiseModel,
    PointwiseNoise,
    ScanNoise,
    SFINDenoiser,
    STEMSynthesizer,
)
from stemkit.detection import Quality, good_columns
from stemkit.metrics import match_columns, psnr, ssim
from stemkit.plotting import show_columns, show_image

microscope = NoiseModel(
    contrast=1000.0,
    level=200.0,
    background=BackgroundNoise(amplitude=0.03, length=30.0),
    scan=ScanNoise(amplitude=0.05, length=15.0, jitter=0.2),
    pointwise=PointwiseNoise(readout=0.08, gain=0.03),
)
synthesizer = STEMSynthesizer(
    noise=microscope,
    arrangements=("lattice",),
    spacing=0.14,
    pixel_size=0.01,
    random_state=11,
)
pairs, true_columns = synthesizer.sample(1, return_columns=True)
recorded, truth = pairs["noisy"][0], pairs["enhance"][0]
print(recorded.stem.pixel_size, "nm per px,", len(true_columns), "columns")

# %%
# One pipeline
# ------------
# The first step measures the noise and stores it in the attributes of the image. The
# second enhances the image and keeps the recorded pixels with the result. The third
# finds columns in the enhanced image and fits them in the recorded one, weighted by the
# noise.

pipeline = Pipeline(
    [
        ("noise", NoiseCalibrator()),
        ("denoise", SFINDenoiser()),
        ("atoms", AtomDetector()),
    ]
)
enhanced = pipeline[:-1].fit_transform(recorded)
columns = pipeline[-1].fit_transform(enhanced)
shown = [
    "y",
    "x",
    "y_err",
    "x_err",
    "amplitude",
    "amplitude_err",
    "sigma",
    "snr",
    "quality",
]
good_columns(columns)[shown].head().round(4)

# %%
# ``pipeline.fit_transform(recorded)`` gives the same table; here the image is enhanced
# once, and the enhanced image is kept.

fig, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
for ax, (title, image) in zip(
    axes,
    {"recorded": recorded, "enhanced": enhanced, "truth": truth}.items(),
    strict=True,
):
    show_image(image, ax, title)

# %%
quality = pd.DataFrame(
    {
        "PSNR (dB)": [psnr(recorded, truth), psnr(enhanced, truth)],
        "SSIM": [ssim(recorded, truth), ssim(enhanced, truth)],
    },
    index=["recorded", "enhanced"],
)
print(quality.round(3))
print(f"gain: {quality['PSNR (dB)'].diff().iloc[-1]:.1f} dB")

# %%
# The columns
# -----------
# Circles mark the measured columns in the recorded image. Yellow ones have a flag in
# ``quality``: they are within three sigmas of the border, the fit failed or does not
# describe the pixels, the column is faint, or a neighbour is too close. :ref:`quality`
# lists all flags, and :func:`~stemkit.detection.good_columns` selects the columns whose
# numbers can be used with their errors.

fig, ax = plt.subplots(figsize=(6.5, 6.5), layout="constrained")
show_columns(recorded, columns, ax)

# %%
flags = columns["quality"].to_numpy()
for flag in Quality:
    print(
        f"{flag.name}: {np.count_nonzero(flags & flag.value)} of {len(flags)} columns"
    )

# %%
# A found column is matched with a true one if they are less than a third of the spacing
# apart.

third = pipeline["atoms"].spacing_ / 3
match = match_columns(columns[["y", "x"]], true_columns[["y", "x"]], third)
print(f"precision {match.precision:.3f}, recall {match.recall:.3f}, F1 {match.f1:.3f}")

# %%
# Are the errors correct?
# -----------------------
# The pull of a measurement is its error divided by its stated error. If the stated
# errors are correct and complete, pulls are normal with a standard deviation of 1.
#
# The stated errors ``y_err`` and ``x_err`` contain counting noise, readout noise and
# streaks. The contribution of the jitter along x is ``x_jitter``, which is added in
# quadrature here. To separate the two, the same specimen is recorded a second time with
# pointwise noise alone.


def compare(image):
    """Errors and stated standard deviations of the good columns, pm."""
    found = good_columns(pipeline.fit_transform(image))
    paired = match_columns(found[["y", "x"]], true_columns[["y", "x"]], third)
    measured = found.iloc[paired.found].reset_index(drop=True)
    true = true_columns.iloc[paired.true].reset_index(drop=True)
    stated = {
        "y": measured["y_err"],
        "x": np.hypot(measured["x_err"], measured["x_jitter"]),
    }
    return {
        axis: ((measured[axis] - true[axis]) * 1e3, stated[axis] * 1e3) for axis in "yx"
    }


quiet = NoiseModel(
    contrast=microscope.contrast, level=microscope.level, pointwise=microscope.pointwise
)
recordings = {
    "pointwise noise alone": quiet.apply(truth, random_state=1),
    "all noise": recorded,
}
results = {name: compare(image) for name, image in recordings.items()}

rows = {
    (name, axis): {
        "RMS error (pm)": np.sqrt(np.mean(error**2)),
        "stated, RMS (pm)": np.sqrt(np.mean(stated**2)),
        "std of pulls": np.std(error / stated),
        "columns": len(error),
    }
    for name, by_axis in results.items()
    for axis, (error, stated) in by_axis.items()
}
print(pd.DataFrame(rows).T.round(3).to_string())

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
bins = np.linspace(-5, 5, 31)
for ax, (name, by_axis) in zip(axes, results.items(), strict=True):
    for (axis, (error, stated)), color in zip(
        by_axis.items(), ("tab:blue", "tab:orange"), strict=True
    ):
        ax.hist(
            error / stated,
            bins,
            density=True,
            histtype="step",
            linewidth=1.5,
            color=color,
            label=f"along {axis}",
        )
    ax.plot(bins, norm.pdf(bins), "k--", linewidth=1, label="unit normal")
    ax.set(title=name, xlabel="error / stated error")
axes[0].set_ylabel("density")
axes[0].legend(frameon=False)

# %%
# The standard deviation of the pulls is the ratio of the actual to the stated errors.
# Overlapping columns are fitted together, and their errors contain the uncertainty of
# the neighbours. They do not contain, or only in part, the influence of overlooked
# columns, of non-Gaussian columns and of a varying background.
