"""Gaussian columns at pixels: values and derivatives, compiled for the CPU."""

from __future__ import annotations

import math

import numpy as np

from stemkit.compilation import compiled

__all__ = [
    "N_ROUND",
    "add_column",
    "add_columns",
    "add_radial_profiles",
    "derivatives",
    "exponentials",
    "gaussian_along",
    "half_width",
    "heights",
]

#: Parameters of a round column, in the order of :data:`stemkit.columns.gaussians.ROUND`.
N_ROUND = 5
#: Number of squarings in the exponential: that of 1/64 of the exponent, a Taylor polynomial, is squared six times.
N_SQUARINGS = 6
#: Fraction of the exponent that the polynomial is evaluated at (derived from the number of squarings).
FRACTION = 1.0 / 2**N_SQUARINGS
#: Exponents are not below this (chosen: exp(-50) = 2e-22 does not change a sum of order 1 in double precision).
SMALLEST_EXPONENT = -50.0


@compiled
def _exp(exponent):  # type: ignore[no-untyped-def]
    """``exp`` of a number that is not positive, to 1e-11, without branches: loops over it are vectorised."""
    t = max(exponent, SMALLEST_EXPONENT) * FRACTION
    value = 1.0 + t * (1.0 + t / 2.0 * (1.0 + t / 3.0 * (1.0 + t / 4.0 * (1.0 + t / 5.0 * (1.0 + t / 6.0)))))
    for _ in range(N_SQUARINGS):
        value *= value
    return value


@compiled
def exponentials(exponents):  # type: ignore[no-untyped-def]
    """Replace exponents ``(n,)``, which are not positive, by their exponentials."""
    for i in range(len(exponents)):
        exponents[i] = _exp(exponents[i])


@compiled
def gaussian_along(offset, n, sigma, values):  # type: ignore[no-untyped-def]
    """A Gaussian of height 1 at n pixels ``-offset, 1 - offset, ...`` from its centre."""
    inverse = -0.5 / (sigma * sigma)
    for i in range(n):
        values[i] = _exp(inverse * (i - offset) * (i - offset))


@compiled
def heights(parameters, dy, dx, n, values):  # type: ignore[no-untyped-def]
    """A column of height 1 at offsets ``(n,)`` from its centre."""
    sigma = parameters[3]
    if len(parameters) == N_ROUND:
        inverse = -0.5 / (sigma * sigma)
        for i in range(n):
            values[i] = _exp(inverse * (dy[i] * dy[i] + dx[i] * dx[i]))
        return
    e1, e2 = parameters[5], parameters[6]
    inverse = -0.5 / (sigma * sigma * (1.0 - e1 * e1 - e2 * e2))
    for i in range(n):
        square = (1.0 - e1) * dy[i] * dy[i] + (1.0 + e1) * dx[i] * dx[i] - 2.0 * e2 * dy[i] * dx[i]
        values[i] = _exp(inverse * square)


@compiled
def derivatives(parameters, dy, dx, n, values):  # type: ignore[no-untyped-def]
    """Derivatives ``(P, n)`` of a column by its parameters except the background, at offsets ``(n,)``.

    That by the amplitude, ``values[2]``, contains the :func:`heights` before.
    """
    amplitude, sigma = parameters[2], parameters[3]
    inverse, inverse_sigma = 1.0 / (sigma * sigma), 1.0 / sigma
    by_y, by_x, height, by_sigma = values[0], values[1], values[2], values[3]
    if len(parameters) == N_ROUND:
        factor = amplitude * inverse
        for i in range(n):
            column = factor * height[i]
            by_y[i] = column * dy[i]
            by_x[i] = column * dx[i]
            by_sigma[i] = column * (dy[i] * dy[i] + dx[i] * dx[i]) * inverse_sigma
        return
    e1, e2 = parameters[5], parameters[6]
    inverse = inverse / (1.0 - e1 * e1 - e2 * e2)
    by_e1, by_e2 = values[5], values[6]
    for i in range(n):
        u_y = inverse * ((1.0 - e1) * dy[i] - e2 * dx[i])
        u_x = inverse * ((1.0 + e1) * dx[i] - e2 * dy[i])
        column = amplitude * height[i]
        by_y[i] = column * u_y
        by_x[i] = column * u_x
        by_sigma[i] = column * (u_y * dy[i] + u_x * dx[i]) * inverse_sigma
        by_e1[i] = 0.5 * sigma * sigma * column * (u_y * u_y - u_x * u_x)
        by_e2[i] = sigma * sigma * column * u_y * u_x


@compiled
def add_column(parameters, dy, dx, n, total):  # type: ignore[no-untyped-def]
    """Add a column without its background at offsets ``(n,)`` from its centre."""
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


@compiled
def half_width(radius, dy):  # type: ignore[no-untyped-def]
    """Half the length, px, of the row of a disk at an offset along y; -1 outside the disk."""
    rest = (radius + 0.5) ** 2 - dy * dy
    return int(math.sqrt(rest)) if rest >= 0 else -1


@compiled
def add_columns(image, parameters, scan, reach):  # type: ignore[no-untyped-def]
    """Add columns without their backgrounds to an image, each drawn within ``reach`` px of its centre.

    Parameters
    ----------
    image : ndarray of shape (n_y, n_x)
        Changed in place.
    parameters : ndarray of shape (n, P)
    scan : ndarray of shape (2, n_y, n_x), or (0, 0, 0)
        Displacement of the beam, px; empty: none.
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
            gaussian_along(column[1] - (x0 - reach), size, column[3], across)
        for y in range(max(0, y0 - reach), min(n_y, y0 + reach + 1)):
            half = half_width(reach, y - y0)
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
            add_column(column, dy, dx, end - begin, image[y, begin:end])


@compiled
def add_radial_profiles(image, places, weights, values, step, reach):  # type: ignore[no-untyped-def]
    """Add a weighted radial profile around each of n positions to an image, within a square of ``reach`` px.

    Parameters
    ----------
    image : ndarray of shape (n_y, n_x)
        Changed in place.
    places : ndarray of shape (n, 2)
        ``(y, x)``, px.
    weights : ndarray of shape (n,)
        Weight of each profile.
    values : ndarray of shape (n_rings,)
        The profile at radii ``(i + 1/2) step``, linear between these, constant below the first and 0 above the last.
    step : float
        px.
    reach : int
    """
    n_y, n_x = image.shape
    last = len(values) - 1
    for c in range(len(places)):
        y0, x0 = round(places[c, 0]), round(places[c, 1])
        for y in range(max(0, y0 - reach), min(n_y, y0 + reach + 1)):
            dy = y - places[c, 0]
            for x in range(max(0, x0 - reach), min(n_x, x0 + reach + 1)):
                dx = x - places[c, 1]
                ring = max(math.sqrt(dy * dy + dx * dx) / step - 0.5, 0.0)
                if ring > last:
                    continue
                i = min(int(ring), last - 1) if last > 0 else 0
                fraction = ring - i
                value = values[i] if last == 0 else (1.0 - fraction) * values[i] + fraction * values[i + 1]
                image[y, x] += weights[c] * value
