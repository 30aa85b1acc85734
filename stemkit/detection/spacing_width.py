"""Estimation of the spacing and the width of the columns from an image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stemkit.columns import ColumnFits, fit_columns
from stemkit.columns.peaks import column_response, find_peaks
from stemkit.detection.candidates import MIN_SHARP_WIDTH, NETWORK_CONSTANTS, network_candidates, recorded_candidates
from stemkit.detection.fitter import ColumnFitter
from stemkit.detection.guided import FoundColumns, is_inside
from stemkit.detection.normalized_image import NormalizedImage, bin_positions
from stemkit.detection.search import ColumnSearch
from stemkit.periodicity import central_crop, find_periodicity
from stemkit.statistics import median_spacing, nearest_distances

__all__ = ["Lengths", "learn_lengths"]


@dataclass(frozen=True)
class _Constants:
    """Constants of :func:`learn_lengths` (all chosen)."""

    #: Side of the square in the middle of the image in which lengths are learnt, px.
    middle: int = 512
    #: Side of the square for the first estimate, in periods of the image (about 200 columns).
    first_periods: int = 15
    #: Side of the square for the column search, in spacings.
    search_spacings: int = 11
    #: Largest number of column searches for the width ...
    max_searches: int = 2
    #: ... which end when the width changes by less than this fraction.
    max_change: float = 0.1
    #: Least significance of columns that are used, standard errors.
    min_significance: float = 4.0
    #: Least number of columns of a median.
    min_columns: int = 3
    #: Distance from the border, in widths, from which columns are used for the width.
    margin: float = 3.0
    #: Width in spacings, for a first estimate: of the recorded image ...
    width_per_spacing: float = 0.18
    #: ... and of columns that a network shows.
    width_per_network_spacing: float = 0.2
    #: Limits of these estimates, px.
    min_width: float = 0.8
    max_width: float = 20.0
    #: Widths that are compared if the image is not periodic, px.
    compared_widths: tuple[float, ...] = (1.0, 1.5, 2.2, 3.3, 5.0, 7.5)
    #: Fractions of the first width that are tried: a close pair is one peak for a wide filter. The narrower one is
    #: taken ...
    narrower: tuple[float, ...] = (0.7, 0.5)
    #: ... if more than this fraction of the fits is significant ...
    narrower_good: float = 0.75
    #: ... and their residual is smaller than this fraction of the former one.
    narrower_residual: float = 0.92
    #: Number of columns on which the width is estimated first, those in the middle of the image.
    n_fitted: int = 60
    #: The image is binned such that the narrowest width that is tried is at least this many pixels.
    fit_pixels: float = 1.5
    #: Largest number of steps of these fits.
    n_steps: int = 10
    #: Tolerance of these fits, standard errors.
    tolerance: float = 0.3
    #: Number of columns in the recorded image, as a fraction of those that a network shows, from which these are used
    #: (at low doses, the peaks of the recorded image are few, or variations of the background).
    recorded_fraction: float = 0.5
    #: Least distance of the columns of a network whose spacing is not known, px ...
    network_distance: float = 2.5
    #: ... and largest ratio of the width of these columns to their spacing: larger ones are parts of wide columns.
    max_network_width: float = 0.45
    #: Least fraction of them with a positive amplitude in the recorded image (noise has half).
    min_positive: float = 0.9
    #: Fraction of the columns of a search that determine their width, from which the width is learnt from these: fewer
    #: ones, at low doses, are the widest.
    free_fraction: float = 0.5


CONSTANTS = _Constants()


@dataclass(frozen=True)
class Lengths:
    """Lengths of the columns of one image, px.

    Parameters
    ----------
    spacing : float
        Median distance of nearest columns; NaN with fewer than two.
    width : float
        Median sigma.
    """

    spacing: float
    width: float


def learn_lengths(
    image: NormalizedImage, spacing: float | None, width: float | None, *, background: float | None = None
) -> tuple[Lengths, bool]:
    """Estimate the spacing and the width of the columns from the middle of an image.

    Parameters
    ----------
    image : NormalizedImage
    spacing, width : float or None
        Lengths that the user has given, px, which are not estimated.
    background : float or None
        Background of all columns, in units of the image.

    Returns
    -------
    lengths : Lengths
    is_periodic : bool
        Whether the image is periodic.
    """
    square, factor = _crop_middle(image, CONSTANTS.middle), 1
    period = find_periodicity(square.recorded).spacing
    if period is None and max(image.recorded.shape) > CONSTANTS.middle:
        # columns may be too large for the crop: the whole image in larger pixels
        whole_factor = math.ceil(max(image.recorded.shape) / CONSTANTS.middle)
        whole = image.binned(whole_factor)
        period = find_periodicity(whole.recorded).spacing
        if period is not None:
            square, factor = whole, whole_factor
    is_periodic = period is not None
    if spacing is not None and width is not None:
        return Lengths(spacing, width), is_periodic
    if period is not None:
        square = _crop_middle(square, math.ceil(CONSTANTS.first_periods * period))
    given = [None if length is None else length / factor for length in (spacing, width)]
    first = _first_lengths(square, period, *given)
    lengths = Lengths(factor * first.spacing, factor * first.width)
    side = math.ceil(CONSTANTS.search_spacings * lengths.spacing) if np.isfinite(lengths.spacing) else CONSTANTS.middle
    crop = _crop_middle(image, side)
    for _ in range(CONSTANTS.max_searches):
        fitter = ColumnFitter(crop, lengths.width, background=background)
        found = ColumnSearch(fitter, lengths.spacing, CONSTANTS.min_significance, is_periodic).run()
        former, lengths = lengths, _median_lengths(found, crop, lengths, is_periodic)
        lengths = Lengths(lengths.spacing if spacing is None else spacing, lengths.width if width is None else width)
        if abs(lengths.width / former.width - 1) < CONSTANTS.max_change:
            break
    return lengths, is_periodic


# --- steps -------------------------------------------------------------------------------------------------------


def _median_lengths(found: FoundColumns, image: NormalizedImage, default: Lengths, is_periodic: bool) -> Lengths:
    """Median distance of nearest columns, and median width of columns with a fitted width; the default for too few.

    If most columns are too faint to determine a width, the others are wide ones or variations of the background: the
    width of the columns that a network shows is used instead.
    """
    fits = found.fits
    spacing = median_spacing(fits.take(~fits.failed).positions, default.spacing)
    inside = is_inside(fits, image, CONSTANTS.margin * default.width)
    widths = fits.sigma[~fits.failed & ~found.width_fixed & inside]
    if len(widths) >= CONSTANTS.free_fraction * inside.sum():
        return Lengths(spacing, _median(widths, default.width))
    network = network_candidates(image, spacing, default.width) if is_periodic else None
    if network is None:
        return Lengths(spacing, default.width)
    return Lengths(spacing, _network_width(image, network.positions[~network.is_faint], default.width, is_periodic))


def _first_lengths(image: NormalizedImage, period: float | None, spacing: float | None, width: float | None) -> Lengths:
    """Lengths from candidates that are fitted one by one: those of the recorded image, or, if these are few compared
    with those of a network, the latter.
    """
    is_periodic, expected_spacing = period is not None, spacing or period or math.nan
    recorded_only = replace(image, enhanced=None, detect=None)
    if width is None:
        learnt_width, positions = _learnt_width(recorded_only, spacing or period, is_periodic)
    else:
        learnt_width = width
        positions = recorded_candidates(recorded_only, expected_spacing, width, periodic=is_periodic)
    shown = _shown(image, expected_spacing, learnt_width)
    if shown is not None and (not is_periodic or len(positions) < CONSTANTS.recorded_fraction * len(shown)):
        positions = shown
        if width is None:
            learnt_width = _network_width(image, positions, learnt_width, is_periodic)
    if spacing is None:
        spacing = median_spacing(positions)
    return Lengths(spacing, learnt_width)


def _shown(image: NormalizedImage, spacing: float, width: float) -> NDArray[np.float64] | None:
    """Columns ``(n, 2)`` that a network shows, px; None without one.

    A width that was learnt on variations of the background merges them. Columns at any distance are used instead where
    they are more and narrow enough, and the recorded pixels confirm them.
    """
    network = network_candidates(image, spacing, width)
    if network is None:
        return None
    shown = network.positions[~network.is_faint]
    if image.detect is None or image.enhanced is None:
        return shown
    least = NETWORK_CONSTANTS.min_probability
    every = find_peaks(image.detect, threshold=least, min_distance=CONSTANTS.network_distance)
    if len(shown) > CONSTANTS.recorded_fraction * len(every):
        return shown
    distance = median_spacing(every)
    narrow = _enhanced_width(image.enhanced, every, _clip_width(CONSTANTS.width_per_network_spacing * distance))
    if narrow > CONSTANTS.max_network_width * distance:
        return shown
    start = _middle_positions(every, image.recorded.shape)
    fits = fit_columns(image.recorded, start, narrow, fit_sigma=False, fit_position=False, iterations=CONSTANTS.n_steps)
    return every if (fits.amplitude > 0).mean() > CONSTANTS.min_positive else shown


def _network_width(image: NormalizedImage, positions: NDArray, width: float, is_periodic: bool) -> float:
    """Width of columns that a network shows: of a crystal in the enhanced image, of single atoms in the recorded one.

    At low doses, the recorded pixels do not determine it.
    """
    distance = nearest_distances(positions)
    # the spacing of a crystal limits the width; single atoms are as wide as the few that the recorded image shows
    if is_periodic and len(distance) > CONSTANTS.min_columns:
        width = _clip_width(CONSTANTS.width_per_network_spacing * float(np.median(distance)))
        if image.enhanced is not None:
            return _enhanced_width(image.enhanced, positions, width)
    return _median_width(_fit_middle(image, positions, width), width)


def _enhanced_width(enhanced: NDArray, positions: NDArray, width: float) -> float:
    """Median width of columns at these positions of the enhanced image; the default for too few."""
    fits = fit_columns(
        enhanced, _middle_positions(positions, enhanced.shape), width, variance=1.0, iterations=CONSTANTS.n_steps
    )
    return _clip_width(_median(fits.sigma[~fits.failed], width))


def _first_width(image: NormalizedImage, spacing: float | None) -> float:
    if spacing is not None:
        return _clip_width(CONSTANTS.width_per_spacing * spacing)
    # the width of the filter that maximises the ratio of the highest peaks to the noise or the texture of the support
    prominence = []
    for width in CONSTANTS.compared_widths:
        response = column_response(image.recorded, width)
        median, one_sigma, highest = np.quantile(response, [0.5, 0.84, 0.999])
        prominence.append((highest - median) / max(one_sigma - median, 1e-12))
    return CONSTANTS.compared_widths[int(np.argmax(prominence))]


def _clip_width(width: float) -> float:
    return float(np.clip(width, CONSTANTS.min_width, CONSTANTS.max_width))


def _learnt_width(
    image: NormalizedImage, spacing: float | None, is_periodic: bool
) -> tuple[float, NDArray[np.float64]]:
    """Median width of fits of the first width, or of a fraction of it if these have a clearly smaller residual; and the
    candidates ``(n, 2)``, px, that are found with this width.
    """
    first, least = _first_width(image, spacing), math.inf
    best, candidates = first, np.empty((0, 2))
    for fraction in (1.0, *CONSTANTS.narrower):
        width = fraction * first
        positions = recorded_candidates(image, spacing or math.nan, width, periodic=is_periodic)
        if fraction == 1:
            candidates = positions
        if len(positions) < CONSTANTS.min_columns or (fraction < 1 and width < MIN_SHARP_WIDTH):
            break
        fits = _fit_middle(image, positions, width, binning_width=CONSTANTS.narrower[-1] * first)
        good = ~fits.failed & (fits.amplitude > CONSTANTS.min_significance * fits.amplitude_err)
        residual = float(np.median(fits.residual))
        is_better = good.mean() > CONSTANTS.narrower_good and residual < CONSTANTS.narrower_residual * least
        if fraction == 1 or is_better:
            best, candidates, least = _median_width(fits, width), positions, residual
    return best, candidates


def _fit_middle(
    image: NormalizedImage, positions: NDArray, width: float, binning_width: float | None = None
) -> ColumnFits:
    """Fit the columns in the middle of the image, a second time if the width has changed.

    The image is binned for the width, or for ``binning_width``: residuals can only be compared for the same binning.
    """
    factor = max(1, int((width if binning_width is None else binning_width) / CONSTANTS.fit_pixels))
    binned = image.binned(factor)
    start = bin_positions(_middle_positions(positions, image.recorded.shape), factor)
    for _ in range(2):
        binned_width = float(np.sqrt(width**2 + (factor**2 - 1) / 12)) / factor
        fits = fit_columns(
            binned.recorded,
            start,
            binned_width,
            variance=binned.variance,
            iterations=CONSTANTS.n_steps,
            tolerance=CONSTANTS.tolerance,
        )
        fits = fits.unbinned(factor)
        former, width = width, _median_width(fits, width)
        if abs(width / former - 1) < CONSTANTS.max_change:
            break
    return fits


def _median_width(fits: ColumnFits, default: float) -> float:
    """Median width of the significant fits; the default if they are few."""
    return _median(
        fits.sigma[~fits.failed & (fits.amplitude > CONSTANTS.min_significance * fits.amplitude_err)], default
    )


def _median(widths: NDArray, default: float) -> float:
    """Median of widths; the default for too few."""
    return float(np.median(widths)) if len(widths) >= CONSTANTS.min_columns else default


def _middle_positions(positions: NDArray, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The positions nearest to the middle of the image."""
    distance = np.abs(positions - np.array(shape) / 2).max(axis=1)
    return positions[np.argsort(distance)[: CONSTANTS.n_fitted]]


def _crop_middle(image: NormalizedImage, size: int) -> NormalizedImage:
    """A square in the middle of the image."""
    arrays = (image.recorded, image.enhanced, image.detect, image.faulty, image.weights)
    recorded, enhanced, detect, faulty, weights = (None if a is None else central_crop(a, size) for a in arrays)
    assert recorded is not None
    return replace(image, recorded=recorded, enhanced=enhanced, detect=detect, faulty=faulty, weights=weights)
