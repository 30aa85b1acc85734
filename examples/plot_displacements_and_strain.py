"""
Displacements and strain
========================

A precipitate that is a little too large pushes the crystal around it aside. Its columns tell how far: from a table of
columns to the lattice, to the displacement of each column, and to maps of the strain, all held against the truth.
"""

# %%
# A crystal whose strain is known
# -------------------------------
# The lattice inside a disc is wider by 2 % in both directions. Outside, elasticity asks for a radial displacement that
# falls off as one over the distance: the crystal there is squeezed towards the disc and stretched around it, and no
# part of it is turned. A second image shows the same crystal at the same magnification, far from any precipitate.
# Neither image has a pixel size.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from sklearn.pipeline import Pipeline

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise
from stemkit.detection import good_columns
from stemkit.metrics import match_columns
from stemkit.plotting import show_image
from stemkit.structure import displacement_map, fit_lattice, pixel_size, strain, strain_map

size, spacing, radius, misfit = 512, 15.0, 110.0, 0.02  # px; the misfit is a strain
centre = np.array([size / 2, size / 2])


def displacement(places):
    """True displacement ``(n, 2)`` of columns whose ideal places are ``(y, x)`` px."""
    away = places - centre
    r = np.hypot(*away.T)[:, None]
    return misfit * away * np.minimum(1.0, (radius / np.maximum(r, 1e-9)) ** 2)


def true_strain(y, x):
    """Its derivatives: exx, eyy and exy."""
    dy, dx = y - centre[0], x - centre[1]
    r2 = dy**2 + dx**2
    fall = misfit * np.where(r2 < radius**2, 0.0, radius**2 / np.maximum(r2, 1.0))
    inside = np.where(r2 < radius**2, misfit, 0.0)
    two, cross = (dy**2 - dx**2) / np.maximum(r2, 1e-9), 2 * dy * dx / np.maximum(r2, 1e-9)
    return {"exx": inside + fall * two, "eyy": inside - fall * two, "exy": -fall * cross}


def record(places, seed):
    """Gaussians at the places ``(y, x)`` px, with the noise of counted electrons."""
    pixel = np.arange(size)
    along_y, along_x = (np.exp(-0.5 * ((pixel - part[:, None]) / 2.5) ** 2) for part in places.T)
    clean = xr.DataArray(200.0 + 1000.0 * along_y.T @ along_x, dims=("y", "x"), attrs={"mode": "haadf"})
    return noise.apply(clean, random_state=seed)


