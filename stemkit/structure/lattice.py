"""A lattice: its vectors and sites, and the cell and site of each column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from stemkit.structure.bases import shortest_distance
from stemkit.structure.tables import check_table
from stemkit.tables import counted

__all__ = ["Lattice", "Lattices", "check_lattice"]


@dataclass(frozen=True, eq=False, repr=False)
class Lattice:
    """A lattice, its sites, and the cell and site of each column of a table.

    Errors are statistical standard deviations, from the errors of the columns and their scatter; the error of the pixel
    size enters only the total errors of the lengths.

    Parameters
    ----------
    origin, origin_err : ndarray of shape (2,)
        Site 0 of cell (0, 0), ``(y, x)`` in ``unit``.
    vectors, vectors_err : ndarray of shape (2, 2)
        Rows are the vectors a, b as ``(y, x)``, those of the caller if given. Otherwise the reduced cell: a is the
        shortest vector of the lattice and b the shortest one that is not parallel to it, at 60 to 120 degrees. If
        their lengths agree within 4 %, a is the one nearer to the x axis. It points right, or down if it is steeper
        than 45 degrees; b is clockwise from it on the screen. In a hexagonal lattice (the three shortest vectors agree
        within 4 %) and a centred rectangular one, where two choices of b are equally short, the angle is obtuse.
    sites, sites_err : ndarray of shape (n_sites, 2)
        Fractions of a and b, from -0.1 to 0.9; site 0 is the brightest and is at (0, 0).
    site : ndarray of shape (n,)
        Site of each column; -1 for a column that is not on the lattice.
    indices : ndarray of int of shape (n, 2)
        Cell of each column, in vectors a and b; 0 if ``site`` is -1.
    displacement : ndarray of shape (n, 2)
        ``(y, x)`` of each column from its ideal position; NaN if ``site`` is -1.
    covariance : ndarray of shape (2, 2, 2)
        Covariance of a and b, of their y components and of their x components.
    scatter : ndarray of shape (2,)
        RMS displacement ``(y, x)`` of columns beyond their stated errors.
    unit : {"nm", "px"}
    pixel_size_error : float
        Relative standard deviation of the pixel size, 0 if it is not known. An error of the pixel size multiplies both
        lengths by the same factor: their total errors are fully correlated, and angle and ratio do not depend on it.
        Lengths in px do not contain it.
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
        """Total covariance of the lengths, ``(2, 2)``: statistical, plus that of the pixel size.

        With the unit vectors u of a and b and the covariance C of their components,
        ``cov(|a|, |b|) = sum over y, x of u_a C_ab u_b + e^2 |a| |b|``, where e is ``pixel_size_error``: first-order
        propagation of errors.
        """
        unit_vectors = self.vectors / self.lengths[:, None]
        statistical = np.einsum("ik,kij,jk->ij", unit_vectors, self.covariance, unit_vectors)
        scale = self.pixel_size_error if self.unit == "nm" else 0.0
        return statistical + scale**2 * np.outer(self.lengths, self.lengths)

    @property
    def lengths_total_err(self) -> NDArray[np.float64]:
        """Errors of the lengths including that of the pixel size, ``(2,)``."""
        return np.sqrt(np.diagonal(self.lengths_covariance))

    @property
    def ratio(self) -> float:
        """Length of b divided by that of a."""
        return float(self.lengths[1] / self.lengths[0])

    @property
    def ratio_err(self) -> float:
        """Error of the ratio, which is statistical: the pixel size does not enter."""
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
        direction = self.vectors[:, ::-1] / (self.lengths**2)[:, None] * [1, -1]  # derivative of each vector's angle
        weights = direction.T * [-1, 1]  # of the y components of a and b, then of their x components
        return float(np.degrees(np.sqrt(np.einsum("ki,kij,kj->", weights, self.covariance, weights))))

    @property
    def shortest(self) -> float:
        """Shortest distance of two sites."""
        return shortest_distance(self.sites @ self.vectors, self.vectors)

    def ideal(self, indices: ArrayLike, site: ArrayLike) -> NDArray[np.float64]:
        """Positions ``(n, 2)`` of the undistorted lattice, ``(y, x)``, in cells ``(n, 2)`` at sites ``(n,)``."""
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
    """The lattices of a table, that of most columns first, and the lattice of each column.

    ``labels`` is a Series with the table's index: the number of the lattice in ``lattices``, -1 for a column of none.
    """

    lattices: tuple[Lattice, ...]
    labels: pd.Series

    def __repr__(self) -> str:
        none = int((self.labels < 0).sum())
        lines = [repr(lattice) for lattice in self.lattices] + [f"{counted(none, 'column')} on no lattice"]
        return "\n".join(lines)


def check_lattice(lattice: Lattice, table: pd.DataFrame) -> None:
    """Raise an error if this is not a lattice that was fitted to the table."""
    check_table(table)
    if not isinstance(lattice, Lattice):
        raise TypeError(
            f"lattice must be the result of fit_lattice(table), or one of fit_lattices(table).lattices, but is "
            f"{type(lattice).__name__}"
        )
    if len(lattice.site) != len(table):
        raise ValueError(
            f"lattice must have been fitted to this table, but it has {len(lattice.site)} columns and the table "
            f"{len(table)}: fit it again with fit_lattice(table)"
        )
