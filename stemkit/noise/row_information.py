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
from stemkit.noise.symmetric_matrix import SymmetricMatrix

__all__ = ["RowInformation"]

#: Least variance of the displacements for which their spectrum is estimated, over that of the noise of a typical row
#: (chosen).
MIN_FILTERED = 0.1
#: Least variance of the displacements that is searched for, px squared (chosen).
MIN_VARIANCE = 1e-7
#: Largest variance of the displacements that is searched for, px squared (chosen).
MAX_VARIANCE = 100.0


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
    matrix : SymmetricMatrix
        S, px^-2.
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
    matrix: SymmetricMatrix
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
        """The information in estimates, to each of which displacements within a row add the variance ``extra``, px
        squared. ``ambiguous`` is the basis B ``(n_y, n)`` of displacements that may be the specimen's.
        """
        if extra > 0:
            estimates = estimates.reweighted(estimates.weight / (1 + extra * estimates.weight))
        weight, factors = estimates.weight, None
        matrix = np.diag(estimates.by_row(weight)) - estimates.row_products(_free_modes(estimates, prior))
        if prior is not None:
            by_column, by_row = weight.sum(1), estimates.sparse(weight)
            factors = splu((sparse.diags(by_column + 1e-9 * by_column.max()) + prior.precision).tocsc())
            matrix = matrix - by_row.T @ factors.solve(by_row.toarray())
        eliminated = None
        if ambiguous is not None and ambiguous.shape[1]:
            product = matrix @ ambiguous
            inverse = np.linalg.pinv(ambiguous.T @ product, hermitian=True)
            eliminated = np.eye(len(matrix)) - product @ inverse @ ambiguous.T
            matrix = matrix - product @ inverse @ product.T
        unknown = np.full(len(matrix), math.nan)
        found = cls(estimates, extra, SymmetricMatrix(matrix), unknown, prior, factors, eliminated)
        return found.with_shift(estimates.shift)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.estimates.n_rows

    @property
    def eigenvalues(self) -> NDArray[np.float64]:
        """Eigenvalues ``(n_y,)`` of S, px^-2."""
        return self.matrix.eigenvalues

    @property
    def eigenvectors(self) -> NDArray[np.float64]:
        """Eigenvectors ``(n_y, n_y)`` of S, as columns."""
        return self.matrix.eigenvectors

    def score_of(self, shift: NDArray) -> NDArray[np.float64]:
        """Score of other displacements ``(n_columns, n_window)`` at the same columns, along the eigenvectors."""
        return self.eigenvectors.T @ self._score(shift)

    def with_shift(self, shift: NDArray) -> RowInformation:
        """The same with other displacements ``(n_columns, n_window)`` at the same columns."""
        return replace(self, score=self._score(shift), estimates=replace(self.estimates, shift=shift))

    def _score(self, shift: NDArray) -> NDArray[np.float64]:
        score = _score(self.estimates, shift, self.prior, self.factors)
        return score if self.eliminated is None else self.eliminated @ score

    def mean_pair_covariance(self, factor: NDArray) -> float:
        """Mean covariance of the estimates at two columns of a row, less the part that the columns' positions absorb.

        The displacements have the covariance ``factor factor^T``, px squared.
        """
        matrix = self.matrix.values
        return float(((matrix @ factor) ** 2).sum() / max(float((matrix**2).sum()), TINY))

    def jitter_variance(self) -> float:
        """Variance (px squared) s of the displacements of independent rows, by maximum likelihood.

        Minus twice its logarithm is ``log det(I + s S) - s z^T (I + s S)^-1 z`` for the score z, less that of s = 0.
        """
        reduced = self.matrix.tridiagonal
        score, values = reduced.rotated(self.score), np.maximum(reduced.eigenvalues, 0.0)

        def cost(log_s: float) -> float:
            s = math.exp(log_s)
            return float(np.log1p(s * values).sum() - s * (score @ reduced.shrunk(s, score)))

        bounds = np.log(MIN_VARIANCE), np.log(MAX_VARIANCE)
        found = optimize.minimize_scalar(cost, bounds=bounds, method="bounded")
        return float(np.exp(found.x)) if found.fun < -1e-6 else 0.0

    def spectrum(self) -> RowSpectrum:
        """Spectrum of the displacements."""
        typical = self.n_rows / max(float(np.trace(self.matrix.values)), TINY)
        variance = max(self.jitter_variance(), MIN_FILTERED * typical)
        return row_spectrum(self.eigenvalues, self.eigenvectors, self.score, variance)


def _free_modes(estimates: ShiftEstimates, prior: LatticePrior | None) -> NDArray[np.float64]:
    return estimates.weighted_modes()[0 if prior is None else 1 :]


def _score(
    estimates: ShiftEstimates, shift: NDArray, prior: LatticePrior | None, factors: SuperLU | None
) -> NDArray[np.float64]:
    weighted = estimates.weight * shift
    free = weighted.copy()
    for mode in _free_modes(estimates, prior):
        free -= mode * (mode * shift).sum(1, keepdims=True)
    if prior is not None and factors is not None:
        free -= estimates.weight * factors.solve(weighted.sum(1) + prior.score)[:, None]
    return estimates.by_row(free)
