"""
Straighten the rows
===================

A microscope scans row after row, and between one row and the next something shakes the beam: columns come out torn.
Every row crosses many columns, so a crystal tells where each row was. :class:`stemkit.RowAligner` reads that and puts
the rows back.
"""

# %%
# A torn image
# ------------
# The specimen is written down by hand here, so that the displacement of every single row is known: a perovskite seen
# along [001], 0.39 nm between its bright columns, with the dimmer ones in the middles. In row y, pixel x records what
# is at x + shift.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, RowAligner
from stemkit.detection import good_columns
from stemkit.metrics import match_columns
from stemkit.plotting import show_image

size, cell, pixel_size = 320, 19.5, 0.02


def columns_of(displaced=None):
    """Places and heights of the columns; ``displaced(y, x)`` px move them along x."""
    grid = np.arange(-2, size / cell + 3) * cell
    y, x = (part.ravel() for part in np.meshgrid(grid + 3.0, grid + 5.0, indexing="ij"))
    height = np.repeat([1000.0, 450.0], len(y))
    y, x = np.r_[y, y + cell / 2], np.r_[x, x + cell / 2]
    return y, x if displaced is None else x + displaced(y, x), height


def scanned(columns, shifts):
    """What a beam records that is displaced by ``shifts``, one per row, without any other noise."""
    image, pixel = np.full((size, size), 200.0), np.arange(size)
    for row, shift in enumerate(shifts):
        y, x, height = (part[abs(columns[0] - row) < 15] for part in columns)
        brightness = height * np.exp(-0.5 * ((y - row) / 2.6) ** 2)
        image[row] += brightness @ np.exp(-0.5 * ((pixel + shift - x[:, None]) / 2.6) ** 2)
    return stemkit.calibrated(image, pixel_size=pixel_size)


counting = NoiseModel(contrast=1000.0, level=200.0, pointwise=PointwiseNoise(readout=0.05, gain=0.02))
true_shifts = np.random.default_rng(1).normal(0.0, 0.8, size)
recorded = counting.apply(scanned(columns_of(), true_shifts), random_state=1)

# %%
# Straight again
# --------------
# One step, and it has no parameters to turn. What comes out is an image like the one that went in.

aligner = RowAligner()
straight = aligner.fit_transform(recorded)

fig, axes = plt.subplots(2, 2, figsize=(9, 9.4), layout="constrained")
zoom = {"y": slice(120, 200), "x": slice(120, 200)}
for ax, (title, image) in zip(axes.T, {"recorded": recorded, "straightened": straight}.items(), strict=True):
    show_image(image, ax[0], title)
    ax[0].add_patch(plt.Rectangle((120, 120), 80, 80, fill=False, edgecolor="#f2b134", linewidth=1.5))
    show_image(image.isel(zoom), ax[1], f"{title}, within the frame")

# %%
# How far the rows were off
# -------------------------
# ``shifts_`` holds a number per row for each image. The image as a whole stays where it is: their mean is zero.

shifts, true = aligner.shifts_[0], true_shifts - true_shifts.mean()

fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", width_ratios=(1.7, 1))
axes[0].plot(true[120:200], "o", color="0.6", markersize=5, label="true")
axes[0].plot(shifts[120:200], color="#31688e", linewidth=1.2, label="found")
axes[0].set(xlabel="row, from 120", ylabel="displacement along x (px)", ylim=(-2.9, 2.9))
axes[0].legend(frameon=False, ncols=2)
axes[1].plot([-2.8, 2.8], [-2.8, 2.8], color="0.6", linewidth=1)
axes[1].plot(true, shifts, ".", color="#31688e", markersize=4)
axes[1].set(xlabel="true (px)", ylabel="found (px)", aspect="equal")

print(f"rows were displaced by {1e3 * pixel_size * true.std():.1f} pm (RMS)")
print(f"after it, they are off by {1e3 * pixel_size * (shifts - true).std():.1f} pm")

# %%
# What columns gain
# -----------------
# Columns are measured in both images. Along y nothing was wrong, and nothing changes; along x errors shrink. Torn
# columns were also too broad.


