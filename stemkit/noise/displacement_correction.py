"""Covariance of the noise along the row, corrected for displacements of the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemkit.noise.constants import TINY
from stemkit.noise.differences import difference_std, difference_variance, row_difference, rows_without
from stemkit.noise.registration import BeamDisplacement

__all__ = ["DisplacedSlope", "NoiseDifferences", "RowCovariance", "covariance_without_displacements"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the correction."""

    #: Pixels beyond this many robust standard deviations are dead, hot or hit by a cosmic ray (chosen).
    outlier: float = 10.0
    #: Quantiles of an image are those of every n-th column of pixels (chosen).
    thinned: int = 4
    #: Lags, px, at which pointwise noise is negligible and streaks are not (chosen).
    streak_lags: tuple[int, ...] = (4, 5, 6, 7, 8)
    #: Longest lag as a fraction of the row (chosen).
    farthest: float = 0.5
    #: Rows in a block; the scatter of the blocks gives the error of a regression (chosen).
    row_block: int = 16
    #: Residual displacements are subtracted from this many standard deviations (chosen).
    significant: float = 3.0
    #: Least fraction of the variance that is left by the subtraction of displacements (chosen).
    min_left: float = 0.01


CONSTANTS = _Constants()


@dataclass(frozen=True)
class DisplacedSlope:
    """Slope of the signal along one axis, to which the noise added by a displacement along it is proportional.

    Parameters
    ----------
    slope : ndarray of shape (n_y, n_x)
        Contrast per px.
    displacement : BeamDisplacement or None
        Displacement of the fitted columns that were subtracted.
    variance : float
        Variance that this displacement has added to the image, contrast squared.
    """

    slope: NDArray
    displacement: BeamDisplacement | None
    variance: float

    @classmethod
    def of(cls, slope: NDArray, displacement: BeamDisplacement | None) -> DisplacedSlope:
        """Create from a slope, and the displacement along its axis."""
        variance = 0.0 if displacement is None else displacement.rms**2 * float((slope**2).mean())
        return cls(slope, displacement, variance)

    def removed(self, lags: NDArray) -> NDArray[np.float64]:
        """Covariance of the displacement's error at these lags, px squared, by which the noise was reduced."""
        return np.zeros(len(lags)) if self.displacement is None else self.displacement.error_covariance_at(lags)


@dataclass(frozen=True)
class NoiseDifferences:
    """Fourth differences of the noise across rows, and the slopes of the signal.

    Parameters
    ----------
    values : ndarray of shape (n_y - 4, n_x)
        In units of the contrast; 0 where ``known`` is 0.
    known : ndarray of shape (n_y - 4, n_x)
        1 for pixels that are used, else 0.
    lags : ndarray of shape (n_lags,)
        Lags along the row, px.
    x, y : DisplacedSlope
    """

    values: NDArray[np.float64]
    known: NDArray[np.float64]
    lags: NDArray[np.int64]
    x: DisplacedSlope
    y: DisplacedSlope

    @classmethod
    def of(
        cls, residual: NDArray, valid: NDArray | None, x: DisplacedSlope, y: DisplacedSlope
    ) -> NoiseDifferences | None:
        """The differences in an image without its columns, outliers left out; None without noise."""
        difference = row_difference(residual)
        known = np.ones(difference.shape) if valid is None else rows_without(~valid).astype(np.float64)
        thinned = np.s_[:, :: CONSTANTS.thinned]
        std = difference_std(difference[thinned][known[thinned] > 0])
        if std == 0:
            return None
        known = known * (np.abs(difference) < CONSTANTS.outlier * std)
        return cls(difference * known, known, _lags(residual.shape[1]), x, y)


def _lags(n_x: int) -> NDArray[np.int64]:
    farthest = max(8, min(int(CONSTANTS.farthest * n_x), n_x - 4))
    return np.unique(np.r_[0:9, np.geomspace(9, farthest, 18).astype(int)])


@dataclass(frozen=True)
class RowCovariance:
    """Covariance along the row ``(n_lags,)`` without residual displacements, and its number of pairs of pixels.

    ``variance`` and ``std`` are the variance of these displacements along x and y, px squared, and its standard
    deviation; ``correction`` (px squared) times the squared slope along x and y is to be added to the variance of a
    pixel.
    """

    covariance: NDArray[np.float64]
    pairs: NDArray[np.float64]
    variance: tuple[float, float]
    std: tuple[float, float]
    correction: tuple[float, float]


