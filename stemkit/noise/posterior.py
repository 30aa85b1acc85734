"""Posterior distribution of the drift and the jitter of the rows, given the estimated displacements."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stemkit.noise.constants import TINY
from stemkit.noise.displacement_parts import DisplacementParts
from stemkit.noise.spectrum import band_basis, drift_factor

__all__ = ["RowPosterior"]


@dataclass(frozen=True)
class RowPosterior:
    """Distribution of the rows' displacements for given variances of jitter and drift.

    Let ``Q diag(lambda) Q^T`` be the Fisher information (px^-2) of the n_y row displacements, and
    ``jitter^2 I + drift^2 B B^T`` their prior covariance. The drift is ``drift B c`` with ``c ~ N(0, I)``, and the
    posterior covariance of c is ``(I + drift^2 B^T Q diag(lambda / (1 + jitter^2 lambda)) Q^T B)^-1``.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n_y,)
        Eigenvalues lambda of the information, px^-2.
    eigenvectors : ndarray of shape (n_y, n_y)
        Eigenvectors Q of the information, as columns.
    jitter_variance : float
        Variance of the jitter, px squared.
    factor : ndarray of shape (n_y, n_knots)
        ``drift B``; of shape ``(n_y, 0)`` without drift.
    rotated_factor : ndarray of shape (n_y, n_knots)
        ``Q^T drift B``.
    coefficient_covariance : ndarray of shape (n_knots, n_knots)
        Posterior covariance of c.
    slow_basis : ndarray of shape (n_y, n)
        Slow displacements and those with the period of the lattice, rotated by Q^T, with a flat prior: they may be the
        specimen's.
    """

    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    jitter_variance: float
    factor: NDArray[np.float64]
    rotated_factor: NDArray[np.float64]
    coefficient_covariance: NDArray[np.float64]
    slow_basis: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        eigenvalues: NDArray,
        eigenvectors: NDArray,
        parts: DisplacementParts,
        *,
        min_frequency: float = 0.0,
        excluded: NDArray | None = None,
    ) -> RowPosterior:
        """The posterior given the information on the rows. Displacements below ``min_frequency`` (cycles per row) may
        be strain, those in the ``excluded`` ranges of the frequency may be residuals of the columns.
        """
        n = len(eigenvalues)
        eigenvalues = eigenvalues / parts.noise_factor
        factor = parts.drift * drift_factor(n, parts.drift_rows) if parts.drift else np.empty((n, 0))
        rotated = eigenvectors.T @ factor
        bands = [*([] if excluded is None else excluded), (0.0, np.nextafter(min_frequency, 0.0))]
        slow_basis = eigenvectors.T @ band_basis(n, np.array(bands))
        without_covariance = cls(
            eigenvalues, eigenvectors, parts.jitter**2, factor, rotated, np.empty((0, 0)), slow_basis
        )
        weighted = without_covariance._combined_weight[:, None] * rotated
        information = rotated.T @ without_covariance._score_without_slow_part(weighted)
        precision: NDArray[np.float64] = np.eye(factor.shape[1]) + information
        coefficient_covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        return replace(without_covariance, coefficient_covariance=coefficient_covariance)

    @property
    def shrinkage(self) -> NDArray[np.float64]:
        """Fraction of a displacement along each eigenvector that is attributed to jitter."""
        return self.jitter_variance * self.eigenvalues / (1 + self.jitter_variance * self.eigenvalues)

    @property
    def _combined_weight(self) -> NDArray[np.float64]:
        """Inverse variance of noise and jitter along each eigenvector, px^-2."""
        return self.eigenvalues / (1 + self.jitter_variance * self.eigenvalues)

    @property
    def _jitter_posterior(self) -> NDArray[np.float64]:
        """Posterior variance of the jitter along each eigenvector without drift, px squared."""
        return self.jitter_variance / (1 + self.jitter_variance * self.eigenvalues)

    def apply_displacement_covariance(self, score: NDArray) -> NDArray[np.float64]:
        """Product of the posterior covariance of the displacements and scores.

        Parameters
        ----------
        score : ndarray of shape (n_y, n)
            Information times displacements, rotated by Q^T, px^-1.

        Returns
        -------
        ndarray of shape (n_y, n)
            Expected displacements, rotated by Q^T, px.
        """
        kept = (1 - self.shrinkage)[:, None]
        drift = self.rotated_factor @ (self.coefficient_covariance @ (self.rotated_factor.T @ (kept * score)))
        return self._jitter_posterior[:, None] * score + kept * drift

    def drift(self, score: NDArray, parts: DisplacementParts) -> tuple[NDArray[np.float64], DisplacementParts]:
        """Expected drift of each row, px, and the parts with its RMS in this image and the error of the RMS.

        Parameters
        ----------
        score : ndarray of shape (n_y,)
            Information times estimated displacements without the hum, rotated by Q^T, px^-1.
        parts : DisplacementParts
        """
        n = len(self.eigenvalues)
        if not parts.drift:
            return np.zeros(n), parts
        expected = self.factor @ self._coefficients(score / parts.noise_factor)
        expected -= expected.mean()
        centered = self.factor - self.factor.mean(0)
        uncertain = self.coefficient_covariance @ (centered.T @ centered)
        mean_square = float((expected**2).sum() + np.trace(uncertain)) / n
        projected = centered.T @ expected
        from_mean = float(projected @ self.coefficient_covariance @ projected)
        variance = 2 * float((uncertain * uncertain.T).sum()) + 4 * from_mean
        # where the estimates do not determine the drift, the error of its RMS is that of the fit
        fit_error = float(np.trace(uncertain)) / n / parts.drift**2 * parts.std["drift^2"]
        rms = math.sqrt(mean_square)
        std = math.hypot(math.sqrt(variance) / n, fit_error) / (2 * rms)
        return expected, replace(parts, drift=rms, std={**parts.std, "drift": std})

    def jitter(self, score: NDArray, parts: DisplacementParts) -> tuple[float, float]:
        """Mean square of the jitter in this image, px squared, and its standard deviation.

        Parameters
        ----------
        score : ndarray of shape (n_y,)
            As for :meth:`drift`.
        parts : DisplacementParts
        """
        n, variance = len(self.eigenvalues), self.jitter_variance
        score = score / parts.noise_factor
        shrunk = score / (1 + variance * self.eigenvalues)
        drift = self.rotated_factor @ self._coefficients(score)
        slow = drift + self._fit_slow_part(shrunk - self._combined_weight * drift)
        expected = variance * (shrunk - self._combined_weight * slow)
        own = self._jitter_posterior
        attributed = self.shrinkage[:, None] ** 2 * self.rotated_factor
        shared = self.coefficient_covariance @ (self.rotated_factor.T @ attributed)
        uncertain = float(own.sum() + np.trace(shared))
        mean = float((self.eigenvectors @ expected).mean())
        mean_square = max(float((expected**2).sum() + uncertain) / n - mean**2 - variance / n, 0.0)
        scatter = 2 * float((own**2).sum() + (shared * shared.T).sum()) + 4 * float((expected**2 * own).sum())
        fit_error = uncertain / n / max(variance, TINY) * parts.std["jitter^2"]
        return mean_square, math.hypot(math.sqrt(scatter) / n, fit_error)

    def _coefficients(self, score: NDArray) -> NDArray[np.float64]:
        shrunk = score / (1 + self.jitter_variance * self.eigenvalues)
        return self.coefficient_covariance @ (self.rotated_factor.T @ self._score_without_slow_part(shrunk))

    def _fit_slow_part(self, score: NDArray) -> NDArray[np.float64]:
        """Slow displacements, rotated by Q^T, px, that fit the score best, with jitter as noise.

        The score is the information times displacements, rotated by Q^T, px^-1.
        """
        weighted = self._combined_weight[:, None] * self.slow_basis
        floor = 1e-12 * max(float(self.eigenvalues.max()), TINY)
        information = self.slow_basis.T @ weighted + floor * np.eye(self.slow_basis.shape[1])
        return self.slow_basis @ np.linalg.solve(information, self.slow_basis.T @ score)

    def _score_without_slow_part(self, score: NDArray) -> NDArray[np.float64]:
        """Score, px^-1, of displacements whose slow part is unknown."""
        weight = self._combined_weight
        return score - (weight[:, None] if score.ndim == 2 else weight) * self._fit_slow_part(score)
