"""The normal equations of :mod:`stemkit.columns.equations`, compiled for the CPU.

One column at a time, in double precision: its window's rows are intervals of pixels, packed one after the other. On a
GPU the same equations are batched tensors, :func:`stemkit.columns.equations.batched`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.compiled.arithmetic import (
    add_column,
    compiled,
    derivatives,
    dots,
    half_width,
)

__all__ = ["CompiledProblem", "Equations", "normal_equations"]


class CompiledProblem(NamedTuple):
    """What does not change while columns are fitted; see :class:`stemkit.columns.problem.FitProblem`.

    ``valid`` and ``scan`` have the size 0 where they are not needed. ``variance`` holds constant, slope and floor of
    the noise's variance, or nothing where it is unknown; ``rho`` and ``streaks`` are the correlation along the row and
    the standard deviation of a row's offset.
    """

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    scan: NDArray[np.float32]
    pad: int
    radius: NDArray[np.int64]
    near: NDArray[np.int64]
    coupled: NDArray[np.int64]
    free: NDArray[np.bool_]
    variance: NDArray[np.float64]
    rho: float
    streaks: float


class Equations(NamedTuple):
    """The equations of n columns of P parameters; see :class:`stemkit.columns.equations.Blocks`."""

    own: NDArray[np.float64]
    shared: NDArray[np.float64]
    gradient: NDArray[np.float64]
    chi2: NDArray[np.float64]
    pixels: NDArray[np.float64]


@compiled
def _intervals(problem, centre, c, line, left, first):  # type: ignore[no-untyped-def]
    """A column's window as intervals of pixels: the image's rows, their first pixels, and where each is stored."""
    n_y, n_x = problem.image.shape[0] - 2 * problem.pad, problem.image.shape[1] - 2 * problem.pad
    reach, y0, x0 = problem.radius[c], centre[c, 0], centre[c, 1]
    rows, total = 0, 0
    for y in range(max(0, y0 - reach), min(n_y, y0 + reach + 1)):
        half = half_width(reach, y - y0)
        begin, end = max(0, x0 - half), min(n_x, x0 + half + 1)
        if half < 0 or begin >= end:
            continue
        line[rows], left[rows], first[rows] = y, begin, total
        total += end - begin
        rows += 1
    first[rows] = total
    return rows


@compiled
def _overlap(problem, centre, j, y, begin, end):  # type: ignore[no-untyped-def]
    """The part of a row's interval that is in another column's window."""
    half = half_width(problem.radius[j], y - centre[j, 0])
    return max(centre[j, 1] - half, begin), min(centre[j, 1] + half + 1, end)


@compiled
def normal_equations(problem, parameters, centre, columns, renewed, equations, rises):  # type: ignore[no-untyped-def]
    """Fill in the normal equations of some columns.

    Parameters
    ----------
    problem : CompiledProblem
    parameters : ndarray of shape (n + 1, P)
        The last one stands for a column that is not there.
    centre : ndarray of int, shape (n + 1, 2)
        The pixels at the centres of the windows.
    columns : ndarray of int, shape (m,)
    renewed : ndarray of bool, shape (m,)
        For which of these the blocks with their neighbours are filled in; those of the others stay.
    equations : Equations
        Of all n columns; changed in place.
    rises : ndarray of shape (m, 2, P), or (0, 2, P)
        Result: ``J^T C^-1 r`` for backgrounds that rise by 1 per px along y and x.
    """
    image, scan, pad, near, coupled = problem.image, problem.scan, problem.pad, problem.near, problem.coupled
    free, variance, rho, streaks = problem.free, problem.variance, problem.rho, problem.streaks
    n, n_parameters = len(parameters) - 1, parameters.shape[1]
    widest = 0
    for c in columns:
        widest = max(widest, problem.radius[c])
    size = 2 * widest + 1
    area = size * size
    n_fields = n_parameters + 1
    n_all = n_fields + (2 if rises.shape[0] else 0)
    raw, fields = np.empty((n_all, area)), np.empty((n_all, area))
    theirs = np.empty((n_parameters, area))
    dy, dx, away_y, away_x = np.empty(area), np.empty(area), np.empty(area), np.empty(area)
    model, count, scale = np.empty(area), np.empty(area), np.empty(area)
    kept, carried, ones = np.empty(area), np.empty(area), np.empty(area)
    offsets, weight = np.empty((n_all, size)), np.empty(size)
    products = np.empty(n_all)
    first, left, line = np.empty(size + 1, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)

    for m in range(len(columns)):
        c = columns[m]
        rows = _intervals(problem, centre, c, line, left, first)
        total = first[rows]
        oy, ox = parameters[c, 0], parameters[c, 1]
        for r in range(rows):
            for i in range(first[r], first[r + 1]):
                dy[i] = line[r] - oy
                dx[i] = left[r] + i - first[r] - ox
                if scan.shape[0]:
                    dy[i] += scan[0, line[r] + pad, left[r] + i - first[r] + pad]
                    dx[i] += scan[1, line[r] + pad, left[r] + i - first[r] + pad]

        # the background of a pixel is the mean of those of the columns whose windows it is in
        for i in range(total):
            count[i] = 1.0
            model[i] = parameters[c, 4]
        for k in range(coupled.shape[1]):
            j = coupled[c, k]
            if j == n:
                break
            for r in range(rows):
                begin, end = _overlap(problem, centre, j, line[r], left[r], left[r] + first[r + 1] - first[r])
                for i in range(first[r] + begin - left[r], first[r] + end - left[r]):
                    count[i] += 1.0
                    model[i] += parameters[j, 4]
        for i in range(total):
            count[i] = 1.0 / count[i]
            model[i] *= count[i]
            raw[4, i] = count[i]

        # the column, and those near it
        derivatives(parameters[c], dy, dx, total, raw)
        for i in range(total):
            model[i] += parameters[c, 2] * raw[2, i]
        for k in range(near.shape[1]):
            j = near[c, k]
            if j == n:
                break
            for i in range(total):
                away_y[i], away_x[i] = dy[i] + oy - parameters[j, 0], dx[i] + ox - parameters[j, 1]
            add_column(parameters[j], away_y, away_x, total, model)

        # the residual, and the weights of pixels
        for r in range(rows):
            at = left[r] - first[r] + pad
            for i in range(first[r], first[r + 1]):
                raw[n_parameters, i] = image[line[r] + pad, at + i] - model[i]
        if len(variance):
            for i in range(total):
                scale[i] = 1.0 / math.sqrt(max(variance[0] + variance[1] * model[i], variance[2]))
        else:
            for i in range(total):
                scale[i] = 1.0
        used = total
        if problem.valid.shape[0]:
            for r in range(rows):
                for i in range(first[r], first[r + 1]):
                    if not problem.valid[line[r] + pad, left[r] + i - first[r] + pad]:
                        scale[i] = 0.0
                        used -= 1
        for f in range(n_fields, n_all):
            for r in range(rows):
                for i in range(first[r], first[r + 1]):
                    raw[f, i] = line[r] - oy if f == n_fields else left[r] + i - first[r] - ox

        # whitened for noise that is autoregressive along the row: z_x - rho z_(x-1)
        if rho != 0.0:
            innovation = 1.0 / math.sqrt(1.0 - rho * rho)
            for r in range(rows):
                kept[first[r]], carried[first[r]] = scale[first[r]], 0.0
                for i in range(first[r] + 1, first[r + 1]):
                    follows = scale[i] > 0.0 and scale[i - 1] > 0.0
                    kept[i] = innovation * scale[i] if follows else scale[i]
                    carried[i] = innovation * rho * scale[i - 1] if follows else 0.0
            for f in range(n_all):
                fields[f, 0] = kept[0] * raw[f, 0]
                for i in range(1, total):
                    fields[f, i] = kept[i] * raw[f, i] - carried[i] * raw[f, i - 1]
            if streaks != 0.0:
                ones[0] = kept[0]
                for i in range(1, total):
                    ones[i] = kept[i] - carried[i]
        else:
            for f in range(n_all):
                for i in range(total):
                    fields[f, i] = scale[i] * raw[f, i]
            for i in range(total):
                ones[i] = scale[i]
        # an offset of each row, of variance s^2, takes s^2 / (1 + s^2 t.t) t t^T from the inverse covariance
        if streaks != 0.0:
            for r in range(rows):
                square = 1e-30
                for i in range(first[r], first[r + 1]):
                    square += ones[i] * ones[i]
                weight[r] = streaks * streaks / (1.0 + streaks * streaks * square)
                for f in range(n_all):
                    along = 0.0
                    for i in range(first[r], first[r + 1]):
                        along += ones[i] * fields[f, i]
                    offsets[f, r] = along

        # inner products
        for b in range(n_all):
            first_field = min(b, n_parameters)
            dots(fields, 0, first_field + 1, fields[b], 0, total, products)
            for a in range(first_field + 1):
                value = products[a]
                if streaks != 0.0:
                    for r in range(rows):
                        value -= weight[r] * offsets[a, r] * offsets[b, r]
                if b < n_parameters:
                    value = value * free[c, a] * free[c, b]
                    equations.own[c, a, b] = value
                    equations.own[c, b, a] = value
                elif b > n_parameters:
                    if a < n_parameters:
                        rises[m, b - n_fields, a] = value * free[c, a]
                elif a < n_parameters:
                    equations.gradient[c, a] = value * free[c, a]
                else:
                    equations.chi2[c] = value
        equations.pixels[c] = used
        if not renewed[m] or coupled.shape[1] == 0 or coupled[c, 0] == n:
            continue

        # C^-1 J, onto which the derivatives of the neighbours are projected
        for a in range(n_parameters):
            if streaks != 0.0:
                for r in range(rows):
                    taken = weight[r] * offsets[a, r]
                    for i in range(first[r], first[r + 1]):
                        fields[a, i] -= taken * ones[i]
            if rho != 0.0:
                for i in range(total - 1):
                    raw[a, i] = kept[i] * fields[a, i] - carried[i + 1] * fields[a, i + 1]
                raw[a, total - 1] = kept[total - 1] * fields[a, total - 1]
            else:
                for i in range(total):
                    raw[a, i] = scale[i] * fields[a, i]
        for k in range(coupled.shape[1]):
            j = coupled[c, k]
            if j == n:
                break
            for i in range(total):
                away_y[i], away_x[i] = dy[i] + oy - parameters[j, 0], dx[i] + ox - parameters[j, 1]
                theirs[4, i] = 0.0
            derivatives(parameters[j], away_y, away_x, total, theirs)
            for r in range(rows):
                begin, end = _overlap(problem, centre, j, line[r], left[r], left[r] + first[r + 1] - first[r])
                for i in range(first[r] + begin - left[r], first[r] + end - left[r]):
                    theirs[4, i] = count[i]
            for b in range(n_parameters):
                dots(raw, 0, n_parameters, theirs[b], 0, total, products)
                for a in range(n_parameters):
                    equations.shared[c, k, a, b] = products[a] * free[c, a] * free[j, b]
