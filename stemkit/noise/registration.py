"""Rows registered to the columns: where the beam stood while it scanned each of them, from what the rows say of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stemkit.noise.bends import LatticeHold, second_differences
from stemkit.noise.displacements import NO_PARTS, RowParts, fit_parts
from stemkit.noise.hum import along_rows, level_bands
from stemkit.noise.posterior import RowPosterior
from stemkit.noise.readings import Readings
from stemkit.noise.row_covariance import MOST_PAIRED, NO_PAIRS, Pairs, covariance_along_rows, fall
from stemkit.noise.row_information import RowInformation
from stemkit.noise.spectrum import RowSpectrum

__all__ = ["Registration", "no_registration", "register", "register_parts"]

#: Fewer rows than this with a reading can't tell jitter from noise.
FEWEST_ROWS = 8
#: The variance of a reading is known within this part, which is what remains of it in the jitter.
DOUBT = 0.1
#: Columns are not quite Gaussian, nor their displacement quite what a reading makes of it: in parts of its square.
MISFIT = 0.02
#: Displacements that change more slowly than over this many lattice vectors may be the specimen's.
SLOW = 3.0
#: Columns whose pairs give the variance within a row along y, where no length is sought (chosen).
FEWER_PAIRED = 200
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
        RMS displacement in this image of the part that is independent between rows, and the standard deviation of
        that number.
    length, length_std : float
        Along the row, as in :class:`stemkit.ScanNoise`; ``inf``: rows move as a whole.
    distance, covariance : ndarray of shape (n_bins,)
        Covariance of the displacements at two columns of a row against their distance (px squared, px).
    parts : RowParts
        Drift and hum in this image. ``jitter`` of it is that of the mean of a row.
    spectrum : RowSpectrum or None
        What the parts were fitted to.
    pairs : Pairs or None
        ``covariance`` with its errors.
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
    parts: RowParts = NO_PARTS
    spectrum: RowSpectrum | None = None
    pairs: Pairs | None = None

    @property
    def displacement(self) -> float:
        """RMS of all parts, px."""
        return math.sqrt(self.jitter**2 + self.parts.drift**2 + self.parts.hum**2 / 2)

    def left_at(self, lags: NDArray) -> NDArray[np.float64]:
        """``left`` at other lags; beyond the last one it is that of the last one."""
        return np.interp(lags, self.lag, self.left)


def register(readings: Readings, shape: tuple[int, int], *, find_length: bool = True) -> Registration:
    """Displacements from the readings, each column's own place left free, all of them jitter.

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
    if _too_few(readings):
        return no_registration(shape)
    pairs = covariance_along_rows(readings) if find_length else NO_PAIRS
    return _jitter(readings, shape, RowInformation.of(readings), pairs, find_length=find_length)


