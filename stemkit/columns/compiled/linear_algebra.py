"""Linear algebra of the normal equations of overlapping columns, compiled for the CPU."""

from __future__ import annotations

import math

import numpy as np

from stemkit.compilation import compiled

__all__ = ["covariance_blocks", "invert", "solve_coupled"]


@compiled
def _cholesky(matrix, n):  # type: ignore[no-untyped-def]
    """Replace the lower triangle of a matrix, its first n rows, by its Cholesky factor; False if there is none."""
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
    """Write the inverse of a matrix ``(P, P)`` to ``result``; False, and zeros, if it is not positive definite."""
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
        Diagonal blocks, scaled to a diagonal of 1.
    shared : ndarray of shape (n, k, P, P)
    coupled : ndarray of shape (n, k)
        Indices of the neighbours, padded with n.
    columns : ndarray of int, shape (m,)
    joint : int
        Largest number of neighbours whose parameters are free; those of the others are fixed.
    result : ndarray of shape (m, P, P)
        If the joint matrix is not positive definite, the covariance with all neighbours fixed; NaN if that does not
        exist either.
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
def _inner_product(one, other):  # type: ignore[no-untyped-def]
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
    """Solution ``(n, P)`` by stabilised biconjugate gradients with the inverse diagonal blocks as preconditioner.

    The reference is that of :func:`stemkit.columns.solving.damped_step`; the symbols are those of the paper.

    Parameters
    ----------
    own, inverse : ndarray of shape (n, P, P)
        Diagonal blocks, and their inverses.
    shared : ndarray of shape (n, k, P, P)
        Off-diagonal blocks.
    coupled : ndarray of shape (n, k)
        Indices of the coupled columns, padded with n.
    gradient : ndarray of shape (n, P)
    cycles : int
        Largest number of iterations.
    tolerance : float
        Norm of the residual at convergence, relative to that of the gradient.
    """
    solution, residual, shadow = np.zeros_like(gradient), gradient.copy(), gradient.copy()
    direction, direction_hat, v = gradient.copy(), np.empty_like(gradient), np.empty_like(gradient)
    residual_hat, t = np.empty_like(gradient), np.empty_like(gradient)
    rho = _inner_product(residual, shadow)
    start = rho
    for _ in range(cycles):
        if not _inner_product(residual, residual) > tolerance**2 * start:
            break
        _block_product(inverse, direction, direction_hat)
        _product(own, shared, coupled, direction_hat, v)
        alpha = rho / _inner_product(v, shadow)
        _add(residual, -alpha, v)
        _block_product(inverse, residual, residual_hat)
        _product(own, shared, coupled, residual_hat, t)
        omega = _inner_product(t, residual) / max(_inner_product(t, t), 1e-300)
        _add(solution, alpha, direction_hat)
        _add(solution, omega, residual_hat)
        _add(residual, -omega, t)
        rho_before = rho
        rho = _inner_product(residual, shadow)
        beta = (rho / rho_before) * (alpha / omega)
        for i in range(len(residual)):
            for a in range(residual.shape[1]):
                direction[i, a] = residual[i, a] + beta * (direction[i, a] - omega * v[i, a])
    return solution
