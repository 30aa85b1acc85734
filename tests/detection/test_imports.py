"""Columns that other programs have fitted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemkit.detection.exports import from_atomap, from_statstem, to_atomap

numbers = st.floats(0.5, 90.0)


def sublattice(pixels, *, size=0.02, units="nm", integral=30.0, sigmas=(2.0, 3.0), fitted=True):
    """What Atomap's Sublattice has: positions in px, and the integral as the amplitude of a Gaussian."""
    x, y = np.array(pixels, dtype=float).T
    atoms = [
        SimpleNamespace(sigma_x=sigmas[0], sigma_y=sigmas[1], amplitude_gaussian=integral, _gaussian_fitted=fitted)
        for _ in pixels
    ]
    return SimpleNamespace(atom_list=atoms, x_position=x, y_position=y, pixel_size=size, units=units)


def test_positions_widths_and_integrals_of_atomap():
    table = from_atomap([sublattice([(10, 20), (30, 40)]), sublattice([(15, 25)])])
    assert table.attrs["unit"] == "nm"
    assert table["sublattice"].tolist() == [0, 0, 1]
    np.testing.assert_allclose(table[["y_px", "x_px"]], [[20, 10], [40, 30], [25, 15]])
    np.testing.assert_allclose(table["y"], table["y_px"] * 0.02)
    np.testing.assert_allclose(table["sigma"], np.sqrt(6) * 0.02)
    # the integral of a Gaussian does not depend on how it is split into height and widths
    np.testing.assert_allclose(table["intensity"], 30.0 * 0.02**2)
    np.testing.assert_allclose(table["amplitude"], 30.0 / (2 * np.pi * 6.0))
    np.testing.assert_allclose(to_atomap(table), [[10, 20], [30, 40], [15, 25]])


@pytest.mark.parametrize(("units", "nm"), [("Å", 0.1), ("pm", 0.001), ("nm", 1.0)])
def test_units_of_atomap(units, nm):
    table = from_atomap(sublattice([(10, 20)], size=0.2, units=units))
    assert table["x"].iloc[0] == pytest.approx(10 * 0.2 * nm)


def test_without_a_pixel_size_lengths_are_px():
    table = from_atomap(SimpleNamespace(sublattice_list=[sublattice([(10, 20)], size=1.0, units="pixel")]))
    assert table.attrs["unit"] == "px"
    assert table["x"].iloc[0] == 10


def test_columns_that_were_not_fitted_have_no_amplitude():
    table = from_atomap(sublattice([(10, 20)], integral=1.0, fitted=False))
    assert table["amplitude"].isna().all()
    assert table["intensity"].isna().all()


def test_other_objects_than_those_of_atomap_are_refused():
    with pytest.raises(TypeError, match="fitted must be a Sublattice"):
        from_atomap([1, 2])
    with pytest.raises(ValueError, match="must be sublattices of one image"):
        from_atomap([sublattice([(1, 2)]), sublattice([(1, 2)], size=0.03)])


def test_with_atomap_itself():
    am = pytest.importorskip("atomap.api")
    fitted = am.dummy_data.get_simple_cubic_sublattice()
    table = from_atomap(fitted)
    assert len(table) == len(fitted.atom_list)
    np.testing.assert_allclose(to_atomap(table), np.array(fitted.atom_positions))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), st.floats(0.005, 0.1))
def test_pixels_of_statstem_begin_at_one_pixel_size(pixels, size):
    # StatSTEM's X = dx (1, 2, ...), in angstrom
    coordinates = (np.array(pixels) + 1) * size * 10
    table = from_statstem(coordinates, pixel_size=size)
    np.testing.assert_allclose(table[["x_px", "y_px"]], pixels, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(table["x"], table["x_px"] * size)
    assert table.attrs["unit"] == "nm"


def test_volumes_of_statstem():
    eta, rho = np.array([100.0, 50.0]), 0.6
    table = from_statstem([[1.0, 2.0, 1], [3.0, 4.0, 2]], eta, rho, pixel_size=0.02)
    volumes = 2 * np.pi * eta * rho**2  # square angstrom
    np.testing.assert_allclose(table["intensity"], volumes / 100)
    in_px = from_statstem([[1.0, 2.0]], 100.0, 0.6, pixel_size=0.02, unit="px")
    assert in_px["sigma"].iloc[0] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1.0, 2.0],), {"pixel_size": 0.02}, "coordinates must have the shape"),
        (([[1.0, 2.0]],), {"pixel_size": 0.0}, "pixel_size must be a positive number"),
        (([[1.0, 2.0]], [1.0, 2.0, 3.0]), {"pixel_size": 0.02}, "one number for each of 1 columns"),
        (([[1.0, 2.0]],), {"pixel_size": 0.02, "unit": "m"}, "unit must be one of"),
    ],
)
def test_impossible_tables_of_statstem_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        from_statstem(*arguments, **options)
