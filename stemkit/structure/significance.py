"""Whether a lattice is significant: by how much it shortens the description of the positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.structure.region_growing import GrownLattice

__all__ = ["MIN_EVIDENCE", "evidence"]

#: Least evidence of a lattice, nats (tuned on random positions of 10 to 300 points, Poisson and blue noise, of which
#: fewer than 1 in 100 reach it; lattices of 20 columns with displacements of 8 % of the spacing exceed it).
MIN_EVIDENCE = 24.0
#: The eight cells around a cell.
RING = np.array([[[1, 1, 1], [1, 0, 1], [1, 1, 1]]], dtype=np.uint8)


@dataclass(frozen=True)
class _Constants:
    """Constants of the test."""

    #: Neighbours of a column that are searched for columns of the lattice (chosen).
    n_neighbors: int = 8
    #: Least fraction of them on the lattice for a column off the lattice that is in its region (chosen).
    min_lattice_fraction: float = 0.25
    #: Least number of the 8 surrounding cells with a column at the same site for an empty site (chosen).
    min_surrounding_cells: int = 5
    #: Smallest variance of the positions, areas per site (chosen: positions have errors of 1e-4 of the spacing at
    #: least).
    min_variance: float = 1e-8


CONSTANTS = _Constants()


def evidence(lattice: GrownLattice, all_columns: bool = False) -> float:
    """Logarithm of the likelihood ratio of a lattice and of positions without order, less the cost of its parameters.

    Parameters
    ----------
    lattice : GrownLattice
    all_columns : bool
        Whether all columns count as inside the region of the lattice. Necessary if those of the lattice were selected
        by their agreement with it.

    Notes
    -----
    Minimum description length [1]_. Of N columns in the region, M are at one of P sites, with the RMS distance s per
    axis from where their neighbours predict them; the area per site is A. Positions without order are uniformly
    distributed. The lattice gains ``M ln(A / (2 pi e s^2))`` (the differential entropy of a uniform distribution over A
    less that of a normal distribution). It costs the statements of which sites are occupied, ``P H(M / P)``, and of
    which columns are on the lattice, ``N H(M / N)``, and its k parameters, ``k / 2 ln N``, where H is the binary
    entropy. The parameters are the two components of two vectors and of each site.

    References
    ----------
    .. [1] Rissanen, Automatica 14, 465 (1978), https://doi.org/10.1016/0005-1098(78)90005-5
    """
    assigned = np.flatnonzero(lattice.site >= 0)
    n_sites = len(lattice.sites)
    if len(assigned) == 0:
        return -np.inf
    area = abs(np.linalg.det(lattice.vectors)) / n_sites
    residual = lattice.shift[assigned] - lattice.predict(assigned)
    residual = residual[np.isfinite(residual).all(axis=1)]
    if len(residual) == 0:
        return -np.inf
    variance = max(float((residual**2).mean()), CONSTANTS.min_variance * area)
    n = len(lattice.positions) if all_columns else _columns_in_region(lattice)
    occupied = len(assigned)
    sites = occupied + _empty_sites(lattice.cell[assigned], lattice.site[assigned])
    gain = occupied * (np.log(area / (2 * np.pi * variance)) - 1)
    parameters = 4 + 2 * n_sites
    cost = sites * _entropy(occupied / sites) + n * _entropy(occupied / n) + parameters / 2 * np.log(n)
    return float(gain - cost)


def _columns_in_region(lattice: GrownLattice) -> int:
    """Number of columns on the lattice or surrounded by those that are."""
    fraction = (lattice.site[lattice.neighbors[:, : CONSTANTS.n_neighbors]] >= 0).mean(axis=1)
    return int(((lattice.site >= 0) | (fraction >= CONSTANTS.min_lattice_fraction)).sum())


def _entropy(p: float) -> float:
    return 0.0 if p <= 0 or p >= 1 else float(-p * np.log(p) - (1 - p) * np.log(1 - p))


def _empty_sites(cell: NDArray, site: NDArray) -> int:
    """Number of sites without a column that are surrounded by columns."""
    first = cell.min(axis=0) - 1
    shape = (int(site.max()) + 1, *(np.ptp(cell, axis=0) + 3))  # with an empty border
    occupied = np.zeros(shape, dtype=np.uint8)
    occupied[site, *(cell - first).T] = 1
    around = ndimage.convolve(occupied, RING, mode="constant")
    return int(((around >= CONSTANTS.min_surrounding_cells) & (occupied == 0)).sum())
