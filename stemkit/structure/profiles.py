"""Planes of columns along a direction of the lattice, and profiles across them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stemkit.structure.cells import CellIndex
from stemkit.structure.covariance import PositionCovariance
from stemkit.structure.domains import mean_displacements
from stemkit.structure.lattice import Lattice, check_lattice
from stemkit.structure.tables import amplitudes, column_positions

__all__ = ["interface_profile", "lattice_planes"]

#: Largest difference of the positions of two sites of one plane, spacings of equivalent planes (chosen: larger than
#: polar displacements).
SAME_PLANE = 0.15
#: Largest element of the vector to the next plane (chosen).
MAX_ELEMENT = 4
#: Columns of the mean displacements that are parts of a profile.
VECTORS = ["displacement_y", "displacement_x", "displacement_y_err", "displacement_x_err"]


def lattice_planes(table: pd.DataFrame, lattice: Lattice, along: Sequence[int] = (1, 0)) -> pd.Series:
    """Number the planes of columns that are parallel to a direction of the lattice.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    lattice : Lattice
        ``fit_lattice(table)``.
    along : (int, int), default=(1, 0)
        Direction within the planes, in vectors a and b of the lattice, without a common divisor.

    Returns
    -------
    Series
        With the table's index and the name ``plane``: 0, 1, ... in the direction from a to b (``Int64``), missing for
        columns that are not on the lattice. Sites that are within 0.15 of the spacing of equivalent planes share one.

    Raises
    ------
    ValueError
        If ``along`` is not a direction, or the lattice was fitted to another table.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import fit_lattice, lattice_planes
    >>> y, x = np.mgrid[0:10, 0:12].reshape(2, -1) * 20.0
    >>> table = pd.DataFrame({"y": y, "x": x})
    >>> lattice_planes(table, fit_lattice(table)).nunique()
    10
    """
    check_lattice(lattice, table)
    u, v = _direction(along)
    offset, kind = _site_offsets(lattice, u, v)
    on_lattice = lattice.site >= 0
    site = np.maximum(lattice.site, 0)
    # integers, which no rounding can split: number of the equivalent plane, then the kind of plane within the cell
    order = (lattice.indices @ [-v, u] + offset[site]) * (int(kind.max()) + 1) + kind[site]
    planes = np.unique(order[on_lattice], return_inverse=True)[1]
    result = pd.Series(pd.array([pd.NA] * len(table), dtype="Int64"), index=table.index, name="plane")
    result.iloc[np.flatnonzero(on_lattice)] = planes
    return result


def interface_profile(
    table: pd.DataFrame,
    lattice: Lattice,
    along: Sequence[int] = (1, 0),
    *,
    displacements: pd.DataFrame | None = None,
    by: Sequence[str] = ("amplitude",),
) -> pd.DataFrame:
    """Profile across planes of columns: spacing, tetragonality, brightness, displacements, with errors.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    lattice : Lattice
        ``fit_lattice(table)``.
    along : (int, int), default=(1, 0)
        Direction within the planes, in vectors a and b of the lattice: that of the interface.
    displacements : DataFrame, optional
        ``cage_displacements(table)``, averaged over each plane.
    by : sequence of str, default=("amplitude",)
        Columns of the table that are averaged over each plane; those that the table lacks are left out.

    Returns
    -------
    DataFrame
        One row per plane of :func:`lattice_planes`, which is the index:

        - ``n``: number of columns;
        - ``position``: mean coordinate across the planes, from the first one;
        - ``spacing``, ``spacing_err``: distance to the next equivalent plane, from pairs of columns;
        - ``in_plane``, ``in_plane_err``: distance of equivalent columns within the plane;
        - ``ratio``, ``ratio_err``: ``spacing / in_plane``, the tetragonality of a cubic or tetragonal crystal;
        - the mean of each column in ``by``, with the standard error from its scatter in the plane;
        - ``displacement_y`` to ``displacement_x_err``, with ``displacements``.

        Lengths are in the unit of the table, displacements in pm; NaN without pairs.

    Raises
    ------
    ValueError
        If ``along`` is not a direction, or the lattice was fitted to another table.

    Notes
    -----
    The spacing is the mean component, perpendicular to ``along`` in the fitted lattice, of the vectors from columns to
    the equivalent ones in the next plane. A crystal that is bent or rotated by an angle t against the fitted lattice
    has a spacing too small by ``1 - cos t``, and the errors are those of the measurement: of fits and jitter, with the
    weight that each column has in the mean, as in :func:`mean_displacements`. The error of the ratio neglects the
    correlation of spacing and distance in the plane.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import fit_lattice, interface_profile
    >>> row, x = np.mgrid[0:12, 0:12].reshape(2, -1)
    >>> y = np.where(row < 6, 0.40 * row, 0.41 * (row - 6) + 2.40)  # two layers
    >>> table = pd.DataFrame({"y": y, "x": 0.40 * x})
    >>> interface_profile(table, fit_lattice(table))["ratio"].round(3).tolist()[4:8]
    [1.0, 1.0, 1.025, 1.025]
    """
    planes = lattice_planes(table, lattice, along)
    columns = column_positions(table)
    plane = planes.fillna(-1).to_numpy(dtype=np.int64)
    plane[~columns.measured] = -1
    u, v = _direction(along)
    tangent, normal = _axes(lattice, u, v)
    n = int(planes.max()) + 1
    result = pd.DataFrame({"n": np.bincount(plane[plane >= 0], minlength=n)}, index=pd.RangeIndex(n, name="plane"))
    height = columns.positions @ normal
    with np.errstate(invalid="ignore", divide="ignore"):
        result["position"] = np.bincount(plane[plane >= 0], height[plane >= 0], n) / result["n"]
    result["position"] -= result["position"].min()
    covariance = PositionCovariance.from_table(columns, table)
    steps = {"spacing": (_next_plane(lattice, u, v), normal), "in_plane": (np.array([u, v]), tangent)}
    for name, (step, axis) in steps.items():
        pairs = _pairs(lattice, step, plane)
        result[name], result[f"{name}_err"] = _mean_step(columns.positions @ axis, covariance, pairs, plane, n, axis)
    result["ratio"] = result["spacing"] / result["in_plane"]
    relative = [result[f"{name}_err"] / result[name] for name in steps]
    result["ratio_err"] = result["ratio"] * np.hypot(*relative)
    units = {"n": "1", "ratio": "1", "ratio_err": "1"} | dict.fromkeys(["position", *steps], columns.unit)
    units |= {f"{name}_err": columns.unit for name in steps}
    groups = planes.where(plane >= 0)
    for name in [name for name in by if name in table]:
        values = pd.Series(amplitudes(table, name)[0], table.index).groupby(groups)
        result[name], result[f"{name}_err"] = values.mean(), values.std() / np.sqrt(values.count())
    if displacements is not None:
        means = mean_displacements(table, displacements, groups)
        result = result.join(means[VECTORS])
        units |= {name: means.attrs["units"][name] for name in VECTORS}
    result.attrs.update(unit=columns.unit, units=units)
    return result


def _mean_step(
    height: NDArray, covariance: PositionCovariance, pairs: NDArray, plane: NDArray, n: int, axis: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean difference of a coordinate of pairs ``(2, m)``, and its error, by the plane of the first column ``(n,)``."""
    start, end = pairs
    count = np.bincount(plane[start], minlength=n)
    value, error = np.full(n, np.nan), np.full(n, np.nan)
    share = 1 / count[plane[start]]
    rows = np.concatenate([plane[start], plane[start]])
    weights = csr_array((np.concatenate([-share, share]), (rows, np.concatenate([start, end]))), (n, len(height)))
    found = count > 0
    value[found] = (weights @ height)[found]
    for k in np.flatnonzero(found):
        part = slice(weights.indptr[k], weights.indptr[k + 1])
        error[k] = np.sqrt(covariance.of_many(weights.indices[part], weights.data[part]) @ axis**2)
    return value, error


