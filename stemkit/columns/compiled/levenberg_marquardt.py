"""The Levenberg-Marquardt steps of :mod:`stemkit.columns.levenberg_marquardt`, compiled for the CPU."""

from __future__ import annotations

import math

import numpy as np

from stemkit.columns.compiled.linear_algebra import invert, solve_coupled
from stemkit.compilation import compiled

__all__ = ["accept_or_undo", "add_penalties", "damped_step", "take_step", "unconverged"]

#: Added to the unit diagonal of each scaled block before its inversion (chosen).
RIDGE = 1e-9


@compiled
def add_penalties(problem, state, equations, constants, columns, with_shared):  # type: ignore[no-untyped-def]
    """Add the prior of the positions and the penalty for different backgrounds to new equations of some columns."""
    parameters, coupled, prior = state.parameters, problem.coupled, state.prior
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
            if with_shared[m]:
                # with streaks, the off-diagonal element of the backgrounds may be negative
                state.background_weight[c, k] = constants.background_penalty * max(equations.shared[c, k, 4, 4], 0.0)
                equations.shared[c, k, 4, 4] -= state.background_weight[c, k]
            equations.own[c, 4, 4] += state.background_weight[c, k]
            equations.gradient[c, 4] -= state.background_weight[c, k] * (parameters[c, 4] - parameters[j, 4])


@compiled
def take_step(problem, state, equations, constants, columns, subset_index, change):  # type: ignore[no-untyped-def]
    """Move some columns by a step, within the limits.

    Parameters
    ----------
    problem : ProblemArrays
    state : FitState
        Changed in place.
    equations : EquationArrays
    constants : Constants
    columns : ndarray of int, shape (m,)
    subset_index : ndarray of int, shape (n + 1,)
        Index of each column in this subset; m for the others.
    change : ndarray of shape (m, P)
        The step; changed in place where it is too long.

    Returns
    -------
    length : ndarray of shape (m,)
        Of the steps, standard errors.
    slope : ndarray of shape (m,)
        Derivative of the log-likelihood along the step.
    """
    parameters, m = state.parameters, len(columns)
    _limit_steps(problem, state, constants, columns, subset_index, change)
    length, slope = np.empty(m), np.empty(m)
    for i in range(m):
        c = columns[i]
        before = parameters[c].copy()
        for a in range(parameters.shape[1]):
            parameters[c, a] += change[i, a]
        _clip_parameters(parameters[c], state.start[c], state.sigma[c], constants)
        for a in range(parameters.shape[1]):
            change[i, a] = parameters[c, a] - before[a]
        slope[i] = _dot(equations.gradient[c], change[i])
        length[i] = math.sqrt(abs(slope[i]) / _residual_variance(problem, equations, c))
        _recenter(problem, state, constants, c)
    return length, slope


@compiled
def accept_or_undo(problem, state, equations, constants, columns, subset_index, change, length, slope):  # type: ignore[no-untyped-def]
    """Undo steps that decrease the likelihood, together with those of neighbours, and adapt the damping.

    The gain of a step is half the sum of the slopes at its ends, of a column and its neighbours together.

    Returns
    -------
    undone : ndarray of bool, shape (m,)
        Columns whose step was undone: those whose likelihood decreased, and their neighbours.
    affected : ndarray of bool, shape (m,)
        These and their neighbours, whose equations must be computed again.
    """
    coupled, m = problem.coupled, len(columns)
    slope_at_end = np.empty(m)
    for i in range(m):
        slope_at_end[i] = _dot(equations.gradient[columns[i]], change[i])
    worse = np.zeros(m, np.bool_)
    for i in range(m):
        c, at_start, at_end = columns[i], slope[i], slope_at_end[i]
        for k in range(coupled.shape[1]):
            j = coupled[c, k]
            if j == len(coupled):
                break
            if subset_index[j] < m:
                at_start += slope[subset_index[j]]
                at_end += slope_at_end[subset_index[j]]
        worse[i] = constants.undone_overshoot * at_start + at_end < 0.0 and length[i] > constants.min_undone_step
        overshoot = -at_end / max(at_start, 1e-200)
        factor = 1.0
        if overshoot < constants.good_overshoot:
            factor = constants.damping_decrease
        elif not overshoot < constants.bad_overshoot:
            factor = constants.damping_increase
        state.damping[c] = max(min(state.damping[c] * factor, constants.max_damping), state.min_damping[c])
        state.last_step[c] = length[i]
    if not worse.any():
        return worse, worse
    undone = _with_neighbors(coupled, columns, subset_index, worse)
    for i in range(m):
        if undone[i]:
            for a in range(change.shape[1]):
                state.parameters[columns[i], a] -= change[i, a]
                change[i, a] = 0.0
            _recenter(problem, state, constants, columns[i])
    return undone, _with_neighbors(coupled, columns, subset_index, undone)


