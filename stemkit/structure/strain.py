"""Strain and displacement of each column, and their maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.spatial import Delaunay, QhullError

from stemkit.images import single_image
from stemkit.images.pixel_size import pixel_sizes
from stemkit.parameters import check_integer
from stemkit.structure.bases import reference_basis
from stemkit.structure.cells import CellIndex, ring
from stemkit.structure.lattice import Lattice, check_lattice
from stemkit.structure.tables import column_positions, positions_in_image

__all__ = ["displacement_map", "strain", "strain_map"]

#: Components that are mapped.
COMPONENTS = ("exx", "eyy", "exy", "rotation")
#: Fewest neighbours at the same site from which the deformation of a column follows (chosen).
MIN_NEIGHBORS = 4
#: Least determinant of the normalised moments of the directions of the neighbours, 1 for isotropic ones (chosen).
MIN_DETERMINANT = 0.05
#: Largest strain between a reference and the lattice (chosen).
MAX_STRAIN = 0.2
#: Longest distance of columns between which values are interpolated, lengths of the longer vector (chosen: across one
#: missing column).
MAX_EDGE = 2.1


def strain(table: pd.DataFrame, lattice: Lattice, *, reference: ArrayLike | None = None) -> pd.DataFrame:
    """Compute strain and rotation at each column, from the columns at the same site of the cells around it.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    lattice : Lattice
        ``fit_lattice(table)``.
    reference : array-like of shape (2, 2), optional
        Rows ``(y, x)``: vectors of the unstrained lattice, such as those fitted to a substrate, in any basis. The basis
        that corresponds to ``lattice.vectors`` with the smallest strain, and of equal strains with the smallest
        rotation, is used. By default the reference is the mean lattice.

    Returns
    -------
    DataFrame
        With the table's index: ``y, x, exx, eyy, exy`` (1), ``rotation`` (degrees from +x towards +y, which points
        down: clockwise on the screen), their ``*_err``, and ``n_neighbors``, the number of neighbours used. NaN for
        columns with fewer than 4 of the 8 neighbours, and for columns that are not on the lattice.

    Raises
    ------
    ValueError
        If the strain between reference and lattice is above 20 %: they are different lattices.

    Notes
    -----
    The plane ``r = c + F X`` is fitted to the positions r of a column and its neighbours, where X are their positions
    in the reference; ``F = R U`` is the product of the rotation R and the strain ``U - 1``, for rotations of any size.
    This is strain from positions in real space as in [1]_, with all neighbours of a column instead of pairs of peaks.
    Errors follow from the residuals of these planes, pooled over the crystal: they contain noise, jitter and disorder,
    but not variations over many cells.

    References
    ----------
    .. [1] Galindo et al., Ultramicroscopy 107, 1186 (2007), https://doi.org/10.1016/j.ultramic.2007.01.019
    """
    columns = column_positions(table)
    check_lattice(lattice, table)
    vectors = lattice.vectors if reference is None else _reference(reference, lattice)
    rows = np.flatnonzero((lattice.site >= 0) & columns.measured)
    around = np.column_stack([rows, CellIndex(lattice).neighbors(lattice.indices[rows], lattice.site[rows])])
    around = np.where((around >= 0) & columns.measured[around], around, -1)
    steps = np.vstack([[0, 0], ring()]) @ vectors
    planes = _planes(columns.positions, around, steps)
    good = np.isfinite(planes.unit_variance[:, 0])
    variance = _pooled_variance(planes.squares[good], planes.freedom[good])
    parts = _polar(planes.deformation) | _polar_errors(planes.unit_variance, variance)
    result = pd.DataFrame({"y": columns.positions[:, 0], "x": columns.positions[:, 1]}, index=table.index)
    for name, values in parts.items():
        result[name] = np.nan
        result.iloc[rows[good], -1] = values[good]
    result["n_neighbors"] = 0
    result.iloc[rows, -1] = (around[:, 1:] >= 0).sum(axis=1)
    return result


def strain_map(
    table: pd.DataFrame,
    lattice: Lattice,
    like: xr.DataArray | NDArray,
    *,
    coarsen: int = 1,
    reference: ArrayLike | None = None,
) -> xr.Dataset:
    """Interpolate strain and rotation on the grid of an image.

    Parameters
    ----------
    table, lattice, reference
        As of :func:`strain`.
    like : DataArray or ndarray of shape (n_y, n_x)
        The image whose pixels are the grid.
    coarsen : int, default=1
        Pixels of the image per point of the map, along y and x.

    Returns
    -------
    Dataset
        ``exx, eyy, exy`` and ``rotation`` (degrees), dims ``("y", "x")``, linear between columns, NaN outside the
        crystal. Coordinates are those of the image in nm, if it has any.
    """
    at = strain(table, lattice, reference=reference)
    units = {name: "degree" if name == "rotation" else "1" for name in COMPONENTS}
    return _map(table, lattice, at[list(COMPONENTS)].to_numpy(), units, like, coarsen)


def displacement_map(
    table: pd.DataFrame, lattice: Lattice, like: xr.DataArray | NDArray, *, coarsen: int = 1
) -> xr.Dataset:
    """Interpolate the displacement of columns from their ideal positions on the grid of an image.

    Parameters
    ----------
    table, lattice, like, coarsen
        As of :func:`strain_map`.

    Returns
    -------
    Dataset
        ``displacement_y`` and ``displacement_x`` in the lattice's unit, dims ``("y", "x")``, linear between columns,
        NaN outside the crystal.
    """
    check_lattice(lattice, table)
    units = dict.fromkeys(("displacement_y", "displacement_x"), lattice.unit)
    measured = np.where(column_positions(table).measured[:, None], lattice.displacement, np.nan)
    return _map(table, lattice, measured, units, like, coarsen)


# --- deformation of one neighbourhood ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Planes:
    """Planes fitted to the neighbourhoods of m columns.

    ``deformation`` is ``(m, 2, 2)``; ``unit_variance`` ``(m, 2)`` are the variances of its slopes along y and x for
    positions of unit variance, NaN if the neighbours do not determine them; ``squares`` ``(m, 2)`` are the sums of the
    squared residuals of y and x, and ``freedom`` ``(m,)`` their degrees of freedom.
    """

    deformation: NDArray[np.float64]
    unit_variance: NDArray[np.float64]
    squares: NDArray[np.float64]
    freedom: NDArray[np.int64]


def _planes(positions: NDArray, around: NDArray, steps: NDArray) -> _Planes:
    weight = (around >= 0).astype(np.float64)
    design = np.column_stack([np.ones(len(steps)), steps])
    at = np.where(weight[..., None] > 0, positions[around] - positions[around[:, :1]], 0.0)
    normal = np.einsum("mn,ni,nj->mij", weight, design, design)
    determined = (weight.sum(axis=1) > MIN_NEIGHBORS) & _independent(normal)
    normal[~determined] = np.eye(3)
    inverse = np.linalg.inv(normal)
    solution = inverse @ np.einsum("ni,mnk->mik", design, at)
    residual = weight[..., None] * (at - np.einsum("ni,mik->mnk", design, solution))
    variance = np.diagonal(inverse, axis1=1, axis2=2)[:, 1:].copy()
    variance[~determined] = np.nan
    freedom = np.maximum(weight.sum(axis=1) - 3, 1).astype(np.int64)
    return _Planes(solution[:, 1:].transpose(0, 2, 1), variance, (residual**2).sum(axis=1), freedom)


def _independent(normal: NDArray) -> NDArray[np.bool_]:
    """Whether neighbours are in two directions from their mean."""
    count = np.maximum(normal[:, 0, 0], 1)
    mean = normal[:, 0, 1:] / count[:, None]
    moment = normal[:, 1:, 1:] / count[:, None, None] - mean[:, :, None] * mean[:, None]
    trace = np.maximum(moment[:, 0, 0] + moment[:, 1, 1], 1e-100)  # a column alone has none
    return 4 * np.linalg.det(moment) / trace**2 > MIN_DETERMINANT


def _pooled_variance(squares: NDArray, freedom: NDArray) -> NDArray[np.float64]:
    """Variance of a position along y and x, robustly from the median of sums of squares."""
    if len(squares) == 0:
        return np.full(2, np.nan)
    return np.median(squares / stats.chi2.median(freedom)[:, None], axis=0)


def _polar(deformation: NDArray) -> dict[str, NDArray]:
    (yy, yx), (xy, xx) = deformation.transpose(1, 2, 0)
    rotation = np.arctan2(yx - xy, xx + yy)
    cos, sin = np.cos(rotation), np.sin(rotation)
    return {
        "exx": cos * xx + sin * yx - 1,
        "eyy": cos * yy - sin * xy - 1,
        "exy": cos * xy + sin * yy,
        "rotation": np.degrees(rotation),
    }


def _polar_errors(unit_variance: NDArray, variance: NDArray) -> dict[str, NDArray]:
    """To first order in the strain, for small rotations."""
    along_y, along_x = unit_variance.T
    mixed = np.sqrt(variance[0] * along_x + variance[1] * along_y) / 2
    return {
        "exx_err": np.sqrt(variance[1] * along_x),
        "eyy_err": np.sqrt(variance[0] * along_y),
        "exy_err": mixed,
        "rotation_err": np.degrees(mixed),
    }


def _reference(reference: ArrayLike, lattice: Lattice) -> NDArray[np.float64]:
    """The basis of the reference that corresponds to the lattice's vectors."""
    rows = np.asarray(reference, dtype=np.float64)
    if rows.shape != (2, 2) or not np.isfinite(rows).all() or abs(np.linalg.det(rows)) < 1e-9 * (rows**2).sum():
        raise ValueError(f"reference must be two independent rows (y, x), but is {reference!r}")
    basis, largest = reference_basis(lattice.vectors, rows)
    if largest > MAX_STRAIN:
        a, b = np.hypot(*rows.T)
        raise ValueError(
            f"reference must be a lattice within {100 * MAX_STRAIN:.0f} % of the fitted one, but with vectors of "
            f"{a:.4g} and {b:.4g} {lattice.unit} the best match with {lattice.lengths[0]:.4g} and "
            f"{lattice.lengths[1]:.4g} {lattice.unit} has a strain of {100 * largest:.0f} %: give it in "
            f"{lattice.unit}, and for the same cell (fit_lattice(order=False) gives the small one)"
        )
    return basis