def _pairs(lattice: Lattice, step: NDArray, plane: NDArray) -> NDArray[np.int64]:
    """Rows ``(2, m)`` of columns and of the ones a lattice vector farther, all of them in a plane."""
    start = np.flatnonzero(plane >= 0)
    end = CellIndex(lattice).rows(lattice.indices[start] + step, lattice.site[start])
    good = (end >= 0) & (plane[end] >= 0)
    return np.stack([start[good], end[good]])


def _axes(lattice: Lattice, u: int, v: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors ``(y, x)`` along the planes, and across them towards the next one."""
    tangent = np.array([u, v]) @ lattice.vectors
    tangent = tangent / np.hypot(*tangent)
    normal = np.array([-tangent[1], tangent[0]])
    forward = _next_plane(lattice, u, v) @ lattice.vectors
    return tangent, normal if normal @ forward > 0 else -normal


def _next_plane(lattice: Lattice, u: int, v: int) -> NDArray[np.int64]:
    """Shortest lattice vector to the next equivalent plane, in a and b."""
    steps = np.mgrid[-MAX_ELEMENT : MAX_ELEMENT + 1, -MAX_ELEMENT : MAX_ELEMENT + 1].reshape(2, -1).T
    steps = steps[steps @ [-v, u] == 1]
    return steps[np.argmin(np.linalg.norm(steps @ lattice.vectors, axis=1))]


def _site_offsets(lattice: Lattice, u: int, v: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Equivalent plane of each site in cell (0, 0), and the kind of plane, in order from one equivalent plane on."""
    position = lattice.sites @ [-v, u]
    shifted = position + SAME_PLANE
    offset = np.floor(shifted).astype(np.int64)
    order = np.argsort(shifted - offset)
    kind = np.empty(len(order), dtype=np.int64)
    kind[order] = np.append(0, np.cumsum(np.diff((shifted - offset)[order]) > SAME_PLANE))
    return offset, kind


def _direction(along: Sequence[int]) -> tuple[int, int]:
    values = np.asarray(along)
    good = values.shape == (2,) and np.array_equal(values, np.round(values)) and np.abs(values).max() <= MAX_ELEMENT
    if not good or np.gcd(*values.astype(np.int64)) != 1:
        raise ValueError(
            f"along must be two integers from -{MAX_ELEMENT} to {MAX_ELEMENT} without a common divisor, "
            f"such as (1, 0) for the direction of a, but is {along!r}"
        )
    return int(values[0]), int(values[1])
