"""What the beam saw, without the noise: the columns that are fitted to an image, and where each row stood."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.columns import (
    ColumnFits,
    column_response,
    find_peaks,
    fit_columns,
    nearest_distances,
    peaks_above_noise,
    render_columns,
)
from stemkit.noise.differences import robust_deviation, row_difference
from stemkit.noise.readings import Readings, read_shifts, slope
from stemkit.noise.registration import Registration, no_registration, register, register_parts
from stemkit.periodicity import find_periodicity, middle

__all__ = ["Specimen", "find_specimen"]

#: The columns are fitted, the rows registered to them, and both again: displacements of 2 px need three rounds.
ROUNDS = 3
#: Rows have settled when a round moves them by less than this (RMS, px).
SETTLED = 0.1
#: Rows that would be displaced by more than this many widths (RMS) have met the wrong columns.
LARGEST = 1.5
#: Peaks below this part of the tallest are not columns of the first round.
PROMINENT = 0.3
#: Quantiles of an image are those of every n-th column of pixels, correlations those of every n-th row (chosen).
THINNED, THINNED_ROWS = 4, 2
#: Variance of a pixel that is no measurement, over the largest of the others: it has no weight (chosen).
UNKNOWN = 1e12
#: A column counts where less than this part of its Gaussian is on faulty pixels (chosen).
HIDDEN = 0.1
#: Vacuum begins this many spacings from the nearest column, its level more standard deviations than this from those of
#: the columns' backgrounds; smaller fractions of the image than these are no vacuum, or too little crystal (chosen).
OUTSIDE, OTHER_LEVEL, LEAST_OUTSIDE, LEAST_INSIDE = 0.9, 5.0, 2e-3, 0.05
FEWEST_COLUMNS, MOST_COLUMNS = 4, 1200
#: Columns beyond the border reach this many widths into the image.
BORDER = 2.5
#: An image is searched for its lattice on a square of this many px.
LATTICE_SQUARE = 512
#: Columns are found with a filter of this part of the spacing at first.
FIRST_WIDTH = 0.2
#: Pairs are taken for columns where there are this many times more of them, their distances even within this part.
MANY_MORE, EVEN = 1.4, 0.12


@dataclass(frozen=True)
class Specimen:
    """One image taken apart, in its own units, columns bright; all arrays ``(n_y, n_x)``.

    Parameters
    ----------
    columns : ndarray
        The fitted columns as the displaced beam recorded them, without background; 0 where there are none.
    rest : ndarray
        The image without ``columns``: background and noise.
    signal : ndarray
        ``columns`` and the smoothed rest: what was there to be recorded.
    trusted : ndarray of bool
        Measured pixels of the crystal that no column beyond the border or in a faulty area, which is not fitted,
        reaches: none of the vacuum or support next to it, whose level is another.
    fits : ColumnFits or None
    registration, across : Registration or None
        Displacements of the beam along x and along y, all of them taken for jitter: those that ``columns`` have.
    spacing : float or None
        Shortest distance of columns, px.
    width : float
        Sigma of the columns, px; a guess without them.
    vectors : ndarray of shape (2, 2) or None
        Lattice vectors ``(y, x)``, px.
    readings : Readings or None
        What the rows say of some of the fitted columns, for other uses than ``registration``.
    read : ndarray of shape (n_columns, 2)
        Places ``(y, x)`` of the columns that ``readings`` are of, px.
    whole_columns : ColumnFits or None
        Those of ``fits`` that lie on measured pixels, all of them where too few do.
    parts, parts_y : Registration or None
        Displacements of the beam along x and along y, divided into jitter, drift and hum.
    """

    columns: NDArray[np.float64]
    rest: NDArray[np.float64]
    signal: NDArray[np.float64]
    trusted: NDArray[np.bool_]
    fits: ColumnFits | None
    registration: Registration | None
    across: Registration | None
    spacing: float | None
    width: float
    vectors: NDArray[np.float64] | None = None
    readings: Readings | None = None
    read: NDArray[np.float64] | None = None
    whole_columns: ColumnFits | None = None
    parts: Registration | None = None
    parts_y: Registration | None = None


def find_specimen(
    bright: NDArray,
    *,
    faulty: NDArray | None = None,
    rounds: int = ROUNDS,
    most_columns: int = MOST_COLUMNS,
    row_length: int | None = None,
) -> Specimen:
    """Fit the columns of an image and register its rows to them, in turns.

    Parameters
    ----------
    bright : ndarray of shape (n_y, n_x)
        One image, columns bright, its faulty pixels filled.
    faulty : ndarray of bool, shape (n_y, n_x), optional
        Pixels that are no measurement: rows are not registered on them, and they are not ``trusted``.
    rounds : int
        Fits of columns, each with the rows where the last one put them; up to two more until the rows settle.
    most_columns : int
        Rows are registered to so many of the columns, evenly chosen: their readings are the most of the memory.
    row_length : int, optional
        Pixels of a whole row, where ``bright`` is a part of the image.

    Notes
    -----
    Columns come from the image seen through a filter of a fifth of the spacing, and from what the first fits leave
    above the noise (faint sublattices). Without a lattice or with fewer than four columns nothing is fitted.
    """
    values = np.asarray(bright, dtype=np.float64)
    bad = np.zeros(values.shape, dtype=bool) if faulty is None else faulty
    periodicity = find_periodicity(middle(values, LATTICE_SQUARE))
    spacing = periodicity.spacing
    if spacing is None or spacing < 4 or min(values.shape) < 16:
        return _without_columns(values, spacing, bad)
    fits = _first_columns(values, spacing)
    if fits is None:
        return _without_columns(values, spacing, bad)
    n_y, n_x = values.shape
    shifts, registration, across = np.zeros((2, n_y, n_x)), None, None
    for i in range(rounds + 2):
        readings, readings_y = _readings(values, bad, fits, shifts, most_columns, along_y=0 < i < rounds)
        before = shifts.copy()
        registration = _sensible(register(readings, (n_y, n_x), find_length=i > 0), fits)
        shifts[1] = registration.shifts
        if readings_y is not None:
            across = _sensible(register(readings_y, (n_y, n_x), find_length=False), fits)
            shifts[0] = across.shifts
        if i == 0:
            fits = _with_faint_columns(values, bad, shifts, fits, spacing)
        fits = _fit(values, np.column_stack([fits.y, fits.x]), float(np.median(fits.sigma)), shifts, 4)
        if fits is None:
            return _without_columns(values, spacing, bad)
        if i >= rounds - 1 and float(np.sqrt(((shifts - before) ** 2).mean())) < SETTLED:
            break
    columns = render_columns(fits, values.shape, shifts)
    rest = values - columns
    readings, readings_y = _readings(values, bad, fits, shifts, most_columns, along_y=True, columns=columns)
    read = np.column_stack([fits.y, fits.x])[_some(len(fits), most_columns)]
    parts = register_parts(
        readings,
        readings_y or readings.none(),
        (n_y, n_x),
        spacing,
        row_length=row_length,
        vectors=periodicity.vectors,
        places=read,
        known=(registration, across),
    )
    smooth = ndimage.gaussian_filter(rest, max(2.0, 0.5 * spacing))
    width = float(np.median(fits.sigma))
    jitter = registration.displacement if registration else 0.0
    trusted = _away_from_border(values.shape, BORDER * width, BORDER * width + 2 * jitter)
    trusted &= _away_from_faults(bad, BORDER * width)
    trusted = _inside_crystal(rest, trusted, fits, spacing)
    return Specimen(
        columns,
        rest,
        columns + smooth,
        trusted,
        fits,
        registration,
        across,
        spacing,
        width,
        periodicity.vectors,
        readings,
        read,
        _whole(fits, bad),
        *(
            _sensible(part, fits, registration)
            for part, registration in zip(parts, (registration, across), strict=True)
        ),
    )


def _readings(
    values: NDArray,
    bad: NDArray,
    fits: ColumnFits,
    shifts: NDArray,
    most_columns: int,
    *,
    along_y: bool,
    columns: NDArray | None = None,
) -> tuple[Readings, Readings | None]:
    """What the rows say of the columns' places along x, and along y if asked; ``columns`` are the rendered fits."""
    columns = render_columns(fits, values.shape, shifts) if columns is None else columns
    rest = values - columns
    variance = _reading_variance(rest, bad, columns, float(np.median(fits.sigma)))
    variance[bad] = UNKNOWN * float(variance.max())
    residual = rest - float(np.median(fits.background))
    fits = fits.take(_some(len(fits), most_columns))
    along_x = read_shifts(residual, slope(columns), fits, shifts, variance)
    if not along_y:
        return along_x, None
    return along_x, read_shifts(residual, slope(columns, 0), fits, shifts, variance, axis=0)


