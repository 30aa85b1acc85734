"""The normal equations of :mod:`stemkit.columns.equations`, compiled for the CPU.

One column at a time, in double precision: its window's rows are intervals of pixels, which are packed one after the
other. On a GPU the same equations are batched tensors, :func:`stemkit.columns.equations.equations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

__all__ = ["add_columns", "normal_equations", "solve_coupled"]

#: Parameters of a round column, in the order of :data:`stemkit.columns.gaussians.ROUND`.
N_ROUND = 5
#: An interval's exponential is that of its 64th part, a Taylor polynomial, squared six times.
FOLDS, PART = 6, 1.0 / 64.0
#: Exponents below this are zero to double precision of the sum they are in.
SMALLEST_EXPONENT = -50.0
#: Numerical liberties: sums in any order, no signed zeros. NaN and inf keep their meaning.
FAST = {"contract", "reassoc", "nsz", "arcp"}


def _compiled(function: Callable) -> Any:
    """Compile a function at its first call, and keep the result on disk where that can be written."""
    try:
        return njit(cache=True, fastmath=FAST, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # there is no folder for the cache
        return njit(fastmath=FAST, nogil=True, error_model="numpy")(function)


@_compiled
def _exp(exponent):  # type: ignore[no-untyped-def]
    """``exp`` of a number that is not positive, in arithmetic that vectorises; its error is below 1e-11."""
    t = max(exponent, SMALLEST_EXPONENT) * PART
    value = 1.0 + t * (1.0 + t / 2.0 * (1.0 + t / 3.0 * (1.0 + t / 4.0 * (1.0 + t / 5.0 * (1.0 + t / 6.0)))))
    for _ in range(FOLDS):
        value *= value
    return value


@_compiled
def _gaussian_along(offset, n, sigma, values):  # type: ignore[no-untyped-def]
    """A Gaussian of height 1 at n pixels ``-offset, 1 - offset, ...`` from its centre."""
    inverse = -0.5 / (sigma * sigma)
    for i in range(n):
        values[i] = math.exp(inverse * (i - offset) * (i - offset))


@_compiled
def _derivatives(parameters, dy, dx, n, values):  # type: ignore[no-untyped-def]
    """Derivatives of a column by its parameters but the background, ``(P, n)``, at distances ``(n,)`` from it."""
    amplitude, sigma = parameters[2], parameters[3]
    inverse = 1.0 / (sigma * sigma)
    if len(parameters) == N_ROUND:
        for i in range(n):
            squared = inverse * (dy[i] * dy[i] + dx[i] * dx[i])
            height = _exp(-0.5 * squared)
            column = amplitude * height
            values[0, i] = column * inverse * dy[i]
            values[1, i] = column * inverse * dx[i]
            values[2, i] = height
            values[3, i] = column * squared / sigma
        return
    e1, e2 = parameters[5], parameters[6]
    inverse = inverse / (1.0 - e1 * e1 - e2 * e2)
    for i in range(n):
        u_y = inverse * ((1.0 - e1) * dy[i] - e2 * dx[i])
        u_x = inverse * ((1.0 + e1) * dx[i] - e2 * dy[i])
        squared = u_y * dy[i] + u_x * dx[i]
        height = _exp(-0.5 * squared)
        column = amplitude * height
        values[0, i] = column * u_y
        values[1, i] = column * u_x
        values[2, i] = height
        values[3, i] = column * squared / sigma
        values[5, i] = 0.5 * sigma * sigma * column * (u_y * u_y - u_x * u_x)
        values[6, i] = sigma * sigma * column * u_y * u_x


@_compiled
def _add_column(parameters, dy, dx, n, total):  # type: ignore[no-untyped-def]
    """Add a column without its background at distances ``(n,)``."""
    amplitude, sigma = parameters[2], parameters[3]
    if len(parameters) == N_ROUND:
        inverse = -0.5 / (sigma * sigma)
        for i in range(n):
            total[i] += amplitude * _exp(inverse * (dy[i] * dy[i] + dx[i] * dx[i]))
        return
    e1, e2 = parameters[5], parameters[6]
    inverse = -0.5 / (sigma * sigma * (1.0 - e1 * e1 - e2 * e2))
    for i in range(n):
        square = (1.0 - e1) * dy[i] * dy[i] + (1.0 + e1) * dx[i] * dx[i] - 2.0 * e2 * dy[i] * dx[i]
        total[i] += amplitude * _exp(inverse * square)


@_compiled
def _half_width(radius, dy):  # type: ignore[no-untyped-def]
    """Pixels to either side of a disk's middle at a distance along y; -1 where there are none."""
    rest = (radius + 0.5) ** 2 - dy * dy
    return int(math.sqrt(rest)) if rest >= 0 else -1


