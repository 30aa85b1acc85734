"""
Any crystal from a CIF
======================

A crystal projected along a zone axis is a planar cell with a position and a height for
each atomic column. :func:`~stemkit.synthesis.crystal_cell` computes it from
``ase.Atoms``, such as those that ``ase.io.read`` reads from a CIF file.
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
# This page writes a CIF file of strontium titanate first; use one of your own instead.

folder = Path(tempfile.mkdtemp())
perovskite = crystal(
    ["Sr", "Ti", "O"],
    basis=[(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
    spacegroup=221,
    cellpar=[3.95, 3.95, 3.95, 90, 90, 90],
)
ase.io.write(folder / "perovskite.cif", perovskite)

# %%
# Along [001] titanium and oxygen share a column; other zone axes have other columns.

atoms = ase.io.read(folder / "perovskite.cif")
shape, pixel_size = (256, 256), 0.01
microscope = NoiseModel(
    contrast=1.0, level=0.05, pointwise=PointwiseNoise.counted(20.0, background=1.0)
)
synthesizer = STEMSynthesizer(
    noise=microscope, shape=shape, pixel_size=pixel_size, random_state=0
)

fig, axes = plt.subplots(2, 3, figsize=(11, 7.4), layout="constrained")
for (above, below), axis in zip(axes.T, ((0, 0, 1), (1, 1, 0), (1, 1, 1)), strict=True):
    cell = crystal_cell(atoms, axis)
    columns = lattice(cell, shape, pixel_size=pixel_size, sigma=0.035 / pixel_size)
    pairs = synthesizer.record(columns)
    show_image(pairs["enhance"].isel(image=0), above, "[{} {} {}]".format(*axis))
    show_image(pairs["noisy"].isel(image=0), below)
    heights = ", ".join(
        f"{h:.2f}"
        for h in sorted(set(cell.amplitude[0].numpy().round(3)), reverse=True)
    )
    print(
        f"{axis}: {cell.basis.shape[1]} columns in a cell, relative heights {heights}"
    )

# %%
# Heights are sums of ``Z**1.7`` along the column, the intensity of single atoms in a
# dark-field detector; about ``power=1.3`` is closer to bright field. Channelling and
# absorption are not included. The multislice images of the benchmark,
# :func:`stemkit.benchmark.simulated`, include them.
#
# For a particle, or other atoms without a cell, use
# :func:`~stemkit.synthesis.projected_columns`.

particle = Octahedron("Au", 9, cutoff=3)
particle.rotate(45, "z")
columns = projected_columns(particle, shape, 0.015, sigma=0.045)
pairs = STEMSynthesizer(
    noise=microscope, shape=shape, pixel_size=0.015, random_state=1
).record(columns)

fig, axes = plt.subplots(1, 2, figsize=(8.4, 4.3), layout="constrained")
show_image(pairs["enhance"].isel(image=0), axes[0], f"{len(particle)} atoms of gold")
show_image(pairs["noisy"].isel(image=0), axes[1], "recorded")
