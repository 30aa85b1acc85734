"""Tables of columns: their number of images, the unit of the positions, and numbers with nouns in texts about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UNITS", "counted", "n_images", "unit_of_table"]

#: Units that the columns ``y`` and ``x`` of a table can have.
UNITS = ("nm", "px")


def unit_of_table(table: pd.DataFrame, unit: str | None = None) -> str:
    """Unit of the positions ``y`` and ``x``.

    Parameters
    ----------
    table : DataFrame
    unit : {"nm", "px"}, optional
        Takes precedence over the table.

    Returns
    -------
    {"nm", "px"}
        The first that is known of ``unit``, ``table.attrs["unit"]`` and the column ``unit``. Otherwise it is nm if the
        table contains positions in px that are different from ``y`` and ``x``, and px if not.

    Raises
    ------
    ValueError
        If the unit is another one, or the column ``unit`` contains both.
    """
    if unit is None:
        unit = table.attrs.get("unit")
    if unit is None and "unit" in table and len(table):
        units = table["unit"].unique()
        unit = units[0] if len(units) == 1 else " and ".join(map(str, units))
    if unit is None:
        in_px = not {"y_px", "x_px"} <= set(table)
        in_px = in_px or all(np.array_equal(table[d], table[f"{d}_px"]) for d in ("y", "x"))
        unit = "px" if in_px else "nm"
    if unit not in UNITS:
        raise ValueError(f"unit must be 'nm' or 'px' for the whole table, but is {unit!r}")
    return unit


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: ``"1 vacancy"``, ``"2 vacancies"``."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def n_images(table: pd.DataFrame) -> int:
    """Number of images whose columns the table contains."""
    return int(table["image"].nunique()) if "image" in table else 1
