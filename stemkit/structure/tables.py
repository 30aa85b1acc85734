"""Tables of columns as arrays, checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from stemkit.detection import Quality
from stemkit.images.pixel_size import pixel_sizes
from stemkit.tables import check_columns, n_images, unit_of_table

__all__ = [
    "ColumnPositions",
    "amplitudes",
    "check_index",
    "check_table",
    "column_positions",
    "group_codes",
    "positions_in_image",
    "to_pixels",
]


@dataclass(frozen=True)
class ColumnPositions:
    """Positions of the columns of one image.

    ``positions`` and ``errors`` are ``(n, 2)``, ``(y, x)`` in ``unit``; ``errors`` is None for a table without errors,
    and NaN for a column whose fit failed. ``jitter`` is ``(n, 2)``, 0 for a table without jitter.
    """

    positions: NDArray[np.float64]
    errors: NDArray[np.float64] | None
    jitter: NDArray[np.float64]
    unit: str

    @property
    def measured(self) -> NDArray[np.bool_]:
        """``(n,)``: columns whose fit did not fail; a failed fit leaves the position at its start."""
        errors = np.zeros_like(self.positions) if self.errors is None else self.errors
        return np.asarray(np.isfinite(errors).all(axis=1))


def column_positions(table: pd.DataFrame, pixels: bool = False) -> ColumnPositions:
    """Positions and errors of a table, in its own unit or in px.

    Raises
    ------
    TypeError
        If it is not a table.
    ValueError
        If it has no positions, contains several images, or positions are not finite.
    """
    check_table(table)
    suffix = "_px" if pixels and {"y_px", "x_px"} <= set(table) else ""
    try:
        positions = table[[f"y{suffix}", f"x{suffix}"]].to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"table must have numbers as positions, but {error}") from None
    bad = ~np.isfinite(positions).all(axis=1)
    if bad.any():
        raise ValueError(
            f"table must have finite positions, but {int(bad.sum())} row(s) have none, the first at index "
            f"{table.index[bad][0]!r}: drop them with table.dropna(subset=['y', 'x'])"
        )
    jitter = np.stack([_jitter(table, d, bool(suffix)) for d in ("y", "x")], axis=1)
    return ColumnPositions(positions, _errors(table, suffix), jitter, "px" if suffix else unit_of_table(table))


def amplitudes(table: pd.DataFrame, by: str = "amplitude") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of a column of the table, NaN for failed fits, and their errors, 0 without any: each ``(n,)``.

    Raises
    ------
    ValueError
        If the table has no such column.
    """
    if not isinstance(by, str) or by not in table:
        raise ValueError(f"table must have the column {by!r}, but has {list(table)}: give by=, or add the column")
    values = table[by].to_numpy(dtype=np.float64, copy=True)
    if "quality" in table:
        values[(table["quality"].to_numpy() & Quality.FAILED) > 0] = np.nan
    errors = table[f"{by}_err"].to_numpy(dtype=np.float64) if f"{by}_err" in table else np.zeros(len(table))
    return values, errors


def to_pixels(table: pd.DataFrame, positions: NDArray) -> NDArray[np.float64]:
    """Positions ``(m, 2)`` in the table's unit as ``(y, x)`` px, by the linear relation between its columns."""
    if not {"y_px", "x_px"} <= set(table):
        return np.array(positions, dtype=np.float64)
    pixels = np.empty(np.shape(positions))
    for axis, d in enumerate(("y", "x")):
        at, px = table[d].to_numpy(dtype=np.float64), table[f"{d}_px"].to_numpy(dtype=np.float64)
        slope = ((px - px.mean()) * (at - at.mean())).sum() / max(((at - at.mean()) ** 2).sum(), 1e-300)
        pixels[:, axis] = px.mean() + slope * (np.asarray(positions)[:, axis] - at.mean())
    return pixels


def check_table(table: object) -> None:
    """Raise an error if this is not a table of the columns of one image."""
    check_columns("table", table, ("y", "x"), "the result of AtomDetector, or one with the columns y and x")
    assert isinstance(table, pd.DataFrame)
    if (n := n_images(table)) > 1:
        raise ValueError(
            f'table must contain the columns of one image, but contains {n}: choose one with table[table["image"] == '
            f"{table['image'].min()}]"
        )


def check_index(table: pd.DataFrame) -> None:
    """Raise an error if rows of the table share an index."""
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(
            f"table must have a unique index, by which results are assigned, but {twice!r} occurs twice: number the "
            "rows with table.reset_index(drop=True)"
        )


def group_codes(groups: ArrayLike, index: pd.Index, noun: str) -> tuple[NDArray[np.int64], pd.Index]:
    """Number of the group of each row, -1 for none, and the groups in their order.

    Raises
    ------
    ValueError
        If there is not one group per row; ``noun`` says what a row is.
    """
    values = groups.reindex(index) if isinstance(groups, pd.Series) else pd.Series(np.asarray(groups))
    if len(values) != len(index):
        raise ValueError(f"groups must be one per {noun}, {len(index)}, but are {len(values)}")
    code, names = pd.factorize(values, sort=True)
    return np.asarray(code), pd.Index(names, name="group")


def positions_in_image(table: pd.DataFrame, image: xr.DataArray) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Positions ``(n, 2)`` in pixels of an image, and height and width of a pixel in the unit of the table.

    They follow from the positions in nm if the image is calibrated, so that it may be a part of the measured one.
    """
    columns, sizes = column_positions(table), pixel_sizes(image)
    if columns.unit == "px":
        return columns.positions, (1.0, 1.0)
    if sizes is not None:
        return (columns.positions - [float(image.coords[d][0]) for d in ("y", "x")]) / sizes, sizes
    pixels = to_pixels(table, columns.positions)
    size = float(np.ptp(columns.positions) / max(float(np.ptp(pixels)), 1e-300))
    return pixels, (size, size)


def _errors(table: pd.DataFrame, suffix: str) -> NDArray[np.float64] | None:
    names = [f"y{suffix}_err", f"x{suffix}_err"]
    if not set(names) <= set(table):
        return None
    errors = table[names].to_numpy(dtype=np.float64)
    return errors if np.isfinite(errors).all(axis=1).any() else None


def _jitter(table: pd.DataFrame, dimension: str, in_pixels: bool) -> NDArray[np.float64]:
    if f"{dimension}_jitter" not in table:
        return np.zeros(len(table))
    jitter = table[f"{dimension}_jitter"].to_numpy(dtype=np.float64)
    at = table[dimension].to_numpy(dtype=np.float64)
    scale = np.ptp(table[f"{dimension}_px"]) / np.ptp(at) if in_pixels and np.ptp(at) > 0 else 1.0
    return jitter * scale
