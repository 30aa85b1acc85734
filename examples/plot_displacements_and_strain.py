"""
Displacements and strain
========================

A precipitate with a larger lattice parameter strains the surrounding crystal. From the
table of columns follow the lattice, the displacement of each column, and maps of the
strain; all are compared with the truth.
"""

# %%
# A crystal whose strain is known
# -------------------------------
# The lattice inside a disc is larger by 2 % in both directions. Outside, by the theory
# of elasticity, the displacement is radial and inversely proportional to the distance:
# the crystal there is compressed towards the disc and stretched around it, and is not
# rotated. A second image is of the same crystal at the same magnification, far from any
# precipitate. Neither image has a pixel size.

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
from stemkit.structure import (
    displacement_map,
    fit_lattice,
    pixel_size,
    strain,
    strain_map,
)

size, spacing, radius, misfit = 512, 15.0, 110.0, 0.02  # px; the misfit is a strain
center = np.array([size / 2, size / 2])


def displacement(positions):
    """True displacement ``(n, 2)`` of columns at the ideal positions ``(y, x)``, px."""
    difference = positions - center
    r = np.hypot(*difference.T)[:, None]
    return misfit * difference * np.minimum(1.0, (radius / np.maximum(r, 1e-9)) ** 2)


def true_strain(y, x):
    """Its derivatives: exx, eyy and exy."""
    dy, dx = y - center[0], x - center[1]
    r2 = dy**2 + dx**2
    fall = misfit * np.where(r2 < radius**2, 0.0, radius**2 / np.maximum(r2, 1.0))
    inside = np.where(r2 < radius**2, misfit, 0.0)
    two, cross = (
        (dy**2 - dx**2) / np.maximum(r2, 1e-9),
        2 * dy * dx / np.maximum(r2, 1e-9),
    )
    return {
        "exx": inside + fall * two,
        "eyy": inside - fall * two,
        "exy": -fall * cross,
    }


def record(positions, seed):
    """Gaussians at the positions ``(y, x)`` px, with the noise of counted electrons."""
    pixel = np.arange(size)
    along_y, along_x = (
        np.exp(-0.5 * ((pixel - part[:, None]) / 2.5) ** 2) for part in positions.T
    )
    true_image = xr.DataArray(
        200.0 + 1000.0 * along_y.T @ along_x, dims=("y", "x"), attrs={"mode": "haadf"}
    )
    return noise.apply(true_image, random_state=seed)


