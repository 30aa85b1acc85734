"""The readings of all columns combined for each row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse
from scipy.sparse.linalg import SuperLU, splu

from stemkit.noise.bends import LatticeHold
from stemkit.noise.readings import Readings
from stemkit.noise.spectrum import RowSpectrum, row_spectrum

__all__ = ["RowInformation"]

#: Variance of the displacements for which their spectrum is estimated, at least, over that of a typical row's reading.
LEAST_FILTERED = 0.1


@dataclass(frozen=True)
class RowInformation:
    """What the readings say of the displacement of each row as a whole.

    For readings ``d_y - q_cy e_c + noise`` of weights ``w_cy``, with orthonormal modes q of the errors e of the
    columns' parameters, the information on d is ``S = diag(sum_c w_cy) - sum_c (w q)_c (w q)_c^T``. With a lattice of
    precision P the term of the first mode, the position, is ``w^T (diag(sum_y w_cy) + P)^-1 w``.

    Parameters
    ----------
    readings : Readings
        Their weights hold ``extra``.
    extra : float
        Variance that displacements within a row add to each reading, px squared.
    values : ndarray of shape (n_y,)
        Eigenvalues of S, px^-2.
    vectors : ndarray of shape (n_y, n_y)
        Its eigenvectors.
    told : ndarray of shape (n_y,)
        S times the estimated displacements, px^-1. Without displacements its covariance is S.
    hold : LatticeHold or None
        What the lattice says of the columns' positions; None leaves them free.
    held : SuperLU or None
        Factors of ``diag(sum_y w_cy) + P``.
    """

    readings: Readings
    extra: float
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    told: NDArray[np.float64]
    hold: LatticeHold | None = None
    held: SuperLU | None = None

    @classmethod
    def of(cls, readings: Readings, extra: float = 0.0, hold: LatticeHold | None = None) -> RowInformation:
        """From readings; displacements within a row add the variance ``extra``, px squared, to each."""
        if extra > 0:
            readings = readings.reweighted(readings.weight / (1 + extra * readings.weight))
        w, held = readings.weight, None
        matrix = np.diag(w.sum(0))
        for mode in _free_modes(readings, hold):
            matrix = matrix - mode.T @ mode
        if hold is not None:
            by_column = w.sum(1)
            held = splu((sparse.diags(by_column + 1e-9 * by_column.max()) + hold.precision).tocsc())
            matrix = matrix - w.T @ held.solve(w)
        values, vectors = np.linalg.eigh(matrix)
        told = _told(readings, readings.shift, hold, held)
        return cls(readings, extra, np.maximum(values, 0.0), vectors, told, hold, held)

    def of_shift(self, shift: NDArray) -> NDArray[np.float64]:
        """What other displacements ``(n_columns, n_y)`` at the same columns tell, along the eigenvectors."""
        return self.vectors.T @ _told(self.readings, shift, self.hold, self.held)

    def with_shift(self, shift: NDArray) -> RowInformation:
        """The same of other displacements ``(n_columns, n_y)`` at the same columns."""
        told = _told(self.readings, shift, self.hold, self.held)
        return replace(self, told=told, readings=replace(self.readings, shift=shift))

    def seen_in_pairs(self, factor: NDArray) -> float:
        """Mean covariance of the readings of two columns of a row, as far as the columns' own places do not take it.

        The displacements have the covariance ``factor factor^T``, px squared.
        """
        seen = ((self.vectors.T @ factor) ** 2).sum(1)
        return float((self.values**2 * seen).sum() / max(float((self.values**2).sum()), 1e-300))

    def along(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """What is told along the eigenvectors, 0 along those that no reading knows; and which are known."""
        known = self.values > 1e-9 * self.values.max()
        return np.where(known, self.vectors.T @ self.told, 0.0), known

    def likeliest(self) -> float:
        """Variance (px squared) of the displacements of independent rows: the minimum of ``sum(log v + z^2 / v)``,
        ``v = lambda + s lambda^2``, for what is told along the eigenvectors z.
        """
        along, known = self.along()
        values, along = self.values[known], along[known]

        def cost(log_s: float) -> float:
            v = values + np.exp(log_s) * values**2
            return float((np.log(v) + along**2 / v).sum())

        at_zero = float((np.log(values) + along**2 / values).sum())
        found = optimize.minimize_scalar(cost, bounds=(np.log(1e-7), np.log(100.0)), method="bounded")
        return float(np.exp(found.x)) if found.fun < at_zero - 1e-6 else 0.0

    def spectrum(self) -> RowSpectrum:
        """Spectrum of the displacements."""
        typical = 1 / max(float(self.values.mean()), 1e-300)
        return row_spectrum(self.values, self.vectors, self.told, max(self.likeliest(), LEAST_FILTERED * typical))


def _free_modes(readings: Readings, hold: LatticeHold | None) -> NDArray[np.float64]:
    return readings.weighted_modes()[0 if hold is None else 1 :]


def _told(readings: Readings, shift: NDArray, hold: LatticeHold | None, held: SuperLU | None) -> NDArray[np.float64]:
    weighted = readings.weight * shift
    told = weighted.sum(0)
    for mode in _free_modes(readings, hold):
        told = told - mode.T @ (mode * shift).sum(1)
    if hold is None or held is None:
        return told
    return told - readings.weight.T @ held.solve(weighted.sum(1) + hold.told)
