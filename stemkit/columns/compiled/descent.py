"""Pieces of the Levenberg-Marquardt steps of :class:`stemkit.columns.descent.CompiledDescent`, compiled for the CPU."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.compiled.arithmetic import compiled
from stemkit.columns.compiled.steps import invert, solve_coupled

__all__ = ["Progress", "damped_step", "judge", "take_step", "tie", "unfinished"]

#: Added to each block's unit diagonal before it is inverted.
RIDGE = 1e-9


class Progress(NamedTuple):
    """Where n columns of P parameters stand.

    ``movable`` ``(n,)`` marks the columns that may take steps. ``start`` ``(n, P)`` and ``sigma`` ``(n,)`` are what
    limits refer to, ``prior`` ``(n, 3)`` or ``(0, 3)`` expected positions and their standard deviation. ``bond``
    ``(n, k)`` ties the backgrounds of coupled columns. ``known`` says whose equations have been evaluated, ``age`` how
    often, and ``stale`` whose blocks with their neighbours are older than a step that mattered.
    """

    parameters: NDArray[np.float64]
    centre: NDArray[np.int64]
    movable: NDArray[np.bool_]
    start: NDArray[np.float64]
    sigma: NDArray[np.float64]
    prior: NDArray[np.float64]
    damping: NDArray[np.float64]
    least_damping: NDArray[np.float64]
    last_step: NDArray[np.float64]
    bond: NDArray[np.float64]
    known: NDArray[np.bool_]
    age: NDArray[np.int64]
    stale: NDArray[np.bool_]


@compiled
def tie(problem, progress, equations, limits, columns, renewed):  # type: ignore[no-untyped-def]
    """Add to fresh equations of some columns what is known of positions beforehand, and the bond of backgrounds."""
    parameters, coupled, prior = progress.parameters, problem.coupled, progress.prior
    for m in range(len(columns)):
        c = columns[m]
        if len(prior):
            for axis in range(2):
                precision = problem.free[c, axis] / (prior[c, 2] * prior[c, 2])
                if precision > 0.0:
                    equations.own[c, axis, axis] += precision
                    equations.gradient[c, axis] += precision * (prior[c, axis] - parameters[c, axis])
        for k in range(coupled.shape[1]):
            j = coupled[c, k]
            if j == len(coupled):
                break
            if renewed[m]:
                # where rows have offsets of their own, backgrounds may be opposed
                progress.bond[c, k] = limits.alike * max(equations.shared[c, k, 4, 4], 0.0)
                equations.shared[c, k, 4, 4] -= progress.bond[c, k]
            equations.own[c, 4, 4] += progress.bond[c, k]
            equations.gradient[c, 4] -= progress.bond[c, k] * (parameters[c, 4] - parameters[j, 4])


@compiled
def take_step(problem, progress, equations, limits, columns, number, change):  # type: ignore[no-untyped-def]
    """Move some columns by a step, within their bounds.

    Parameters
    ----------
    problem : CompiledProblem
    progress : Progress
        Changed in place.
    equations : Equations
    limits : Limits
    columns : ndarray of int, shape (m,)
    number : ndarray of int, shape (n + 1,)
        Place of each column among these; m for the others.
    change : ndarray of shape (m, P)
        The step; changed in place where it is too long.

    Returns
    -------
    length : ndarray of shape (m,)
        In the columns' errors.
    slope : ndarray of shape (m,)
        Of the likelihood along the step.
    """
    parameters, m = progress.parameters, len(columns)
    _shorten(problem, progress, limits, columns, number, change)
    length, slope = np.empty(m), np.empty(m)
    for i in range(m):
        c = columns[i]
        before = parameters[c].copy()
        for a in range(parameters.shape[1]):
            parameters[c, a] += change[i, a]
        _bound(parameters[c], progress.start[c], progress.sigma[c], limits)
        for a in range(parameters.shape[1]):
            change[i, a] = parameters[c, a] - before[a]
        slope[i] = _dot_small(equations.gradient[c], change[i])
        length[i] = math.sqrt(abs(slope[i]) / _unit(problem, equations, c))
        _recentre(problem, progress, limits, c)
    return length, slope


@compiled
def judge(problem, progress, equations, limits, columns, number, change, length, slope):  # type: ignore[no-untyped-def]
    """Put back steps that made things worse, with those of neighbours, and adapt the damping.

    What a step gains is half the sum of the slopes at its ends, of a column and its neighbours together.

    Returns
    -------
    back : ndarray of bool, shape (m,)
        Columns that were put back: those that became worse, and their neighbours.
    concerned : ndarray of bool, shape (m,)
        These and their neighbours: their equations are old.
    """
    coupled, m = problem.coupled, len(columns)
    last = np.empty(m)
    for i in range(m):
        last[i] = _dot_small(equations.gradient[columns[i]], change[i])
    worse = np.zeros(m, np.bool_)
    for i in range(m):
        c, at_start, at_end = columns[i], slope[i], last[i]
        for k in range(coupled.shape[1]):
            j = coupled[c, k]
            if j == len(coupled):
                break
            if number[j] < m:
                at_start += slope[number[j]]
                at_end += last[number[j]]
        worse[i] = at_start + at_end < 0.0 and length[i] > limits.small_step
        over = -at_end / max(at_start, 1e-200)
        factor = 0.2 if over < limits.on_target else (1.0 if over < limits.overshot else 4.0)
        progress.damping[c] = max(min(progress.damping[c] * factor, limits.most_damping), progress.least_damping[c])
        progress.last_step[c] = length[i]
    if not worse.any():
        return worse, worse
    back = _with_neighbours(coupled, columns, number, worse)
    for i in range(m):
        if back[i]:
            for a in range(change.shape[1]):
                progress.parameters[columns[i], a] -= change[i, a]
                change[i, a] = 0.0
            _recentre(problem, progress, limits, columns[i])
    return back, _with_neighbours(coupled, columns, number, back)


@compiled
def damped_step(problem, progress, equations, columns, number, cycles, tolerance):  # type: ignore[no-untyped-def]
    """Damped steps ``(m, P)`` of some columns, each parameter scaled by its own curvature; the others stand still.

    ``cycles`` and ``tolerance`` are those of the biconjugate gradients; for the others see :func:`take_step`.
    """
    coupled = problem.coupled
    n, m, n_parameters, n_coupled = len(coupled), len(columns), equations.own.shape[1], coupled.shape[1]
    scale = np.empty((n + 1, n_parameters))
    own, inverse = np.empty((m, n_parameters, n_parameters)), np.empty((m, n_parameters, n_parameters))
    gradient, work = np.empty((m, n_parameters)), np.empty((n_parameters, n_parameters))
    neighbours = np.empty((m, n_coupled), np.int64)
    together = False
    for i in range(m):
        c = columns[i]
        for a in range(n_parameters):
            scale[c, a] = 1.0 / math.sqrt(max(equations.own[c, a, a], 1e-200))
    for i in range(m):
        c = columns[i]
        damping = progress.damping[c]
        for k in range(n_coupled):
            neighbours[i, k] = m
        for k in range(n_coupled):
            j = coupled[c, k]
            if j == n:
                break
            # the most damped of a column and its neighbours: they move together
            damping = max(damping, progress.damping[j])
            neighbours[i, k] = number[j]
            together |= number[j] < m
        for a in range(n_parameters):
            for b in range(n_parameters):
                own[i, a, b] = equations.own[c, a, b] * scale[c, a] * scale[c, b]
            own[i, a, a] += damping + RIDGE
            gradient[i, a] = equations.gradient[c, a] * scale[c, a]
        if not _is_finite(own[i], gradient[i]):
            # a column that overflows stays where it is, and leaves the others alone
            for a in range(n_parameters):
                for b in range(n_parameters):
                    own[i, a, b] = 1.0 if a == b else 0.0
                gradient[i, a] = 0.0
            for k in range(n_coupled):
                neighbours[i, k] = m
        invert(own[i], work, inverse[i])
    if together:
        shared = np.zeros((m, n_coupled, n_parameters, n_parameters))
        for i in range(m):
            for k in range(n_coupled):
                if neighbours[i, k] == m:
                    continue
                c, j = columns[i], coupled[columns[i], k]
                for a in range(n_parameters):
                    for b in range(n_parameters):
                        value = equations.shared[c, k, a, b] * scale[c, a] * scale[j, b]
                        shared[i, k, a, b] = value if math.isfinite(value) else 0.0
        change = solve_coupled(own, shared, neighbours, inverse, gradient, cycles, tolerance)
    else:
        change = np.empty((m, n_parameters))
        for i in range(m):
            for a in range(n_parameters):
                change[i, a] = _dot_small(inverse[i, a], gradient[i])
    for i in range(m):
        for a in range(n_parameters):
            value = change[i, a] * scale[columns[i], a]
            change[i, a] = value if math.isfinite(value) else 0.0
    return change


@compiled
def _is_finite(own, gradient):  # type: ignore[no-untyped-def]
    for a in range(len(gradient)):
        if not math.isfinite(gradient[a]):
            return False
        for b in range(len(gradient)):
            if not math.isfinite(own[a, b]):
                return False
    return True


@compiled
def _shorten(problem, progress, limits, columns, number, change):  # type: ignore[no-untyped-def]
    """Shorten steps as a whole where a part of them is too long, and those of neighbours with them."""
    coupled = problem.coupled
    n, m, n_parameters = len(coupled), len(columns), change.shape[1]
    part = np.ones(m)
    for i in range(m):
        sigma = progress.sigma[columns[i]]
        for a in range(n_parameters):
            limit = 1.0
            if a < 2:
                limit = limits.longest * sigma
            elif a == 3:
                limit = limits.quickest * sigma
            elif a > 4:
                limit = limits.quickest
            part[i] = min(part[i], limit / max(abs(change[i, a]), 1e-200))
    for i in range(m):
        least = part[i]
        for k in range(coupled.shape[1]):
            j = coupled[columns[i], k]
            if j == n:
                break
            if number[j] < m:
                least = min(least, part[number[j]])
        if least < 1.0:
            for a in range(n_parameters):
                change[i, a] *= least


@compiled
def _bound(parameters, start, sigma, limits):  # type: ignore[no-untyped-def]
    for a in range(2):
        parameters[a] = max(min(parameters[a], start[a] + limits.farthest * sigma), start[a] - limits.farthest * sigma)
    parameters[3] = max(min(parameters[3], sigma * limits.widest), sigma / limits.narrowest)
    for a in range(5, len(parameters)):
        parameters[a] = max(min(parameters[a], limits.longish), -limits.longish)


@compiled
def _recentre(problem, progress, limits, c):  # type: ignore[no-untyped-def]
    """Move the window of a column that is far from its middle, as far as windows can stand."""
    reach = (problem.pad - 2) // 2
    for axis in range(2):
        if abs(progress.parameters[c, axis] - progress.centre[c, axis]) > limits.off_centre:
            for both in range(2):
                size = problem.image.shape[both] - 2 * problem.pad
                place = int(np.rint(progress.parameters[c, both]))
                progress.centre[c, both] = min(max(place, -reach - 1), size + reach)
            return


@compiled
def _with_neighbours(coupled, columns, number, marked):  # type: ignore[no-untyped-def]
    """Marks ``(m,)`` of some columns spread to their neighbours among these."""
    m = len(columns)
    spread = marked.copy()
    for i in range(m):
        for k in range(coupled.shape[1]):
            j = coupled[columns[i], k]
            if j == len(coupled):
                break
            if number[j] < m and marked[number[j]]:
                spread[i] = True
    return spread


@compiled
def unfinished(problem, progress, equations, limits, columns, number, change, back, small):  # type: ignore[no-untyped-def]
    """Columns that have not converged, and those that their neighbours' last steps would move, as indices."""
    coupled, m = problem.coupled, len(columns)
    n, n_parameters = len(coupled), change.shape[1]
    moving, waiting = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    scaled, work = np.empty((n_parameters, n_parameters)), np.empty((n_parameters, n_parameters))
    inverse = np.empty((n_parameters, n_parameters))
    for i in range(m):
        c, sigma = columns[i], progress.sigma[columns[i]]
        relative = abs(change[i, 2]) / max(abs(progress.parameters[c, 2]), 1e-12)
        for a in (0, 1, 3):
            relative = max(relative, abs(change[i, a]) / sigma)
        settled = progress.last_step[c] < small and progress.damping[c] < limits.damped
        finished = not back[i] and (settled or relative < limits.smallest_step)
        if not finished:
            moving[c] = progress.damping[c] < limits.most_damping
        moved = False
        for a in range(n_parameters):
            moved |= change[i, a] != 0.0
        if not moved:
            continue
        for k in range(coupled.shape[1]):
            j = coupled[c, k]
            if j == n:
                break
            waiting[j] = True
            if number[j] == m:
                _push(equations, progress, coupled, c, k, change[i])
    for j in np.flatnonzero(waiting & ~moving):
        if progress.damping[j] >= limits.most_damping or not progress.movable[j]:
            continue
        # the blocks of a column that has not been evaluated are those of a neighbour
        like = j
        if not progress.known[j]:
            for k in range(coupled.shape[1]):
                if coupled[j, k] < n and progress.known[coupled[j, k]]:
                    like = coupled[j, k]
                    break
            if like == j:
                moving[j] = True
                continue
        squared = _squared_step(equations.own[like], equations.gradient[j], scaled, work, inverse)
        step = math.sqrt(max(squared, 0.0) / _unit(problem, equations, like))
        moving[j] = step > small
        # the step that is left undone
        progress.last_step[j] = max(progress.last_step[j], step)
    return np.flatnonzero(moving)


