"""The lattice that columns stand on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from stemkit.detection.structure.growing import Growth, grow, unit_cell
from stemkit.detection.structure.ordering import brightness_order, displacement_order, enlarge
from stemkit.detection.structure.tables import Columns, amplitudes, read_columns
from stemkit.detection.structure.vectors import find_vectors, shortest_distance

__all__ = ["Lattice", "fit_columns_to_lattice", "fit_lattice"]

#: Fewest columns among which a lattice can be told from chance.
FEWEST = 6
#: Times that a cell is enlarged because brightness or displacements are ordered.
ENLARGED = 2


@dataclass(frozen=True, eq=False, repr=False)
class Lattice:
    """A lattice, its sites, and where each column of a table belongs.

    Errors are standard deviations.

    Parameters
    ----------
    origin, origin_err : ndarray of shape (2,)
        Site 0 of cell (0, 0), ``(y, x)`` in ``unit``.
    vectors, vectors_err : ndarray of shape (2, 2)
        Rows are the vectors a, b as ``(y, x)``: a the one along x, b pointing down; at 120 degrees in a hexagonal
        lattice. Those of the caller, where given.
    sites, sites_err : ndarray of shape (n_sites, 2)
        Fractions of a and b, from -0.1 to 0.9; site 0 is the brightest and stands at (0, 0).
    site : ndarray of shape (n,)
        Site of each column; -1 for one that belongs to no place of the lattice.
    indices : ndarray of int of shape (n, 2)
        Cell of each column, in vectors a and b; 0 where ``site`` is -1.
    displacement : ndarray of shape (n, 2)
        ``(y, x)`` of each column from its ideal place; NaN where ``site`` is -1.
    covariance : ndarray of shape (2, 2, 2)
        For y and for x: of that component of a and b.
    scatter : ndarray of shape (2,)
        RMS displacement ``(y, x)`` of columns beyond their stated errors.
    unit : {"nm", "px"}
    """

    origin: NDArray[np.float64]
    vectors: NDArray[np.float64]
    origin_err: NDArray[np.float64]
    vectors_err: NDArray[np.float64]
    sites: NDArray[np.float64]
    sites_err: NDArray[np.float64]
    site: NDArray[np.int64]
    indices: NDArray[np.int64]
    displacement: NDArray[np.float64]
    covariance: NDArray[np.float64]
    scatter: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    unit: str = "px"

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Lengths of a and b, ``(2,)``."""
        return np.hypot(self.vectors[:, 0], self.vectors[:, 1])

    @property
    def lengths_err(self) -> NDArray[np.float64]:
        """Errors of the lengths, ``(2,)``."""
        return np.hypot(*(self.vectors * self.vectors_err).T) / self.lengths

    @property
    def angle(self) -> float:
        """Angle between a and b, degrees."""
        a, b = self.vectors
        return float(np.degrees(np.arctan2(abs(a[1] * b[0] - a[0] * b[1]), a @ b)))

    @property
    def angle_err(self) -> float:
        """Error of the angle, degrees."""
        turn = self.vectors[:, ::-1] / (self.lengths**2)[:, None] * [1, -1]
        weights = turn.T * [-1, 1]  # of the y components of a and b, then of their x components
        return float(np.degrees(np.sqrt(np.einsum("ki,kij,kj->", weights, self.covariance, weights))))

    @property
    def shortest(self) -> float:
        """Shortest distance of two places."""
        return shortest_distance(self.sites @ self.vectors, self.vectors)

    def ideal(self, indices: ArrayLike, site: ArrayLike) -> NDArray[np.float64]:
        """Places ``(n, 2)`` of the undistorted lattice, ``(y, x)``."""
        return self.origin + (np.asarray(indices) + self.sites[np.asarray(site)]) @ self.vectors

    def __repr__(self) -> str:
        (a, b), (da, db) = self.lengths, self.lengths_err
        return (
            f"Lattice(a={a:.5g}±{da:.1g} {self.unit}, b={b:.5g}±{db:.1g} {self.unit}, "
            f"angle={self.angle:.2f}±{self.angle_err:.1g}°, {len(self.sites)} site(s), "
            f"{int((self.site >= 0).sum())} of {len(self.site)} columns)"
        )


