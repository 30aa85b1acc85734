"""Noise split by how it is correlated along the row: pointwise, streaks, and what moves with the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from stemkit.noise.differences import DIFFERENCE, robust_deviation, row_difference
from stemkit.noise.registration import Registration

__all__ = ["RowStatistics", "row_statistics"]

#: Lags along the row at which pointwise noise is over and streaks are not yet: there the gradient shows jitter.
STREAK_LAGS = (4, 5, 6, 7, 8)
#: Rows of the fourth difference are correlated: a mean of squares over n of them is worth that over n / SHARED.
SHARED = float((np.correlate(DIFFERENCE, DIFFERENCE, "full") ** 2).sum())
#: Of that scatter, the part by which it misses the noise of the very same image (the rest is the noise's own scatter).
OWN = math.sqrt((SHARED - 1) / SHARED)
N_BINS = 24
#: Bins whose noise has less than this fraction of the usual variance are clipped at the detector's end.
CLIPPED = 0.05
#: Longest lag, as a part of the row; streaks longer than the row's part LONGEST are rows as a whole.
FARTHEST, LONGEST = 0.5, 0.6
#: Displacements that the registration has left, or along y, count from this many standard deviations.
SEEN = 3.0
#: What the columns' model leaves in the noise, as a part of readout, of the streaks' variance, and of the gain; and by
#: how much the length of streaks, and twice that the correlation, scatters more than a Gaussian process says. Measured
#: on simulated images.
MISFIT, GAIN_MISFIT, LUCK = 0.006, 0.03, 1.15
#: Width of the filter along the row that takes streaks off the pointwise noise, px.
SLOW = 6
#: Rows in a block whose separate results tell the error of a regression.
ROW_BLOCK = 16
#: A pixel beyond this many robust deviations is a dead or hot one, or hit by a cosmic ray.
OUTLIER = 10.0


#: Second kind of streaks: sought where one kind leaves this sum of squares, for 27 lags and 4 parameters (chosen: exceeded
#: by chance in one image of seven); kept where it takes off this much (false alarm of 1e-3 for 2 parameters); shortest
#: length in px, and least ratio of the lengths (chosen: less alike, they are not distinguished).
UNEXPLAINED, LEAST_GAIN, SHORTEST, PARTED = 30.0, 13.8, 0.7, 1.6
#: What is left of the variance that displacements make of the columns' slopes is as long as a column is wide, like short
#: streaks: those with a smaller variance than this part of it do not count (tuned on benchmarks/calibration.py).
DRIVEN = 0.2

#: Pointwise variance, its lag-1 correlation, variance and length of the streaks, and of the short ones.
Model = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class RowStatistics:
    """Noise of one image, amplitudes as fractions of the contrast; meanings as in :class:`stemkit.NoiseModel`.

    ``left`` and ``left_y`` are the RMS displacements along x and y (px) that are there still. ``signal``,
    ``variance``, ``count`` ``(n_bins,)`` are the curve that ``readout`` and ``gain`` are the line of; ``lag``,
    ``covariance``, ``fitted`` ``(n_lags,)`` what ``correlation_x`` and the streaks explain. ``std`` holds standard
    deviations by name (those of ``left`` and ``left_y`` are of their squares).
    """

    readout: float = 0.0
    gain: float = 0.0
    correlation_x: float = 0.0
    streaks: float = 0.0
    streak_length: float = 20.0
    short_streaks: float = 0.0
    short_length: float = 3.0
    left: float = 0.0
    left_y: float = 0.0
    signal: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    variance: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    count: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    lag: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    covariance: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    fitted: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    std: dict[str, float] = field(default_factory=dict)

    @property
    def streak_variance(self) -> float:
        """Variance of both kinds of streaks."""
        return self.streaks**2 + self.short_streaks**2

    @property
    def mean_streak_length(self) -> float:
        """Length of one kind of streaks with the integrated covariance of both, px."""
        if not self.streak_variance:
            return self.streak_length
        whole = self.streaks**2 * self.streak_length if self.streaks else 0.0
        return (whole + self.short_streaks**2 * self.short_length) / self.streak_variance


def row_statistics(
    rest: NDArray,
    signal: NDArray,
    slope: NDArray,
    slope_y: NDArray,
    *,
    valid: NDArray | None = None,
    registration: Registration | None = None,
    across: Registration | None = None,
) -> RowStatistics:
    """Split the noise of an image by how it is correlated along the row.

    Parameters
    ----------
    rest : ndarray of shape (n_y, n_x)
        The image, or what its fitted columns leave of it, over the contrast.
    signal : ndarray of shape (n_y, n_x)
        ``(I_clean - level) / contrast``, columns bright.
    slope : ndarray of shape (n_y, n_x)
        Its derivative along x, per px.
    slope_y : ndarray of shape (n_y, n_x)
        That along y.
    valid : ndarray of bool, optional
        Pixels that were recorded.
    registration, across : Registration, optional
        Displacements along x and y that ``rest`` is without.

    Notes
    -----
    With D the fourth difference across rows and C(k) the mean of D(x) D(x + k) along the row, pointwise noise of
    variance v and lag-1 correlation r gives C(k) = v r^k, streaks of variance a^2 and length l give
    a^2 exp(-k^2 / (4 l^2)), and displacements of variance d^2 give d^2 I'(x) I'(x + k), found at lags 4 to 8 by
    regression. Where rows were registered first, that took some noise with it: residuals of a linear prediction have
    the covariance of the noise less that of the prediction's error (in px squared, times ``I'(x) I'(x + k)``), which is
    added. The rest is fitted by generalised least squares, its covariance that of a Gaussian process
    (Bartlett 1946, doi:10.2307/2983611). The variance against the signal is then a straight line.
    """
    n_y, n_x = rest.shape
    if n_y < 8 or n_x < 12:
        return RowStatistics()
    difference = row_difference(rest)
    known = np.ones(difference.shape) if valid is None else _five(valid)
    deviation = robust_deviation(difference[known > 0])
    if deviation == 0:
        return RowStatistics()
    known = known * (np.abs(difference) < OUTLIER * deviation)
    difference = difference * known
    # the variance of a difference is that of the five rows it is made of
    seen = _weighted(signal)
    pushed, lifted = slope[2:-2] * known, slope_y[2:-2] * known
    lags = _lags(n_x)
    taken, lifted_by = (np.zeros(len(lags)) if r is None else r.left_at(lags) for r in (registration, across))
    middle = lags == STREAK_LAGS[2]
    given_back = np.array([taken[middle].mean(), lifted_by[middle].mean()])
    moved, moved_std = _with_gradients(difference, slope, slope_y, known, given_back)
    # what could as well be noise is left where it is
    squared_shift, squared_lift = np.where(moved > SEEN * moved_std, moved, 0.0)
    covariance, pairs = _covariance(difference, known, lags)
    for lost, driver in ((taken - squared_shift, pushed), (lifted_by - squared_lift, lifted)):
        if lost.any():
            covariance = covariance + lost * _covariance(driver, known, lags)[0]
    model, scatter = _split(lags, covariance, pairs, n_x, _driven(slope, slope_y, registration, across))
    pointwise, correlation, streaks, length, short, short_length = model
    # streaks are the same for bright and dark pixels, but their luck is long: most of them is taken off before squaring
    quick, kept, passed, seen = _without_slow(difference, known, seen, correlation, (length, short_length))
    rest_of_streaks = streaks * passed[0] + short * passed[1]
    square = quick**2 - rest_of_streaks
    square += (taken[0] - squared_shift) * _weighted(slope**2)
    square += (lifted_by[0] - squared_lift) * _weighted(slope_y**2)
    centre, variance, count = _by_signal(square / kept, seen, known)
    readout, gain, at, gain_std = _line(centre, variance, count, pointwise, rest_of_streaks / kept, correlation)
    readout_std = math.sqrt(scatter[0] ** 2 * OWN**2 + (at * gain_std) ** 2) / (2 * max(readout, math.sqrt(scatter[0])))
    amplitude = math.sqrt(streaks)
    length = length if streaks else RowStatistics.streak_length
    short_amplitude = math.sqrt(short)
    std = {
        "readout": math.hypot(readout_std, MISFIT * readout),
        "gain": math.hypot(gain_std, GAIN_MISFIT * gain),
        "correlation_x": LUCK**2 * scatter[1] * OWN,
        "streaks": _amplitude_std(streaks, scatter[2]),
        "streak_length": LUCK * scatter[3] if streaks else math.nan,
        "short_streaks": _amplitude_std(short, scatter[4]),
        "short_length": LUCK * scatter[5] if short else math.nan,
        "left": moved_std[0],
        "left_y": moved_std[1],
    }
    fitted = _model_covariance(lags, *model)
    left, lift = math.sqrt(squared_shift), math.sqrt(squared_lift)
    return RowStatistics(
        readout, gain, correlation, amplitude, length, short_amplitude, short_length, left, lift, centre, variance, count, lags,
        covariance, fitted, std,
    )  # fmt: skip


def _amplitude_std(variance: float, scatter: float) -> float:
    """Standard deviation of the square root of a variance that has the standard deviation ``scatter``."""
    amplitude = math.sqrt(variance)
    return math.hypot(scatter * OWN, MISFIT * variance) / (2 * max(amplitude, math.sqrt(scatter * OWN) / 2, 1e-150))


# --- covariance along the row ------------------------------------------------------------------------------------


def _five(valid: NDArray) -> NDArray:
    n = len(valid) - 4
    return np.logical_and.reduce([valid[i : i + n] for i in range(5)]).astype(np.float64)


def _weighted(signal: NDArray) -> NDArray:
    n = len(signal) - 4
    return sum(weight**2 * signal[i : i + n] for i, weight in enumerate(DIFFERENCE))


def _lags(n_x: int) -> NDArray[np.int64]:
    farthest = max(8, min(int(FARTHEST * n_x), n_x - 4))
    return np.unique(np.r_[0:9, np.geomspace(9, farthest, 18).astype(int)])


def _covariance(values: NDArray, known: NDArray, lags: NDArray) -> tuple[NDArray, NDArray]:
    """Mean of the product of pixels at each lag, and how many pairs it is the mean of."""
    n_x = values.shape[1]
    means, counts = [], []
    for k in lags:
        pairs = float(np.vdot(known[:, : n_x - k], known[:, k:]))
        means.append(float(np.vdot(values[:, : n_x - k], values[:, k:])) / max(pairs, 1.0))
        counts.append(pairs)
    return np.array(means), np.array(counts)


def _with_gradients(
    difference: NDArray, slope: NDArray, slope_y: NDArray, known: NDArray, taken: NDArray
) -> tuple[NDArray, NDArray]:
    """Variances of the displacements along x and y, and their standard deviations: regression of D(x) D(x + k) on the
    products of both slopes at the streaks' lags, each lag about its own mean, after ``taken`` is given back.
    """
    n_x = difference.shape[1]
    blocks = np.arange(0, len(difference), ROW_BLOCK)
    matrices, rights = np.zeros((len(blocks), 2, 2)), np.zeros((len(blocks), 2))
    for k in STREAK_LAGS:
        left, moved = slice(0, n_x - k), slice(k, n_x)
        weight = known[:, left] * known[:, moved]
        count = max(float(weight.sum()), 1.0)
        drivers = np.stack([_weighted(s[:, left] * s[:, moved]) for s in (slope, slope_y)]) * weight
        # streaks fall with the lag, and so do the slopes' products: only what differs from place to place counts
        drivers -= weight * (drivers.sum((1, 2), keepdims=True) / count)
        product = difference[:, left] * difference[:, moved]
        rows = np.einsum("iyx,jyx->yij", drivers, drivers)
        matrices += np.add.reduceat(rows, blocks, axis=0)
        rights += np.add.reduceat((drivers * product).sum(2).T, blocks, axis=0)
    matrix = matrices.sum(0)
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    if np.linalg.cond(matrix / np.outer(scale, scale)) > 1e6 or known.sum() == 0:
        return np.zeros(2), np.zeros(2)
    found = np.linalg.solve(matrix, rights.sum(0))
    # what each block of rows wants otherwise tells how sure the whole is, whatever the noise
    pull = rights - matrices @ found
    inverse = np.linalg.inv(matrix)
    return np.maximum(found + taken, 0.0), np.sqrt(np.diag(inverse @ (pull.T @ pull) @ inverse))


def _model_covariance(
    lags: NDArray,
    pointwise: float,
    correlation: float,
    streaks: float,
    length: float,
    short: float = 0.0,
    short_length: float = 1.0,
) -> NDArray:
    out = pointwise * np.sign(correlation) ** lags * np.abs(correlation) ** lags + streaks * _streak_shape(lags, length)
    return out + short * _streak_shape(lags, short_length) if short else out


def _streak_shape(lags: NDArray, length: float) -> NDArray:
    return np.ones(len(lags)) if math.isinf(length) else np.exp(-((lags / (2 * max(length, 1e-3))) ** 2))


def _driven(slope: NDArray, slope_y: NDArray, along_x: Registration | None, along_y: Registration | None) -> float:
    """Variance that the displacements have made of the columns' slopes."""
    pairs = ((slope, along_x), (slope_y, along_y))
    return sum(found.displacement**2 * float((s**2).mean()) for s, found in pairs if found is not None)


