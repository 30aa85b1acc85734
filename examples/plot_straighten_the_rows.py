"""
Straighten the rows
===================

A microscope scans row by row, and vibration or interference displaces the beam between
rows: columns look torn. Every row crosses many columns. :class:`stemkit.RowAligner`
measures the displacement of each row from its columns, and shifts the row back.
"""

# %%
# An image with jitter
# --------------------
# The image is simulated, so that the displacement of every row is known: a perovskite
# along [001], with bright columns 0.39 nm apart and fainter ones in the middle of each
# cell. In row y, pixel x is recorded at x + shift.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

import stemkit
from stemkit import (
    AtomDetector,
    NoiseCalibrator,
    NoiseModel,
    PointwiseNoise,
    RowAligner,
)
from stemkit.detection import good_columns
from stemkit.metrics import match_columns
from stemkit.plotting import show_image

size, cell, pixel_size = 320, 19.5, 0.02


def columns_of(displaced=None):
    """Positions and amplitudes of the columns, displaced along x by ``displaced``."""
    grid = np.arange(-2, size / cell + 3) * cell
    y, x = (part.ravel() for part in np.meshgrid(grid + 3.0, grid + 5.0, indexing="ij"))
    height = np.repeat([1000.0, 450.0], len(y))
    y, x = np.r_[y, y + cell / 2], np.r_[x, x + cell / 2]
    return y, x if displaced is None else x + displaced(y, x), height


def scanned(columns, shifts):
    """Image of a beam displaced by ``shifts``, one per row, without other noise."""
    image, pixel = np.full((size, size), 200.0), np.arange(size)
    for row, shift in enumerate(shifts):
        y, x, height = (part[abs(columns[0] - row) < 15] for part in columns)
        brightness = height * np.exp(-0.5 * ((y - row) / 2.6) ** 2)
        image[row] += brightness @ np.exp(
            -0.5 * ((pixel + shift - x[:, None]) / 2.6) ** 2
        )
    return stemkit.calibrated(image, pixel_size=pixel_size)


counting = NoiseModel(
    contrast=1000.0, level=200.0, pointwise=PointwiseNoise(readout=0.05, gain=0.02)
)
true_shifts = np.random.default_rng(1).normal(0.0, 0.8, size)
recorded = counting.apply(scanned(columns_of(), true_shifts), random_state=1)

# %%
# Alignment
# ---------
# The estimator has no parameters to tune. The result is an image with the same
# coordinates and attributes.

aligner = RowAligner()
straight = aligner.fit_transform(recorded)

fig, axes = plt.subplots(2, 2, figsize=(9, 9.4), layout="constrained")
zoom = {"y": slice(120, 200), "x": slice(120, 200)}
for ax, (title, image) in zip(
    axes.T, {"recorded": recorded, "aligned": straight}.items(), strict=True
):
    show_image(image, ax[0], title)
    ax[0].add_patch(
        plt.Rectangle(
            (120, 120), 80, 80, fill=False, edgecolor="#f2b134", linewidth=1.5
        )
    )
    show_image(image.isel(zoom), ax[1], f"{title}, within the rectangle")

# %%
# Displacement of the rows
# ------------------------
# ``shifts_`` contains the displacement of each row for each image. Their mean is zero:
# the image as a whole is not shifted.

shifts, true = aligner.shifts_[0], true_shifts - true_shifts.mean()

fig, axes = plt.subplots(
    1, 2, figsize=(10, 4), layout="constrained", width_ratios=(1.7, 1)
)
axes[0].plot(true[120:200], "o", color="0.6", markersize=5, label="true")
axes[0].plot(shifts[120:200], color="#31688e", linewidth=1.2, label="found")
axes[0].set(
    xlabel="row, from 120", ylabel="displacement along x (px)", ylim=(-2.9, 2.9)
)
axes[0].legend(frameon=False, ncols=2)
axes[1].plot([-2.8, 2.8], [-2.8, 2.8], color="0.6", linewidth=1)
axes[1].plot(true, shifts, ".", color="#31688e", markersize=4)
axes[1].set(xlabel="true (px)", ylabel="found (px)", aspect="equal")

print(f"displacement of the rows: {1e3 * pixel_size * true.std():.1f} pm (RMS)")
print(f"error after alignment: {1e3 * pixel_size * (shifts - true).std():.1f} pm")

# %%
# Errors of the columns
# ---------------------
# Columns are measured in both images. Their errors along y do not change; those along x
# decrease. Jitter also makes columns too wide.


