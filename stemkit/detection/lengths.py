"""The columns' spacing and width, from an image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stemkit.columns import ColumnFits, column_response, fit_columns, nearest_distances
from stemkit.detection.finding import SHARPEST, network_candidates, significant
from stemkit.detection.search import SEARCHED, Search, binned_places
from stemkit.detection.view import View
from stemkit.periodicity import find_periodicity, middle

__all__ = ["learn"]

#: Widths that are tried where nothing tells the columns' width, px.
TRIED_WIDTHS = (1.0, 1.5, 2.2, 3.3, 5.0, 7.5)
#: Parts of the first width that are tried; a narrower one is taken where this part of the fits is good and their
#: residual smaller by this factor.
NARROWER, FITTED, BETTER = (0.7, 0.5), 0.75, 0.92
#: Columns on which the width is learnt.
LEARNT_ON = 100
#: The first spacing and width are learnt on a square of this many periods a side (chosen: some 200 columns).
FIRST = 15
#: Lengths are learnt on a square of so many first spacings a side, in so many rounds at most, until the width changes
#: by less than this part; of a few columns at least.
ENOUGH, ROUNDS, SETTLED, FEWEST = 11, 2, 0.1, 3
#: The amplitude of columns that are learnt from, in its standard deviations.
SIGNIFICANT = 4.0
#: Lengths are learnt in the middle of the image, on a square of this many px.
MIDDLE = 512
#: Lengths are learnt on what the recorded image shows where it shows this part of what a network does.
ENOUGH_SHOWN = 0.3
#: Steps and tolerance of fits whose width alone is of interest.
FEW_STEPS, ROUGH = 10, 0.3


def learn(
    view: View, spacing: float | None, width: float | None, *, background: float | None = None
) -> tuple[float, float, bool]:
    """Spacing and width of one image, px: those of the columns that are found in its middle; and whether anything is
    periodic there.
    """
    square, factor = _middle_of(view, MIDDLE), 1
    periodicity = find_periodicity(square.recorded).spacing
    if periodicity is None and max(view.recorded.shape) > MIDDLE:
        # columns may be too large for that: all of the image, in coarser pixels
        whole_factor = math.ceil(max(view.recorded.shape) / MIDDLE)
        whole = view.binned(whole_factor)
        periodicity = find_periodicity(whole.recorded).spacing
        if periodicity is not None:
            square, factor = whole, whole_factor
    periodic = periodicity is not None
    if spacing is not None and width is not None:
        return spacing, width, periodic
    given = [None if v is None else v / factor for v in (spacing, width)]
    if periodicity is not None:
        square = _middle_of(square, math.ceil(FIRST * periodicity))
    first = _first_lengths(square, periodicity, *given)
    learnt = factor * first[0], factor * first[1]
    part = _middle_of(view, math.ceil(ENOUGH * learnt[0]) if np.isfinite(learnt[0]) else MIDDLE)
    for _ in range(ROUNDS):
        found = Search(part, *learnt, SIGNIFICANT, periodic=periodic, background=background).columns()
        before, learnt = learnt, _lengths_of(found.fits, found.width_fixed, part, learnt)
        learnt = (learnt[0] if spacing is None else spacing, learnt[1] if width is None else width)
        if abs(learnt[1] / before[1] - 1) < SETTLED:
            break
    return *learnt, periodic


# --- steps -------------------------------------------------------------------------------------------------------


def _lengths_of(
    fits: ColumnFits, held: NDArray[np.bool_], view: View, otherwise: tuple[float, float]
) -> tuple[float, float]:
    """Median distance of nearest columns and median width of those that tell it."""
    spacing, width = otherwise
    good = fits.take(~fits.failed)
    distance = nearest_distances(np.column_stack([good.y, good.x]))
    inside = (np.minimum(fits.y, fits.x) > 3 * width) & (fits.y < view.recorded.shape[0] - 1 - 3 * width)
    inside &= fits.x < view.recorded.shape[1] - 1 - 3 * width
    telling = fits.sigma[~fits.failed & ~held & inside]
    return (
        float(np.median(distance)) if len(distance) else spacing,
        float(np.median(telling)) if len(telling) >= FEWEST else width,
    )


def _first_lengths(
    view: View, periodicity: float | None, spacing: float | None, width: float | None
) -> tuple[float, float]:
    """Spacing and width of some candidates, each fitted by itself: of those that the recorded image shows, where these
    are many, else of those that a network shows.
    """
    periodic, given = periodicity is not None, width is not None
    alone = replace(view, enhanced=None, detect=None)
    guess = width if width is not None else _first_width(alone, spacing or periodicity)
    fits = None
    if width is None:
        guess, fits = _best_width(alone, spacing or periodicity or np.nan, guess, periodic)
    positions = significant(alone, spacing or periodicity or np.nan, guess, periodic=periodic)
    if width is None:
        width = _width_of(_fits(view, positions, guess) if fits is None else fits, guess)
    shown = network_candidates(view, spacing or periodicity or np.nan, width)
    if shown is not None and (not periodic or len(positions) < ENOUGH_SHOWN * len(shown[0][~shown[1]])):
        positions = shown[0][~shown[1]]
        distance = nearest_distances(positions)
        if not given:
            # where columns repeat, a fifth of their distance; single atoms are far from each other, and as wide as the
            # few that the recorded image shows
            guess = float(np.clip(0.2 * np.median(distance), 0.8, 20.0)) if len(distance) > FEWEST else width
            guess = guess if periodic else width
            width = _width_of(_fits(view, positions, guess), guess)
    distance = nearest_distances(positions)
    if spacing is None:
        spacing = float(np.median(distance)) if len(distance) else float("nan")
    return spacing, width


def _first_width(view: View, spacing: float | None) -> float:
    if spacing is not None:
        return float(np.clip(0.18 * spacing, 0.8, 20.0))
    # the width through whose filter the tallest peaks stand out most of the rest, be it noise or a support
    prominence = []
    for width in TRIED_WIDTHS:
        response = column_response(view.recorded, width)
        middling, usual, tall = np.quantile(response, [0.5, 0.84, 0.999])
        prominence.append((tall - middling) / max(usual - middling, 1e-12))
    return TRIED_WIDTHS[int(np.argmax(prominence))]


def _best_width(view: View, spacing: float, guess: float, periodic: bool) -> tuple[float, ColumnFits | None]:
    """The guess, or a part of it whose peaks, fitted, leave a clearly smaller residual: close pairs are one peak to a
    wide filter. And these fits.
    """
    best, best_fits, least = guess, None, math.inf
    for part in (1.0, *NARROWER):
        positions = significant(view, spacing, part * guess, periodic=periodic)
        if len(positions) < 3 or (part < 1 and part * guess < SHARPEST):
            break
        fits = _fits(view, positions, part * guess, coarsest=NARROWER[-1] * guess)
        good = ~fits.failed & (fits.amplitude > 4 * fits.amplitude_err)
        residual = float(np.median(fits.residual))
        if part == 1 or (good.mean() > FITTED and residual < BETTER * least):
            best, best_fits, least = part * guess, fits, residual
    return best, best_fits


def _fits(view: View, positions: NDArray, guess: float, coarsest: float | None = None) -> ColumnFits:
    """The columns in the middle of the image, fitted twice: the second time from the first's width.

    In means of pixels that suit the guess, or the width ``coarsest``: residuals can be compared where these are alike.
    """
    factor = max(1, int((guess if coarsest is None else coarsest) / SEARCHED))
    binned = view.binned(factor)
    some = binned_places(_middle_ones(positions, view.recorded.shape), factor)
    for _ in range(2):
        start = float(np.sqrt(guess**2 + (factor**2 - 1) / 12)) / factor
        fits = fit_columns(
            binned.recorded, some, start, variance=binned.pixel_variance, iterations=FEW_STEPS, tolerance=ROUGH
        )
        fits = fits.unbinned(factor)
        before, guess = guess, _width_of(fits, guess)
        if abs(guess / before - 1) < SETTLED:
            break
    return fits


def _width_of(fits: ColumnFits, otherwise: float) -> float:
    """Median width of the fits that determine one."""
    good = fits.sigma[~fits.failed & (fits.amplitude > SIGNIFICANT * fits.amplitude_err)]
    return float(np.median(good)) if len(good) >= FEWEST else otherwise


def _middle_ones(positions: NDArray, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The positions in the middle of the image, as many as a width is learnt on."""
    distance = np.abs(positions - np.array(shape) / 2).max(axis=1)
    return positions[np.argsort(distance)[:LEARNT_ON]]


def _middle_of(view: View, size: int) -> View:
    parts = (view.recorded, view.enhanced, view.detect, view.faulty)
    recorded, enhanced, detect, faulty = (None if part is None else middle(part, size) for part in parts)
    assert recorded is not None
    return replace(view, recorded=recorded, enhanced=enhanced, detect=detect, faulty=faulty)
