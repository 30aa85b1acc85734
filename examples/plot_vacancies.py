"""
Vacancies
=========

A detector lists the columns that it finds. To find sites *without* a column, a lattice has to predict the positions, and
the amplitude has to be measured at each of them. This page searches for missing sulphur in a dichalcogenide.
"""

# %%
# A sheet with vacancies
# ----------------------
# In plan view MoS2 is a honeycomb of bright molybdenum columns and dim columns of two sulphur atoms. One of these atoms
# may be missing, which leaves half of the amplitude, or both. The image has seven double and ten single vacancies.

# sphinx_gallery_thumbnail_number = 3
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.detection import good_columns
from stemkit.metrics import match_columns
from stemkit.plotting import show_columns, show_image
from stemkit.structure import find_vacancies, fit_lattices, weak_columns

size, pixel_size, width = 400, 0.0125, 0.045  # px, nm, nm
constant = 0.316  # lattice constant, nm
rng = np.random.default_rng(8)


def sheet():
    """The true columns: ``y`` and ``x`` in nm, heights, and the number of sulphur atoms (-1: molybdenum)."""
    i, j = (part.ravel() for part in np.meshgrid(np.arange(-25, 26), np.arange(-25, 26), indexing="ij"))
    y, x = constant * np.sqrt(3) / 2 * i + size / 2 * pixel_size, constant * (j + i / 2) + size / 2 * pixel_size
    metal = pd.DataFrame({"y": y, "x": x, "amplitude": 1000.0, "sulphur": -1})
    dim = pd.DataFrame({"y": y + constant / np.sqrt(3), "x": x, "amplitude": 420.0, "sulphur": 2})
    inside = dim[["y", "x"]].gt(0.4).all(axis=1) & dim[["y", "x"]].lt(size * pixel_size - 0.4).all(axis=1)
    chosen = rng.choice(dim.index[inside], 17, replace=False)
    dim.loc[chosen[:7], ["amplitude", "sulphur"]] = 0.0, 0
    dim.loc[chosen[7:], ["amplitude", "sulphur"]] = 210.0, 1
    table = pd.concat([metal, dim], ignore_index=True)
    near = table[["y", "x"]].gt(-0.2).all(axis=1) & table[["y", "x"]].lt(size * pixel_size + 0.2).all(axis=1)
    return table[near].reset_index(drop=True)


true_columns = sheet()
pixel = np.arange(size) * pixel_size
along_y, along_x = (np.exp(-0.5 * ((pixel - true_columns[[d]].to_numpy()) / width) ** 2) for d in ("y", "x"))
true_image = 100.0 + (along_y * true_columns[["amplitude"]].to_numpy()).T @ along_x
microscope = NoiseModel(
    contrast=1000.0,
    level=100.0,
    scan=ScanNoise(amplitude=0.02, length=20.0, jitter=0.2),
    pointwise=PointwiseNoise.counted(25.0, background=2.0),
)
recorded = microscope.apply(stemkit.calibrated(true_image, pixel_size=pixel_size), random_state=4)

# %%
# The columns, and their lattice
# ------------------------------
# Columns are searched for in the recorded pixels, without a network, so that the result depends on them alone. The
# lattice is fitted to all columns of the table: a column that was left out would be a missing site.
# :func:`~stemkit.structure.fit_lattices` returns all lattices of the image, here one. Its site 0 is the
# brightest. ``stemkit detect --lattice`` does the same from the shell.

image = NoiseCalibrator().fit_transform(recorded)
detector = AtomDetector()
columns = detector.fit_transform(image)
lattices = fit_lattices(columns)
print(lattices)
lattice = lattices.lattices[0]

fig, axes = plt.subplots(1, 2, figsize=(11, 5.6), layout="constrained")
zoom = image.isel(y=slice(140, 280), x=slice(240, 380))
seen = columns[columns["y_px"].between(140, 279) & columns["x_px"].between(240, 379)]
show_image(image, axes[0], "recorded")
show_columns(zoom, seen, axes[1], "a part of it, with the columns found")

