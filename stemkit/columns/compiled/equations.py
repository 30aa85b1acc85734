"""The normal equations of :mod:`stemkit.columns.equations`, compiled for the CPU.

One column at a time, in double precision; the pixels of its window are stored row after row in one-dimensional arrays.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemkit.columns.compiled.gaussians import (
    add_column,
    compiled,
    derivatives,
    dots,
    half_width,
)

__all__ = ["EquationArrays", "ProblemArrays", "normal_equations"]


class ProblemArrays(NamedTuple):
    """The arrays of a :class:`stemkit.columns.problem.FitProblem`.

    ``weight`` and ``scan`` are empty where they are None there. ``variance`` contains constant, slope and floor of the
    noise's variance and is empty where this is unknown; ``rho`` and ``streaks`` are the correlation along the row and
    the standard deviation of the offset of a row.
    """

    image: NDArray[np.float32]
    weight: NDArray[np.float32]
    scan: NDArray[np.float32]
    pad: int
    radius: NDArray[np.int64]
    near: NDArray[np.int64]
    coupled: NDArray[np.int64]
    free: NDArray[np.bool_]
    variance: NDArray[np.float64]
    rho: float
    streaks: float


class EquationArrays(NamedTuple):
    """The normal equations of n columns; see :class:`stemkit.columns.equations.NormalEquations`."""

    own: NDArray[np.float64]
    shared: NDArray[np.float64]
    gradient: NDArray[np.float64]
    chi2: NDArray[np.float64]
    pixels: NDArray[np.float64]


@compiled
def _intervals(problem, center, c, line, left, first):  # type: ignore[no-untyped-def]
    """Rows of a column's window: row of the image, first pixel of it, and index of that pixel in the packed arrays."""
    n_y, n_x = problem.image.shape[0] - 2 * problem.pad, problem.image.shape[1] - 2 * problem.pad
    reach, y0, x0 = problem.radius[c], center[c, 0], center[c, 1]
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
def _overlap(problem, center, j, y, begin, end):  # type: ignore[no-untyped-def]
    """The pixels from ``begin`` to ``end`` of row y that are in the window of column j as well."""
    half = half_width(problem.radius[j], y - center[j, 0])
    return max(center[j, 1] - half, begin), min(center[j, 1] + half + 1, end)


@compiled
def normal_equations(problem, parameters, center, columns, with_shared, equations, ramps):  # type: ignore[no-untyped-def]
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
    ramps : ndarray of shape (m, 2, P), or (0, 2, P)
        Result: ``J^T C^-1 r`` for backgrounds r with a slope of 1 per px along y and x; not computed if empty.
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
    n_all = n_fields + (2 if ramps.shape[0] else 0)
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
        rows = _intervals(problem, center, c, line, left, first)
        total = first[rows]
        oy, ox = parameters[c, 0], parameters[c, 1]
        for r in range(rows):
            for i in range(first[r], first[r + 1]):
                dy[i] = line[r] - oy
                dx[i] = left[r] + i - first[r] - ox
                if scan.shape[0]:
                    dy[i] += scan[0, line[r] + pad, left[r] + i - first[r] + pad]
                    dx[i] += scan[1, line[r] + pad, left[r] + i - first[r] + pad]

        # the background of a pixel is the mean of the backgrounds of the columns whose windows contain it
        for i in range(total):
            count[i] = 1.0
            model[i] = parameters[c, 4]
        for k in range(coupled.shape[1]):
            j = coupled[c, k]
            if j == n:
                break
            for r in range(rows):
                begin, end = _overlap(problem, center, j, line[r], left[r], left[r] + first[r + 1] - first[r])
                for i in range(first[r] + begin - left[r], first[r] + end - left[r]):
                    count[i] += 1.0
                    model[i] += parameters[j, 4]
        for i in range(total):
            count[i] = 1.0 / count[i]
            model[i] *= count[i]
            raw[4, i] = count[i]

        # derivatives of the column; the model of it and of the columns nearby
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

        # residual and weights of the pixels
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
        if problem.weight.shape[0]:
            for r in range(rows):
                for i in range(first[r], first[r + 1]):
                    root = math.sqrt(problem.weight[line[r] + pad, left[r] + i - first[r] + pad])
                    scale[i] *= root
                    if root == 0.0:
                        used -= 1
        for f in range(n_fields, n_all):
            for r in range(rows):
                for i in range(first[r], first[r + 1]):
                    raw[f, i] = line[r] - oy if f == n_fields else left[r] + i - first[r] - ox

        # whitening of noise that is autoregressive along the row: z_x - rho z_(x-1)
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
        # streaks of variance s^2 reduce the inverse covariance by s^2 / (1 + s^2 t.t) t t^T, t: a whitened row of ones
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
                        ramps[m, b - n_fields, a] = value * free[c, a]
                elif a < n_parameters:
                    equations.gradient[c, a] = value * free[c, a]
                else:
                    equations.chi2[c] = value
        equations.pixels[c] = used
        if not with_shared[m] or coupled.shape[1] == 0 or coupled[c, 0] == n:
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
                begin, end = _overlap(problem, center, j, line[r], left[r], left[r] + first[r + 1] - first[r])
                for i in range(first[r] + begin - left[r], first[r] + end - left[r]):
                    theirs[4, i] = count[i]
            for b in range(n_parameters):
                dots(raw, 0, n_parameters, theirs[b], 0, total, products)
                for a in range(n_parameters):
                    equations.shared[c, k, a, b] = products[a] * free[c, a] * free[j, b]