noise = NoiseModel(
    contrast=1000.0, level=200.0, pointwise=PointwiseNoise.counted(60.0, background=3.0)
)
grid = np.arange(-3, size // spacing + 4) * spacing
ideal = np.stack(np.meshgrid(grid + 4.0, grid + 7.0, indexing="ij"), axis=-1).reshape(
    -1, 2
)
recorded = record(ideal + displacement(ideal), seed=2)
elsewhere = record(ideal, seed=3)

# %%
# The pixel size from the crystal
# -------------------------------
# Without a pixel size tables are in px. The lattice parameter of the crystal is known:
# 0.3905 nm. The pixel size, with its error, follows from a lattice fitted to the
# undisturbed image. Its vectors are the reference of the strain.

pipeline = Pipeline([("noise", NoiseCalibrator()), ("atoms", AtomDetector())])
table = pipeline.fit_transform(elsewhere)
undisturbed = fit_lattice(good_columns(table))
print(undisturbed)
pixel = pixel_size(undisturbed, spacing=0.3905)
print(
    f"pixel size: {1e3 * pixel.value:.5f} ± {1e3 * pixel.error:.5f} pm, "
    f"true: {1e3 * 0.3905 / spacing:.5f} pm"
)
reference = undisturbed.vectors * pixel.value

# %%
# The lattice
# -----------
# With the pixel size the table is in nm. ``fit_lattice`` assigns cells from neighbour
# to neighbour, so that the strain of a crystal does not lead to wrong cells, and
# returns the cell of each column and its displacement from its ideal position. The
# lattice is the mean one: it is slightly larger than that of the undisturbed crystal,
# because it includes the disc. The errors of its lengths assume that the displacements
# of the columns are independent, which they are not here. ``good_columns`` omits the
# columns at the border, whose positions are not reliable.

image = stemkit.calibrated(recorded, pixel_size=pixel.value)
columns = pipeline.fit_transform(image)
columns = good_columns(columns).reset_index(drop=True)
lattice = fit_lattice(columns)
print(lattice)
print("undisturbed:", np.hypot(*reference.T).round(5), "nm")

# %%
# Displacements
# -------------
# The displacement of each column from its position without the disc follows from its
# cell and the undisturbed vectors; the arrows are eight times longer.
# ``displacement_map`` interpolates the displacements from the *mean* lattice on the
# pixels of the image. The mean lattice contains a part of the expansion, so that the
# corners seem to move inwards.

match = match_columns(
    columns[["y_px", "x_px"]], ideal + displacement(ideal), spacing / 3
)
ideal_of = np.full((len(columns), 2), np.nan)
ideal_of[match.found] = ideal[match.true]
true_displaced = displacement(ideal_of) * pixel.value

displaced = (
    columns[["y", "x"]].to_numpy()
    - (lattice.indices + lattice.sites[lattice.site]) @ reference
)
displaced -= np.nanmean(
    displaced - true_displaced, axis=0
)  # the origin of the crystal is arbitrary
error, stated = (
    1e3 * np.nanstd(displaced - true_displaced),
    1e3 * np.sqrt((columns[["y_err", "x_err"]] ** 2).to_numpy().mean()),
)
print(
    f"up to {1e3 * np.hypot(*displaced.T).max():.0f} pm, "
    f"error {error:.1f} pm per axis, stated {stated:.1f} pm"
)

maps = displacement_map(columns, lattice, image, coarsen=4)
extent = (-0.5, size - 0.5, size - 0.5, -0.5)
fig, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
show_image(image, axes[0], "from the undisturbed crystal, × 8")
px = 8 / pixel.value
axes[0].quiver(
    *columns[["x_px", "y_px"]].to_numpy().T,
    *px * displaced[:, ::-1].T,
    angles="xy",
    scale_units="xy",
    scale=1,
    color="#f2b134",
    width=0.004,
)
for ax, (name, values) in zip(axes[1:], maps.data_vars.items(), strict=True):
    drawn = ax.imshow(1e3 * values, cmap="RdBu_r", vmin=-40, vmax=40, extent=extent)
    ax.set(title=f"{name}, from the mean lattice", xticks=[], yticks=[])
fig.colorbar(drawn, ax=axes[1:], label="pm", shrink=0.9)

# %%
# Strain
# ------
# The strain at a column follows from the positions of the eight columns around it,
# relative to the vectors of the undisturbed crystal. ``strain`` returns it for each
# column, with errors; ``strain_map`` interpolates it on the pixels. Positive strain is
# expansion. At the edge of the disc, where the strain jumps, the map changes over two
# cells, the resolution of a method that compares neighbours.

strains = strain_map(columns, lattice, image, coarsen=4, reference=reference)
inner = np.isfinite(strains["exx"].to_numpy())
rows, cols = np.meshgrid(*2 * [np.arange(1.5, size, 4)], indexing="ij")
truth = {
    name: np.where(inner, values, np.nan)
    for name, values in true_strain(rows, cols).items()
}

fig, axes = plt.subplots(2, 3, figsize=(10.5, 7.2), layout="constrained")
for column, name in zip(axes.T, truth, strict=True):
    for ax, (what, values) in zip(
        column, {"measured": strains[name], "true": truth[name]}.items(), strict=True
    ):
        drawn = ax.imshow(100 * values, cmap="RdBu_r", vmin=-3, vmax=3, extent=extent)
        ax.set(title=f"{name}, {what}", xticks=[], yticks=[])
fig.colorbar(drawn, ax=axes, label="strain (%)", shrink=0.8)

# %%
# The errors of the strain follow from the residuals of the planes that are fitted to
# the neighbours: they contain the noise of the positions. Near the edge of the disc the
# strain of a column is an average over the jump: columns within a cell and a half of it
# are omitted in the second line of each component.

table = strain(columns, lattice, reference=reference)
true_table = true_strain(*ideal_of.T)
smooth = np.abs(np.hypot(*(ideal_of - center).T) - radius) > 1.5 * spacing
known = table["exx"].notna().to_numpy() & np.isfinite(ideal_of).all(axis=1)
for name, true in true_table.items():
    for where, which in {
        "everywhere": known,
        "away from the edge": known & smooth,
    }.items():
        error, stated = (
            100 * (table[name] - true)[which],
            100 * table[f"{name}_err"][which],
        )
        print(
            f"{name} {where:18s} error {error.std():.2f} %, "
            f"stated {stated.median():.2f} %",
            end=", ",
        )
        print(f"standard deviation of the pulls {(error / stated).std():.2f}")

# %%
# The true rotation is zero everywhere; the measured values agree with the stated error.

rotation = table.loc[known & smooth, ["rotation", "rotation_err"]]
print(
    f"rotation: {rotation['rotation'].std():.2f}°, "
    f"stated {rotation['rotation_err'].median():.2f}°"
)

# %%
# Limitations
# -----------
# - A strain is a ratio: it does not depend on the pixel size, provided that the
#   reference was measured with the same pixels.
# - Slow distortions of the scan (drift, fly-back) cannot be distinguished from strain.
#   An undisturbed image that is scanned in the same way shows them.
# - Jitter displaces all columns of a row together. It is contained in the errors of the
#   strain, since neighbours in different rows disagree; :class:`stemkit.RowAligner`
#   corrects it without affecting the strain.
