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
from stemkit.detection.structure import displacement_map, fit_lattice, pixel_size, strain, strain_map
from stemkit.plotting import show_columns

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
undisturbed = fit_lattice(pipeline.fit_transform(elsewhere))
print(undisturbed)
pixel = pixel_size(undisturbed, spacing=0.3905)
print(f"pixel size: {pixel.value:.6f} ± {pixel.error:.6f} nm, true: {0.3905 / spacing:.6f} nm")
reference = undisturbed.vectors * pixel.value

# %%
# The lattice
# -----------
# With the pixel size the table is in nm. ``fit_lattice`` goes from neighbour to neighbour, so that a strained crystal
# does not lose count, and says of each column in which cell it stands and how far it is from its place. The lattice is
# the mean one: it is a little larger than the undisturbed crystal, since the disc takes part in it. The errors
# of its lengths assume that columns are displaced independently of each other, which here they are not.

image = stemkit.calibrated(recorded, pixel_size=pixel.value)
columns = pipeline.fit_transform(image)
lattice = fit_lattice(columns)
print(lattice)
print("undisturbed:", np.hypot(*reference.T).round(5), "nm")

# %%
# Displacements
# -------------
# Against a lattice of one's own choice the displacement of a column is its place less the ideal one. Here it is that of
# the undisturbed crystal, with its origin in the middle of the disc; the arrows are ten times too long. The map is
# what ``displacement_map`` makes of the displacements from the mean lattice, on the pixels of the image.

steps = lattice.indices + lattice.sites[lattice.site]
off = columns[["y", "x"]].to_numpy() - steps @ reference
off -= off[np.hypot(*(columns[["y_px", "x_px"]].to_numpy() - centre).T) < radius].mean(axis=0)
wanted = displacement(columns[["y_px", "x_px"]].to_numpy() / (1 + 0 * misfit)) * pixel.value
maps = displacement_map(columns, lattice, image)
