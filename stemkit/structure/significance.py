"""Whether a lattice is more than chance: how much shorter it makes the description of the positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stemkit.structure.growing import Growth

__all__ = ["NEEDED", "evidence"]

#: Evidence that a lattice needs, nats. Tuned on random positions of 10 to 300 points, Poisson and blue noise, of which
#: fewer than 1 in 100 reach it; lattices of 20 columns with displacements of 8 % of the spacing exceed it.
NEEDED = 24.0
#: A column off the lattice is in its region where this fraction of the 8 nearest columns is on it. Chosen.
INSIDE = 0.25
#: A free place counts as empty where this many of the 8 places around it, at the same site, hold a column.
SURROUNDED = 5


def evidence(growth: Growth, among_all: bool = False) -> float:
    """Logarithm of the likelihood ratio of the lattice to positions without order, less the cost of its parameters.

    Parameters
    ----------
    growth : Growth
    among_all : bool
        Whether the region holds all columns, as it must where it was chosen by how well they agree with the lattice.

    Notes
    -----
    Minimum description length [1]_. Of N columns in the region, M stand at one of P places, with the RMS distance s per
    axis from where their neighbours predict them; a place covers the area A. Positions without order are uniform.
    The lattice gains ``M ln(A / (2 pi e s^2))`` (the differential entropy of a uniform distribution over A less that
    of a normal distribution), and has to name which places hold a column, ``P H(M / P)``, which columns stand on
    the lattice, ``N H(M / N)``, and its k parameters, ``k / 2 ln N``, H being the binary entropy. The parameters are
    the two components of two vectors and of each site.

    References
    ----------
    .. [1] Rissanen, Automatica 14, 465 (1978), https://doi.org/10.1016/0005-1098(78)90005-5
    """
    placed = np.flatnonzero(growth.site >= 0)
    n_sites = len(growth.sites)
    if len(placed) == 0:
        return -np.inf
    area = abs(np.linalg.det(growth.vectors)) / n_sites
    off = growth.shift[placed] - growth.predict(placed)
    off = off[np.isfinite(off).all(axis=1)]
    if len(off) == 0:
        return -np.inf
    # positions are known to a part in 10^4 of the spacing at best: exact ones are no infinite evidence
    variance = max(float((off**2).mean()), 1e-8 * area)
    among = (growth.site[growth.neighbours[:, :8]] >= 0).mean(axis=1)
    n = len(placed) + int(((growth.site < 0) & (among >= INSIDE)).sum())
    if among_all:
        n = len(growth.positions)
    places = len(placed) + _empty_places(growth.cell[placed], growth.site[placed])
    gain = len(placed) * (np.log(area / (2 * np.pi * variance)) - 1)
    parameters = 4 + 2 * n_sites
    cost = places * _entropy(len(placed) / places) + n * _entropy(len(placed) / n) + parameters / 2 * np.log(n)
    return float(gain - cost)


def _entropy(p: float) -> float:
    return 0.0 if p <= 0 or p >= 1 else float(-p * np.log(p) - (1 - p) * np.log(1 - p))


def _empty_places(cell: NDArray, site: NDArray) -> int:
    """Number of places without a column among those that columns surround."""
    keys = np.column_stack([site, cell])
    ring = np.array([(0, i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j])
    around, count = np.unique((keys[:, None] + ring).reshape(-1, 3), axis=0, return_counts=True)
    inside = around[count >= SURROUNDED]
    taken = {tuple(key) for key in keys.tolist()}
    return sum(tuple(key) not in taken for key in inside.tolist())
