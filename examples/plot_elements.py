"""
Names of columns from a known crystal
=====================================

Which column is which? If the crystal is known, its projection can be registered to the
columns: each gets the atoms that it consists of, and its displacement from the
position in the crystal. The image does not have to be calibrated, and columns may be
missing. Requires ``pip install stemkit[crystals]``.
"""

# %%
# An image of strontium titanate
# ------------------------------
# The crystal is an ``ase.Atoms`` object, or a CIF file. The image is drawn with a pixel
# size that is wrong by 4 %, compressed by drift, and lacks two columns.

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from ase.spacegroup import crystal

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise
from stemkit.plotting import show_names
from stemkit.structure import brightness_classes, register_crystal

titanate = crystal(
    ["Sr", "Ti", "O"],
    [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
    spacegroup=221,
    cellpar=[3.905, 3.905, 3.905, 90, 90, 90],
)

size, pixel_size, width, constant = 256, 0.0156, 0.055, 0.3905  # px, nm, nm, nm
cell = np.mgrid[-12:13, -12:13].reshape(2, -1).T
places = np.concatenate([cell, cell + 0.5]) * constant
angle = np.radians(12)
turn = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
drift = [[0.97, 0.01], [0.0, 1.0]]
true = pd.DataFrame(places @ turn @ drift + size / 2 * 0.015, columns=["y", "x"])
true["amplitude"] = np.repeat([1000.0, 500.0], len(cell))
true = true.drop(index=[312, 990])  # a column of Sr and one of Ti and O

pixel = np.arange(size) * 0.015  # nm: the true pixel size
along_y, along_x = (
    np.exp(-0.5 * ((pixel - true[[d]].to_numpy()) / width) ** 2) for d in ("y", "x")
)
true_image = 100.0 + (along_y * true[["amplitude"]].to_numpy()).T @ along_x
noise = NoiseModel(
    contrast=1000.0,
    level=100.0,
    pointwise=PointwiseNoise.counted(60.0, background=2.0),
)
recorded = noise.apply(
    stemkit.calibrated(true_image, pixel_size=pixel_size), random_state=1
)

# %%
# Registration
# ------------
# All orientations, both sides and all origins of the crystal are compared with the
# lattice of the columns. The verdict says what fits, and what the image does not
# decide: settings that the symmetry of the projection relates.

image = NoiseCalibrator().fit_transform(recorded)
columns = AtomDetector().fit_transform(image)
registered = register_crystal(columns, titanate, zone_axis=(0, 0, 1))
print(registered.verdict)

fig, ax = plt.subplots(figsize=(6.4, 6.8), layout="constrained")
show_names(recorded, registered.columns, ax, missing=registered.missing)

# %%
# Lengths are larger than those of the crystal by the error of the pixel size, minus the
# compression by the drift. Oxygen columns are too faint to be expected:

shown = ["name", "brightness", "visible", "n_columns", "n_missing", "measured"]
registered.sites[shown].round(3)

# %%
# Each column has the probability of its name, and its displacement from the crystal
# with an error:

shown = ["name", "probability", "displacement_y", "displacement_x", "significance"]
registered.columns[shown].head().round(3)

# %%
# The settings that agree, most likely first. Those with the same ``naming`` give every
# column the same name; the others exchange Sr and TiO.

registered.settings.round(3).head(10)

# %%
# Without a crystal
# -----------------
# Brightness alone divides columns into classes, with a probability for each and the
# fraction of errors to expect. It does not show which elements they are.

classes = brightness_classes(columns)
print("brightness relative to class 0:", classes.attrs["ratios"])
print(f"expected fraction of errors: {classes.attrs['error_rate']:.2g}")
pd.crosstab(registered.columns["name"], classes["class"])