@_compiled
def _whiten(field, first, scale, gain, carry, row, removed):  # type: ignore[no-untyped-def]
    """``C^-1/2`` on a field ``(n_pixels,)``, in place; see :class:`stemkit.columns.equations._Whitening`.

    ``first`` are the places where rows begin; ``gain`` and ``carry`` belong to the correlation along the row, ``row``
    and ``removed`` to the streaks; those that are not needed have the length 0.
    """
    n = first[len(first) - 1]
    for i in range(n):
        field[i] *= scale[i]
    if len(gain):
        # from the last pixel on: each needs the one before as it was
        for i in range(n - 1, 0, -1):
            field[i] = gain[i] * (field[i] - carry[i] * field[i - 1])
    if len(row):
        _without_row_offsets(field, first, row, removed)


@_compiled
def _whiten_adjoint(field, first, scale, gain, carry, row, removed):  # type: ignore[no-untyped-def]
    """The transpose of :func:`_whiten`."""
    n = first[len(first) - 1]
    if len(row):
        _without_row_offsets(field, first, row, removed)
    if len(gain):
        for i in range(n - 1):
            field[i] = gain[i] * field[i] - carry[i + 1] * gain[i + 1] * field[i + 1]
        field[n - 1] *= gain[n - 1]
    for i in range(n):
        field[i] *= scale[i]


@_compiled
def _without_row_offsets(field, first, row, removed):  # type: ignore[no-untyped-def]
    for r in range(len(first) - 1):
        dot = 0.0
        for i in range(first[r], first[r + 1]):
            dot += row[i] * field[i]
        dot *= removed[r]
        for i in range(first[r], first[r + 1]):
            field[i] -= dot * row[i]


@_compiled
def _dot(a, b, n):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(n):
        total += a[i] * b[i]
    return total


@_compiled
def add_columns(image, parameters, scan, reach):  # type: ignore[no-untyped-def]
    """Add columns without their backgrounds to an image, each drawn within ``reach`` px of its centre.

    Parameters
    ----------
    image : ndarray of shape (n_y, n_x)
        Changed in place.
    parameters : ndarray of shape (n, P)
    scan : ndarray of shape (2, n_y, n_x), or (0, 0, 0)
        Displacement of the beam, px; none where it is empty.
    reach : int
    """
    n_y, n_x = image.shape
    size = 2 * reach + 1
    dy, dx, across = np.empty(size), np.empty(size), np.empty(size)
    separable = scan.shape[0] == 0 and parameters.shape[1] == N_ROUND
    for c in range(len(parameters)):
        column = parameters[c]
        y0, x0 = round(column[0]), round(column[1])
        if separable:
            _gaussian_along(column[1] - (x0 - reach), size, column[3], across)
        for y in range(max(0, y0 - reach), min(n_y, y0 + reach + 1)):
            half = _half_width(reach, y - y0)
            begin, end = max(0, x0 - half), min(n_x, x0 + half + 1)
            if half < 0 or begin >= end:
                continue
            if separable:
                height = column[2] * math.exp(-0.5 * ((y - column[0]) / column[3]) ** 2)
                for x in range(begin, end):
                    image[y, x] += height * across[x - (x0 - reach)]
                continue
            for x in range(begin, end):
                dy[x - begin], dx[x - begin] = y - column[0], x - column[1]
            if scan.shape[0]:
                for x in range(begin, end):
                    dy[x - begin] += scan[0, y, x]
                    dx[x - begin] += scan[1, y, x]
            _add_column(column, dy, dx, end - begin, image[y, begin:end])


