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
class GuidedSettings:
    """Constants of :func:`add_guided_columns`."""

    #: Standard deviation of the positions that a network shows, in widths (tuned: ``benchmarks/low_dose.py`` has 0.1 to
    #: 0.2 at 1 to 10 electrons per pixel, with tails).
    position_error: float = 0.2
    #: Least significance of a guided column, standard errors (chosen: any positive amplitude, since in pure noise a
    #: network shows hardly any column; of the columns that it does show, more are true than the pixels confirm).
    min_significance: float = 0.0
    #: The same for a faint one next to a bright column, with the misfit in its error (chosen: between simulated
    #: lattices, in which such columns are true, and a particle in which they are not).
    min_faint_significance: float = 2.5
    #: Least distance from the border, px (chosen: networks show the tails of columns outside the frame there).
    margin: float = 1.0


GUIDED = GuidedSettings()


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
        In the pixels of the fitter's image.
    misfit : Misfit
        Misfit of the fitted columns.
    min_distance : float
        Least distance of an added column from the others, px.
    """
    if len(candidates.positions) == 0:
        return FoundColumns(columns.fits, columns.width_fixed, np.zeros(len(columns), dtype=bool))
    columns, guided, expected = _merge_with_candidates(columns, candidates.positions, fitter.width)
    start = columns.fits.updated(guided, columns.fits.take(guided))
    start.y[guided], start.x[guided] = expected[guided].T
    is_missing = distance_to_nearest(candidates.positions, start.positions) > min_distance
    missing = candidates.positions[is_missing]
    if not guided.any() and len(missing) == 0:
        return FoundColumns(columns.fits, columns.width_fixed, guided)
    if len(missing):
        start = start.concatenate(fitter.start_at(missing, columns.fits))
    is_new = np.ones(len(missing), dtype=bool)
    is_doubtful = np.append(np.zeros(len(columns), dtype=bool), candidates.is_faint[is_missing])
    width_fixed = np.append(columns.width_fixed | guided, is_new)
    guided = np.append(guided, is_new)
    error = np.where(guided, GUIDED.position_error * fitter.width, np.inf)
    prior = np.column_stack([np.concatenate([expected, missing]), error])
    fits = fitter.refit(FittedColumns(start, width_fixed), guided, prior=prior).fits
    least = _least_amplitude(fits, guided, is_doubtful, misfit, fitter.width)
    with np.errstate(invalid="ignore"):
        is_column = ~fits.failed & (fits.amplitude >= least) & is_inside(fits, fitter.image, GUIDED.margin)
    return FoundColumns(fits, width_fixed, guided).take(~guided | is_column)


def distance_to_nearest(positions: NDArray, others: NDArray) -> NDArray[np.float64]:
    """Distance ``(n,)`` from each position to the nearest of others; inf without any."""
    if len(others) == 0 or len(positions) == 0:
        return np.full(len(positions), np.inf)
    return np.asarray(cKDTree(others).query(positions)[0])


def is_inside(fits: ColumnFits, image: NormalizedImage, margin: float = -0.5) -> NDArray[np.bool_]:
    """Fits that are in the frame, at least ``margin`` px from the centres of its outermost pixels."""
    n_y, n_x = image.recorded.shape
    inside = (np.minimum(fits.y, fits.x) >= margin) & (fits.y < n_y - 1 - margin) & (fits.x < n_x - 1 - margin)
    return np.asarray(inside)


# --- steps -------------------------------------------------------------------------------------------------------


def _merge_with_candidates(
    columns: FittedColumns, positions: NDArray, width: float
) -> tuple[FittedColumns, NDArray[np.bool_], NDArray[np.float64]]:
    """Assign faint columns to candidates within a width; of several at one candidate, the nearest is kept.

    Returns
    -------
    columns : FittedColumns
    guided : ndarray of bool, shape (n,)
        Columns with a candidate.
    expected : ndarray of shape (n, 2)
        Position of the candidate, or of the column itself, px.
    """
    fits = columns.fits
    if len(fits) == 0:
        return columns, np.zeros(0, dtype=bool), np.empty((0, 2))
    distance, nearest = cKDTree(positions).query(fits.positions)
    guided = is_faint(fits) & (distance < width)
    order = np.lexsort((distance, nearest))
    is_nearest = np.zeros(len(fits), dtype=bool)
    is_nearest[order[np.append(True, np.diff(nearest[order]) > 0)]] = True
    keep = ~guided | is_nearest
    expected = np.where(guided[:, None], positions[nearest], fits.positions)
    return columns.take(keep), guided[keep], expected[keep]


def _least_amplitude(
    fits: ColumnFits, guided: NDArray, is_doubtful: NDArray, misfit: Misfit, width: float
) -> NDArray[np.float64]:
    """Amplitude from which guided columns are accepted, ``(n,)``."""
    least = GUIDED.min_significance * fits.amplitude_err
    misfit_amplitude = misfit.amplitude(fits.positions[is_doubtful], fits.take(~guided), width)
    error = np.hypot(fits.amplitude_err[is_doubtful], misfit_amplitude)
    least[is_doubtful] = GUIDED.min_faint_significance * error
    return least
