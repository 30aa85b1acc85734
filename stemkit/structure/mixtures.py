"""One-dimensional mixtures of Gaussians of equal width; the means are free, or those of a library times a scale."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special, stats

__all__ = ["Mixture", "Sample", "expected_errors", "fit_free", "fit_library", "refit", "refit_library"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the fits."""

    #: Largest number of steps of expectation maximisation from each start (chosen).
    first_steps: int = 25
    #: The same from the best one (chosen).
    steps: int = 400
    #: Gain of log-likelihood per step at which a fit has converged (chosen: criteria that differ by 2 are equal).
    gain: float = 1e-3
    #: Least standard deviation of the components, fraction of the range of the values (chosen: equal values).
    width: float = 1e-4
    #: Number of values above which they are collected in as many bins (chosen: a bin is narrower than a fifth of the
    #: components if there are up to 25 of them, four widths apart).
    bins: int = 600
    #: Offsets of a library of evenly spaced means that are tried as a start, fractions of the spacing (chosen).
    offsets: int = 4
    #: Number of scales of a library that are compared (chosen: in steps of 0.5 % over a factor of 2).
    scales: int = 140
    #: Number of these from which fits start (chosen).
    starts: int = 6


CONSTANTS = _Constants()
#: Factor by which a fitted scale may be outside its range (chosen).
EDGE = 1.01


@dataclass(frozen=True)
class Sample:
    """Values, in bins if there are many: centres and numbers, each ``(m,)``."""

    values: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def from_values(cls, values: NDArray) -> Sample:
        """Collect values ``(n,)``, in bins if there are many."""
        values = np.asarray(values, dtype=np.float64)
        if len(values) <= CONSTANTS.bins:
            return cls(values, np.ones(len(values)))
        counts, edges = np.histogram(values, CONSTANTS.bins)
        sums = np.histogram(values, edges, weights=values)[0]
        used = counts > 0
        return cls(sums[used] / counts[used], counts[used].astype(np.float64))

    @property
    def size(self) -> float:
        """Number of values."""
        return float(self.counts.sum())

    @property
    def least_width(self) -> float:
        """Smallest standard deviation of a component."""
        return CONSTANTS.width * max(float(np.ptp(self.values)), np.finfo(float).tiny)


@dataclass(frozen=True)
class Mixture:
    """Weights and means ``(k,)`` in increasing order, the common standard deviation, and the number of parameters."""

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    width: float
    n_parameters: int

    def log_joint(self, values: NDArray) -> NDArray[np.float64]:
        """Logarithm of weight times density ``(n, k)``."""
        with np.errstate(divide="ignore"):
            weights = np.log(self.weights)
        z = (np.asarray(values)[:, None] - self.means) / self.width
        return np.asarray(weights - 0.5 * z**2 - np.log(self.width) - 0.5 * np.log(2 * np.pi))

    def density(self, values: NDArray) -> NDArray[np.float64]:
        """Weight times density ``(n, k)``."""
        z = (np.asarray(values)[:, None] - self.means) / self.width
        return np.asarray(np.exp(-0.5 * z**2) * (self.weights / (np.sqrt(2 * np.pi) * self.width)))

    def probabilities(self, values: NDArray) -> NDArray[np.float64]:
        """Probability ``(n, k)`` of each component for each value."""
        return np.asarray(special.softmax(self.log_joint(values), axis=1))

    def assigned(self, values: NDArray) -> NDArray[np.intp]:
        """Most probable component ``(n,)`` of each value."""
        return np.asarray(self.log_joint(values).argmax(axis=1))

    def log_likelihood(self, sample: Sample) -> float:
        """Logarithm of the likelihood of all values."""
        return float(sample.counts @ special.logsumexp(self.log_joint(sample.values), axis=1))

    def bic(self, sample: Sample) -> float:
        """Bayesian information criterion."""
        return self.n_parameters * np.log(sample.size) - 2 * self.log_likelihood(sample)

    def icl(self, sample: Sample) -> float:
        """Integrated completed likelihood: BIC plus twice the entropy of the assignments."""
        entropy = special.entr(self.probabilities(sample.values)).sum(axis=1)
        return self.bic(sample) + 2 * float(sample.counts @ entropy)


