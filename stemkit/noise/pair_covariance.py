"""Covariance of the displacements at two columns of the same row, against the distance of the columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from stemkit.noise.constants import TINY
from stemkit.noise.shift_estimates import ShiftEstimates

__all__ = [
    "MAX_COLUMNS",
    "NO_PAIRS",
    "CorrelationLength",
    "PairCovariance",
    "fit_correlation_length",
    "pair_covariance",
]

#: Pairs are formed of at most this many columns: their number grows with the square of it (chosen).
MAX_COLUMNS = 400
#: Blocks of rows whose separate curves give the errors (chosen).
N_BLOCKS = 8
#: Bins of the shortest distances whose mean stands for the variance of the displacement at a column (chosen).
NEAREST = 3
#: Least standard deviation of a covariance that weights are computed from, px squared (chosen: far below any).
MIN_ERROR = 1e-9
#: Edges of the bins of distance (chosen).
N_EDGES = 15
#: Least information of a bin, as a fraction of that of the best one (chosen).
LEAST_INFORMATION = 1e-3
#: The covariance decreases with the distance if the fit improves by the square of this many standard deviations
#: (chosen).
SIGNIFICANT = 4.0
#: Least decrease of the covariance with the distance, as a fraction of its value at the shortest distance (chosen).
LEAST_DECREASE = 0.25


@dataclass(frozen=True)
class PairCovariance:
    """Covariance of the displacements of two columns in a row, against their distance.

    Parameters
    ----------
    distance : ndarray of shape (n_bins,)
        Distance along the row, px.
    covariance, error : ndarray of shape (n_bins,)
        Covariance, px squared, and its standard deviation.
    jackknife : ndarray of shape (N_BLOCKS, n_bins)
        The covariance without one block of rows at a time.
    """

    distance: NDArray[np.float64]
    covariance: NDArray[np.float64]
    error: NDArray[np.float64]
    jackknife: NDArray[np.float64]

    def minus(self, known: NDArray | float) -> PairCovariance:
        """The same less a known covariance, px squared."""
        return PairCovariance(self.distance, self.covariance - known, self.error, self.jackknife - known)

    def mean(self) -> tuple[float, float]:
        """Mean over the bins, weighted by their errors, and its standard deviation; ``(0, inf)`` without pairs."""
        if not len(self.distance):
            return 0.0, math.inf
        weight = 1 / np.maximum(self.error, MIN_ERROR) ** 2
        means = (self.jackknife * weight).sum(1) / weight.sum()
        return float((weight * self.covariance).sum() / weight.sum()), float(_jackknife_std(means))

    def within_rows(self) -> float:
        """Variance of the displacements about the mean of their row, px squared."""
        if not len(self.distance):
            return 0.0
        near = slice(0, NEAREST)
        weight = 1 / np.maximum(self.error[near], MIN_ERROR) ** 2
        return max(float((weight * self.covariance[near]).sum() / weight.sum()) - self.mean()[0], 0.0)


NO_PAIRS = PairCovariance(np.empty(0), np.empty(0), np.empty(0), np.empty((N_BLOCKS, 0)))


@dataclass(frozen=True)
class CorrelationLength:
    """Length and RMS (px) of ``rms^2 exp(-distance^2 / (4 length^2))``, with standard deviations.

    The length is infinite, and the rest not determined, where the covariance does not decrease with the distance.
    """

    length: float = math.inf
    rms: float = 0.0
    length_std: float = math.nan
    rms_std: float = math.nan


def pair_covariance(estimates: ShiftEstimates, max_columns: int = MAX_COLUMNS) -> PairCovariance:
    """Covariance of the displacements at two columns of a row; noise, which columns do not share, does not enter."""
    estimates = _subset(estimates, max_columns)
    edges = _edges(estimates)
    pairs = _Pairs.of(estimates, edges)
    n_bins = len(edges) - 1

    def binned(values: NDArray) -> NDArray[np.float64]:
        return np.bincount(pairs.bin, values, n_bins).astype(np.float64)

    information = binned(_pair_information(estimates, pairs))
    keep = information > LEAST_INFORMATION * information.max()
    if not keep.any():
        return NO_PAIRS
    shared = pairs.products(estimates.weight, estimates.weight).sum(1)
    mean_distance = binned(pairs.distance * shared) / np.maximum(binned(shared), TINY)
    weighted = estimates.free_of_modes(estimates.shift)
    block = np.repeat(
        np.arange(N_BLOCKS), [len(rows) for rows in np.array_split(np.arange(estimates.n_rows), N_BLOCKS)]
    )
    index = block[estimates.row[pairs.one]] * n_bins + pairs.bin[:, None]
    products = np.bincount(index.ravel(), pairs.products(weighted, weighted).ravel(), N_BLOCKS * n_bins)
    products = products.reshape(N_BLOCKS, n_bins)[:, keep]
    information = information[keep]
    jackknife = (products.sum(0) - products) / (information * (1 - 1 / N_BLOCKS))
    # the blocks give the size of the errors of all bins together, the information how they differ
    scatter = _jackknife_std(jackknife)
    error = np.median(scatter * np.sqrt(information)) / np.sqrt(information)
    return PairCovariance(mean_distance[keep], products.sum(0) / information, error, jackknife)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of columns with rows in common, each pair once.

    ``one``, ``other``, ``distance`` (along x, px) and ``bin`` of it are ``(n_pairs,)``; ``place`` is the place, in the
    other column's window, of each row of the first one's, ``(n_pairs, n_window)``, and ``common`` whether it is there.
    """

    one: NDArray[np.int64]
    other: NDArray[np.int64]
    distance: NDArray[np.float64]
    bin: NDArray[np.int64]
    place: NDArray[np.int64]
    common: NDArray[np.bool_]

    @classmethod
    def of(cls, estimates: ShiftEstimates, edges: NDArray) -> _Pairs:
        """The pairs at a distance between the first and the last edge."""
        first, window = estimates.first, estimates.weight.shape[1]
        lag = first[None, :] - first[:, None]
        one, other = np.nonzero(np.triu(np.abs(lag) < window, 1))
        distance: NDArray[np.float64] = np.abs(estimates.x[one] - estimates.x[other])
        index = np.digitize(distance, edges) - 1
        inside = (index >= 0) & (index < len(edges) - 1)
        one, other, distance, index = one[inside], other[inside], distance[inside], index[inside]
        place = np.arange(window) - lag[one, other][:, None]
        common = (place >= 0) & (place < window)
        return cls(one, other, distance, index, np.clip(place, 0, window - 1), common)

    def products(self, of_one: NDArray, of_other: NDArray) -> NDArray[np.float64]:
        """Products ``(n_pairs, n_window)`` of values ``(n_columns, n_window)`` in the rows of each pair."""
        return of_one[self.one] * of_other[self.other[:, None], self.place] * self.common