def fit_lattice(
    table: pd.DataFrame,
    vectors: ArrayLike | None = None,
    origin: ArrayLike | None = None,
    *,
    order: bool = True,
) -> Lattice:
    """Find the lattice of a table of columns, its sites, and the place of each column.

    Parameters
    ----------
    table : DataFrame
        Columns of one image as :class:`~stemkit.AtomDetector` gives them; of these only ``y`` and ``x`` are
        needed. Errors, quality and amplitudes are used where there are any.
    vectors : array-like of shape (2, 2), optional
        Rows ``(y, x)`` in the table's unit, to a few per cent; any cell will do. None finds the smallest one.
    origin : array-like of shape (2,), optional
        ``(y, x)`` near which cell (0, 0) lies. None takes the middle of the columns.
    order : bool, default=True
        Whether the cell is enlarged where columns alternate in brightness, such as Sr and Ti-O in a perovskite along
        [001], or in position, such as the zigzag of Dy in DyScO3. Only where ``vectors`` is None.

    Returns
    -------
    Lattice

    Raises
    ------
    ValueError
        If there are fewer than 6 columns, several images, no two directions that repeat, or impossible vectors.

    Notes
    -----
    Cells are told from neighbour to neighbour, each column being expected where those around it place it, so that a
    crystal may be strained and bent by many cells across the image. Vectors and sites then come from one linear
    least-squares fit to all columns, ``r = origin + i a + j b + site``, each axis weighted by ``1 / (err^2 +
    scatter^2)``, where the scatter is what makes chi squared equal the degrees of freedom: displacements that are
    larger than the stated errors widen the errors of the lattice. Those assume that displacements are independent;
    in a bent crystal, or one that the scan distorts, they are not.

    Order is searched among all cells of two to four small ones, twice: one that explains half of the variance of
    brightness or of position, beyond chance, becomes the cell. Where positions are concerned, chance is that of whole
    lines of columns, which jitter moves together.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.detection.structure import fit_lattice
    >>> y, x = np.mgrid[0:10, 0:12].reshape(2, -1) * 20.0
    >>> fit_lattice(pd.DataFrame({"y": y, "x": x})).lengths
    array([20., 20.])
    """
    columns = read_columns(table)
    if len(columns.positions) < FEWEST:
        raise ValueError(
            f"table must hold at least {FEWEST} columns for a lattice, but holds {len(columns.positions)}: measure a "
            "larger field, or lower the detector's significance"
        )
    near = None if origin is None else _vector(origin, "origin")
    if vectors is None:
        start, place = find_vectors(columns.positions)
    else:
        start, place = _checked(vectors), _middle(columns.positions, near)
    growth = grow(columns.positions, start, unit_cell(columns.positions, start, place), place)
    cell, site = growth.cell, growth.site
    if vectors is None and order:
        cell, site = _ordered(growth, amplitudes(table)[0] if "amplitude" in table else None)
    return fit_columns_to_lattice(columns, cell, _brightest_first(site, table), near)


def fit_columns_to_lattice(columns: Columns, cell: NDArray, site: NDArray, origin: NDArray | None = None) -> Lattice:
    """Least-squares lattice of columns whose cell ``(n, 2)`` and site ``(n,)`` are known."""
    cell, site = _recentred(columns, np.where(site[:, None] >= 0, cell, 0), site, origin)
    used = (site >= 0) & columns.trusted
    n_sites = int(site.max()) + 1
    design = _design(cell, np.maximum(site, 0), n_sites)
    if np.linalg.matrix_rank(design[used]) < design.shape[1] or used.sum() <= design.shape[1]:
        raise ValueError(
            f"table must hold columns in several cells along two directions, but the {int(used.sum())} on the lattice "
            "do not fix it: measure a larger field"
        )
    errors = np.zeros((len(site), 2)) if columns.errors is None else columns.errors
    fits = [_weighted(design[used], columns.positions[used, k], errors[used, k]) for k in range(2)]
    solution, covariance, scatter = (np.array(part) for part in zip(*fits, strict=True))
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
        scatter=scatter,
        unit=columns.unit,
    )


