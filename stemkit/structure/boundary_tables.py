"""The table of the boundaries between grains, and that of the lines of which they consist."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit.structure.contacts import Contacts, straight_lengths, typical_distance
from stemkit.structure.lattice import Lattice
from stemkit.structure.relations import CommonPlane, common_plane, relation
from stemkit.structure.tables import ColumnPositions

__all__ = ["boundary_table", "segment_table"]

#: Largest angle of a lattice plane to the boundary that it coincides along, degrees (chosen: steps of the boundary
#: incline it).
MAX_ANGLE = 12.0
#: Largest misorientation of a low-angle boundary, which consists of dislocations, degrees (convention: Sutton and
#: Balluffi 1995).
LOW_ANGLE = 15.0
#: Largest ratio of the extents of a straight boundary across and along it (chosen).
STRAIGHT = 0.25
#: Columns of the table in degrees.
DEGREES = ("direction", "misorientation", "misorientation_err", "plane_angle", "plane_angle_err")
#: Columns of the table without a unit.
NUMBERS = ("n", "strain", "strain_err", "plane_mismatch", "plane_mismatch_err")
#: Columns of the table, see :func:`~stemkit.structure.find_grains`.
COLUMNS = (
    "first", "second", "kind", "n", "length", "direction", "straight", "misorientation", "misorientation_err", "strain",
    "strain_err", "same_phase", "coherent", "plane_first", "plane_second", "plane_mismatch", "plane_mismatch_err",
    "plane_angle", "plane_angle_err",
)  # fmt: skip


def boundary_table(
    columns: ColumnPositions,
    grain: NDArray,
    contacts: Contacts,
    lattices: tuple[Lattice, ...],
    same_phase: float,
    coherent: float,
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Table of the boundaries, and the boundary of each contact."""
    sides = np.sort(np.column_stack([grain[contacts.i], grain[contacts.j]]), axis=1)
    pairs, number = np.unique(sides, axis=0, return_inverse=True)
    number = number.reshape(-1).astype(np.int64)
    lengths = straight_lengths(contacts, typical_distance(columns.positions))
    rows = [
        _boundary(pair, contacts.ends[number == k], float(lengths[number == k].sum()), lattices, same_phase, coherent)
        for k, pair in enumerate(pairs.tolist())
    ]
    result = pd.DataFrame(rows, columns=COLUMNS)
    result.index.name = "boundary"
    units = {"length": columns.unit} | dict.fromkeys(DEGREES, "degree") | dict.fromkeys(NUMBERS, "1")
    result.attrs.update(unit=columns.unit, units=units)
    return result, number


def segment_table(table: pd.DataFrame, columns: ColumnPositions, contacts: Contacts, number: NDArray) -> pd.DataFrame:
    """Table of the lines of the boundaries."""
    result = pd.DataFrame({"boundary": number, "i": table.index[contacts.i], "j": table.index[contacts.j]})
    result[["y0", "x0", "y1", "x1"]] = contacts.ends.reshape(-1, 4)
    result.attrs.update(unit=columns.unit, units=dict.fromkeys(("y0", "x0", "y1", "x1"), columns.unit))
    return result


def _boundary(
    pair: tuple[int, int],
    ends: NDArray,
    length: float,
    lattices: tuple[Lattice, ...],
    same_phase: float,
    coherent: float,
) -> dict[str, Any]:
    """A row of the table: the boundary of two grains, from the ends ``(n, 2, 2)`` of its lines."""
    first, second = pair
    direction, straight = _direction(ends.reshape(-1, 2))
    between = relation(lattices[first], lattices[second], same_phase)
    found = common_plane(lattices[first], lattices[second], direction, MAX_ANGLE) if straight else None
    plane = found or CommonPlane(None, None, np.nan, np.nan, np.nan, np.nan)
    same_plane = found is not None and found.difference <= coherent
    return {
        "first": first,
        "second": second,
        "kind": _kind(between.same_phase, same_plane, between.rotation),
        "n": len(ends),
        "length": length,
        "direction": float(np.degrees(np.arctan2(direction[0], direction[1])) % 180),
        "straight": straight,
        "misorientation": between.rotation,
        "misorientation_err": between.rotation_err,
        "strain": between.strain,
        "strain_err": between.strain_err,
        "same_phase": between.same_phase,
        "coherent": same_plane,
        **{f"plane_{name}": value for name, value in asdict(plane).items()},
    }


def _direction(points: NDArray) -> tuple[NDArray[np.float64], bool]:
    """Direction (y, x) in which points ``(n, 2)`` extend most, and whether they are near a line."""
    _, extent, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    return directions[0], bool(extent[1] <= STRAIGHT * extent[0])


def _kind(same_phase: bool, coherent: bool, rotation: float) -> str:
    if not same_phase:
        return "coherent interface" if coherent else "interface"
    if coherent:
        return "twin"
    return "low-angle boundary" if abs(rotation) < LOW_ANGLE else "high-angle boundary"
