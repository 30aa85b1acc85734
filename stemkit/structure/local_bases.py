"""The lattices that are grown over the columns, and the basis of the lattice around each column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.structure.region_growing import GrownLattice, grow, median_of_known, unit_cell
from stemkit.structure.significance import MIN_EVIDENCE, evidence
from stemkit.structure.vector_search import find_vectors
from stemkit.tables import counted

__all__ = ["LocalBases", "all_local_bases", "first_lattice"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the search for lattices and of local bases."""

    #: Columns of the patches in which vectors are searched for, in this order (chosen: a small grain is not dominant in
    #: a large patch).
    patches: tuple[int, ...] = (200, 60, 25)
    #: Lattices that are grown at most, each over the columns that those before do not contain (chosen).
    lattices: int = 12
    #: Columns to which the plane of a local basis is fitted (chosen: 12 neighbours surround a column in two shells).
    window: int = 13
    #: Fewest of them on the lattice (chosen).
    fewest: int = 6
    #: Least fraction of the neighbours on the lattice (chosen).
    on_lattice: float = 0.6
    #: Least determinant of the normal matrix, cubes of the number of columns (chosen).
    determinant: float = 1e-4
    #: Largest RMS residual of the plane, shortest distances of sites (chosen).
    residual: float = 0.12
    #: The same if the lattice as a whole is not significant (chosen).
    small_residual: float = 0.06
    #: Times that a local basis is replaced by the median of those around it (chosen).
    medians: int = 3


CONSTANTS = _Constants()


@dataclass(frozen=True)
class LocalBases:
    """Local bases ``(n, 2, 2)``, rows ``(y, x)``, of the columns with ``known``.

    ``number`` is the lattice in ``lattices`` of each column, -1 for none, and ``ideal`` ``(n, 2)`` its position in that
    lattice without distortion. ``residual`` is the mean squared distance of the surrounding columns from the plane that
    gave the basis, ``neighbors`` the nearest columns, itself first.
    """

    basis: NDArray[np.float64]
    known: NDArray[np.bool_]
    number: NDArray[np.int64]
    ideal: NDArray[np.float64]
    residual: NDArray[np.float64]
    lattices: list[GrownLattice]
    neighbors: NDArray[np.intp]

    def median(self, rows: NDArray) -> NDArray[np.float64]:
        """Median basis of some columns."""
        return np.median(self.basis[rows], axis=0)


@dataclass(frozen=True)
class _Windows:
    """Basis around each column ``(n, 2, 2)``, mean squared residual ``(n,)``, and whether the basis is known."""

    basis: NDArray[np.float64]
    residual: NDArray[np.float64]
    known: NDArray[np.bool_]


def first_lattice(positions: NDArray) -> GrownLattice:
    """The lattice of patches of decreasing size, grown over the positions: the first that is significant.

    Raises
    ------
    ValueError
        If none is. The message states what was found and what is required.
    """
    found = "no two directions are periodic"
    for size in CONSTANTS.patches:
        if size != CONSTANTS.patches[0] and len(positions) <= size:
            continue
        try:
            vectors, center = find_vectors(positions, size)
        except ValueError:
            continue
        lattice = grow(positions, vectors, unit_cell(positions, vectors, center), center)
        weight, assigned = evidence(lattice), int((lattice.site >= 0).sum())
        if weight >= MIN_EVIDENCE:
            return lattice
        found = (
            f"the best one, with {counted(len(lattice.sites), 'site')} per cell, contains {assigned} of them with an "
            f"evidence of {weight:.1f} nats, of which {MIN_EVIDENCE:g} are required to exclude chance"
        )
        # a lattice may end within the field, and be continued into matter without order
        around = _windows(lattice)
        known = around.known & (around.residual < (CONSTANTS.small_residual * lattice.shortest) ** 2)
        fraction = known[lattice.neighbors[:, :8]].mean(axis=1)
        lattice.remove(~known | (fraction < 0.5))
        if evidence(lattice, all_columns=True) >= MIN_EVIDENCE:
            return lattice
    raise ValueError(
        f"table must contain a lattice, but among its {len(positions)} columns {found}: measure a larger field, remove "
        "false columns, or give vectors= if the lattice is known"
    )