@compiled
def damped_step(problem, state, equations, columns, subset_index, cycles, tolerance):  # type: ignore[no-untyped-def]
    """Damped steps ``(m, P)`` of some columns, each parameter scaled by its own curvature; the others keep their
    parameters.

    ``cycles`` and ``tolerance`` are those of the biconjugate gradients; for the others see :func:`take_step`.
    """
    coupled = problem.coupled
    n, m, n_parameters, n_coupled = len(coupled), len(columns), equations.own.shape[1], coupled.shape[1]
    scale = np.empty((n + 1, n_parameters))
    own, inverse = np.empty((m, n_parameters, n_parameters)), np.empty((m, n_parameters, n_parameters))
    gradient, work = np.empty((m, n_parameters)), np.empty((n_parameters, n_parameters))
    neighbors = np.empty((m, n_coupled), np.int64)
    together = False
    for i in range(m):
        c = columns[i]
        for a in range(n_parameters):
            scale[c, a] = 1.0 / math.sqrt(max(equations.own[c, a, a], 1e-200))
    for i in range(m):
        c = columns[i]
        damping = state.damping[c]
        for k in range(n_coupled):
            neighbors[i, k] = m
        for k in range(n_coupled):
            j = coupled[c, k]
            if j == n:
                break
            # overlapping columns move together: with the largest damping among them
            damping = max(damping, state.damping[j])
            neighbors[i, k] = subset_index[j]
            together |= subset_index[j] < m
        for a in range(n_parameters):
            for b in range(n_parameters):
                own[i, a, b] = equations.own[c, a, b] * scale[c, a] * scale[c, b]
            own[i, a, a] += damping + RIDGE
            gradient[i, a] = equations.gradient[c, a] * scale[c, a]
        if not _is_finite(own[i], gradient[i]):
            # the equations of a column that overflows are replaced by the identity: it does not move
            for a in range(n_parameters):
                for b in range(n_parameters):
                    own[i, a, b] = 1.0 if a == b else 0.0
                gradient[i, a] = 0.0
            for k in range(n_coupled):
                neighbors[i, k] = m
        invert(own[i], work, inverse[i])
    if together:
        shared = np.zeros((m, n_coupled, n_parameters, n_parameters))
        for i in range(m):
            for k in range(n_coupled):
                if neighbors[i, k] == m:
                    continue
                c, j = columns[i], coupled[columns[i], k]
                for a in range(n_parameters):
                    for b in range(n_parameters):
                        value = equations.shared[c, k, a, b] * scale[c, a] * scale[j, b]
                        shared[i, k, a, b] = value if math.isfinite(value) else 0.0
        change = solve_coupled(own, shared, neighbors, inverse, gradient, cycles, tolerance)
    else:
        change = np.empty((m, n_parameters))
        for i in range(m):
            for a in range(n_parameters):
                change[i, a] = _dot(inverse[i, a], gradient[i])
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
def _limit_steps(problem, state, constants, columns, subset_index, change):  # type: ignore[no-untyped-def]
    """Scale down a step with a component that is too long, and the steps of coupled neighbours with it."""
    coupled = problem.coupled
    n, m, n_parameters = len(coupled), len(columns), change.shape[1]
    fraction = np.ones(m)
    for i in range(m):
        sigma = state.sigma[columns[i]]
        for a in range(n_parameters):
            limit = 1.0
            if a < 2:
                limit = constants.max_position_step * sigma
            elif a == 3:
                limit = constants.max_relative_step * sigma
            elif a > 4:
                limit = constants.max_relative_step
            fraction[i] = min(fraction[i], limit / max(abs(change[i, a]), 1e-200))
    for i in range(m):
        least = fraction[i]
        for k in range(coupled.shape[1]):
            j = coupled[columns[i], k]
            if j == n:
                break
            if subset_index[j] < m:
                least = min(least, fraction[subset_index[j]])
        if least < 1.0:
            for a in range(n_parameters):
                change[i, a] *= least


@compiled
def _clip_parameters(parameters, start, sigma, constants):  # type: ignore[no-untyped-def]
    for a in range(2):
        parameters[a] = max(
            min(parameters[a], start[a] + constants.max_displacement * sigma),
            start[a] - constants.max_displacement * sigma,
        )
    parameters[3] = max(min(parameters[3], sigma * constants.max_widening), sigma / constants.max_narrowing)
    for a in range(5, len(parameters)):
        parameters[a] = max(min(parameters[a], constants.max_ellipticity), -constants.max_ellipticity)


