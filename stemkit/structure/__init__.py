"""The crystal from a table of its columns: lattices, sublattices, strain, distances, vacancies, polarisation, counts.

Functions take the table of :class:`~stemkit.AtomDetector` (one row per column, ``y`` increases downwards), or any
DataFrame with the same columns. The lattice is fitted first; the other functions take the table and the lattice.

- Lattices: ``fitting`` (with ``vector_search``, ``region_growing``, ``significance``, ``ordering`` and
  ``least_squares``) finds them, ``lattice`` is the result; ``bases`` reduces vectors, ``cells`` finds neighbours.
- Grains: ``grains`` (with ``boundary_tables``, ``contacts`` and ``relations``), ``segmentation`` (with ``local_bases``
  and ``boundaries``), ``dislocations``.
- Distances: ``distances``, ``bonding``, ``ring_statistics``, ``dumbbell_pairs`` and ``pair_means``, with
  ``planar_graph`` and ``pair_errors``.
- Displacements: ``displacements`` (from cages: ``cages``; ``covariance`` of positions), ``domains``, ``polarization``,
  ``strain``, ``profiles`` (planes, interfaces).
- Brightness: ``sublattices``, ``brightness_classes``, ``counting`` (with ``intensities`` and ``mixtures``),
  ``vacancies``, ``point_defects`` (with ``local_trend``, ``multiple_tests`` and ``defect_tables``).
- Known crystals: ``registration``, with ``crystal_sites``, ``crystal_settings``, ``setting_errors`` and
  ``registration_tables``.
- ``tables`` has the arrays of a table of columns.

>>> import numpy as np, pandas as pd
>>> from stemkit import structure
>>> rng = np.random.default_rng(0)
>>> y, x = np.mgrid[0:12, 0:12].reshape(2, -1) * 0.39
>>> table = pd.DataFrame({"y": y, "x": x, "amplitude": 1.0}) + rng.normal(0, 0.004, (144, 3))
>>> table = table.drop(index=77).reset_index(drop=True)  # a vacancy
>>> lattice = structure.fit_lattice(table)
>>> lattice.lengths.round(2)
array([0.39, 0.39])
>>> missing = structure.missing_sites(table, lattice)
>>> bool(np.allclose(missing[["y", "x"]], [[6 * 0.39, 5 * 0.39]], atol=0.01))
True
>>> measured = pd.DataFrame({"amplitude": [0.02], "amplitude_err": [0.05]})  # such as AtomDetector.measure returns
>>> found = structure.site_occupancy(missing, measured)
>>> bool((found["significance"] > 5).all() and (found["presence"] < 3).all())
True
>>> float(structure.strain(table, lattice)["exx"].abs().median().round(2))
0.0
"""

from stemkit.structure.bonding import bond_angles, bonds
from stemkit.structure.brightness_classes import brightness_classes
from stemkit.structure.counting import AtomCounts, count_atoms
from stemkit.structure.dislocations import find_dislocations
from stemkit.structure.displacements import cage_displacements
from stemkit.structure.distances import PixelSize, neighbor_distances, pixel_size
from stemkit.structure.domains import domain_walls, mean_displacements
from stemkit.structure.dumbbell_pairs import dumbbells
from stemkit.structure.fitting import fit_lattice, fit_lattices
from stemkit.structure.grains import Grains, find_grains
from stemkit.structure.intensities import voronoi_intensities
from stemkit.structure.lattice import Lattice, Lattices
from stemkit.structure.pair_means import mean_distances
from stemkit.structure.point_defects import PointDefects, point_defects
from stemkit.structure.polarization import polarization
from stemkit.structure.profiles import interface_profile, lattice_planes
from stemkit.structure.registration import CrystalRegistration, register_crystal
from stemkit.structure.ring_statistics import ring_pairs, rings
from stemkit.structure.strain import displacement_map, strain, strain_map
from stemkit.structure.sublattices import sublattices
from stemkit.structure.vacancies import find_vacancies, missing_sites, site_occupancy, weak_columns

__all__ = [
    "AtomCounts",
    "CrystalRegistration",
    "Grains",
    "Lattice",
    "Lattices",
    "PixelSize",
    "PointDefects",
    "bond_angles",
    "bonds",
    "brightness_classes",
    "cage_displacements",
    "count_atoms",
    "displacement_map",
    "domain_walls",
    "dumbbells",
    "find_dislocations",
    "find_grains",
    "find_vacancies",
    "fit_lattice",
    "fit_lattices",
    "interface_profile",
    "lattice_planes",
    "mean_displacements",
    "mean_distances",
    "missing_sites",
    "neighbor_distances",
    "pixel_size",
    "point_defects",
    "polarization",
    "register_crystal",
    "ring_pairs",
    "rings",
    "site_occupancy",
    "strain",
    "strain_map",
    "sublattices",
    "voronoi_intensities",
    "weak_columns",
]
