"""Relations of the lattices of two grains: rotation, strain, mirror image, and lattice planes that coincide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemkit.structure.bases import CorrespondingBases
from stemkit.structure.lattice import Lattice

__all__ = ["CommonPlane", "Relation", "common_plane", "relation"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the comparison of two lattices."""

    #: Cost of a rotation by 1 rad in units of a strain of 1, if no basis is free of strain (chosen).
    rotation_cost: float = 0.1
    #: Largest strain of a reflection, fraction of that of a rotation, for crystals that are mirror images (chosen).
    mirrored: float = 0.25
    #: Step of the numerical derivative, lengths of the vectors (chosen: errors of rounding and of the difference
    #: balance).
    step: float = 1e-6
    #: Largest index of a lattice plane along a boundary (chosen: planes of larger indices coincide by chance).
    max_index: int = 2
    #: Largest difference of the vectors along two planes that correspond to each other, fraction of their length
    #: (chosen).
    max_difference: float = 0.25


CONSTANTS = _Constants()


@dataclass(frozen=True)
class Relation:
    """The deformation that turns one lattice into another one.

    ``rotation`` (degrees from +x towards +y) is the smallest of those that are equal by symmetry, NaN for lattices that
    are mirror images of each other and not rotated ones; ``strain`` the largest change of a length after this rotation.
    """

    rotation: float
    rotation_err: float
    strain: float
    strain_err: float
    same_phase: bool
    mirrored: bool


@dataclass(frozen=True)
class CommonPlane:
    """Planes of two lattices with nearly equal vectors along them: their indices in each lattice, and how they differ.

    ``mismatch`` is the difference of the lengths, second minus first, as a fraction of their mean, and ``angle`` that
    from the first to the second (degrees from +x towards +y).
    """

    first: tuple[int, int] | None
    second: tuple[int, int] | None
    mismatch: float
    mismatch_err: float
    angle: float
    angle_err: float

    @property
    def difference(self) -> float:
        """Length of the difference of the two vectors, as a fraction of their mean length."""
        return float(np.hypot(self.mismatch, np.radians(self.angle)))


def relation(first: Lattice, second: Lattice, same_phase: float) -> Relation:
    """Relation of the second lattice to the first.

    Parameters
    ----------
    first, second : Lattice
    same_phase : float
        Largest strain between lattices of the same phase.

    Notes
    -----
    The deformation F leads from a basis of the first lattice to one of the second. All bases are tried. Of those
    without strain, that with the smallest rotation is used. If there is none, bases of opposite handedness are
    considered, and otherwise that with the smallest sum of strain and a tenth of the rotation. ``F = R U`` is the
    product of the rotation R and the strain ``U - 1``.
    Errors are propagated from the covariances of both lattices with numerical derivatives.
    """
    bases = CorrespondingBases.of(second.vectors, first.vectors)
    deformation = bases.deformation
    strain = np.abs(np.linalg.svd(deformation, compute_uv=False) - 1).max(axis=1)
    proper = np.linalg.det(deformation) > 0
    turn = np.abs(_rotation(deformation))
    rotated = np.where(proper, strain, np.inf).min()
    reflected = np.where(proper, np.inf, strain).min()
    mirrored = bool(rotated > same_phase >= reflected and reflected < CONSTANTS.mirrored * rotated)
    if rotated <= same_phase:
        cost = np.where(proper & (strain <= same_phase), turn, np.inf)
    elif mirrored:
        cost = np.where(proper, np.inf, strain)
    else:
        cost = np.where(proper, strain + CONSTANTS.rotation_cost * turn, np.inf)
    best = int(np.argmin(cost))
    change_first = np.round(bases.others[best] @ np.linalg.inv(first.vectors))
    change_second = np.round(bases.own @ np.linalg.inv(second.vectors))

    def values(a: NDArray, b: NDArray) -> NDArray[np.float64]:
        matrix = np.linalg.solve(change_first @ a, change_second @ b)
        lengths = np.linalg.svd(matrix, compute_uv=False)
        return np.array([np.degrees(_rotation(matrix)), lengths[np.argmax(np.abs(lengths - 1))] - 1])

    (angle, stretch), (angle_err, stretch_err) = _with_errors(values, first, second)
    if mirrored:
        angle, angle_err = np.nan, np.nan
    return Relation(
        float(angle),
        float(angle_err),
        abs(float(stretch)),
        float(stretch_err),
        bool(strain[best] <= same_phase),
        mirrored,
    )


