"""The lattices that columns stand on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from stemkit.structure.grains import best_growth, segment
from stemkit.structure.growing import Growth, grow, unit_cell
from stemkit.structure.ordering import brightness_order, displacement_order, enlarge
from stemkit.structure.tables import Columns, amplitudes, check_table, counted, read_columns
from stemkit.structure.vectors import matched, shortest_distance, standard

__all__ = ["Lattice", "Lattices", "check_lattice", "fit_columns_to_lattice", "fit_lattice", "fit_lattices"]

#: Fewest columns among which a lattice can be told from chance.
FEWEST = 6
#: Lattices differ where vectors differ by this fraction of their length: 0.39 and 0.41 nm do, strains of 4 % do not.
#: Chosen.
MISFIT = 0.045
#: Fewest columns of a lattice among others. Chosen.
LEAST = 25
#: One lattice explains the columns where so many are on it. Another one is worth a warning where it has this fraction
#: of the columns. Chosen.
EXPLAINED, ANOTHER = 0.7, 0.05
#: Times that a cell is enlarged because brightness or displacements are ordered.
ENLARGED = 2


@dataclass(frozen=True, eq=False, repr=False)
class Lattice:
    """A lattice, its sites, and where each column of a table belongs.

    Errors are statistical standard deviations, from the errors of the columns and their scatter; the error of the pixel
    size enters the total errors of lengths alone.

    Parameters
    ----------
    origin, origin_err : ndarray of shape (2,)
        Site 0 of cell (0, 0), ``(y, x)`` in ``unit``.
    vectors, vectors_err : ndarray of shape (2, 2)
        Rows are the vectors a, b as ``(y, x)``, those of the caller where given. Otherwise the reduced cell: a is the
        shortest vector of the lattice and b the shortest one that is not parallel to it, at 60 to 120 degrees. Where
        lengths agree within 4 %, a is the one nearer to the x axis. It points right, or down where it is steeper than
        45 degrees; b is clockwise from it on the screen. In a hexagonal lattice (the three shortest vectors agree
        within 4 %) and a centred rectangular one, where two choices of b are as short, the angle is obtuse.
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
    pixel_size_error : float
        Relative standard deviation of the pixel size, 0 where it is not known. It multiplies both lengths by the same
        factor: their total errors are fully correlated, angle and ratio do not depend on it. Lengths in px have none.
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
    pixel_size_error: float = 0.0

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Lengths of a and b, ``(2,)``."""
        return np.hypot(self.vectors[:, 0], self.vectors[:, 1])

    @property
    def lengths_err(self) -> NDArray[np.float64]:
        """Errors of the lengths, ``(2,)``."""
        return np.hypot(*(self.vectors * self.vectors_err).T) / self.lengths

    @property
    def lengths_covariance(self) -> NDArray[np.float64]:
        """Total covariance of the lengths, ``(2, 2)``: statistical, and that of the pixel size.

        With the unit vectors u of a and b and the covariance C of their components,
        ``cov(|a|, |b|) = sum over y, x of u_a C_ab u_b + e^2 |a| |b|``, e being ``pixel_size_error``: first-order
        propagation of errors.
        """
        unit_vectors = self.vectors / self.lengths[:, None]
        statistical = np.einsum("ik,kij,jk->ij", unit_vectors, self.covariance, unit_vectors)
        scale = self.pixel_size_error if self.unit == "nm" else 0.0
        return statistical + scale**2 * np.outer(self.lengths, self.lengths)

    @property
    def lengths_total_err(self) -> NDArray[np.float64]:
        """Errors of the lengths, with that of the pixel size, ``(2,)``."""
        return np.sqrt(np.diagonal(self.lengths_covariance))

    @property
    def ratio(self) -> float:
        """Length of b over that of a."""
        return float(self.lengths[1] / self.lengths[0])

    @property
    def ratio_err(self) -> float:
        """Error of the ratio: statistical, as the pixel size does not enter it."""
        weights = np.array([-1, 1]) / self.lengths
        return float(self.ratio * np.sqrt(weights @ self.lengths_covariance @ weights))

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
        errors = "statistical errors"
        if self.unit == "nm" and self.pixel_size_error > 0:
            errors += f", and {100 * self.pixel_size_error:.2g} % of both lengths from the pixel size"
        return (
            f"Lattice(a={a:.5g}±{da:.1g} {self.unit}, b={b:.5g}±{db:.1g} {self.unit}, "
            f"angle={self.angle:.2f}±{self.angle_err:.1g}° ({errors}), {counted(len(self.sites), 'site')}, "
            f"{int((self.site >= 0).sum())} of {counted(len(self.site), 'column')})"
        )


class Lattices(NamedTuple):
    """The lattices of a table, that of most columns first, and which one each column belongs to.

    ``labels`` is a Series with the table's index: the number of the lattice in ``lattices``, -1 for a column of none.
    """

    lattices: tuple[Lattice, ...]
    labels: pd.Series

    def __repr__(self) -> str:
        none = int((self.labels < 0).sum())
        lines = [repr(lattice) for lattice in self.lattices] + [f"{counted(none, 'column')} on no lattice"]
        return "\n".join(lines)


def check_lattice(lattice: Lattice, table: pd.DataFrame) -> None:
    """Refuse a lattice that was fitted to another table."""
    check_table(table)
    if len(lattice.site) != len(table):
        raise ValueError(
            f"lattice must have been fitted to this table, but it has {len(lattice.site)} columns and the table "
            f"{len(table)}: fit it again with fit_lattice(table)"
        )


def fit_lattice(
    table: pd.DataFrame,
    vectors: ArrayLike | None = None,
    origin: ArrayLike | None = None,
    *,
    order: bool = True,
    pixel_size_error: float = 0.0,
) -> Lattice:
    """Find the lattice of a table of columns, its sites, and the place of each column.

    For a table that holds several crystals, :func:`fit_lattices`.

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
    pixel_size_error : float, default=0.0
        Relative standard deviation of the pixel size, such as 0.01, which enters ``lengths_total_err``.

    Returns
    -------
    Lattice

    Raises
    ------
    ValueError
        If there are fewer than 6 columns, several images, no lattice beyond chance, or impossible vectors.

    Warns
    -----
    UserWarning
        If one lattice does not explain the columns: there are others, or it holds fewer than 70 % of the columns. Not
        where ``vectors`` are given.

    Notes
    -----
    A lattice needs evidence: what it saves in the description of the positions, less the cost of its own parameters,
    must exceed 24 nats (minimum description length [1]_). Random positions reach that in fewer than one of 100
    cases, a lattice of 20 columns displaced by 5 % of their spacing has 30 or more.

    Cells are told from neighbour to neighbour, each column being expected where those around it place it, so that a
    crystal may be strained and bent by many cells across the image. Vectors and sites then come from one linear
    least-squares fit to all columns, ``r = origin + i a + j b + site``, each axis weighted by ``1 / (err^2 +
    scatter^2)``, where the scatter is what makes chi squared equal the degrees of freedom: displacements that are
    larger than the stated errors widen the errors of the lattice. Those assume that displacements are independent;
    in a bent crystal, or one that the scan distorts, they are not.

    Order is searched among all cells of two to four small ones, twice: one that explains half of the variance of
    brightness or of position, beyond chance, becomes the cell. Where positions are concerned, chance is that of whole
    lines of columns, which jitter moves together.

    References
    ----------
    .. [1] Rissanen, Automatica 14, 465 (1978), https://doi.org/10.1016/0005-1098(78)90005-5

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import fit_lattice
    >>> y, x = np.mgrid[0:10, 0:12].reshape(2, -1) * 20.0
    >>> fit_lattice(pd.DataFrame({"y": y, "x": x})).lengths
    array([20., 20.])
    """
    columns = read_columns(table)
    error = _relative(pixel_size_error)
    if len(columns.positions) < FEWEST:
        raise ValueError(
            f"table must hold at least {FEWEST} columns for a lattice, but holds {len(columns.positions)}: measure a "
            "larger field, or lower the detector's significance"
        )
    near = None if origin is None else _vector(origin, "origin")
    if vectors is None:
        growth = best_growth(columns.positions)
        lattice = _reduced(columns, table, growth, near, order)
        _warn_of_others(segment(columns.positions, MISFIT, LEAST, growth), growth)
    else:
        start, place = _checked(vectors), _middle(columns.positions, near)
        growth = grow(columns.positions, start, unit_cell(columns.positions, start, place), place)
        lattice = fit_columns_to_lattice(columns, growth.cell, _brightest_first(growth.site, table), near)
    return replace(lattice, pixel_size_error=error)


def fit_lattices(
    table: pd.DataFrame,
    *,
    misfit: float = MISFIT,
    min_columns: int = LEAST,
    order: bool = True,
    pixel_size_error: float = 0.0,
) -> Lattices:
    """Find all lattices of a table: grains, twins, a film and its substrate, crystals among amorphous matter.

    Parameters
    ----------
    table : DataFrame
        Columns of one image, as for :func:`fit_lattice`.
    misfit : float, default=0.045
        Lattices are different where vectors differ by this fraction of their length, in any direction: the largest
        singular value of F - 1, F being the deformation of one into the other. A rotation by 2.6 degrees has 0.045.
    min_columns : int, default=25
        Fewest columns of a lattice.
    order, pixel_size_error
        As of :func:`fit_lattice`.

    Returns
    -------
    Lattices
        ``lattices``, each as :func:`fit_lattice` gives it, for the whole table: with ``site`` -1 for the columns of
        others; and ``labels``, the number of the lattice of each column, -1 for none. None are found in a table without
        order.

    Raises
    ------
    ValueError
        If there are several images, or a parameter is impossible.

    Notes
    -----
    A lattice is grown over the columns, and others over those that it leaves. Where the local basis jumps, such a
    growth is divided: of the columns within nine cells of a border, two planes of the ideal places (a jump) must
    describe the positions better than one parabola (a strain that varies), and the planes must differ by ``misfit``.
    A bent crystal is thus one lattice. Parts of the same lattice, in contact or not, are one; crystals that differ in
    the content of the cell alone are not distinguished. 2,000 columns take less than a second, 20,000 about five.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import fit_lattices
    >>> y, x = np.mgrid[0:20, 0:20].reshape(2, -1) * 0.39
    >>> x = np.where(y > 4, x * 0.41 / 0.39, x)  # another crystal below
    >>> found = fit_lattices(pd.DataFrame({"y": y, "x": x}))
    >>> sorted(float(lattice.lengths[1].round(3)) for lattice in found.lattices)
    [0.39, 0.41]
    """
    columns = read_columns(table)
    error = _relative(pixel_size_error)
    if not 0 < misfit < 0.3:
        raise ValueError(f"misfit must be a fraction above 0 and below 0.3, but is {misfit!r}")
    if not min_columns >= FEWEST:
        raise ValueError(f"min_columns must be at least {FEWEST}, but is {min_columns!r}")
    label = np.full(len(table), -1)
    if len(table) >= min_columns:
        label = segment(columns.positions, misfit, int(min_columns))
    found: list[Lattice] = []
    for number in range(label.max(initial=-1) + 1):
        rows = np.flatnonzero(label == number)
        lattice = _of_rows(table, rows, order, int(min_columns))
        if lattice is None:
            continue
        # fitted vectors are more accurate than the local bases that columns were divided by
        same = [i for i, f in enumerate(found) if matched(f.vectors, lattice.vectors)[1] < misfit]
        if same:
            rows = np.flatnonzero((label == number) | (found[same[0]].site >= 0))
            found[same[0]] = _of_rows(table, rows, order, int(min_columns)) or found[same[0]]
        else:
            found.append(lattice)
    found = [replace(lattice, unit=columns.unit, pixel_size_error=error) for lattice in found]
    found.sort(key=lambda lattice: -int((lattice.site >= 0).sum()))
    labels = np.full(len(table), -1)
    for number, lattice in enumerate(found):
        labels[lattice.site >= 0] = number
    return Lattices(tuple(found), pd.Series(labels, index=table.index, name="lattice"))


def _reduced(columns: Columns, table: pd.DataFrame, growth: Growth, origin: NDArray | None, order: bool) -> Lattice:
    """The lattice of a growth by its reduced vectors."""
    cell, site = growth.cell, growth.site
    if order:
        cell, site = _ordered(growth, amplitudes(table)[0] if "amplitude" in table else None)
    lattice = fit_columns_to_lattice(columns, cell, _brightest_first(site, table), origin)
    # the vectors so far were rough: which ones are shortest is decided by the fitted ones
    change = np.round(standard(lattice.vectors) @ np.linalg.inv(lattice.vectors)).astype(np.int64)
    if (change == np.eye(2)).all():
        return lattice
    cell = np.round(lattice.indices @ np.linalg.inv(change)).astype(np.int64)
    return fit_columns_to_lattice(columns, cell, lattice.site, origin)


def _warn_of_others(label: NDArray, growth: Growth) -> None:
    count, n = np.bincount(label[label >= 0], minlength=1), len(label)
    others = int((count[1:] >= ANOTHER * n).sum())
    explained = (count[0] if others else max(count[0], (growth.site >= 0).sum())) / n
    if others:
        what = "fit_lattices(table) finds all lattices, and which one each column belongs to"
    elif explained < EXPLAINED:
        what = "fit_lattices(table) says which columns belong to it and which to none"
    else:
        return
    warnings.warn(
        f"one lattice does not explain the columns: it holds for {100 * explained:.0f} % of the {n}. {what}",
        stacklevel=3,
    )


def _of_rows(table: pd.DataFrame, rows: NDArray, order: bool, least: int) -> Lattice | None:
    """The lattice of some rows of a table, None where there is none of so many columns."""
    part = table.iloc[rows]
    columns = read_columns(part)
    try:
        lattice = _reduced(columns, part, best_growth(columns.positions), None, order)
    except ValueError:
        return None
    return _of_whole(lattice, rows, len(table)) if (lattice.site >= 0).sum() >= least else None


def _of_whole(lattice: Lattice, rows: NDArray, n: int) -> Lattice:
    """The lattice of some rows of a table as one of all its ``n`` rows."""
    site, indices = np.full(n, -1), np.zeros((n, 2), dtype=np.int64)
    displacement = np.full((n, 2), np.nan)
    site[rows], indices[rows], displacement[rows] = lattice.site, lattice.indices, lattice.displacement
    return replace(lattice, site=site, indices=indices, displacement=displacement)


def _relative(pixel_size_error: float) -> float:
    if not 0 <= pixel_size_error < 1:
        raise ValueError(
            f"pixel_size_error must be relative, from 0 to below 1 (0.01 is one per cent), but is {pixel_size_error!r}"
        )
    return float(pixel_size_error)


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
