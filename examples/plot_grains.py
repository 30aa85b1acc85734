"""
Grains
======

A table of columns may contain several crystals: grains, twins, a film and its
substrate, a crystal in an amorphous matrix. ``fit_lattices`` finds their lattices, and
the lattice of each column.
"""

# %%
# Two grains
# ----------
# Two crystals of the same structure are rotated by 18 degrees against each other. The
# noise is that of counted electrons.

# sphinx_gallery_thumbnail_number = 1
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
from stemkit.plotting import show_image, show_labels
from stemkit.structure import displacement_map, fit_lattices
from stemkit.synthesis import half_plane, joined, lattice, planar_cell

size, spacing, pixel_size, rotation = 320, 14.0, 0.02, 18.0  # px, px, nm, degrees
shape = (size, size)
left = lattice(planar_cell("square"), shape, spacing=spacing, angle=4.0)
right = lattice(planar_cell("square"), shape, spacing=spacing, angle=4.0 + rotation)
specimen = joined(
    left, right, half_plane((size / 2, size / 2), 80.0), gap=0.7 * spacing
)
noise = NoiseModel(
    contrast=1000.0, level=100.0, pointwise=PointwiseNoise.counted(30.0, background=2.0)
)
synthesizer = STEMSynthesizer(
    shape=shape, pixel_size=pixel_size, noise=noise, random_state=0
)
recorded = synthesizer.record(specimen)["noisy"][0]

# %%
# All lattices
# ------------
# The lattices are sorted by their number of columns. ``labels`` is the number of each
# column's lattice, and -1 for columns of none, which are drawn as crosses. A single
# lattice (``fit_lattice``) would not describe these columns, and warns of the others. A
# column at the boundary may be predicted equally well by both lattices; its label is
# then arbitrary.

image = NoiseCalibrator().fit_transform(recorded)
columns = good_columns(AtomDetector().fit_transform(image))
found = fit_lattices(columns)
print(found)

fig, axes = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
show_image(image, axes[0], "recorded")
show_labels(image, columns, found.labels, axes[1], "the lattice of each column")

# %%
# The misorientation
# ------------------
# Vectors have the convention of :doc:`/measuring`: a points right, or down if it is
# steeper than 45 degrees. The angle between the a of two square lattices is therefore
# known up to a multiple of 90 degrees.

angles = [
    np.degrees(np.arctan2(*found_lattice.vectors[0]))
    for found_lattice in found.lattices[:2]
]
print(
    f"rotation: {abs(angles[0] - angles[1]):.3f} degrees, true: {rotation:.3f} degrees"
)

# %%
# One grain at a time
# -------------------
# Each lattice is that of the whole table, with ``site`` -1 for the columns of the
# others. The functions of ``stemkit.structure`` therefore take the table and one of its
# lattices. The example shows the displacements in the first grain, which are errors of
# the measurement, as the crystal is perfect.

grain = found.lattices[0]
maps = displacement_map(columns, grain, image, coarsen=2)
fig, ax = plt.subplots(figsize=(6.2, 5.2), layout="constrained")
extent = (-0.5, size - 0.5, size - 0.5, -0.5)
name, values = next(iter(maps.data_vars.items()))
drawn = ax.imshow(1e3 * values, cmap="RdBu_r", vmin=-20, vmax=20, extent=extent)
ax.set(title=f"{name}, first grain", xticks=[], yticks=[])
fig.colorbar(drawn, label="pm", shrink=0.9)
on_grain = (found.labels == 0).to_numpy()
stated = 1e3 * np.sqrt(
    (columns.loc[on_grain, ["y_err", "x_err"]] ** 2).to_numpy().mean()
)
print(
    f"displacements: {1e3 * grain.displacement[on_grain].std():.1f} pm RMS per axis, "
    f"stated error {stated:.1f} pm"
)
