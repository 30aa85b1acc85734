"""Tables of a registered crystal: its columns with names and displacements, its sites, and those without a column."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit.statistics import finite_median
from stemkit.structure.covariance import PositionCovariance
from stemkit.structure.crystal_settings import MAX_SITE_DISTANCE, MIN_VISIBLE_BRIGHTNESS, Setting
from stemkit.structure.crystal_sites import CrystalSites
from stemkit.structure.displacements import add_vectors, pm_or_px
from stemkit.structure.lattice import Lattice
from stemkit.structure.tables import column_positions
from stemkit.structure.vacancies import missing_sites

__all__ = ["NO_SITE", "OFF_LATTICE", "named_columns", "named_missing_sites", "site_table", "sites_or_none"]

#: Reasons for which a column has no name.
OFF_LATTICE = "not on the lattice"
NO_SITE = "the crystal has no site here"


def sites_or_none(setting: Setting, places: NDArray, crystal: CrystalSites, shortest: float) -> NDArray[np.int64]:
    """Site of the crystal at each place, -1 if none is near."""
    nearest = setting.nearest_sites(places, crystal)
    return np.where(nearest.distance <= MAX_SITE_DISTANCE * shortest, nearest.site, -1)


def named_columns(
    table: pd.DataFrame,
    lattice: Lattice,
    crystal: CrystalSites,
    setting: Setting,
    name_probability: NDArray,
    site_probability: NDArray,
) -> pd.DataFrame:
    """Columns with their names and displacements."""
    columns = column_positions(table)
    rows = np.flatnonzero(lattice.site >= 0)
    indices, fractions = lattice.indices[rows], lattice.sites[lattice.site[rows]]
    ideal = (indices + fractions) @ lattice.vectors
    nearest = setting.nearest_sites(ideal, crystal)
    near = nearest.distance <= MAX_SITE_DISTANCE * lattice.shortest
    rows, site = rows[near], nearest.site[near]
    place = setting.origin + nearest.positions(crystal)[near] @ setting.transform
    vectors, variance = np.full((2, len(table), 2), np.nan)
    vectors[rows] = columns.positions[rows] - lattice.origin - place
    measured = columns.measured
    vectors[~measured] = np.nan
    if np.isfinite(vectors).any():
        vectors -= np.nanmean(vectors, axis=0)
    steps = place @ np.linalg.inv(lattice.vectors)
    variance[rows] = lattice.origin_err**2 + np.einsum("mi,aij,mj->ma", steps, lattice.covariance, steps)
    own = PositionCovariance.from_table(columns, table).of_few(np.arange(len(table))[:, None], np.ones(1))
    number = np.full(len(table), -1)
    number[rows] = site
    reason = np.where(lattice.site >= 0, NO_SITE, OFF_LATTICE).astype(object)
    reason[rows] = ""
    names = np.array([*crystal.names, None], dtype=object)
    cells = np.zeros((len(table), 2), dtype=np.int64)
    cells[rows] = nearest.cell[near]
    result = pd.DataFrame(
        {
            "y": columns.positions[:, 0],
            "x": columns.positions[:, 1],
            "name": pd.array(names[number], dtype="string"),
            "crystal_site": number,
            "i": cells[:, 0],
            "j": cells[:, 1],
            "probability": np.where(number >= 0, name_probability, np.nan),
            "site_probability": np.where(number >= 0, site_probability, np.nan),
        },
        index=table.index,
    )
    add_vectors(result, vectors, own + variance, columns.unit)
    result.attrs["units"] |= dict.fromkeys(["probability", "site_probability"], "1")
    return result.assign(reason=reason, moved_y=vectors[:, 0], moved_x=vectors[:, 1])


def named_missing_sites(
    table: pd.DataFrame, lattice: Lattice, crystal: CrystalSites, setting: Setting, by: str | None
) -> pd.DataFrame:
    """Sites of the lattice without a column, with the names that the crystal gives them."""
    missing = missing_sites(table, lattice, by=by or "amplitude")
    places = lattice.ideal(missing[["i", "j"]].to_numpy(), missing["site"].to_numpy()) - lattice.origin
    site = sites_or_none(setting, places.reshape(-1, 2), crystal, lattice.shortest)
    names = np.array([*crystal.names, None], dtype=object)
    return missing.assign(name=pd.array(names[site], dtype="string"), crystal_site=site)


def site_table(
    table: pd.DataFrame, crystal: CrystalSites, named: pd.DataFrame, missing: pd.DataFrame, values: NDArray
) -> pd.DataFrame:
    """Table of the columns of the crystal's cell, with the mean displacement of the measured ones from each."""
    columns = column_positions(table)
    covariance = PositionCovariance.from_table(columns, table)
    site = named["crystal_site"].to_numpy()
    moved = named[["moved_y", "moved_x"]].to_numpy()
    used = np.isfinite(moved).all(axis=1)
    scale, short = pm_or_px(columns.unit)
    rows = []
    for k, name in enumerate(crystal.names):
        own = used & (site == k)
        # of the mean of these columns, relative to that of all
        weights = own / max(own.sum(), 1) - used / max(used.sum(), 1)
        error = np.sqrt(covariance.of_many(np.flatnonzero(weights), weights[weights != 0]))
        mean = moved[own].mean(axis=0) if own.any() else np.full(2, np.nan)
        error = error if own.any() else np.full(2, np.nan)
        rows.append(
            {
                "name": name,
                "fraction_a": crystal.fractions[k, 0],
                "fraction_b": crystal.fractions[k, 1],
                "heights": crystal.heights[k],
                "brightness": crystal.brightness[k],
                "visible": bool(crystal.brightness[k] >= MIN_VISIBLE_BRIGHTNESS),
                "n_columns": int((site == k).sum()),
                "n_missing": int((missing["crystal_site"] == k).sum()),
                "measured": finite_median(values[site == k]),
                "displacement_y": scale * mean[0],
                "displacement_x": scale * mean[1],
                "displacement_y_err": scale * error[0],
                "displacement_x_err": scale * error[1],
            }
        )
    result = pd.DataFrame(rows)
    lengths = [name for name in result if name.startswith("displacement")]
    result.attrs["units"] = dict.fromkeys(lengths, short) | {"heights": "nm", "brightness": "1"}
    return result
