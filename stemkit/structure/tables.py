"""Tables of columns as arrays, checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["Columns", "amplitudes", "check_table", "counted", "read_columns", "robust_spread", "to_pixels"]

#: The bit of ``quality`` that says that the fit of a column failed.
FAILED = 2


@dataclass(frozen=True)
class Columns:
    """The columns of one image.

    ``positions`` and ``errors`` are ``(n, 2)``, ``(y, x)`` in ``unit``; ``errors`` is None where the table has none,
    and NaN for a column whose fit failed. ``jitter`` is ``(n, 2)``, 0 where the table has none.
    """

    positions: NDArray[np.float64]
    errors: NDArray[np.float64] | None
    jitter: NDArray[np.float64]
    unit: str

    @property
    def trusted(self) -> NDArray[np.bool_]:
        """``(n,)``: columns whose position was measured rather than guessed."""
        everywhere = np.ones(len(self.positions), dtype=bool)
        return everywhere if self.errors is None else everywhere & np.isfinite(self.errors).all(axis=1)


def read_columns(table: pd.DataFrame, pixels: bool = False) -> Columns:
    """Positions and errors of a table, in its own unit or in px.

    Raises
    ------
    TypeError
        If it is no table.
    ValueError
        If it has no positions, several images, or positions that are not finite.
    """
    check_table(table)
    suffix = "_px" if pixels and {"y_px", "x_px"} <= set(table) else ""
    positions = table[[f"y{suffix}", f"x{suffix}"]].to_numpy(dtype=np.float64)
    bad = ~np.isfinite(positions).all(axis=1)
    if bad.any():
        raise ValueError(
            f"table must have finite positions, but {int(bad.sum())} row(s) have none, the first at index "
            f"{table.index[bad][0]!r}: drop them with table.dropna(subset=['y', 'x'])"
        )
    jitter = np.stack([_jitter(table, d, bool(suffix)) for d in ("y", "x")], axis=1)
    return Columns(positions, _errors(table, suffix), jitter, "px" if suffix else _unit(table))


def amplitudes(table: pd.DataFrame, by: str = "amplitude") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of a column of the table and their errors, 0 where it has none, NaN for failed fits: each ``(n,)``.

    Raises
    ------
    ValueError
        If the table has no such column.
    """
    if by not in table:
        raise ValueError(f"table must have the column {by!r}, but has {list(table)}: name another one, or add it")
    values = table[by].to_numpy(dtype=np.float64, copy=True)
    if "quality" in table:
        values[(table["quality"].to_numpy() & FAILED) > 0] = np.nan
    errors = table[f"{by}_err"].to_numpy(dtype=np.float64) if f"{by}_err" in table else np.zeros(len(table))
    return values, errors


def to_pixels(table: pd.DataFrame, positions: NDArray) -> NDArray[np.float64]:
    """Positions ``(m, 2)`` in the table's unit as ``(y, x)`` px, by the relation that its columns show."""
    if not {"y_px", "x_px"} <= set(table):
        return np.array(positions, dtype=np.float64)
    pixels = np.empty(np.shape(positions))
    for axis, d in enumerate(("y", "x")):
        at, px = table[d].to_numpy(dtype=np.float64), table[f"{d}_px"].to_numpy(dtype=np.float64)
        slope = ((px - px.mean()) * (at - at.mean())).sum() / max(((at - at.mean()) ** 2).sum(), 1e-300)
        pixels[:, axis] = px.mean() + slope * (np.asarray(positions)[:, axis] - at.mean())
    return pixels


def robust_spread(values: NDArray, axis: int | None = None) -> NDArray[np.float64]:
    """Standard deviation of normal values from their median absolute deviation, NaN left out."""
    middle = np.nanmedian(values, axis=axis, keepdims=True)
    return 1.4826 * np.nanmedian(np.abs(values - middle), axis=axis)


def counted(n: int, one: str, more: str | None = None) -> str:
    """A number with its noun: ``"1 vacancy"``, ``"2 vacancies"``."""
    return f"{n} {one if n == 1 else more or one + 's'}"


def check_table(table: object) -> None:
    """Refuse what is no table of the columns of one image."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be a DataFrame such as AtomDetector gives, but is {type(table).__name__}")
    missing = [c for c in ("y", "x") if c not in table]
    if missing:
        raise ValueError(f"table must have the columns 'y' and 'x', but {missing} are missing from {list(table)}")
    images = sorted(table["image"].unique().tolist()) if "image" in table else []
    if len(images) > 1:
        raise ValueError(
            f'table must hold the columns of one image, but holds {len(images)}: choose one with table[table["image"] '
            f"== {images[0]}]"
        )


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


def _unit(table: pd.DataFrame) -> str:
    calibrated = "y_px" in table and not np.allclose(table["y"], table["y_px"])
    return "nm" if calibrated else "px"
