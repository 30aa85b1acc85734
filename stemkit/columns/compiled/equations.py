"""The normal equations of :mod:`stemkit.columns.equations`, compiled for the CPU.

One column at a time, in double precision. Sums over pixels are matrix products, which the linear algebra library
computes several times faster than loops whose order of summation is fixed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.compiled.gaussians import derivatives, heights
from stemkit.columns.compiled.windows import (
    add_columns_nearby,
    empty_window,
    overlap,
    place_window,
    set_backgrounds,
    to_neighbor,
)
from stemkit.compilation import compiled

__all__ = ["EquationArrays", "normal_equations"]


class EquationArrays(NamedTuple):
    """The normal equations of n columns; see :class:`stemkit.columns.equations.NormalEquations`."""

    own: NDArray[np.float64]
    shared: NDArray[np.float64]
    gradient: NDArray[np.float64]
    chi2: NDArray[np.float64]
    pixels: NDArray[np.float64]


class Weights(NamedTuple):
    """The inverse covariance of the noise of a window's pixels; buffers that are filled for each window.

    Attributes
    ----------
    scale : ndarray of shape (area,)
        Inverse standard deviation of each pixel; 0 for pixels that are not fitted.
    kept, carried : ndarray of shape (area,)
        The whitened field is ``kept[i] f[i] - carried[i] f[i - 1]``.
    ones : ndarray of shape (area,)
        A whitened field of ones.
    streak : ndarray of shape (rows,)
        ``s^2 / (1 + s^2 t.t)`` with the variance s^2 of streaks and the whitened ones t of each row.
    """

    scale: NDArray[np.float64]
    kept: NDArray[np.float64]
    carried: NDArray[np.float64]
    ones: NDArray[np.float64]
    streak: NDArray[np.float64]


@compiled
def normal_equations(problem, parameters, center, columns, with_shared, equations, with_ramps):  # type: ignore[no-untyped-def]
    """Compute the normal equations of some columns.

    Parameters
    ----------
    problem : ProblemArrays
    parameters : ndarray of shape (n + 1, P)
        The last row stands for an absent neighbour.
    center : ndarray of int, shape (n + 1, 2)
        Central pixels of the windows.
    columns : ndarray of int, shape (m,)
    with_shared : ndarray of bool, shape (m,)
        Columns whose off-diagonal blocks are computed; those of the others are kept.
    equations : EquationArrays
        Those of all n columns; changed in place.
    with_ramps : bool
        Whether the result is computed.

    Returns
    -------
    ndarray of shape (m, 2, P + 3), or (0, 2, P + 3)
        For backgrounds r with a slope of 1 per px along y and x: ``J^T C^-1 r``, then ``r^T C^-1`` times the residual
        and times both backgrounds.

    Raises
    ------
    ValueError
        If an array has another shape, which compiled code would not notice.
    """
    n, n_parameters = len(parameters) - 1, parameters.shape[1]
    _check_shapes(problem, parameters, center, columns, with_shared, equations)
    ramps = np.zeros((len(columns) if with_ramps else 0, 2, n_parameters + 3))
    widest = 0
    for c in columns:
        widest = max(widest, problem.radius[c])
    window = empty_window(widest)
    area, most = len(window.dy), len(window.line)
    weights = Weights(np.empty(area), np.empty(area), np.empty(area), np.empty(area), np.empty(most))
    n_fields = n_parameters + (3 if with_ramps else 1)
    raw, fields, projections = np.empty((n_fields, area)), np.empty(n_fields * area), np.empty(n_parameters * area)
    products, offsets = np.empty((n_fields, n_fields)), np.empty((n_fields, most))
    for m in range(len(columns)):
        c = columns[m]
        rows, total = place_window(problem, parameters, center, c, window)
        if total == 0:
            _clear(c, equations)
            continue
        set_backgrounds(problem, parameters, center, c, window, rows, total)
        add_columns_nearby(problem, parameters, c, window, rows, total, raw)
        _set_residual(problem, window, rows, raw[n_parameters])
        if with_ramps:
            _set_ramps(parameters[c], window, rows, raw[n_parameters + 1 :])
        equations.pixels[c] = _set_weights(problem, window, rows, total, weights)
        whitened = fields[: n_fields * total].reshape(n_fields, total)
        _whiten(problem, weights, total, raw, whitened)
        np.dot(whitened, whitened.T, products)
        if problem.streaks != 0.0:
            _subtract_streaks(window, weights, rows, whitened, offsets, products)
        _store(products, problem.free[c], c, equations)
        if with_ramps:
            for a in range(n_parameters):
                ramps[m, 0, a] = products[n_parameters + 1, a] * problem.free[c, a]
                ramps[m, 1, a] = products[n_parameters + 2, a] * problem.free[c, a]
            for a in range(3):
                # above the diagonal, streaks are not subtracted from the products
                ramps[m, 0, n_parameters + a] = products[n_parameters + max(1, a), n_parameters + min(1, a)]
                ramps[m, 1, n_parameters + a] = products[n_parameters + 2, n_parameters + a]
        if with_shared[m] and problem.coupled.shape[1] and problem.coupled[c, 0] < n:
            onto = projections[: n_parameters * total].reshape(n_parameters, total)
            _unwhiten(problem, window, weights, rows, offsets, whitened, onto)
            _set_shared(problem, parameters, center, c, window, rows, onto, equations.shared)
    return ramps


@compiled
def _check_shapes(problem, parameters, center, columns, with_shared, equations):  # type: ignore[no-untyped-def]
    n, n_parameters = len(parameters) - 1, parameters.shape[1]
    if problem.free.shape != (n + 1, n_parameters) or center.shape != (n + 1, 2):
        raise ValueError("parameters, center and problem.free must have a row for each column and one more")
    if len(columns) != len(with_shared):
        raise ValueError("with_shared must have the length of columns")
    for c in columns:
        if c < 0 or c >= n:
            raise ValueError("columns must be numbers of rows of parameters without the last one")
    square, n_neighbors = (n, n_parameters, n_parameters), problem.coupled.shape[1]
    if equations.own.shape != square or equations.shared.shape != (n, n_neighbors, n_parameters, n_parameters):
        raise ValueError("equations.own and equations.shared must have the shapes (n, P, P) and (n, n_neighbors, P, P)")
    if equations.gradient.shape != (n, n_parameters) or len(equations.chi2) != n or len(equations.pixels) != n:
        raise ValueError("equations.gradient, chi2 and pixels must have the shapes (n, P), (n,) and (n,)")


@compiled
def _clear(c, equations):  # type: ignore[no-untyped-def]
    """The equations of a column without pixels."""
    n_parameters = equations.own.shape[1]
    equations.chi2[c], equations.pixels[c] = 0.0, 0.0
    for a in range(n_parameters):
        equations.gradient[c, a] = 0.0
        for b in range(n_parameters):
            equations.own[c, a, b] = 0.0
            for k in range(equations.shared.shape[1]):
                equations.shared[c, k, a, b] = 0.0


@compiled
def _set_residual(problem, window, rows, residual):  # type: ignore[no-untyped-def]
    """Recorded image minus model."""
    for r in range(rows):
        y, x, first = window.line[r] + problem.pad, window.left[r] + problem.pad, window.first[r]
        for i in range(window.first[r + 1] - first):
            residual[first + i] = problem.image[y, x + i] - window.model[first + i]


@compiled
def _set_ramps(column, window, rows, ramps):  # type: ignore[no-untyped-def]
    """Backgrounds with a slope of 1 per px along y and x, which are 0 at the column."""
    for r in range(rows):
        first = window.first[r]
        for i in range(window.first[r + 1] - first):
            ramps[0, first + i] = window.line[r] - column[0]
            ramps[1, first + i] = window.left[r] + i - column[1]


@compiled
def _set_weights(problem, window, rows, total, weights):  # type: ignore[no-untyped-def]
    """Set the weights from the variance at the model's intensity; returns the number of pixels that are fitted."""
    scale, kept, carried, ones = weights.scale, weights.kept, weights.carried, weights.ones
    first, used = window.first, total
    if len(problem.variance):
        constant, slope, floor = problem.variance[0], problem.variance[1], problem.variance[2]
        for i in range(total):
            scale[i] = 1.0 / math.sqrt(max(constant + slope * window.model[i], floor))
    else:
        for i in range(total):
            scale[i] = 1.0
    if problem.weight.shape[0]:
        for r in range(rows):
            y, x = window.line[r] + problem.pad, window.left[r] - first[r] + problem.pad
            for i in range(first[r], first[r + 1]):
                weight = problem.weight[y, x + i]
                if weight == 0.0:
                    used -= 1
                scale[i] *= math.sqrt(weight)
    if problem.rho != 0.0:
        # noise that is autoregressive along the row: z_x - rho z_(x-1)
        innovation = 1.0 / math.sqrt(1.0 - problem.rho * problem.rho)
        before = innovation * problem.rho
        kept[0], carried[0] = scale[0], 0.0
        for i in range(1, total):
            kept[i] = innovation * scale[i]
            carried[i] = before * scale[i - 1]
        for r in range(rows):
            kept[first[r]], carried[first[r]] = scale[first[r]], 0.0
        if problem.weight.shape[0]:
            for i in range(1, total):
                if scale[i] == 0.0 or scale[i - 1] == 0.0:
                    kept[i], carried[i] = scale[i], 0.0
        ones[0] = kept[0]
        for i in range(1, total):
            ones[i] = kept[i] - carried[i]
    else:
        for i in range(total):
            ones[i] = scale[i]
    if problem.streaks != 0.0:
        variance = problem.streaks * problem.streaks
        for r in range(rows):
            square = 0.0
            for i in range(first[r], first[r + 1]):
                square += ones[i] * ones[i]
            weights.streak[r] = variance / (1.0 + variance * square)
    return used


