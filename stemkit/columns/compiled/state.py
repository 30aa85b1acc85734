"""State of a fit that the compiled functions change in place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FitState"]


class FitState(NamedTuple):
    """State of the fit of n columns of P parameters; compiled functions change its arrays in place.

    Attributes
    ----------
    parameters : ndarray of shape (n + 1, P)
        The last row stands for an absent neighbour.
    center : ndarray of int, shape (n + 1, 2)
        Central pixels of the windows.
    movable : ndarray of bool, shape (n,)
        Columns that may take steps.
    start : ndarray of shape (n, P)
        Starting parameters.
    sigma : ndarray of shape (n,)
        Widths that the lengths of the constants refer to, px.
    prior : ndarray of shape (n, 3) or (0, 3)
        Expected positions and their standard deviation, px.
    damping, min_damping : ndarray of shape (n,)
    last_step : ndarray of shape (n,)
        Length of the last step, standard errors.
    background_weight : ndarray of shape (n, k)
        Weight of the squared difference of the backgrounds of a column and of each coupled one.
    evaluated : ndarray of bool, shape (n,)
        Columns whose equations have been computed.
    n_steps : ndarray of int, shape (n,)
        Number of steps that a column has taken.
    outdated : ndarray of bool, shape (n,)
        Columns whose off-diagonal blocks are older than their last step above the tolerance.
    """

    parameters: NDArray[np.float64]
    center: NDArray[np.int64]
    movable: NDArray[np.bool_]
    start: NDArray[np.float64]
    sigma: NDArray[np.float64]
    prior: NDArray[np.float64]
    damping: NDArray[np.float64]
    min_damping: NDArray[np.float64]
    last_step: NDArray[np.float64]
    background_weight: NDArray[np.float64]
    evaluated: NDArray[np.bool_]
    n_steps: NDArray[np.int64]
    outdated: NDArray[np.bool_]