def measured(image):
    """Good columns, and the displacement of each from its true place, pm."""
    table = Pipeline([("noise", NoiseCalibrator()), ("atoms", AtomDetector())]).fit_transform(image)
    table = good_columns(table).reset_index(drop=True)
    y, x, _ = columns_of()
    match = match_columns(table[["y_px", "x_px"]], np.column_stack([y, x]), cell / 3)
    pm = 1e3 * pixel_size
    table = table.iloc[match.found]
    return table, pm * (table["y_px"] - y[match.true]), pm * (table["x_px"] - x[match.true])


rows = {}
for name, image in {"recorded": recorded, "straightened": straight}.items():
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
# The errors that are stated for the recorded image count with the jitter, generously. A straightened image is a
# measurement of its own: its noise is calibrated anew, and little jitter is found in it.
#
# Strain stays
# ------------
# The simple way to straighten an image is to shift each row until it looks like the one above. That takes out whatever
# the specimen does along x from row to row, and with it every lattice that is sheared or a little rotated.
#
# ``RowAligner`` asks each column to be midway between its neighbours on either side. A strained or sheared lattice does
# that as well as a perfect one does; a row that jumps does not. Here is a film, wider by 1 %, on a substrate, all of it
# sheared, and torn like the first image.


def strain(y, x):
    """Displacement of a column along x, px: the film's lattice is wider, and everything leans."""
    return 0.01 * (x - size / 2) * (y < size / 2) + 0.006 * (y - size / 2)


film = counting.apply(scanned(columns_of(strain), true_shifts), random_state=2)
straight_film = RowAligner().fit_transform(film)


def displacements(image):
    """Columns' places and how far they are, along x, from those of a perfect lattice, px."""
    table = Pipeline([("noise", NoiseCalibrator()), ("atoms", AtomDetector())]).fit_transform(image)
    table = good_columns(table)
    y, x, _ = columns_of()
    match = match_columns(table[["y_px", "x_px"]], np.column_stack([y, x]), cell / 3)
    y, x = y[match.true], x[match.true]
    return y, x, table["x_px"].to_numpy()[match.found] - x


maps = {"recorded": displacements(film), "straightened": displacements(straight_film)}
y, x, _ = maps["straightened"]
maps["true"] = y, x, strain(y, x)

fig, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
for ax, (title, (y, x, off)) in zip(axes, maps.items(), strict=True):
    # where the whole image stands is not known to a fraction of a pixel
    off = off - np.mean(off - strain(y, x))
    dots = ax.scatter(x, y, c=off, s=55, cmap="RdBu_r", vmin=-2, vmax=2)
    wrong = f", wrong by {1e3 * pixel_size * np.std(off - strain(y, x)):.1f} pm" if title != "true" else ""
    ax.set(title=title + wrong, aspect="equal", xlim=(0, size), ylim=(size, 0), xticks=[], yticks=[])
fig.colorbar(dots, ax=axes, label="displacement along x (px)", shrink=0.9)

# %%
# The stripes are gone, the strain is not. There is one thing that rows can't tell from jitter: columns that all follow
# one and the same curve from row to row. Jitter is as strong at every frequency, so a slow curve stays as far as it
# exceeds the jitter at the others; one that is smaller goes with it. Measure a faint bending of the lattice on the
# recorded image, or on one that was scanned in another direction.
#
# When to use it, and when not
# ----------------------------
# - Before :class:`stemkit.NoiseCalibrator`, on what was recorded, and never on an enhanced image:
#   ``Pipeline([("rows", RowAligner()), ("noise", NoiseCalibrator()), ("atoms", AtomDetector())])``. From a shell,
#   ``stemkit straighten image.dm4 --figure``.
# - It needs a lattice, and a few columns in every row. Without one, the image comes back as it is, with a warning.
# - A shift is an interpolation, which smooths the noise a little. Where the jitter is small beside the errors that
#   columns have anyway, leave the image alone: :class:`stemkit.NoiseCalibrator` says how large it is.
# - Jitter along y tears nothing that a shift along x could mend.
