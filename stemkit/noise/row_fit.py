"""The covariance of noise along the row, fitted with pointwise noise and streaks of one length or of two."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from stemkit.noise.differences import DIFFERENCE

__all__ = ["SHARED", "SHORT_LENGTH", "Model", "model_covariance", "split_covariance", "streak_shape"]

#: Rows of the fourth difference are correlated: a mean of squares over n of them is worth that over n / SHARED.
SHARED = float((np.correlate(DIFFERENCE, DIFFERENCE, "full") ** 2).sum())
#: Streaks longer than this part of the row are rows as a whole.
LONGEST = 0.6
#: Length of the second kind of streaks where there is none, and that for which its error is stated then, px (chosen).
SHORT_LENGTH = 3.0
#: A second kind of streaks is sought where one kind leaves this sum of squares, for 27 lags and 4 parameters (chosen:
#: exceeded by chance in one image of seven).
UNEXPLAINED = 30.0
#: It is kept where it takes off this much (tuned on simulated images with streaks of one length and displaced rows;
#: without displacements 13.8 would be a false alarm of 1e-3).
LEAST_GAIN = 30.0
#: Its shortest length, px, and the least ratio of both lengths (chosen: less alike, they are not distinguished).
SHORTEST, PARTED = 0.7, 1.6
#: What is left of the variance that displacements make of the columns' slopes is as long as a column is wide, like
#: short streaks: those with a smaller variance than this part of it do not count (tuned on benchmarks/calibration.py).
DRIVEN = 0.4

#: Streaks shorter than this, px, where the pointwise variance is less than this fraction of theirs, are pointwise
#: noise that is correlated along the row (chosen: 1.5 px is the shortest length that is fitted).
SHORTEST_ALONE = 2.0
LEAST_POINTWISE = 0.05

#: Pointwise variance, its lag-1 correlation, variance and length of the streaks, and of the short ones.
Model = tuple[float, float, float, float, float, float]


def model_covariance(
    lags: NDArray,
    pointwise: float,
    correlation: float,
    streaks: float,
    length: float,
    short: float = 0.0,
    short_length: float = 1.0,
) -> NDArray:
    out = pointwise * np.sign(correlation) ** lags * np.abs(correlation) ** lags + streaks * streak_shape(lags, length)
    return out + short * streak_shape(lags, short_length) if short else out


def streak_shape(lags: NDArray, length: float) -> NDArray:
    return np.ones(len(lags)) if math.isinf(length) else np.exp(-((lags / (2 * max(length, 1e-3))) ** 2))


def split_covariance(
    lags: NDArray, covariance: NDArray, pairs: NDArray, n_x: int, driven: float
) -> tuple[Model, NDArray]:
    """Pointwise variance, its lag-1 correlation, variances and lengths of both kinds of streaks; and their standard
    deviations. ``driven`` is the variance that displacements have made of slopes, before it was taken off.
    """
    total = max(float(covariance[0]), 1e-300)
    scaled = covariance / total
    # first with equal weights, then with those of the first result
    best, _ = _fit(lags, scaled, np.diag(1 / np.maximum(pairs, 1.0)), n_x)
    for _ in range(2):
        best, cost = _fit(lags, scaled, _bartlett(lags, best, pairs, n_x), n_x)
    if cost > UNEXPLAINED:
        for _ in range(2):
            both = _fit_both(lags, scaled, _bartlett(lags, best, pairs, n_x), best, n_x)
            if both is None or both[4] * total < DRIVEN * driven:
                break
            best = both
    spread = _scatter(lags, best, _bartlett(lags, best, pairs, n_x))
    pointwise, correlation, streaks, length, short, short_length = best
    scale = np.array([total, 1.0, total, 1.0, total, 1.0])
    return (pointwise * total, correlation, streaks * total, length, short * total, short_length), spread * scale


def _fit(lags: NDArray, covariance: NDArray, scatter: NDArray, n_x: int) -> tuple[Model, float]:
    """Least squares over the correlation and the streaks' length; both variances are linear and not negative. The
    second number is the sum of squares, in units of the covariance's scatter.
    """
    whiten = _whitening(scatter)
    told = whiten @ covariance
    longest = LONGEST * n_x

    def solve(correlation: float, log_length: float) -> tuple[float, NDArray]:
        length = math.exp(log_length)
        columns = np.stack([model_covariance(lags, 1.0, correlation, 0.0, 1.0), streak_shape(lags, length)], axis=1)
        amplitudes, cost = optimize.nnls(whiten @ columns, told)
        return cost, amplitudes

    correlations = np.linspace(-0.3, 0.8, 12)
    lengths = np.append(np.linspace(math.log(2.0), math.log(longest), 10), math.log(1e6))
    tried = [(solve(c, g)[0], c, g) for g in lengths for c in correlations]
    _, correlation, length = min(tried)
    bounds = [(-0.9, 0.95), (math.log(1.5), math.log(longest))]
    if length < math.log(1e5):
        found = optimize.minimize(
            lambda p: solve(p[0], p[1])[0], [correlation, length], bounds=bounds, method="Nelder-Mead",
            options={"xatol": 1e-4, "fatol": 1e-9, "maxfev": 160, "initial_simplex": _simplex(correlation, length)},
        )  # fmt: skip
        correlation, length = found.x
    else:
        found = optimize.minimize_scalar(lambda c: solve(c, length)[0], bounds=bounds[0], method="bounded")
        correlation = found.x
    cost, (pointwise, streaks) = solve(correlation, length)
    if pointwise < LEAST_POINTWISE * streaks and length < math.log(SHORTEST_ALONE):
        # every recording has pointwise noise: streaks as short as its correlation are that
        def alone(correlation: float) -> tuple[float, NDArray]:
            amplitude, cost = optimize.nnls(whiten @ model_covariance(lags, 1.0, correlation, 0.0, 1.0)[:, None], told)
            return cost, amplitude

        correlation = optimize.minimize_scalar(lambda c: alone(c)[0], bounds=bounds[0], method="bounded").x
        (cost, (pointwise,)), streaks, length = alone(correlation), 0.0, math.log(longest)
    whole = length > math.log(0.98 * longest)
    found = float(pointwise), float(correlation), float(streaks), math.inf if whole else math.exp(length)
    return (*found, 0.0, SHORT_LENGTH), cost**2


def _fit_both(lags: NDArray, covariance: NDArray, scatter: NDArray, one: Model, n_x: int) -> Model | None:
    """The same with streaks of two lengths; None where the second kind is not significant."""
    whiten = _whitening(scatter)
    told = whiten @ covariance
    longest = LONGEST * n_x

    def solve(correlation: float, lengths: NDArray) -> tuple[float, NDArray]:
        shapes = [model_covariance(lags, 1.0, correlation, 0.0, 1.0), *(streak_shape(lags, g) for g in lengths)]
        amplitudes, cost = optimize.nnls(whiten @ np.stack(shapes, axis=1), told)
        return cost**2, amplitudes

    def cost(p: NDArray) -> float:
        lengths = np.exp(p[1:])
        if not (-0.9 < p[0] < 0.95 and lengths[1] > SHORTEST and PARTED * lengths[1] < lengths[0] < 1.01e6):
            return math.inf
        return solve(p[0], np.where(lengths > longest, math.inf, lengths))[0]

    correlation, length = one[1], min(one[3], 1e6)
    starts = [
        (r, a, b)
        for r in sorted({0.0, 0.3, correlation})
        for b in (1.5, 3.0, 6.0)
        for a in sorted({length, 1e6, 3 * b, 6 * b, 12 * b})
        if a > PARTED * b
    ]
    best = min(starts, key=lambda s: cost(np.array([s[0], *np.log(s[1:])])))
    start = np.array([best[0], *np.log(best[1:])])
    simplex = np.vstack([start, start + np.diag([0.05, 0.2, -0.2])])
    found = optimize.minimize(
        cost, start, method="Nelder-Mead",
        options={"xatol": 1e-3, "fatol": 1e-3, "maxfev": 300, "initial_simplex": simplex},
    )  # fmt: skip
    alone = solve(one[1], np.array([one[3]]))[0]
    lengths = np.where(np.exp(found.x[1:]) > longest, math.inf, np.exp(found.x[1:]))
    _, (pointwise, streaks, short) = solve(found.x[0], lengths)
    if (one[4] == 0 and alone - found.fun < LEAST_GAIN) or streaks == 0 or short == 0:
        return None
    return float(pointwise), float(found.x[0]), float(streaks), float(lengths[0]), float(short), float(lengths[1])


def _whitening(scatter: NDArray) -> NDArray:
    """W with ``W^T W`` the inverse of a covariance, whose eigenvalues are raised to what rounding lets be known: much
    where an image has hardly any noise.
    """
    values, vectors = np.linalg.eigh(scatter)
    raised = values.clip(min=max(1e-14 * float(np.trace(scatter)), 1e-300))
    return np.asarray((vectors / np.sqrt(raised)).T)


def _simplex(correlation: float, length: float) -> NDArray:
    return np.array([[correlation, length], [correlation + 0.05, length], [correlation, length + 0.2]])


def _bartlett(lags: NDArray, model: tuple[float, ...], pairs: NDArray, n_x: int) -> NDArray:
    """Covariance of the estimated covariances of a Gaussian process: sum_m R(m) R(m + j - k) + R(m + j) R(m - k)."""
    reach = n_x - 1
    m = np.arange(-reach, reach + 1)
    everywhere = np.arange(-3 * n_x, 3 * n_x + 1)
    r = model_covariance(np.abs(everywhere), *model)
    # rows end: what lies beyond has no pair
    r = r * np.clip(1 - np.abs(everywhere) / n_x, 0.0, 1.0)
    origin = 3 * n_x
    shifted = np.stack([r[origin + m + k] for k in lags])
    back = np.stack([r[origin + m - k] for k in lags])
    together = shifted @ shifted.T + shifted @ back.T
    return SHARED * together / np.sqrt(pairs[:, None] * pairs[None, :]).clip(1.0)


def _scatter(lags: NDArray, model: Model, scatter: NDArray) -> NDArray:
    """Standard deviations of the six numbers, from their derivatives; NaN for what is not in the model."""
    length, short, short_length = model[3:]
    steps = [1e-4, 1e-4, 1e-4, 0.0 if math.isinf(length) else 1e-3 * length, 0.0, 0.0]
    if short:
        steps[4:] = [1e-4, 1e-3 * short_length]
    used = [i for i, step in enumerate(steps) if step]
    derivatives = []
    for i in used:
        up, down = list(model), list(model)
        up[i], down[i] = up[i] + steps[i], down[i] - steps[i]
        derivatives.append((model_covariance(lags, *up) - model_covariance(lags, *down)) / (2 * steps[i]))
    jacobian = np.array(derivatives).T
    weight = np.linalg.pinv(scatter)
    inverse = np.linalg.pinv(jacobian.T @ weight @ jacobian)
    out = np.full(len(model), math.nan)
    out[used] = np.sqrt(np.clip(np.diag(inverse), 0.0, None))
    if not short:
        # how much of a typical kind would not be seen
        shape = streak_shape(lags, SHORT_LENGTH)
        out[4] = 1 / math.sqrt(max(float(shape @ weight @ shape), 1e-300))
    return out
