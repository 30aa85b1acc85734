"""Search and fit of the lattices of a table of columns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from stemkit.parameters import check_fraction, check_integer
from stemkit.structure.bases import matching_basis, reduced_basis
from stemkit.structure.lattice import Lattice, Lattices
from stemkit.structure.least_squares import fit_columns_to_lattice
from stemkit.structure.local_bases import first_lattice
from stemkit.structure.ordering import AssignedColumns, brightness_order, displacement_order
from stemkit.structure.region_growing import GrownLattice, grow, unit_cell
from stemkit.structure.segmentation import fill_enclosed, segment
from stemkit.structure.tables import ColumnPositions, amplitudes, column_positions

__all__ = ["fit_lattice", "fit_lattices"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the fit of a lattice."""

    #: Fewest columns among which a lattice is searched for (chosen).
    min_positions: int = 6
    #: Default of ``mismatch``, fraction of the length of the vectors (chosen: distinguishes 0.39 and 0.41 nm, not a
    #: strain of 4 %).
    mismatch: float = 0.045
    #: Default of ``min_columns`` (chosen).
    min_columns: int = 25
    #: Least fraction of the columns on a lattice that explains the table (chosen).
    min_explained_fraction: float = 0.7
    #: Least fraction of the columns on another lattice for a warning (chosen).
    min_other_fraction: float = 0.05
    #: Times that a cell may be enlarged because brightness or displacements are ordered (chosen).
    max_enlargements: int = 2
    #: Brightness of a site whose columns have none: it is the last one.
    no_brightness: float = -1e300


CONSTANTS = _Constants()


