"""Distances of columns, and the pixel size that a known one gives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from stemkit.structure.lattice import Lattice, fit_lattice
from stemkit.structure.tables import read_columns

__all__ = ["PixelSize", "neighbour_distances", "pixel_size"]

#: Vectors whose lengths differ by less than this fraction are taken for equivalent.
EQUIVALENT = 0.05


class PixelSize(NamedTuple):
    """A pixel's edge and its standard deviation, nm."""

    value: float
    error: float


def neighbour_distances(
    table: pd.DataFrame,
    k: int = 1,
    *,
    labels: pd.Series | None = None,
    between: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Distances of each column to its nearest ones, with errors.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    k : int, default=1
        Nearest columns taken for each.
    labels : Series, optional
        ``sublattices(table)``, needed with ``between``.
    between : (int, int), optional
        From columns of the first label to their nearest of the second.

    Returns
    -------
    DataFrame
        One row per pair, each pair once: ``i, j`` (index in the table), ``distance`` (the table's unit),
        ``distance_err`` (from the errors of the two positions; NaN without any), ``distance_jitter`` (what jitter of
        the beam adds in quadrature if the two columns' is independent; where the table has jitter) and ``angle``
        (degrees from +x towards +y, which points down: clockwise on the screen, from i to j).

    Raises
    ------
    ValueError
        If ``k`` is not positive, or ``between`` names labels that no columns have.
    """
    columns = read_columns(table)
    if not k >= 1:
        raise ValueError(f"k must be at least 1, but is {k!r}")
    start, end = _ends(len(table), labels, between)
    i, j = _pairs(columns.positions, start, end, int(k))
    apart = columns.positions[j] - columns.positions[i]
    distance = np.hypot(apart[:, 0], apart[:, 1])
    pairs = pd.DataFrame({"i": table.index[i], "j": table.index[j], "distance": distance})
    pairs["distance_err"] = np.nan if columns.errors is None else _along(apart, distance, columns.errors, i, j)
    if {"y_jitter", "x_jitter"} & set(table):
        pairs["distance_jitter"] = _along(apart, distance, columns.jitter, i, j)
    pairs["angle"] = np.degrees(np.arctan2(apart[:, 0], apart[:, 1]))
    return pairs


def pixel_size(source: Lattice | pd.DataFrame, spacing: float | ArrayLike) -> PixelSize:
    """Size of a pixel from a lattice whose lengths are known.

    Parameters
    ----------
    source : Lattice or DataFrame
        A lattice fitted in px, or the table of columns, which is fitted in px whatever its unit.
    spacing : float or (float, float)
        Lengths of the vectors a and b, nm. One number stands for the shorter one, and for both where they agree
        within 5 %, such as the lattice parameter of a cubic crystal along [001].

    Returns
    -------
    PixelSize
        ``value`` and ``error``, nm. Where two vectors give different sizes (the scan is not square), the error grows
        to half their difference.

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
    weight = 1 / np.maximum(errors, 1e-12 * sizes) ** 2
    error = max(float(weight.sum() ** -0.5), float(np.ptp(sizes)) / 2)
    return PixelSize(float((weight * sizes).sum() / weight.sum()), error)


def _in_pixels(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose positions are its pixels."""
    columns = read_columns(table, pixels=True)
    pixels = pd.DataFrame(columns.positions, columns=["y", "x"], index=table.index)
    if columns.errors is not None:
        pixels[["y_err", "x_err"]] = columns.errors
    return pixels.assign(**{c: table[c] for c in ("amplitude", "quality") if c in table})


def _ends(n: int, labels: pd.Series | None, between: tuple[int, int] | None) -> tuple[NDArray, NDArray]:
    """Rows from which, and rows to which distances are taken."""
    if between is None:
        return np.arange(n), np.arange(n)
    if labels is None or len(labels) != n:
        raise ValueError(
            f"labels must name the sublattice of each of the {n} columns where between is given: pass "
            "labels=sublattices(table)"
        )
    values = np.asarray(labels)
    start, end = (np.flatnonzero(values == b) for b in between)
    if len(start) == 0 or len(end) == 0:
        raise ValueError(f"between must name two sublattices of {sorted(set(values.tolist()))}, but is {between!r}")
    return start, end


def _pairs(positions: NDArray, start: NDArray, end: NDArray, k: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of rows, each once."""
    if len(end) == 0:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    asked = min(k + 1, len(end))
    found = end[cKDTree(positions[end]).query(positions[start], k=[*range(1, asked + 1)])[1]]
    i = np.repeat(start, asked)
    j = found.ravel()
    # a column may be its own nearest: so one more was asked for than is wanted
    other = (i != j).reshape(-1, asked)
    other &= other.cumsum(axis=1) <= k
    pairs = np.column_stack([i, j])[other.ravel()]
    _, first = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    i, j = pairs[np.sort(first)].T
    return i, j


def _along(apart: NDArray, distance: NDArray, errors: NDArray, i: NDArray, j: NDArray) -> NDArray[np.float64]:
    """Error of a distance from those of its ends: their parts along it."""
    both = errors[i] ** 2 + errors[j] ** 2
    return np.sqrt((apart**2 * both).sum(axis=1)) / np.maximum(distance, 1e-300)
