"""Variances of linear combinations of positions, with the jitter that columns in the same scan lines share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.statistics import median_spacing
from stemkit.structure.tables import ColumnPositions

__all__ = ["PositionCovariance"]

#: Width of a column if the table does not contain it, nearest distances of columns (chosen: typical of perovskites).
TYPICAL_WIDTH = 0.3
#: Step on which jitter is summed along y, widths of the columns (chosen: changes the variance by less than 0.1 %).
JITTER_STEP = 0.1
#: Distance along y at which the correlation is neglected, widths of the columns (derived: it is below 1e-7).
CORRELATION_REACH = 6.0
#: Elements of a matrix that are computed at a time (chosen: 30 MB).
N_ELEMENTS = 4_000_000


def jitter_correlation(distance: NDArray, width: NDArray | float) -> NDArray[np.float64]:
    """Correlation ``(..., 2)`` of the jitter of two columns at a distance along y, of their y and of their x positions.

    Notes
    -----
    Rows are displaced as a whole and independently of each other. A fitted Gaussian of the width s is sensitive to the
    displacement of the row at v from its centre in proportion to ``exp(-v^2 / s^2)`` for x, and to
    ``v^2 exp(-v^2 / s^2)`` for y. The correlations are the normalised autocorrelations of these weights,
    ``exp(-t^2 / 2)`` and ``(1 - 2/3 t^2 + t^4 / 3) exp(-t^2 / 2)``, where t is the distance in units of s.
    """
    square = (distance / width) ** 2
    along_x = np.exp(-square / 2)
    return np.stack([along_x * (1 - 2 / 3 * square + square**2 / 3), along_x], axis=-1)


@dataclass(frozen=True)
class PositionCovariance:
    """Covariance of the positions of columns: independent errors of the fits, and jitter shared by rows.

    ``errors`` and ``jitter`` are ``(n, 2)``, ``y`` is ``(n,)``, all in the unit of the table like ``width``; ``known``
    is False for a table without errors.
    """

    errors: NDArray[np.float64]
    jitter: NDArray[np.float64]
    y: NDArray[np.float64]
    width: float
    known: bool

    @classmethod
    def from_table(cls, columns: ColumnPositions, table: pd.DataFrame) -> PositionCovariance:
        """The covariance of the columns of a table; without errors, all variances are NaN."""
        errors = np.zeros_like(columns.positions) if columns.errors is None else columns.errors
        known = columns.errors is not None
        return cls(errors, np.nan_to_num(columns.jitter), columns.positions[:, 0], _width(columns, table), known)

    def of_few(self, rows: NDArray, weights: NDArray) -> NDArray[np.float64]:
        """Variances ``(m, 2)`` of the sums of ``weights * positions`` over a few rows ``(m, q)`` of the table each."""
        weights = np.broadcast_to(weights, rows.shape)
        if not self.known or len(rows) == 0:
            return np.full((len(rows), 2), np.nan)
        size = max(N_ELEMENTS // rows.shape[1] ** 2, 1)
        parts = [self._of_few(rows[i : i + size], weights[i : i + size]) for i in range(0, len(rows), size)]
        return np.concatenate(parts)

    def _of_few(self, rows: NDArray, weights: NDArray) -> NDArray[np.float64]:
        same = rows[:, :, None] == rows[:, None]
        shared = jitter_correlation(self.y[rows][:, :, None] - self.y[rows][:, None], self.width)
        variance = np.empty((len(rows), 2))
        for axis in range(2):
            error, jitter = (weights * values[rows, axis] for values in (self.errors, self.jitter))
            variance[:, axis] = np.einsum("mi,mij,mj->m", error, same, error)
            variance[:, axis] += np.einsum("mi,mij,mj->m", jitter, shared[..., axis], jitter)
        return variance

    def of_many(self, rows: NDArray, weights: NDArray) -> NDArray[np.float64]:
        """Variances ``(2,)`` of the sum of ``weights * positions`` over rows ``(q,)`` of the table, each once.

        The jitter is summed in bins along y, from which the variance follows with the correlation of the bins.
        """
        if not self.known or len(rows) == 0:
            return np.full(2, np.nan)
        y = self.y[rows]
        variance = ((weights[:, None] * self.errors[rows]) ** 2).sum(axis=0)
        step = JITTER_STEP * self.width
        place = (y - y.min()) / step
        low = place.astype(np.int64)
        kernel = jitter_correlation(
            step * np.arange(-CORRELATION_REACH / JITTER_STEP, CORRELATION_REACH / JITTER_STEP + 1), self.width
        )
        for axis in range(2):
            value = weights * self.jitter[rows, axis]
            bins = np.bincount(low, value * (1 - place + low), low.max() + 2)
            bins += np.bincount(low + 1, value * (place - low), low.max() + 2)
            variance[axis] += bins @ ndimage.convolve1d(bins, kernel[:, axis], mode="constant")
        return variance


def _width(columns: ColumnPositions, table: pd.DataFrame) -> float:
    """Median sigma of the columns in the unit of the positions."""
    if len(columns.positions) < 2:
        return 1.0  # any value: a single column shares its jitter with no other
    if "sigma" in table and np.isfinite(width := float(table["sigma"].median())) and width > 0:
        return width
    return TYPICAL_WIDTH * median_spacing(columns.positions)
