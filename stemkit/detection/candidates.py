"""Candidate positions of columns: in maps of a network, in the recorded image, and in the residual of the fits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits, render_columns
from stemkit.columns.peaks import column_response, find_peaks, pixel_subset, without_close
from stemkit.detection.matched_filter import (
    MIN_SIGNIFICANCE,
    detection_threshold,
    matched_filter,
    noise_skewness,
    noise_variance,
    remove_streaks,
)
from stemkit.detection.misfit import RESPONSE, Misfit, measure_misfit
from stemkit.detection.normalized_image import NormalizedImage, bin_pixels, bin_positions, unbin_positions
from stemkit.detection.recurring_maxima import at_recurring_maxima

__all__ = [
    "MIN_SHARP_WIDTH",
    "NETWORK_CONSTANTS",
    "NetworkCandidates",
    "min_column_distance",
    "network_candidates",
    "recorded_candidates",
    "residual_candidates",
]


@dataclass(frozen=True)
class DistanceConstants:
    """Constants of :func:`min_column_distance` (all chosen)."""

    #: Least distance of columns, in spacings ...
    spacings: float = 0.6
    #: ... or in widths, whichever is smaller ...
    widths: float = 2.0
    #: ... and at least this, px.
    pixels: float = 1.5


@dataclass(frozen=True)
class NetworkConstants:
    """Constants of :func:`network_candidates` (chosen)."""

    #: Lowest probability of a column in the map ``detect``.
    min_probability: float = 0.35
    #: Least distance of columns in this map, in widths. The sum of two equal Gaussians has one maximum where they are
    #: nearer than two widths; the learnt width may be 10 % too large.
    resolved_widths: float = 1.8
    #: Least distance of columns in this map, in spacings.
    spacings: float = 0.25
    #: Least height of a peak of the enhanced image, as a fraction of ...
    min_height: float = 0.12
    #: ... this quantile of the heights.
    height_quantile: float = 0.95
    #: Width of the filter of the enhanced image, in widths of the columns.
    filter_width: float = 0.7
    #: Width of this filter from which the image is binned, px.
    filter_pixels: float = 2.0
    #: A peak within this many widths of a much higher one is faint: networks show false spots between bright columns.
    faint_distance: float = 5.0
    #: Height of a faint peak, as a fraction of that of the higher one.
    faint_height: float = 0.35
    #: Largest distance of a faint peak from a maximum of the enhanced image, in widths.
    maximum_distance: float = 0.5


@dataclass(frozen=True)
class SharpFilterConstants:
    """Constants of the narrower filter, which resolves close neighbours (chosen)."""

    #: It is used if the spacing is below this many widths.
    max_spacing: float = 5.5
    #: Its width, in widths of the columns ...
    width: float = 0.5
    #: ... is at most this after it has been increased to ``MIN_SHARP_WIDTH``; otherwise it is not used.
    max_width: float = 0.8


@dataclass(frozen=True)
class LatticeConstants:
    """Constants of the acceptance of peaks that repeat with the lattice."""

    #: Fraction of peaks that may be noise, relative to the columns, from which the lattice is used (chosen).
    min_fraction: float = 0.02
    #: Significance of the faintest columns, standard deviations, up to which it is used (chosen).
    max_significance: float = 10.0
    #: Quantile of the significance that stands for the faintest columns (chosen).
    faint_quantile: float = 0.02
    #: Largest distance of a column from a position one lattice vector away, in spacings (chosen).
    same_position: float = 0.2
    #: Fraction of these positions that are columns (chosen).
    min_columns: float = 0.5
    #: Least significance over noise and misfit of a repeating peak that the misfit may explain, standard deviations
    #: (tuned: sublattices of 0.1 to 0.3 of the bright columns' height are found, torn particles are not filled) ...
    misfit_significance: float = 0.9
    #: ... or its least height, as a fraction of the amplitude of the nearest column (chosen).
    misfit_height: float = 0.2


#: Least width of the narrower filter, px (chosen).
MIN_SHARP_WIDTH = 1.0
#: Significance from which a column that a network shows next to a brighter one is a candidate (chosen: noise exceeds it
#: at one position in 700).
EXPECTED_SIGNIFICANCE = 3.0
DISTANCE_CONSTANTS = DistanceConstants()
NETWORK_CONSTANTS = NetworkConstants()
SHARP_FILTER_CONSTANTS = SharpFilterConstants()
LATTICE_CONSTANTS = LatticeConstants()


@dataclass(frozen=True)
class NetworkCandidates:
    """Columns that a network shows.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
        ``(y, x)``, px.
    is_faint : ndarray of bool, shape (n,)
        Candidates that are much fainter than one nearby, which may be false.
    probability : ndarray of shape (n,)
        Probability of a column in the map ``detect``; 1 without one.
    """

    positions: NDArray[np.float64]
    is_faint: NDArray[np.bool_]
    probability: NDArray[np.float64]

    def take(self, which: NDArray) -> NetworkCandidates:
        """The candidates that an index or a mask selects."""
        return NetworkCandidates(self.positions[which], self.is_faint[which], self.probability[which])


def network_candidates(image: NormalizedImage, spacing: float, width: float) -> NetworkCandidates | None:
    """Columns in the maps of a network; None for an image that no network has enhanced.

    Parameters
    ----------
    image : NormalizedImage
    spacing, width : float
        Spacing and width of the columns, px; the spacing may be NaN.
    """
    if image.detect is None and image.enhanced is None:
        return None
    response, factor = None, max(1, int(NETWORK_CONSTANTS.filter_width * width / NETWORK_CONSTANTS.filter_pixels))
    if image.enhanced is not None:
        response = column_response(bin_pixels(image.enhanced, factor), NETWORK_CONSTANTS.filter_width * width / factor)
    if image.detect is not None:
        near = max(
            DISTANCE_CONSTANTS.pixels,
            NETWORK_CONSTANTS.spacings * spacing if np.isfinite(spacing) else 0.0,
            NETWORK_CONSTANTS.resolved_widths * width,
        )
        peaks = find_peaks(image.detect, threshold=NETWORK_CONSTANTS.min_probability, min_distance=near)
    else:
        assert response is not None
        near = min_column_distance(spacing, width)
        binned = find_peaks(response, threshold=0.0, min_distance=near / factor)
        peaks = unbin_positions(binned[_is_tall(response, binned)] if len(binned) else binned, factor)
    probability = np.ones(len(peaks)) if image.detect is None else _values_at(image.detect, peaks)
    if response is None:
        return NetworkCandidates(peaks, np.zeros(len(peaks), dtype=bool), probability)
    binned = bin_positions(peaks, factor)
    is_faint = _is_faint(peaks, _values_at(response, binned), width)
    # between bright columns, the map shows spots where the enhanced image has no maximum
    reach = max(1, round(NETWORK_CONSTANTS.maximum_distance * width / factor))
    confirmed = ~is_faint | _has_maximum(response, binned, reach)
    return NetworkCandidates(peaks, is_faint, probability).take(confirmed)


def recorded_candidates(
    image: NormalizedImage, spacing: float, width: float, *, periodic: bool = True
) -> NDArray[np.float64]:
    """Significant peaks of the filtered recorded image.

    A filter of half the columns' width resolves close neighbours; the matched filter adds fainter peaks.

    Parameters
    ----------
    image : NormalizedImage
    spacing, width : float
        Spacing and width of the columns, px; the spacing may be NaN.
    periodic : bool
        Whether the image shows a crystal. In an image of single atoms on a support, peaks that are significant compared
        with the texture of the support, if there are any, are the only candidates.

    Returns
    -------
    ndarray of shape (n, 2)
        ``(y, x)``, px.
    """
    near = min_column_distance(spacing, width)
    if not periodic:
        single_atoms = _significant_peaks(image, near, width, over_texture=True)
        if len(single_atoms):
            return single_atoms
    matched = _significant_peaks(image, near, width)
    sharp_width = max(SHARP_FILTER_CONSTANTS.width * width, MIN_SHARP_WIDTH)
    if sharp_width > SHARP_FILTER_CONSTANTS.max_width * width or spacing > SHARP_FILTER_CONSTANTS.max_spacing * width:
        return matched
    sharp = _significant_peaks(image, near, sharp_width)
    if len(sharp) == 0 or len(matched) == 0:
        return sharp if len(sharp) else matched
    return np.concatenate([sharp, matched[cKDTree(sharp).query(matched)[0] > near]])


@dataclass(frozen=True)
class ResidualCandidates:
    """Columns that have been overlooked.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
        ``(y, x)``, px.
    misfit : Misfit
        Misfit of the fitted columns.
    """

    positions: NDArray[np.float64]
    misfit: Misfit


def residual_candidates(
    image: NormalizedImage,
    fits: ColumnFits,
    spacing: float,
    width: float,
    expected: NDArray | None = None,
) -> ResidualCandidates:
    """Peaks of the residual of the fits above the noise and the misfit of the fitted columns.

    Two kinds of weaker peaks are accepted, too, if most positions one lattice vector away are columns and the peak is
    at least half as significant as these: peaks that may be noise, and peaks that the misfit may explain, for which
    other such peaks count as columns. At ``expected`` positions a peak is accepted from a few standard deviations.

    Parameters
    ----------
    image : NormalizedImage
    fits : ColumnFits
        Columns that have been found.
    spacing, width : float
        Spacing and width of the columns, px; the spacing may be NaN.
    expected : ndarray of shape (m, 2), optional
        ``(y, x)``, px.
    """
    good = fits.take(~fits.failed & (fits.amplitude > 0))
    if len(good) == 0:
        return ResidualCandidates(np.empty((0, 2)), Misfit(np.zeros(1)))
    n_pixels, skewness = image.recorded.size, noise_skewness(image, width)
    residual, noise = remove_streaks(image.recorded - render_columns(good, image.recorded.shape), image.noise, width)
    filtered = matched_filter(residual, width)
    variance = noise_variance(filtered.level + render_columns(good, filtered.level.shape), image, noise, width)
    misfit = measure_misfit(filtered.response, variance, good, width)
    heights = _standardized(filtered.response, variance + misfit.variance(good, width, variance.shape))
    near = min_column_distance(spacing, width)
    significance = good.amplitude / good.amplitude_err

    positions, tall = _peaks_away_from(fits.positions, heights, near)
    clear = tall > detection_threshold(tall, n_pixels, width, len(good), skewness)
    has_faint_columns = np.quantile(significance, LATTICE_CONSTANTS.faint_quantile) < LATTICE_CONSTANTS.max_significance
    if (~clear).sum() > LATTICE_CONSTANTS.min_fraction * len(good) and has_faint_columns:
        clear |= _repeats(positions, tall, good.positions, significance, image, spacing)
    found = positions[clear]
    if misfit:
        # faint neighbours that all columns have are measured as misfit, but they repeat with the lattice
        positions, tall = _peaks_away_from(
            np.concatenate([fits.positions, found]), _standardized(filtered.response, variance), near
        )
        strong = tall > detection_threshold(tall, n_pixels, width, len(good), skewness)
        shown = positions if expected is None else np.concatenate([expected, positions])
        nearest = cKDTree(good.positions).query(shown)[1]
        relative = _values_at(filtered.response, shown) / (RESPONSE * good.amplitude[nearest])
        recurs = at_recurring_maxima(image.recorded, shown, relative, good.positions, width, near)
        bright = relative[len(shown) - len(positions) :] > LATTICE_CONSTANTS.misfit_height
        strong &= bright | (_values_at(heights, positions) > LATTICE_CONSTANTS.misfit_significance)
        positions, tall = positions[strong], tall[strong]
        if len(positions) > LATTICE_CONSTANTS.min_fraction * len(good):
            columns, certain = np.concatenate([good.positions, positions]), np.append(significance, tall)
            repeats = _repeats(positions, tall, columns, certain, image, spacing)
            found = np.concatenate([found, positions[repeats]])
        found = _added(found, shown[recurs], fits.positions, near)
    if expected is not None and len(expected):
        free = expected[cKDTree(np.concatenate([fits.positions, found])).query(expected)[0] > near]
        found = np.concatenate([found, free[_values_at(heights, free) > EXPECTED_SIGNIFICANCE]])
    return ResidualCandidates(found, misfit)


def min_column_distance(spacing: float, width: float) -> float:
    """Least distance of candidates from each other, px; the spacing may be NaN."""
    near = DISTANCE_CONSTANTS.spacings * spacing if np.isfinite(spacing) else math.inf
    return max(DISTANCE_CONSTANTS.pixels, min(near, DISTANCE_CONSTANTS.widths * width))


# --- steps -------------------------------------------------------------------------------------------------------


def _added(found: NDArray, more: NDArray, columns: NDArray, near: float) -> NDArray[np.float64]:
    """Found positions ``(n, 2)``, px, and those of more that are not near a column or an earlier one."""
    free = more[cKDTree(np.concatenate([columns, found])).query(more)[0] > near]
    return np.concatenate([found, free[without_close(free, near)]])


def _standardized(residual: NDArray, variance: NDArray) -> NDArray[np.float64]:
    """A residual in standard deviations."""
    heights = residual / np.sqrt(variance)
    # errors of the fits add to the noise
    return np.asarray(heights / _lower_std(heights))


def _is_faint(positions: NDArray, heights: NDArray, width: float) -> NDArray[np.bool_]:
    """Peaks that are much lower than one nearby."""
    faint = np.zeros(len(positions), dtype=bool)
    pairs = cKDTree(positions).query_pairs(NETWORK_CONSTANTS.faint_distance * width, output_type="ndarray")
    for one, other in (pairs.T, pairs.T[::-1]):
        faint[one[heights[one] < NETWORK_CONSTANTS.faint_height * heights[other]]] = True
    return faint


def _has_maximum(response: NDArray, positions: NDArray, reach: int) -> NDArray[np.bool_]:
    """Whether there is a local maximum within ``reach`` px of each position."""
    is_maximum = response == ndimage.maximum_filter(response, 2 * reach + 1, mode="nearest")
    return _values_at(ndimage.maximum_filter(is_maximum, 2 * reach + 1), positions)


def _is_tall(response: NDArray, peaks: NDArray) -> NDArray[np.bool_]:
    heights = _values_at(response, peaks)
    return heights > NETWORK_CONSTANTS.min_height * np.quantile(heights, NETWORK_CONSTANTS.height_quantile)


def _lower_std(heights: NDArray) -> float:
    """Standard deviation from the pixels below the median, which contain no columns; at least 1."""
    median, one_sigma = np.quantile(pixel_subset(heights), [0.5, 0.16])
    return max(1.0, float(median - one_sigma))


def _values_at(values: NDArray, positions: NDArray) -> NDArray:
    """The pixels of an image that are nearest to positions ``(n, 2)``."""
    return values[tuple(np.clip(positions.round().astype(int), 0, np.array(values.shape) - 1).T)]


def _significant_peaks(
    image: NormalizedImage, near: float, width: float, *, over_texture: bool = False
) -> NDArray[np.float64]:
    filtered = matched_filter(image.recorded, width)
    heights = filtered.response / np.sqrt(noise_variance(filtered.level, image, image.noise, width))
    if over_texture:
        heights /= _lower_std(heights)
    peaks = find_peaks(heights, threshold=MIN_SIGNIFICANCE, min_distance=near)
    tall = _values_at(heights, peaks)
    least = detection_threshold(tall, image.recorded.size, width, skewness=noise_skewness(image, width))
    return peaks[tall > least]


def _peaks_away_from(columns: NDArray, heights: NDArray, near: float) -> tuple[NDArray, NDArray]:
    """Peaks ``(n, 2)`` px that are farther than ``near`` from all columns, and their heights."""
    peaks = find_peaks(heights, threshold=MIN_SIGNIFICANCE, min_distance=near)
    free = cKDTree(columns).query(peaks)[0] > near if len(peaks) else np.empty(0, dtype=bool)
    return peaks[free], _values_at(heights, peaks)[free]


def _repeats(
    positions: NDArray,
    heights: NDArray,
    columns: NDArray,
    significance: NDArray,
    image: NormalizedImage,
    spacing: float,
) -> NDArray[np.bool_]:
    """Peaks for which most positions one lattice vector away are columns, and that are half as significant as these."""
    vectors, shape = image.lattice_vectors, image.recorded.shape
    if vectors is None or len(positions) == 0:
        return np.zeros(len(positions), dtype=bool)
    steps = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]) @ vectors
    equivalent = positions[:, None] + steps
    inside = ((equivalent >= 0) & (equivalent < shape)).all(axis=2)
    distance, nearest = cKDTree(columns).query(equivalent)
    is_column = inside & (distance < max(DISTANCE_CONSTANTS.pixels, LATTICE_CONSTANTS.same_position * spacing))
    usual = [np.median(significance[n[c]]) if c.any() else np.inf for n, c in zip(nearest, is_column, strict=True)]
    enough = is_column.sum(axis=1) >= LATTICE_CONSTANTS.min_columns * np.maximum(inside.sum(axis=1), 4)
    return enough & (heights >= np.array(usual) / 2)
