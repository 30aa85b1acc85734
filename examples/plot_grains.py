"""
Grains
======

A table of columns may contain several crystals: grains, twins, a film and its
substrate, a crystal in an amorphous matrix. ``find_grains`` divides it into grains, and
measures the boundaries between them.
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
from stemkit.plotting import show_grains, show_image
from stemkit.structure import find_grains, strain
from stemkit.synthesis import (
    columns_at,
    half_plane,
    joined,
    lattice,
    planar_cell,
    superposed,
)

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
# Grains and their boundary
# -------------------------
# The lattices of all grains are fitted (``fit_lattices``). The result consists of
# tables: of the columns, with the grain and the local lattice of each; of the grains;
# of the boundaries, with their misorientation and its error; and of the lines of which
# the boundaries consist.

image = NoiseCalibrator().fit_transform(recorded)
columns = good_columns(AtomDetector().fit_transform(image))
grains = find_grains(columns)
print(grains)
print(grains.grains[["n", "a", "a_err", "b", "b_err", "orientation"]].round(4))
boundary = grains.boundaries.iloc[0]
print(
    f"misorientation {abs(boundary['misorientation']):.3f} ± "
    f"{boundary['misorientation_err']:.3f} degrees, true: {rotation:.3f} degrees"
)

fig, axes = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
show_image(image, axes[0], "recorded")
show_grains(image, grains, axes[1], "grains")

# %%
# One grain at a time
# -------------------
# Each grain has a lattice of the whole table, with ``site`` -1 for the columns of the
# others. The functions of ``stemkit.structure`` take the table and one of them. The
# strain of a perfect crystal is an error of the measurement, and is as large as stated.

for number, grain in enumerate(grains.lattices):
    at = strain(columns, grain)
    print(
        f"grain {number}: exx {1e2 * at['exx'].std():.2f} % RMS, stated error "
        f"{1e2 * at['exx_err'].median():.2f} %"
    )

# %%
# A twin, a film and its substrate
# --------------------------------
# A boundary is coherent if a lattice plane along it is the same in both grains. In one
# phase this is a twin, such as that of gold along [110]: the plane is a
# common {111} plane. Between two phases it is a coherent interface, such as that of a
# strained film of 0.39 x 0.41 nm on a substrate of 0.39 nm. A relaxed film of 0.41 nm
# has a mismatch of 5 % along the interface.

gold = 0.408 * np.array([[0, np.sqrt(0.5)], [0.5, np.sqrt(0.125)]])  # nm, (y, x)
trace = gold[1] / np.hypot(*gold[1])
twin = gold @ (2 * np.outer(trace, trace) - np.eye(2))  # mirrored at the plane
substrate = np.array([[0, 0.39], [0.39, 0]])
strained, relaxed = np.array([[0, 0.39], [0.41, 0]]), np.array([[0, 0.41], [0.41, 0]])


def bicrystal(first, second, normal):
    """Two crystals (vectors in nm) on both sides of a line through the centre."""
    cells = np.mgrid[-40:41, -40:41].reshape(2, -1).T
    sides = [cells @ first, cells @ second]
    sides = [sides[0][sides[0] @ normal < -1e-9], sides[1][sides[1] @ normal >= -1e-9]]
    places = [side / pixel_size + (size - 1) / 2 for side in sides]
    places = [p[((p > -20) & (p < size + 20)).all(axis=1)] for p in places]
    return superposed(*(columns_at(p, sigma=3.6, spacing=14.0) for p in places))


down = np.array([1.0, 0.0])
specimens = {
    "twin of gold, [110]": bicrystal(gold, twin, np.array([-trace[1], trace[0]])),
    "strained film": bicrystal(strained, substrate, down),
    "relaxed film": bicrystal(relaxed, substrate, down),
}
fig, axes = plt.subplots(1, 3, figsize=(14, 4.9), layout="constrained")
for ax, (name, specimen) in zip(axes, specimens.items(), strict=True):
    noisy = NoiseCalibrator().fit_transform(synthesizer.record(specimen)["noisy"][0])
    table = good_columns(AtomDetector().fit_transform(noisy))
    found = find_grains(table)
    show_grains(noisy, found, ax, name)
    side = found.boundaries.iloc[0]
    mismatch, error = 1e2 * side["plane_mismatch"], 1e2 * side["plane_mismatch_err"]
    print(
        f"{name}: {side['kind']}, "
        f"planes along {side['plane_first']} and {side['plane_second']}, "
        f"mismatch {mismatch:.2f} ± {error:.2f} %"
    )