def _some(n: int, most: int) -> NDArray[np.int64]:
    """At most so many of n, evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))


def _sensible(found: Registration, fits: ColumnFits, instead: Registration | None = None) -> Registration:
    """The registration, or another, or that of no readings, where it has met the wrong columns."""
    if found.displacement <= LARGEST * float(np.median(fits.sigma)):
        return found
    return no_registration(found.shifts.shape) if instead is None else instead


def _without_columns(values: NDArray, spacing: float | None, bad: NDArray) -> Specimen:
    width = 0.2 * spacing if spacing else 2.0
    smooth = ndimage.gaussian_filter(values, max(0.8, 0.5 * width))
    return Specimen(np.zeros_like(values), values, smooth, ~bad, None, None, None, spacing, width)


def _away_from_border(shape: tuple[int, ...], margin_y: float, margin_x: float) -> NDArray[np.bool_]:
    inside = np.zeros(shape, dtype=bool)
    y, x = (min(math.ceil(m), n // 8) for m, n in zip((margin_y, margin_x), shape, strict=True))
    inside[y : shape[0] - y, x : shape[1] - x] = True
    return inside


def _away_from_faults(bad: NDArray, margin: float) -> NDArray[np.bool_]:
    """Pixels that are measured and no column reaches whose center is not: one in an area of faulty pixels."""
    if not bad.any():
        return ~bad
    # single pixels and rows hide no column
    area = ndimage.binary_opening(bad, np.ones((3, 3)))
    return ~bad & (ndimage.distance_transform_edt(~area) > margin) if area.any() else ~bad


def _inside_crystal(rest: NDArray, trusted: NDArray, fits: ColumnFits, spacing: float) -> NDArray[np.bool_]:
    """The trusted pixels without those next to the crystal: far from all columns, on a level that the backgrounds of
    the columns do not have, and within a spacing of such pixels.

    A step to the vacuum is not background noise, and the noise in the vacuum is not that of the specimen.
    """
    if not trusted.any():
        return trusted
    column = np.ones(rest.shape, dtype=bool)
    at = (p.round().astype(int).clip(0, n - 1) for p, n in zip((fits.y, fits.x), rest.shape, strict=True))
    column[tuple(at)] = False
    far = ndimage.distance_transform_edt(column) > OUTSIDE * spacing
    if far.mean() < LEAST_OUTSIDE:
        return trusted
    level = float(np.median(fits.background))
    spread = 1.4826 * float(np.median(np.abs(fits.background - level)))
    local = ndimage.gaussian_filter(rest, 0.25 * spacing)
    outside = ndimage.binary_opening(far & (np.abs(local - level) > OTHER_LEVEL * spread), np.ones((3, 3)))
    if not outside.any():
        return trusted
    inside = trusted & (ndimage.distance_transform_edt(~outside) > spacing)
    return inside if inside.mean() > LEAST_INSIDE else trusted


def _whole(fits: ColumnFits, bad: NDArray) -> ColumnFits:
    """The columns on measured pixels: of the Gaussian, less than a tenth is on others."""
    if not bad.any():
        return fits
    hidden = ndimage.gaussian_filter(bad.astype(np.float64), float(np.median(fits.sigma)))
    n_y, n_x = bad.shape
    at = fits.y.round().astype(int).clip(0, n_y - 1), fits.x.round().astype(int).clip(0, n_x - 1)
    whole = fits.take(hidden[at] < HIDDEN)
    return whole if len(whole) >= FEWEST_COLUMNS else fits


def _first_columns(values: NDArray, spacing: float) -> ColumnFits | None:
    """Fits of the peaks that stand out. Columns may come in pairs that an autocorrelation does not part: they are also
    sought through a narrower filter, nearer to each other, which counts where it finds many more of them, all equally
    far apart.
    """
    usual = float(np.clip(FIRST_WIDTH * spacing, 1.0, 12.0))
    width = _width(values, spacing) or usual
    whole = _peaks(values, usual, 0.6 * spacing, 0.0)
    noise = 1.4826 * float(np.median(np.abs(row_difference(values[:, ::THINNED]))))
    parted = _peaks(values, max(0.6 * width, 0.8), 2.2 * width, noise)
    if len(parted) > MANY_MORE * len(whole) and _evenly_apart(parted):
        return _fit(values, parted, width, None, 8)
    return _fit(values, whole, usual, None, 8)


def _peaks(values: NDArray, sigma: float, apart: float, noise: float) -> NDArray[np.float64]:
    response = column_response(values, sigma)
    # white noise through a Gaussian keeps 1 / (4 pi s^2) of its variance, a little less without its surround
    least = 5 * noise / (2 * math.sqrt(math.pi) * sigma)
    return find_peaks(
        response, threshold=max(PROMINENT * float(np.quantile(response, 0.995)), least), min_distance=apart
    )


def _evenly_apart(peaks: NDArray) -> bool:
    """Whether most peaks have their nearest neighbour equally far away; noise on a column's flank has not."""
    distance = nearest_distances(peaks)
    middle = float(np.median(distance))
    return float(np.median(np.abs(distance - middle))) < EVEN * middle


