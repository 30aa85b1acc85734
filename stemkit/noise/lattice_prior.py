"""Prior of the columns' positions from a straight lattice: each column is midway between opposite neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from stemkit.noise.constants import TINY
from stemkit.statistics import robust_rms

__all__ = ["MIN_DEVIATION", "LatticePrior", "cauchy_weight", "nearest_vectors", "second_differences"]

#: Standard deviation of a column from the middle of two opposite neighbours, at least, px (chosen).
MIN_DEVIATION = 0.02


@dataclass(frozen=True)
class _Constants:
    """Constants of the prior."""

    #: Neighbours are within this fraction of a lattice vector of where it points (chosen).
    near: float = 0.25
    #: Scale of the Cauchy weights, in standard deviations: second differences beyond it lose their weight (chosen).
    cauchy_scale: float = 3.0
    #: Least fraction of the scatter of the second differences that is the lattice's; the rest is noise of the positions
    #: (chosen).
    min_lattice: float = 0.3
    #: Variance of a second difference over that of a position, for independent errors (derived: 1 + 1/4 + 1/4).
    second_difference_gain: float = 1.5
    #: Directions in which a column has opposite neighbours (derived: two lattice vectors, their sum and difference).
    n_directions: int = 4


CONSTANTS = _Constants()


@dataclass(frozen=True)
class LatticePrior:
    """Prior of the errors e of the columns' positions along one axis.

    The density of e is proportional to ``exp(-e^T P e / 2 - score^T e)``.

    Parameters
    ----------
    precision : sparse array of shape (n_columns, n_columns)
        P, px^-2.
    score : ndarray of shape (n_columns,)
        ``P x`` for the fitted positions x, px^-1.
    """

    precision: sparse.csr_matrix
    score: NDArray[np.float64]

    @classmethod
    def of(cls, differences: sparse.csr_matrix, positions: NDArray, weight: NDArray) -> LatticePrior | None:
        """The prior from second differences, positions (px) and their inverse variances; None with few differences.

        The variance of the differences is their mean square less that of the noise, times the number of directions in
        which a column has neighbours: second differences of a column in different directions are assumed to be equal.
        """
        values = differences @ positions
        if len(values) < len(positions) / 4:
            return None
        scatter = robust_rms(values) ** 2
        noise = CONSTANTS.second_difference_gain * float(np.median(1 / np.maximum(weight, TINY)))
        own = max(scatter - noise, CONSTANTS.min_lattice**2 * scatter, MIN_DEVIATION**2)
        trust = (
            1
            / (1 + values**2 / (CONSTANTS.cauchy_scale**2 * max(scatter, MIN_DEVIATION**2)))
            / (CONSTANTS.n_directions * own)
        )
        precision = (differences.T @ sparse.diags(trust) @ differences).tocsr()
        return cls(precision, precision @ positions)


def cauchy_weight(values: NDArray, std: float) -> NDArray[np.float64]:
    """Weight of second differences with this standard deviation: small where the lattice is broken."""
    return 1 / (1 + (values / (CONSTANTS.cauchy_scale * std)) ** 2)


def nearest_vectors(positions: NDArray) -> NDArray[np.float64]:
    """Two vectors ``(2, 2)`` between near columns, for images whose spectrum has no lattice: the most frequent one, and
    the most frequent of those across it.
    """
    _, index = cKDTree(positions).query(positions, k=min(5, len(positions)))
    offsets = (positions[index[:, 1:]] - positions[:, None]).reshape(-1, 2)
    offsets *= np.where(offsets[:, :1] * 1e3 + offsets[:, 1:] < 0, -1.0, 1.0)
    length = np.hypot(*offsets.T)
    count = np.array([len(i) for i in cKDTree(offsets).query_ball_point(offsets, 0.1 * np.median(length))])
    first = offsets[int(np.argmax(count))]
    across = np.abs(offsets @ np.array([first[1], -first[0]])) > 0.4 * length * np.hypot(*first)
    second = offsets[int(np.argmax(np.where(across, count, -1)))]
    return np.array([first, second])


def second_differences(positions: NDArray, vectors: NDArray) -> sparse.csr_matrix:
    """``x_c - (x_(c + v) + x_(c - v)) / 2`` for each column with both neighbours, ``(n_differences, n_columns)``."""
    tree, entries, n = cKDTree(positions), [], 0
    near = CONSTANTS.near * float(np.hypot(*vectors[0]))
    for vector in (*vectors, vectors[0] + vectors[1], vectors[0] - vectors[1]):
        (up, after), (down, before) = (tree.query(positions + s * vector, distance_upper_bound=near) for s in (1, -1))
        both = np.flatnonzero(np.isfinite(up) & np.isfinite(down))
        index = np.arange(n, n + len(both))
        entries += [(index, both, 1.0), (index, after[both], -0.5), (index, before[both], -0.5)]
        n += len(both)
    i, j, v = (np.concatenate(part) for part in zip(*[(r, c, np.full(len(r), w)) for r, c, w in entries], strict=True))
    return sparse.csr_matrix((v, (i, j)), shape=(n, len(positions)))