@_compiled
def normal_equations(  # type: ignore[no-untyped-def]
    image, valid, scan, pad, parameters, centre, radius, near, coupled, free,
    variance, rho, streaks, columns, own, shared, gradient, chi2, pixels, rises,
):  # fmt: skip
    """Fill in the normal equations of some columns.

    Parameters
    ----------
    image : ndarray of shape (n_y + 2 pad, n_x + 2 pad)
    valid : ndarray of bool, of the same shape, or of shape (0, 0)
        Pixels that count; all of them where it is empty.
    scan : ndarray of shape (2, n_y + 2 pad, n_x + 2 pad), or (0, 0, 0)
        Displacement of the beam, px; none where it is empty.
    pad : int
    parameters, centre, radius, near, coupled, free
        See :class:`stemkit.columns.equations.Scene`.
    variance : ndarray of shape (3,), or (0,)
        Constant, slope and floor of the noise's variance; unknown where it is empty.
    rho, streaks : float
        Correlation along the row, standard deviation of a row's offset.
    columns : ndarray of shape (m,)
    own, shared, gradient, chi2, pixels : ndarray
        Results, see :class:`stemkit.columns.equations.Blocks`; no ``shared`` where it has no rows.
    rises : ndarray of shape (m, 2, P), or (0, 2, P)
        Result: ``J^T C^-1 r`` for backgrounds that rise by 1 per px along y and x.
    """
    n, n_parameters = len(parameters) - 1, parameters.shape[1]
    n_y, n_x = image.shape[0] - 2 * pad, image.shape[1] - 2 * pad
    separable = scan.shape[0] == 0 and n_parameters == N_ROUND
    widest = 0
    for c in columns:
        widest = max(widest, radius[c])
    size = 2 * widest + 1
    n_fields = n_parameters + 1
    n_extra = 2 if rises.shape[0] else 0
    fields = np.empty((n_fields + n_extra, size * size))
    adjoint = np.empty((n_parameters, size * size))
    theirs = np.empty((n_parameters, size * size))
    dy, dx = np.empty(size * size), np.empty(size * size)
    away_y, away_x = np.empty(size * size), np.empty(size * size)
    model, count, level, scale = np.empty(size * size), np.empty(size * size), np.empty(size * size), np.empty(size**2)
    gain, carry = np.empty(size * size if rho != 0.0 else 0), np.empty(size * size if rho != 0.0 else 0)
    row, removed = np.empty(size * size if streaks != 0.0 else 0), np.empty(size if streaks != 0.0 else 0)
    across = np.empty(size)
    first, left, line = np.empty(size + 1, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)

    for m in range(len(columns)):
        c = columns[m]
        reach = radius[c]
        y0, x0 = centre[c, 0], centre[c, 1]
        # the window's rows as intervals of pixels in the image
        rows, total = 0, 0
        for y in range(max(0, y0 - reach), min(n_y, y0 + reach + 1)):
            half = _half_width(reach, y - y0)
            begin, end = max(0, x0 - half), min(n_x, x0 + half + 1)
            if half < 0 or begin >= end:
                continue
            line[rows], left[rows], first[rows] = y, begin, total
            total += end - begin
            rows += 1
        first[rows] = total
        starts = first[: rows + 1]

        # distances from the column and from the window's middle, the column's share in the background
        oy, ox = parameters[c, 0], parameters[c, 1]
        for r in range(rows):
            for i in range(first[r], first[r + 1]):
                dy[i] = line[r] - oy
                dx[i] = left[r] + i - first[r] - ox
                model[i] = 0.0
                count[i] = 1.0
                level[i] = parameters[c, 4]
        if scan.shape[0]:
            for r in range(rows):
                for i in range(first[r], first[r + 1]):
                    dy[i] += scan[0, line[r] + pad, left[r] + i - first[r] + pad]
                    dx[i] += scan[1, line[r] + pad, left[r] + i - first[r] + pad]

        # the backgrounds of overlapping columns share a pixel
        for k in range(coupled.shape[1]):
            j = coupled[c, k]
            if j == n:
                break
            for r in range(rows):
                half = _half_width(radius[j], line[r] - centre[j, 0])
                begin = max(centre[j, 1] - half, left[r])
                end = min(centre[j, 1] + half + 1, left[r] + first[r + 1] - first[r])
                for i in range(first[r] + begin - left[r], first[r] + end - left[r]):
                    count[i] += 1.0
                    level[i] += parameters[j, 4]
        for i in range(total):
            count[i] = 1.0 / count[i]
            fields[4, i] = count[i]

        # the column, and those near it
        if separable:
            sigma, amplitude = parameters[c, 3], parameters[c, 2]
            inverse = 1.0 / (sigma * sigma)
            _gaussian_along(ox - (x0 - reach), 2 * reach + 1, sigma, across)
            for r in range(rows):
                height_y = math.exp(-0.5 * inverse * (line[r] - oy) ** 2)
                shift = left[r] - (x0 - reach) - first[r]
                for i in range(first[r], first[r + 1]):
                    height = height_y * across[i + shift]
                    column = amplitude * height
                    fields[0, i] = column * inverse * dy[i]
                    fields[1, i] = column * inverse * dx[i]
                    fields[2, i] = height
                    fields[3, i] = column * inverse * (dy[i] * dy[i] + dx[i] * dx[i]) / sigma
                    model[i] += column
            for k in range(near.shape[1]):
                j = near[c, k]
                if j == n:
                    break
                _gaussian_along(parameters[j, 1] - (x0 - reach), 2 * reach + 1, parameters[j, 3], across)
                inverse = -0.5 / (parameters[j, 3] * parameters[j, 3])
                for r in range(rows):
                    height = parameters[j, 2] * math.exp(inverse * (line[r] - parameters[j, 0]) ** 2)
                    shift = left[r] - (x0 - reach) - first[r]
                    for i in range(first[r], first[r + 1]):
                        model[i] += height * across[i + shift]
        else:
            _derivatives(parameters[c], dy, dx, total, fields)
            for i in range(total):
                model[i] += parameters[c, 2] * fields[2, i]
            for k in range(near.shape[1]):
                j = near[c, k]
                if j == n:
                    break
                ry, rx = oy - parameters[j, 0], ox - parameters[j, 1]
                for i in range(total):
                    away_y[i], away_x[i] = dy[i] + ry, dx[i] + rx
                _add_column(parameters[j], away_y, away_x, total, model)

        # the residual, and what whitens it
        for r in range(rows):
            for i in range(first[r], first[r + 1]):
                model[i] += level[i] * count[i]
                fields[n_parameters, i] = image[line[r] + pad, left[r] + i - first[r] + pad] - model[i]
        if len(variance):
            for i in range(total):
                scale[i] = 1.0 / math.sqrt(max(variance[0] + variance[1] * model[i], variance[2]))
        else:
            scale[:total] = 1.0
        used = total
        if valid.shape[0]:
            for r in range(rows):
                for i in range(first[r], first[r + 1]):
                    if not valid[line[r] + pad, left[r] + i - first[r] + pad]:
                        scale[i] = 0.0
                        used -= 1
        if rho != 0.0:
            innovation = 1.0 / math.sqrt(1.0 - rho * rho)
            for r in range(rows):
                for i in range(first[r], first[r + 1]):
                    follows = i > first[r] and scale[i] > 0.0 and scale[i - 1] > 0.0
                    gain[i] = innovation if follows else 1.0
                    carry[i] = rho if follows else 0.0
        if streaks != 0.0:
            for i in range(total):
                row[i] = scale[i]
            if rho != 0.0:
                for i in range(total - 1, 0, -1):
                    row[i] = gain[i] * (row[i] - carry[i] * row[i - 1])
            for r in range(rows):
                square = 1e-30
                for i in range(first[r], first[r + 1]):
                    square += row[i] * row[i]
                removed[r] = (1.0 - 1.0 / math.sqrt(1.0 + streaks * streaks * square)) / square
        if n_extra:
            for r in range(rows):
                for i in range(first[r], first[r + 1]):
                    fields[n_fields, i] = line[r] - oy
                    fields[n_fields + 1, i] = left[r] + i - first[r] - ox
        for f in range(n_fields + n_extra):
            _whiten(fields[f], starts, scale, gain, carry, row, removed)

        # inner products
        residual = fields[n_parameters]
        for a in range(n_parameters):
            for b in range(a, n_parameters):
                value = _dot(fields[a], fields[b], total) * free[c, a] * free[c, b]
                own[m, a, b] = value
                own[m, b, a] = value
            gradient[m, a] = _dot(fields[a], residual, total) * free[c, a]
            for extra in range(n_extra):
                rises[m, extra, a] = _dot(fields[a], fields[n_fields + extra], total) * free[c, a]
        chi2[m] = _dot(residual, residual, total)
        pixels[m] = used
        if shared.shape[0] == 0:
            continue
        for a in range(n_parameters):
            adjoint[a, :total] = fields[a, :total]
            _whiten_adjoint(adjoint[a], starts, scale, gain, carry, row, removed)
        for k in range(coupled.shape[1]):
            j = coupled[c, k]
            if j == n:
                shared[m, k] = 0.0
                continue
            ry, rx = oy - parameters[j, 0], ox - parameters[j, 1]
            for i in range(total):
                away_y[i], away_x[i] = dy[i] + ry, dx[i] + rx
                theirs[4, i] = 0.0
            _derivatives(parameters[j], away_y, away_x, total, theirs)
            for r in range(rows):
                half = _half_width(radius[j], line[r] - centre[j, 0])
                begin = max(centre[j, 1] - half, left[r])
                end = min(centre[j, 1] + half + 1, left[r] + first[r + 1] - first[r])
                for i in range(first[r] + begin - left[r], first[r] + end - left[r]):
                    theirs[4, i] = count[i]
            for a in range(n_parameters):
                for b in range(n_parameters):
                    shared[m, k, a, b] = _dot(adjoint[a], theirs[b], total) * free[c, a] * free[j, b]