@compiled
def _whiten(problem, weights, total, raw, whitened):  # type: ignore[no-untyped-def]
    """Fields in units of the noise, without its correlation along the row."""
    for f in range(len(whitened)):
        field, result = raw[f], whitened[f]
        if problem.rho == 0.0:
            for i in range(total):
                result[i] = weights.scale[i] * field[i]
        else:
            result[0] = weights.kept[0] * field[0]
            for i in range(1, total):
                result[i] = weights.kept[i] * field[i] - weights.carried[i] * field[i - 1]


@compiled
def _subtract_streaks(window, weights, rows, whitened, offsets, products):  # type: ignore[no-untyped-def]
    """Streaks reduce the inverse covariance by ``s^2 / (1 + s^2 t.t) t t^T``, t: a whitened row of ones."""
    for r in range(rows):
        _row_sums(whitened, weights.ones, window.first[r], window.first[r + 1], offsets[:, r])
    for a in range(len(whitened)):
        for b in range(a + 1):
            for r in range(rows):
                products[a, b] -= weights.streak[r] * offsets[a, r] * offsets[b, r]


@compiled
def _row_sums(fields, ones, begin, end, sums):  # type: ignore[no-untyped-def]
    """Inner products of fields with the whitened ones over a range of pixels, three at a time."""
    for f in range(0, len(fields) - 2, 3):
        one, two, three = 0.0, 0.0, 0.0
        for i in range(begin, end):
            one += ones[i] * fields[f, i]
            two += ones[i] * fields[f + 1, i]
            three += ones[i] * fields[f + 2, i]
        sums[f], sums[f + 1], sums[f + 2] = one, two, three
    for f in range(len(fields) - len(fields) % 3, len(fields)):
        one = 0.0
        for i in range(begin, end):
            one += ones[i] * fields[f, i]
        sums[f] = one


