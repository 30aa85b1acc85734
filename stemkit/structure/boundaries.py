"""Whether the clusters of columns on both sides of a boundary belong to one crystal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.statistics import median_spacing
from stemkit.structure.bases import matching_basis
from stemkit.structure.local_bases import LocalBases

__all__ = ["MIN_INNER_COLUMNS", "Similarity", "compare_clusters"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the comparison of two clusters at their boundary."""

    #: Least distance from the other cluster of the columns that are compared, square roots of the area of the cell
    #: (chosen: the position of the boundary is known to a cell or two).
    nearest: float = 1.5
    #: Largest distance (chosen).
    farthest: float = 9.0
    #: Largest mean squared residual of a polynomial near a boundary, squares of this times that of the planes of local
    #: bases (chosen).
    residual: float = 1.7
    #: RMS residual per axis up to which planes describe the columns in any case, nearest distances (chosen: wrong
    #: indices are wrong by cells, jitter of the scan displaces by less).
    wrong: float = 0.1
    #: Twice the gain of log-likelihood at which a jump is significant (derived: chi squared of three degrees of freedom
    #: exceeds it with a probability of 0.7 %).
    gain: float = 12.0
    #: Difference of the bases above which clusters are distinct if no plane describes the columns near the boundary,
    #: median deviations of the bases (chosen).
    deviations: float = 5.0
    #: Fraction of the squared residuals that is averaged, the smallest ones (chosen: robust against wrong columns).
    averaged: float = 0.8


CONSTANTS = _Constants()
#: Fewest columns near a boundary that are compared, and inside a cluster that is not a part of a boundary (chosen).
MIN_INNER_COLUMNS = 10


@dataclass(frozen=True, order=True)
class Similarity:
    """Relative difference of the vectors of two clusters, and whether the crystal is continuous across the boundary."""

    difference: float
    continuous: bool


def compare_clusters(
    positions: NDArray, bases: LocalBases, label: NDArray, pair: tuple[int, int], border: bool
) -> Similarity:
    """Compare two clusters, near their boundary if they are in contact and ``border`` is True, otherwise as a whole.

    Notes
    -----
    They are continuous if the positions near the boundary are described better by one parabola of the ideal positions
    (a basis that varies steadily) than by two planes (a basis that jumps), which have as many parameters, or if two
    planes are not significantly better than one.
    """
    rows, other = (np.flatnonzero(label == kind) for kind in pair)
    if not (border and (label[bases.neighbors[rows, :9]] == pair[1]).any()):
        return Similarity(matching_basis(bases.median(rows), bases.median(other))[1], False)
    sides = [_near_boundary(positions, bases, own, theirs) for own, theirs in ((rows, other), (other, rows))]
    planes = [_polynomial(positions[r], bases.ideal[r], 1) for r in sides]
    both = np.concatenate(sides)
    flat = _trimmed_mean(np.concatenate([square for _, square in planes]))
    limit = CONSTANTS.residual**2 * 2 * _trimmed_mean(bases.residual[both])
    described = flat.sum() <= max(limit, 2 * (CONSTANTS.wrong * median_spacing(positions[both])) ** 2)
    local = [bases.lattices[bases.number[r[0]]].vectors @ slope for r, (slope, _) in zip(sides, planes, strict=True)]
    if not described or not np.isfinite(local).all():
        # along a boundary that is not coherent the indices are wrong, and no plane describes the positions
        local = [bases.median(r) for r in sides]
    difference = matching_basis(*local)[1]
    if bases.number[sides[0][0]] != bases.number[sides[1][0]]:
        return Similarity(difference, False)
    if not described:
        deviation = max(_median_deviation(bases.basis[r]) for r in sides)
        return Similarity(difference, bool(difference < CONSTANTS.deviations * deviation))
    smooth = _trimmed_mean(_polynomial(positions[both], bases.ideal[both], 2)[1])
    single = _trimmed_mean(_polynomial(positions[both], bases.ideal[both], 1)[1])
    # jitter displaces columns in a scan line together: scan lines are independent, not columns; offset and slope
    # of the two planes across them are four parameters
    lines = _n_lines(bases.ideal[both], bases.lattices[bases.number[both[0]]].vectors)
    gain = max(lines - 4, 0) * np.log(np.maximum(single, 1e-300) / np.maximum(flat, 1e-300)).max()
    return Similarity(difference, bool(smooth.sum() <= min(flat.sum(), limit) or gain < CONSTANTS.gain))


def _near_boundary(positions: NDArray, bases: LocalBases, rows: NDArray, other: NDArray) -> NDArray[np.intp]:
    """Columns of a cluster near its boundary to another one, those of the grown lattice that contains most of them."""
    spacing = np.sqrt(abs(np.linalg.det(bases.median(rows))))
    distance = cKDTree(positions[other]).query(positions[rows])[0] / spacing
    near = rows[(distance > CONSTANTS.nearest) & (distance < CONSTANTS.farthest)]
    near = near if len(near) >= MIN_INNER_COLUMNS else rows
    return near[bases.number[near] == np.bincount(bases.number[near]).argmax()]


def _polynomial(positions: NDArray, ideal: NDArray, degree: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes ``(2, 2)`` and squared residuals ``(n, 2)`` of positions fitted by a polynomial of the ideal positions.

    The slopes transform rows of ideal vectors into rows of vectors; they are NaN if the columns do not determine them.
    """
    scale = max(float(np.abs(ideal - ideal.mean(axis=0)).max()), 1e-300)
    i, j = (ideal - ideal.mean(axis=0)).T / scale
    terms = [np.ones_like(i), i, j] + [i * i, i * j, j * j] * (degree == 2)
    design = np.column_stack(terms)
    solution, _, rank, _ = np.linalg.lstsq(design, positions, rcond=1e-6)
    slope = solution[1:3] / scale if rank == design.shape[1] else np.full((2, 2), np.nan)
    freedom = max(1 - design.shape[1] / len(ideal), 0.1)
    return slope, (positions - design @ solution) ** 2 / freedom


def _median_deviation(basis: NDArray) -> float:
    """Median relative deviation of bases ``(n, 2, 2)`` from their median."""
    change = np.linalg.inv(np.median(basis, axis=0)) @ basis - np.eye(2)
    return float(np.median(np.linalg.norm(change, axis=(1, 2))))


def _n_lines(ideal: NDArray, vectors: NDArray) -> int:
    """Number of lines of cells that positions are in, along the vector that has fewer."""
    cell = np.floor(ideal @ np.linalg.inv(vectors) + 0.1)
    return min(len(np.unique(line)) for line in cell.T)


def _trimmed_mean(squares: NDArray) -> NDArray[np.float64]:
    """Mean along the first axis without the largest fifth."""
    return np.sort(squares, axis=0)[: max(1, int(CONSTANTS.averaged * len(squares)))].mean(axis=0)
