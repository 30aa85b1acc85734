"""What is expected of the drift and the jitter of the rows, given the readings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stemkit.noise.displacements import RowParts, slow_factor

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
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]
    squared: float
    factor: NDArray[np.float64]
    turned: NDArray[np.float64]
    open: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray, vectors: NDArray, parts: RowParts) -> RowPosterior:
        n, squared = len(values), parts.jitter**2
        values = values / max(parts.noise, 1e-3)
        factor = parts.drift * slow_factor(n, parts.drift_rows) if parts.drift else np.empty((n, 0))
        turned = vectors.T @ factor
        told = turned.T @ ((values / (1 + squared * values))[:, None] * turned)
        return cls(values, vectors, squared, factor, turned, np.linalg.inv(np.eye(factor.shape[1]) + told))

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
        drift = self.turned @ self._coefficients(told)
        expected = self.squared / (1 + self.squared * self.values) * (told - self.values * drift)
        own = self.squared / (1 + self.squared * self.values)
        shared = self.open @ (self.turned.T @ (self.absorbed[:, None] ** 2 * self.turned))
        left = float(own.sum() + np.trace(shared))
        mean = float((self.vectors @ expected).mean())
        mean_square = max(float((expected**2).sum() + left) / n - mean**2 - self.squared / n, 0.0)
        variance = 2 * float((own**2).sum() + (shared * shared.T).sum()) + 4 * float((expected**2 * own).sum())
        prior = left / n / max(self.squared, 1e-300) * parts.std["jitter^2"]
        return mean_square, math.hypot(math.sqrt(variance) / n, prior)

    def seen_in_pairs(self, mean_square: float) -> float:
        """Mean covariance of the readings of two columns of a row that a drift of this mean square makes, as far as
        the columns' own places do not take it.
        """
        if not self.factor.shape[1]:
            return 0.0
        scale = mean_square / max(float((self.factor**2).sum(1).mean()), 1e-300)
        return scale * float((self.values**2 * (self.turned**2).sum(1)).sum() / (self.values**2).sum())

    def line_in_pairs(self, frequency: float) -> float:
        """The same for a line of unit mean square."""
        if math.isnan(frequency):
            return 0.0
        angle = 2 * np.pi * frequency * np.arange(len(self.values))
        waves = self.vectors.T @ np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return float((self.values**2 * (waves**2).sum(1)).sum() / (self.values**2).sum())

    def _coefficients(self, told: NDArray) -> NDArray[np.float64]:
        return self.open @ (self.turned.T @ (told / (1 + self.squared * self.values)))


def _square(vector: NDArray, matrix: NDArray) -> float:
    return float(vector @ matrix @ vector)
