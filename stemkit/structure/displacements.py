"""The displacement of columns from the centre of their cage of neighbours."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from stemkit.parameters import check_integer, check_option
from stemkit.structure.cages import Cages, cage_columns, find_cages
from stemkit.structure.covariance import PositionCovariance
from stemkit.structure.fitting import fit_lattice
from stemkit.structure.lattice import Lattice, check_lattice
from stemkit.structure.sublattices import sublattices
from stemkit.structure.tables import ColumnPositions, check_index, column_positions

__all__ = ["add_vectors", "cage_displacements", "chance"]

#: pm in a nm.
PM = 1000.0
#: References of displacements.
REFERENCES = ("cage", "lattice")
REFERENCE_ERRORS = ["reference_y_err", "reference_x_err"]
OFF_LATTICE = "a column of the cage is not on the lattice"


def cage_displacements(
    table: pd.DataFrame,
    labels: pd.Series | None = None,
    *,
    center: int = 1,
    cage: int = 0,
    n_cage: int | None = None,
    lattice: Lattice | None = None,
    reference: str = "cage",
) -> pd.DataFrame:
    """Measure the displacement of each column of one sublattice from the centre of its cage of the other one.

    In a perovskite along [001], the columns of B and oxygen are displaced from the centre of the four columns of A
    around them if the crystal is polar.

    Parameters
    ----------
    table : DataFrame
        Columns of one image. Without errors of the positions, the results have none.
    labels : Series of int, optional
        Sublattice of each column, with the table's index. By default ``sublattices(table, lattice, 2)``: the two sites
        of the lattice, 0 the brighter one.
    center, cage : int, default=1, 0
        Labels of the columns that are displaced, and of those that form the cage.
    n_cage : int, optional
        Number of columns of a cage. By default it is determined from the distances: 4 in a perovskite along [001], 3
        in a honeycomb.
    lattice : Lattice, optional
        ``fit_lattice(table)``, which is the default where a lattice is required.
    reference : {"cage", "lattice"}, default="cage"
        Centre of the measured positions of the cage, or of the ideal positions that these columns have in the fitted
        lattice. The latter contains strain and distortions of the scan, and has smaller errors if there are none.

    Returns
    -------
    DataFrame
        With the table's index and all of its columns, ``attrs["unit"]`` the unit of positions and ``attrs["units"]``
        that of each column:

        - ``y, x``: position;
        - ``displacement_y, displacement_x`` and ``*_err``: from the centre to the column, pm, or px for a table in px;
          ``displacement`` is its length, which noise increases, and ``angle`` its direction (degrees from +x towards
          +y, which points down: clockwise on the screen);
        - ``p_value``: probability that noise alone displaces a column as far, in units of its errors, and
          ``significance``: the same as standard deviations of a normal distribution;
        - ``reference_y_err, reference_x_err``: error of the ideal position, only with ``reference="lattice"``;
        - ``cage_0``, ...: index of the columns of the cage;
        - ``reason``: why a column has no displacement (NaN), empty if it has one.

    Raises
    ------
    ValueError
        If the index of the table is not unique, labels or options are impossible, or a cage is not determined.

    See Also
    --------
    polarization : In uC/cm2, from Born charges.
    mean_displacements : Means over regions or lattice planes, with their errors.
    domain_walls : Pairs of neighbouring columns with different vectors.
    stemkit.plotting.show_displacements : The vectors on the image.

    Notes
    -----
    The displacement of column i is ``u_i = r_i - mean_j r_j`` over the columns j of its cage [1]_. It does not depend
    on a strain or rotation that is uniform across the cage. A cage is complete if its columns are in all directions and
    none is 1.5 times as far as usual.

    The variance of ``sum_a w_a r_a`` is ``sum_a w_a^2 e_a^2 + sum_ab w_a w_b J_a J_b c(y_a - y_b)``: the errors e of
    the fits are independent of each other; the jitter J of the table is that of scan lines that are displaced as a
    whole and independently, so that it cancels between columns in one scan line only. At a distance of t column widths
    along y its correlation c is ``exp(-t^2 / 2)`` for x and ``(1 - 2/3 t^2 + t^4 / 3) exp(-t^2 / 2)`` for
    y. A slow drift, which the jitter of the table contains, cancels within a cage in reality: errors are then too
    large. Under the null hypothesis
    ``q = (u_y / e_y)^2 + (u_x / e_x)^2`` is distributed as chi squared with two degrees of freedom and the p-value is
    ``exp(-q / 2)``.

    References
    ----------
    .. [1] Jia et al., Nature Mater. 6, 64 (2007), https://doi.org/10.1038/nmat1808

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import cage_displacements
    >>> y, x = np.mgrid[0:6, 0:6].reshape(2, -1) * 0.4
    >>> lead = pd.DataFrame({"y": y, "x": x, "amplitude": 2.0})
    >>> titanium = pd.DataFrame({"y": y + 0.2, "x": x + 0.21, "amplitude": 1.0})
    >>> table = pd.concat([lead, titanium], ignore_index=True)
    >>> table.attrs["unit"] = "nm"
    >>> vectors = cage_displacements(table).dropna(subset="displacement")
    >>> len(vectors), float(vectors["displacement_x"].mean().round(3))
    (25, 10.0)
    """
    columns = column_positions(table)
    check_index(table)
    check_option("reference", reference, REFERENCES)
    check_integer("n_cage", n_cage, 2, optional=True)
    if lattice is None and (labels is None or reference == "lattice"):
        lattice = fit_lattice(table)
    if lattice is not None:
        check_lattice(lattice, table)
    cages = find_cages(columns, _labels(table, labels, lattice, center, cage), center, cage, n_cage)
    result = pd.DataFrame({"y": columns.positions[:, 0], "x": columns.positions[:, 1]}, index=table.index)
    if reference == "cage":
        add_vectors(result, *_from_cage(columns, table, cages), columns.unit)
        return result.assign(**cage_columns(table, cages), reason=cages.reason)
    assert lattice is not None
    vectors, ideal_variance, cages = _from_lattice(columns, cages, lattice)
    own = PositionCovariance.from_table(columns, table).of_few(np.arange(len(table))[:, None], np.ones(1))
    add_vectors(result, vectors, own + ideal_variance, columns.unit)
    scale, short = pm_or_px(columns.unit)
    result[REFERENCE_ERRORS] = np.sqrt(ideal_variance) * scale
    result.attrs["units"] |= dict.fromkeys(REFERENCE_ERRORS, short)
    return result.assign(reason=cages.reason)


def add_vectors(result: pd.DataFrame, vectors: NDArray, variance: NDArray, unit: str) -> None:
    """Add displacements ``(n, 2)`` with their variances, in the unit of positions, to a table."""
    scale, short = pm_or_px(unit)
    names = ["displacement_y", "displacement_x", "displacement_y_err", "displacement_x_err"]
    result[names] = np.column_stack([vectors, np.sqrt(variance)]) * scale
    result["displacement"] = np.hypot(vectors[:, 0], vectors[:, 1]) * scale
    result["angle"] = np.degrees(np.arctan2(vectors[:, 0], vectors[:, 1]))
    result["p_value"], result["significance"] = chance(vectors, variance)
    units = {"y": unit, "x": unit} | dict.fromkeys([*names, "displacement"], short)
    units |= {"angle": "degree", "p_value": "1", "significance": "1"}
    result.attrs.update(unit=unit, units=units)


def pm_or_px(unit: str) -> tuple[float, str]:
    """Factor from the unit of positions to that of displacements, and its name."""
    return (PM, "pm") if unit == "nm" else (1.0, "px")


def chance(vectors: NDArray, variance: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability that noise alone makes a vector as long, and the same as standard deviations; NaN without errors."""
    with np.errstate(divide="ignore", invalid="ignore"):
        square = (vectors**2 / variance).sum(axis=-1)
    p_value = np.exp(-square / 2)
    return p_value, np.asarray(stats.norm.isf(np.maximum(p_value, np.finfo(float).tiny) / 2))


