from __future__ import annotations

import numpy as np
import pytest
from imperfect_crystals import Crystal

from stemkit.structure import (
    fit_lattice,
    sublattices,
)


@pytest.mark.parametrize("kind", ["perovskite", "honeycomb"])
def test_sublattices_are_by_falling_brightness(kind):
    crystal = Crystal(kind, missing=0.05)
    table = crystal.table.set_index(np.arange(len(crystal.table)) * 3 + 7)
    labels = sublattices(table, fit_lattice(table))
    assert labels.index.equals(table.index)
    assert (labels.to_numpy() == crystal.site).mean() > 0.99
    assert (sublattices(table).to_numpy() == crystal.site).mean() > 0.99


def test_sites_of_one_kind_are_put_together():
    crystal = Crystal("dumbbells")
    lattice = fit_lattice(crystal.table)
    assert sublattices(crystal.table, lattice).nunique() == 2
    assert (sublattices(crystal.table, lattice, n=1) == 0).all()


def test_a_site_of_two_kinds_is_divided():
    crystal = Crystal("square", (24, 24))
    rng = np.random.default_rng(0)
    heavy = rng.random(len(crystal.table)) < 0.3
    table = crystal.table.assign(amplitude=crystal.table["amplitude"] * np.where(heavy, 2.0, 1.0))
    labels = sublattices(table, fit_lattice(table))
    assert (labels.to_numpy() == np.where(heavy, 0, 1)).mean() > 0.99


def test_columns_off_the_lattice_are_on_no_sublattice():
    crystal = Crystal("square", false=0.2)
    lattice = fit_lattice(crystal.table)
    labels = sublattices(crystal.table, lattice)
    assert np.array_equal(labels == -1, lattice.site == -1)
    assert (labels == -1).sum() > 10
