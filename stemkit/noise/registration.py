"""Rows registered to the columns: where the beam stood while it scanned each of them, from what the rows say of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from stemkit.noise.readings import Readings

__all__ = ["Registration", "register"]

#: Fewer rows than this with a reading can't tell jitter from noise.
FEWEST_ROWS = 8
#: Blocks of rows whose separate curves give the errors of the covariance along a row.
BLOCKS = 8
MOST_PAIRED = 400
#: The displacement is called a field along the row only where its covariance falls by this many standard deviations.
SURE = 4.0
#: The variance of a reading is known within this part, which is what remains of it in the jitter.
DOUBT = 0.1
#: Columns are not quite Gaussian, nor their displacement quite what a reading makes of it: in parts of its square.
MISFIT = 0.02
#: Standard deviations beyond which two estimates of the jitter contradict each other.
CONTRADICTED = 2.5


@dataclass(frozen=True)
class Registration:
    """Displacement of the beam along x, or along y.

    Parameters
    ----------
    shifts : ndarray of shape (n_y, n_x)
        Expected displacement given the readings, px.
    lag, left : ndarray of shape (n_lags,)
        Covariance (px squared) along the row of what the readings leave open, as rows with much to read have it.
    jitter, jitter_std : float
        RMS displacement in this image, and the standard deviation of that number.
    length, length_std : float
        Along the row, as in :class:`stemkit.ScanNoise`; ``inf``: rows move as a whole.
    distance, covariance : ndarray of shape (n_bins,)
        Covariance of the displacements at two columns of a row against their distance (px squared, px).
    """

    shifts: NDArray[np.float64]
    lag: NDArray[np.float64]
    left: NDArray[np.float64]
    jitter: float
    jitter_std: float
    length: float
    length_std: float
    distance: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def left_at(self, lags: NDArray) -> NDArray[np.float64]:
        """``left`` at other lags; beyond the last one it is that of the last one."""
        return np.interp(lags, self.lag, self.left)


def register(readings: Readings, shape: tuple[int, int], *, find_length: bool = True) -> Registration:
    """Displacements from the readings, each column's own place left free.

    Parameters
    ----------
    readings : Readings
    shape : (n_y, n_x)
    find_length : bool
        False takes rows to move as a whole.

    Notes
    -----
    Readings are ``d_y - q_cy e_c + noise``, with the displacement of the row and the errors of the column's parameters
    (its place; along y its height and width, too), whose modes q are orthonormal. With those eliminated, the rows'
    information is ``S = diag(sum_c w_cy) - sum_c (w q)_c (w q)_c^T`` and ``S^-1 u`` their estimate; along the
    eigenvectors of S, u has the variance ``lambda + jitter^2 lambda^2``, which gives the jitter by maximum likelihood
    (restricted: Patterson and Thompson 1971, doi:10.1093/biomet/58.3.545). The displacements are their expectation
    under it, and the RMS is that of the image at hand: ``E[sum d^2]``, with its variance ``sum 2 P^2 + 4 d^2 P`` for a
    posterior covariance of eigenvalues P.

    Where the covariance between columns of a row falls with their distance, the displacement is a field along the
    row, ``jitter^2 exp(-distance^2 / (4 length^2))``, and its expectation that of a Gaussian process.
    """
    zero = np.zeros(1)
    nothing = Registration(np.zeros(shape), zero, zero, 0.0, math.nan, math.inf, math.nan, *np.empty((2, 0)))
    if (readings.weight.sum(0) > 0).sum() < FEWEST_ROWS:
        return nothing
    empty = np.empty(0)
    whole = (empty, empty, math.inf, 0.0, (math.nan, math.nan), (0.0, math.inf))
    distance, covariance, length, local, errors, mean = _along_row(_some(readings)) if find_length else whole
    if math.isinf(length):
        rows, lost, jitter, std = _whole_rows(readings, mean)
        field = np.repeat(rows[:, None], shape[1], axis=1)
        return Registration(field, zero, np.array([lost]), jitter, std, length, math.nan, distance, covariance)
    field, lag, left = _fields(readings, local, length, shape)
    return Registration(field, lag, left, local, errors[0], length, errors[1], distance, covariance)


# --- rows that move as a whole -----------------------------------------------------------------------------------


def _whole_rows(readings: Readings, pairs: tuple[float, float]) -> tuple[NDArray, float, float, float]:
    """Displacement of each row, the variance that its residual has lost, and the RMS with its standard deviation.

    ``pairs`` is the mean covariance of columns in a row, which holds no noise, and its error: it stands where the
    likelihood contradicts it.
    """
    w, t = readings.weight, readings.shift
    information, u = np.diag(w.sum(0)), (w * t).sum(0)
    for mode in readings.weighted_modes():
        information = information - mode.T @ mode
        u = u - mode.T @ (mode * t).sum(1)
    values, vectors = np.linalg.eigh(information)
    values = np.maximum(values, 0.0)
    along = vectors.T @ u
    known = values > 1e-9 * values.max()
    along = np.where(known, along, 0.0)
    squared = _likeliest(values[known], along[known])
    if abs(squared - pairs[0]) > CONTRADICTED * math.hypot(pairs[1], DOUBT * len(w.T) / values.sum()):
        squared = max(pairs[0], 0.0)
    expected = squared * along / (1 + squared * values)
    left = squared / (1 + squared * values)
    rows = vectors @ expected
    n = len(rows)
    # the mean of all rows is where the image stands, not jitter
    mean_square = max(float((expected**2).sum() + left.sum()) / n - float(rows.mean()) ** 2 - squared / n, 0.0)
    if abs(mean_square - pairs[0]) > CONTRADICTED * math.hypot(pairs[1], DOUBT * len(rows) / values.sum()):
        mean_square = max(pairs[0], 0.0)
    noise = len(rows) / values.sum()
    spread = math.sqrt(float((2 * left**2 + 4 * expected**2 * left).sum())) / n
    spread = math.hypot(spread, DOUBT * noise, MISFIT * mean_square)
    jitter = math.sqrt(mean_square)
    # near zero the square is what has a normal error
    std = spread / (2 * math.sqrt(max(mean_square, spread / 2)))
    # what the residual has lost: the columns' places, free too, lose no more of it
    told = w.sum(0)
    typical = float((told * squared / (1 + squared * told)).sum() / told.sum())
    return rows - rows.mean(), typical, jitter, std


def _likeliest(values: NDArray, along: NDArray) -> float:
    """Variance of the displacements (px squared): the minimum of sum(log v + z^2 / v), v = lambda + s lambda^2."""

    def cost(log_s: float) -> float:
        v = values + math.exp(log_s) * values**2
        return float((np.log(v) + along**2 / v).sum())

    at_zero = float((np.log(values) + along**2 / values).sum())
    found = optimize.minimize_scalar(cost, bounds=(math.log(1e-7), math.log(100.0)), method="bounded")
    return math.exp(found.x) if found.fun < at_zero - 1e-6 else 0.0


def _some(readings: Readings) -> Readings:
    """Readings of at most MOST_PAIRED columns: pairs grow with the square of their number."""
    n = len(readings.x)
    if n <= MOST_PAIRED:
        return readings
    chosen = np.random.default_rng(0).permutation(n)[:MOST_PAIRED]
    return readings.take(chosen)


# --- displacements that change along the row ---------------------------------------------------------------------


def _along_row(
    readings: Readings,
) -> tuple[NDArray, NDArray, float, float, tuple[float, float], tuple[float, float]]:
    """Covariance of the displacement between columns of a row; what its fall says: length, RMS and their errors; and
    its mean with its standard deviation.
    """
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
        return np.empty(0), np.empty(0), math.inf, 0.0, (math.nan, math.nan), (0.0, math.inf)
    # eight blocks tell the size of the errors for all bins together, the pairs how they differ
    scatter = np.sqrt((BLOCKS - 1) / BLOCKS * ((others - others.mean(0)) ** 2).sum(0))
    error = np.median(scatter * np.sqrt(bottom[keep])) / np.sqrt(bottom[keep])
    length, rms, errors = _fall(middle[keep], covariance, error, others)
    weight = 1 / np.maximum(error, 1e-300) ** 2
    mean = float((weight * covariance).sum() / weight.sum())
    means = (others * weight).sum(1) / weight.sum()
    mean_std = math.sqrt((BLOCKS - 1) / BLOCKS * float(((means - means.mean()) ** 2).sum()))
    return middle[keep], covariance, length, rms, errors, (mean, mean_std)


def _edges(readings: Readings) -> NDArray:
    """Bins of distance: nearer columns share their noise; the last ones have too few pairs."""
    extent = float(np.ptp(readings.x))
    nearest = 3.0 + 2 * np.sqrt((readings.weight > 0).sum(1).mean())
    return np.geomspace(nearest, max(0.8 * extent, 2 * nearest), 15)


def _fall(
    distance: NDArray, covariance: NDArray, error: NDArray, others: NDArray
) -> tuple[float, float, tuple[float, float]]:
    """Length and RMS of ``a exp(-distance^2 / (4 length^2))``; an infinite length where the curve does not fall."""
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


def _fields(
    readings: Readings, jitter: float, length: float, shape: tuple[int, int]
) -> tuple[NDArray, NDArray, NDArray]:
    """Expected displacement, on nodes along x that the kernel joins; and lags and covariance of what is left open."""
    n_y, n_x = shape
    step = float(np.clip(0.7 * length, 6.0, None))
    nodes = np.arange(-step / 2, n_x + step, step)

    def kernel(a: NDArray, b: NDArray) -> NDArray:
        return jitter**2 * np.exp(-((a[:, None] - b[None, :]) ** 2) / (4 * length**2))

    prior = kernel(nodes, nodes) + 1e-6 * jitter**2 * np.eye(len(nodes))
    inverse = np.linalg.inv(prior)
    see = kernel(readings.x, nodes) @ inverse
    w = readings.weight
    pairs = (see[:, :, None] * see[:, None, :]).reshape(len(see), -1)
    information = (w.T @ pairs).reshape(n_y, len(nodes), len(nodes))
    told = (w * readings.shift).T @ see
    covariance = np.linalg.inv(inverse[None] + information)
    expected = (covariance @ told[:, :, None])[:, :, 0]
    to_pixels = kernel(np.arange(n_x, dtype=float), nodes) @ inverse
    told_by = w.sum(0) / w.sum()
    open_ = np.einsum("y,yij->ij", told_by, covariance)
    lag = np.unique(np.r_[0:9, 12, 16, 24, 32, 48, 64, np.arange(96, n_x // 2, 32)]).astype(float)
    lag = lag[lag < n_x - 1]
    pairs = to_pixels @ open_ @ to_pixels.T
    left = np.array([np.diagonal(pairs, int(k)).mean() for k in lag])
    return expected @ to_pixels.T, lag, left
