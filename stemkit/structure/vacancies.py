"""Sites of the lattice without a column, and columns that are too weak for their site."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial import cKDTree

from stemkit.parameters import check_fraction, check_integer, is_number
from stemkit.structure.cells import CellIndex, LocalBrightness, local_brightness, ring
from stemkit.structure.lattice import Lattice, check_lattice
from stemkit.structure.multiple_tests import benjamini_hochberg
from stemkit.structure.tables import amplitudes, column_positions, to_pixels
from stemkit.tables import check_columns

if TYPE_CHECKING:
    from stemkit.detection import AtomDetector

__all__ = ["find_vacancies", "missing_sites", "site_occupancy", "weak_columns"]

#: Largest distance of a column that occupies a site, shortest distances of sites (chosen).
MAX_SITE_DISTANCE = 0.4
#: Widest angle between neighbouring columns as seen from a site inside the crystal, degrees (chosen).
MAX_GAP = 140.0
#: Fewest neighbours of a site that is tested (derived: a plane has three parameters).
MIN_SITE_NEIGHBORS = 3
#: Rings of cells around a site whose columns predict its brightness (chosen).
BRIGHTNESS_RINGS = 2
#: Weight of a zero slope of the displacement, columns (chosen: it decides where the neighbours of a corner do not).
ZERO_SLOPE_WEIGHT = 1e-3


def find_vacancies(
    table: pd.DataFrame,
    lattice: Lattice,
    image: xr.DataArray | NDArray,
    detector: AtomDetector,
    *,
    false_discovery_rate: float = 0.05,
    by: str = "amplitude",
) -> pd.DataFrame:
    """Test every site of the lattice at which the table has no column for a vacancy.

    Parameters
    ----------
    table : DataFrame
        All columns of one image, those with quality flags included: a column that is left out of the table is a missing
        site, and the model of the image lacks it.
    lattice : Lattice
        ``fit_lattice(table)``, or one of ``fit_lattices(table)``.
    image : DataArray or ndarray of shape (n_y, n_x)
        The image in which the columns were measured.
    detector : AtomDetector
        The fitted detector that measured them. It measures the brightness at the missing sites.
    false_discovery_rate : float, default=0.05
        Expected fraction of sites with a column among those that are reported as vacant.
    by : str, default="amplitude"
        Column of the table that is the brightness: ``"amplitude"`` or ``"intensity"``.

    Returns
    -------
    DataFrame
        One row per missing site, as of :func:`site_occupancy`, with

        - ``q_value``: probability that a column of the expected brightness is measured as weak as this, adjusted for
          the number of sites;
        - ``vacant``: whether it is at most ``false_discovery_rate``.

    Raises
    ------
    ValueError
        If the rate is not between 0 and 1, or the lattice was fitted to another table.

    Notes
    -----
    The procedure of Benjamini and Hochberg [1]_ over all sites of the lattice: those with a column in the table count
    as tests whose null hypothesis is not rejected.

    References
    ----------
    .. [1] Benjamini and Hochberg, J. R. Stat. Soc. B 57, 289 (1995), https://doi.org/10.1111/j.2517-6161.1995.tb02031.x
    """
    check_fraction("false_discovery_rate", false_discovery_rate)
    missing = missing_sites(table, lattice, by=by)
    found = site_occupancy(missing, detector.measure(image, missing, neighbors=table, fix_positions=True), by=by)
    n_sites = len(found) + int((lattice.site >= 0).sum())
    found["q_value"] = benjamini_hochberg(stats.norm.sf(found["significance"].fillna(-np.inf)), n_sites)
    return found.assign(vacant=found["q_value"] <= false_discovery_rate)


def missing_sites(
    table: pd.DataFrame,
    lattice: Lattice,
    shape: tuple[int, int] | None = None,
    *,
    min_neighbors: int = 5,
    by: str = "amplitude",
) -> pd.DataFrame:
    """List the sites inside the crystal at which the table has no column.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    lattice : Lattice
        ``fit_lattice(table)``.
    shape : (int, int), optional
        ``(n_y, n_x)`` of the image, px. If given, sites next to the border of the image are judged by the neighbours
        inside the image; otherwise they are omitted like those at any other edge of the crystal.
    min_neighbors : int, default=5
        Fewest columns at the same site of the 8 surrounding cells.
    by : str, default="amplitude"
        Column of the table that is the brightness.

    Returns
    -------
    DataFrame
        One row per site: ``y, x`` (the table's unit), ``y_px, x_px``, ``site``, ``i, j`` (cell), ``n_neighbors``
        (columns around it), ``expected`` (median brightness at the same site in the two rings of cells around it) and
        ``spread`` (its standard deviation beyond the errors), NaN if the table does not contain ``by``.

    Notes
    -----
    The positions follow the displacements of the surrounding columns, by a plane fitted to these, so that a crystal may
    be bent or strained. A site is inside the crystal if no angle between its neighbours is wider than 140 degrees.
    """
    columns = column_positions(table)
    check_lattice(lattice, table)
    check_integer("min_neighbors", min_neighbors, MIN_SITE_NEIGHBORS, 8)
    if shape is not None and not (np.shape(shape) == (2,) and all(is_number(n) and n > 0 for n in shape)):
        raise ValueError(f"shape must be (n_y, n_x) of the image in px, or None, but is {shape!r}")
    index = CellIndex(lattice)
    cells, site = _unoccupied(lattice, index)
    neighbors = index.neighbors(cells, site)
    positions = lattice.ideal(cells, site) + _expected_displacement(lattice, neighbors)
    outside, inside = _in_image(table, lattice, positions, shape)
    present = neighbors >= 0
    possible = np.maximum((~outside).sum(axis=1), 1)
    kept = inside & (present.sum(axis=1) >= np.maximum(MIN_SITE_NEIGHBORS, min_neighbors * possible / 8))
    kept &= _widest_gap(lattice, present | outside) < MAX_GAP
    kept &= cKDTree(columns.positions).query(positions)[0] > MAX_SITE_DISTANCE * lattice.shortest
    cells, site, positions, present = cells[kept], site[kept], positions[kept], present[kept]
    brightness = _expected_brightness(table, index, cells, site, by, lattice)
    pixels = to_pixels(table, positions)
    sites = pd.DataFrame(
        {
            **dict(zip(("y", "x", "y_px", "x_px"), (*positions.T, *pixels.T), strict=True)),
            "site": site,
            "i": cells[:, 0],
            "j": cells[:, 1],
            "n_neighbors": present.sum(axis=1),
            "expected": brightness.expected,
            "spread": brightness.spread,
        }
    )
    sites.attrs["unit"] = columns.unit
    return sites


def site_occupancy(missing: pd.DataFrame, measured: pd.DataFrame, *, by: str = "amplitude") -> pd.DataFrame:
    """Compare the brightness measured at missing sites with that of a column.

    Parameters
    ----------
    missing : DataFrame
        ``missing_sites(table, lattice)``.
    measured : DataFrame
        Measured at these sites, in their order: ``amplitude`` and ``amplitude_err`` as in a table of columns.
    by : str, default="amplitude"
        The column that ``missing_sites`` was given.

    Returns
    -------
    DataFrame
        The rows of ``missing`` with

        - ``amplitude``, ``amplitude_err`` (or the names of ``by``): as measured;
        - ``significance``: ``(expected - amplitude) / sqrt(amplitude_err^2 + spread^2)``, large for a vacancy;
        - ``presence``: ``amplitude / amplitude_err``, large if there is a column that was not detected;
        - ``occupancy``: ``amplitude / expected``, and ``occupancy_err``.

        All are NaN if the measurement is.

    Raises
    ------
    ValueError
        If the two do not have the same number of rows, or lack a column.
    """
    check_columns("missing", missing, ("expected", "spread"), "missing_sites(table, lattice)")
    if len(missing) != len(measured):
        raise ValueError(
            f"measured must have one row for each of the {len(missing)} missing sites, but has {len(measured)}: "
            "measure at missing[['y_px', 'x_px']]"
        )
    values, errors = amplitudes(measured, by)
    brightness = LocalBrightness(missing["expected"].to_numpy(), missing["spread"].to_numpy())
    with np.errstate(divide="ignore", invalid="ignore"):
        presence = values / errors
    return missing.assign(
        **{by: values, f"{by}_err": errors},
        significance=_significance(values, errors, brightness),
        presence=presence,
        **_occupancy(values, errors, brightness),
    )


def weak_columns(
    table: pd.DataFrame, lattice: Lattice, *, significance: float = 4.0, by: str = "amplitude"
) -> pd.DataFrame:
    """List columns that are weaker than others at the same site around them: partial vacancies, lighter atoms.

    Parameters
    ----------
    table : DataFrame
        Columns of one image, with amplitudes.
    lattice : Lattice
        ``fit_lattice(table)``.
    significance : float, default=4.0
        Least difference from the expected brightness, standard deviations; ``-inf`` lists all columns with neighbours.
    by : str, default="amplitude"
        Column of the table that is the brightness.

    Returns
    -------
    DataFrame
        Weakest first, with the table's index: ``y, x, site, expected, spread``, the brightness and its error,
        ``significance``, ``occupancy`` and ``occupancy_err`` as of :func:`site_occupancy`.
    """
    check_lattice(lattice, table)
    if not is_number(significance) or np.isnan(significance):
        raise ValueError(f"significance must be a number of standard deviations, but is {significance!r}")
    values, errors = amplitudes(table, by)
    rows = np.flatnonzero(lattice.site >= 0)
    cells, site = lattice.indices[rows], lattice.site[rows]
    brightness = _expected_brightness(table, CellIndex(lattice), cells, site, by, lattice)
    values, errors = values[rows], errors[rows]
    found = table.iloc[rows][["y", "x"]].assign(
        site=site,
        expected=brightness.expected,
        spread=brightness.spread,
        **{by: values, f"{by}_err": errors},
        significance=_significance(values, errors, brightness),
        **_occupancy(values, errors, brightness),
    )
    return found[found["significance"] >= significance].sort_values("significance", ascending=False)


def _significance(values: NDArray, errors: NDArray, brightness: LocalBrightness) -> NDArray[np.float64]:
    """Difference from the expected brightness, standard deviations; positive for weak columns."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (brightness.expected - values) / np.hypot(errors, brightness.spread)


def _occupancy(values: NDArray, errors: NDArray, brightness: LocalBrightness) -> dict[str, NDArray]:
    with np.errstate(divide="ignore", invalid="ignore"):
        occupancy = values / brightness.expected
        error = np.hypot(errors, occupancy * brightness.spread) / np.abs(brightness.expected)
    return {"occupancy": occupancy, "occupancy_err": error}


def _unoccupied(lattice: Lattice, index: CellIndex) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells ``(m, 2)`` and sites ``(m,)`` without a column that have enough neighbours with one."""
    used = lattice.site >= 0
    keys = np.column_stack([lattice.site[used], lattice.indices[used]])
    neighbors = (keys[:, None] + np.pad(ring(), ((0, 0), (1, 0)))).reshape(-1, 3)
    keys, count = np.unique(neighbors, axis=0, return_counts=True)
    keys = keys[count >= MIN_SITE_NEIGHBORS]
    free = index.rows(keys[:, 1:], keys[:, 0]) < 0
    return keys[free, 1:], keys[free, 0]


def _expected_displacement(lattice: Lattice, neighbors: NDArray) -> NDArray[np.float64]:
    """Displacement ``(m, 2)`` at the centre of each ring of columns, from a plane fitted to theirs."""
    weight = (neighbors >= 0).astype(np.float64)
    steps = ring() @ lattice.vectors
    design = np.column_stack([np.ones(len(steps)), steps / lattice.lengths.max()])
    values = np.where(weight[..., None] > 0, lattice.displacement[neighbors], 0.0)
    normal = np.einsum("mn,ni,nj->mij", weight, design, design) + ZERO_SLOPE_WEIGHT * np.diag([0.0, 1.0, 1.0])
    moment = np.einsum("mn,ni,mnk->mik", weight, design, values)
    return np.linalg.solve(normal, moment)[:, 0]


def _in_image(
    table: pd.DataFrame, lattice: Lattice, positions: NDArray, shape: tuple[int, int] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which neighbours ``(m, 8)`` of each site are outside the image, and which sites ``(m,)`` are inside."""
    steps = ring() @ lattice.vectors
    if shape is None:
        return np.zeros((len(positions), len(steps)), dtype=bool), np.ones(len(positions), dtype=bool)
    neighbors = to_pixels(table, (positions[:, None] + steps).reshape(-1, 2)).reshape(-1, len(steps), 2)
    size, width = np.array(shape), _width(table)

    def inside(pixels: NDArray) -> NDArray[np.bool_]:
        return np.logical_and.reduce((pixels >= width - 0.5) & (pixels <= size - 0.5 - width), axis=-1)

    return ~inside(neighbors), inside(to_pixels(table, positions))


def _width(table: pd.DataFrame) -> float:
    """Sigma of the columns in px, 0 if unknown: a column nearer to the border may not be detected."""
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
) -> LocalBrightness:
    if by not in table:
        return LocalBrightness(*np.full((2, len(site)), np.nan))
    # the usual spread of a site is that of all its columns, not of the selected ones alone
    rows = np.flatnonzero(lattice.site >= 0)
    cells, sites = np.concatenate([cells, lattice.indices[rows]]), np.concatenate([site, lattice.site[rows]])
    local = local_brightness(index.neighbors(cells, sites, BRIGHTNESS_RINGS), sites, *amplitudes(table, by))
    return LocalBrightness(local.expected[: len(site)], local.spread[: len(site)])
