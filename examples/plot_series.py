"""
A series of fast scans
======================

Many fast frames instead of a slow one: between and within the frames the specimen
drifts and the beam is displaced, but each frame shows by how much.
:class:`stemkit.SeriesAligner` measures the displacement of every row and averages the
recorded pixels.
"""

# %%
# A simulated series
# ------------------
# A particle is scanned six times, with 15 electrons per pixel at its brightest columns.
# It drifts by 13 px from frame to frame, more than a cell, and rows are displaced by
# jitter, slow drift and mains hum. The true displacements are known.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import Pipeline

from stemkit import (
    AtomDetector,
    NoiseCalibrator,
    NoiseModel,
    PointwiseNoise,
    ScanNoise,
    SeriesAligner,
    SFINDenoiser,
)
from stemkit.plotting import show_image
from stemkit.series import draw_displacements, draw_series
from stemkit.synthesis import cropped, facets, lattice, planar_cell

shape = (192, 192)
cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.5])
columns = lattice(cell, shape, spacing=9.0, sigma=2.0, angle=8.0, margin=60.0)
particle = cropped(columns, facets((94.0, 99.0), 74.0, angle=10.0))
scan = ScanNoise(
    jitter=0.4,
    jitter_y=0.2,
    drift=0.4,
    drift_y=0.4,
    drift_rows=12.0,
    hum=0.3,
    hum_period=7.3,
)
true = draw_displacements(6, shape[0], scan=scan, drift=(5.0, -12.0), random_state=0)
noise = NoiseModel(
    contrast=15.0, level=3.0, pointwise=PointwiseNoise.counted(15.0, background=3.0)
)
frames = draw_series(
    particle, true, shape=shape, noise=noise, pixel_size=0.02, random_state=1
)

figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
for i, ax in enumerate(axes[:3]):
    show_image(frames[2 * i], ax, f"frame {2 * i}")
show_image(frames.mean("frame"), axes[3], "mean without alignment")

# %%
# The average
# -----------
# It is cropped to the area that at least half of the frames show, and contains the
# number of frames and the standard error of each pixel.

aligner = SeriesAligner().fit(frames)
average = aligner.transform(frames)

figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.4), layout="constrained")
show_image(average, axes[0], "average")
for ax, name, label in (
    (axes[1], "n_frames", "number of frames"),
    (axes[2], "standard_error", "standard error"),
):
    shown = ax.imshow(average[name], vmin=0)
    figure.colorbar(shown, ax=ax, label=label)
    ax.set(title=label, xticks=[], yticks=[])

# %%
# Displacements
# -------------
# What all frames have in common cannot be seen, so that frames are compared with each
# other: the displacements of two frames along x, less those of a third.

rows = np.arange(40, 140)
figure, ax = plt.subplots(figsize=(9, 3), layout="constrained")
for frame, color in ((0, "#31688e"), (5, "#d1495b")):
    found, truth = (
        d[frame, rows, 1] - d[2, rows, 1] for d in (aligner.displacements_, true)
    )
    ax.plot(
        rows,
        truth - truth.mean(),
        color=color,
        linewidth=0.8,
        label=f"frame {frame}, true",
    )
    ax.plot(
        rows, found - found.mean(), ".", color=color, markersize=4, label="measured"
    )
ax.set(xlabel="row", ylabel="displacement along x (px)")
ax.legend(fontsize=8, ncols=2)
print(aligner.scan_noise_)

# %%
# One table
# ---------
# The aligner is the first step of a pipeline. The stated errors are those of the
# average.

steps = [
    ("noise", NoiseCalibrator()),
    ("denoise", SFINDenoiser()),
    ("atoms", AtomDetector()),
]
one = Pipeline(steps).fit_transform(frames[0])
table = Pipeline([("align", SeriesAligner()), *steps]).fit_transform(frames)
for name, found in (("one frame", one), ("six frames", table)):
    print(f"{name}: {len(found)} columns, error {1e3 * found['x_err'].median():.2f} pm")

plt.show()
