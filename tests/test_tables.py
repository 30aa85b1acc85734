"""The unit of a table of columns, and that all subpackages take the same one."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from stemkit import calibrated, plotting
from stemkit.detection.exports import read_columns, write_columns
from stemkit.structure import fit_lattice
from stemkit.tables import n_images, unit_of_table


@pytest.fixture
def shifted():
    """Columns of an uncalibrated crop: positions of the whole image, which differ from those of the crop."""
    y, x = np.mgrid[0:6, 0:6].reshape(2, -1) * 10.0
    table = pd.DataFrame({"y": y + 100, "x": x + 200, "y_px": y, "x_px": x, "quality": 0})
    table.attrs["unit"] = "px"
    return table


def test_the_first_that_is_known_decides(shifted):
    assert unit_of_table(shifted, "nm") == "nm"
    assert unit_of_table(shifted.assign(unit="nm")) == "px"
    shifted.attrs = {}
    assert unit_of_table(shifted.assign(unit="px")) == "px"
    assert unit_of_table(shifted) == "nm"
    assert unit_of_table(shifted.assign(y=shifted["y_px"], x=shifted["x_px"])) == "px"
    assert unit_of_table(shifted.assign(y=shifted["y_px"])) == "nm"
    assert unit_of_table(shifted[["y", "x"]]) == "px"


def test_an_impossible_unit_is_refused(shifted):
    with pytest.raises(ValueError, match="unit must be 'nm' or 'px' for the whole table, but is 'mm'"):
        unit_of_table(shifted, "mm")
    shifted.attrs = {}
    with pytest.raises(ValueError, match="'nm and px'"):
        unit_of_table(shifted.assign(unit=["nm"] + ["px"] * 35))


@pytest.mark.parametrize("unit", ["px", "nm"])
def test_structure_exports_and_plotting_take_the_same_unit(shifted, unit, tmp_path):
    shifted.attrs["unit"] = unit
    assert fit_lattice(shifted).unit == unit
    assert read_columns(write_columns(shifted, tmp_path / "a.csv")).attrs["unit"] == unit
    image = calibrated(np.zeros((400, 400)), pixel_size=1.0)
    axes = plotting.show_columns(image, shifted, plt.figure().gca())
    drawn = np.concatenate([c.get_offsets() for c in axes.collections if len(c.get_offsets())])
    assert drawn[0].tolist() == ([0, 0] if unit == "px" else [200, 100])
    plt.close("all")


def test_images_are_counted(shifted):
    assert n_images(shifted) == 1
    assert n_images(shifted.assign(image=np.arange(36) % 3)) == 3
