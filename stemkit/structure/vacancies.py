"""Places of the lattice without a column, and columns that are too weak for their place."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.structure.lattice import Lattice, check_lattice
from stemkit.structure.neighbours import CellIndex, local_brightness, ring
from stemkit.structure.tables import amplitudes, read_columns, to_pixels

__all__ = ["find_vacancies", "missing_sites", "weak_columns"]

#: A column within this fraction of the shortest distance of places fills a place.
FILLS = 0.4
#: A place is inside the crystal where no gap among the columns around it is wider than this, degrees.
WIDEST_GAP = 140.0
#: Cells around a place whose columns say how bright it should be: two rings of them.
BRIGHTNESS_REACH = 2


def missing_sites(
    table: pd.DataFrame,
    lattice: Lattice,
    shape: tuple[int, int] | None = None,
    *,
    neighbours: int = 5,
    by: str = "amplitude",
) -> pd.DataFrame:
    """Places inside the crystal where the lattice expects a column and the table has none.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    lattice : Lattice
        ``fit_lattice(table)``.
    shape : (int, int), optional
        ``(n_y, n_x)`` of the image, px. With it, places next to the image's border are judged by the neighbours that
        the image could show; without it they are left out like those at any other edge of the crystal.
    neighbours : int, default=5
        Fewest of the 8 columns at the same site of the surrounding cells that must be there.
    by : str, default="amplitude"
        Column of the table that says how bright a column is.

    Returns
    -------
    DataFrame
        One row per place: ``y, x`` (the table's unit), ``y_px, x_px``, ``site``, ``i, j`` (cell), ``neighbours``
        (columns around it), ``expected`` (median brightness of the same site in the two rings of cells around it) and
        ``spread`` (its standard deviation beyond the errors), NaN where the table does not have ``by``.

    Notes
    -----
    Places follow the displacement of the columns around them, by a plane through it: a bent or strained crystal
    has its missing columns where they would be. A place counts only where no gap among its neighbours is wider than
    140 degrees: beyond the edge of the crystal nothing is missing.
    """
    columns = read_columns(table)
    check_lattice(lattice, table)
    if not 3 <= neighbours <= 8:
        raise ValueError(f"neighbours must be from 3 to 8, but is {neighbours!r}: 8 cells surround a place")
    index = CellIndex(lattice)
    cells, site = _free_places(lattice, index, neighbours if shape is None else 3)
    around = index.around(cells, site)
    places = lattice.ideal(cells, site) + _expected_displacement(lattice, around)
    beyond, inside = _frame(table, lattice, places, shape)
    present = around >= 0
    possible = np.maximum((~beyond).sum(axis=1), 1)
    kept = inside & (present.sum(axis=1) >= np.maximum(3, neighbours * possible / 8))
    kept &= _widest_gap(lattice, present | beyond) < WIDEST_GAP
    kept &= cKDTree(columns.positions).query(places)[0] > FILLS * lattice.shortest
    cells, site, places, present = cells[kept], site[kept], places[kept], present[kept]
    expected, spread = _expected_brightness(table, index, cells, site, by, lattice)
    pixels = to_pixels(table, places)
    return pd.DataFrame(
        {
            **dict(zip(("y", "x", "y_px", "x_px"), (*places.T, *pixels.T), strict=True)),
            "site": site,
            "i": cells[:, 0],
            "j": cells[:, 1],
            "neighbours": present.sum(axis=1),
            "expected": expected,
            "spread": spread,
        }
    )


def find_vacancies(missing: pd.DataFrame, measured: pd.DataFrame, *, by: str = "amplitude") -> pd.DataFrame:
    """How sure it is that columns are missing, from what the image shows at their places.

    Parameters
    ----------
    missing : DataFrame
        ``missing_sites(table, lattice)``.
    measured : DataFrame
        What was measured at these places, in their order: ``amplitude`` and ``amplitude_err`` as in a table of columns.
    by : str, default="amplitude"
        The column that ``missing_sites`` was given.

    Returns
    -------
    DataFrame
        The rows of ``missing`` with

        - ``amplitude``, ``amplitude_err`` (or what ``by`` names): as measured;
        - ``significance``: ``(expected - amplitude) / sqrt(amplitude_err^2 + spread^2)``, large for a vacancy;
        - ``presence``: ``amplitude / amplitude_err``, large where there is a column after all;
        - ``occupancy``: ``amplitude / expected``, and ``occupancy_err``.

        All are NaN where the measurement is.

    Raises
    ------
    ValueError
        If the two do not have the same number of rows, or lack a column.
    """
    if len(missing) != len(measured):
        raise ValueError(
            f"measured must have one row for each of the {len(missing)} missing places, but has {len(measured)}: "
            "measure at missing[['y_px', 'x_px']]"
        )
    values, errors = amplitudes(measured, by)
    expected, spread = missing["expected"].to_numpy(), missing["spread"].to_numpy()
    judged = missing.copy()
    judged[by], judged[f"{by}_err"] = values, errors
    with np.errstate(divide="ignore", invalid="ignore"):
        judged["significance"] = (expected - values) / np.hypot(errors, spread)
        judged["presence"] = values / errors
    return judged.assign(**_occupancy(values, errors, expected, spread))


def weak_columns(
    table: pd.DataFrame, lattice: Lattice, *, significance: float = 4.0, by: str = "amplitude"
) -> pd.DataFrame:
    """Columns that are weaker than others at the same site around them: partial vacancies, lighter atoms.

    Parameters
    ----------
    table : DataFrame
        Columns of one image, with amplitudes.
    lattice : Lattice
        ``fit_lattice(table)``.
    significance : float, default=4.0
        Standard deviations below the expected brightness; ``-inf`` gives every column that has neighbours.
    by : str, default="amplitude"
        Column of the table that says how bright a column is.

    Returns
    -------
    DataFrame
        Weakest first, with the table's index: ``y, x, site, expected, spread``, the brightness and its error,
        ``significance``, ``occupancy`` and ``occupancy_err`` as of :func:`find_vacancies`.
    """
    check_lattice(lattice, table)
    values, errors = amplitudes(table, by)
    rows = np.flatnonzero(lattice.site >= 0)
    cells, site = lattice.indices[rows], lattice.site[rows]
    expected, spread = _expected_brightness(table, CellIndex(lattice), cells, site, by, lattice)
    values, errors = values[rows], errors[rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        below = (expected - values) / np.hypot(errors, spread)
    found = table.iloc[rows][["y", "x"]].assign(site=site, expected=expected, spread=spread)
    found[by], found[f"{by}_err"], found["significance"] = values, errors, below
    found = found.assign(**_occupancy(values, errors, expected, spread))
    return found[below >= significance].sort_values("significance", ascending=False)


def _occupancy(values: NDArray, errors: NDArray, expected: NDArray, spread: NDArray) -> dict[str, NDArray]:
    with np.errstate(divide="ignore", invalid="ignore"):
        occupancy = values / expected
        error = np.hypot(errors, occupancy * spread) / np.abs(expected)
    return {"occupancy": occupancy, "occupancy_err": error}


def _free_places(lattice: Lattice, index: CellIndex, neighbours: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells ``(m, 2)`` and sites ``(m,)`` that no column holds beside at least so many that one does."""
    used = lattice.site >= 0
    keys = np.column_stack([lattice.site[used], lattice.indices[used]])
    beside = (keys[:, None] + np.pad(ring(), ((0, 0), (1, 0)))).reshape(-1, 3)
    places, count = np.unique(beside, axis=0, return_counts=True)
    places = places[count >= min(neighbours, 3)]
    free = index.rows(places[:, 1:], places[:, 0]) < 0
    return places[free, 1:], places[free, 0]


def _expected_displacement(lattice: Lattice, around: NDArray) -> NDArray[np.float64]:
    """Displacement at the middle of each ring of columns: a plane through theirs, ``(m, 2)``."""
    weight = (around >= 0).astype(np.float64)
    steps = ring() @ lattice.vectors
    design = np.column_stack([np.ones(len(steps)), steps / lattice.lengths.max()])
    values = np.where(weight[..., None] > 0, lattice.displacement[around], 0.0)
    # a slope that the few columns of a corner do not fix is zero
    normal = np.einsum("mn,ni,nj->mij", weight, design, design) + np.diag([0.0, 1e-3, 1e-3])
    moment = np.einsum("mn,ni,mnk->mik", weight, design, values)
    return np.linalg.solve(normal, moment)[:, 0]


def _frame(
    table: pd.DataFrame, lattice: Lattice, places: NDArray, shape: tuple[int, int] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which neighbours ``(m, 8)`` of each place the image can't show, and which places ``(m,)`` it does show."""
    steps = ring() @ lattice.vectors
    if shape is None:
        return np.zeros((len(places), len(steps)), dtype=bool), np.ones(len(places), dtype=bool)
    around = to_pixels(table, (places[:, None] + steps).reshape(-1, 2)).reshape(-1, len(steps), 2)
    pixels = to_pixels(table, places)
    size = np.array(shape)
    width = _width(table)

    def shown(at: NDArray) -> NDArray[np.bool_]:
        return np.logical_and.reduce((at >= width - 0.5) & (at <= size - 0.5 - width), axis=-1)

    return ~shown(around), shown(pixels)


def _width(table: pd.DataFrame) -> float:
    """Sigma of the columns in px, 0 where unknown: nearer to the border than that a column may not be found."""
    if "sigma" not in table or len(table) < 2:
        return 0.0
    scale = np.ptp(to_pixels(table, table[["y", "x"]].to_numpy())[:, 1]) / max(float(np.ptp(table["x"])), 1e-300)
    width = float(np.nanmedian(table["sigma"])) * scale
    return width if np.isfinite(width) else 0.0


def _widest_gap(lattice: Lattice, present: NDArray) -> NDArray[np.float64]:
    """Widest angle without a neighbour, degrees, ``(m,)``."""
    steps = ring() @ lattice.vectors
    angle = np.degrees(np.arctan2(steps[:, 0], steps[:, 1]))
    angles = np.sort(np.where(present, angle, np.inf), axis=1)
    first = angles[:, :1]
    angles = np.where(np.isfinite(angles), angles, first + 360)
    with np.errstate(invalid="ignore"):
        gap = np.diff(angles, axis=1, append=first + 360).max(axis=1)
    return np.where(present.any(axis=1), gap, 360.0)


def _expected_brightness(
    table: pd.DataFrame, index: CellIndex, cells: NDArray, site: NDArray, by: str, lattice: Lattice
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if by not in table:
        return np.full(len(site), np.nan), np.full(len(site), np.nan)
    # what is usual for a site is what all its columns show, not the few places that are asked about
    rows = np.flatnonzero(lattice.site >= 0)
    cells, sites = np.concatenate([cells, lattice.indices[rows]]), np.concatenate([site, lattice.site[rows]])
    both = local_brightness(index.around(cells, sites, BRIGHTNESS_REACH), sites, *amplitudes(table, by))
    return both[0][: len(site)], both[1][: len(site)]
