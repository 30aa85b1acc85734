"""Positions, heights and widths of atomic columns in batches of images, in torch, on any device.

Positions are in px, ``(y, x)``, with pixel centres at integers. Numerical parameters are one number for all images or a
tensor with one for each; random functions take a generator on the device.
"""

from stemkit.synthesis.arrangements.cells import (
    LATTICES,
    Cell,
    crystal_cell,
    nearest_distance,
    planar_cell,
    random_cell,
)
from stemkit.synthesis.arrangements.columns import Columns, Defect, columns_at, keep_near_frame, stacked, superposed
from stemkit.synthesis.arrangements.defects import inserted, inside, nearest, removed, shifted, subset, substituted
from stemkit.synthesis.arrangements.disorder import blue_noise
from stemkit.synthesis.arrangements.displacements import dislocated, displaced_randomly, strained
from stemkit.synthesis.arrangements.lattices import lattice, lattice_vectors
from stemkit.synthesis.arrangements.particles import projected_columns
from stemkit.synthesis.arrangements.regions import Region, cropped, disk, facets, half_plane, joined, mirrored, uneven

__all__ = [
    "LATTICES",
    "Cell",
    "Columns",
    "Defect",
    "Region",
    "blue_noise",
    "columns_at",
    "cropped",
    "crystal_cell",
    "disk",
    "dislocated",
    "displaced_randomly",
    "facets",
    "half_plane",
    "inserted",
    "inside",
    "joined",
    "keep_near_frame",
    "lattice",
    "lattice_vectors",
    "mirrored",
    "nearest",
    "nearest_distance",
    "planar_cell",
    "projected_columns",
    "random_cell",
    "removed",
    "shifted",
    "stacked",
    "strained",
    "subset",
    "substituted",
    "superposed",
    "uneven",
]
