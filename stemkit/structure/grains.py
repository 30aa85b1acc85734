"""Grains, twins and phases in a table of columns, and the boundaries between them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit.parameters import check_fraction
from stemkit.structure.boundary_tables import boundary_table, segment_table
from stemkit.structure.contacts import connected_regions, find_contacts, inner_columns
from stemkit.structure.fitting import fit_lattices
from stemkit.structure.lattice import Lattice, Lattices, check_lattice
from stemkit.structure.least_squares import fit_columns_to_lattice
from stemkit.structure.strain import strain
from stemkit.structure.tables import ColumnPositions, check_index, column_positions
from stemkit.tables import counted

__all__ = ["Grains", "find_grains"]

#: Default of ``same_phase`` (chosen: scans distort lengths by up to two per cent, differently in each grain).
SAME_PHASE = 0.03
#: Default of ``coherent`` (chosen: one extra plane in 50, a rotation by 1.1 degrees).
COHERENT = 0.02
#: Fewest columns of a grain (chosen: fewer determine no lattice).
MIN_COLUMNS = 10
#: Local rotation and strain in the table of columns.
LOCAL = ("rotation", "exx", "eyy", "exy")


class Grains(NamedTuple):
    """The grains of a table of columns; grains are numbered by decreasing number of columns.

    Attributes
    ----------
    labels : Series of int
        Grain of each column, with the table's index; -1 for none.
    columns : DataFrame
        One row per column of the table: ``y, x``, ``grain``, and the local lattice ``a_y, a_x, b_y, b_x`` (the table's
        unit): the vectors of the lattice of the grain as they are deformed around this column; ``orientation`` and
        ``orientation_err`` (direction of the local a, degrees from +x towards +y); ``rotation``, ``exx``, ``eyy``,
        ``exy`` and ``*_err`` relative to the grain (:func:`~stemkit.structure.strain`). NaN at columns with few
        neighbours.
    grains : DataFrame
        One row per grain: ``lattice`` (its number in ``fit_lattices``), ``n`` (columns), ``y, x`` (their mean
        position), ``a, b`` (lengths) and ``angle`` of its vectors and ``orientation`` of a, each with ``*_err``.
    boundaries : DataFrame
        One row per pair of grains in contact, see :func:`find_grains`.
    segments : DataFrame
        The boundaries as lines: ``boundary`` (row of ``boundaries``), ``i, j`` (index of the columns on both sides),
        ``y0, x0, y1, x1`` (ends of the line, the table's unit).
    lattices : tuple of Lattice
        Lattice of each grain, for the whole table, with ``site`` -1 for the columns of others.
    """

    labels: pd.Series
    columns: pd.DataFrame
    grains: pd.DataFrame
    boundaries: pd.DataFrame
    segments: pd.DataFrame
    lattices: tuple[Lattice, ...]

    def __repr__(self) -> str:
        none = int((self.labels < 0).sum())
        grains = f"{counted(len(self.grains), 'grain')} of {len(self.labels) - none} columns, {none} columns in none"
        lines = [
            f"{b.first}|{b.second} {b.kind}, misorientation {b.misorientation:.2f}±{b.misorientation_err:.1g}°"
            for b in self.boundaries.itertuples()
        ]
        return "\n".join([grains, *lines])


def find_grains(
    table: pd.DataFrame,
    lattices: Lattices | None = None,
    *,
    same_phase: float = SAME_PHASE,
    coherent: float = COHERENT,
) -> Grains:
    """Divide a table of columns into grains, and describe the boundaries between them.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    lattices : Lattices, optional
        ``fit_lattices(table)``, which is the default.
    same_phase : float, default=0.03
        Grains are of the same phase if their lattices differ by a rotation and at most this strain.
    coherent : float, default=0.02
        A boundary is coherent if a lattice plane along it is the same in both grains: the vectors differ by at most
        this fraction of their length. A rotation by 1.15 degrees is a difference of 0.02.

    Returns
    -------
    Grains
        Tables of the columns, of the grains and of the ``boundaries`` between them. The latter has one row per pair of
        grains in contact:

        - ``first, second``: the grains; ``n``: pairs of columns in contact; ``length`` (the table's unit) along the
          boundary, ``direction`` of it (degrees from +x towards +y, 0 to 180) and ``straight``, whether it is a line;
        - ``misorientation`` and ``misorientation_err``: rotation from the first grain to the second (degrees from +x
          towards +y), the smallest by symmetry. NaN for grains that are mirror images only;
        - ``strain`` and ``strain_err``: largest change of a length between the lattices after the rotation, and
          ``same_phase``;
        - ``plane_first, plane_second``: indices in the vectors a, b of each grain of the vector along the lattice plane
          that coincides best (missing if the boundary is not straight or no plane of indices up to 2 is within 12
          degrees of it), ``plane_mismatch`` (relative difference of the two lengths) and ``plane_angle`` (between the
          two, degrees), each with ``*_err``, and ``coherent``;
        - ``kind``: "twin" (one phase, coherent), "low-angle boundary" (one phase, below 15 degrees), "high-angle
          boundary", "coherent interface" (two phases, coherent) or "interface".

    Raises
    ------
    ValueError
        If the lattices are those of another table, the index of the table is not unique, or a parameter is impossible.

    See Also
    --------
    stemkit.plotting.show_grains : Grains and boundaries on the image.
    find_dislocations : The dislocations of which a low-angle boundary consists.

    Notes
    -----
    Grains are connected regions of one lattice. The lattice of each is fitted to its columns that have no column of
    another grain, or of none, around them. Boundaries are the borders of the Voronoi cells of columns of different
    grains, without the columns of no grain. The misorientation is the rotation of the deformation ``F = R U`` between
    the lattices [1]_; its error contains the errors and the scatter of the columns, but no distortion of the scan,
    which shears grains of different orientations differently.

    Lattices are two-dimensional: a rotation about an axis in the image plane changes lengths, and boundaries that are
    inclined to the beam appear displaced. A coherent boundary in one phase is a twin in the sense that a plane with
    indices up to 2 is common to both crystals, as in a coincidence boundary of low index.

    References
    ----------
    .. [1] Sutton and Balluffi, Interfaces in Crystalline Materials, Oxford University Press (1995)

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import find_grains
    >>> y, x = np.mgrid[-9:10, -9:10].reshape(2, -1) * 0.4
    >>> x = x + np.where(y < 0, 0.4, -0.4) * y  # sheared to the left above, and to the right below
    >>> grains = find_grains(pd.DataFrame({"y": y, "x": x}))
    >>> grains.boundaries["kind"].tolist()
    ['twin']
    """
    columns = column_positions(table)
    check_index(table)
    check_fraction("same_phase", same_phase, 0.2)
    check_fraction("coherent", coherent, 0.2)
    lattices = fit_lattices(table) if lattices is None else lattices
    if not isinstance(lattices, Lattices):
        raise TypeError(f"lattices must be the result of fit_lattices(table), but is {type(lattices).__name__}")
    for lattice in lattices.lattices:
        check_lattice(lattice, table)
    label = lattices.labels.to_numpy()
    grain = connected_regions(columns.positions, label, MIN_COLUMNS)
    inner = inner_columns(columns.positions, grain)
    numbers = range(int(grain.max(initial=-1)) + 1)
    of_grains = tuple(_of_grain(columns, lattices, grain, inner, number) for number in numbers)
    contacts = find_contacts(columns.positions, grain)
    boundaries, number = boundary_table(columns, grain, contacts, of_grains, same_phase, coherent)
    return Grains(
        pd.Series(grain, index=table.index, name="grain"),
        _columns_table(table, columns, grain, of_grains),
        _grains_table(columns, grain, of_grains, label),
        boundaries,
        segment_table(table, columns, contacts, number),
        of_grains,
    )


def _of_grain(columns: ColumnPositions, lattices: Lattices, grain: NDArray, inner: NDArray, number: int) -> Lattice:
    """The lattice of the columns of one grain, fitted to those inside: the others may be displaced, or of another."""
    rows = grain == number
    lattice = lattices.lattices[int(lattices.labels.to_numpy()[rows][0])]
    for fitted_rows in (rows & inner, rows):
        if (found := _fitted(columns, lattice, rows, fitted_rows)) is not None:
            return found
    return replace(lattice, site=np.where(rows, lattice.site, -1))  # all columns in one line


def _fitted(columns: ColumnPositions, lattice: Lattice, rows: NDArray, fitted_rows: NDArray) -> Lattice | None:
    """The lattice fitted to some of its columns, for others, too; None if they do not determine it."""
    kept, site_of_rows = np.unique(lattice.site[rows], return_inverse=True)
    site = np.full(len(rows), -1)
    site[rows] = site_of_rows  # a small grain may lack a site
    core = np.where(fitted_rows, site, -1)
    present, first = np.unique(core[core >= 0], return_index=True)
    if len(present) < len(kept) or fitted_rows.sum() < MIN_COLUMNS:
        return None
    try:
        fitted = fit_columns_to_lattice(columns, lattice.indices, core)
    except ValueError:
        return None
    first = np.flatnonzero(core >= 0)[first]
    shift = fitted.indices[first] - lattice.indices[first]  # of the cells of each site
    indices = np.where(rows[:, None], lattice.indices + shift[site], 0)
    displacement = np.where(rows[:, None], columns.positions - fitted.ideal(indices, np.maximum(site, 0)), np.nan)
    return replace(
        fitted, site=site, indices=indices, displacement=displacement, pixel_size_error=lattice.pixel_size_error
    )


def _columns_table(
    table: pd.DataFrame, columns: ColumnPositions, grain: NDArray, lattices: tuple[Lattice, ...]
) -> pd.DataFrame:
    """Table of the columns, see :class:`Grains`."""
    names = ["a_y", "a_x", "b_y", "b_x", "orientation", "orientation_err", *LOCAL, *(f"{name}_err" for name in LOCAL)]
    values = np.full((len(table), len(names)), np.nan)
    for number, lattice in enumerate(lattices):
        rows = np.flatnonzero(grain == number)
        at = strain(table, lattice).iloc[rows]
        local = lattice.vectors @ _deformation(*(at[name].to_numpy() for name in LOCAL))
        values[rows, :4] = local.reshape(-1, 4)
        values[rows, 4] = np.degrees(np.arctan2(local[:, 0, 0], local[:, 0, 1]))
        values[rows, 5] = at["rotation_err"]
        values[rows, 6:] = at[names[6:]]
    result = pd.DataFrame({"y": columns.positions[:, 0], "x": columns.positions[:, 1], "grain": grain}, table.index)
    result[names] = values
    units = dict.fromkeys(("y", "x", "a_y", "a_x", "b_y", "b_x"), columns.unit)
    units |= dict.fromkeys(("orientation", "orientation_err", "rotation", "rotation_err"), "degree")
    units |= {name: "1" for name in ("grain", *names) if name not in units}
    result.attrs.update(unit=columns.unit, units=units)
    return result


def _deformation(rotation: NDArray, exx: NDArray, eyy: NDArray, exy: NDArray) -> NDArray[np.float64]:
    """Matrices ``(n, 2, 2)`` by which rows (y, x) are stretched and then rotated."""
    turn = np.radians(rotation)
    rotated = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    stretched = np.array([[1 + eyy, exy], [exy, 1 + exx]])
    return np.einsum("ijn,jkn->nik", stretched, rotated)


def _grains_table(
    columns: ColumnPositions, grain: NDArray, lattices: tuple[Lattice, ...], label: NDArray
) -> pd.DataFrame:
    """Table of the grains, see :class:`Grains`."""
    rows = []
    for number, lattice in enumerate(lattices):
        y, x = columns.positions[grain == number].mean(axis=0)
        (a, b), (a_err, b_err) = lattice.lengths, lattice.lengths_err
        vector, error = lattice.vectors[0], lattice.vectors_err[0]
        turn_err = np.degrees(np.hypot(vector[1] * error[0], vector[0] * error[1]) / a**2)
        rows.append(
            {
                "lattice": int(label[grain == number][0]),
                "n": int((grain == number).sum()),
                "y": y,
                "x": x,
                "a": a,
                "b": b,
                "angle": lattice.angle,
                "orientation": np.degrees(np.arctan2(*vector)),
                "a_err": a_err,
                "b_err": b_err,
                "angle_err": lattice.angle_err,
                "orientation_err": turn_err,
            }
        )
    names = ["a", "b", "angle", "orientation"]
    result = pd.DataFrame(rows, columns=["lattice", "n", "y", "x", *names, *(f"{name}_err" for name in names)])
    result.index.name = "grain"
    units = {"lattice": "1", "n": "1"} | dict.fromkeys(("y", "x", "a", "b", "a_err", "b_err"), columns.unit)
    units |= dict.fromkeys(("angle", "angle_err", "orientation", "orientation_err"), "degree")
    result.attrs.update(unit=columns.unit, units=units)
    return result
