"""What is expected of the drift and the jitter of the rows, given the readings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stemkit.noise.displacements import RowParts
from stemkit.noise.spectrum import slow_factor

__all__ = ["RowPosterior"]


@dataclass(frozen=True)
class RowPosterior:
    """Distribution of the rows' displacements for given variances of jitter and drift.

    With the eigenvalues lambda and eigenvectors Q of the information, and the covariance ``jitter^2 1 + drift^2 B B^T``
    of the displacements, the drift is ``drift B c`` with ``c ~ N(0, 1)``, whose covariance given the readings is
    ``(1 + drift^2 B^T Q diag(lambda / (1 + jitter^2 lambda)) Q^T B)^-1``.

    Parameters
    ----------
    values : ndarray of shape (n_y,)
        Eigenvalues of the information, px^-2.
    vectors : ndarray of shape (n_y, n_y)
        Its eigenvectors.
    squared : float
        Variance of the jitter, px squared.
    factor : ndarray of shape (n_y, n_knots)
        ``drift B``; of shape ``(n_y, 0)`` without drift.
    turned : ndarray of shape (n_y, n_knots)
        ``Q^T drift B``.
    open : ndarray of shape (n_knots, n_knots)
        Covariance of c given the readings.
    strain : ndarray of shape (n_y, n)
        Slow displacements, along the eigenvectors, of which nothing is known before the rows are read: the specimen's.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    squared: float
    factor: NDArray[np.float64]
    turned: NDArray[np.float64]
    open: NDArray[np.float64]
    strain: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray, vectors: NDArray, parts: RowParts, *, slowest: float = 0.0) -> RowPosterior:
        """From the information on the rows; displacements below ``slowest`` cycles per row may be the specimen's."""
        n, squared = len(values), parts.jitter**2
        values = values / max(parts.noise, 1e-3)
        factor = parts.drift * slow_factor(n, parts.drift_rows) if parts.drift else np.empty((n, 0))
        turned = vectors.T @ factor
        strain = vectors.T @ fft.idct(np.eye(n)[:, 1 : math.ceil(2 * n * slowest)], axis=0, norm="ortho")
        empty = cls(values, vectors, squared, factor, turned, np.empty((0, 0)), strain)
        told = turned.T @ empty._without_strain((values / (1 + squared * values))[:, None] * turned)
        known: NDArray[np.float64] = np.eye(factor.shape[1]) + told
        return replace(empty, open=np.asarray(np.linalg.inv(known), dtype=np.float64))

    @property
    def absorbed(self) -> NDArray[np.float64]:
        """Fraction of a displacement along each eigenvector that is taken for jitter."""
        return self.squared * self.values / (1 + self.squared * self.values)

    def covariance_times(self, told: NDArray) -> NDArray[np.float64]:
        """The covariance of the displacements given the readings, times vectors along the eigenvectors."""
        shrunk = (self.squared / (1 + self.squared * self.values))[:, None] * told
        kept = (1 - self.absorbed)[:, None]
        return shrunk + kept * (self.turned @ (self.open @ (self.turned.T @ (kept * told))))

    def drift(self, told: NDArray, parts: RowParts) -> tuple[NDArray[np.float64], RowParts]:
        """Expected drift of each row, px, and the parts with its RMS in this image and the error of that.

        Parameters
        ----------
        told : ndarray of shape (n_y,)
            Along the eigenvectors, without the hum.
        parts : RowParts
        """
        n = len(self.values)
        if not parts.drift:
            return np.zeros(n), parts
        expected = self.factor @ self._coefficients(told / parts.noise)
        expected -= expected.mean()
        centred = self.factor - self.factor.mean(0)
        left = self.open @ (centred.T @ centred)
        mean_square = float((expected**2).sum() + np.trace(left)) / n
        variance = 2 * float((left * left.T).sum()) + 4 * float(_square(centred.T @ expected, self.open))
        # as far as the readings leave the drift open its RMS is that of the fit
        prior = float(np.trace(left)) / n / parts.drift**2 * parts.std["drift^2"]
        std = math.hypot(math.sqrt(variance) / n, prior)
        return expected, replace(
            parts, drift=math.sqrt(mean_square), std={**parts.std, "drift": std / (2 * math.sqrt(mean_square))}
        )

    def jitter(self, told: NDArray, parts: RowParts) -> tuple[float, float]:
        """Mean square of the jitter in this image, px squared, and its standard deviation."""
        n = len(self.values)
        told = told / parts.noise
        shrunk = told / (1 + self.squared * self.values)
        drift = self.turned @ self._coefficients(told)
        slow = drift + self._strain(shrunk - self.values / (1 + self.squared * self.values) * drift)
        expected = self.squared * (shrunk - self.values / (1 + self.squared * self.values) * slow)
        own = self.squared / (1 + self.squared * self.values)
        shared = self.open @ (self.turned.T @ (self.absorbed[:, None] ** 2 * self.turned))
        left = float(own.sum() + np.trace(shared))
        mean = float((self.vectors @ expected).mean())
        mean_square = max(float((expected**2).sum() + left) / n - mean**2 - self.squared / n, 0.0)
        variance = 2 * float((own**2).sum() + (shared * shared.T).sum()) + 4 * float((expected**2 * own).sum())
        prior = left / n / max(self.squared, 1e-300) * parts.std["jitter^2"]
        return mean_square, math.hypot(math.sqrt(variance) / n, prior)

    def _coefficients(self, told: NDArray) -> NDArray[np.float64]:
        return self.open @ (self.turned.T @ self._without_strain(told / (1 + self.squared * self.values)))

    def _strain(self, told: NDArray) -> NDArray[np.float64]:
        """The slow displacements that the readings, combined over jitter, are nearest to, along the eigenvectors."""
        information = (self.values / (1 + self.squared * self.values))[:, None] * self.strain
        seen = self.strain.T @ information + 1e-12 * np.eye(self.strain.shape[1]) * max(
            float(self.values.max()), 1e-300
        )
        return self.strain @ np.linalg.solve(seen, self.strain.T @ told)

    def _without_strain(self, told: NDArray) -> NDArray[np.float64]:
        """What is told of displacements of which the slow ones are unknown."""
        weight = self.values / (1 + self.squared * self.values)
        strain = self._strain(told)
        return told - (weight[:, None] if told.ndim == 2 else weight) * strain


def _square(vector: NDArray, matrix: NDArray) -> float:
    return float(vector @ matrix @ vector)
