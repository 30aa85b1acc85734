"""Synthetic images: arrangements of columns, rendering, distributions of specimens and noise, STEMSynthesizer.

- ``arrangements`` places columns, ``rendering`` draws them.
- ``recipe`` is a distribution of images: ``specimens`` (with ``random_arrangements`` and ``supports``) and ``noises``
  draw from it (random numbers: ``chance``), ``batches`` combines them, ``pairs`` converts them to the units of a
  microscope.
- ``synthesizer`` is the estimator; ``given_images`` learns the recipe from images.
"""

from stemkit.synthesis.arrangements.cells import Cell, crystal_cell, nearest_site_distance, planar_cell, random_cell
from stemkit.synthesis.arrangements.columns import Columns, Defect, columns_at, keep_near_frame, stacked, superposed
from stemkit.synthesis.arrangements.defects import inserted, inside, nearest, removed, shifted, subset, substituted
from stemkit.synthesis.arrangements.disorder import poisson_disk_columns
from stemkit.synthesis.arrangements.displacements import dislocated, displaced_randomly, strained
from stemkit.synthesis.arrangements.lattices import lattice, lattice_vectors
from stemkit.synthesis.arrangements.particles import projected_columns
from stemkit.synthesis.arrangements.regions import cropped, disk, facets, half_plane, joined, mirrored, uneven
from stemkit.synthesis.recipe import Recipe
from stemkit.synthesis.rendering import blurred, render, through_probe
from stemkit.synthesis.synthesizer import STEMSynthesizer

__all__ = [
    "Cell",
    "Columns",
    "Defect",
    "Recipe",
    "STEMSynthesizer",
    "blurred",
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
    "nearest_site_distance",
    "planar_cell",
    "poisson_disk_columns",
    "projected_columns",
    "random_cell",
    "removed",
    "render",
    "shifted",
    "stacked",
    "strained",
    "subset",
    "substituted",
    "superposed",
    "through_probe",
    "uneven",
]