def _width(values: NDArray, spacing: float) -> float | None:
    """Sigma of the columns from how alike rows one and two px apart are: ``exp(-k^2 / (4 sigma^2))``."""
    flat = values - ndimage.gaussian_filter(values, 0.6 * spacing)
    flat = flat - np.median(flat, axis=1, keepdims=True)
    near, far = (float((flat[:-k] * flat[k:]).mean()) for k in (1, 2))
    return math.sqrt(0.75 / math.log(near / far)) if near > far > 0 else None


def _fit(values: NDArray, peaks: NDArray, width: float, shifts: NDArray | None, iterations: int) -> ColumnFits | None:
    if len(peaks) < FEWEST_COLUMNS:
        return None
    fits = fit_columns(values, peaks, width, shifts=shifts, iterations=iterations)
    with np.errstate(invalid="ignore"):
        good = fits.take(~fits.failed & (fits.amplitude > 3 * fits.amplitude_err))
    return good if len(good) >= FEWEST_COLUMNS else None


def _with_faint_columns(values: NDArray, bad: NDArray, shifts: NDArray, fits: ColumnFits, spacing: float) -> ColumnFits:
    """The fits, and those of the peaks that they have left, which are no closer to them than columns are."""
    width = float(np.median(fits.sigma))
    columns = render_columns(fits, values.shape, shifts)
    rest = values - columns
    noise = math.sqrt(float(np.median(_reading_variance(rest, bad, columns, width))))
    peaks = peaks_above_noise(rest, width, noise=noise, min_distance=0.6 * spacing, significance=6.0)
    known = np.column_stack([fits.y, fits.x])
    apart = cKDTree(known).query(peaks)[0] if len(peaks) else np.empty(0)
    new = peaks[apart > max(0.5 * spacing, 1.5 * width)]
    if len(new) == 0:
        return fits
    found = _fit(rest, new, width, None, 6)
    if found is None:
        return fits
    # what is brighter than the columns that are known is a hot pixel
    found = found.take(found.amplitude < 1.5 * np.quantile(fits.amplitude, 0.9))
    return ColumnFits(**{k: np.concatenate([v, getattr(found, k)]) for k, v in vars(fits).items()})


