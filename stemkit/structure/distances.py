"""Distances of neighbouring columns, and the pixel size from a known distance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from stemkit.parameters import check_integer
from stemkit.structure.fitting import fit_lattice
from stemkit.structure.lattice import Lattice
from stemkit.structure.tables import column_positions

__all__ = ["PixelSize", "neighbor_distances", "pixel_size"]

#: Largest relative difference of the lengths of equivalent vectors (chosen).
EQUIVALENT = 0.05
#: Least relative error of a length (chosen: keeps weights finite).
MIN_ERROR = 1e-12


class PixelSize(NamedTuple):
    """Edge of a pixel and its standard deviation, nm."""

    value: float
    error: float


def neighbor_distances(
    table: pd.DataFrame,
    n_neighbors: int = 1,
    *,
    labels: pd.Series | None = None,
    between: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Compute the distances of each column to its nearest neighbours, with errors.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    n_neighbors : int, default=1
        Number of nearest neighbours of each column.
    labels : Series, optional
        ``sublattices(table)``, required for ``between``.
    between : (int, int), optional
        Distances from columns of the first label to their nearest neighbours of the second.

    Returns
    -------
    DataFrame
        One row per pair, each pair once: ``i, j`` (index in the table), ``distance`` (the table's unit),
        ``distance_err`` (from the errors of the two positions; NaN without any), ``distance_jitter`` (contribution of
        the jitter of the beam, to be added in quadrature, if that of the two columns is independent; only if the table
        contains jitter) and ``angle`` (degrees from +x towards +y, which points down: clockwise on the screen, from i
        to j).

    Raises
    ------
    ValueError
        If ``n_neighbors`` is not positive, or ``between`` contains labels that no columns have.
    """
    columns = column_positions(table)
    check_integer("n_neighbors", n_neighbors)
    start, end = _ends(len(table), labels, between)
    i, j = _pairs(columns.positions, start, end, int(n_neighbors))
    difference = columns.positions[j] - columns.positions[i]
    distance = np.hypot(difference[:, 0], difference[:, 1])
    pairs = pd.DataFrame({"i": table.index[i], "j": table.index[j], "distance": distance})
    pairs["distance_err"] = np.nan if columns.errors is None else _projected_error(difference, columns.errors, i, j)
    if {"y_jitter", "x_jitter"} & set(table):
        pairs["distance_jitter"] = _projected_error(difference, columns.jitter, i, j)
    pairs["angle"] = np.degrees(np.arctan2(difference[:, 0], difference[:, 1]))
    return pairs


def pixel_size(source: Lattice | pd.DataFrame, spacing: float | ArrayLike) -> PixelSize:
    """Determine the size of a pixel from a lattice whose lengths are known.

    Parameters
    ----------
    source : Lattice or DataFrame
        A lattice fitted in px, or a table of columns in any unit, to which a lattice is fitted in px.
    spacing : float or (float, float)
        Lengths of the vectors a and b, nm. One number is the length of the shorter one, and of both if they agree
        within 5 %, such as the lattice parameter of a cubic crystal along [001].

    Returns
    -------
    PixelSize
        ``value`` and ``error``, nm. If the two vectors result in different sizes (the pixels are not square), the error
        is at least half of their difference.

    Raises
    ------
    ValueError
        If the spacing is not positive, or the lattice is in nm.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import pixel_size
    >>> y, x = np.mgrid[0:10, 0:12].reshape(2, -1) * 20.0
    >>> round(pixel_size(pd.DataFrame({"y": y, "x": x}), spacing=0.3905).value, 6)
    0.019525
    """
    lattice = source if isinstance(source, Lattice) else fit_lattice(_in_pixels(source))
    if lattice.unit != "px":
        raise ValueError(f"source must be a lattice in px, but is in {lattice.unit}: give the table of columns instead")
    known = np.atleast_1d(np.asarray(spacing, dtype=np.float64))
    if known.shape not in ((1,), (2,)) or not (np.isfinite(known) & (known > 0)).all():
        raise ValueError(f"spacing must be one or two positive numbers of nm, but is {spacing!r}")
    used = np.ones(2, dtype=bool) if len(known) == 2 else lattice.lengths < (1 + EQUIVALENT) * lattice.lengths.min()
    sizes = known / lattice.lengths if len(known) == 2 else known[0] / lattice.lengths[used]
    errors = sizes * lattice.lengths_err[used] / lattice.lengths[used]
    weight = 1 / np.maximum(errors, MIN_ERROR * sizes) ** 2
    error = max(float(weight.sum() ** -0.5), float(np.ptp(sizes)) / 2)
    return PixelSize(float((weight * sizes).sum() / weight.sum()), error)


def _in_pixels(table: pd.DataFrame) -> pd.DataFrame:
    """A table with positions in px."""
    columns = column_positions(table, pixels=True)
    pixels = pd.DataFrame(columns.positions, columns=["y", "x"], index=table.index)
    if columns.errors is not None:
        pixels[["y_err", "x_err"]] = columns.errors
    return pixels.assign(**{c: table[c] for c in ("amplitude", "quality") if c in table})


def _ends(n: int, labels: pd.Series | None, between: tuple[int, int] | None) -> tuple[NDArray, NDArray]:
    """Rows of the first and of the second column of the pairs."""
    if between is None:
        return np.arange(n), np.arange(n)
    if labels is None or len(labels) != n:
        raise ValueError(
            f"labels must be the sublattice of each of the {n} columns if between is given: pass "
            "labels=sublattices(table)"
        )
    values = np.asarray(labels)
    start, end = (np.flatnonzero(values == b) for b in between)
    if len(start) == 0 or len(end) == 0:
        raise ValueError(f"between must be two sublattices of {sorted(set(values.tolist()))}, but is {between!r}")
    return start, end


def _pairs(positions: NDArray, start: NDArray, end: NDArray, n_neighbors: int) -> NDArray[np.intp]:
    """Pairs of rows ``(2, n_pairs)``, each once."""
    if len(end) == 0:
        return np.empty((2, 0), dtype=np.intp)
    k = min(n_neighbors + 1, len(end))  # one more, as a column may be its own nearest neighbour
    found = end[cKDTree(positions[end]).query(positions[start], k=[*range(1, k + 1)])[1]]
    i = np.repeat(start, k)
    j = found.ravel()
    other = (i != j).reshape(-1, k)
    other &= other.cumsum(axis=1) <= n_neighbors
    pairs = np.column_stack([i, j])[other.ravel()]
    _, first = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    return pairs[np.sort(first)].T


def _projected_error(difference: NDArray, errors: NDArray, i: NDArray, j: NDArray) -> NDArray[np.float64]:
    """Error of a distance: those of its two ends, projected on it."""
    variance = errors[i] ** 2 + errors[j] ** 2
    return np.sqrt((difference**2 * variance).sum(axis=1)) / np.maximum(np.hypot(*difference.T), 1e-300)