def fit_free(sample: Sample, k: int, previous: Mixture | None = None) -> Mixture:
    """Mixture of k components with free means, the best of several starts.

    Starts are quantiles, evenly spaced means whose spacing and offset are fitted first, and a mixture of k - 1
    components with one more where its fit is worst.
    """
    low, high = sample.values.min(), sample.values.max()
    step = (high - low) / k
    starts = [_quantiles(sample, k)]
    starts += [
        _even(sample, low + step * (np.arange(k) + f)) for f in (np.arange(CONSTANTS.offsets) + 0.5) / CONSTANTS.offsets
    ]
    if previous is not None:
        starts.append(np.sort(np.append(previous.means, _worst(sample, previous))))
    width = step / 4 + sample.least_width
    return _best(sample, [Mixture(np.full(k, 1 / k), means, width, 2 * k) for means in starts])


def refit(sample: Sample, start: Mixture) -> Mixture:
    """Mixture with free means near another one."""
    return _maximize(sample, start, CONSTANTS.steps)


def fit_library(sample: Sample, library: NDArray, scale: tuple[float, float]) -> list[tuple[Mixture, float]]:
    """Mixtures whose means are those of a library ``(k,)`` times a scale within a range, with the scale, best first.

    The scale is fixed if the two ends of the range are the same. Otherwise several fits may be nearly as good: the
    likelihood has a maximum for each shift of the numbers.
    """
    free = scale[0] < scale[1]
    fits = []
    for start in _scales(sample, library, scale) if free else [scale[0]]:
        weights, width = np.full(len(library), 1 / len(library)), _start_width(sample, start * library)
        fit = _maximize(sample, Mixture(weights, start * library, width, 0), CONSTANTS.steps, library, free)
        used = (fit.means > sample.values.min() - fit.width) & (fit.means < sample.values.max() + fit.width)
        fits.append(replace(fit, n_parameters=int(used.sum()) + free))
    found = [(fit, float(fit.means[-1] / library[-1])) for fit in fits]
    found = [item for item in found if scale[0] / EDGE <= item[1] <= scale[1] * EDGE] or found
    return sorted(found, key=lambda item: item[0].bic(sample))


def refit_library(sample: Sample, start: Mixture, library: NDArray, free: bool) -> Mixture:
    """Mixture with the means of a library near another one."""
    return _maximize(sample, start, CONSTANTS.steps, library, free)


def expected_errors(mixture: Mixture) -> NDArray[np.float64]:
    """Probability ``(k,)`` that a value of each component is assigned to another one.

    Values are assigned to the most probable component. Boundaries between neighbouring means follow from equal weighted
    densities; a component that is never the most probable one is always wrong.
    """
    used = np.flatnonzero(mixture.weights > 0)
    wrong = np.ones(len(mixture.weights))
    grid = _assignment_edges(mixture, used)
    owner = mixture.log_joint((grid[1:] + grid[:-1]) / 2).argmax(axis=1)
    for k in used:
        cdf = stats.norm.cdf(grid, mixture.means[k], mixture.width)
        wrong[k] = 1 - np.diff(cdf)[owner == k].sum()
    return np.clip(wrong, 0.0, 1.0)


def _assignment_edges(mixture: Mixture, used: NDArray) -> NDArray[np.float64]:
    """Values at which two of the components are equally probable, with infinitely far ends replaced by ten widths."""
    means, logs = mixture.means[used], np.log(mixture.weights[used])
    i, j = np.triu_indices(len(used), 1)
    apart = means[j] - means[i]
    with np.errstate(divide="ignore", invalid="ignore"):
        edges = (means[i] + means[j]) / 2 + mixture.width**2 * (logs[i] - logs[j]) / apart
    ends = [means.min() - 10 * mixture.width, means.max() + 10 * mixture.width]
    edges = edges[np.isfinite(edges)]
    return np.unique(np.concatenate([ends, np.clip(edges, *ends)]))


