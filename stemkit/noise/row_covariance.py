"""Covariance of the displacements at columns of the same row, against the distance of the columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from stemkit.noise.readings import Readings

__all__ = ["Pairs", "covariance_along_rows", "fall"]

#: Blocks of rows whose separate curves give the errors of the covariance along a row.
BLOCKS = 8
#: Pairs are formed of at most this many columns: their number grows with the square of it (chosen).
MOST_PAIRED = 400
#: The displacement is called a field along the row only where its covariance falls by this many standard deviations.
SURE = 4.0
#: Bins of the shortest distances whose mean stands for the variance of a reading's displacement (chosen).
NEAREST = 3


@dataclass(frozen=True)
class Pairs:
    """Covariance of the displacements of two columns in a row, against their distance.

    Parameters
    ----------
    distance : ndarray of shape (n_bins,)
        px.
    covariance, error : ndarray of shape (n_bins,)
        px squared, and its standard deviation.
    others : ndarray of shape (BLOCKS, n_bins)
        The covariance without one block of rows at a time.
    """

    distance: NDArray[np.float64]
    covariance: NDArray[np.float64]
    error: NDArray[np.float64]
    others: NDArray[np.float64]

    def without(self, common: NDArray | float) -> Pairs:
        """The same less a covariance that is known, px squared."""
        return Pairs(self.distance, self.covariance - common, self.error, self.others - common)

    def mean(self) -> tuple[float, float]:
        """Mean over the bins, weighted by their errors, and its standard deviation; ``(0, inf)`` without pairs."""
        if not len(self.distance):
            return 0.0, math.inf
        weight = 1 / np.maximum(self.error, 1e-300) ** 2
        means = (self.others * weight).sum(1) / weight.sum()
        std = math.sqrt((BLOCKS - 1) / BLOCKS * float(((means - means.mean()) ** 2).sum()))
        return float((weight * self.covariance).sum() / weight.sum()), std

    def within_rows(self) -> float:
        """Variance of the displacements about the mean of their row, px squared."""
        if not len(self.distance):
            return 0.0
        near = slice(0, NEAREST)
        weight = 1 / np.maximum(self.error[near], 1e-300) ** 2
        return max(float((weight * self.covariance[near]).sum() / weight.sum()) - self.mean()[0], 0.0)


NO_PAIRS = Pairs(np.empty(0), np.empty(0), np.empty(0), np.empty((BLOCKS, 0)))


def covariance_along_rows(readings: Readings, most: int = MOST_PAIRED) -> Pairs:
    """Covariance of the displacement between columns of a row, without the noise, which columns do not share."""
    readings = _some(readings, most)
    w, n_y = readings.weight, readings.weight.shape[1]
    modes = readings.weighted_modes()
    centred = w * readings.shift
    for mode, free in zip(modes, readings.modes, strict=True):
        centred = centred - w * free * (mode * readings.shift).sum(1, keepdims=True)
    apart = np.abs(readings.x[:, None] - readings.x[None, :])
    edges = _edges(readings)
    index = np.digitize(apart, edges) - 1
    index[(index < 0) | (index >= len(edges) - 1) | (np.tri(len(apart), dtype=bool))] = len(edges) - 1
    flat, n_bins = index.ravel(), len(edges)
    shared = w @ w.T
    # the column's parameters take their part of every displacement in its rows
    taken = (modes**2).sum(0)
    seen = shared - taken @ w.T - w @ taken.T
    for one in modes:
        for other in modes:
            seen += (one @ other.T) ** 2
    bottom = np.bincount(flat, seen.ravel(), n_bins)[:-1]
    middle = np.bincount(flat, apart.ravel() * shared.ravel(), n_bins)[:-1] / np.maximum(
        np.bincount(flat, shared.ravel(), n_bins)[:-1], 1e-300
    )
    keep = bottom > 1e-3 * bottom.max() if len(bottom) else np.zeros(0, dtype=bool)
    tops = np.array(
        [
            np.bincount(flat, (centred[:, part] @ centred[:, part].T).ravel(), n_bins)[:-1][keep]
            for part in np.array_split(np.arange(n_y), BLOCKS)
        ]
    )
    covariance = tops.sum(0) / bottom[keep] if keep.any() else np.empty(0)
    # leaving out one block of rows at a time
    others = (tops.sum(0) - tops) / (bottom[keep] * (1 - 1 / BLOCKS)) if keep.any() else tops
    if not keep.any():
        return NO_PAIRS
    # eight blocks tell the size of the errors for all bins together, the pairs how they differ
    scatter = np.sqrt((BLOCKS - 1) / BLOCKS * ((others - others.mean(0)) ** 2).sum(0))
    error = np.median(scatter * np.sqrt(bottom[keep])) / np.sqrt(bottom[keep])
    return Pairs(middle[keep], covariance, error, others)


def _edges(readings: Readings) -> NDArray:
    """Bins of distance: nearer columns share their noise; the last ones have too few pairs."""
    extent = float(np.ptp(readings.x))
    nearest = 3.0 + 2 * np.sqrt((readings.weight > 0).sum(1).mean())
    return np.geomspace(nearest, max(0.8 * extent, 2 * nearest), 15)


def fall(pairs: Pairs) -> tuple[float, float, tuple[float, float]]:
    """Length, RMS, and the standard deviations of RMS and length, of ``a exp(-distance^2 / (4 length^2))``.

    The length is infinite where the curve does not fall.
    """
    distance, covariance, error, others = pairs.distance, pairs.covariance, pairs.error, pairs.others
    whole = math.inf, 0.0, (math.nan, math.nan)
    if len(distance) < 5 or not (error > 0).all():
        return whole

    def fit(curve: NDArray) -> tuple[float, float]:
        def shape(log_l: float) -> NDArray:
            return np.exp(-((distance / (2 * math.exp(log_l))) ** 2))

        def cost(log_l: float) -> float:
            e = shape(log_l) / error
            scale = max((e * curve / error).sum() / (e * e).sum(), 0.0)
            return float((((curve - scale * shape(log_l)) / error) ** 2).sum())

        tries = np.linspace(math.log(3.0), math.log(4 * distance.max()), 40)
        best = tries[int(np.argmin([cost(t) for t in tries]))]
        best = optimize.minimize_scalar(cost, bounds=(best - 0.2, best + 0.2), method="bounded").x
        e = shape(best) / error
        return math.exp(best), math.sqrt(max((e * curve / error).sum() / (e * e).sum(), 0.0))

    length, rms = fit(covariance)
    weight = error**-2.0
    flat = max(float((weight * covariance).sum() / weight.sum()), 0.0)
    fall = rms**2 * np.exp(-((distance / (2 * length)) ** 2))
    gain = float((weight * ((covariance - flat) ** 2 - (covariance - fall) ** 2)).sum())
    drop = fall[0] - fall[-1]
    # columns that are farther apart than the displacement is long can't tell its length
    if not distance.min() / 2 < length < distance.max() or gain < SURE**2 or drop < 0.25 * fall[0]:
        return whole
    left_out = np.array([fit(one) for one in others])
    spread = np.sqrt((BLOCKS - 1) / BLOCKS * ((left_out - left_out.mean(0)) ** 2).sum(0))
    return length, rms, (float(spread[1]), float(spread[0]))


def _some(readings: Readings, most: int) -> Readings:
    """Readings of a limited number of columns: the number of pairs is the square of theirs."""
    n = len(readings.x)
    if n <= most:
        return readings
    chosen = np.random.default_rng(0).permutation(n)[:most]
    return readings.take(chosen)
