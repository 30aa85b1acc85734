"""Local maxima of images, and of images filtered with the shape of a column."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.filters import gaussian_variance_gain
from stemkit.parabola import parabola_vertex

__all__ = ["column_response", "find_peaks", "peaks_above_noise", "pixel_subset", "without_close"]

#: Width of the Gaussian that estimates the background around a column, in widths of the column (chosen).
BACKGROUND_RATIO = 2.0
#: Sigma of the two Gaussians of :func:`column_response` in widths of the column, and their weights.
RESPONSE_WIDTHS, RESPONSE_WEIGHTS = (1.0, BACKGROUND_RATIO), (1.0, -1.0)
#: Approximate number of pixels of :func:`pixel_subset` (chosen: quantiles are accurate to 0.2 % of the pixels).
SUBSET_SIZE = 2**16


def pixel_subset(values: NDArray, size: int = SUBSET_SIZE) -> NDArray:
    """Every n-th pixel of an image, ``(n,)``, for the estimation of quantiles."""
    # an odd stride samples all columns of an image whose width is a power of 2
    return values.ravel()[:: values.size // size | 1]


def find_peaks(values: NDArray, *, threshold: float, min_distance: float) -> NDArray[np.float64]:
    """Local maxima above a threshold, no two closer than ``min_distance``: of these, the highest is kept.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    threshold : float
        Least height of a peak, in the units of ``values``.
    min_distance : float
        Least distance of peaks, px.

    Returns
    -------
    ndarray of shape (n_peaks, 2)
        Sub-pixel ``(y, x)``, highest first; those on the border are included.
    """
    found = _local_maxima(values, threshold)
    if len(found) == 0:
        return np.empty((0, 2))
    found = found[np.argsort(-values[tuple(found.T)], kind="stable")]
    positions = _subpixel(values, found)
    return positions[without_close(positions, min_distance)]


def column_response(values: NDArray, sigma: float) -> NDArray[np.float64]:
    """Difference of Gaussians of an image: the matched filter of columns minus the local background.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    sigma : float
        Width of the columns, which is the sigma of the first Gaussian, px; that of the second is twice as large.

    Returns
    -------
    ndarray of shape (n_y, n_x)
    """
    work = np.asarray(values, dtype=np.float64)
    return ndimage.gaussian_filter(work, sigma, mode="reflect") - ndimage.gaussian_filter(
        work, BACKGROUND_RATIO * sigma, mode="reflect"
    )


def peaks_above_noise(
    values: NDArray,
    sigma: float,
    *,
    noise: float,
    min_distance: float,
    significance: float = 4.5,
    correlation_x: float = 0.0,
) -> NDArray[np.float64]:
    """Peaks of :func:`~stemkit.columns.column_response` above a multiple of the filtered noise's standard deviation.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    sigma : float
        Width of the columns, px.
    noise : float
        Standard deviation of the pointwise noise.
    min_distance : float
        Least distance of peaks, px.
    significance : float
        Threshold in standard deviations of the filtered noise.
    correlation_x : float
        Lag-1 correlation of the noise along the row.

    Returns
    -------
    ndarray of shape (n_peaks, 2)
        As of :func:`find_peaks`.

    Notes
    -----
    The variance of the filtered noise is computed with ``stemkit.filters.gaussian_variance_gain``.
    """
    sigmas = [ratio * sigma for ratio in RESPONSE_WIDTHS]
    gain = gaussian_variance_gain(sigmas, RESPONSE_WEIGHTS, correlation_x=correlation_x)
    threshold = significance * noise * math.sqrt(gain)
    return find_peaks(column_response(values, sigma), threshold=threshold, min_distance=min_distance)


def without_close(positions: NDArray, min_distance: float) -> NDArray[np.bool_]:
    """Mask of the positions ``(n, 2)``, most important first, without an earlier one nearby that is kept itself."""
    keep = np.ones(len(positions), dtype=bool)
    pairs = cKDTree(positions).query_pairs(min_distance, output_type="ndarray")
    # in the order of the first position of each pair: one that has been removed does not remove others
    for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))] if len(pairs) else ():
        if keep[first]:
            keep[second] = False
    return keep


def _local_maxima(values: NDArray, threshold: float) -> NDArray[np.int64]:
    """Pixels ``(n, 2)`` above a threshold that none of their neighbours exceeds.

    A plateau has several of them, of which the minimum distance leaves one.
    """
    padded = np.pad(values, 1, constant_values=-np.inf)
    flat, width = padded.ravel(), padded.shape[1]
    found = np.flatnonzero(flat > threshold)
    # each comparison leaves about half of the pixels, which is faster than a filter of the whole image
    for step in (1, -1, width, -width, width + 1, -width - 1, width - 1, 1 - width):
        found = found[flat[found] >= flat[found + step]]
    return np.column_stack(np.divmod(found, width)) - 1


def _subpixel(values: NDArray, found: NDArray) -> NDArray[np.float64]:
    """Vertices of parabolas through each maximum and its neighbours; no shift across the border."""
    # with reflection, both neighbours of a border pixel are equal
    padded = np.pad(np.asarray(values, dtype=np.float64), 1, mode="reflect")
    y, x = found.T + 1
    height = padded[y, x]
    shift_y = parabola_vertex(padded[y - 1, x], height, padded[y + 1, x])
    shift_x = parabola_vertex(padded[y, x - 1], height, padded[y, x + 1])
    return found + np.column_stack([shift_y, shift_x])
