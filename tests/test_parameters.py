"""Parameters are checked with messages that name the constraint and the value."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stemkit.parameters import check_fraction, check_integer, check_number, check_option, check_positive
from stemkit.plotting import show_columns, show_displacements, show_mixture
from stemkit.structure import (
    find_dislocations,
    find_grains,
    fit_lattice,
    fit_lattices,
    missing_sites,
    neighbor_distances,
    ring_pairs,
    voronoi_intensities,
    weak_columns,
)
from stemkit.tables import check_columns

NOT_NUMBERS = ["1", None, [1.0], np.nan, True]


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_value_of_another_type_is_refused_by_each_check(value):
    for check in (check_positive, check_number, check_fraction, check_integer):
        with pytest.raises(ValueError, match=r"^size must be .*, but is "):
            check("size", value)


def test_limits_of_integers_and_fractions_are_named():
    check_integer("n", np.int64(3), 3, 3)
    check_fraction("rate", 0, zero=True)
    check_fraction("rate", np.float32(0.29), 0.3)
    with pytest.raises(ValueError, match=r"n must be an integer from 3 to 8, but is 9"):
        check_integer("n", 9, 3, 8)
    with pytest.raises(ValueError, match=r"n must be an integer of at least 1 or None, but is 2\.0"):
        check_integer("n", 2.0, optional=True)
    with pytest.raises(ValueError, match=r"rate must be a fraction above 0 and below 1, but is 0"):
        check_fraction("rate", 0)
    with pytest.raises(ValueError, match=r"rate must be a fraction from 0 to below 0\.3, but is 0\.3"):
        check_fraction("rate", 0.3, 0.3, zero=True)


@pytest.mark.parametrize("value", ["c", None, ["a"], 1, np.nan])
def test_an_option_is_one_of_the_names(value):
    with pytest.raises(ValueError, match=r"kind must be one of 'a', 'b', but is "):
        check_option("kind", value, {"a": 1, "b": 2})


def test_a_table_has_the_columns_that_are_needed():
    check_columns("table", pd.DataFrame({"y": [], "x": []}), ("y", "x"), "a table")
    with pytest.raises(TypeError, match=r"bonds must be bonds\(table\), a DataFrame, but is list"):
        check_columns("bonds", [], ("i",), "bonds(table)")
    with pytest.raises(ValueError, match=r"bonds must be bonds\(table\), but lacks i, j"):
        check_columns("bonds", pd.DataFrame(), ("i", "j"), "bonds(table)")


def square(**columns):
    y, x = np.mgrid[0:8, 0:8].reshape(2, -1) * 0.4
    return pd.DataFrame({"y": y, "x": x, "amplitude": 1.0, "quality": 0, **columns})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: find_dislocations(t, fit_lattices(t)), TypeError, r"lattice must be the result of fit_lattice"),
        (lambda t: find_grains(t, fit_lattice(t)), TypeError, r"lattices must be the result of fit_lattices"),
        (lambda t: fit_lattice(t.assign(y="a")), ValueError, r"table must have numbers as positions"),
        (lambda t: missing_sites(t, fit_lattice(t), 64), ValueError, r"shape must be \(n_y, n_x\) of the image"),
        (lambda t: neighbor_distances(t, 1.5), ValueError, r"n_neighbors must be an integer of at least 1"),
        (lambda t: weak_columns(t, fit_lattice(t), significance=np.nan), ValueError, r"significance must be a number"),
        (lambda t: weak_columns(t, fit_lattice(t), by=["amplitude"]), ValueError, r"must have the column \['ampl"),
        (lambda t: ring_pairs(t), ValueError, r"rings must be rings\(table\), but lacks size, neighbors"),
        (lambda t: voronoi_intensities(np.ones((9, 9)), t, background=np.inf), ValueError, r"background must be a fin"),
        (lambda t: voronoi_intensities(np.array([["a"]]), t), ValueError, r"image must contain numbers, but"),
        (lambda t: show_columns(np.ones((9, 9)), t.drop(columns="quality")), ValueError, r"lacks quality"),
        (lambda t: show_columns(np.ones((9, 9)), [[1, 2]]), TypeError, r"table must be the result of AtomDetector"),
        (lambda t: show_displacements(np.ones((9, 9)), t), ValueError, r"vectors must be .*, but lacks displacement_y"),
        (lambda t: show_mixture(t, t, 1.0), ValueError, r"columns must be count_atoms\(table\).columns, but lacks fit"),
    ],
)
def test_impossible_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(square())