def _reading_variance(rest: NDArray, bad: NDArray, columns: NDArray, width: float) -> NDArray:
    """Variance of the noise as a reading of a displacement feels it: that of a pixel, times the noise's colour.

    A reading sums noise weighted by the slope of a Gaussian, whose autocorrelation is ``(1 - k^2 / (2 s^2))
    exp(-k^2 / (4 s^2))``: short correlation of the noise makes it worse, a row's offset does not.
    """
    difference = row_difference(rest)
    limit = 8 * robust_deviation(difference[:, ::THINNED])
    difference = np.clip(difference, -limit, limit)
    if bad.any():
        known = np.logical_and.reduce([~bad[i : i + len(difference)] for i in range(5)])
        difference *= known
        difference *= math.sqrt(known.size / max(known.sum(), 1))
    square = difference**2
    signal = columns[2:-2]
    dim = signal < 0.1 * max(float(np.quantile(signal[:, ::THINNED], 0.99)), 1e-300)
    base = float(square[dim].mean()) if dim.sum() > 100 else float(square.mean())
    extra = float(((square - base) * signal).sum() / max(float((signal**2).sum()), 1e-300))
    lags = np.arange(1, min(math.ceil(4 * width), rest.shape[1] - 1) + 1)
    ratio = (lags / width) ** 2
    weight = (1 - ratio / 2) * np.exp(-ratio / 4)
    some = difference[::THINNED_ROWS]
    together = np.array([(some[:, k:] * some[:, :-k]).mean() for k in lags])
    correlation = together / max(square[::THINNED_ROWS].mean(), 1e-300)
    colour = max(1 + 2 * float((weight * correlation).sum()), 0.1)
    floor = max(0.05 * base, 1e-300)
    return colour * np.maximum(base + max(extra, -base) * columns, floor)
