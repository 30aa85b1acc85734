"""Bases of a lattice: their reduction, and the correspondence of the bases of two lattices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CorrespondingBases",
    "matching_basis",
    "reduced_basis",
    "reference_basis",
    "shortest_distance",
    "superlattices",
]

#: Largest ratio of two lengths that are considered equal (chosen: scans distort lengths by up to some per cent).
EQUAL_LENGTHS = 1.04
#: Largest distance of ``a . b / |a|^2`` from 1/2 in the cell of a centred rectangular lattice (chosen).
CENTERED = 0.01
#: Largest element of the matrices that change one nearly reduced basis into another (chosen).
MAX_ELEMENT = 2
#: Cost of a rotation by 1 rad in units of a strain of 1, among bases of a reference (chosen).
ROTATION_COST = 0.1


def _unimodular(largest: int) -> NDArray[np.int64]:
    """Matrices ``(n, 2, 2)`` of determinant 1 or -1 with elements from ``-largest`` to ``largest``."""
    values = np.arange(-largest, largest + 1)
    matrices = np.stack(np.meshgrid(*[values] * 4, indexing="ij"), axis=-1).reshape(-1, 2, 2)
    determinant = matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]
    return matrices[np.abs(determinant) == 1]


UNIMODULAR = _unimodular(MAX_ELEMENT)


def superlattices(count: int) -> list[NDArray[np.int64]]:
    """Vectors of all superlattices with ``count`` cells, as rows of lattice vectors: Hermite normal forms."""
    divisors = [p for p in range(1, count + 1) if count % p == 0]
    return [np.array([[p, q], [0, count // p]]) for p in divisors for q in range(count // p)]


def shortest_distance(sites: NDArray, vectors: NDArray) -> float:
    """Shortest distance of two positions of a lattice with sites at ``(n_sites, 2)`` in its cell."""
    translations = np.mgrid[-1:2, -1:2].reshape(2, -1).T @ vectors
    difference = (sites[:, None] - sites[None])[:, :, None] + translations
    length = np.hypot(difference[..., 0], difference[..., 1])
    return float(length[length > 1e-9 * length.max()].min())


def matching_basis(vectors: NDArray, other: NDArray) -> tuple[NDArray[np.float64], float]:
    """Basis of another lattice that matches some vectors best, and the relative difference of the two.

    Parameters
    ----------
    vectors, other : ndarray of shape (2, 2)
        Rows ``(y, x)``.

    Returns
    -------
    basis : ndarray of shape (2, 2)
        The integer combination of ``other``, of determinant 1 or -1, that is nearest to ``vectors``.
    difference : float
        Largest singular value of F - 1, where F is the deformation of ``basis`` into ``vectors``: the largest relative
        change of any vector. Above about 0.5 the choice of the basis is arbitrary.

    Notes
    -----
    Both bases are reduced [1]_. The reduced basis of the other lattice is combined by all matrices of determinant 1 or
    -1 with elements of -2 to 2, which include every change between nearly reduced bases.

    References
    ----------
    .. [1] Nguyen and Stehle, ACM Trans. Algorithms 5, 46 (2009), https://doi.org/10.1145/1597036.1597050
    """
    bases = CorrespondingBases.of(vectors, other)
    difference = np.linalg.norm(bases.deformation - np.eye(2), ord=2, axis=(1, 2))
    best = int(np.argmin(difference))
    return _in_terms_of(vectors, bases.own) @ bases.others[best], float(difference[best])


def reference_basis(vectors: NDArray, reference: NDArray) -> tuple[NDArray[np.float64], float]:
    """Basis of an unstrained lattice that corresponds to some vectors, and the largest strain between the two.

    Parameters
    ----------
    vectors, reference : ndarray of shape (2, 2)
        Rows ``(y, x)``.

    Returns
    -------
    basis : ndarray of shape (2, 2)
        An integer combination of ``reference`` of determinant 1 or -1.
    strain : float
        Largest difference from 1 of the singular values of the deformation F of ``basis`` into ``vectors``, which does
        not depend on the rotation (polar decomposition ``F = R U``).

    Notes
    -----
    Of all bases that are not mirrored, the one with the smallest sum of strain and a tenth of the rotation in radians:
    the symmetry of a lattice makes several bases equal but for a rotation, of which the smallest is meant.
    """
    bases = CorrespondingBases.of(vectors, reference)
    deformation = bases.deformation
    strain = np.abs(np.linalg.svd(deformation, compute_uv=False) - 1).max(axis=1)
    rotation = np.abs(
        np.arctan2(deformation[:, 0, 1] - deformation[:, 1, 0], deformation[:, 0, 0] + deformation[:, 1, 1])
    )
    cost = np.where(np.linalg.det(deformation) > 0, strain + ROTATION_COST * rotation, np.inf)
    best = int(np.argmin(cost))
    return _in_terms_of(vectors, bases.own) @ bases.others[best], float(strain[best])


@dataclass(frozen=True)
class CorrespondingBases:
    """Bases of one lattice that may correspond to that of another one.

    Parameters
    ----------
    own : ndarray of shape (2, 2)
        Reduced vectors of the lattice.
    others : ndarray of shape (n, 2, 2)
        Bases of the other lattice.
    deformation : ndarray of shape (n, 2, 2)
        The deformation F of each: ``other @ F = own``.
    """

    own: NDArray
    others: NDArray
    deformation: NDArray

    @classmethod
    def of(cls, vectors: NDArray, other: NDArray) -> CorrespondingBases:
        """Corresponding bases of two lattices with these vectors."""
        own, others = np.array(_lagrange_gauss(vectors)), UNIMODULAR @ np.array(_lagrange_gauss(other))
        return cls(own, others, np.linalg.solve(others, np.broadcast_to(own, others.shape)))


def reduced_basis(vectors: NDArray) -> NDArray[np.float64]:
    """Reduced vectors of a lattice, in the order and with the signs that :class:`Lattice` states.

    Parameters
    ----------
    vectors : ndarray of shape (2, 2)
        Rows ``(y, x)``.

    Notes
    -----
    Lagrange-Gauss reduction [1]_: the shorter vector is subtracted from the longer one until
    ``|a . b| <= |a|^2 / 2``. Then a and b are the two shortest independent vectors, at 60 to 120 degrees.

    References
    ----------
    .. [1] Nguyen and Stehle, ACM Trans. Algorithms 5, 46 (2009), https://doi.org/10.1145/1597036.1597050
    """
    a, b = _lagrange_gauss(vectors)
    third = a - b if a @ b > 0 else a + b
    length = np.hypot(*np.array([a, b, third]).T)
    if length[2] < EQUAL_LENGTHS * length[0]:
        # hexagonal within the distortions of the scan: the vector nearest to x, and the next one at 120 degrees
        short = np.array([a, b, third])
        nearest = int(np.argmax(np.abs(short[:, 1]) / length))
        first = _forward(short[nearest])
        others = [_clockwise(first, v) for v in np.delete(short, nearest, axis=0)]
        return np.array([first, min(others, key=lambda v: float(first @ v))])
    if length[1] < EQUAL_LENGTHS * length[0] and abs(a[1]) * length[1] < abs(b[1]) * length[0]:
        a, b = b, a
    a = _forward(a)
    b = _clockwise(a, b)
    if a @ b > (0.5 - CENTERED) * (a @ a):
        b = b - a  # a centred rectangle: as short, but at an obtuse angle
    return np.array([a, b])


def _in_terms_of(vectors: NDArray, own: NDArray) -> NDArray[np.float64]:
    """Vectors as integer combinations of a basis of their lattice."""
    return np.round(vectors @ np.linalg.inv(own))


def _lagrange_gauss(vectors: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two shortest independent vectors of a lattice, the shorter one first."""
    a, b = vectors[np.argsort(np.hypot(*vectors.T))].astype(np.float64)
    while True:
        b = b - np.round(a @ b / (a @ a)) * a
        if b @ b >= (1 - 1e-12) * (a @ a):
            return a, b
        a, b = b, a


def _forward(vector: NDArray) -> NDArray[np.float64]:
    """The vector or its opposite, whichever points right, or down if it is steeper than 45 degrees."""
    return vector if vector.sum() >= 0 else -vector


def _clockwise(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """The vector b or its opposite, whichever is clockwise from a on the screen."""
    return b if a[1] * b[0] >= a[0] * b[1] else -b
