"""How straight the lattice is: columns against the middle of their opposite neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

__all__ = ["STIFFEST", "LatticeHold", "neighbour_vectors", "second_differences"]

#: A column is where the middle of two opposite neighbours is, within this many px at least.
STIFFEST = 0.02
#: Neighbours are within this part of a lattice vector of where it leads.
NEAR = 0.25
#: Bends beyond this many standard deviations lose their weight.
BROKEN = 3.0
#: Least part of the scatter of the bends that is the lattice's, the rest being noise of the positions (chosen).
LEAST_OWN = 0.3


@dataclass(frozen=True)
class LatticeHold:
    """What the lattice says of the errors e of the columns' positions along one axis, before the rows are read.

    The density of e is proportional to ``exp(-e^T P e / 2 - told^T e)``.

    Parameters
    ----------
    precision : sparse array of shape (n_columns, n_columns)
        P, px^-2.
    told : ndarray of shape (n_columns,)
        ``P x`` for the fitted positions x, px^-1.
    """

    precision: sparse.csr_matrix
    told: NDArray[np.float64]

    @classmethod
    def of(cls, bends: sparse.csr_matrix, place: NDArray, known: NDArray) -> LatticeHold | None:
        """From second differences, positions (px) and the inverse variances of the positions; None without bends.

        The bends' variance is that of their scatter less that of the noise, times the four directions in which each
        column has neighbours: bends of a column in different directions are taken for equal.
        """
        bent = bends @ place
        if len(bent) < len(place) / 4:
            return None
        scatter = (1.4826 * float(np.median(np.abs(bent)))) ** 2
        noise = 1.5 * float(np.median(1 / np.maximum(known, 1e-300)))
        own = max(scatter - noise, LEAST_OWN**2 * scatter, STIFFEST**2)
        weight = 1 / (1 + bent**2 / (BROKEN**2 * max(scatter, STIFFEST**2))) / (4 * own)
        precision = (bends.T @ sparse.diags(weight) @ bends).tocsr()
        return cls(precision, precision @ place)


def neighbour_vectors(places: NDArray) -> NDArray[np.float64]:
    """Two vectors from columns to near ones, where the spectrum tells none: the commonest, and one across it."""
    _, index = cKDTree(places).query(places, k=min(5, len(places)))
    offsets = (places[index[:, 1:]] - places[:, None]).reshape(-1, 2)
    offsets *= np.where(offsets[:, :1] * 1e3 + offsets[:, 1:] < 0, -1.0, 1.0)
    length = np.hypot(*offsets.T)
    crowd = np.array([len(i) for i in cKDTree(offsets).query_ball_point(offsets, 0.1 * np.median(length))])
    first = offsets[int(np.argmax(crowd))]
    across = np.abs(offsets @ np.array([first[1], -first[0]])) > 0.4 * length * np.hypot(*first)
    second = offsets[int(np.argmax(np.where(across, crowd, -1)))]
    return np.array([first, second])


def second_differences(places: NDArray, vectors: NDArray) -> sparse.csr_matrix:
    """``x_c - (x_(c + v) + x_(c - v)) / 2`` for each column with both neighbours, ``(n_bends, n_columns)``."""
    tree, entries, n = cKDTree(places), [], 0
    for vector in (*vectors, vectors[0] + vectors[1], vectors[0] - vectors[1]):
        near = NEAR * float(np.hypot(*vectors[0]))
        (up, after), (down, before) = (tree.query(places + s * vector, distance_upper_bound=near) for s in (1, -1))
        both = np.flatnonzero(np.isfinite(up) & np.isfinite(down))
        index = np.arange(n, n + len(both))
        entries += [(index, both, 1.0), (index, after[both], -0.5), (index, before[both], -0.5)]
        n += len(both)
    i, j, v = (np.concatenate(part) for part in zip(*[(r, c, np.full(len(r), w)) for r, c, w in entries], strict=True))
    return sparse.csr_matrix((v, (i, j)), shape=(n, len(places)))
