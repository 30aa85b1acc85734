"""Guided columns: too faint for their position to be fitted freely, they are fitted near where a network shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits
from stemkit.detection.candidates import NetworkCandidates
from stemkit.detection.fitter import ColumnFitter, FittedColumns, is_faint
from stemkit.detection.misfit import Misfit
from stemkit.detection.normalized_image import NormalizedImage

__all__ = ["FoundColumns", "add_guided_columns", "distance_to_nearest", "is_inside"]


@dataclass(frozen=True)
class _Constants:
    """Constants of :func:`add_guided_columns`."""

    #: Standard deviation of the positions that a network shows, in widths (tuned: ``benchmarks/low_dose.py`` has 0.1 to
    #: 0.2 at 1 to 10 electrons per pixel, with tails).
    position_error: float = 0.2
    #: Least significance of a guided column with a probability in the map of the network above ``probable``, standard
    #: errors (chosen: noise makes the amplitude of a faint column negative; ``benchmarks/low_dose.py``: at 1 to 5
    #: electrons, 90 % of those with an amplitude between -1 and 0 errors are true from a probability of 0.7, 60 % from
    #: 0.5, 20 % below) ...
    min_significance: float = -1.0
    #: ... and of the others.
    min_improbable_significance: float = 0.0
    probable: float = 0.5
    #: The same for a faint one next to a bright column, with the misfit in its error (chosen: between simulated
    #: lattices, in which such columns are true, and a particle in which they are not) ...
    min_faint_significance: float = 2.5
    #: ... where the median significance of the other columns is above this: below, the misfit cannot be measured (that
    #: of the columns on which it is measured).
    clear_significance: float = 10.0
    #: Width, learnt widths, above which a column that the network does not show is a variation of the background
    #: (chosen).
    max_width: float = 2.0
    #: Least distance from the border, px (chosen: networks show the tails of columns outside the image there).
    margin: float = 1.0


CONSTANTS = _Constants()


@dataclass(frozen=True)
class FoundColumns:
    """Result of a column search.

    Parameters
    ----------
    fits : ColumnFits
    width_fixed : ndarray of bool, shape (n,)
        Columns whose width is fixed at the learnt one.
    guided : ndarray of bool, shape (n,)
        Columns that were fitted near where a network shows them.
    """

    fits: ColumnFits
    width_fixed: NDArray[np.bool_]
    guided: NDArray[np.bool_]

    def take(self, which: NDArray) -> FoundColumns:
        """The columns that an index or a mask selects."""
        return FoundColumns(self.fits.take(which), self.width_fixed[which], self.guided[which])


def add_guided_columns(
    fitter: ColumnFitter,
    columns: FittedColumns,
    candidates: NetworkCandidates,
    misfit: Misfit,
    min_distance: float,
) -> FoundColumns:
    """Fit faint columns near where a network shows them, and add those that it shows and the search has not found.

    The positions of the network are a Gaussian prior of the fitted ones.

    Parameters
    ----------
    fitter : ColumnFitter
    columns : FittedColumns
        Columns that have been found on the recorded pixels.
    candidates : NetworkCandidates
        Candidates in the pixels of the fitter's image.
    misfit : Misfit
        Misfit of the fitted columns.
    min_distance : float
        Least distance of an added column from the others, px.
    """
    if len(candidates.positions) == 0:
        return FoundColumns(columns.fits, columns.width_fixed, np.zeros(len(columns), dtype=bool))
    columns = columns.take(_is_shown(columns.fits, candidates.positions, min_distance))
    columns, guided, nearest = _merge_with_candidates(columns, candidates.positions, fitter.width, min_distance)
    is_missing = (
        distance_to_nearest(candidates.positions, _moved(columns.fits, candidates, guided, nearest)) > min_distance
    )
    missing = candidates.take(is_missing)
    if not guided.any() and len(missing.positions) == 0:
        return FoundColumns(columns.fits, columns.width_fixed, guided)
    # their former fits, without a prior, are those of the noise
    shown = candidates.take(np.append(nearest[guided], np.flatnonzero(is_missing)))
    others = columns.take(~guided)
    fits = others.fits.concatenate(fitter.start_at(shown.positions, others.fits))
    guided = np.arange(len(fits)) >= len(others)
    width_fixed = np.append(others.width_fixed, np.ones(len(shown.positions), dtype=bool))
    prior = np.zeros((len(fits), 3))
    prior[:, 2] = np.inf
    prior[guided] = np.column_stack([shown.positions, np.full(guided.sum(), CONSTANTS.position_error * fitter.width)])
    fits = fitter.refit(FittedColumns(fits, width_fixed), guided, prior=prior).fits
    least = _least_amplitude(fits, guided, shown, misfit, fitter.width)
    with np.errstate(invalid="ignore"):
        is_column = np.where(
            fits.failed[guided], shown.probability > CONSTANTS.probable, fits.amplitude[guided] >= least
        )
    keep = ~guided
    keep[guided] = is_column
    keep &= ~guided | is_inside(fits, fitter.image, CONSTANTS.margin)
    return FoundColumns(fits, width_fixed, guided).take(keep)


def distance_to_nearest(positions: NDArray, others: NDArray) -> NDArray[np.float64]:
    """Distance ``(n,)`` from each position to the nearest of others; inf without any."""
    if len(others) == 0 or len(positions) == 0:
        return np.full(len(positions), np.inf)
    return np.asarray(cKDTree(others).query(positions)[0])


def is_inside(fits: ColumnFits, image: NormalizedImage, margin: float = -0.5) -> NDArray[np.bool_]:
    """Fits that are in the image, at least ``margin`` px from the centres of its outermost pixels."""
    n_y, n_x = image.recorded.shape
    inside = (np.minimum(fits.y, fits.x) >= margin) & (fits.y < n_y - 1 - margin) & (fits.x < n_x - 1 - margin)
    return np.asarray(inside)


# --- steps -------------------------------------------------------------------------------------------------------


def _is_shown(fits: ColumnFits, positions: NDArray, min_distance: float) -> NDArray[np.bool_]:
    """Columns that the network shows, or the recorded pixels: fits that failed or end with no amplitude are neither."""
    with np.errstate(invalid="ignore"):
        has_amplitude = ~fits.failed & (fits.amplitude > fits.amplitude_err)
    return np.asarray(has_amplitude | (distance_to_nearest(fits.positions, positions) < min_distance))


def _merge_with_candidates(
    columns: FittedColumns, positions: NDArray, width: float, min_distance: float
) -> tuple[FittedColumns, NDArray[np.bool_], NDArray[np.float64]]:
    """Assign faint columns to candidates within a width; of several at one candidate, the nearest is kept.

    A candidate with none but faint columns nearer than ``min_distance`` gets the nearest of these, since the fit of a
    faint column moves to a maximum of the noise. Columns that are wide and not at a candidate count as faint ones, and
    are removed where the candidate has another column.

    Returns
    -------
    columns : FittedColumns
    guided : ndarray of bool, shape (n,)
        Columns with a candidate.
    nearest : ndarray of int, shape (n,)
        Number of the nearest candidate of each column.
    """
    fits = columns.fits
    if len(fits) == 0:
        return columns, np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64)
    distance, nearest = cKDTree(positions).query(fits.positions)
    faint = is_faint(fits) | ((fits.sigma > CONSTANTS.max_width * width) & (distance > width))
    reach = np.full(len(positions), min_distance)
    reach[nearest[~faint & (distance < min_distance)]] = width
    reach[nearest[distance < width]] = width
    guided = faint & (distance < reach[nearest])
    is_background = (fits.sigma > CONSTANTS.max_width * width) & (distance > width) & (distance < fits.sigma) & ~guided
    order = np.lexsort((distance, nearest))
    is_nearest = np.zeros(len(fits), dtype=bool)
    is_nearest[order[np.append(True, np.diff(nearest[order]) > 0)]] = True
    keep = np.where(guided, is_nearest, ~is_background)
    return columns.take(keep), guided[keep], nearest[keep]


def _moved(fits: ColumnFits, candidates: NetworkCandidates, guided: NDArray, nearest: NDArray) -> NDArray[np.float64]:
    """Positions ``(n, 2)``, px, of columns after guided ones have been moved to their candidates."""
    return np.where(guided[:, None], candidates.positions[nearest], fits.positions)


def _least_amplitude(
    fits: ColumnFits, guided: NDArray, shown: NetworkCandidates, misfit: Misfit, width: float
) -> NDArray[np.float64]:
    """Amplitude from which guided columns are accepted, ``(n_guided,)``; ``shown`` are their candidates."""
    found, others = fits.take(guided), fits.take(~guided)
    is_probable = shown.probability > CONSTANTS.probable
    least = (
        np.where(is_probable, CONSTANTS.min_significance, CONSTANTS.min_improbable_significance) * found.amplitude_err
    )
    faint = found.take(shown.is_faint)
    significance = others.amplitude / others.amplitude_err
    if len(faint) == 0 or not np.nanmedian(np.append(significance, 0.0)) > CONSTANTS.clear_significance:
        return least
    error = np.hypot(faint.amplitude_err, misfit.amplitude(faint.positions, others, width))
    least[shown.is_faint] = CONSTANTS.min_faint_significance * error
    return least