def _split(lags: NDArray, covariance: NDArray, pairs: NDArray, n_x: int, driven: float) -> tuple[Model, NDArray]:
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
    whiten = np.linalg.inv(_root(scatter))
    told = whiten @ covariance
    longest = LONGEST * n_x

    def solve(correlation: float, log_length: float) -> tuple[float, NDArray]:
        length = math.exp(log_length)
        columns = np.stack([_model_covariance(lags, 1.0, correlation, 0.0, 1.0), _streak_shape(lags, length)], axis=1)
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
    whole = length > math.log(0.98 * longest)
    found = float(pointwise), float(correlation), float(streaks), math.inf if whole else math.exp(length)
    return (*found, 0.0, RowStatistics.short_length), cost**2


def _fit_both(lags: NDArray, covariance: NDArray, scatter: NDArray, one: Model, n_x: int) -> Model | None:
    """The same with streaks of two lengths; None where the second kind is not significant."""
    whiten = np.linalg.inv(_root(scatter))
    told = whiten @ covariance
    longest = LONGEST * n_x

    def solve(correlation: float, lengths: NDArray) -> tuple[float, NDArray]:
        shapes = [_model_covariance(lags, 1.0, correlation, 0.0, 1.0), *(_streak_shape(lags, g) for g in lengths)]
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
        cost, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-3, "maxfev": 300, "initial_simplex": simplex}
    )  # fmt: skip
    alone = solve(one[1], np.array([one[3]]))[0]
    lengths = np.where(np.exp(found.x[1:]) > longest, math.inf, np.exp(found.x[1:]))
    _, (pointwise, streaks, short) = solve(found.x[0], lengths)
    if (one[4] == 0 and alone - found.fun < LEAST_GAIN) or streaks == 0 or short == 0:
        return None
    return float(pointwise), float(found.x[0]), float(streaks), float(lengths[0]), float(short), float(lengths[1])


