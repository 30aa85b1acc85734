"""
Any crystal from a CIF
======================

A crystal, seen along a zone axis, is a planar cell: one place for each atomic column, whose brightness goes with the
atoms in it. :func:`~stemkit.synthesis.crystal_cell` takes it from an ``ase.Atoms``, such as ``ase.io.read`` makes of
a CIF file.
"""

import tempfile
from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
from ase.cluster import Octahedron
from ase.spacegroup import crystal

from stemkit import NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.plotting import show_image
from stemkit.synthesis import crystal_cell, lattice, projected_columns

# %%
# The file is one of yours; here one is written first. It has a site that strontium and barium share.

folder = Path(tempfile.mkdtemp())
perovskite = crystal(
    ["Sr", "Ti", "O"],
    basis=[(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
    spacegroup=221,
    cellpar=[3.95, 3.95, 3.95, 90, 90, 90],
)
ase.io.write(folder / "perovskite.cif", perovskite)

# %%
# Along [001] titanium and oxygen are on top of each other; along [110] there are columns of each kind.

atoms = ase.io.read(folder / "perovskite.cif")
shape, pixel_size = (256, 256), 0.01
microscope = NoiseModel(contrast=1.0, level=0.05, pointwise=PointwiseNoise.counted(20.0, background=1.0))
synthesizer = STEMSynthesizer(noise=microscope, shape=shape, pixel_size=pixel_size, random_state=0)

fig, axes = plt.subplots(2, 3, figsize=(11, 7.4), layout="constrained")
for (above, below), axis in zip(axes.T, ((0, 0, 1), (1, 1, 0), (1, 1, 1)), strict=True):
    cell = crystal_cell(atoms, axis)
    columns = lattice(cell, shape, pixel_size=pixel_size, sigma=0.035 / pixel_size)
    pairs = synthesizer.record(columns)
    show_image(pairs["enhance"].isel(image=0), above, "[{} {} {}]".format(*axis))
    show_image(pairs["noisy"].isel(image=0), below)
    heights = ", ".join(f"{h:.2f}" for h in sorted(set(cell.amplitude[0].numpy().round(3)), reverse=True))
    print(f"{axis}: {cell.basis.shape[1]} columns in a cell, relative heights {heights}")

# %%
# Heights are sums of ``Z**1.7`` along the column, what a dark-field detector sees of single atoms; ``power=1.3`` or so
# is nearer to bright field. Channelling and absorption are not in it. The benchmark's multislice images,
# :func:`stemkit.benchmark.simulated`, have them.
#
# A particle, or whatever has no cell, goes through :func:`~stemkit.synthesis.projected_columns`.

particle = Octahedron("Au", 9, cutoff=3)
particle.rotate(45, "z")
columns = projected_columns(particle, shape, 0.015, sigma=0.045)
pairs = STEMSynthesizer(noise=microscope, shape=shape, pixel_size=0.015, random_state=1).record(columns)

fig, axes = plt.subplots(1, 2, figsize=(8.4, 4.3), layout="constrained")
show_image(pairs["enhance"].isel(image=0), axes[0], f"{len(particle)} atoms of gold")
show_image(pairs["noisy"].isel(image=0), axes[1], "recorded")
