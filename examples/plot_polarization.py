"""
Polarisation and domain walls
=============================

In a ferroelectric perovskite the columns of B are displaced from the centre of the four
columns of A around them. Here these displacements are measured with their errors,
averaged over rows of the crystal, and searched for domain walls.
"""

# %%
# A film with two domains
# -----------------------
# The columns of a perovskite along [001], bright A and dim B. Lead titanate between two
# layers that are not polar: in its left half B is displaced by 18 pm upwards, in its
# right half by 18 pm downwards. The image is recorded with jitter of the rows.

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.metrics import match_columns
from stemkit.plotting import show_displacements
from stemkit.structure import (
    cage_displacements,
    domain_walls,
    fit_lattice,
    mean_displacements,
    polarization,
    sublattices,
)

size, pixel_size, width = 440, 0.0185, 0.062  # px, nm, nm
constant, polar = 0.395, 0.018  # nm


def film():
    """The true columns: ``y`` and ``x`` in nm, heights, displacements of B in pm."""
    y, x = constant * np.mgrid[0:22, 0:22].reshape(2, -1)
    a = pd.DataFrame({"y": y, "x": x, "amplitude": 1000.0, "truth": np.nan})
    b = pd.DataFrame(
        {"y": y + constant / 2, "x": x + constant / 2, "amplitude": 450.0, "truth": 0.0}
    )
    layer = b["y"].between(2.6, 5.6)
    b.loc[layer, "truth"] = 1000 * polar * np.where(b.loc[layer, "x"] < 4.1, -1, 1)
    b["y"] += b["truth"] / 1000
    return pd.concat([a, b], ignore_index=True)


true_columns = film()
pixel = np.arange(size) * pixel_size
along_y, along_x = (
    np.exp(-0.5 * ((pixel - true_columns[[d]].to_numpy()) / width) ** 2)
    for d in ("y", "x")
)
true_image = 100.0 + (along_y * true_columns[["amplitude"]].to_numpy()).T @ along_x
microscope = NoiseModel(
    contrast=1000.0,
    level=100.0,
    scan=ScanNoise(jitter=0.3),
    pointwise=PointwiseNoise.counted(60.0, background=3.0),
)
recorded = microscope.apply(
    stemkit.calibrated(true_image, pixel_size=pixel_size), random_state=2
)

# %%
# Displacements with their errors
# -------------------------------
# :func:`~stemkit.structure.sublattices` labels the two sites of the lattice, 0 the
# brighter one. Each column of site 1 is compared with the mean position of the columns
# of site 0 around it. The number of these, four, is determined from the distances. The
# errors contain those of the fits of all five columns, and the jitter that columns in
# one row share.

image = NoiseCalibrator().fit_transform(recorded)
columns = AtomDetector().fit_transform(image)
lattice = fit_lattice(columns)
labels = sublattices(columns, lattice, 2)
displacements = cage_displacements(columns, labels)
walls = domain_walls(
    columns, displacements, false_discovery_rate=0.002, min_difference=10
)

fig, ax = plt.subplots(figsize=(8, 8), layout="constrained")
show_displacements(image, displacements, ax, min_significance=3, walls=walls)

# %%
# Colours are directions; arrows below three standard deviations are grey. White lines
# are pairs of neighbours whose vectors differ significantly, and by at least 10 pm: the
# wall between the two domains, and the interfaces to the layers that are not polar. Of
# the lines, one in 500 is expected to be between equal displacements; at a rate of
# 0.01, two lines of 48 are far from the walls.
#
# No column is left out of the table. Columns without a complete cage have no
# displacement, and ``reason`` says why.

displacements["reason"].value_counts()

# %%
# The errors are those of the measurement: the difference from the truth has a standard
# deviation of one error, apart from a few columns next to which the truth is not
# defined.

match = match_columns(columns[["y", "x"]], true_columns[["y", "x"]], 0.06)
truth = pd.Series(
    true_columns["truth"].to_numpy()[match.true], index=columns.index[match.found]
)
pull = (displacements["displacement_y"] - truth) / displacements["displacement_y_err"]
print(
    f"{pull.count()} pulls: mean {pull.mean():.2f}, standard deviation {pull.std():.2f}"
)

# %%
# Means over rows
# ---------------
# Neighbouring cages share columns, and columns of a row share its jitter: means over
# rows of the crystal have errors that are not those of single columns divided by the
# square root of their number. :func:`~stemkit.structure.mean_displacements` propagates
# both. The rows are those of the lattice; the two domains are averaged separately.

row = (
    lattice.indices[:, 1]
    if abs(lattice.vectors[1, 0]) > abs(lattice.vectors[1, 1])
    else lattice.indices[:, 0]
)
fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for name, side in {"left": columns["x"] < 4.1, "right": columns["x"] >= 4.1}.items():
    means = mean_displacements(
        columns, displacements, pd.Series(row, columns.index).where(side)
    )
    ax.errorbar(
        means["y"],
        means["displacement_y"],
        means["displacement_y_err"],
        fmt="o",
        markersize=4,
        label=name,
    )
for edge in (2.6, 5.6):
    ax.axvline(edge, color="0.7", linewidth=1, zorder=0)
for level in (-1000 * polar, 0.0, 1000 * polar):
    ax.axhline(level, color="0.85", linewidth=1, zorder=0)
ax.set(
    xlabel="y (nm)",
    ylabel="displacement along y (pm)",
    title="means over rows; lines are the truth",
)
ax.legend(frameon=False)

# %%
# Polarisation
# ------------
# With the Born effective charge of the displacement and the volume of the unit cell,
# the displacement is a polarisation, ``P = e Z u / V``. The charge is that of
# everything that moves with the column, see :func:`~stemkit.structure.polarization`.

region = np.where(
    labels == 1,
    np.where(columns["y"].between(2.8, 5.4), np.sign(columns["x"] - 4.1), 0),
    np.nan,
)
names = {-1.0: "left domain", 0.0: "layers", 1.0: "right domain"}
groups = pd.Series(region, columns.index).map(names)
means = polarization(
    mean_displacements(columns, displacements, groups),
    born_charge=7.1,
    cell_volume=constant**3,
)
means[
    [
        "n",
        "displacement_y",
        "displacement_y_err",
        "polarization_y",
        "polarization_y_err",
        "spread_y",
    ]
].round(2)
