"""Tables of columns: their number of images, the unit of the positions, and numbers with nouns in texts about them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UNITS", "check_columns", "counted", "n_images", "unit_of_table"]

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


def check_columns(name: str, table: object, columns: Collection[str], source: str) -> None:
    """Raise an error unless a parameter is a table with these columns.

    Parameters
    ----------
    name : str
        Name of the parameter.
    table : object
    columns : collection of str
    source : str
        What makes such tables, for the message: "{name} must be {source}, but ...".

    Raises
    ------
    TypeError
        If it is not a DataFrame.
    ValueError
        If it lacks columns.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"{name} must be {source}, a DataFrame, but is {type(table).__name__}")
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{name} must be {source}, but lacks {', '.join(missing)}")


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: ``"1 vacancy"``, ``"2 vacancies"``."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def n_images(table: pd.DataFrame) -> int:
    """Number of images whose columns the table contains."""
    return int(table["image"].nunique()) if "image" in table else 1
