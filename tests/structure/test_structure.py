from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from imperfect_crystals import square_table

from stemkit.structure import (
    displacement_map,
    fit_lattice,
    missing_sites,
    neighbor_distances,
    pixel_size,
    site_occupancy,
    strain,
    strain_map,
    sublattices,
    weak_columns,
)


@pytest.mark.parametrize(
    "function",
    [
        fit_lattice,
        sublattices,
        neighbor_distances,
        lambda t: missing_sites(t, fit_lattice(square_table())),
        lambda t: weak_columns(t, fit_lattice(square_table())),
        lambda t: strain(t, fit_lattice(square_table())),
        lambda t: strain_map(t, fit_lattice(square_table()), np.zeros((9, 9))),
        lambda t: displacement_map(t, fit_lattice(square_table()), np.zeros((9, 9))),
        lambda t: pixel_size(t, 0.4),
    ],
)
def test_tables_that_are_none_are_refused(function):
    table = square_table()
    with pytest.raises(ValueError, match=r'one image, but contains 2: choose one with table\[table\["image"\] == 0\]'):
        function(table.assign(image=np.arange(len(table)) % 2))
    with pytest.raises(ValueError, match="the columns y and x, but lacks x"):
        function(table.drop(columns="x"))
    with pytest.raises(TypeError, match=r"table must be the result of AtomDetector.*, a DataFrame, but is"):
        function(table.to_numpy())


def test_positions_must_be_finite():
    table = square_table()
    table.loc[3, "x"] = np.nan
    with pytest.raises(ValueError, match=r"finite positions, but 1 row\(s\) have none, the first at index 3"):
        fit_lattice(table)


def test_impossible_parameters_are_refused():
    table = square_table()
    lattice = fit_lattice(table)
    with pytest.raises(ValueError, match=r"vectors must be two rows \(y, x\)"):
        fit_lattice(table, vectors=[1.0, 2.0])
    with pytest.raises(ValueError, match="vectors must point in two directions"):
        fit_lattice(table, vectors=[[1, 0], [2, 0]])
    with pytest.raises(ValueError, match=r"origin must be two finite numbers \(y, x\)"):
        fit_lattice(table, origin=[1.0])
    with pytest.raises(ValueError, match="lattice must have been fitted to this table"):
        strain(table.head(10), lattice)
    with pytest.raises(ValueError, match=r"min_neighbors must be an integer from 3 to 8, but is 9"):
        missing_sites(table, lattice, min_neighbors=9)
    with pytest.raises(ValueError, match="one row for each of the 2 missing sites, but has 1"):
        site_occupancy(pd.DataFrame({"expected": [1, 1], "spread": 0}), pd.DataFrame({"amplitude": [1]}))
    with pytest.raises(ValueError, match="table must have the column 'intensity'"):
        weak_columns(table, lattice, by="intensity")
    with pytest.raises(ValueError, match="table must have the column 'amplitude'"):
        sublattices(table[["y", "x"]])
    with pytest.raises(ValueError, match="n must be at most 1, the number of sites of the lattice"):
        sublattices(table, lattice, n=2)
    with pytest.raises(ValueError, match="n must be an integer of at least 1 or None"):
        sublattices(table, n=0)
    with pytest.raises(ValueError, match="number of different amplitudes, 1, but is 2"):
        sublattices(table.assign(amplitude=1.0), n=2)
    with pytest.raises(ValueError, match="n_neighbors must be an integer of at least 1, but is 0"):
        neighbor_distances(table, 0)
    with pytest.raises(ValueError, match="labels must be the sublattice of each"):
        neighbor_distances(table, between=(0, 1))
    with pytest.raises(ValueError, match=r"between must be two sublattices of \[0\]"):
        neighbor_distances(table, labels=sublattices(table, lattice), between=(0, 1))
    with pytest.raises(ValueError, match="spacing must be one or two positive numbers of nm"):
        pixel_size(lattice, -1.0)
    with pytest.raises(ValueError, match="reference must be two independent rows"):
        strain(table, lattice, reference=[[1, 0], [1, 0]])
    with pytest.raises(ValueError, match="coarsen must be an integer from 1 to"):
        strain_map(table, lattice, np.zeros((9, 9)), coarsen=0)
    with pytest.raises(ValueError, match="like must be a single image, but is a stack of 2"):
        strain_map(table, lattice, np.zeros((2, 9, 9)))
