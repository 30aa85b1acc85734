"""The spectrum of the displacements of the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["RowSpectrum", "row_spectrum", "slow_factor", "slow_spectrum"]

#: A Gaussian filter reaches this many sigmas beyond the image.
REACH = 4.5


@dataclass(frozen=True)
class RowSpectrum:
    """Spectrum of the estimated displacements of the rows, in the order of the frequencies of a cosine transform.

    Parameters
    ----------
    frequency : ndarray of shape (n,)
        Cycles per row.
    ordinate : ndarray of shape (n,)
        Cosine transform of the estimated displacements, px.
    noise : ndarray of shape (n,)
        Its variance where nothing is displaced, px squared.
    window : ndarray of shape (n, n_y)
        Variance of each ordinate for a unit variance of each frequency of the displacements.
    response : ndarray of shape (n, n_y)
        Ordinates as a linear function of the displacements.
    """

    frequency: NDArray[np.float64]
    ordinate: NDArray[np.float64]
    noise: NDArray[np.float64]
    window: NDArray[np.float64]
    response: NDArray[np.float64]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.response.shape[1]

    def above(self, frequency: float) -> RowSpectrum:
        """The ordinates of higher frequencies."""
        keep = self.frequency >= frequency
        return RowSpectrum(*(getattr(self, f.name)[keep] for f in fields(self)))


def row_spectrum(values: NDArray, vectors: NDArray, told: NDArray, variance: float) -> RowSpectrum:
    """Spectrum of the displacements, estimated by a Wiener filter for independent rows.

    Parameters
    ----------
    values : ndarray of shape (n_y,)
        Eigenvalues of the information on the rows' displacements, px^-2.
    vectors : ndarray of shape (n_y, n_y)
        Its eigenvectors.
    told : ndarray of shape (n_y,)
        The information times the estimated displacements.
    variance : float
        Variance of the displacements for which the filter is made, px squared.
    """
    n = len(values)
    gain = variance / (1 + variance * values)
    waves = fft.dct(vectors, axis=0, norm="ortho")
    filtered = waves * gain
    response = (filtered * values) @ vectors.T
    return RowSpectrum(
        np.arange(n) / (2 * n),
        filtered @ (vectors.T @ told),
        (filtered**2 * values).sum(1),
        fft.dct(response, axis=1, norm="ortho") ** 2,
        response,
    )


def slow_factor(n: int, rows: float) -> NDArray[np.float64]:
    """Factor ``(n, n_knots)`` of the covariance ``exp(-k^2 / (4 rows^2))``: its product with its transpose."""
    apart = max(rows, 1.0)
    beyond = math.ceil(REACH * max(rows, 1.0) / apart)
    knots = (np.arange(math.ceil((n - 1) / apart) + 1 + 2 * beyond) - beyond) * apart
    gaussian = np.exp(-0.5 * ((np.arange(n)[:, None] - knots) / rows) ** 2)
    return gaussian / np.linalg.norm(gaussian, axis=1, keepdims=True)


def slow_spectrum(n: int, rows: float) -> NDArray[np.float64]:
    """Variances ``(n,)`` of the orthonormal cosine transform of a drift of unit variance."""
    factor = slow_factor(n, rows)
    return (fft.dct(factor, axis=0, norm="ortho") ** 2).sum(1)
