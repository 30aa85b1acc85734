"""
Grains
======

A table of columns may hold several crystals: grains, twins, a film and its substrate, a crystal in amorphous matter.
``fit_lattices`` finds their lattices, and the one that each column belongs to.
"""

# %%
# Two grains and an amorphous region
# ----------------------------------
# Two crystals of the same structure, rotated by 20 degrees against each other, and below them amorphous matter: columns
# at random positions that keep a distance. ``record`` draws the noise of counted electrons.

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
import numpy as np

from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.detection import good_columns
from stemkit.detection.structure import displacement_map, fit_lattice, fit_lattices
from stemkit.plotting import show_image, show_labels
from stemkit.synthesis import blue_noise, cut, half_plane, joined, lattice, planar_cell

size, spacing, pixel_size = 384, 14.0, 0.02  # px, px, nm
cell = planar_cell("square")