def _design(cell: NDArray, site: NDArray, n_sites: int) -> NDArray[np.float64]:
    return np.column_stack([cell, np.eye(n_sites)[site]])


def _weighted(design: NDArray, at: NDArray, errors: NDArray) -> tuple[NDArray, NDArray, float]:
    """Solution, covariance, and the scatter beyond the errors that makes chi squared the degrees of freedom."""
    freedom = len(at) - design.shape[1]
    least = (1e-9 * max(float(np.ptp(at)), 1e-300)) ** 2
    scatter = 0.0
    for _ in range(3):
        variance = errors**2 + scatter + least
        scaled = design / np.sqrt(variance)[:, None]
        solution = np.linalg.lstsq(scaled, at / np.sqrt(variance), rcond=None)[0]
        scatter = _extra_variance((at - design @ solution) ** 2, errors**2 + least, freedom)
    return solution, np.linalg.inv(scaled.T @ scaled), float(np.sqrt(scatter))


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


def _recentred(
    columns: Columns, cell: NDArray, site: NDArray, origin: NDArray | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells counted from the middle, and each site within the cell that starts at site 0."""
    used = site >= 0
    design = _design(cell, np.maximum(site, 0), int(site.max()) + 1)
    solution = np.linalg.lstsq(design[used], columns.positions[used], rcond=None)[0]
    if abs(np.linalg.det(solution[:2])) < 1e-9 * (solution[:2] ** 2).sum():
        return cell, site  # no lattice: refused by the fit
    inverse = np.linalg.inv(solution[:2])
    apart = np.floor((solution[2:] - solution[2]) @ inverse + 0.1).astype(np.int64)
    middle = columns.positions[used].mean(axis=0) if origin is None else origin
    first = np.round((middle - solution[2]) @ inverse).astype(np.int64)
    return np.where(used[:, None], cell + apart[site] - first, 0), site


def _ordered(growth: Growth, brightness: NDArray | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells and sites of the larger cell that order of brightness and of displacement make."""
    cell, site, vectors = growth.cell, growth.site, growth.vectors
    for _ in range(ENLARGED):
        order = None if brightness is None else brightness_order(cell, site, brightness)
        if order is None:
            order = displacement_order(cell, site, growth.shift, growth.shortest)
        if order is None:
            break
        cell, site, vectors = enlarge(cell, site, vectors, order)
    return cell, site


def _brightest_first(site: NDArray, table: pd.DataFrame) -> NDArray[np.int64]:
    """Sites numbered by falling brightness, by falling number without amplitudes."""
    rank = np.bincount(site[site >= 0]).astype(np.float64)
    if "amplitude" in table:
        values = amplitudes(table)[0]
        rank = np.array([np.nanmedian(np.append(values[site == s], -1e300)) for s in range(len(rank))])
    number = np.argsort(np.argsort(-rank, kind="stable"), kind="stable")
    return np.where(site >= 0, number[site], -1)


def _middle(positions: NDArray, origin: NDArray | None) -> NDArray[np.float64]:
    target = np.median(positions, axis=0) if origin is None else origin
    return positions[np.argmin(((positions - target) ** 2).sum(axis=1))]


def _vector(value: ArrayLike, name: str) -> NDArray[np.float64]:
    vector = np.asarray(value, dtype=np.float64)
    if vector.shape != (2,) or not np.isfinite(vector).all():
        raise ValueError(f"{name} must be two finite numbers (y, x), but is {value!r}")
    return vector


def _checked(vectors: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.shape != (2, 2) or not np.isfinite(rows).all():
        raise ValueError(f"vectors must be two rows (y, x) of finite numbers, but are {vectors!r}")
    if abs(np.linalg.det(rows)) < 0.05 * np.prod(np.hypot(*rows.T)):
        raise ValueError(f"vectors must point in two directions, but are {vectors!r}")
    return rows
