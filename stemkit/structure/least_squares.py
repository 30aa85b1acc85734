"""Least-squares lattice of columns whose cells and sites are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from stemkit.structure.lattice import Lattice
from stemkit.structure.tables import ColumnPositions

__all__ = ["fit_columns_to_lattice"]


#: Smallest standard deviation of a position, ranges of the positions (chosen: keeps weights finite).
MIN_ERROR = 1e-9
#: Steps of the iteration of weights and scatter (chosen).
N_ITERATIONS = 3
#: Least fraction of a cell of a site, so that a site near 0 is not at 1 by its error (chosen).
MIN_SITE_FRACTION = 0.1


@dataclass(frozen=True)
class _Fit:
    """Weighted least squares along one axis: parameters, their covariance, and the scatter beyond the errors."""

    solution: NDArray
    covariance: NDArray
    scatter: float


def fit_columns_to_lattice(
    columns: ColumnPositions, cell: NDArray, site: NDArray, origin: NDArray | None = None
) -> Lattice:
    """Least-squares lattice of columns whose cell ``(n, 2)`` and site ``(n,)`` are known."""
    cell = _recentered(columns, np.where(site[:, None] >= 0, cell, 0), site, origin)
    used = (site >= 0) & columns.measured
    n_sites = int(site.max()) + 1
    design = _design(cell, np.maximum(site, 0), n_sites)
    if np.linalg.matrix_rank(design[used]) < design.shape[1] or used.sum() <= design.shape[1]:
        raise ValueError(
            f"table must contain columns in several cells along two directions, but the {int(used.sum())} on the "
            "lattice do not determine it: measure a larger field"
        )
    errors = np.zeros((len(site), 2)) if columns.errors is None else columns.errors
    fits = [_weighted(design[used], columns.positions[used, k], errors[used, k]) for k in range(2)]
    solution, covariance = np.array([f.solution for f in fits]), np.array([f.covariance for f in fits])
    vectors = solution[:, :2].T
    displacement = np.where(site[:, None] >= 0, columns.positions - design @ solution.T, np.nan)
    sites, sites_err = _fractions(solution, covariance, vectors)
    return Lattice(
        origin=solution[:, 2],
        vectors=vectors,
        origin_err=np.sqrt(covariance[:, 2, 2]),
        vectors_err=np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)[:, :2].T),
        sites=sites,
        sites_err=sites_err,
        site=site,
        indices=cell,
        displacement=displacement,
        covariance=covariance[:, :2, :2],
        scatter=np.array([f.scatter for f in fits]),
        unit=columns.unit,
    )


def _design(cell: NDArray, site: NDArray, n_sites: int) -> NDArray[np.float64]:
    return np.column_stack([cell, np.eye(n_sites)[site]])


def _weighted(design: NDArray, positions: NDArray, errors: NDArray) -> _Fit:
    """Fit with the scatter that makes chi squared equal to the degrees of freedom."""
    freedom = len(positions) - design.shape[1]
    least = (MIN_ERROR * max(float(np.ptp(positions)), 1e-300)) ** 2
    scatter = 0.0
    for _ in range(N_ITERATIONS):
        variance = errors**2 + scatter + least
        scaled = design / np.sqrt(variance)[:, None]
        solution = np.linalg.lstsq(scaled, positions / np.sqrt(variance), rcond=None)[0]
        scatter = _extra_variance((positions - design @ solution) ** 2, errors**2 + least, freedom)
    return _Fit(solution, np.linalg.inv(scaled.T @ scaled), float(np.sqrt(scatter)))


def _extra_variance(square: NDArray, variance: NDArray, freedom: int) -> float:
    def excess(extra: float) -> float:
        return float((square / (variance + extra)).sum()) - freedom

    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, square.sum() / freedom + 1e-300))


def _fractions(solution: NDArray, covariance: NDArray, vectors: NDArray) -> tuple[NDArray, NDArray]:
    """Sites relative to the first, in fractions of the vectors, and their errors."""
    inverse = np.linalg.inv(vectors)
    sites = (solution[:, 2:] - solution[:, 2:3]).T @ inverse
    of_sites = covariance[:, 2:, 2:]
    own = np.diagonal(of_sites, axis1=1, axis2=2)
    variance = own + own[:, :1] - 2 * of_sites[:, 0]
    variance[:, 0] = 0.0
    return sites, np.sqrt(np.maximum(variance.T @ inverse**2, 0.0))


def _recentered(columns: ColumnPositions, cell: NDArray, site: NDArray, origin: NDArray | None) -> NDArray[np.int64]:
    """Cells relative to that at the origin, with each site in the cell that starts at site 0."""
    used = site >= 0
    design = _design(cell, np.maximum(site, 0), int(site.max()) + 1)
    solution = np.linalg.lstsq(design[used], columns.positions[used], rcond=None)[0]
    if abs(np.linalg.det(solution[:2])) < 1e-9 * (solution[:2] ** 2).sum():
        return cell  # not a lattice: the fit raises an error
    inverse = np.linalg.inv(solution[:2])
    offset = np.floor((solution[2:] - solution[2]) @ inverse + MIN_SITE_FRACTION).astype(np.int64)
    center = columns.positions[used].mean(axis=0) if origin is None else origin
    first = np.round((center - solution[2]) @ inverse).astype(np.int64)
    return np.where(used[:, None], cell + offset[site] - first, 0)
