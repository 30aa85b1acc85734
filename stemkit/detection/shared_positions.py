"""Columns that are found in several images of one scan, at one position."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stemkit.detection.candidates import min_column_distance
from stemkit.detection.fitter import FittedColumns
from stemkit.detection.guided import FoundColumns, distance_to_nearest
from stemkit.detection.search import ColumnSearch
from stemkit.metrics import match_columns

__all__ = ["find_shared_columns"]


@dataclass(frozen=True)
class MergedPositions:
    """Positions of the columns of several images.

    Parameters
    ----------
    positions, errors : ndarray of shape (n, 2)
        ``(y, x)`` and their standard deviations, px.
    guided : ndarray of bool, shape (n,)
        Columns that are guided in all images that show them.
    """

    positions: NDArray[np.float64]
    errors: NDArray[np.float64]
    guided: NDArray[np.bool_]


def find_shared_columns(searches: list[ColumnSearch]) -> list[FoundColumns]:
    """Columns that are found in any of several images of one scan, at one position in all of them.

    Parameters
    ----------
    searches : list of ColumnSearch
        Those of each image.
    """
    spacing, width = searches[0].spacing, searches[0].width
    found = [search.run() for search in searches]
    merged = _merge_positions(found, min_column_distance(spacing, width), max(width, 1.0))
    result = []
    for search in searches:
        fits = search.fitter.fit(merged.positions, fit_position=False)
        columns = FittedColumns(fits, np.zeros(len(fits), dtype=bool))
        columns = search.fitter.fix_faint_widths(columns, fit_position=False)
        y_err, x_err = np.where(columns.fits.failed, np.nan, merged.errors.T)
        fits = replace(columns.fits, y_err=y_err, x_err=x_err)
        result.append(FoundColumns(fits, columns.width_fixed, merged.guided))
    return result


# --- steps -------------------------------------------------------------------------------------------------------


def _merge_positions(found: list[FoundColumns], radius: float, guided_radius: float) -> MergedPositions:
    """Means of the positions of columns in several images, weighted by their errors.

    Parameters
    ----------
    found : list of FoundColumns
        Those of each image.
    radius : float
        Positions within this distance are those of one column, px.
    guided_radius : float
        A column is not guided if an image has one that is not guided within this distance, px.
    """
    positions, weights = np.empty((0, 2)), np.empty((0, 2))
    for columns in found:
        good = columns.fits.take(~columns.fits.failed)
        new, weight = good.positions, 1 / good.position_errors**2
        match = match_columns(new, positions, radius)
        new_weight, old_weight = weight[match.found], weights[match.true]
        mean = new_weight * new[match.found] + old_weight * positions[match.true]
        positions[match.true] = mean / (new_weight + old_weight)
        weights[match.true] += new_weight
        unmatched = np.setdiff1d(np.arange(len(new)), match.found)
        positions = np.concatenate([positions, new[unmatched]])
        weights = np.concatenate([weights, weight[unmatched]])
    order = np.lexsort(positions.T[::-1])
    positions, errors = positions[order], weights[order] ** -0.5
    free = [columns.fits.positions[~columns.guided] for columns in found]
    guided = ~np.any([distance_to_nearest(positions, others) < guided_radius for others in free], axis=0)
    return MergedPositions(positions, errors, guided)