def common_plane(first: Lattice, second: Lattice, direction: NDArray, largest_angle: float) -> CommonPlane | None:
    """Planes of the two lattices within an angle (degrees) of a direction (y, x) whose vectors differ least.

    None if one of the lattices has no plane of small indices there, or they have nothing in common.
    """
    planes = [_planes_along(lattice.vectors, direction, largest_angle) for lattice in (first, second)]
    if any(len(indices) == 0 for indices in planes):
        return None
    u, v = (indices @ lattice.vectors for indices, lattice in zip(planes, (first, second), strict=True))
    difference = np.linalg.norm(u[:, None] - v[None], axis=2) / (np.linalg.norm(u, axis=1)[:, None])
    i, j = np.unravel_index(int(np.argmin(difference)), difference.shape)
    if difference[i, j] > CONSTANTS.max_difference:
        return None
    of_first, of_second = planes[0][i], planes[1][j]

    def values(a: NDArray, b: NDArray) -> NDArray[np.float64]:
        one, other = of_first @ a, of_second @ b
        lengths = np.linalg.norm(one), np.linalg.norm(other)
        turn = np.arctan2(one[1] * other[0] - one[0] * other[1], one @ other)
        return np.array([2 * (lengths[1] - lengths[0]) / (lengths[1] + lengths[0]), np.degrees(turn)])

    at, error = _with_errors(values, first, second)
    return CommonPlane(
        (int(of_first[0]), int(of_first[1])),
        (int(of_second[0]), int(of_second[1])),
        *(float(value) for pair in zip(at, error, strict=True) for value in pair),
    )


def _rotation(deformation: NDArray) -> NDArray[np.float64]:
    """Angle of the rotation of deformations ``(..., 2, 2)`` of rows (y, x), rad from +x towards +y."""
    return np.arctan2(deformation[..., 1, 0] - deformation[..., 0, 1], deformation[..., 0, 0] + deformation[..., 1, 1])


def _planes_along(vectors: NDArray, direction: NDArray, largest_angle: float) -> NDArray[np.int64]:
    """Indices ``(n, 2)`` without a common divisor of the vectors within an angle of a direction, with its sign."""
    values = np.arange(-CONSTANTS.max_index, CONSTANTS.max_index + 1)
    indices = np.stack(np.meshgrid(values, values, indexing="ij"), axis=-1).reshape(-1, 2)
    indices = indices[np.gcd(indices[:, 0], indices[:, 1]) == 1]
    along = indices @ vectors
    cosine = along @ direction / (np.linalg.norm(along, axis=1) * np.linalg.norm(direction))
    return indices[cosine >= np.cos(np.radians(largest_angle))]


def _with_errors(
    values: Callable[[NDArray, NDArray], NDArray], first: Lattice, second: Lattice
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of a function of the vectors of two lattices, and their standard deviations."""
    at = values(first.vectors, second.vectors)
    variance = np.zeros_like(at)
    for which, lattice in enumerate((first, second)):
        step = CONSTANTS.step * float(lattice.lengths.max())
        derivative = np.zeros((len(at), 2, 2))  # value, vector, axis
        for vector in range(2):
            for axis in range(2):
                moved = np.zeros((2, 2, 2))
                moved[which, vector, axis] = step
                up = values(first.vectors + moved[0], second.vectors + moved[1])
                down = values(first.vectors - moved[0], second.vectors - moved[1])
                derivative[:, vector, axis] = (up - down) / (2 * step)
        variance += np.einsum("nia,aij,nja->n", derivative, lattice.covariance, derivative)
    return at, np.sqrt(variance)