# --- maps ----------------------------------------------------------------------------------------------------------


def _map(
    table: pd.DataFrame,
    lattice: Lattice,
    values: NDArray,
    units: dict[str, str],
    like: xr.DataArray | NDArray,
    coarsen: int,
) -> xr.Dataset:
    image = single_image(like, name="like")
    check_integer("coarsen", coarsen, 1, min(image.shape))
    y, x = (_coarse(np.arange(float(n)), coarsen) for n in image.shape)
    points, size = positions_in_image(table, image)
    grid = _interpolated(points, values, y, x, MAX_EDGE * float(lattice.lengths.max() / np.mean(size)))
    coords = {}
    if pixel_sizes(image) is not None:
        coords = {d: (d, _coarse(image.coords[d].values, coarsen), {"units": "nm"}) for d in ("y", "x")}
    return xr.Dataset(
        {name: (("y", "x"), grid[..., k], {"units": unit}) for k, (name, unit) in enumerate(units.items())}, coords
    )


def _coarse(line: NDArray, step: int) -> NDArray[np.float64]:
    """Means of whole groups of coordinates."""
    n = len(line) // step * step
    return line[:n].reshape(-1, step).mean(axis=1)


def _interpolated(points: NDArray, values: NDArray, y: NDArray, x: NDArray, longest: float) -> NDArray[np.float64]:
    """Values ``(n_y, n_x, k)``, linear in triangles of points without an edge above ``longest``, NaN elsewhere."""
    result = np.full((len(y), len(x), values.shape[1]), np.nan)
    known = np.isfinite(values).all(axis=1)
    try:
        mesh = Delaunay(points[known])
    except (QhullError, ValueError):
        return result
    corners = mesh.points[mesh.simplices]
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    grid = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
    triangle = mesh.find_simplex(grid)
    inside = (triangle >= 0) & (edges[triangle] <= longest)
    triangle, grid = triangle[inside], grid[inside]
    two = np.einsum("nij,nj->ni", mesh.transform[triangle, :2], grid - mesh.transform[triangle, 2])
    barycentric = np.column_stack([two, 1 - two.sum(axis=1)])
    at_corners = values[known][mesh.simplices[triangle]]
    result.reshape(-1, values.shape[1])[inside] = np.einsum("ni,nik->nk", barycentric, at_corners)
    return result
