"""Where columns may be: from what a network made of the image, or from the recorded pixels alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits, column_response, find_peaks, pixel_subset, render_columns
from stemkit.detection.filtering import (
    LOWEST,
    filtered,
    noise_variance,
    skewness,
    threshold,
    without_streaks,
)
from stemkit.detection.misfit import RESPONSE, Misfit, measure_misfit
from stemkit.detection.view import View
from stemkit.periodicity import find_periodicity, middle

__all__ = ["SHARPEST", "apart", "network_candidates", "overlooked", "significant"]

#: A spot of the `detect` map counts from this height (1 is certain).
DETECT_THRESHOLD = 0.35
#: The sum of two equal Gaussians has one maximum where they are nearer than two widths. Where spots of the `detect` map
#: are nearer than this, the recorded pixels do not bear them out; a learnt width may be a tenth off.
RESOLVED = 1.8
#: A peak of an enhanced image counts from this fraction of its tall peaks.
ENHANCED_THRESHOLD = 0.12
#: Neighbours are no nearer than this part of the spacing, or than this many widths.
NEAREST, NEAREST_WIDTHS = 0.6, 2.0
#: The lattice is asked where peaks that noise could make are more than this part of the columns, and the faintest of
#: these less significant than this.
WORTH_A_LATTICE, BEYOND_DOUBT = 0.02, 10.0
#: It is asked about places within this part of the spacing, of which at least this part hold a column; its vectors are
#: those in the middle of the image, px.
SAME_PLACE, MOST_OF, MIDDLE = 0.2, 0.5, 512
#: A column that is expected at a place counts from this many standard deviations (chosen: noise reaches it at one place
#: in 700).
EXPECTED = 3.0
#: What a network shows within this many widths of a column, and of less than this part of its height, must stand out of
#: the noise of the recorded image (chosen: networks draw such spots into the dark between bright columns).
SHADOW, OVERSHADOWED = 5.0, 0.35
#: Peaks that repeat with the lattice count although the misfit could explain them, from this many of its standard
#: deviations (tuned: sublattices of 0.1 to 0.3 of the bright columns' height are found, torn particles are not filled).
BEYOND_MISFIT = 0.9
#: ... or from this fraction of the amplitude of the nearest column (chosen: tails and tears make less that repeats).
BRIGHT_ENOUGH = 0.2
#: Neighbours nearer than this many widths are distinguished through a filter of this part of the columns' width, of
#: this many px at least, as long as it is at most ``SHARPER`` of the width.
CLOSE, SHARP, SHARPEST, SHARPER = 5.5, 0.5, 1.0, 0.8


def network_candidates(
    view: View, spacing: float, width: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """Where a network shows columns, ``(n, 2)`` px, and which of them are much fainter there than a column nearby; None
    for an image that has been through no network.

    Parameters
    ----------
    view : View
    spacing, width : float
        Of the columns, px; the spacing may be NaN.
    """
    if view.detect is None and view.enhanced is None:
        return None
    response = None if view.enhanced is None else column_response(view.enhanced, 0.7 * width)
    if view.detect is not None:
        near = max(1.5, 0.25 * spacing if np.isfinite(spacing) else 0.0, RESOLVED * width)
        peaks = find_peaks(view.detect, threshold=DETECT_THRESHOLD, min_distance=near)
    else:
        assert response is not None
        peaks = find_peaks(response, threshold=0.0, min_distance=apart(spacing, width))
        peaks = peaks[_tall(response, peaks)] if len(peaks) else peaks
    if response is None:
        return peaks, np.zeros(len(peaks), dtype=bool)
    overshadowed = _overshadowed(peaks, _at(response, peaks), width)
    # in the dark between bright columns the map shows spots where the enhanced image has no maximum
    shown = ~overshadowed | _has_maximum(response, peaks, max(1, round(0.5 * width)))
    return peaks[shown], overshadowed[shown]


def significant(view: View, spacing: float, width: float, *, periodic: bool = True) -> NDArray[np.float64]:
    """Peaks ``(n, 2)`` px of the recorded image that noise does not make: through a filter of half the columns' width,
    which distinguishes close neighbours, and those that only the matched one shows.

    Where nothing is ``periodic``, single atoms are distinguished from the texture of their support: where some peaks
    stand out of the usual variation of the image, these alone are columns.
    """
    near = apart(spacing, width)
    if not periodic:
        single = _significant(view, near, width, of_support=True)
        if len(single):
            return single
    faint = _significant(view, near, width)
    sharp_width = max(SHARP * width, SHARPEST)
    if sharp_width > SHARPER * width or spacing > CLOSE * width:
        return faint
    sharp = _significant(view, near, sharp_width)
    if len(sharp) == 0 or len(faint) == 0:
        return sharp if len(sharp) else faint
    return np.concatenate([sharp, faint[cKDTree(sharp).query(faint)[0] > near]])


def overlooked(
    view: View, fits: ColumnFits, spacing: float, width: float, expected: NDArray | None = None
) -> tuple[NDArray[np.float64], Misfit]:
    """Positions ``(n, 2)`` px of what fitted columns leave above the noise and their misfit, and this misfit.

    A peak that noise could make counts all the same where the lattice has columns: where most of the places a lattice
    vector away hold one, and it is at least half as significant as they are. What the misfit could explain counts where
    the same is true of columns and of other such peaks. At ``expected`` places a column counts from a few standard
    deviations.
    """
    good = fits.take(~fits.failed & (fits.amplitude > 0))
    if len(good) == 0:
        return np.empty((0, 2)), Misfit(np.zeros(1))
    rest, levelled = without_streaks(view.recorded - render_columns(good, view.recorded.shape), view.noise, width)
    residual, level = filtered(rest, width)
    variance = noise_variance(level + render_columns(good, level.shape), view, levelled, width)
    misfit = measure_misfit(residual, variance, good, width)
    heights = _standard(residual, variance + misfit.variance(good, width, variance.shape))
    near = apart(spacing, width)
    places, tall = _away_from(fits.positions, heights, near)
    clear = tall > threshold(tall, view.recorded.size, width, len(good), skewness(view, width))
    significance = good.amplitude / good.amplitude_err
    if (~clear).sum() > WORTH_A_LATTICE * len(good) and np.quantile(significance, 0.02) < BEYOND_DOUBT:
        clear |= _supported(places, tall, good.positions, significance, view.recorded, spacing)
    found = places[clear]
    if misfit:
        # around columns that all have the same faint neighbours these are taken for misfit; but they repeat
        places, tall = _away_from(np.concatenate([fits.positions, found]), _standard(residual, variance), near)
        strong = tall > threshold(tall, view.recorded.size, width, len(good), skewness(view, width))
        _, nearest = cKDTree(good.positions).query(places)
        bright = _at(residual, places) > BRIGHT_ENOUGH * RESPONSE * good.amplitude[nearest]
        strong &= bright | (_at(heights, places) > BEYOND_MISFIT)
        places, tall = places[strong], tall[strong]
        if len(places) > WORTH_A_LATTICE * len(good):
            known, certain = np.concatenate([good.positions, places]), np.append(significance, tall)
            repeats = _supported(places, tall, known, certain, view.recorded, spacing)
            found = np.concatenate([found, places[repeats]])
    if expected is not None and len(expected):
        taken = np.concatenate([fits.positions, found])
        free = expected[cKDTree(taken).query(expected)[0] > near]
        found = np.concatenate([found, free[_at(heights, free) > EXPECTED]])
    return found, misfit


def apart(spacing: float, width: float) -> float:
    """Columns are not looked for nearer to each other than this, px."""
    near = NEAREST * spacing if np.isfinite(spacing) else math.inf
    return max(1.5, min(near, NEAREST_WIDTHS * width))


# --- steps -------------------------------------------------------------------------------------------------------


def _standard(residual: NDArray, variance: NDArray) -> NDArray[np.float64]:
    """A residual in its standard deviations."""
    heights = residual / np.sqrt(variance)
    # errors of the fits are noise, too
    return np.asarray(heights / _spread(heights))


def _overshadowed(places: NDArray, heights: NDArray, width: float) -> NDArray[np.bool_]:
    """Which of some peaks are much lower than one nearby."""
    low = np.zeros(len(places), dtype=bool)
    pairs = cKDTree(places).query_pairs(SHADOW * width, output_type="ndarray")
    for one, other in (pairs.T, pairs.T[::-1]):
        low[one[heights[one] < OVERSHADOWED * heights[other]]] = True
    return low


def _has_maximum(response: NDArray, places: NDArray, reach: int) -> NDArray[np.bool_]:
    """Whether a local maximum is within some px of each place."""
    is_maximum = response == ndimage.maximum_filter(response, 2 * reach + 1, mode="nearest")
    return _at(ndimage.maximum_filter(is_maximum, 2 * reach + 1), places)


def _tall(response: NDArray, peaks: NDArray) -> NDArray[np.bool_]:
    heights = _at(response, peaks)
    return heights > ENHANCED_THRESHOLD * np.quantile(heights, 0.95)


def _spread(heights: NDArray) -> float:
    """Standard deviation of what is below the median, at least 1."""
    middling, below = np.quantile(pixel_subset(heights), [0.5, 0.16])
    return max(1.0, float(middling - below))


def _at(values: NDArray, positions: NDArray) -> NDArray:
    return values[tuple(np.clip(positions.round().astype(int), 0, np.array(values.shape) - 1).T)]


def _significant(view: View, near: float, width: float, *, of_support: bool = False) -> NDArray[np.float64]:
    response, level = filtered(view.recorded, width)
    heights = response / np.sqrt(noise_variance(level, view, view.noise, width))
    if of_support:
        heights /= _spread(heights)
    peaks = find_peaks(heights, threshold=LOWEST, min_distance=near)
    tall = _at(heights, peaks)
    return peaks[tall > threshold(tall, view.recorded.size, width, skewness=skewness(view, width))]


def _away_from(taken: NDArray, heights: NDArray, near: float) -> tuple[NDArray, NDArray]:
    """Peaks ``(n, 2)`` px that are not near columns, and their heights."""
    peaks = find_peaks(heights, threshold=LOWEST, min_distance=near)
    free = cKDTree(taken).query(peaks)[0] > near if len(peaks) else np.empty(0, dtype=bool)
    return peaks[free], _at(heights, peaks)[free]


def _supported(
    places: NDArray, heights: NDArray, known: NDArray, significance: NDArray, values: NDArray, spacing: float
) -> NDArray[np.bool_]:
    """Which peaks stand where the lattice has columns, and are at least half as significant as those."""
    vectors = find_periodicity(middle(values, MIDDLE)).vectors
    if vectors is None or len(places) == 0:
        return np.zeros(len(places), dtype=bool)
    steps = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]) @ vectors
    there = places[:, None] + steps
    inside = ((there >= 0) & (there < values.shape)).all(axis=2)
    distance, which = cKDTree(known).query(there)
    taken = inside & (distance < max(1.5, SAME_PLACE * spacing))
    usual = [np.median(significance[w[t]]) if t.any() else np.inf for w, t in zip(which, taken, strict=True)]
    return (taken.sum(axis=1) >= MOST_OF * np.maximum(inside.sum(axis=1), 4)) & (heights >= np.array(usual) / 2)