def all_local_bases(positions: NDArray, min_columns: int, first: GrownLattice | None) -> LocalBases:
    """Local bases of all lattices that can be grown over the positions, ``first`` if it is given and then others."""
    n = len(positions)
    k = min(CONSTANTS.window, n)
    neighbors = cKDTree(positions).query(positions, k=k)[1].reshape(n, k)
    bases = LocalBases(
        basis=np.zeros((n, 2, 2)),
        known=np.zeros(n, dtype=bool),
        number=np.full(n, -1),
        ideal=np.zeros((n, 2)),
        residual=np.zeros(n),
        lattices=[],
        neighbors=neighbors,
    )
    rest = np.arange(n)
    while len(rest) >= min_columns and len(bases.lattices) < CONSTANTS.lattices:
        try:
            lattice = first if first is not None and not bases.lattices else first_lattice(positions[rest])
        except ValueError:
            break
        around = _windows(lattice)
        if not around.known.any():
            break
        rows = rest[around.known]
        bases.basis[rows], bases.known[rows] = around.basis[around.known], True
        bases.number[rows] = len(bases.lattices)
        bases.residual[rows] = around.residual[around.known]
        bases.ideal[rows] = lattice.ideal[around.known]
        bases.lattices.append(lattice)
        rest = rest[~around.known]
    return bases


def _windows(lattice: GrownLattice) -> _Windows:
    """Basis at each column, from the window of 13 columns that contains it and has the smallest residual.

    Of the windows that contain a column, the one with the smallest residual does not extend across a boundary [1]_.

    References
    ----------
    .. [1] Kuwahara et al., in Digital Processing of Biomedical Images (1976),
       https://doi.org/10.1007/978-1-4684-0769-3_13
    """
    window = np.column_stack([np.arange(len(lattice.positions)), lattice.neighbors])
    weight = (lattice.site[window] >= 0) & (lattice.site >= 0)[:, None]
    slope, residual = _planes(lattice, window, weight)
    rows = np.arange(len(window))
    best = window[rows, np.argmin(np.where(weight, residual[window], np.inf), axis=1)]
    known = (lattice.site >= 0) & (np.sqrt(residual[best]) < CONSTANTS.residual * lattice.shortest)
    basis = lattice.vectors @ slope / lattice.scale
    chosen = np.where(known[window], best[window], -1)
    for _ in range(CONSTANTS.medians):
        nearby = np.where((chosen >= 0)[..., None, None], basis[chosen], np.nan)
        nearby[~known] = 0.0
        basis = median_of_known(nearby.reshape(*nearby.shape[:2], 4)).reshape(-1, 2, 2)
        chosen = np.where(known[window], window, -1)
    return _Windows(basis, residual[best], known)


def _planes(lattice: GrownLattice, window: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Slopes ``(n, 2, 2)`` of planes fitted to the positions in each window, and mean squared residuals ``(n,)``.

    The residual is infinite where the columns do not determine the plane.
    """
    ideal = lattice.ideal
    steps = (ideal[window] - ideal[:, None]) / lattice.scale
    design = np.concatenate([np.ones((*steps.shape[:2], 1)), steps], axis=2) * weight[..., None]
    difference = (lattice.positions[window] - lattice.positions[:, None]) * weight[..., None]
    normal = np.einsum("nki,nkj->nij", design, design)
    count = weight.sum(axis=1)
    determined = (count >= CONSTANTS.fewest) & (weight[:, 1:].mean(axis=1) >= CONSTANTS.on_lattice)
    determined &= np.linalg.det(normal) > CONSTANTS.determinant * np.maximum(count, 1) ** 3
    normal[~determined] = np.eye(3)
    plane = np.linalg.solve(normal, np.einsum("nki,nkj->nij", design, difference))
    residual = np.einsum("nkj->n", (difference - design @ plane) ** 2) / (2 * np.maximum(count - 3, 1))
    residual[~determined] = np.inf
    return plane[:, 1:], residual