# %%
# Sites without a column
# ----------------------
# :func:`~stemkit.structure.find_vacancies` takes the sites where the lattice expects a column and the table has none. A
# column that is not in the table may still be in the image, too faint to be significant. Therefore the detector
# measures the amplitude at these sites, which may be negative, together with the overlapping columns of the table. It
# is compared with the amplitude that the neighbours at the same site predict.

sites = find_vacancies(columns, lattice, image, detector)
vacancies = sites[sites["vacant"]]
sites[
    ["y", "x", "site", "expected", "amplitude", "amplitude_err", "significance", "presence", "occupancy", "vacant"]
].round(2)

# %%
# ``significance`` is the number of standard deviations by which the amplitude is below the expected one, ``presence``
# the amplitude in units of its error. A double vacancy has a high significance and a presence near 0. ``vacant`` is
# decided by the p-value, adjusted for the number of sites of the whole image: of the vacancies that are listed, one in
# twenty is false at most, on average (``false_discovery_rate=0.05``).
#
# Columns that are too weak
# -------------------------
# Single vacancies are in the table, as columns. ``weak_columns`` compares the amplitude of each column with that of the
# others at the same site around it, in units of the errors and of the spread among the neighbours. Amplitudes near the
# border are not reliable: here ``good_columns`` selects the columns.

weak = weak_columns(columns, lattice)
weak = weak.loc[weak.index.intersection(good_columns(columns).index, sort=False)]
weak[["y", "x", "site", "amplitude", "expected", "significance", "occupancy", "occupancy_err"]].round(2)

# %%
# Both kinds on the image: squares mark double vacancies, circles single ones.

fig, ax = plt.subplots(figsize=(6.4, 6.4), layout="constrained")
show_image(image, ax)
for table, marker, color in ((vacancies, "s", "#e8543f"), (weak, "o", "#f2b134")):
    ax.scatter(
        table["x"] / pixel_size,
        table["y"] / pixel_size,
        s=170,
        marker=marker,
        facecolors="none",
        edgecolors=color,
        linewidths=1.8,
    )

# %%
# All sulphur sites. The occupancy has three groups, for two atoms, one and none; the bars are its errors.

everything = weak_columns(columns, lattice, significance=-np.inf)
everything = everything.loc[everything.index.intersection(good_columns(columns).index, sort=False)]
sulphur = pd.concat([everything[everything["site"] == 1], sites[sites["site"] == 1]], ignore_index=True)
match = match_columns(sulphur[["y", "x"]], true_columns[["y", "x"]], 0.06)
sulphur.loc[match.found, "atoms"] = true_columns["sulphur"].to_numpy()[match.true]
colors = {2: "0.55", 1: "#f2b134", 0: "#e8543f"}
names = {2: "both atoms", 1: "one", 0: "none"}

fig, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", width_ratios=(1.5, 1))
bins = np.arange(-4, 31, 1.0)
for atoms, group in sulphur.groupby("atoms"):
    style = {"color": colors[atoms], "label": f"{names[atoms]} ({len(group)})"}
    axes[0].errorbar(
        group["x"], group["occupancy"], group["occupancy_err"], fmt="o", markersize=4, linewidth=0.9, **style
    )
    axes[1].hist(group["significance"], bins, alpha=0.85, **style)
for level in (0.0, 0.5, 1.0):
    axes[0].axhline(level, color="0.8", linewidth=1, zorder=0)
axes[0].set(xlabel="x (nm)", ylabel="occupancy", title="sulphur sites")
axes[1].axvline(4, color="k", linestyle="--", linewidth=1)
axes[1].set(xlabel="significance", ylabel="sites", title="evidence that atoms are missing", yscale="log")
axes[0].legend(frameon=False, ncols=3, loc="upper center")
axes[0].set_ylim(-0.2, 1.6)

# %%
# In the histogram both kinds of vacancies are separated from the complete sites; the dashed line is the limit of
# ``weak_columns``. For other images the limit depends on the number of sites: one in 30,000 exceeds four standard
# deviations by chance.
