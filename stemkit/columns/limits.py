"""What the steps of a fit obey, on the CPU as on a GPU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["LIMITS", "REACH", "RENDERED", "RENEWED", "RENEWED_AT", "Limits"]

#: A column is fitted on the pixels within this many sigmas of it (chosen: beyond there is 4 % of its height).
REACH = 2.5
#: The model of a column is drawn within this many sigmas (chosen: beyond there is 4e-5 of its height).
RENDERED = 4.5
#: A column's evaluations at which its blocks with its neighbours are worked out anew: they change little in between
#: (chosen).
RENEWED = (1, 2, 3, 4, 8, 12, 16)
RENEWED_AT = np.isin(np.arange(max(RENEWED) + 2), RENEWED)


class Limits(NamedTuple):
    """Constants of the Levenberg-Marquardt steps; lengths in sigmas of a column unless they say otherwise.

    Those without another origin are chosen, and guarded by ``tests/columns/test_fitting.py`` and
    ``benchmarks/columns.py --parts precision pairs``.
    """

    #: A column with a neighbour nearer than this is solved for together with its neighbours.
    crowded: float = 4.5
    #: These neighbours are nearer than this, ...
    coupled: float = 5.5
    #: ... and this many at most.
    most_coupled: int = 20
    #: The weight of each pixel that two windows share for equal backgrounds of both columns.
    alike: float = 10.0
    #: A fit stays within this distance of its start.
    farthest: float = 1.5
    #: A width stays above its start over this factor, ...
    narrowest: float = 2.0
    #: ... and below its start times this one.
    widest: float = 2.0
    #: One step moves a column by less than this.
    longest: float = 0.5
    #: One step changes a width by less than this fraction (a height by less than the image's range).
    quickest: float = 0.3
    #: A fit has converged when its last step was less than this fraction of its width and height, if not of its errors.
    smallest_step: float = 3e-5
    #: Steps that made things worse are put back where they are longer than this fraction of the errors.
    small_step: float = 0.05
    #: The length of a step that was damped by more than this does not show convergence.
    damped: float = 0.1
    #: A residual is larger than noise explains from this many standard deviations.
    unexplained: float = 4.0
    #: Damping of the first step of a column that overlaps no other, and the least.
    first_damping: float = 1e-3
    least_damping: float = 1e-7
    #: The same of columns that overlap: never without, since many of them together have widths and backgrounds that
    #: hardly change the image, and along these a column that is not Gaussian leads its neighbours astray.
    crowded_damping: float = 0.3
    least_crowded_damping: float = 0.01
    #: Columns that are damped by this much are given up.
    most_damping: float = 1e4
    #: A step that went too far by no more than this fraction of its length is followed by one that is damped less, ...
    on_target: float = 0.15
    #: ... one that went farther than this by one that is damped more.
    overshot: float = 0.5
    #: The window follows a column that is farther from its middle than this, px.
    off_centre: float = 0.55
    #: The largest of the two numbers that make a column elliptical.
    longish: float = 0.6


LIMITS = Limits()