def fit_lattice(
    table: pd.DataFrame,
    vectors: ArrayLike | None = None,
    origin: ArrayLike | None = None,
    *,
    order: bool = True,
    pixel_size_error: float = 0.0,
) -> Lattice:
    """Find the lattice of a table of columns, its sites, and the cell and site of each column.

    For a table of several crystals, see :func:`fit_lattices`.

    Parameters
    ----------
    table : DataFrame
        Columns of one image, such as :class:`~stemkit.AtomDetector` returns. Only ``y`` and ``x`` are required; errors,
        quality and amplitudes are used if the table contains them.
    vectors : array-like of shape (2, 2), optional
        Rows ``(y, x)`` in the table's unit, accurate to a few per cent, of any cell. By default the smallest cell is
        searched for.
    origin : array-like of shape (2,), optional
        ``(y, x)`` near which cell (0, 0) is; by default the mean of the columns.
    order : bool, default=True
        Whether the cell is enlarged if columns alternate in brightness, such as Sr and Ti-O in a perovskite along
        [001], or in position, such as the zigzag of Dy in DyScO3. Only if ``vectors`` is None.
    pixel_size_error : float, default=0.0
        Relative standard deviation of the pixel size, such as 0.01, which enters ``lengths_total_err``.

    Returns
    -------
    Lattice

    Raises
    ------
    ValueError
        If there are fewer than 6 columns, several images, no significant lattice, or impossible vectors.

    Warns
    -----
    UserWarning
        If one lattice does not explain the columns: there are others, or fewer than 70 % of the columns are on it. Not
        if ``vectors`` is given.

    Notes
    -----
    The vectors are those that lead from most columns to another one. Their significance is decided by the minimum
    description length [1]_. From a patch that contains them the lattice is grown from neighbour to neighbour: the
    position of each column is predicted by those around it, so that a crystal may be strained and bent by many cells
    across the image. Vectors and sites then follow from one linear least-squares fit to all columns,
    ``r = origin + i a + j b + site``, with the weights ``1 / (err^2 + scatter^2)`` for each axis. The scatter is the
    value that makes chi squared equal to the degrees of freedom: displacements that are larger than the stated errors
    increase the errors of the lattice. These assume that displacements are independent, which they are not in a bent
    crystal or a distorted scan.

    Order is searched for among all superlattices of two to four cells, twice. A superlattice that explains half of the
    variance of brightness or of position, significantly, becomes the cell. The significance of displacements is that of
    whole lines of columns, which jitter displaces together.

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
    columns = column_positions(table)
    check_fraction("pixel_size_error", pixel_size_error, zero=True)
    if len(columns.positions) < CONSTANTS.min_positions:
        raise ValueError(
            f"table must contain at least {CONSTANTS.min_positions} columns for a lattice, but contains "
            f"{len(columns.positions)}: measure a larger field, or lower the detector's significance"
        )
    start = None if origin is None else _vector(origin, "origin")
    if vectors is None:
        grown = first_lattice(columns.positions)
        lattice = _reduced_lattice(columns, table, grown, start, order)
        _warn_of_others(segment(columns.positions, CONSTANTS.mismatch, CONSTANTS.min_columns, grown), grown)
    else:
        rows, center = _checked_vectors(vectors), _central_position(columns.positions, start)
        grown = grow(columns.positions, rows, unit_cell(columns.positions, rows, center), center)
        lattice = fit_columns_to_lattice(columns, grown.cell, _brightest_first(grown.site, table), start)
    return replace(lattice, pixel_size_error=float(pixel_size_error))


def fit_lattices(
    table: pd.DataFrame,
    *,
    mismatch: float = CONSTANTS.mismatch,
    min_columns: int = CONSTANTS.min_columns,
    order: bool = True,
    pixel_size_error: float = 0.0,
) -> Lattices:
    """Find all lattices of a table: grains, twins, a film and its substrate, crystals in an amorphous matrix.

    Parameters
    ----------
    table : DataFrame
        Columns of one image, as for :func:`fit_lattice`.
    mismatch : float, default=0.045
        Lattices are different if their vectors differ by this fraction of their length, in any direction: the largest
        singular value of F - 1, where F is the deformation of one into the other. It is 0.045 for a rotation by
        2.6 degrees.
    min_columns : int, default=25
        Fewest columns of a lattice.
    order, pixel_size_error
        As of :func:`fit_lattice`.

    Returns
    -------
    Lattices
        ``lattices``, each like that of :func:`fit_lattice` for the whole table, with ``site`` -1 for the columns of
        others; and ``labels``, the number of the lattice of each column, -1 for none. Without a significant lattice
        ``lattices`` is empty.

    Raises
    ------
    ValueError
        If there are several images, or a parameter is impossible.

    Notes
    -----
    A lattice is grown over the columns, and others over the columns that are not on it. Each is divided
    where the local basis jumps: the positions of the columns within nine cells of a boundary must be described better
    by two planes of the ideal positions (a jump) than by one parabola (a strain that varies), and the planes must
    differ by ``mismatch``. A bent crystal is therefore one lattice. Regions of the same lattice, in contact or not, are
    one; crystals that differ only in the content of the cell are not distinguished. 2,000 columns take less than a
    second, 20,000 about five.

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
    columns = column_positions(table)
    check_fraction("pixel_size_error", pixel_size_error, zero=True)
    check_fraction("mismatch", mismatch, 0.3)
    check_integer("min_columns", min_columns, CONSTANTS.min_positions)
    label = np.full(len(table), -1)
    if len(table) >= min_columns:
        label = fill_enclosed(columns.positions, segment(columns.positions, mismatch, min_columns))
    found = _distinct_lattices(table, label, mismatch, order, min_columns)
    found = [replace(lattice, unit=columns.unit, pixel_size_error=float(pixel_size_error)) for lattice in found]
    labels = np.full(len(table), -1)
    for number, lattice in enumerate(found):
        labels[lattice.site >= 0] = number
    return Lattices(tuple(found), pd.Series(labels, index=table.index, name="lattice"))


def _distinct_lattices(
    table: pd.DataFrame, label: NDArray, mismatch: float, order: bool, min_columns: int
) -> list[Lattice]:
    """Lattices of the grains, merged where their vectors are equal; the one with most columns first."""
    found: list[Lattice] = []
    for number in range(label.max(initial=-1) + 1):
        rows = np.flatnonzero(label == number)
        lattice = _lattice_of_rows(table, rows, order, min_columns)
        if lattice is None:
            continue
        # fitted vectors are more accurate than the local bases by which columns were divided
        same = [i for i, f in enumerate(found) if matching_basis(f.vectors, lattice.vectors)[1] < mismatch]
        if same:
            rows = np.flatnonzero((label == number) | (found[same[0]].site >= 0))
            found[same[0]] = _lattice_of_rows(table, rows, order, min_columns) or found[same[0]]
        else:
            found.append(lattice)
    return sorted(found, key=lambda lattice: -int((lattice.site >= 0).sum()))


