"""Maxima of the recorded image that recur at one place next to the columns: a fainter sublattice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["at_recurring_maxima"]


@dataclass(frozen=True)
class _Constants:
    """Constants of :func:`at_recurring_maxima` (chosen unless stated otherwise)."""

    #: Largest distance of positions that recur from their mean, in widths of the columns.
    same_place: float = 0.7
    #: Least number of positions that recur.
    min_positions: int = 8
    #: Least fraction of the columns without another column at this vector from them: the few next to which one is
    #: missing, or was found elsewhere, are no sublattice.
    min_free: float = 0.1
    #: Width of the Gaussian with which the image is smoothed, in widths of the columns.
    smoothing: float = 0.35
    #: Distances from a maximum at one of which the image must be lower, in widths of the columns: further away are the
    #: neighbouring columns.
    radii: tuple[float, ...] = (0.6, 0.8, 1.0)
    #: Positions along an edge of the grid in which the maximum of the mean image is searched.
    n_grid: int = 9
    #: Directions in which the image must be lower.
    n_directions: int = 4
    #: Least median height of the positions, as a fraction of the columns next to them (tuned: a nanoparticle whose
    #: columns were fitted by another program, in which lower maxima halfway between columns are not columns. The first
    #: ring of an aberration-free probe has 1.75 % of its peak, and those of four columns meet halfway with 7 %; the
    #: tails of other probes are higher. Fainter sublattices may be taken for misfit).
    min_height: float = 0.25
    #: Least significance in each direction, standard errors of the mean over all columns.
    min_significance: float = 4.0


CONSTANTS = _Constants()


def at_recurring_maxima(
    recorded: NDArray, positions: NDArray, heights: NDArray, columns: NDArray, width: float, near: float
) -> NDArray[np.bool_]:
    """Positions that lie at one vector from their nearest column, where the mean recorded image has a maximum.

    Parameters
    ----------
    recorded : ndarray of shape (n_y, n_x)
    positions : ndarray of shape (n, 2)
        Possible columns, ``(y, x)``, px.
    heights : ndarray of shape (n,)
        Amplitudes that the residual of the fits shows at these positions, as fractions of that of the nearest column.
    columns : ndarray of shape (m, 2)
        Columns that have been found, px.
    width : float
        Width of the columns, px.
    near : float
        Least distance of columns, px.

    Returns
    -------
    ndarray of bool, shape (n,)

    Notes
    -----
    The tails of the columns have no maximum between them: the Laplacian of a Gaussian is positive beyond sqrt(2)
    widths, and so is that of a sum of Gaussians. A maximum of the image is therefore another column, and not the misfit
    of the neighbouring ones. In a single place it may be noise; the mean is over the places at this vector from all
    columns, not over the positions, which are maxima of the noise, too. Rings of the probe have maxima, too, where
    those of several columns meet: a sublattice must be higher.
    """
    recurs = np.zeros(len(positions), dtype=bool)
    if len(columns) == 0 or len(positions) < CONSTANTS.min_positions:
        return recurs
    tree = cKDTree(columns)
    vectors, reach = positions - columns[tree.query(positions)[1]], CONSTANTS.same_place * width
    smooth = ndimage.gaussian_filter(recorded, CONSTANTS.smoothing * width, mode="reflect", truncate=3.0)
    left = np.hypot(*vectors.T) > near
    while left.sum() >= CONSTANTS.min_positions:
        groups = cKDTree(vectors[left]).query_ball_point(vectors[left], reach)
        group = np.flatnonzero(left)[max(groups, key=len)]
        if len(group) < CONSTANTS.min_positions:
            break
        left[group] = False
        places = columns + vectors[group].mean(axis=0)
        places = places[((places >= 0) & (places <= np.array(recorded.shape) - 1)).all(axis=1)]
        free = places[tree.query(places)[0] > near]
        if len(free) < CONSTANTS.min_free * len(places):
            continue
        shift = _mean_maximum(smooth, free, width)
        if shift is not None:
            same = np.hypot(*(vectors - vectors[group].mean(axis=0) - shift).T) <= reach
            left &= ~same
            if np.median(heights[same]) > CONSTANTS.min_height:
                recurs |= same
    return recurs


# --- steps -------------------------------------------------------------------------------------------------------


def _mean_maximum(smooth: NDArray, places: NDArray, width: float) -> NDArray[np.float64] | None:
    """Shift (y, x), px, from some places to a maximum of their mean image; None without a significant one."""
    radii = width * np.array(CONSTANTS.radii)
    margin = CONSTANTS.same_place * width + radii.max()
    inside = ((places >= margin) & (places <= np.array(smooth.shape) - 1 - margin)).all(axis=1)
    places = places[inside]
    if len(places) < CONSTANTS.min_positions:
        return None
    grid = np.linspace(-1, 1, CONSTANTS.n_grid) * CONSTANTS.same_place * width
    shifts = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    mean = _values(smooth, places + shifts[:, :, None]).mean(axis=2)
    row, col = np.unravel_index(np.argmax(mean), mean.shape)
    if not (0 < row < len(grid) - 1 and 0 < col < len(grid) - 1):
        return None  # the image increases towards a neighbour
    shift = shifts[row, col]
    angles = np.pi * np.arange(CONSTANTS.n_directions) / CONSTANTS.n_directions
    steps = radii[:, None, None, None] * np.stack([np.sin(angles), np.cos(angles)], axis=1)[:, None]
    centers = places + shift
    excess = _values(smooth, centers) - (_values(smooth, centers + steps) + _values(smooth, centers - steps)) / 2
    significance = excess.mean(axis=2) / np.maximum(excess.std(axis=2) / math.sqrt(len(places)), 1e-300)
    return shift if (significance.max(axis=0) > CONSTANTS.min_significance).all() else None


def _values(image: NDArray, positions: NDArray) -> NDArray[np.float64]:
    """Interpolated values ``(...)`` at positions ``(..., 2)``, px."""
    return np.asarray(ndimage.map_coordinates(image, np.moveaxis(positions, -1, 0), order=1, mode="nearest"))
