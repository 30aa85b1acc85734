"""Solving the normal equations of columns that overlap, compiled for the CPU."""

from __future__ import annotations

import math

import numpy as np

from stemkit.columns.compiled.arithmetic import compiled

__all__ = ["covariance_blocks", "invert", "solve_coupled"]


@compiled
def _cholesky(matrix, n):  # type: ignore[no-untyped-def]
    """Replace the lower triangle of a matrix, its first n rows, by its Cholesky factor; False where there is none."""
    for i in range(n):
        for j in range(i + 1):
            value = matrix[i, j]
            for k in range(j):
                value -= matrix[i, k] * matrix[j, k]
            if i > j:
                matrix[i, j] = value / matrix[j, j]
            elif value > 0.0:
                matrix[i, i] = math.sqrt(value)
            else:  # NaN, too
                return False
    return True


@compiled
def invert(matrix, work, result):  # type: ignore[no-untyped-def]
    """The inverse of a positive definite matrix ``(P, P)``; 0 where it is none, and whether it is one."""
    n = len(matrix)
    for i in range(n):
        for j in range(n):
            work[i, j], result[i, j] = matrix[i, j], 0.0
    if not _cholesky(work, n):
        return False
    for j in range(n):
        # the column of the factor's inverse, then of the product with its transpose
        for i in range(n):
            value = 1.0 if i == j else 0.0
            for k in range(i):
                value -= work[i, k] * result[k, j]
            result[i, j] = value / work[i, i]
        for i in range(n - 1, -1, -1):
            value = result[i, j]
            for k in range(i + 1, n):
                value -= work[k, i] * result[k, j]
            result[i, j] = value / work[i, i]
    return True


@compiled
def covariance_blocks(own, shared, coupled, columns, joint, result):  # type: ignore[no-untyped-def]
    """Covariances of the parameters of m columns, with their nearest coupled neighbours free as well.

    Parameters
    ----------
    own : ndarray of shape (n, P, P)
        With a diagonal of 1.
    shared : ndarray of shape (n, k, P, P)
    coupled : ndarray of shape (n, k)
        Neighbours, filled up with n.
    columns : ndarray of int, shape (m,)
    joint : int
        Neighbours that are free at most.
    result : ndarray of shape (m, P, P)
        NaN where there is none. Where the matrix of a column with its neighbours is not positive definite, that of
        the column by itself.
    """
    n, n_parameters = own.shape[0], own.shape[1]
    most = min(joint, coupled.shape[1])
    size = (1 + most) * n_parameters
    matrix, right = np.empty((size, size)), np.empty((n_parameters, size))
    nodes = np.empty(1 + most, np.int64)
    work, inverse = np.empty((n_parameters, n_parameters)), np.empty((n_parameters, n_parameters))
    for m in range(len(columns)):
        c = columns[m]
        nodes[0], count = c, 1
        for k in range(most):
            if coupled[c, k] == n:
                break
            nodes[count] = coupled[c, k]
            count += 1
        done = False
        if count > 1:
            # the column last, so that its block of the inverse is that of the factor's last rows
            used = count * n_parameters
            for i in range(used):
                for j in range(used):
                    matrix[i, j] = 0.0
            for i in range(count):
                at = (count - 1 - i) * n_parameters
                for a in range(n_parameters):
                    for b in range(n_parameters):
                        matrix[at + a, at + b] += own[nodes[i], a, b]
                for k in range(most):
                    other = coupled[nodes[i], k]
                    if other == n:
                        break
                    for j in range(count):
                        if nodes[j] == other:
                            to = (count - 1 - j) * n_parameters
                            for a in range(n_parameters):
                                for b in range(n_parameters):
                                    half = 0.5 * shared[nodes[i], k, a, b]
                                    matrix[at + a, to + b] += half
                                    matrix[to + b, at + a] += half
            if _cholesky(matrix, used):
                # the last block of L^-T L^-1 is that of the last block of L alone
                at = used - n_parameters
                for j in range(n_parameters):
                    for i in range(n_parameters):
                        value = 1.0 if i == j else 0.0
                        for k in range(i):
                            value -= matrix[at + i, at + k] * right[k, j]
                        right[i, j] = value / matrix[at + i, at + i]
                for a in range(n_parameters):
                    for b in range(n_parameters):
                        value = 0.0
                        for i in range(n_parameters):
                            value += right[i, a] * right[i, b]
                        result[m, a, b] = value
                done = True
        if not done:
            good = invert(own[c], work, inverse)
            for a in range(n_parameters):
                for b in range(n_parameters):
                    result[m, a, b] = inverse[a, b] if good else math.nan


@compiled
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


@compiled
def _block_product(blocks, vector, result):  # type: ignore[no-untyped-def]
    n, n_parameters = vector.shape
    for c in range(n):
        for a in range(n_parameters):
            total = 0.0
            for b in range(n_parameters):
                total += blocks[c, a, b] * vector[c, b]
            result[c, a] = total


@compiled
def _inner(one, other):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(one.shape[0]):
        for a in range(one.shape[1]):
            total += one[i, a] * other[i, a]
    return total


@compiled
def _add(total, factor, more):  # type: ignore[no-untyped-def]
    for i in range(total.shape[0]):
        for a in range(total.shape[1]):
            total[i, a] += factor * more[i, a]


@compiled
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
    solution, rest, shadow = np.zeros_like(gradient), gradient.copy(), gradient.copy()
    direction, ready, along = gradient.copy(), np.empty_like(gradient), np.empty_like(gradient)
    smoothed, across = np.empty_like(gradient), np.empty_like(gradient)
    size = _inner(rest, shadow)
    start = size
    for _ in range(cycles):
        if not _inner(rest, rest) > tolerance**2 * start:
            break
        _block_product(inverse, direction, ready)
        _product(own, shared, coupled, ready, along)
        length = size / _inner(along, shadow)
        _add(rest, -length, along)
        _block_product(inverse, rest, smoothed)
        _product(own, shared, coupled, smoothed, across)
        weight = _inner(across, rest) / max(_inner(across, across), 1e-300)
        _add(solution, length, ready)
        _add(solution, weight, smoothed)
        _add(rest, -weight, across)
        before = size
        size = _inner(rest, shadow)
        factor = (size / before) * (length / weight)
        for i in range(len(rest)):
            for a in range(rest.shape[1]):
                direction[i, a] = rest[i, a] + factor * (direction[i, a] - weight * along[i, a])
    return solution