def _root(scatter: NDArray) -> NDArray:
    """The Cholesky factor of a covariance, to which is added what rounding has left below zero: much where an image
    has hardly any noise.
    """
    values, vectors = np.linalg.eigh(scatter)
    lifted = (vectors * values.clip(min=1e-14 * np.trace(scatter))) @ vectors.T
    return np.linalg.cholesky((lifted + lifted.T) / 2 + 1e-15 * np.trace(scatter) * np.eye(len(scatter)))


def _simplex(correlation: float, length: float) -> NDArray:
    return np.array([[correlation, length], [correlation + 0.05, length], [correlation, length + 0.2]])


def _bartlett(lags: NDArray, model: tuple[float, ...], pairs: NDArray, n_x: int) -> NDArray:
    """Covariance of the estimated covariances of a Gaussian process: sum_m R(m) R(m + j - k) + R(m + j) R(m - k)."""
    reach = n_x - 1
    m = np.arange(-reach, reach + 1)
    everywhere = np.arange(-3 * n_x, 3 * n_x + 1)
    r = _model_covariance(np.abs(everywhere), *model)
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
        derivatives.append((_model_covariance(lags, *up) - _model_covariance(lags, *down)) / (2 * steps[i]))
    jacobian = np.array(derivatives).T
    weight = np.linalg.pinv(scatter)
    inverse = np.linalg.pinv(jacobian.T @ weight @ jacobian)
    out = np.full(len(model), math.nan)
    out[used] = np.sqrt(np.clip(np.diag(inverse), 0.0, None))
    if not short:
        # how much of a typical kind would not be seen
        shape = _streak_shape(lags, RowStatistics.short_length)
        out[4] = 1 / math.sqrt(max(float(shape @ weight @ shape), 1e-300))
    return out


