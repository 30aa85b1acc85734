"""Spectrum of the displacements of the rows, and that of a drift."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["RowSpectrum", "band_basis", "drift_factor", "drift_spectrum", "in_bands", "row_spectrum"]

#: A Gaussian filter extends this many sigmas beyond the image (chosen: less than 1e-5 of its weight is beyond).
REACH = 4.5
#: Number of spectra of drifts that are kept for other fits (chosen: about twice those of an image).
KEPT_SPECTRA = 128


@dataclass(frozen=True)
class RowSpectrum:
    """Cosine transform of the estimated displacements of the rows, in the order of the frequencies.

    Parameters
    ----------
    frequency : ndarray of shape (n,)
        Cycles per row.
    ordinate : ndarray of shape (n,)
        Cosine transform of the estimated displacements, px.
    noise : ndarray of shape (n,)
        Its variance without displacements, px squared.
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
        """The ordinates of this frequency and higher ones."""
        return self.highest(int((self.frequency >= frequency).sum()))

    def highest(self, n: int) -> RowSpectrum:
        """The ordinates of the n highest frequencies."""
        first = len(self.frequency) - n
        return RowSpectrum(*(getattr(self, f.name)[first:] for f in fields(self)))


def row_spectrum(eigenvalues: NDArray, eigenvectors: NDArray, score: NDArray, variance: float) -> RowSpectrum:
    """Spectrum of the displacements, estimated by a Wiener filter for independent rows.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n_y,)
        Eigenvalues of the information on the rows' displacements, px^-2.
    eigenvectors : ndarray of shape (n_y, n_y)
    score : ndarray of shape (n_y,)
        The information times the estimated displacements.
    variance : float
        Variance of the displacements for which the filter is made, px squared.
    """
    n = len(eigenvalues)
    gain = variance / (1 + variance * eigenvalues)
    filtered = fft.dct(eigenvectors, axis=0, norm="ortho") * gain
    response = (filtered * eigenvalues) @ eigenvectors.T
    return RowSpectrum(
        frequency=np.arange(n) / (2 * n),
        ordinate=filtered @ (eigenvectors.T @ score),
        noise=(filtered**2 * eigenvalues).sum(1),
        window=fft.dct(response, axis=1, norm="ortho") ** 2,
        response=response,
    )


def drift_factor(n: int, rows: float) -> NDArray[np.float64]:
    """Factor B ``(n, n_knots)`` of the covariance ``exp(-k^2 / (4 rows^2))`` of a drift of unit variance, ``B B^T``."""
    apart = max(rows, 1.0)
    beyond = math.ceil(REACH * max(rows, 1.0) / apart)
    knots = (np.arange(math.ceil((n - 1) / apart) + 1 + 2 * beyond) - beyond) * apart
    gaussian = np.exp(-0.5 * ((np.arange(n)[:, None] - knots) / rows) ** 2)
    return gaussian / np.linalg.norm(gaussian, axis=1, keepdims=True)


@lru_cache(maxsize=KEPT_SPECTRA)
def drift_spectrum(n: int, rows: float) -> NDArray[np.float64]:
    """Variances ``(n,)`` of the orthonormal cosine transform of a drift of unit variance; not to be changed."""
    spectrum = (fft.dct(drift_factor(n, rows), axis=0, norm="ortho") ** 2).sum(1)
    spectrum.flags.writeable = False
    return spectrum


def band_basis(n: int, bands: NDArray | None) -> NDArray[np.float64]:
    """Cosines ``(n, n_cosines)`` of the orthonormal transform in bands of the frequency ``(n_bands, 2)``, cycles per
    row; never the constant.
    """
    inside = in_bands(np.arange(1, n) / (2 * n), bands)
    return fft.idct(np.eye(n)[:, 1 + np.flatnonzero(inside)], axis=0, norm="ortho")


def in_bands(frequency: NDArray, bands: NDArray | None) -> NDArray[np.bool_]:
    """Whether each frequency is in one of the bands ``(n_bands, 2)``; None are no bands."""
    inside = np.zeros(frequency.shape, dtype=bool)
    for low, high in [] if bands is None else bands:
        inside |= (frequency >= low) & (frequency <= high)
    return inside
