"""
Bonds, rings and dislocations of 2-D materials
==============================================

In graphene, the atoms of a grain boundary form rings of five and seven instead of
hexagons. Each pair of them is a dislocation. The page finds bonds and rings in a noisy
image, and the Burgers vectors in two ways.
"""

# %%
# A boundary in graphene
# ----------------------
# A low-angle boundary is a wall of dislocations (Read and Shockley, 1950). The
# displacements of edge dislocations at a distance of 1.3 nm are added to a perfect
# honeycomb. The noise is that of 30 electrons per pixel at an atom.

import matplotlib.pyplot as plt
import numpy as np

from stemkit import (
    AtomDetector,
    NoiseCalibrator,
    NoiseModel,
    PointwiseNoise,
    STEMSynthesizer,
)
from stemkit.detection import good_columns
from stemkit.plotting import show_grains, show_image, show_rings
from stemkit.structure import (
    bond_angles,
    bonds,
    find_dislocations,
    find_grains,
    fit_lattice,
    mean_distances,
    ring_pairs,
    rings,
)
from stemkit.synthesis import columns_at, dislocated

size, pixel_size, bond = 480, 0.0125, 0.142  # px, nm, nm
a = np.sqrt(3) * bond / pixel_size  # lattice parameter in px
vectors = np.array([[0, a], [np.sqrt(0.75) * a, a / 2]])
cells = np.mgrid[-40:41, -40:41].reshape(2, -1).T
center = (size - 1) / 2
perfect = np.concatenate([cells @ vectors, (cells + 1 / 3) @ vectors]) + center

row = np.sqrt(0.75) * a  # distance of rows of hexagons
cores = [(center + 4.5 + (6 * k - 8) * row, center + 5.2) for k in range(-40, 44)]
honeycomb = columns_at(perfect, sigma=2.6)
moved = [dislocated(honeycomb, core, (0.0, a), poisson=0.25) for core in cores]
positions = perfect.copy()
positions[:, 0] += sum((m.y - honeycomb.y)[0].numpy() for m in moved)
positions[:, 1] += sum((m.x - honeycomb.x)[0].numpy() for m in moved)
positions -= positions.mean(axis=0) - center
inside = ((positions > -10) & (positions < size + 10)).all(axis=1)

noise = NoiseModel(
    contrast=100.0, level=20.0, pointwise=PointwiseNoise.counted(30.0, background=2.0)
)
synthesizer = STEMSynthesizer(
    shape=(size, size), pixel_size=pixel_size, noise=noise, random_state=0
)
specimen = columns_at(positions[inside], sigma=2.6)
recorded = synthesizer.record(specimen)["noisy"][0]

# %%
# Bonds
# -----
# The detector measures the atoms, and ``bonds`` finds the pairs of neighbours. The
# error of the mean bond accounts for atoms that several bonds share. The spread of
# single bonds is larger than their errors: the crystal is strained near dislocations.

image = NoiseCalibrator().fit_transform(recorded)
atoms = good_columns(AtomDetector().fit_transform(image))
pairs = bonds(atoms)
angles = bond_angles(atoms, pairs).query("angle < 180")  # inside rings
mean = mean_distances(atoms, pairs, pixel_size_error=0.01).iloc[0]
print(
    f"{len(atoms)} atoms, {mean['n']:.0f} bonds of {1e3 * mean['distance']:.2f} ± "
    f"{1e3 * mean['distance_err']:.2f} pm (statistical), ± "
    f"{1e3 * mean['distance_total_err']:.1f} pm with a pixel size known to 1 %"
)
print(
    f"single bonds: error {1e3 * pairs['distance_err'].median():.1f} pm, spread "
    f"{1e3 * mean['distance_spread']:.1f} pm; angles: error "
    f"{angles['angle_err'].median():.1f}, spread {angles['angle'].std():.1f} degrees"
)

# %%
# Rings
# -----
# Rings are the faces that bonds enclose. The table contains their size, area and atoms,
# and the rings next to them. ``ring_pairs`` pairs fives and sevens.

found = rings(atoms, pairs)
dislocations = ring_pairs(found)
print(found["size"].value_counts().to_dict(), f"{len(dislocations)} pairs of 5 and 7")

# sphinx_gallery_thumbnail_number = 1
fig, axes = plt.subplots(1, 2, figsize=(11, 5.6), layout="constrained")
show_image(recorded, axes[0], "recorded")
show_rings(recorded, atoms, found, axes[1], "rings")

# %%
# The boundary
# ------------
# ``find_grains`` divides the crystal into grains and measures the angle between their
# lattices. The centres of the rings are a table of columns, too, with one per cell.

grains = find_grains(found)
boundary = grains.boundaries.iloc[0]
print(
    f"{boundary['kind']}: {abs(boundary['misorientation']):.2f} ± "
    f"{boundary['misorientation_err']:.2f} degrees"
)

# %%
# Burgers vectors
# ---------------
# A circuit around a dislocation does not close in the perfect lattice. The lattice of
# one grain is continued across the boundary, as the boundary consists of dislocations.
# Those next to the border are not found: no circuit encloses them. In graphene the
# Burgers vector of a 5-7 pair is perpendicular to the line from the five to the seven.
# The wall rotates the crystal by the length of the Burgers vector divided by the
# distance of the dislocations (Frank).

inside = grains.grains.loc[0, ["y", "x"]]
lattice = fit_lattice(found, vectors=grains.lattices[0].vectors, origin=inside)
circuits = find_dislocations(found, lattice).sort_values("y")
print(circuits[["y", "x", "burgers_a", "burgers_b", "length", "angle"]].round(3))
print((dislocations["angle"] + 90).round(1).tolist(), "degrees, from the rings")
rotation = np.degrees(circuits["length"].mean() / circuits["y"].diff().mean())
print(f"rotation by the dislocations: {rotation:.1f} degrees")

fig, ax = plt.subplots(figsize=(6, 6), layout="constrained")
show_grains(recorded, grains, ax, "grains and Burgers vectors")
at = circuits[["x", "y"]].to_numpy() / pixel_size
arrows = circuits[["burgers_x", "burgers_y"]].to_numpy() / pixel_size
ax.quiver(
    *at.T, *arrows.T, angles="xy", scale_units="xy", scale=0.4, pivot="tip", color="w"
)
