"""Search for the columns of an image, and their fits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits, fit_columns
from stemkit.columns.peaks import column_response, find_peaks, peaks_above_noise
from stemkit.filters import gaussian_variance_gain
from stemkit.noise.differences import row_difference
from stemkit.noise.valid_pixels import nearest_pixels
from stemkit.statistics import nearest_distances, robust_rms

__all__ = ["complete_columns", "find_faint_columns", "find_first_columns", "fit_significant"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the search."""

    #: Fewest columns (chosen).
    min_columns: int = 4
    #: Width of the filter of the first search, as a fraction of the spacing (chosen).
    first_width: float = 0.2
    #: Least height of the peaks of the first search, as a fraction of the 99.5 % quantile (chosen).
    min_height: float = 0.3
    #: Ratio of the peaks that a narrower filter finds to those of the first search from which columns are resolved
    #: pairs (chosen).
    resolved_pairs: float = 1.4
    #: Relative scatter of the distances up to which they are equal, as resolved pairs require (chosen).
    equal_distances: float = 0.12
    #: Significance of faint columns in the residual, standard deviations (chosen).
    faint: float = 6.0
    #: Quantiles of an image are those of every n-th column of pixels (chosen).
    thinned: int = 4
    #: Largest fraction of the Gaussian of a complete column that is on faulty pixels (chosen).
    hidden: float = 0.1


CONSTANTS = _Constants()


def find_first_columns(values: NDArray, spacing: float) -> ColumnFits | None:
    """Fits of the highest peaks. The autocorrelation may not resolve pairs of columns: they are also sought with a
    narrower filter, which is used if it finds many more of them, all at equal distances.
    """
    usual = float(np.clip(CONSTANTS.first_width * spacing, 1.0, 12.0))
    width = _width(values, spacing) or usual
    peaks = _peaks(values, usual, 0.6 * spacing, 0.0)
    noise = robust_rms(row_difference(values[:, :: CONSTANTS.thinned]))
    resolved = _peaks(values, max(0.6 * width, 0.8), 2.2 * width, noise)
    if len(resolved) > CONSTANTS.resolved_pairs * len(peaks) and _at_equal_distances(resolved):
        return fit_significant(values, resolved, width, None, 8)
    return fit_significant(values, peaks, usual, None, 8)


def _peaks(values: NDArray, sigma: float, min_distance: float, noise: float) -> NDArray[np.float64]:
    """Peaks of the filtered image; they exceed noise of this standard deviation, filtered, five times."""
    response = column_response(values, sigma)
    least = 5 * noise * math.sqrt(gaussian_variance_gain(sigma))
    height = CONSTANTS.min_height * float(np.quantile(response, 0.995))
    return find_peaks(response, threshold=max(height, least), min_distance=min_distance)


def _at_equal_distances(peaks: NDArray) -> bool:
    """Whether most peaks have their nearest neighbour at the same distance, unlike peaks of noise on columns."""
    distance = nearest_distances(peaks)
    median = float(np.median(distance))
    return float(np.median(np.abs(distance - median))) < CONSTANTS.equal_distances * median


def _width(values: NDArray, spacing: float) -> float | None:
    """Sigma of the columns from the covariance ``exp(-k^2 / (4 sigma^2))`` of rows one and two px apart."""
    flat = values - ndimage.gaussian_filter(values, 0.6 * spacing)
    flat = flat - np.median(flat, axis=1, keepdims=True)
    near, far = (float((flat[:-k] * flat[k:]).mean()) for k in (1, 2))
    return math.sqrt(0.75 / math.log(near / far)) if near > far > 0 else None


def fit_significant(
    values: NDArray, peaks: NDArray, width: float, shifts: NDArray | None, iterations: int
) -> ColumnFits | None:
    """Fits of the significant columns; None if they are too few."""
    if len(peaks) < CONSTANTS.min_columns:
        return None
    fits = fit_columns(values, peaks, width, shifts=shifts, iterations=iterations)
    with np.errstate(invalid="ignore"):
        good = fits.take(~fits.failed & (fits.amplitude > 3 * fits.amplitude_err))
    return good if len(good) >= CONSTANTS.min_columns else None


def find_faint_columns(residual: NDArray, fits: ColumnFits, spacing: float, variance: NDArray) -> ColumnFits:
    """The fits, and those of the peaks of their residual that are at least half a spacing away from them.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
        The image without the rendered fits.
    fits : ColumnFits
    spacing : float
        Spacing of the columns, px.
    variance : ndarray of shape (n_y, n_x)
        Variance of the noise.
    """
    width = float(np.median(fits.sigma))
    noise = math.sqrt(float(np.median(variance)))
    peaks = peaks_above_noise(residual, width, noise=noise, min_distance=0.6 * spacing, significance=CONSTANTS.faint)
    known = fits.positions
    distance = cKDTree(known).query(peaks)[0] if len(peaks) else np.empty(0)
    new = peaks[distance > max(0.5 * spacing, 1.5 * width)]
    found = fit_significant(residual, new, width, None, 6) if len(new) else None
    if found is None:
        return fits
    # brighter peaks than the known columns are hot pixels
    found = found.take(found.amplitude < 1.5 * np.quantile(fits.amplitude, 0.9))
    return fits.concatenate(found)


def complete_columns(fits: ColumnFits, bad: NDArray) -> ColumnFits:
    """The columns whose Gaussian is on pixels that are not faulty; all of them where too few are."""
    if not bad.any():
        return fits
    hidden = ndimage.gaussian_filter(bad.astype(np.float64), float(np.median(fits.sigma)))
    complete = fits.take(hidden[nearest_pixels(fits, bad.shape)] < CONSTANTS.hidden)
    return complete if len(complete) >= CONSTANTS.min_columns else fits
