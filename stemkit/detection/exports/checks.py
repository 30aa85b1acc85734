"""Validation of tables of columns for exports, and import of optional packages."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from stemkit.statistics import nearest_distances
from stemkit.tables import n_images, unit_of_table

__all__ = [
    "POSITIONS",
    "by_image",
    "check_nm",
    "check_single",
    "checked_table",
    "optional",
    "spacing_of",
]

#: Columns that a table must have.
POSITIONS = ("y", "x", "y_px", "x_px")


def checked_table(table: pd.DataFrame, unit: str | None) -> tuple[pd.DataFrame, str]:
    """The table without a column ``unit``, and the unit."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be a DataFrame like that of AtomDetector, but is a {type(table).__name__}")
    if lacking := [name for name in POSITIONS if name not in table]:
        raise ValueError(
            f"table must have the columns {', '.join(POSITIONS)}, as that of AtomDetector, but lacks "
            f"{', '.join(lacking)}"
        )
    unit = unit_of_table(table, unit)
    return table.drop(columns="unit", errors="ignore"), unit


def check_single(table: pd.DataFrame, function: str) -> None:
    """Raise a ValueError for columns of several images."""
    if (n := n_images(table)) > 1:
        raise ValueError(
            f"{function} requires the columns of one image, but table contains those of {n} images: choose one with "
            "table[table['image'] == 0]"
        )


def check_nm(table: pd.DataFrame, unit: str) -> None:
    """Raise a ValueError for a table in px."""
    if unit != "nm" and len(table):
        raise ValueError(
            "table must be in nm for positions of atoms in Angstrom, but is in px: measure an image with a pixel size "
            "(stemkit.calibrated(image, pixel_size=...) in nm), or pass unit='nm' if x and y are in nm"
        )


def spacing_of(table: pd.DataFrame, names: Sequence[str], default: float) -> float:
    """Median distance of nearest columns in the same image."""
    distances = [nearest_distances(part[list(names)].to_numpy(dtype=np.float64)) for _, part in by_image(table)]
    known = np.concatenate(distances)
    return float(np.median(known)) if len(known) else default


def by_image(table: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """Index and rows of each image; 0 and no rows for an empty table."""
    if "image" not in table or len(table) == 0:
        yield 0, table
        return
    for index, part in table.groupby("image", sort=True):
        yield int(str(index)), part


def optional(module: str, what: str) -> Any:
    """Import an optional package, or raise an ImportError that states how to install it."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} requires {package}: pip install {package}") from error
