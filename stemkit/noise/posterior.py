"""Posterior distribution of the drift and the jitter of the rows, given the estimated displacements."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stemkit.noise.displacement_parts import DisplacementParts
from stemkit.noise.spectrum import drift_factor

__all__ = ["RowPosterior"]


@dataclass(frozen=True)
class RowPosterior:
    """Distribution of the rows' displacements for given variances of jitter and drift.

    With the eigenvalues lambda and eigenvectors Q of the information, and the covariance ``jitter^2 1 + drift^2 B B^T``
    of the displacements, the drift is ``drift B c`` with ``c ~ N(0, 1)``, whose posterior covariance is
    ``(1 + drift^2 B^T Q diag(lambda / (1 + jitter^2 lambda)) Q^T B)^-1``.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n_y,)
        Of the information, px^-2.
    eigenvectors : ndarray of shape (n_y, n_y)
    jitter_variance : float
        px squared.
    factor : ndarray of shape (n_y, n_knots)
        ``drift B``; of shape ``(n_y, 0)`` without drift.
    rotated_factor : ndarray of shape (n_y, n_knots)
        ``Q^T drift B``.
    covariance : ndarray of shape (n_knots, n_knots)
        Posterior covariance of c.
    strain : ndarray of shape (n_y, n)
        Slow displacements with a flat prior, along the eigenvectors: they may be the specimen's.
    """

    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    jitter_variance: float
    factor: NDArray[np.float64]
    rotated_factor: NDArray[np.float64]
    covariance: NDArray[np.float64]
    strain: NDArray[np.float64]

    @classmethod
    def of(
        cls, eigenvalues: NDArray, eigenvectors: NDArray, parts: DisplacementParts, *, slowest: float = 0.0
    ) -> RowPosterior:
        """From the information on the rows; displacements below ``slowest`` cycles per row may be the specimen's."""
        n = len(eigenvalues)
        eigenvalues = eigenvalues / max(parts.noise, 1e-3)
        factor = parts.drift * drift_factor(n, parts.drift_rows) if parts.drift else np.empty((n, 0))
        rotated = eigenvectors.T @ factor
        strain = eigenvectors.T @ fft.idct(np.eye(n)[:, 1 : math.ceil(2 * n * slowest)], axis=0, norm="ortho")
        prior = cls(eigenvalues, eigenvectors, parts.jitter**2, factor, rotated, np.empty((0, 0)), strain)
        information = rotated.T @ prior._without_strain(prior._combined_weight[:, None] * rotated)
        precision: NDArray[np.float64] = np.eye(factor.shape[1]) + information
        return replace(prior, covariance=np.asarray(np.linalg.inv(precision), dtype=np.float64))

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

    def covariance_times(self, score: NDArray) -> NDArray[np.float64]:
        """The posterior covariance of the displacements times vectors along the eigenvectors."""
        kept = (1 - self.shrinkage)[:, None]
        drift = self.rotated_factor @ (self.covariance @ (self.rotated_factor.T @ (kept * score)))
        return self._jitter_posterior[:, None] * score + kept * drift

    def drift(self, score: NDArray, parts: DisplacementParts) -> tuple[NDArray[np.float64], DisplacementParts]:
        """Expected drift of each row, px, and the parts with its RMS in this image and the error of the RMS.

        Parameters
        ----------
        score : ndarray of shape (n_y,)
            Along the eigenvectors, without the hum.
        parts : DisplacementParts
        """
        n = len(self.eigenvalues)
        if not parts.drift:
            return np.zeros(n), parts
        expected = self.factor @ self._coefficients(score / parts.noise)
        expected -= expected.mean()
        centred = self.factor - self.factor.mean(0)
        uncertain = self.covariance @ (centred.T @ centred)
        mean_square = float((expected**2).sum() + np.trace(uncertain)) / n
        projected = centred.T @ expected
        variance = 2 * float((uncertain * uncertain.T).sum()) + 4 * float(projected @ self.covariance @ projected)
        # where the estimates do not determine the drift, the error of its RMS is that of the fit
        prior = float(np.trace(uncertain)) / n / parts.drift**2 * parts.std["drift^2"]
        rms = math.sqrt(mean_square)
        std = math.hypot(math.sqrt(variance) / n, prior) / (2 * rms)
        return expected, replace(parts, drift=rms, std={**parts.std, "drift": std})

    def jitter(self, score: NDArray, parts: DisplacementParts) -> tuple[float, float]:
        """Mean square of the jitter in this image, px squared, and its standard deviation."""
        n, variance = len(self.eigenvalues), self.jitter_variance
        score = score / parts.noise
        shrunk = score / (1 + variance * self.eigenvalues)
        drift = self.rotated_factor @ self._coefficients(score)
        slow = drift + self._strain(shrunk - self._combined_weight * drift)
        expected = variance * (shrunk - self._combined_weight * slow)
        own = self._jitter_posterior
        shared = self.covariance @ (self.rotated_factor.T @ (self.shrinkage[:, None] ** 2 * self.rotated_factor))
        uncertain = float(own.sum() + np.trace(shared))
        mean = float((self.eigenvectors @ expected).mean())
        mean_square = max(float((expected**2).sum() + uncertain) / n - mean**2 - variance / n, 0.0)
        scatter = 2 * float((own**2).sum() + (shared * shared.T).sum()) + 4 * float((expected**2 * own).sum())
        prior = uncertain / n / max(variance, 1e-300) * parts.std["jitter^2"]
        return mean_square, math.hypot(math.sqrt(scatter) / n, prior)

    def _coefficients(self, score: NDArray) -> NDArray[np.float64]:
        shrunk = score / (1 + self.jitter_variance * self.eigenvalues)
        return self.covariance @ (self.rotated_factor.T @ self._without_strain(shrunk))

    def _strain(self, score: NDArray) -> NDArray[np.float64]:
        """Slow displacements, along the eigenvectors, that fit the score best, with jitter as noise."""
        weighted = self._combined_weight[:, None] * self.strain
        floor = 1e-12 * max(float(self.eigenvalues.max()), 1e-300)
        information = self.strain.T @ weighted + floor * np.eye(self.strain.shape[1])
        return self.strain @ np.linalg.solve(information, self.strain.T @ score)

    def _without_strain(self, score: NDArray) -> NDArray[np.float64]:
        """Score of displacements whose slow part is unknown."""
        weight = self._combined_weight
        return score - (weight[:, None] if score.ndim == 2 else weight) * self._strain(score)
