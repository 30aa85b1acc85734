"""Information of all columns on the displacement of each row."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse
from scipy.sparse.linalg import SuperLU, splu

from stemkit.noise.constants import TINY
from stemkit.noise.lattice_prior import LatticePrior
from stemkit.noise.shift_estimates import ShiftEstimates
from stemkit.noise.spectrum import RowSpectrum, row_spectrum

__all__ = ["RowInformation"]

#: Least variance of the displacements for which their spectrum is estimated, over that of the noise of a typical row
#: (chosen).
LEAST_FILTERED = 0.1
#: Range in which the variance of the displacements is sought, px squared (chosen).
LEAST_VARIANCE = 1e-7
LARGEST_VARIANCE = 100.0


@dataclass(frozen=True)
class RowInformation:
    """Information matrix and score of the displacement of each row as a whole.

    For estimates ``d_y - q_cy e_c + noise`` of weights ``w_cy``, with orthonormal modes q of the errors e of the
    columns' parameters, the information on d is ``S = diag(sum_c w_cy) - sum_c (w q)_c (w q)_c^T``. With a prior of
    precision P the term of the first mode, the position, is ``w^T (diag(sum_y w_cy) + P)^-1 w``. Of displacements
    ``B c`` that may be the specimen's, c is eliminated, too: ``S - S B (B^T S B)^-1 B^T S``.

    Parameters
    ----------
    estimates : ShiftEstimates
        Their weights contain ``extra``.
    extra : float
        Variance that displacements within a row add to each estimate, px squared.
    eigenvalues : ndarray of shape (n_y,)
        Eigenvalues of S, px^-2.
    eigenvectors : ndarray of shape (n_y, n_y)
    score : ndarray of shape (n_y,)
        S times the estimated displacements, px^-1. Without displacements its covariance is S.
    prior : LatticePrior or None
        Prior of the columns' positions; None leaves them free.
    factors : SuperLU or None
        Factorisation of ``diag(sum_y w_cy) + P``.
    eliminated : ndarray of shape (n_y, n_y) or None
        ``I - S B (B^T S B)^-1 B^T``, by which scores are multiplied.
    """

    estimates: ShiftEstimates
    extra: float
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    score: NDArray[np.float64]
    prior: LatticePrior | None = None
    factors: SuperLU | None = None
    eliminated: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        estimates: ShiftEstimates,
        extra: float = 0.0,
        prior: LatticePrior | None = None,
        ambiguous: NDArray | None = None,
    ) -> RowInformation:
        """From estimates; displacements within a row add the variance ``extra``, px squared, to each. ``ambiguous`` is
        the basis B ``(n_y, n)`` of displacements that may be the specimen's.
        """
        if extra > 0:
            estimates = estimates.reweighted(estimates.weight / (1 + extra * estimates.weight))
        weight, factors = estimates.weight, None
        matrix = np.diag(weight.sum(0))
        for mode in _free_modes(estimates, prior):
            matrix = matrix - mode.T @ mode
        if prior is not None:
            by_column = weight.sum(1)
            factors = splu((sparse.diags(by_column + 1e-9 * by_column.max()) + prior.precision).tocsc())
            matrix = matrix - weight.T @ factors.solve(weight)
        eliminated = None
        if ambiguous is not None and ambiguous.shape[1]:
            product = matrix @ ambiguous
            inverse = np.linalg.pinv(ambiguous.T @ product, hermitian=True)
            eliminated = np.eye(len(matrix)) - product @ inverse @ ambiguous.T
            matrix = eliminated @ matrix
        values, vectors = np.linalg.eigh(matrix)
        unknown = np.full(len(matrix), math.nan)
        found = cls(estimates, extra, np.maximum(values, 0.0), vectors, unknown, prior, factors, eliminated)
        return found.with_shift(estimates.shift)

    def score_of(self, shift: NDArray) -> NDArray[np.float64]:
        """Score of other displacements ``(n_columns, n_y)`` at the same columns, along the eigenvectors."""
        return self.eigenvectors.T @ self._score(shift)

    def with_shift(self, shift: NDArray) -> RowInformation:
        """The same with other displacements ``(n_columns, n_y)`` at the same columns."""
        return replace(self, score=self._score(shift), estimates=replace(self.estimates, shift=shift))

    def _score(self, shift: NDArray) -> NDArray[np.float64]:
        score = _score(self.estimates, shift, self.prior, self.factors)
        return score if self.eliminated is None else self.eliminated @ score

    def mean_pair_covariance(self, factor: NDArray) -> float:
        """Mean covariance of the estimates at two columns of a row, less what the columns' positions absorb.

        The displacements have the covariance ``factor factor^T``, px squared.
        """
        squared = ((self.eigenvectors.T @ factor) ** 2).sum(1)
        return float((self.eigenvalues**2 * squared).sum() / max(float((self.eigenvalues**2).sum()), TINY))

    def rotated_score(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Score along the eigenvectors, 0 along those without information; and those with information."""
        known = self.eigenvalues > 1e-9 * self.eigenvalues.max()
        return np.where(known, self.eigenvectors.T @ self.score, 0.0), known

    def jitter_variance(self) -> float:
        """Variance (px squared) of the displacements of independent rows, by maximum likelihood: the minimum of
        ``sum(log v + z^2 / v)``, ``v = lambda + s lambda^2``, for the score z along the eigenvectors.
        """
        score, known = self.rotated_score()
        values, score = self.eigenvalues[known], score[known]

        def cost(log_s: float) -> float:
            v = values + np.exp(log_s) * values**2
            return float((np.log(v) + score**2 / v).sum())

        at_zero = float((np.log(values) + score**2 / values).sum())
        bounds = np.log(LEAST_VARIANCE), np.log(LARGEST_VARIANCE)
        found = optimize.minimize_scalar(cost, bounds=bounds, method="bounded")
        return float(np.exp(found.x)) if found.fun < at_zero - 1e-6 else 0.0

    def spectrum(self) -> RowSpectrum:
        """Spectrum of the displacements."""
        typical = 1 / max(float(self.eigenvalues.mean()), TINY)
        variance = max(self.jitter_variance(), LEAST_FILTERED * typical)
        return row_spectrum(self.eigenvalues, self.eigenvectors, self.score, variance)


def _free_modes(estimates: ShiftEstimates, prior: LatticePrior | None) -> NDArray[np.float64]:
    return estimates.weighted_modes()[0 if prior is None else 1 :]


def _score(
    estimates: ShiftEstimates, shift: NDArray, prior: LatticePrior | None, factors: SuperLU | None
) -> NDArray[np.float64]:
    weighted = estimates.weight * shift
    score = weighted.sum(0)
    for mode in _free_modes(estimates, prior):
        score = score - mode.T @ (mode * shift).sum(1)
    if prior is None or factors is None:
        return score
    return score - estimates.weight.T @ factors.solve(weighted.sum(1) + prior.score)
