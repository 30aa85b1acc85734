"""Specimen and noise of an image separated: its columns are fitted, and its rows registered to them, in turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from stemkit.filters import gaussian_variance_gain
from stemkit.noise.differences import mad_std, robust_std, row_difference, rows_without
from stemkit.noise.registration import BeamDisplacement, no_displacement, register_in_parts, register_rows
from stemkit.noise.shift_estimates import ShiftEstimates, derivative, estimate_shifts
from stemkit.periodicity import find_periodicity, middle

__all__ = ["FittedCrystal", "Separation", "separate_specimen"]

#: Rows are registered to at most this many columns: their estimates need most of the memory (chosen).
MOST_COLUMNS = 1200


@dataclass(frozen=True)
class _Settings:
    """Constants of the separation."""

    #: Rounds of fitting and registration (chosen: displacements of 2 px need three), ...
    rounds: int = 3
    #: ... and more of them until the rows have settled (chosen).
    extra_rounds: int = 2
    #: Rows have settled if a round changes their displacement by less than this, RMS px (chosen).
    settled: float = 0.1
    #: RMS displacement, in widths of a column, beyond which rows were registered to the wrong columns (chosen).
    largest_displacement: float = 1.5
    #: The lattice is determined on a square of this side, px (chosen).
    lattice_square: int = 512
    #: Smallest spacing of columns, px, and shortest side of an image, px, for which columns are fitted (chosen).
    smallest_spacing: float = 4.0
    smallest_side: int = 16
    #: Fewest columns (chosen).
    fewest_columns: int = 4
    #: Width of the filter of the first search, as a fraction of the spacing (chosen).
    first_width: float = 0.2
    #: Least height of the peaks of the first search, as a fraction of the 99.5 % quantile (chosen).
    least_height: float = 0.3
    #: Pairs of columns are resolved if a narrower filter finds this many times more peaks (chosen) ...
    resolved_pairs: float = 1.4
    #: ... whose distances are equal within this fraction (chosen).
    equal_distances: float = 0.12
    #: Significance of faint columns in the residual, standard deviations (chosen).
    faint: float = 6.0
    #: Quantiles of an image are those of every n-th column of pixels (chosen).
    thinned: int = 4
    #: Correlations of the noise are those of every n-th row (chosen).
    thinned_rows: int = 2
    #: Variance of a faulty pixel over the largest of the others: it has no weight (chosen).
    faulty_variance: float = 1e12
    #: Largest fraction of the Gaussian of a complete column that is on faulty pixels (chosen).
    hidden: float = 0.1
    #: Columns beyond the border extend this many widths into the image (chosen).
    border: float = 2.5
    #: Vacuum begins this many spacings from the nearest column (chosen), ...
    vacuum_distance: float = 0.9
    #: ... its level differs from the columns' backgrounds by this many standard deviations (chosen), ...
    vacuum_level: float = 5.0
    #: ... and covers at least this fraction of the image (chosen), ...
    least_vacuum: float = 2e-3
    #: ... of which at least this fraction is left (chosen).
    least_crystal: float = 0.05


SETTINGS = _Settings()


@dataclass(frozen=True)
class FittedCrystal:
    """The columns of an image, and the displacement of the beam while it recorded them.

    Parameters
    ----------
    fits : ColumnFits
    complete : ColumnFits
        Those of ``fits`` on pixels that are not faulty; all of them where too few are.
    vectors : ndarray of shape (2, 2) or None
        Lattice vectors ``(y, x)``, px.
    jitter_x, jitter_y : BeamDisplacement
        Along x and along y, attributed to jitter as a whole: those that the columns were fitted with.
    displacement_x, displacement_y : BeamDisplacement
        Along x and along y, divided into jitter, drift and hum.
    estimates : ShiftEstimates
        Displacements along x of each row at some of the columns.
    positions : ndarray of shape (n_columns, 2)
        Positions ``(y, x)`` of these columns, px.
    """

    fits: ColumnFits
    complete: ColumnFits
    vectors: NDArray[np.float64] | None
    jitter_x: BeamDisplacement
    jitter_y: BeamDisplacement
    displacement_x: BeamDisplacement
    displacement_y: BeamDisplacement
    estimates: ShiftEstimates
    positions: NDArray[np.float64]


@dataclass(frozen=True)
class Separation:
    """One image separated into specimen and noise, in its own units, columns bright; all arrays ``(n_y, n_x)``.

    Parameters
    ----------
    residual : ndarray
        The image without its fitted columns: background and noise.
    signal : ndarray
        The columns and the smoothed residual: an estimate of the image without noise.
    valid : ndarray of bool
        Pixels of the crystal that are not faulty, and that no column beyond the border or in a faulty area reaches,
        which is not fitted; none of the vacuum or support next to the crystal.
    spacing : float or None
        Shortest distance of columns, px.
    width : float
        Sigma of the columns, px; a guess without them.
    crystal : FittedCrystal or None
        None without columns.
    """

    residual: NDArray[np.float64]
    signal: NDArray[np.float64]
    valid: NDArray[np.bool_]
    spacing: float | None
    width: float
    crystal: FittedCrystal | None = None

    @property
    def fits(self) -> ColumnFits | None:
        """The fitted columns, None without them."""
        return None if self.crystal is None else self.crystal.fits


def separate_specimen(
    bright: NDArray,
    *,
    faulty: NDArray | None = None,
    most_columns: int = MOST_COLUMNS,
    row_length: int | None = None,
) -> Separation:
    """Fit the columns of an image and register its rows to them, in turns.

    Parameters
    ----------
    bright : ndarray of shape (n_y, n_x)
        One image, columns bright, its faulty pixels filled.
    faulty : ndarray of bool, shape (n_y, n_x), optional
        Faulty pixels: rows are not registered on them, and they are not ``valid``.
    most_columns : int
        Rows are registered to at most this many columns, evenly chosen.
    row_length : int, optional
        Pixels of a whole row, where ``bright`` is a part of the image.

    Returns
    -------
    Separation
        Without a lattice or with fewer than four columns no columns are fitted.

    Notes
    -----
    Columns are peaks of the image filtered with a Gaussian of a fifth of the spacing, and peaks of the residual of the
    first fits that exceed the noise (faint sublattices).
    """
    values = np.asarray(bright, dtype=np.float64)
    bad = np.zeros(values.shape, dtype=bool) if faulty is None else faulty
    periodicity = find_periodicity(middle(values, SETTINGS.lattice_square))
    spacing = periodicity.spacing
    small = spacing is None or spacing < SETTINGS.smallest_spacing or min(values.shape) < SETTINGS.smallest_side
    if spacing is None or small:
        return _without_columns(values, spacing, bad)
    image = _Image(values, bad, spacing, most_columns)
    registered = _fit_and_register(image)
    if registered is None:
        return _without_columns(values, spacing, bad)
    columns = render_columns(registered.fits, values.shape, registered.shifts)
    crystal = _crystal(image, registered, columns, periodicity.vectors, row_length)
    residual = values - columns
    width = float(np.median(registered.fits.sigma))
    margin = SETTINGS.border * width
    valid = _away_from_border(values.shape, margin, margin + 2 * registered.jitter_x.rms)
    valid &= _away_from_faults(bad, margin)
    valid = _inside_crystal(residual, valid, registered.fits, spacing)
    smooth = ndimage.gaussian_filter(residual, max(2.0, 0.5 * spacing))
    return Separation(residual, columns + smooth, valid, spacing, width, crystal)


def _without_columns(values: NDArray, spacing: float | None, bad: NDArray) -> Separation:
    width = 0.2 * spacing if spacing else 2.0
    smooth = ndimage.gaussian_filter(values, max(0.8, 0.5 * width))
    return Separation(values, smooth, ~bad, spacing, width)


# --- fits and registration in turns ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    """One image, columns bright, and what does not change in the rounds."""

    values: NDArray
    faulty: NDArray
    spacing: float
    most_columns: int

    def registered_columns(self, fits: ColumnFits) -> ColumnFits:
        """The columns that rows are registered to: at most ``most_columns``, evenly chosen."""
        n = len(fits)
        return fits.take(np.unique(np.linspace(0, n - 1, min(n, self.most_columns)).astype(int)))

    def estimates(
        self, fits: ColumnFits, shifts: NDArray, axes: Sequence[int], columns: NDArray | None = None
    ) -> list[ShiftEstimates]:
        """Displacements of each row along these axes at the columns; ``columns`` are the rendered fits."""
        columns = render_columns(fits, self.values.shape, shifts) if columns is None else columns
        residual = self.values - columns
        variance = _estimate_variance(residual, self.faulty, columns, float(np.median(fits.sigma)))
        variance[self.faulty] = SETTINGS.faulty_variance * float(variance.max())
        residual = residual - float(np.median(fits.background))
        chosen = self.registered_columns(fits)
        return [
            estimate_shifts(residual, derivative(columns, axis), chosen, shifts, variance, axis=axis) for axis in axes
        ]


@dataclass(frozen=True)
class _Registered:
    """Fits, the displacements ``(2, n_y, n_x)`` along y and x that they were made with, and their registration."""

    fits: ColumnFits
    shifts: NDArray
    jitter_x: BeamDisplacement
    jitter_y: BeamDisplacement


def _fit_and_register(image: _Image) -> _Registered | None:
    """Rounds of fits and registration; None where too few columns are fitted."""
    shape = image.values.shape
    fits = _first_columns(image.values, image.spacing)
    shifts, jitter_y = np.zeros((2, *shape)), no_displacement(shape)
    for i in range(SETTINGS.rounds + SETTINGS.extra_rounds):
        if fits is None:
            return None
        # displacements along y are smaller, and need two rounds
        x, *y = image.estimates(fits, shifts, (1, 0) if 0 < i < SETTINGS.rounds else (1,))
        before = shifts.copy()
        jitter_x = _plausible(register_rows(x, shape, find_length=i > 0), fits, no_displacement(shape))
        if y:
            jitter_y = _plausible(register_rows(y[0], shape, find_length=False), fits, no_displacement(shape))
        shifts = np.stack([jitter_y.shifts, jitter_x.shifts])
        if i == 0:
            fits = _with_faint_columns(image, shifts, fits)
        fits = _fit(image.values, np.column_stack([fits.y, fits.x]), float(np.median(fits.sigma)), shifts, 4)
        if i >= SETTINGS.rounds - 1 and float(np.sqrt(((shifts - before) ** 2).mean())) < SETTINGS.settled:
            break
    return None if fits is None else _Registered(fits, shifts, jitter_x, jitter_y)


def _crystal(
    image: _Image, registered: _Registered, columns: NDArray, vectors: NDArray | None, row_length: int | None
) -> FittedCrystal:
    """The columns with the displacements divided into parts."""
    fits, jitter = registered.fits, (registered.jitter_x, registered.jitter_y)
    x, y = image.estimates(fits, registered.shifts, (1, 0), columns)
    chosen = image.registered_columns(fits)
    positions = np.column_stack([chosen.y, chosen.x])
    parts = register_in_parts(
        x,
        y,
        image.values.shape,
        image.spacing,
        row_length=row_length,
        vectors=vectors,
        positions=positions,
        as_jitter=jitter,
    )
    parts_x, parts_y = (_plausible(one, fits, instead) for one, instead in zip(parts, jitter, strict=True))
    complete = _complete_columns(fits, image.faulty)
    return FittedCrystal(fits, complete, vectors, *jitter, parts_x, parts_y, x, positions)


def _plausible(found: BeamDisplacement, fits: ColumnFits, instead: BeamDisplacement) -> BeamDisplacement:
    """The displacement, or another one if it is so large that rows were registered to the wrong columns."""
    return found if found.rms <= SETTINGS.largest_displacement * float(np.median(fits.sigma)) else instead


def _estimate_variance(residual: NDArray, bad: NDArray, columns: NDArray, width: float) -> NDArray[np.float64]:
    """Variance of the noise for an estimated displacement: that of a pixel, times the effect of its correlation.

    An estimate sums noise weighted by the slope of a Gaussian, whose autocorrelation is ``(1 - k^2 / (2 s^2))
    exp(-k^2 / (4 s^2))``: short correlation of the noise increases its error, the offset of a row does not.
    """
    difference = row_difference(residual)
    limit = 8 * robust_std(difference[:, :: SETTINGS.thinned])
    difference = np.clip(difference, -limit, limit)
    if bad.any():
        known = rows_without(bad)
        difference *= known
        difference *= math.sqrt(known.size / max(known.sum(), 1))
    square, signal = difference**2, columns[2:-2]
    dark = signal < 0.1 * max(float(np.quantile(signal[:, :: SETTINGS.thinned], 0.99)), 1e-300)
    base = float(square[dark].mean()) if dark.sum() > 100 else float(square.mean())
    growth = float(((square - base) * signal).sum() / max(float((signal**2).sum()), 1e-300))
    lags = np.arange(1, min(math.ceil(4 * width), residual.shape[1] - 1) + 1)
    ratio = (lags / width) ** 2
    weight = (1 - ratio / 2) * np.exp(-ratio / 4)
    thinned = difference[:: SETTINGS.thinned_rows]
    products = np.array([(thinned[:, k:] * thinned[:, :-k]).mean() for k in lags])
    correlation = products / max(square[:: SETTINGS.thinned_rows].mean(), 1e-300)
    correlated = max(1 + 2 * float((weight * correlation).sum()), 0.1)
    return correlated * np.maximum(base + max(growth, -base) * columns, max(0.05 * base, 1e-300))


# --- columns -----------------------------------------------------------------------------------------------------


def _first_columns(values: NDArray, spacing: float) -> ColumnFits | None:
    """Fits of the highest peaks. The autocorrelation may not resolve pairs of columns: they are also sought with a
    narrower filter, which is used if it finds many more of them, all at equal distances.
    """
    usual = float(np.clip(SETTINGS.first_width * spacing, 1.0, 12.0))
    width = _width(values, spacing) or usual
    peaks = _peaks(values, usual, 0.6 * spacing, 0.0)
    noise = mad_std(row_difference(values[:, :: SETTINGS.thinned]))
    resolved = _peaks(values, max(0.6 * width, 0.8), 2.2 * width, noise)
    if len(resolved) > SETTINGS.resolved_pairs * len(peaks) and _at_equal_distances(resolved):
        return _fit(values, resolved, width, None, 8)
    return _fit(values, peaks, usual, None, 8)


def _peaks(values: NDArray, sigma: float, min_distance: float, noise: float) -> NDArray[np.float64]:
    """Peaks of the filtered image; they exceed noise of this standard deviation, filtered, five times."""
    response = column_response(values, sigma)
    least = 5 * noise * math.sqrt(gaussian_variance_gain(sigma))
    height = SETTINGS.least_height * float(np.quantile(response, 0.995))
    return find_peaks(response, threshold=max(height, least), min_distance=min_distance)


def _at_equal_distances(peaks: NDArray) -> bool:
    """Whether most peaks have their nearest neighbour at the same distance, unlike peaks of noise on columns."""
    distance = nearest_distances(peaks)
    median = float(np.median(distance))
    return float(np.median(np.abs(distance - median))) < SETTINGS.equal_distances * median


def _width(values: NDArray, spacing: float) -> float | None:
    """Sigma of the columns from the covariance ``exp(-k^2 / (4 sigma^2))`` of rows one and two px apart."""
    flat = values - ndimage.gaussian_filter(values, 0.6 * spacing)
    flat = flat - np.median(flat, axis=1, keepdims=True)
    near, far = (float((flat[:-k] * flat[k:]).mean()) for k in (1, 2))
    return math.sqrt(0.75 / math.log(near / far)) if near > far > 0 else None


def _fit(values: NDArray, peaks: NDArray, width: float, shifts: NDArray | None, iterations: int) -> ColumnFits | None:
    """Fits of the significant columns; None if they are too few."""
    if len(peaks) < SETTINGS.fewest_columns:
        return None
    fits = fit_columns(values, peaks, width, shifts=shifts, iterations=iterations)
    with np.errstate(invalid="ignore"):
        good = fits.take(~fits.failed & (fits.amplitude > 3 * fits.amplitude_err))
    return good if len(good) >= SETTINGS.fewest_columns else None


def _with_faint_columns(image: _Image, shifts: NDArray, fits: ColumnFits) -> ColumnFits:
    """The fits, and those of the peaks of their residual that are at least half a spacing away from them."""
    width = float(np.median(fits.sigma))
    columns = render_columns(fits, image.values.shape, shifts)
    residual = image.values - columns
    noise = math.sqrt(float(np.median(_estimate_variance(residual, image.faulty, columns, width))))
    min_distance = 0.6 * image.spacing
    peaks = peaks_above_noise(residual, width, noise=noise, min_distance=min_distance, significance=SETTINGS.faint)
    known = np.column_stack([fits.y, fits.x])
    distance = cKDTree(known).query(peaks)[0] if len(peaks) else np.empty(0)
    new = peaks[distance > max(0.5 * image.spacing, 1.5 * width)]
    found = _fit(residual, new, width, None, 6) if len(new) else None
    if found is None:
        return fits
    # brighter peaks than the known columns are hot pixels
    found = found.take(found.amplitude < 1.5 * np.quantile(fits.amplitude, 0.9))
    return ColumnFits(**{k: np.concatenate([v, getattr(found, k)]) for k, v in vars(fits).items()})


def _complete_columns(fits: ColumnFits, bad: NDArray) -> ColumnFits:
    """The columns whose Gaussian is on pixels that are not faulty; all of them where too few are."""
    if not bad.any():
        return fits
    hidden = ndimage.gaussian_filter(bad.astype(np.float64), float(np.median(fits.sigma)))
    complete = fits.take(hidden[_nearest_pixels(fits, bad.shape)] < SETTINGS.hidden)
    return complete if len(complete) >= SETTINGS.fewest_columns else fits


def _nearest_pixels(fits: ColumnFits, shape: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    y, x = (p.round().astype(int).clip(0, n - 1) for p, n in zip((fits.y, fits.x), shape, strict=True))
    return y, x


# --- valid pixels ------------------------------------------------------------------------------------------------


def _away_from_border(shape: tuple[int, ...], margin_y: float, margin_x: float) -> NDArray[np.bool_]:
    inside = np.zeros(shape, dtype=bool)
    y, x = (min(math.ceil(m), n // 8) for m, n in zip((margin_y, margin_x), shape, strict=True))
    inside[y : shape[0] - y, x : shape[1] - x] = True
    return inside


def _away_from_faults(bad: NDArray, margin: float) -> NDArray[np.bool_]:
    """Pixels that are not faulty and that no column with its centre in an area of faulty pixels reaches."""
    if not bad.any():
        return ~bad
    # single pixels and rows hide no column
    area = ndimage.binary_opening(bad, np.ones((3, 3)))
    return ~bad & (ndimage.distance_transform_edt(~area) > margin) if area.any() else ~bad


def _inside_crystal(residual: NDArray, valid: NDArray, fits: ColumnFits, spacing: float) -> NDArray[np.bool_]:
    """The valid pixels without vacuum or support: pixels far from all columns, with a level that the backgrounds of the
    columns do not have, and those within a spacing of such pixels.

    A step to the vacuum is not background noise, and the noise in the vacuum is not that of the specimen.
    """
    if not valid.any():
        return valid
    no_column = np.ones(residual.shape, dtype=bool)
    no_column[_nearest_pixels(fits, residual.shape)] = False
    far = ndimage.distance_transform_edt(no_column) > SETTINGS.vacuum_distance * spacing
    if far.mean() < SETTINGS.least_vacuum:
        return valid
    level = float(np.median(fits.background))
    local = ndimage.gaussian_filter(residual, 0.25 * spacing)
    other_level = np.abs(local - level) > SETTINGS.vacuum_level * mad_std(fits.background - level)
    outside = ndimage.binary_opening(far & other_level, np.ones((3, 3)))
    if not outside.any():
        return valid
    inside = valid & (ndimage.distance_transform_edt(~outside) > spacing)
    return inside if inside.mean() > SETTINGS.least_crystal else valid