noise = NoiseModel(contrast=1000.0, level=200.0, pointwise=PointwiseNoise.counted(60.0, background=3.0))
grid = np.arange(-3, size // spacing + 4) * spacing
ideal = np.stack(np.meshgrid(grid + 4.0, grid + 7.0, indexing="ij"), axis=-1).reshape(-1, 2)
recorded = record(ideal + displacement(ideal), seed=2)
elsewhere = record(ideal, seed=3)

# %%
# The pixel size from the crystal
# -------------------------------
# Without a pixel size tables are in px. The crystal is known, though: 0.3905 nm from column to column. A lattice fitted
# to the undisturbed image gives the size of a pixel, with an error. It also gives the vectors that strain will be
# counted from.

pipeline = Pipeline([("noise", NoiseCalibrator()), ("atoms", AtomDetector())])
table = pipeline.fit_transform(elsewhere)
undisturbed = fit_lattice(good_columns(table))
print(undisturbed)
pixel = pixel_size(undisturbed, spacing=0.3905)
print(f"pixel size: {1e3 * pixel.value:.5f} ± {1e3 * pixel.error:.5f} pm, true: {1e3 * 0.3905 / spacing:.5f} pm")
reference = undisturbed.vectors * pixel.value

# %%
# The lattice
# -----------
# With the pixel size the table is in nm. ``fit_lattice`` assigns cells from neighbour to neighbour, so that the strain
# of a crystal does not lead to wrong cells, and returns the cell of each column and its displacement from its ideal
# place. The lattice is the mean one: it is slightly larger than that of the undisturbed crystal, because it includes
# the disc. The errors of its lengths assume that the displacements of the columns are independent, which they are not
# here. ``good_columns`` leaves out the columns at the border, whose positions are not reliable.

image = stemkit.calibrated(recorded, pixel_size=pixel.value)
columns = pipeline.fit_transform(image)
columns = good_columns(columns).reset_index(drop=True)
lattice = fit_lattice(columns)
print(lattice)
print("undisturbed:", np.hypot(*reference.T).round(5), "nm")

# %%
# Displacements
# -------------
# How far is each column from where it would be without the disc? Cells are counted along the undisturbed vectors; the
# arrows are eight times too long. The maps are what ``displacement_map`` gives: displacements from the *mean* lattice,
# on the pixels of the image. The mean lattice has taken up a part of them, so that the disc's own expansion is what is
# seen of it, and the corners seem to move inwards.

match = match_columns(columns[["y_px", "x_px"]], ideal + displacement(ideal), spacing / 3)
ideal_of = np.full((len(columns), 2), np.nan)
ideal_of[match.found] = ideal[match.true]
true_off = displacement(ideal_of) * pixel.value

off = columns[["y", "x"]].to_numpy() - (lattice.indices + lattice.sites[lattice.site]) @ reference
off -= np.nanmean(off - true_off, axis=0)  # where the whole crystal stands is anybody's choice
wrong, stated = 1e3 * np.nanstd(off - true_off), 1e3 * np.sqrt((columns[["y_err", "x_err"]] ** 2).to_numpy().mean())
print(f"up to {1e3 * np.hypot(*off.T).max():.0f} pm, wrong by {wrong:.1f} pm per axis, stated {stated:.1f} pm")

maps = displacement_map(columns, lattice, image, coarsen=4)
extent = (-0.5, size - 0.5, size - 0.5, -0.5)
fig, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
show_image(image, axes[0], "from the undisturbed crystal, × 8")
px = 8 / pixel.value
axes[0].quiver(
    *columns[["x_px", "y_px"]].to_numpy().T, px * off[:, 1], px * off[:, 0], angles="xy", scale_units="xy", scale=1,
    color="#f2b134", width=0.004,
)  # fmt: skip
for ax, (name, values) in zip(axes[1:], maps.data_vars.items(), strict=True):
    drawn = ax.imshow(1e3 * values, cmap="RdBu_r", vmin=-40, vmax=40, extent=extent)
    ax.set(title=f"{name}, from the mean lattice", xticks=[], yticks=[])
fig.colorbar(drawn, ax=axes[1:], label="pm", shrink=0.9)

# %%
# Strain
# ------
# The strain at a column is read from the eight columns around it, against the vectors of the undisturbed crystal.
# ``strain`` gives it column by column, with errors; ``strain_map`` on the pixels. Positive is longer. Where the strain
# jumps, at the edge of the disc, the map needs two cells for it: that is the resolution of a method that looks at
# neighbours.

strains = strain_map(columns, lattice, image, coarsen=4, reference=reference)
inner = np.isfinite(strains["exx"].to_numpy())
rows, cols = np.meshgrid(*2 * [np.arange(1.5, size, 4)], indexing="ij")
truth = {name: np.where(inner, values, np.nan) for name, values in true_strain(rows, cols).items()}

fig, axes = plt.subplots(2, 3, figsize=(10.5, 7.2), layout="constrained")
for column, name in zip(axes.T, truth, strict=True):
    for ax, (what, values) in zip(column, {"measured": strains[name], "true": truth[name]}.items(), strict=True):
        drawn = ax.imshow(100 * values, cmap="RdBu_r", vmin=-3, vmax=3, extent=extent)
        ax.set(title=f"{name}, {what}", xticks=[], yticks=[])
fig.colorbar(drawn, ax=axes, label="strain (%)", shrink=0.8)

# %%
# Column by column, the errors come from how far columns are from a flat neighbourhood: they hold the noise of the
# positions. Near the edge of the disc the neighbourhood is not flat, and the strain of a column is an average: those
# within a cell and a half of it are left out of the second line of each.

table = strain(columns, lattice, reference=reference)
true_table = true_strain(*ideal_of.T)
smooth = np.abs(np.hypot(*(ideal_of - centre).T) - radius) > 1.5 * spacing
known = table["exx"].notna().to_numpy() & np.isfinite(ideal_of).all(axis=1)
for name, true in true_table.items():
    for where, which in {"everywhere": known, "away from the edge": known & smooth}.items():
        wrong, stated = 100 * (table[name] - true)[which], 100 * table[f"{name}_err"][which]
        print(f"{name} {where:18s} wrong by {wrong.std():.2f} %, stated {stated.median():.2f} %", end=", ")
        print(f"deviation of the pulls {(wrong / stated).std():.2f}")

# %%
# The rotation is zero everywhere, as elasticity wants it, and its error is the size of what is measured.

rotation = table.loc[known & smooth, ["rotation", "rotation_err"]]
print(f"rotation: {rotation['rotation'].std():.2f}°, stated {rotation['rotation_err'].median():.2f}°")

# %%
# What to mind
# ------------
# - A strain is a ratio: an error of the pixel size leaves it alone, as long as the reference was measured with the same
#   pixels.
# - Slow distortions of the scan (drift, fly-back) look like strain, and no lattice can tell them apart. An undisturbed
#   image that is scanned in the same way shows them.
# - Jitter moves all columns of a row together. It makes neighbours disagree, so that it is in the errors of
#   the strain; :class:`stemkit.RowAligner` takes it off without touching the strain.