def register_parts(
    along_x: Readings,
    along_y: Readings,
    shape: tuple[int, int],
    spacing: float,
    *,
    row_length: int | None = None,
    vectors: NDArray | None = None,
    places: NDArray | None = None,
    known: tuple[Registration | None, Registration | None] = (None, None),
) -> tuple[Registration, Registration]:
    """Displacements along x and along y, divided into jitter, drift and hum.

    Parameters
    ----------
    along_x, along_y : Readings
    shape : (n_y, n_x)
    spacing : float
        Shortest distance of columns, px; it stands for the lattice vectors where they are not known.
    row_length : int, optional
        Pixels of a whole row, where ``shape`` is that of a part of the image.
    vectors : ndarray of shape (2, 2), optional
        Lattice vectors ``(y, x)``, px.
    places : ndarray of shape (n_columns, 2), optional
        Places ``(y, x)`` of the columns, px.
    known : pair of Registration or None
        Those that take all of the displacement for jitter; where there is nothing else they are returned.

    Notes
    -----
    :func:`stemkit.noise.displacements.fit_parts` divides the spectrum of the rows' displacements. Drift is then what is
    expected of it given the readings, its RMS that of the image at hand. A column's own place is free: displacements
    much slower than a column is high show as its slant only, which all columns have in common with an astigmatic
    probe; the mean slope of the drift over the image is therefore not measured.
    """
    if _too_few(along_x) or _too_few(along_y):
        return no_registration(shape), no_registration(shape)
    bends = None if vectors is None or places is None else second_differences(places, vectors)
    slowest = 1 / (SLOW * (spacing if vectors is None else float(np.hypot(*vectors.T).min())))
    rows, pairs = [], []
    for axis, readings, before in zip((1, 0), (along_x, along_y), known, strict=True):
        hold = None
        if bends is not None and places is not None:
            hold = LatticeHold.of(bends, places[:, axis], readings.weight.sum(1))
        seen = None if before is None else before.pairs
        most = MOST_PAIRED if axis == 1 else FEWER_PAIRED
        pairs.append(covariance_along_rows(readings, most) if seen is None or seen is NO_PAIRS else seen)
        rows.append(RowInformation.of(readings, pairs[-1].within_rows(), hold))
    spectra = [r.spectrum() for r in rows]
    parts = fit_parts(spectra, level_bands(vectors, shape[1]), slowest=slowest)
    posteriors = [RowPosterior.of(r.values, r.vectors, p, slowest=slowest) for r, p in zip(rows, parts, strict=True)]
    length = row_length or shape[1]
    parts = along_rows([r.readings for r in rows], posteriors, parts, length)
    x, y = (_Axis(*one) for one in zip((along_x, along_y), rows, pairs, spectra, parts, posteriors, known, strict=True))
    return _divided(x, length, shape, find_length=True), _divided(y, length, shape, find_length=False)


@dataclass(frozen=True)
class _Axis:
    """All that is known of one axis: ``known`` is the registration that takes all of the displacement for jitter."""

    readings: Readings
    rows: RowInformation
    pairs: Pairs
    spectrum: RowSpectrum
    parts: RowParts
    posterior: RowPosterior
    known: Registration | None


def _too_few(readings: Readings) -> bool:
    return bool((readings.weight.sum(0) > 0).sum() < FEWEST_ROWS)


def no_registration(shape: tuple[int, int]) -> Registration:
    """That of an image without readings."""
    zero = np.zeros(1)
    return Registration(np.zeros(shape), zero, zero, 0.0, math.nan, math.inf, math.nan, *np.empty((2, 0)))


def _jitter(
    readings: Readings, shape: tuple[int, int], rows: RowInformation, pairs: Pairs, *, find_length: bool
) -> Registration:
    """All of the displacement taken for jitter."""
    length, local, errors = fall(pairs) if find_length else (math.inf, 0.0, (math.nan, math.nan))
    curve = pairs.distance, pairs.covariance
    if math.isinf(length):
        mean = pairs.mean() if find_length else (0.0, math.inf)
        place, lost, jitter, std = _whole_rows(rows, readings.weight.sum(0), mean)
        field = np.repeat(place[:, None], shape[1], axis=1)
        return Registration(field, np.zeros(1), np.array([lost]), jitter, std, length, math.nan, *curve, pairs=pairs)
    field, lag, left = _fields(readings, local, length, shape)
    return Registration(field, lag, left, local, errors[0], length, errors[1], *curve, pairs=pairs)