@compiled
def _recenter(problem, state, constants, c):  # type: ignore[no-untyped-def]
    """Centre the window on its column if this is far from the middle of it, as far as the padding allows."""
    reach = (problem.pad - 2) // 2
    for axis in range(2):
        if abs(state.parameters[c, axis] - state.center[c, axis]) > constants.max_off_center:
            for both in range(2):
                size = problem.image.shape[both] - 2 * problem.pad
                place = int(np.rint(state.parameters[c, both]))
                state.center[c, both] = min(max(place, -reach - 1), size + reach)
            return


@compiled
def _with_neighbors(coupled, columns, subset_index, marked):  # type: ignore[no-untyped-def]
    """The marked columns ``(m,)`` of a subset and their coupled neighbours in it."""
    m = len(columns)
    spread = marked.copy()
    for i in range(m):
        for k in range(coupled.shape[1]):
            j = coupled[columns[i], k]
            if j == len(coupled):
                break
            if subset_index[j] < m and marked[subset_index[j]]:
                spread[i] = True
    return spread


@compiled
def unconverged(problem, state, equations, constants, columns, subset_index, change, undone, min_step):  # type: ignore[no-untyped-def]
    """Indices of the columns that have not converged, and of those that steps of their neighbours would move."""
    coupled, m = problem.coupled, len(columns)
    n, n_parameters = len(coupled), change.shape[1]
    moving, waiting = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    scaled, work = np.empty((n_parameters, n_parameters)), np.empty((n_parameters, n_parameters))
    inverse = np.empty((n_parameters, n_parameters))
    for i in range(m):
        c, sigma = columns[i], state.sigma[columns[i]]
        relative = abs(change[i, 2]) / max(abs(state.parameters[c, 2]), 1e-12)
        for a in (0, 1, 3):
            relative = max(relative, abs(change[i, a]) / sigma)
        settled = state.last_step[c] < min_step and state.damping[c] < constants.converged_damping
        finished = not undone[i] and (settled or relative < constants.converged_relative_step)
        if not finished:
            moving[c] = state.damping[c] < constants.max_damping
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
            if subset_index[j] == m:
                _shift_gradient(equations, state, coupled, c, k, change[i])
    for j in np.flatnonzero(waiting & ~moving):
        if state.damping[j] >= constants.max_damping or not state.movable[j]:
            continue
        # the blocks of a column that has not been evaluated are approximated by those of a neighbour
        template = j
        if not state.evaluated[j]:
            for k in range(coupled.shape[1]):
                if coupled[j, k] < n and state.evaluated[coupled[j, k]]:
                    template = coupled[j, k]
                    break
            if template == j:
                moving[j] = True
                continue
        squared = _squared_step(equations.own[template], equations.gradient[j], scaled, work, inverse)
        step = math.sqrt(max(squared, 0.0) / _residual_variance(problem, equations, template))
        moving[j] = step > min_step
        # the next step, which is not taken
        state.last_step[j] = max(state.last_step[j], step)
    return np.flatnonzero(moving)


@compiled
def _squared_step(own, gradient, scaled, work, inverse):  # type: ignore[no-untyped-def]
    """Square of the undamped step of a single column in units of its errors, ``g^T F^-1 g``."""
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
def _shift_gradient(equations, state, coupled, c, k, change):  # type: ignore[no-untyped-def]
    """Add the first-order effect of a step of column c to the gradient of its k-th neighbour, which does not move."""
    j, n_parameters = coupled[c, k], len(change)
    if state.evaluated[j]:
        for other in range(coupled.shape[1]):
            if coupled[j, other] == c:
                for a in range(n_parameters):
                    equations.gradient[j, a] -= _dot(equations.shared[j, other, a], change)
    else:
        for a in range(n_parameters):
            for b in range(n_parameters):
                equations.gradient[j, a] -= equations.shared[c, k, b, a] * change[b]


@compiled
def _residual_variance(problem, equations, c):  # type: ignore[no-untyped-def]
    """Variance of a column's weighted residuals: at least 1 where the noise is known."""
    n_free = 0
    for a in range(problem.free.shape[1]):
        n_free += problem.free[c, a]
    least = 1.0 if len(problem.variance) else 1e-12
    return max(equations.chi2[c] / max(equations.pixels[c] - n_free, 1.0), least)


@compiled
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