@compiled
def _squared_step(own, gradient, scaled, work, inverse):  # type: ignore[no-untyped-def]
    """Square of the step that a column would take by itself, in its errors: ``g^T F^-1 g``."""
    n_parameters = len(gradient)
    for a in range(n_parameters):
        for b in range(n_parameters):
            scaled[a, b] = own[a, b] / math.sqrt(max(own[a, a], 1e-200) * max(own[b, b], 1e-200))
        scaled[a, a] += RIDGE
    invert(scaled, work, inverse)
    total = 0.0
    for a in range(n_parameters):
        for b in range(n_parameters):
            scale = math.sqrt(max(own[a, a], 1e-200) * max(own[b, b], 1e-200))
            total += gradient[a] * gradient[b] * inverse[a, b] / scale
    return total


@compiled
def _push(equations, progress, coupled, c, k, change):  # type: ignore[no-untyped-def]
    """What a step of column c does to the gradient of its k-th neighbour, which stands still."""
    j, n_parameters = coupled[c, k], len(change)
    if progress.known[j]:
        for other in range(coupled.shape[1]):
            if coupled[j, other] == c:
                for a in range(n_parameters):
                    equations.gradient[j, a] -= _dot_small(equations.shared[j, other, a], change)
    else:
        for a in range(n_parameters):
            for b in range(n_parameters):
                equations.gradient[j, a] -= equations.shared[c, k, b, a] * change[b]


@compiled
def _unit(problem, equations, c):  # type: ignore[no-untyped-def]
    """Variance of a column's weighted residuals: 1 where the noise is known and explains them."""
    n_free = 0
    for a in range(problem.free.shape[1]):
        n_free += problem.free[c, a]
    least = 1.0 if len(problem.variance) else 1e-12
    return max(equations.chi2[c] / max(equations.pixels[c] - n_free, 1.0), least)


@compiled
def _dot_small(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
