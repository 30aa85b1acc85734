"""A symmetric matrix that is decomposed when it is first needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.linalg import lapack

__all__ = ["SymmetricMatrix", "Tridiagonal"]


@dataclass(frozen=True)
class Tridiagonal:
    """``Q T Q^T`` of a symmetric matrix with T tridiagonal and Q orthogonal: a third of the time of eigenvectors.

    Parameters
    ----------
    diagonal : ndarray of shape (n,)
    off_diagonal : ndarray of shape (n - 1,)
        The elements of T on the diagonal and next to it.
    reflectors : ndarray of shape (n, n)
    factors : ndarray of shape (n - 1,)
        Q as the product of Householder reflections, in the form of LAPACK's ``dsytrd``.
    """

    diagonal: NDArray[np.float64]
    off_diagonal: NDArray[np.float64]
    reflectors: NDArray[np.float64]
    factors: NDArray[np.float64]

    @classmethod
    def of(cls, matrix: NDArray) -> Tridiagonal:
        """The tridiagonal form of a matrix ``(n, n)``, of which the lower triangle is used."""
        size = int(lapack.dsytrd_lwork(len(matrix), lower=1)[0])
        reflectors, diagonal, off_diagonal, factors, _ = lapack.dsytrd(matrix, lower=1, lwork=size)
        return cls(diagonal, off_diagonal, reflectors, factors)

    @cached_property
    def eigenvalues(self) -> NDArray[np.float64]:
        """Eigenvalues ``(n,)`` in ascending order."""
        return np.asarray(linalg.eigvalsh_tridiagonal(self.diagonal, self.off_diagonal))

    def rotated(self, vector: NDArray) -> NDArray[np.float64]:
        """``Q^T v``."""
        return self._reflected(vector, range(len(self.factors)))

    def rotated_back(self, vector: NDArray) -> NDArray[np.float64]:
        """``Q v``."""
        return self._reflected(vector, range(len(self.factors) - 1, -1, -1))

    def shrunk(self, factor: float, vector: NDArray) -> NDArray[np.float64]:
        """``(I + factor T)^-1 v``, for a matrix without negative eigenvalues."""
        return np.asarray(lapack.dptsv(1 + factor * self.diagonal, factor * self.off_diagonal, vector)[2])

    def _reflected(self, vector: NDArray, order: range) -> NDArray[np.float64]:
        out = np.array(vector, dtype=np.float64)
        for i in order:
            below, tail = self.reflectors[i + 2 :, i], out[i + 2 :]
            step = self.factors[i] * (out[i + 1] + below @ tail)
            out[i + 1] -= step
            tail -= step * below
        return out


@dataclass(frozen=True)
class SymmetricMatrix:
    """A symmetric matrix ``(n, n)`` without negative eigenvalues, up to rounding errors."""

    values: NDArray[np.float64]

    @cached_property
    def _decomposed(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values, vectors = np.linalg.eigh(self.values)
        return np.maximum(values, 0.0), vectors

    @property
    def eigenvalues(self) -> NDArray[np.float64]:
        """Eigenvalues ``(n,)`` in ascending order, at least 0."""
        return self._decomposed[0]

    @property
    def eigenvectors(self) -> NDArray[np.float64]:
        """Eigenvectors ``(n, n)`` as columns."""
        return self._decomposed[1]

    @cached_property
    def tridiagonal(self) -> Tridiagonal:
        """The tridiagonal form."""
        return Tridiagonal.of(self.values)
