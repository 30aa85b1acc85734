"""
Synthesise data like those of my microscope
===========================================

Training a network, or testing an analysis, requires images whose truth is known and that resemble the recorded ones.
Fitted to a recorded image, :class:`~stemkit.STEMSynthesizer` draws pairs with its noise, spacing, widths, contrast and
pixel size.
"""

# %%
# Your own image is read with ``stemkit.read("image.dm4")``. Here one is simulated: a perovskite, a few electrons per
# pixel, and jitter of the rows.

import matplotlib.pyplot as plt
import numpy as np

from stemkit import NoiseModel, PointwiseNoise, ScanNoise, STEMSynthesizer
from stemkit.plotting import show_image
from stemkit.synthesis import lattice, planar_cell

perovskite = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.5])
crystal = lattice(perovskite, (256, 256), spacing=14.0, sigma=2.8, angle=8.0)
microscope = NoiseModel(
    contrast=1800.0,
    level=400.0,
    scan=ScanNoise(amplitude=0.03, jitter=0.4),
    pointwise=PointwiseNoise.counted(12.0, background=1.0),
)
mine = STEMSynthesizer(noise=microscope, pixel_size=0.02, random_state=3).record(crystal)["noisy"].isel(image=0)

# %%
# ``fit`` measures the noise, and the spacing and width of the columns.

synthesizer = STEMSynthesizer(random_state=0).fit(mine)
print(f"mode {synthesizer.mode_}, pixel size {synthesizer.pixel_size_:.3f} nm")
print("spacing {:.3f} to {:.3f} nm".format(*synthesizer.spacing_))
print("width (sigma) {:.3f} to {:.3f} nm".format(*synthesizer.width_))
print(f"dose {synthesizer.noise_model_.dose:.1f} electrons per pixel at a column")
print(f"jitter {synthesizer.noise_model_.scan.jitter:.2f} px")

# %%
# ``sample`` draws pairs of noisy and true images, with two more targets for a network (a spot per column, and columns
# narrower than those of the probe), and the table of the true columns.

pairs, columns = synthesizer.sample(6, return_columns=True)
pairs

# %%
columns.head()

# %%
# The first image is the recorded one. The synthesised images have its noise, but other specimens: other lattices, dirt
# and steps of the support, a grain boundary.

fig, axes = plt.subplots(2, 4, figsize=(13, 6.6), layout="constrained")
show_image(mine, axes[0, 0], "mine")
low, high = np.percentile(mine, [0.5, 99.8])
for ax, i in zip(axes.ravel()[1:4], range(3), strict=True):
    show_image(pairs["noisy"].isel(image=i), ax, str(pairs["arrangement"].values[i]))
for ax, name in zip(axes[1], ("noisy", "enhance", "detect", "superresolve"), strict=True):
    show_image(pairs[name].isel(image=0), ax, name)

# %%
# ``arrangements=("lattice", "twin")`` selects the specimens, ``spacing=(0.2, 0.4)`` the spacing of the columns;
# ``stream()`` yields batches for training without end, on a GPU if there is one. On the command line:
# ``stemkit synthesize image.dm4 --n 100 -o mine.nc``.
