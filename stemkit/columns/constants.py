"""Constants of the fits, shared by the CPU and the GPU implementation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = [
    "CONSTANTS",
    "COUPLING_UPDATES",
    "DENSE_WINDOW_RADIUS",
    "IS_COUPLING_UPDATE",
    "RENDER_RADIUS",
    "WINDOW_RADIUS",
    "Constants",
]

#: Radius of a column's window, the pixels it is fitted to, sigmas (chosen: its height there is 4 % of the amplitude).
WINDOW_RADIUS = 2.5
#: Radius of the window of a column in a dense lattice, sigmas (chosen: 0.5 % of the amplitude. The equations of a
#: column do not contain its tail beyond the window, which those of its neighbours do: where columns overlap on all
#: sides, fits of their widths with smaller windows do not converge to the minimum, ``tests/columns/test_dense.py``).
DENSE_WINDOW_RADIUS = 3.25
#: Radius within which the model of a column is drawn, sigmas (chosen: its height there is 4e-5 of the amplitude).
RENDER_RADIUS = 4.5
#: Steps of a column after which the off-diagonal blocks with its neighbours are computed again; in between they change
#: little (chosen). In dense lattices they are computed after each step.
COUPLING_UPDATES = (1, 2, 4, 8, 16)
#: Whether the i-th step is one of these; the last element stands for all later ones.
IS_COUPLING_UPDATE = np.isin(np.arange(max(COUPLING_UPDATES) + 2), COUPLING_UPDATES)


class Constants(NamedTuple):
    """Constants of the Levenberg-Marquardt steps; lengths are in sigmas of a column unless stated otherwise.

    All are chosen; ``tests/columns/test_fitting.py`` and ``benchmarks/columns.py --parts precision pairs`` guard them.
    A named tuple, since Numba compiles functions of these, but not of dataclasses.
    """

    #: A column with a neighbour nearer than this is solved for together with its neighbours.
    crowded_distance: float = 4.5
    #: Largest distance of the neighbours that are solved for together with it.
    coupled_distance: float = 5.5
    #: Largest number of these neighbours.
    max_coupled: int = 32
    #: A lattice is dense around a column with at least ``dense_neighbors`` others that are nearer than this.
    dense_distance: float = 3.5
    dense_neighbors: int = 3
    #: Largest distance of the neighbours that are then solved for together with it (derived: further windows do not
    #: overlap).
    dense_coupled_distance: float = 2 * DENSE_WINDOW_RADIUS
    #: Weight, per shared pixel of two windows, of the squared difference of the backgrounds of both columns.
    background_penalty: float = 10.0
    #: Largest distance of a fitted position from the start.
    max_displacement: float = 1.5
    #: Largest ratio of the starting width to the fitted one.
    max_narrowing: float = 2.0
    #: Largest ratio of the fitted width to the starting one.
    max_widening: float = 2.0
    #: Largest displacement of a column in one step.
    max_position_step: float = 0.5
    #: Largest change in one step of the width, as a fraction of the width, and of the two parameters of an ellipse.
    max_relative_step: float = 0.3
    #: A fit has converged when its last step is below this fraction of its width and amplitude, whatever its errors.
    converged_relative_step: float = 3e-5
    #: Shortest step that is undone where it decreases the likelihood, standard errors.
    min_undone_step: float = 0.05
    #: Overshoot from which such a step is undone, as a fraction of its length: small ones only increase the damping.
    undone_overshoot: float = 3.0
    #: Damping above which a short step is no sign of convergence.
    converged_damping: float = 0.1
    #: Excess of the residual's variance over that of the noise from which errors are scaled up, standard deviations.
    excess_significance: float = 4.0
    #: Damping of the first step of a column that overlaps no other.
    first_damping: float = 1e-3
    #: Least damping of such a column.
    min_damping: float = 1e-7
    #: Damping of the first step of a column that overlaps others. It is never zero: some combinations of
    #: the widths and backgrounds of many columns hardly change the image, and diverge for non-Gaussian columns.
    crowded_first_damping: float = 0.3
    #: Least damping of such a column.
    crowded_min_damping: float = 0.01
    #: Damping of the first step of a column in a dense lattice, and the least one there. They may be small, since its
    #: window contains nearly all of its tail: steps converge to a minimum.
    dense_first_damping: float = 0.01
    dense_min_damping: float = 1e-6
    #: Damping from which a column is no longer fitted: the fit has failed.
    max_damping: float = 1e4
    #: Overshoot of a step, as a fraction of its length, below which the damping is decreased.
    good_overshoot: float = 0.15
    #: Overshoot above which the damping is increased.
    bad_overshoot: float = 0.5
    #: Factor by which the damping is decreased.
    damping_decrease: float = 0.2
    #: Factor by which it is increased.
    damping_increase: float = 4.0
    #: Distance of a column from the middle of its window from which the window is moved, px.
    max_off_center: float = 0.55
    #: Largest absolute value of the two parameters of an ellipse.
    max_ellipticity: float = 0.6


CONSTANTS = Constants()
