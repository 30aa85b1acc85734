"""
Counting atoms
==============

The integrated intensity of a column in a HAADF image increases with its number of
atoms. Here the intensities of a particle are divided into components, one per number of
atoms, and the error rate is compared with the truth.
"""

# %%
# A particle
# ----------
# A round particle of one element, one to nine atoms thick, on a constant background.
# The intensity of a column increases by a little less for each further atom.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np

import stemkit
from stemkit import AtomDetector, NoiseModel, PointwiseNoise
from stemkit.metrics import match_columns
from stemkit.plotting import show_counts, show_mixture
from stemkit.structure import count_atoms, voronoi_intensities

size, pixel_size, width, spacing = 256, 0.018, 0.07, 0.27  # px, nm, nm, nm
level = 50.0  # intensity of the vacuum
rng = np.random.default_rng(5)


def intensity(atoms):
    """Height of a column."""
    return 30.0 * atoms * (1 - 0.01 * atoms)


i, j = (part.ravel() for part in np.mgrid[-10:11, -10:11])
positions = (
    spacing * np.column_stack([i * np.sqrt(3) / 2, j + 0.5 * (i % 2)])
    + size / 2 * pixel_size
)
radius = np.hypot(*(positions - size / 2 * pixel_size).T)
positions, radius = positions[radius < 2.0], radius[radius < 2.0]
atoms = np.maximum(
    np.round(
        8 * np.sqrt(1 - (radius / 2.03) ** 2) + rng.uniform(-1, 1, len(positions))
    ),
    1,
)
pixel = np.arange(size) * pixel_size
along_y, along_x = (
    np.exp(-0.5 * ((pixel - positions[:, [k]]) / width) ** 2) for k in range(2)
)
true_image = stemkit.calibrated(
    level + (intensity(atoms)[:, None] * along_y).T @ along_x, pixel_size=pixel_size
)


def recorded(dose):
    """The image at a dose, electrons per pixel on the thickest column."""
    microscope = NoiseModel(
        contrast=240.0,
        level=level,
        pointwise=PointwiseNoise.counted(dose, background=2.0),
    )
    return microscope.apply(true_image, random_state=3)


# %%
# Intensities
# -----------
# For counting, all columns have one width and one background, that of the vacuum: the
# intensity is then everything that a column adds to it.

image = recorded(100.0)
detector = AtomDetector(common_width=True, background=level)
columns = detector.fit_transform(image)
counts = count_atoms(columns)
print(counts)

fig, axes = plt.subplots(
    1, 2, figsize=(12, 5.4), layout="constrained", width_ratios=(1, 1.2)
)
show_counts(image, counts.columns, axes[0], "atoms per column")
show_mixture(counts.columns, counts.components, counts.width, axes[1], "intensities")

# %%
# The number of components minimises a criterion. ICL penalises components that overlap,
# BIC does not.

fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
counts.criteria.rename(columns=str.upper).plot(ax=ax, marker="o", markersize=4)
ax.set(xlabel="number of components", ylabel="criterion")

# %%
# Compared with the truth
# -----------------------
# ``error_rate`` is the fraction of wrong counts to expect, from samples that are drawn
# from the mixture. Each column has the probability of its count, and a range that
# contains the number with 95 % probability.

match = match_columns(columns[["y", "x"]], positions, 0.1)
found = counts.columns["count"].to_numpy(dtype=float)[match.found]
wrong = np.mean(found != atoms[match.true])
print(f"wrong: {wrong:.1%}, expected {counts.error_rate:.1%}")
counts.columns.head()

# %%
# Lower doses
# -----------
# At a lower dose components overlap, and the number of components can no longer be
# determined: the result says so. A library of intensities, from simulations or from a
# wedge of known thickness, fixes the means of the components up to one scale. Atoms are
# then counted at lower doses, with an error rate that is known.

numbers = np.arange(1, 13)
library = np.column_stack([numbers, 2 * np.pi * width**2 * intensity(numbers)])
for dose in (100.0, 30.0, 20.0, 10.0):
    low = AtomDetector(common_width=True, background=level).fit_transform(
        recorded(dose)
    )
    match = match_columns(low[["y", "x"]], positions, 0.1)
    for name, options in {"free means": {}, "library": {"library": library}}.items():
        result = count_atoms(low, **options)
        known = result.columns["count"].to_numpy(dtype=float)[match.found]
        wrong = np.mean(known != atoms[match.true])
        print(f"{dose:4.0f} electrons, {name:10}: wrong {wrong:6.1%}, {result.verdict}")

# %%
# Voronoi cells
# -------------
# The sum over the pixels that are nearest to each column is an intensity that does not
# depend on the shape of columns. It can be taken of other signals of the scan as well,
# such as a map of X-ray counts.

sums = voronoi_intensities(image, columns, background=level)
sums[["voronoi", "area", "n_pixels", "at_border"]].head()
print(count_atoms(columns.join(sums), by="voronoi", library=library))