def _pair_information(estimates: ShiftEstimates, pairs: _Pairs) -> NDArray[np.float64]:
    """Expected product ``(n_pairs,)`` of two columns for displacements of unit variance."""
    weight, modes = estimates.weight, estimates.weighted_modes()
    squared = (modes**2).sum(0)
    out = pairs.products(weight - squared, weight) - pairs.products(weight, squared)
    total = out.sum(1)
    for one in modes:
        for other in modes:
            total += pairs.products(one, other).sum(1) ** 2
    return total


def _jackknife_std(values: NDArray) -> NDArray[np.float64]:
    """Standard deviation of an estimate from those without one block at a time (first axis)."""
    return np.sqrt((N_BLOCKS - 1) / N_BLOCKS * ((values - values.mean(0)) ** 2).sum(0))


def _edges(estimates: ShiftEstimates) -> NDArray[np.float64]:
    """Bins of the distance, px: nearer columns share their noise, and few pairs are farther apart."""
    extent = float(np.ptp(estimates.x))
    nearest = float(estimates.weight.shape[1])
    return np.geomspace(nearest, max(0.8 * extent, 2 * nearest), N_EDGES)


def _subset(estimates: ShiftEstimates, most: int) -> ShiftEstimates:
    """Estimates of a limited number of columns, drawn at random with a fixed seed."""
    n = len(estimates.x)
    return estimates if n <= most else estimates.take(np.random.default_rng(0).permutation(n)[:most])


# --- correlation length ------------------------------------------------------------------------------------------


def fit_correlation_length(pairs: PairCovariance) -> CorrelationLength:
    """Fit ``rms^2 exp(-distance^2 / (4 length^2))``; the length is infinite unless the decrease is significant."""
    distance, covariance, error = pairs.distance, pairs.covariance, pairs.error
    if len(distance) < 5 or not (error > 0).all():
        return CorrelationLength()
    length, rms = _fit_gaussian(distance, covariance, error)
    weight = error**-2.0
    constant = max(float((weight * covariance).sum() / weight.sum()), 0.0)
    gaussian = rms**2 * np.exp(-((distance / (2 * length)) ** 2))
    gain = float((weight * ((covariance - constant) ** 2 - (covariance - gaussian) ** 2)).sum())
    decrease = gaussian[0] - gaussian[-1]
    # columns that are farther apart than the displacement is long do not determine its length
    resolved = distance.min() / 2 < length < distance.max()
    if not resolved or gain < SIGNIFICANT**2 or decrease < LEAST_DECREASE * gaussian[0]:
        return CorrelationLength()
    length_std, rms_std = _jackknife_std(np.array([_fit_gaussian(distance, one, error) for one in pairs.jackknife]))
    return CorrelationLength(length, rms, float(length_std), float(rms_std))


def _fit_gaussian(distance: NDArray, covariance: NDArray, error: NDArray) -> tuple[float, float]:
    """Length and RMS, px, by weighted least squares: on a grid of lengths, then by a bounded search."""

    def scaled(log_length: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The fitted variance, and the squared residuals, of some lengths."""
        e = np.exp(-((distance / (2 * np.exp(log_length[:, None]))) ** 2)) / error
        variance = np.maximum((e * (covariance / error)).sum(1) / (e * e).sum(1), 0.0)
        return variance, ((covariance / error - variance[:, None] * e) ** 2).sum(1)

    def cost(log_length: float) -> float:
        return float(scaled(np.array([log_length]))[1][0])

    tried = np.linspace(math.log(3.0), math.log(4 * distance.max()), 40)
    best = tried[int(np.argmin(scaled(tried)[1]))]
    best = optimize.minimize_scalar(cost, bounds=(best - 0.2, best + 0.2), method="bounded").x
    return math.exp(best), math.sqrt(scaled(np.array([best]))[0][0])