def measured(image):
    """Good columns, and the displacement of each from its true place, pm."""
    table = Pipeline(
        [("noise", NoiseCalibrator()), ("atoms", AtomDetector())]
    ).fit_transform(image)
    table = good_columns(table).reset_index(drop=True)
    y, x, _ = columns_of()
    match = match_columns(table[["y_px", "x_px"]], np.column_stack([y, x]), cell / 3)
    pm = 1e3 * pixel_size
    table = table.iloc[match.found]
    return (
        table,
        pm * (table["y_px"] - y[match.true]),
        pm * (table["x_px"] - x[match.true]),
    )


rows = {}
for name, image in {"recorded": recorded, "aligned": straight}.items():
    table, off_y, off_x = measured(image)
    stated = np.hypot(table["x_err"], table["x_jitter"])
    rows[name] = {
        "columns": len(table),
        "error along y (pm)": off_y.std(),
        "along x (pm)": off_x.std(),
        "stated along x (pm)": 1e3 * np.sqrt((stated**2).mean()),
        "width (pm)": 1e3 * table["sigma"].median(),
    }
print(pd.DataFrame(rows).T.round(2).to_string())
print(f"true width: {1e3 * pixel_size * 2.6:.1f} pm")

# %%
# The stated errors of the recorded image include the jitter, and are conservative. The
# noise of the aligned image is calibrated again, with little jitter.
#
# Strain is kept
# --------------
# A simple alignment shifts each row for the best correlation with the previous one. It
# removes all changes of the specimen along x from row to row, and with them the shear
# or rotation of a lattice.
#
# ``RowAligner`` assumes that each column is midway between opposite neighbours. This
# holds for a strained or sheared lattice as well as for a perfect one, but not for a
# displaced row. The example is a film with a lattice constant larger by 1 % on a
# substrate, both sheared, with the jitter of the first image.


def strain(y, x):
    """Displacement along x, px: larger lattice constant of the film, and shear."""
    return 0.01 * (x - size / 2) * (y < size / 2) + 0.006 * (y - size / 2)


film = counting.apply(scanned(columns_of(strain), true_shifts), random_state=2)
straight_film = RowAligner().fit_transform(film)


def displacements(image):
    """Positions of the columns, and displacements along x from a lattice, px."""
    table = Pipeline(
        [("noise", NoiseCalibrator()), ("atoms", AtomDetector())]
    ).fit_transform(image)
    table = good_columns(table)
    y, x, _ = columns_of()
    match = match_columns(table[["y_px", "x_px"]], np.column_stack([y, x]), cell / 3)
    y, x = y[match.true], x[match.true]
    return y, x, table["x_px"].to_numpy()[match.found] - x


maps = {"recorded": displacements(film), "aligned": displacements(straight_film)}
y, x, _ = maps["aligned"]
maps["true"] = y, x, strain(y, x)

fig, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
for ax, (title, (y, x, off)) in zip(axes, maps.items(), strict=True):
    # the position of the whole image is not determined
    off = off - np.mean(off - strain(y, x))
    dots = ax.scatter(x, y, c=off, s=55, cmap="RdBu_r", vmin=-2, vmax=2)
    wrong = (
        f", error {1e3 * pixel_size * np.std(off - strain(y, x)):.1f} pm"
        if title != "true"
        else ""
    )
    ax.set(
        title=title + wrong,
        aspect="equal",
        xlim=(0, size),
        ylim=(size, 0),
        xticks=[],
        yticks=[],
    )
fig.colorbar(dots, ax=axes, label="displacement along x (px)", shrink=0.9)

# %%
# The stripes are removed, the strain is kept. Displacements that all columns of a row
# have in common are not distinguished from jitter. Jitter has the same amplitude at
# every frequency: slow displacements are kept as far as they exceed it, smaller ones
# are removed. Measure a small bending of the lattice in the recorded image, or in one
# that was scanned in another direction.
#
# When to use it, and when not
# ----------------------------
# - Use it before :class:`stemkit.NoiseCalibrator`, on recorded images and not on
#   enhanced ones: ``Pipeline([("rows", RowAligner()), ("noise", NoiseCalibrator()),
#   ("atoms", AtomDetector())])``. On the command line, ``stemkit straighten image.dm4
#   --figure``.
# - It requires a lattice, and a few columns in every row. Without a lattice, the image
#   is returned unchanged, with a warning.
# - A shift is an interpolation, which smooths the noise a little. Do not use it where
#   the jitter, which :class:`stemkit.NoiseCalibrator` measures, is small compared with
#   the other errors of the columns.
# - Jitter along y is not corrected.
