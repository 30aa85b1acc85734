"""The cage of each column: its neighbours of another sublattice, which surround it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.structure.tables import ColumnPositions

__all__ = ["Cages", "cage_columns", "find_cages"]

#: Most columns of a cage whose number is determined (chosen: the faces of a cube or an octahedron have fewer).
MAX_CAGE = 8
#: Least ratio of the distances of the first column outside a cage and of the last one of it (chosen: 2.2 for the square
#: cage of a perovskite, 2 in a honeycomb).
MIN_RATIO = 1.25
#: Longest distance of a column of the cage, medians of all such distances (chosen).
MAX_DISTANCE = 1.5
#: Largest angle between neighbouring columns of a cage beyond 360 degrees divided by their number, degrees (chosen: a
#: column that is displaced by a fifth of the distance widens it by 28 degrees).
MAX_EXCESS_ANGLE = 54.0

COMPLETE = ""
FAILED = "the fit failed"
INCOMPLETE = "no complete cage"
FAILED_CAGE = "the fit of a column of the cage failed"


@dataclass(frozen=True)
class Cages:
    """Rows ``(n, n_cage)`` of the columns that surround each column, -1 without a cage, and why ``(n,)`` there is none.

    ``reason`` is empty for a column with a cage.
    """

    rows: NDArray[np.int64]
    reason: NDArray[np.object_]

    @property
    def complete(self) -> NDArray[np.bool_]:
        """``(n,)``: columns with a cage."""
        return np.asarray(self.reason == COMPLETE)


def find_cages(columns: ColumnPositions, label: NDArray, center: int, cage: int, n_cage: int | None) -> Cages:
    """Nearest columns labelled ``cage`` around each column labelled ``center``, provided that they surround it.

    Raises
    ------
    ValueError
        If there are fewer such columns than a cage has, or the number of columns of a cage is neither given nor clear.
    """
    reason = np.full(len(label), f"not of sublattice {center}", dtype=object)
    around, inner = np.flatnonzero(label == cage), np.flatnonzero(label == center)
    n_cage = _number(columns.positions, inner, around) if n_cage is None else n_cage
    if len(around) < n_cage:
        raise ValueError(
            f"table must contain at least {n_cage} columns of sublattice {cage}, those of one cage, but contains "
            f"{len(around)}: give other labels, or a smaller n_cage"
        )
    found = cKDTree(columns.positions[around]).query(columns.positions[inner], k=[*range(1, n_cage + 1)])[1]
    rows = np.full((len(label), n_cage), -1, dtype=np.int64)
    rows[inner] = around[found]
    measured = columns.measured
    reason[inner] = COMPLETE
    reason[inner[~measured[rows[inner]].all(axis=1)]] = FAILED_CAGE
    reason[inner[~_surrounded(columns.positions[rows[inner]] - columns.positions[inner][:, None])]] = INCOMPLETE
    reason[inner[~measured[inner]]] = FAILED
    rows[reason != COMPLETE] = -1
    return Cages(rows, reason)


def cage_columns(table: pd.DataFrame, cages: Cages) -> pd.DataFrame:
    """Index of the columns of each cage, as the columns ``cage_0``, ``cage_1``, ... of a table; missing without one."""
    labels = table.index.to_numpy()[cages.rows].astype(object)
    labels[~cages.complete] = None
    names = [f"cage_{k}" for k in range(labels.shape[1])]
    return pd.DataFrame(labels, index=table.index, columns=names).convert_dtypes()


def _number(positions: NDArray, inner: NDArray, around: NDArray) -> int:
    """Number of columns in front of the widest gap of the distances, from 2 to 8."""
    most = min(MAX_CAGE, len(around) - 1)
    if most < 2 or len(inner) == 0:
        raise ValueError(
            f"n_cage must be given for a table with {len(inner)} columns and {len(around)} of the other sublattice: "
            "pass n_cage=4 for a square cage"
        )
    distance = cKDTree(positions[around]).query(positions[inner], k=[*range(1, most + 2)])[0]
    ratio = np.median(distance[:, 2:] / np.maximum(distance[:, 1:-1], 1e-300), axis=0)
    if ratio.max() < MIN_RATIO:
        raise ValueError(
            "n_cage must be given where the distances from the columns to those of the other sublattice have no gap: "
            f"the {most + 1} nearest increase by {100 * (ratio.max() - 1):.0f} % at most, and {MIN_RATIO:g} is needed"
        )
    return int(np.argmax(ratio)) + 2


def _surrounded(steps: NDArray) -> NDArray[np.bool_]:
    """Whether neighbours at ``(m, n_cage, 2)`` are in all directions, none of them too far."""
    distance = np.hypot(steps[..., 0], steps[..., 1])
    near = distance.max(axis=1) <= MAX_DISTANCE * np.median(distance) if len(distance) else np.empty(0, dtype=bool)
    angle = np.sort(np.degrees(np.arctan2(steps[..., 0], steps[..., 1])), axis=1)
    widest = np.diff(angle, axis=1, append=angle[:, :1] + 360).max(axis=1)
    return np.asarray(near & (widest <= 360 / steps.shape[1] + MAX_EXCESS_ANGLE))