@compiled
def _store(products, free, c, equations):  # type: ignore[no-untyped-def]
    """Diagonal block, gradient and chi squared of column c; fixed parameters have zeros."""
    n_parameters = equations.own.shape[1]
    for a in range(n_parameters):
        for b in range(a + 1):
            value = products[a, b] * free[a] * free[b]
            equations.own[c, a, b] = value
            equations.own[c, b, a] = value
        equations.gradient[c, a] = products[n_parameters, a] * free[a]
    equations.chi2[c] = products[n_parameters, n_parameters]


@compiled
def _unwhiten(problem, window, weights, rows, offsets, whitened, result):  # type: ignore[no-untyped-def]
    """``C^-1 J`` from the whitened derivatives J, onto which the derivatives of the neighbours are projected."""
    first, kept, carried = window.first, weights.kept, weights.carried
    last = first[rows] - 1
    for a in range(len(result)):
        field = whitened[a]
        if problem.streaks != 0.0:
            for r in range(rows):
                taken = weights.streak[r] * offsets[a, r]
                for i in range(first[r], first[r + 1]):
                    field[i] -= taken * weights.ones[i]
        if problem.rho != 0.0:
            for i in range(last):
                result[a, i] = kept[i] * field[i] - carried[i + 1] * field[i + 1]
            result[a, last] = kept[last] * field[last]
        else:
            for i in range(last + 1):
                result[a, i] = weights.scale[i] * field[i]


@compiled
def _set_shared(problem, parameters, center, c, window, rows, onto, shared):  # type: ignore[no-untyped-def]
    """The off-diagonal blocks of column c: projections of the derivatives of its neighbours onto ``C^-1 J``."""
    n, (n_parameters, total) = len(problem.coupled), onto.shape
    count = 0
    while count < problem.coupled.shape[1] and problem.coupled[c, count] < n:
        count += 1
    theirs = np.empty((count * n_parameters, total))
    for k in range(count):
        j, jacobian = problem.coupled[c, k], theirs[k * n_parameters : (k + 1) * n_parameters]
        to_neighbor(parameters, c, j, window, total)
        heights(parameters[j], window.away_y, window.away_x, total, jacobian[2])
        derivatives(parameters[j], window.away_y, window.away_x, total, jacobian)
        for i in range(total):
            jacobian[4, i] = 0.0
        for r in range(rows):
            begin, end = overlap(problem, center, j, window, r)
            for i in range(begin, end):
                jacobian[4, i] = window.share[i]
    products = np.dot(onto, theirs.T)
    for k in range(count):
        j = problem.coupled[c, k]
        for a in range(n_parameters):
            for b in range(n_parameters):
                shared[c, k, a, b] = products[a, k * n_parameters + b] * problem.free[c, a] * problem.free[j, b]