# --- variance against the signal ---------------------------------------------------------------------------------


def _without_slow(
    difference: NDArray, known: NDArray, seen: NDArray, correlation: float, lengths: tuple[float, float]
) -> tuple[NDArray, float, list[float], NDArray]:
    """The noise without its Gaussian mean along the row, the fractions of the pointwise and of both streaks' variance
    that are left, and the signal that this variance belongs to: the pixel's own and a little of its neighbours'.
    """
    smooth = ndimage.gaussian_filter1d(difference, SLOW, axis=1, mode="constant")
    weight = ndimage.gaussian_filter1d(known, SLOW, axis=1, mode="constant")
    quick = (difference - smooth / np.maximum(weight, 0.05)) * known
    kernel = ndimage.gaussian_filter1d(np.eye(1, 8 * SLOW + 1, 4 * SLOW)[0], SLOW, mode="constant")
    filtered = np.eye(1, 8 * SLOW + 1, 4 * SLOW)[0] - kernel
    own = np.correlate(filtered, filtered, "full")
    lags = np.abs(np.arange(len(own)) - len(own) // 2)
    kept = float((own * _model_covariance(lags, 1.0, correlation, 0.0, 1.0)).sum())
    passed = [max(float((own * _streak_shape(lags, length)).sum()), 0.0) for length in lengths]
    middle = float(kernel.max())
    around = ndimage.correlate1d(seen, kernel**2, axis=1, mode="nearest")
    seen = ((1 - 2 * middle) * seen + around) / (1 - 2 * middle + float((kernel**2).sum()))
    return quick, kept, passed, seen


def _by_signal(square: NDArray, seen: NDArray, known: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Mean of squares in bins of the signal: half of them with equal numbers of pixels, half of equal width."""
    use = known.ravel() > 0
    x, y = seen.ravel()[use], square.ravel()[use]
    low, high = np.quantile(x, [0.001, 0.999])
    edges = np.unique(np.r_[np.quantile(x, np.linspace(0, 1, N_BINS // 2 + 1)), np.linspace(low, high, N_BINS // 2)])
    if len(edges) < 3 or high <= low:
        return np.array([x.mean()]), np.array([y.mean()]), np.array([x.size])
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(index)
    keep = count > 30
    return np.bincount(index, x)[keep] / count[keep], np.bincount(index, y)[keep] / count[keep], count[keep]


def _line(
    signal: NDArray, variance: NDArray, count: NDArray, pointwise: float, streaks: float, correlation: float
) -> tuple[float, float, float, float]:
    """Readout and gain, the signal at which the variance is the mean one, and the gain's standard deviation.

    The line goes through the pointwise variance that the covariance along the row gave; bins weigh as the scatter of a
    variance wants it. Bins with hardly any variance are left out: pixels clipped at the detector's end tell nothing.
    """
    usual = float(np.average(variance, weights=count)) if len(variance) else 0.0
    alive = variance > CLIPPED * usual
    signal, variance, count = signal[alive], variance[alive], count[alive]
    if len(signal) < 3 or np.ptp(signal) < 1e-3 or usual <= 0:
        return math.sqrt(max(pointwise, 0.0)), 0.0, 0.0, math.nan
    colour = (1 + correlation**2) / (1 - correlation**2)
    expected = variance
    for _ in range(3):
        weight = count / np.maximum(expected + streaks, 1e-3 * usual) ** 2
        at = float(np.average(signal, weights=weight))
        level = float(np.average(variance, weights=weight))
        spread = float((weight * (signal - at) ** 2).sum())
        gain = float((weight * (signal - at) * (variance - level)).sum()) / spread
        expected = level + gain * (signal - at)
    gain_std = math.sqrt(2 * (SHARED - 1) * colour / spread)
    mean = float(np.average(signal, weights=count))
    # clipped pixels apart, the mean variance is known from all lags together
    level = pointwise if alive.all() else level + gain * (mean - at)
    at_zero = max(level - gain * mean, 0.0)
    return math.sqrt(at_zero), max(gain, -at_zero), mean, gain_std