def _best(sample: Sample, starts: list[Mixture]) -> Mixture:
    """The start that is the most likely one after a few steps, maximised."""
    tried = [_maximize(sample, start, CONSTANTS.first_steps) for start in starts]
    best = max(tried, key=lambda mixture: mixture.log_likelihood(sample))
    return _maximize(sample, best, CONSTANTS.steps)


def _maximize(
    sample: Sample, mixture: Mixture, steps: int, library: NDArray | None = None, free_scale: bool = True
) -> Mixture:
    """Expectation maximisation from a start."""
    before = -np.inf
    for _ in range(steps):
        density = mixture.density(sample.values)
        total = np.maximum(density.sum(axis=1), np.finfo(float).tiny)
        likelihood = float(sample.counts @ np.log(total))
        if likelihood - before < CONSTANTS.gain:
            break
        before = likelihood
        share = density * (sample.counts / total)[:, None]
        mixture = _updated(sample, share, mixture, library, free_scale)
    order = np.argsort(mixture.means)
    return Mixture(mixture.weights[order], mixture.means[order], mixture.width, mixture.n_parameters)


def _updated(sample: Sample, share: NDArray, mixture: Mixture, library: NDArray | None, free_scale: bool) -> Mixture:
    """Weights, means and width from the share of each component in each value."""
    n = share.sum(axis=0)
    moment = sample.values @ share
    if library is None:
        means = np.where(n > 0, moment / np.maximum(n, np.finfo(float).tiny), mixture.means)
    elif free_scale:
        means = library * (moment @ library) / (n @ library**2)
    else:
        means = mixture.means
    variance = (share * (sample.values[:, None] - means) ** 2).sum() / sample.size
    width = max(float(np.sqrt(variance)), sample.least_width)
    return Mixture(n / sample.size, means, width, mixture.n_parameters)


def _quantiles(sample: Sample, k: int) -> NDArray[np.float64]:
    order = np.argsort(sample.values)
    position = np.cumsum(sample.counts[order]) - sample.counts[order] / 2
    return np.interp((np.arange(k) + 0.5) / k * sample.size, position, sample.values[order])


def _even(sample: Sample, means: NDArray) -> NDArray[np.float64]:
    """Evenly spaced means near a start, fitted by alternate assignment and regression."""
    index = np.arange(len(means))
    for _ in range(20):
        nearest = np.abs(sample.values[:, None] - means).argmin(axis=1)
        if len(np.unique(nearest)) < 2:
            break
        slope, offset = np.polyfit(nearest, sample.values, 1, w=np.sqrt(sample.counts))
        new = offset + slope * index
        if np.allclose(new, means):
            break
        means = new
    return means


def _worst(sample: Sample, mixture: Mixture) -> float:
    """Value around which there are more values than a mixture expects, in units of the error of their number."""
    edges = np.linspace(sample.values.min(), sample.values.max(), 2 * len(mixture.means) + 3)
    seen = np.histogram(sample.values, edges, weights=sample.counts)[0]
    cdf = stats.norm.cdf(edges[:, None], mixture.means, mixture.width) @ mixture.weights
    expected = sample.size * np.diff(cdf)
    worst = int(np.argmax((seen - expected) / np.sqrt(expected + 1)))
    return float(edges[worst : worst + 2].mean())


def _scales(sample: Sample, library: NDArray, limits: tuple[float, float]) -> NDArray[np.float64]:
    """Scales within limits at which values are nearest to the means, relative to the spacing of the means."""
    scales = np.geomspace(*limits, CONSTANTS.scales)
    usual = np.sqrt(np.mean(np.diff(library) ** 2) / 12)
    misfit = np.array([_start_width(sample, s * library) / (s * usual) for s in scales])
    lowest = np.flatnonzero(misfit == ndimage.minimum_filter1d(misfit, 3))
    return scales[lowest[np.argsort(misfit[lowest])[: CONSTANTS.starts]]]


def _start_width(sample: Sample, means: NDArray) -> float:
    """RMS distance of the values from the nearest mean."""
    distance = np.abs(sample.values[:, None] - means).min(axis=1)
    return max(float(np.sqrt(np.average(distance**2, weights=sample.counts))), sample.least_width)
