"""Fit of the covariance of the noise along the row: pointwise noise, and streaks of one or two lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from stemkit.noise.constants import TINY
from stemkit.noise.differences import ROW_CORRELATION

__all__ = ["SHORT_LENGTH", "LagCovariance", "LagCovarianceFit", "fit_lag_covariance", "pointwise_correlation"]

#: Length of the short streaks in a model without any, and that for which their error is then stated, px (chosen).
SHORT_LENGTH = 3.0


@dataclass(frozen=True)
class _Constants:
    """Constants of the fit."""

    #: Streaks longer than this fraction of the row have an infinite length (chosen).
    longest: float = 0.6
    #: Smallest correlation of neighbouring pixels (chosen).
    min_correlation: float = -0.9
    #: Largest correlation of neighbouring pixels (chosen).
    max_correlation: float = 0.95
    #: Shortest length of the streaks if there is one kind, px (chosen).
    shortest: float = 1.5
    #: Shortest length of the short streaks, px (chosen).
    shortest_of_two: float = 0.7
    #: Smallest ratio of the two lengths (chosen: more similar lengths are not distinguished).
    min_ratio: float = 1.6
    #: A second kind of streaks is sought if the weighted sum of squares with one kind exceeds this, for 27 lags and 4
    #: parameters (chosen: exceeded by chance in one image of seven).
    unexplained: float = 30.0
    #: A second kind of streaks is kept if it reduces the sum of squares by this (tuned on simulated images with streaks
    #: of one length and displaced rows; without displacements 13.8 would give a false-alarm rate of 1e-3).
    min_gain: float = 30.0
    #: A second kind of streaks is kept if its variance exceeds this fraction of the variance that displacements add on
    #: the columns' slopes, whose residual is as long as a column is wide (tuned on benchmarks/calibration.py).
    min_over_displaced: float = 0.4
    #: Shorter streaks, px, with little pointwise variance are correlated pointwise noise (chosen).
    shortest_alone: float = 2.0
    #: Little is less than this fraction of the variance of the streaks (chosen).
    min_pointwise: float = 0.05


CONSTANTS = _Constants()
#: Logarithm of the length, px, that stands for an infinite one in the search (chosen).
LOG_INFINITE = math.log(1e6)


@dataclass(frozen=True)
class LagCovariance:
    """Model of the covariance along the row: pointwise noise, streaks and short streaks.

    Parameters
    ----------
    pointwise : float
        Variance of the pointwise noise.
    correlation : float
        Its correlation at lag 1.
    streaks, length : float
        Variance and length (px, ``inf``: whole rows) of the streaks.
    short, short_length : float
        The same of the short streaks.
    """

    pointwise: float
    correlation: float
    streaks: float
    length: float
    short: float = 0.0
    short_length: float = SHORT_LENGTH

    def at(self, lags: NDArray) -> NDArray[np.float64]:
        """Covariance at these lags, px."""
        out = self.pointwise * pointwise_correlation(lags, self.correlation)
        out = out + self.streaks * streak_correlation(lags, self.length)
        return out + self.short * streak_correlation(lags, self.short_length) if self.short else out

    def scaled(self, factor: float) -> LagCovariance:
        """The model with its variances multiplied by a factor."""
        variances = {name: getattr(self, name) * factor for name in ("pointwise", "streaks", "short")}
        return replace(self, **variances)


@dataclass(frozen=True)
class LagCovarianceFit:
    """Fitted covariance along the row, and the standard deviation of each of its numbers (NaN where not fitted)."""

    covariance: LagCovariance
    std: LagCovariance


def pointwise_correlation(lags: NDArray, correlation: float) -> NDArray[np.float64]:
    """Correlation of first-order autoregressive noise, ``correlation^lag``."""
    return np.asarray(np.sign(correlation) ** lags * np.abs(correlation) ** lags)


def streak_correlation(lags: NDArray, length: float) -> NDArray[np.float64]:
    """Correlation ``exp(-lag^2 / (4 length^2))`` of white noise filtered with a Gaussian of sigma ``length``, px."""
    return np.ones(len(lags)) if math.isinf(length) else np.exp(-((lags / (2 * max(length, 1e-3))) ** 2))


def fit_lag_covariance(
    lags: NDArray, covariance: NDArray, pairs: NDArray, n_x: int, displaced: float
) -> LagCovarianceFit:
    """Fit the covariance along the row by generalised least squares.

    Parameters
    ----------
    lags : ndarray of shape (n_lags,)
        Lags, px; the first is 0.
    covariance : ndarray of shape (n_lags,)
        Covariance of fourth differences across rows.
    pairs : ndarray of shape (n_lags,)
        Number of pairs of pixels of each.
    n_x : int
        Pixels of a row.
    displaced : float
        Variance that displacements of the rows had added on the columns' slopes before it was subtracted.

    Returns
    -------
    LagCovarianceFit
    """
    total = max(float(covariance[0]), TINY)
    scaled = covariance / total
    # first with equal weights, then with those of the first result
    unweighted = _LeastSquares.of(lags, scaled, np.diag(1 / np.maximum(pairs, 1.0)), n_x)
    best, _ = _fit_one(unweighted)
    for _ in range(2):
        best, cost = _fit_one(_LeastSquares.of(lags, scaled, _scatter(lags, best, pairs, n_x), n_x))
    if cost > CONSTANTS.unexplained:
        # the weights of one length are far from those of two where its covariance is smooth
        two = _fit_two(unweighted, _starts(best))
        for _ in range(2):
            problem = _LeastSquares.of(lags, scaled, _scatter(lags, best, pairs, n_x), n_x)
            two = _fit_two(problem, [(two.correlation, two.length, two.short_length), *_starts(best)])
            displacements = two.short * total < CONSTANTS.min_over_displaced * displaced
            if displacements or not _is_significant(problem, two, best):
                break
            best = two
    std = _standard_deviations(lags, best, _scatter(lags, best, pairs, n_x))
    return LagCovarianceFit(best.scaled(total), std.scaled(total))


# --- least squares -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LeastSquares:
    """Least-squares problem whose variances are linear and not negative; correlation and lengths are given."""

    lags: NDArray
    whitening: NDArray
    target: NDArray
    longest: float

    @classmethod
    def of(cls, lags: NDArray, covariance: NDArray, scatter: NDArray, n_x: int) -> _LeastSquares:
        """From measured covariances, and the covariance of these estimates."""
        whitening = _whitening(scatter)
        return cls(lags, whitening, whitening @ covariance, CONSTANTS.longest * n_x)

    def solve(self, correlation: float, lengths: Sequence[float] | NDArray) -> tuple[NDArray[np.float64], float]:
        """Variances of the pointwise noise and of streaks of each length, and the norm of the whitened residual."""
        terms = [pointwise_correlation(self.lags, correlation), *(streak_correlation(self.lags, g) for g in lengths)]
        variances, norm = optimize.nnls(self.whitening @ np.stack(terms, axis=1), self.target)
        return variances, float(norm)


def _fit_one(problem: _LeastSquares) -> tuple[LagCovariance, float]:
    """The best model with streaks of one length, and its weighted sum of squares."""
    correlation, log_length = _best_length(problem)
    (pointwise, streaks), norm = problem.solve(correlation, [math.exp(log_length)])
    if pointwise < CONSTANTS.min_pointwise * streaks and log_length < math.log(CONSTANTS.shortest_alone):
        # every image has pointwise noise: streaks as short as its correlation are pointwise noise
        correlation = _best_correlation(problem, [])
        (pointwise,), norm = problem.solve(correlation, [])
        streaks, log_length = 0.0, math.log(problem.longest)
    length = math.inf if log_length > math.log(0.98 * problem.longest) else math.exp(log_length)
    return LagCovariance(float(pointwise), float(correlation), float(streaks), length), norm**2


def _best_length(problem: _LeastSquares) -> tuple[float, float]:
    """Correlation and logarithm of the length with the smallest residual: on a grid, then by Nelder-Mead."""
    log_longest = math.log(problem.longest)
    correlations = np.linspace(-0.3, 0.8, 12)
    lengths = np.append(np.linspace(math.log(2.0), log_longest, 10), LOG_INFINITE)
    _, correlation, length = min((problem.solve(c, [math.exp(g)])[1], c, g) for g in lengths for c in correlations)
    if length > LOG_INFINITE - 1:
        return _best_correlation(problem, [math.exp(length)]), length
    simplex = np.array([[correlation, length], [correlation + 0.05, length], [correlation, length + 0.2]])
    found = optimize.minimize(
        lambda p: problem.solve(p[0], [math.exp(p[1])])[1],
        [correlation, length],
        bounds=[
            (CONSTANTS.min_correlation, CONSTANTS.max_correlation),
            (math.log(CONSTANTS.shortest), log_longest),
        ],
        method="Nelder-Mead",
        options={"xatol": 1e-4, "fatol": 1e-9, "maxfev": 160, "initial_simplex": simplex},
    )
    return found.x[0], found.x[1]


def _best_correlation(problem: _LeastSquares, lengths: Sequence[float]) -> float:
    bounds = CONSTANTS.min_correlation, CONSTANTS.max_correlation
    cost = optimize.minimize_scalar(lambda c: problem.solve(c, lengths)[1], bounds=bounds, method="bounded")
    return float(cost.x)


def _fit_two(problem: _LeastSquares, starts: list[tuple[float, float, float]]) -> LagCovariance:
    """The best model with streaks of two lengths, from the best of the starts: correlations and two lengths."""

    def cost(p: NDArray) -> float:
        if not _distinct(p[0], np.exp(p[1:])):
            return math.inf
        return problem.solve(p[0], _whole_rows(np.exp(p[1:]), problem.longest))[1] ** 2

    points = [np.array([r, *np.log(np.minimum(lengths, 1e6))]) for r, *lengths in starts]
    start = min(points, key=cost)
    found = optimize.minimize(
        cost,
        start,
        method="Nelder-Mead",
        options={
            "xatol": 1e-3,
            "fatol": 1e-3,
            "maxfev": 300,
            "initial_simplex": np.vstack([start, start + np.diag([0.05, 0.2, -0.2])]),
        },
    )
    lengths = _whole_rows(np.exp(found.x[1:]), problem.longest)
    (pointwise, streaks, short), _ = problem.solve(found.x[0], lengths)
    return LagCovariance(*map(float, (pointwise, found.x[0], streaks, lengths[0], short, lengths[1])))


def _is_significant(problem: _LeastSquares, two: LagCovariance, before: LagCovariance) -> bool:
    """Whether there are streaks of two lengths; of one length before, whether two explain the covariance better."""
    if two.streaks == 0 or two.short == 0:
        return False
    if before.short > 0:
        return True
    cost_of_one = problem.solve(before.correlation, [before.length])[1] ** 2
    cost_of_two = problem.solve(two.correlation, [two.length, two.short_length])[1] ** 2
    return cost_of_one - cost_of_two >= CONSTANTS.min_gain


def _distinct(correlation: float, lengths: NDArray) -> bool:
    """Whether the correlation and both lengths are within their ranges, and the lengths are distinguished."""
    allowed = CONSTANTS.min_correlation < correlation < CONSTANTS.max_correlation
    long, short = lengths
    return bool(allowed and short > CONSTANTS.shortest_of_two and CONSTANTS.min_ratio * short < long < 1.01e6)


def _whole_rows(lengths: NDArray, longest: float) -> NDArray[np.float64]:
    return np.where(lengths > longest, math.inf, lengths)


def _starts(one: LagCovariance) -> list[tuple[float, float, float]]:
    """Correlations and pairs of lengths from which the search may start."""
    length = min(one.length, 1e6)
    return [
        (r, a, b)
        for r in sorted({0.0, 0.3, one.correlation})
        for b in (1.5, 3.0, 6.0)
        for a in sorted({length, 1e6, 3 * b, 6 * b, 12 * b})
        if a > CONSTANTS.min_ratio * b
    ]


# --- errors ------------------------------------------------------------------------------------------------------


def _whitening(scatter: NDArray) -> NDArray[np.float64]:
    """W with ``W^T W`` the inverse of a covariance matrix, whose smallest eigenvalues are raised to the rounding error:
    large where an image has hardly any noise.
    """
    values, vectors = np.linalg.eigh(scatter)
    raised = values.clip(min=max(1e-14 * float(np.trace(scatter)), TINY))
    return np.asarray((vectors / np.sqrt(raised)).T)


def _scatter(lags: NDArray, model: LagCovariance, pairs: NDArray, n_x: int) -> NDArray[np.float64]:
    """Covariance matrix of the estimated covariances of a Gaussian process R, ``sum_m R(m) R(m + j - k) + R(m + j)
    R(m - k)`` (Bartlett 1946).
    """
    m = np.arange(-(n_x - 1), n_x)
    origin = 3 * n_x
    lag = np.abs(np.arange(-origin, origin + 1))
    # rows end: pixels beyond the end form no pairs
    r = model.at(lag) * np.clip(1 - lag / n_x, 0.0, 1.0)
    forward = np.stack([r[origin + m + k] for k in lags])
    backward = np.stack([r[origin + m - k] for k in lags])
    products = forward @ forward.T + forward @ backward.T
    return ROW_CORRELATION * products / np.sqrt(pairs[:, None] * pairs[None, :]).clip(1.0)


def _standard_deviations(lags: NDArray, model: LagCovariance, scatter: NDArray) -> LagCovariance:
    """Standard deviations from the model's derivatives; of the short streaks' variance, where there are none, that of
    short streaks of the typical length.
    """
    steps = {"pointwise": 1e-4, "correlation": 1e-4, "streaks": 1e-4}
    if not math.isinf(model.length):
        steps["length"] = 1e-3 * model.length
    if model.short:
        steps |= {"short": 1e-4, "short_length": 1e-3 * model.short_length}
    jacobian = np.array([_derivative(lags, model, name, step) for name, step in steps.items()]).T
    weight = np.linalg.pinv(scatter)
    inverse = np.linalg.pinv(jacobian.T @ weight @ jacobian)
    std = dict(zip(steps, np.sqrt(np.clip(np.diag(inverse), 0.0, None)).tolist(), strict=True))
    if not model.short:
        typical = streak_correlation(lags, SHORT_LENGTH)
        std["short"] = 1 / math.sqrt(max(float(typical @ weight @ typical), TINY))
    return LagCovariance(**{f.name: std.get(f.name, math.nan) for f in fields(LagCovariance)})


def _derivative(lags: NDArray, model: LagCovariance, name: str, step: float) -> NDArray[np.float64]:
    up, down = (replace(model, **{name: getattr(model, name) + s * step}) for s in (1, -1))
    return (up.at(lags) - down.at(lags)) / (2 * step)