def _divided(axis: _Axis, row_length: int, shape: tuple[int, int], *, find_length: bool) -> Registration:
    """Drift and hum taken off, the rest registered as jitter; the known registration where there is neither."""
    readings, rows, pairs, parts = axis.readings, axis.rows, axis.pairs, axis.parts
    posterior, known = axis.posterior, axis.known
    if known is not None and not (parts.drift or parts.hum):
        return replace(known, parts=parts, spectrum=axis.spectrum)
    n_y, n_x = shape
    free = RowInformation.of(readings)
    common = _in_pairs(free, posterior.factor, parts, pairs, row_length)
    mean, error = pairs.mean()
    if float(common.mean()) > mean + CONTRADICTED * error:
        # columns whose places are free do not show it: the specimen's
        parts = parts.without_slow()
        return replace(known or _jitter(readings, shape, free, pairs, find_length=find_length), parts=parts)
    place = np.arange(n_y)
    hum = parts.line(place[:, None] + np.arange(n_x) / row_length)
    at_columns = parts.line(place + readings.x[:, None] / row_length)
    fitted = parts.drift
    drift, parts = posterior.drift(rows.of_shift(readings.shift - at_columns), parts)
    factor = posterior.factor * (parts.drift / fitted if fitted else 1.0)
    common = _in_pairs(free, factor, parts, pairs, row_length)
    still = readings.moved(-at_columns - drift)
    rest = free.with_shift(still.shift)
    found = _jitter(still, shape, rest, pairs.without(common), find_length=find_length)
    if parts.drift and math.isinf(found.length):
        squared, std = posterior.jitter(rows.of_shift(readings.shift - at_columns), parts)
        noise = DOUBT * n_y / max(float(rows.values.sum()), 1e-300)
        std = math.hypot(std, noise, MISFIT * squared)
        found = replace(found, jitter=math.sqrt(squared), jitter_std=std / (2 * math.sqrt(max(squared, std / 2))))
    shifts = found.shifts + hum + drift[:, None]
    return replace(found, shifts=shifts, covariance=pairs.covariance, parts=parts, spectrum=axis.spectrum)


def _in_pairs(
    free: RowInformation, factor: NDArray, parts: RowParts, pairs: Pairs, row_length: int
) -> NDArray[np.float64]:
    """Covariance at the distances of the pairs that drift (of this factor) and hum make, px squared."""
    drift = free.seen_in_pairs(factor)
    if not parts.hum:
        return np.full(len(pairs.distance), drift)
    angle = 2 * np.pi * parts.hum_frequency * np.arange(len(free.values))
    hum = parts.hum**2 / 2 * free.seen_in_pairs(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    return drift + hum * np.cos(2 * np.pi * parts.hum_frequency * pairs.distance / row_length)


# --- rows that move as a whole -----------------------------------------------------------------------------------


def _whole_rows(rows: RowInformation, told: NDArray, pairs: tuple[float, float]) -> tuple[NDArray, float, float, float]:
    """Displacement of each row, the variance that its residual has lost, and the RMS with its standard deviation.

    ``told`` is the weight of all readings of each row, and ``pairs`` the mean covariance of columns in a row, which
    holds no noise, and its error: it stands where the likelihood contradicts it.
    """
    values, vectors = rows.values, rows.vectors
    along, _ = rows.along()
    squared = rows.likeliest()
    if abs(squared - pairs[0]) > CONTRADICTED * math.hypot(pairs[1], DOUBT * len(told) / values.sum()):
        squared = max(pairs[0], 0.0)
    expected = squared * along / (1 + squared * values)
    left = squared / (1 + squared * values)
    place = vectors @ expected
    n = len(place)
    # the mean of all rows is where the image stands, not jitter
    mean_square = max(float((expected**2).sum() + left.sum()) / n - float(place.mean()) ** 2 - squared / n, 0.0)
    if abs(mean_square - pairs[0]) > CONTRADICTED * math.hypot(pairs[1], DOUBT * n / values.sum()):
        mean_square = max(pairs[0], 0.0)
    noise = n / values.sum()
    spread = math.sqrt(float((2 * left**2 + 4 * expected**2 * left).sum())) / n
    spread = math.hypot(spread, DOUBT * noise, MISFIT * mean_square)
    jitter = math.sqrt(mean_square)
    # near zero the square is what has a normal error
    std = spread / (2 * math.sqrt(max(mean_square, spread / 2)))
    # what the residual has lost: the columns' places, free too, lose no more of it
    typical = float((told * squared / (1 + squared * told)).sum() / told.sum())
    return place - place.mean(), typical, jitter, std


# --- displacements that change along the row ---------------------------------------------------------------------


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