@_compiled
def _product(own, shared, coupled, vector, result):  # type: ignore[no-untyped-def]
    """The matrix of :func:`solve_coupled` times a vector ``(n, P)``."""
    n, n_parameters = vector.shape
    for c in range(n):
        for a in range(n_parameters):
            total = 0.0
            for b in range(n_parameters):
                total += own[c, a, b] * vector[c, b]
            result[c, a] = total
        for k in range(coupled.shape[1]):
            j = coupled[c, k]
            if j == n:
                continue
            for a in range(n_parameters):
                total = 0.0
                for b in range(n_parameters):
                    total += shared[c, k, a, b] * vector[j, b]
                result[c, a] += total


@_compiled
def _block_product(blocks, vector, result):  # type: ignore[no-untyped-def]
    n, n_parameters = vector.shape
    for c in range(n):
        for a in range(n_parameters):
            total = 0.0
            for b in range(n_parameters):
                total += blocks[c, a, b] * vector[c, b]
            result[c, a] = total


@_compiled
def solve_coupled(own, shared, coupled, inverse, gradient, cycles, tolerance):  # type: ignore[no-untyped-def]
    """Stabilised biconjugate gradients with the columns' own blocks as preconditioner, ``(n, P)``.

    Parameters
    ----------
    own, inverse : ndarray of shape (n, P, P)
        Blocks on the diagonal, and their inverses.
    shared : ndarray of shape (n, k, P, P)
        Blocks of coupled columns.
    coupled : ndarray of shape (n, k)
        Which these are, filled up with n.
    gradient : ndarray of shape (n, P)
    cycles : int
        At most.
    tolerance : float
        Of the residual's norm, in that of the gradient.
    """
    solution = np.zeros_like(gradient)
    rest = gradient.copy()
    shadow, direction = gradient.copy(), gradient.copy()
    ready, along, smoothed, across = (
        np.empty_like(rest), np.empty_like(rest), np.empty_like(rest), np.empty_like(rest)
    )  # fmt: skip
    size = np.sum(rest * shadow)
    start = size
    for _ in range(cycles):
        if not np.sum(rest * rest) > tolerance**2 * start:
            break
        _block_product(inverse, direction, ready)
        _product(own, shared, coupled, ready, along)
        length = size / np.sum(along * shadow)
        rest -= length * along
        _block_product(inverse, rest, smoothed)
        _product(own, shared, coupled, smoothed, across)
        weight = np.sum(across * rest) / max(np.sum(across * across), 1e-300)
        solution += length * ready + weight * smoothed
        rest -= weight * across
        before = size
        size = np.sum(rest * shadow)
        direction = rest + (size / before) * (length / weight) * (direction - weight * along)
    return solution