def covariance_without_displacements(noise: NoiseDifferences) -> RowCovariance:
    """Add the noise that registration has removed, and subtract what residual displacements have added."""
    lags = noise.lags
    removed = noise.x.removed(lags), noise.y.removed(lags)
    middle = lags == CONSTANTS.streak_lags[2]
    variance, std = _residual_displacements(noise, np.array([r[middle].mean() for r in removed]))
    # displacements that are not significant are not subtracted
    subtracted = np.where(variance > CONSTANTS.significant * std, variance, 0.0)
    covariance, pairs = _mean_products(noise.values, noise.known, lags)
    slopes = [_mean_products(d.slope[2:-2] * noise.known, noise.known, lags)[0] for d in (noise.x, noise.y)]
    restored = covariance + removed[0] * slopes[0] + removed[1] * slopes[1]
    covariance = restored - subtracted[0] * slopes[0] - subtracted[1] * slopes[1]
    if covariance[0] < CONSTANTS.min_left * restored[0]:
        # displacements that explain more than the variance of the image are not measured
        covariance, subtracted = restored, np.zeros(2)
    correction = (removed[0][0] - subtracted[0], removed[1][0] - subtracted[1])
    return RowCovariance(covariance, pairs, (subtracted[0], subtracted[1]), (std[0], std[1]), correction)


def _mean_products(values: NDArray, known: NDArray, lags: NDArray) -> tuple[NDArray, NDArray]:
    """Mean of the product of pixels at each lag along the row, and the number of pairs."""
    n_x = values.shape[1]
    pairs = np.array([float(np.vdot(known[:, : n_x - k], known[:, k:])) for k in lags])
    products = np.array([float(np.vdot(values[:, : n_x - k], values[:, k:])) for k in lags])
    return products / np.maximum(pairs, 1.0), pairs


def _residual_displacements(noise: NoiseDifferences, removed: NDArray) -> tuple[NDArray, NDArray]:
    """Variances ``(2,)`` of the displacements along x and y, px squared, and their standard deviations.

    Regression of D(x) D(x + k) on the products of both slopes at the streaks' lags, each lag about its own mean;
    ``removed`` is added.
    """
    blocks = np.arange(0, len(noise.values), CONSTANTS.row_block)
    matrices, rights = np.zeros((len(blocks), 2, 2)), np.zeros((len(blocks), 2))
    for lag in CONSTANTS.streak_lags:
        slopes, product = _slope_products(noise, lag)
        matrices += np.add.reduceat(np.einsum("iyx,jyx->yij", slopes, slopes), blocks, axis=0)
        rights += np.add.reduceat((slopes * product).sum(2).T, blocks, axis=0)
    matrix = matrices.sum(0)
    scale = np.sqrt(np.maximum(np.diag(matrix), TINY))
    if np.linalg.cond(matrix / np.outer(scale, scale)) > 1e6 or noise.known.sum() == 0:
        return np.zeros(2), np.zeros(2)
    found = np.linalg.solve(matrix, rights.sum(0))
    # the scatter between blocks of rows gives the error for noise of any distribution
    scores = rights - matrices @ found
    inverse = np.linalg.inv(matrix)
    return np.maximum(found + removed, 0.0), np.sqrt(np.diag(inverse @ (scores.T @ scores) @ inverse))


def _slope_products(noise: NoiseDifferences, lag: int) -> tuple[NDArray, NDArray]:
    """Products of the slopes ``(2, n_y - 4, n_x - lag)`` along x and y at a lag about their mean, and of the noise."""
    n_x = noise.values.shape[1]
    left, right = np.s_[:, : n_x - lag], np.s_[:, lag:]
    weight = noise.known[left] * noise.known[right]
    count = max(float(weight.sum()), 1.0)
    slopes = np.stack([difference_variance(d.slope[left] * d.slope[right]) for d in (noise.x, noise.y)]) * weight
    # covariance of streaks decreases with the lag like the slopes' products: only local differences count
    slopes -= weight * (slopes.sum((1, 2), keepdims=True) / count)
    return slopes, noise.values[left] * noise.values[right]