def _from_cage(columns: ColumnPositions, table: pd.DataFrame, cages: Cages) -> tuple[NDArray, NDArray]:
    """Vectors and variances ``(n, 2)``, in the unit of positions; NaN without a cage."""
    vectors, variance = np.full((2, len(table), 2), np.nan)
    rows = np.flatnonzero(cages.complete)
    n_cage = cages.rows.shape[1]
    vectors[rows] = columns.positions[rows] - columns.positions[cages.rows[rows]].mean(axis=1)
    weights = np.append(1.0, np.full(n_cage, -1 / n_cage))
    variance[rows] = PositionCovariance.from_table(columns, table).of_few(
        np.column_stack([rows, cages.rows[rows]]), weights
    )
    return vectors, variance


def _from_lattice(columns: ColumnPositions, cages: Cages, lattice: Lattice) -> tuple[NDArray, NDArray, Cages]:
    """Vectors, variances of the ideal centres ``(n, 2)``, and the cages whose columns are on the lattice."""
    vectors, variance = np.full((2, len(cages.rows), 2), np.nan)
    on_lattice = (lattice.site[cages.rows] >= 0).all(axis=1)
    cages = Cages(cages.rows, np.where(cages.complete & ~on_lattice, OFF_LATTICE, cages.reason))
    rows = np.flatnonzero(cages.complete)
    around = cages.rows[rows]
    cell = (lattice.indices[around] + lattice.sites[lattice.site[around]]).mean(axis=1)
    vectors[rows] = columns.positions[rows] - lattice.origin - cell @ lattice.vectors
    variance[rows] = lattice.origin_err**2 + np.einsum("mi,aij,mj->ma", cell, lattice.covariance, cell)
    return vectors, variance, cages


def _labels(
    table: pd.DataFrame, labels: pd.Series | None, lattice: Lattice | None, center: int, cage: int
) -> NDArray[np.int64]:
    if center == cage:
        raise ValueError(f"center and cage must be two different sublattices, but both are {cage!r}")
    if labels is None:
        assert lattice is not None
        if len(lattice.sites) < 2:
            raise ValueError(
                "labels must be given for a lattice with one site, of which no sublattices follow: pass "
                "labels=sublattices(table, n=2) if they differ in brightness"
            )
        labels = sublattices(table, lattice, 2)
    values = np.asarray(labels)
    if values.shape != (len(table),):
        raise ValueError(f"labels must be one per column of the table, {len(table)}, but has shape {values.shape}")
    for name, kind in (("center", center), ("cage", cage)):
        if not (values == kind).any():
            raise ValueError(f"{name} must be one of the labels {sorted(set(values.tolist()))}, but is {kind!r}")
    return values
