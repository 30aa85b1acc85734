"""
Plant a defect
==============

To test whether an analysis finds all columns and no others, plant defects in a crystal.
Arrangements are small functions of columns that return columns, and can be combined.
"""

import matplotlib.pyplot as plt

from stemkit import (
    AtomDetector,
    NoiseCalibrator,
    NoiseModel,
    PointwiseNoise,
    STEMSynthesizer,
)
from stemkit.metrics import match_columns
from stemkit.plotting import show_columns, show_image
from stemkit.synthesis import (
    dislocated,
    half_plane,
    inserted,
    inside,
    joined,
    lattice,
    lattice_vectors,
    mirrored,
    nearest,
    planar_cell,
    removed,
    render,
    substituted,
    superposed,
)

shape, spacing = (256, 256), 16.0
cell = planar_cell("hexagonal")
crystal = lattice(cell, shape, spacing=spacing, sigma=3.0)
a, b = lattice_vectors(cell, crystal.spacing)[0]

# %%
# A vacancy and a cluster of brighter atoms: one function selects the columns, another
# changes them. An interstitial is inserted at a given position.

damaged = removed(crystal, nearest(crystal, (90, 80)))
damaged = substituted(damaged, inside(damaged, (170, 170), 20.0), amplitude=1.4)
damaged = inserted(damaged, [(127.5, 136.7)], amplitude=0.5, sigma=3.0)

# %%
# A dislocation, whose Burgers vector is a lattice vector; a twin, the crystal next to
# its mirror image; two layers rotated against each other.

middle = (127.5, 127.5)
sheared = dislocated(crystal, middle, tuple(a))
rectangular = lattice(
    planar_cell("oblique", angle=70.0), shape, spacing=spacing, sigma=3.0
)
twin = joined(
    rectangular,
    mirrored(rectangular, middle, 0.0),
    half_plane((middle[0] - 3, middle[1]), 0.0),
)
moire = superposed(crystal, lattice(cell, shape, spacing=spacing, sigma=3.0, angle=9.0))

fig, axes = plt.subplots(1, 4, figsize=(14, 3.8), layout="constrained")
specimens = {
    "point defects": damaged,
    "dislocation": sheared,
    "twin": twin,
    "two layers": moire,
}
for ax, (name, specimen) in zip(axes, specimens.items(), strict=True):
    show_image(render(specimen, shape)[0].numpy(), ax, name)

# %%
# The first one is recorded with few electrons per pixel and measured.

microscope = NoiseModel(pointwise=PointwiseNoise.counted(8.0, background=0.5))
synthesizer = STEMSynthesizer(
    noise=microscope, shape=shape, pixel_size=0.0125, random_state=0
)
pairs, true_columns = synthesizer.record(damaged, return_columns=True)
image = NoiseCalibrator().fit_transform(pairs["noisy"].isel(image=0))
found = AtomDetector().fit_transform(image)
match = match_columns(
    found[["y_px", "x_px"]], true_columns[["y_px", "x_px"]], spacing / 3
)
print(
    f"{len(true_columns)} columns, {len(found)} found, {len(match.found)} of them true"
)

# %%
# The table of true columns names the defects. The changed columns:

planted = true_columns[true_columns["defect"] != "none"].copy()
planted["found"] = planted.index.isin(true_columns.index[match.true])
measured = dict(
    zip(
        true_columns.index[match.true],
        found["amplitude"].to_numpy()[match.found],
        strict=True,
    )
)
planted["measured amplitude"] = planted.index.map(measured)
planted[["y_px", "x_px", "defect", "amplitude", "measured amplitude", "found"]].round(2)

# %%
# The vacancy is not in that table, since it has no column. No column should be found
# there.

fig, axes = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
show_image(pairs["enhance"].isel(image=0), axes[0], "true image")
show_columns(image, found, axes[1])
axes[1].set_title("columns found")
axes[1].plot(
    80, 90, "s", markersize=16, markerfacecolor="none", markeredgecolor="#e8543f"
)

# %%
# :func:`stemkit.benchmark.evaluate` does this for any method, with vacancies,
# interstitials, substitutions, shifted columns, an edge, and images of noise alone.