def _reduced_lattice(
    columns: ColumnPositions, table: pd.DataFrame, grown: GrownLattice, origin: NDArray | None, order: bool
) -> Lattice:
    """Least-squares lattice of a grown one, with reduced vectors."""
    cell, site = grown.cell, grown.site
    if order:
        cell, site = _with_order(grown, amplitudes(table)[0] if "amplitude" in table else None)
    lattice = fit_columns_to_lattice(columns, cell, _brightest_first(site, table), origin)
    # the vectors so far were rough: the fitted ones decide which are the shortest
    change = np.round(reduced_basis(lattice.vectors) @ np.linalg.inv(lattice.vectors)).astype(np.int64)
    if (change == np.eye(2)).all():
        return lattice
    cell = np.round(lattice.indices @ np.linalg.inv(change)).astype(np.int64)
    return fit_columns_to_lattice(columns, cell, lattice.site, origin)


def _warn_of_others(label: NDArray, grown: GrownLattice) -> None:
    count, n = np.bincount(label[label >= 0], minlength=1), len(label)
    others = int((count[1:] >= CONSTANTS.min_other_fraction * n).sum())
    explained = (count[0] if others else max(count[0], (grown.site >= 0).sum())) / n
    if others:
        advice = "fit_lattices(table) finds all lattices, and the lattice of each column"
    elif explained < CONSTANTS.min_explained_fraction:
        advice = "fit_lattices(table) lists the columns that are on it and those that are not"
    else:
        return
    warnings.warn(
        f"one lattice does not explain the columns: {100 * explained:.0f} % of the {n} are on it. {advice}",
        stacklevel=3,
    )


def _lattice_of_rows(table: pd.DataFrame, rows: NDArray, order: bool, min_columns: int) -> Lattice | None:
    """The lattice of some rows of a table, None if there is none with enough columns."""
    part = table.iloc[rows]
    columns = column_positions(part)
    try:
        lattice = _reduced_lattice(columns, part, first_lattice(columns.positions), None, order)
    except ValueError:
        return None
    return _of_whole_table(lattice, rows, len(table)) if (lattice.site >= 0).sum() >= min_columns else None


def _of_whole_table(lattice: Lattice, rows: NDArray, n: int) -> Lattice:
    """The lattice of some rows of a table as one of all its ``n`` rows."""
    site, indices = np.full(n, -1), np.zeros((n, 2), dtype=np.int64)
    displacement = np.full((n, 2), np.nan)
    site[rows], indices[rows], displacement[rows] = lattice.site, lattice.indices, lattice.displacement
    return replace(lattice, site=site, indices=indices, displacement=displacement)


def _with_order(grown: GrownLattice, brightness: NDArray | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells and sites in the superlattice of ordered brightness and displacements."""
    columns = AssignedColumns(grown.cell, grown.site, grown.vectors)
    for _ in range(CONSTANTS.max_enlargements):
        order = None if brightness is None else brightness_order(columns.cell, columns.site, brightness)
        if order is None:
            order = displacement_order(columns.cell, columns.site, grown.shift, grown.shortest)
        if order is None:
            break
        columns = columns.in_superlattice(order)
    return columns.cell, columns.site


def _brightest_first(site: NDArray, table: pd.DataFrame) -> NDArray[np.int64]:
    """Sites numbered by decreasing brightness, or by decreasing number of columns without amplitudes."""
    rank = np.bincount(site[site >= 0]).astype(np.float64)
    if "amplitude" in table:
        values = amplitudes(table)[0]
        rank = np.array([np.nanmedian(np.append(values[site == s], CONSTANTS.no_brightness)) for s in range(len(rank))])
    number = np.argsort(np.argsort(-rank, kind="stable"), kind="stable")
    return np.where(site >= 0, number[site], -1)


def _central_position(positions: NDArray, origin: NDArray | None) -> NDArray[np.float64]:
    target = np.median(positions, axis=0) if origin is None else origin
    return positions[np.argmin(((positions - target) ** 2).sum(axis=1))]


def _vector(value: ArrayLike, name: str) -> NDArray[np.float64]:
    vector = np.asarray(value, dtype=np.float64)
    if vector.shape != (2,) or not np.isfinite(vector).all():
        raise ValueError(f"{name} must be two finite numbers (y, x), but is {value!r}")
    return vector


def _checked_vectors(vectors: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.shape != (2, 2) or not np.isfinite(rows).all():
        raise ValueError(f"vectors must be two rows (y, x) of finite numbers, but are {vectors!r}")
    if abs(np.linalg.det(rows)) < 0.05 * np.prod(np.hypot(*rows.T)):
        raise ValueError(f"vectors must point in two directions, but are {vectors!r}")
    return rows
