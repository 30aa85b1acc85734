"""Displacement of the beam in each row, estimated at each column that the row crosses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from stemkit.columns import ColumnFits
from stemkit.noise.constants import TINY
from stemkit.noise.differences import difference_std, row_difference, rows_without

__all__ = ["ShiftEstimates", "derivative", "estimate_shifts", "noise_variance"]

#: Rows within this many widths of a column's centre give an estimate of its displacement (chosen).
REACH = 2.2
#: Least ratio of the model's slope, neighbours included, to the column's own: below, a neighbour cancels it (chosen).
LEAST_SLOPE = 0.3
#: Quantiles of an image are those of every n-th column of pixels (chosen).
THINNED = 4
#: Correlations of the noise are those of every n-th row (chosen).
THINNED_ROWS = 2


@dataclass(frozen=True)
class ShiftEstimates:
    """Estimated displacement of the beam along one axis, for each column and each row that crosses it.

    Arrays have one entry per row of a window around the column.

    Parameters
    ----------
    shift : ndarray of shape (n_columns, n_window)
        Displacement, px.
    weight : ndarray of shape (n_columns, n_window)
        Inverse variance, px^-2; 0 for rows without an estimate, and outside the image.
    x : ndarray of shape (n_columns,)
        Positions of the columns, px.
    modes : ndarray of shape (n_modes, n_columns, n_window)
        Changes of the estimates by errors of the column's fitted parameters (its position; along y its amplitude and
        width, too), orthonormal under the weights. These errors are unknown.
    first : ndarray of int, shape (n_columns,)
        First row of each window; it may be outside the image.
    n_rows : int
        Number of rows of the image.
    misfit : float
        Variance, px squared, that misfits of the columns' model add to the mean estimate of a row; 0 along x.
    """

    shift: NDArray[np.float64]
    weight: NDArray[np.float64]
    x: NDArray[np.float64]
    modes: NDArray[np.float64]
    first: NDArray[np.int64]
    n_rows: int
    misfit: float = 0.0

    def unweighted(self) -> ShiftEstimates:
        """The same with weights of 0."""
        return replace(self, weight=np.zeros_like(self.weight))

    @property
    def row(self) -> NDArray[np.int64]:
        """Row of each estimate ``(n_columns, n_window)``, the nearest one for those outside the image."""
        return np.clip(self.first[:, None] + np.arange(self.weight.shape[1]), 0, self.n_rows - 1)

    def by_row(self, values: NDArray) -> NDArray[np.float64]:
        """Sums ``(n_rows,)`` over the columns of values ``(n_columns, n_window)``, 0 outside the image."""
        return np.bincount(self.row.ravel(), values.ravel(), self.n_rows).astype(np.float64)

    def sparse(self, values: NDArray) -> sparse.csr_matrix:
        """Values ``(n_columns, n_window)``, 0 outside the image, as a matrix ``(n_columns, n_rows)``."""
        n, window = values.shape
        of_column = np.arange(0, n * window + 1, window)
        return sparse.csr_matrix((values.ravel(), self.row.ravel(), of_column), shape=(n, self.n_rows))

    def row_products(self, values: NDArray) -> NDArray[np.float64]:
        """Sum ``(n_rows, n_rows)`` of the outer products of each column's values ``(n, n_columns, n_window)``."""
        window, total = values.shape[2], np.zeros((self.n_rows, self.n_rows))
        row, flat = self.row, total.reshape(-1)
        for lag in range(min(window, self.n_rows)):
            products = np.einsum("mck,mck->ck", values[:, :, lag:], values[:, :, : window - lag])
            sums = np.bincount(row[:, : window - lag].ravel(), products.ravel(), self.n_rows)[: self.n_rows - lag]
            flat[lag :: self.n_rows + 1][: len(sums)] = sums
            flat[lag * self.n_rows :: self.n_rows + 1] = sums
        return total

    def weighted_modes(self) -> NDArray[np.float64]:
        """``weight * modes``."""
        return self.weight * self.modes

    def free_of_modes(self, values: NDArray) -> NDArray[np.float64]:
        """Weighted values ``(n_columns, n_window)`` without the effects of errors of the columns' parameters."""
        out = self.weight * values
        for weighted in self.weighted_modes():
            out = out - weighted * (weighted * values).sum(1, keepdims=True)
        return out

    def shifted(self, by: NDArray) -> ShiftEstimates:
        """The same with displacements (px, broadcast to ``shift``) added."""
        return replace(self, shift=self.shift + by)

    def reweighted(self, weight: NDArray) -> ShiftEstimates:
        """The same with other weights, under which the modes are orthonormal again."""
        return replace(self, weight=weight, modes=_orthonormal(self.modes, weight))

    def take(self, chosen: NDArray) -> ShiftEstimates:
        """The estimates of a subset of the columns."""
        return replace(
            self,
            shift=self.shift[chosen],
            weight=self.weight[chosen],
            x=self.x[chosen],
            modes=self.modes[:, chosen],
            first=self.first[chosen],
        )


def derivative(image: NDArray, axis: int = 1) -> NDArray[np.float64]:
    """Derivative along x (or y: axis 0), exact for polynomials of degree 4."""
    return ndimage.correlate1d(image, np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12.0, axis=axis, mode="nearest")


def estimate_shifts(
    residual: NDArray, slope: NDArray, fits: ColumnFits, shifts: NDArray, variance: NDArray, *, axis: int = 1
) -> ShiftEstimates:
    """Displacement of each row at each column, from the residual of the columns' model.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
        The image without its model at ``shifts``.
    slope : ndarray of shape (n_y, n_x)
        Derivative of that model along the axis.
    fits : ColumnFits
        The model.
    shifts : ndarray of shape (2, n_y, n_x)
        Displacements along y and x that the model includes, px.
    variance : ndarray of shape (n_y, n_x)
        Variance of the noise for an estimate: that of a pixel times the effect of its correlation.
    axis : int
        Displacements along x, or along y (0).

    Returns
    -------
    ShiftEstimates

    Notes
    -----
    A displacement d adds ``d dI/dx``: it is the regression of the residual on the column's own slope, whose mean along
    the row is subtracted, so that the offset of a row has no effect.
    """
    windows = _Windows.of(fits, shifts, axis)
    product = (windows.slope * residual.ravel()[windows.index]).sum(2)
    squared = (windows.slope * slope.ravel()[windows.index]).sum(2)
    noise = (windows.slope**2 * variance.ravel()[windows.index]).sum(2)
    # columns cut by the border, and those whose slope is cancelled by a neighbour, give no estimate
    enough = windows.inside.sum(2) > windows.inside.shape[2] // 2
    good = (squared > LEAST_SLOPE * (windows.slope**2).sum(2)) & (noise > 0) & enough
    known = np.where(good, squared, 1.0)
    shift = np.where(good, product / known + windows.displacement, 0.0)
    weight = np.where(good, known**2 / np.where(good, noise, 1.0), 0.0)
    distance = windows.row - fits.y[:, None]
    if axis == 1:
        shift = _without_tilt(shift, weight, distance)
    else:
        shift = _without_profile(shift, weight, distance, windows.row, fits.amplitude)
    modes = np.where(good, np.stack(windows.parameter_effects(known, axis)), 0.0)
    first = np.ascontiguousarray(windows.row[:, 0])
    estimates = ShiftEstimates(shift, weight, fits.x, _orthonormal(modes, weight), first, len(residual))
    if axis == 0:
        estimates = _with_misfit(estimates)
    return estimates.reweighted(estimates.weight / windows.shared_noise(estimates, known, variance)[estimates.row])


def noise_variance(
    residual: NDArray, bad: NDArray, columns: NDArray, width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance of the noise for displacements estimated along y and along x: that of a pixel, times the effect of its
    correlation along the row, each ``(n_y, n_x)``.

    An estimate sums noise weighted by the slope of a Gaussian less its mean along the row. The weights' autocorrelation
    decides how much the correlation of the noise increases its error. Along y the weights have one sign, and streaks as
    long as a column is wide count most.
    """
    difference = row_difference(residual)
    limit = 8 * difference_std(difference[:, ::THINNED])
    difference = np.clip(difference, -limit, limit)
    if bad.any():
        known = rows_without(bad)
        difference *= known
        difference *= math.sqrt(known.size / max(known.sum(), 1))
    square, signal = difference**2, columns[2:-2]
    height = max(float(np.quantile(signal[:, ::THINNED], 0.99)), TINY)
    dark = signal < 0.1 * height
    base = float(square[dark].mean()) if dark.sum() > 100 else float(square.mean())
    growth = float(((square - base) * signal).sum() / max(float((signal**2).sum()), TINY))
    # in bright field the variance decreases with the height, to 0 at the highest columns at most
    pixel = np.maximum(base + max(growth, -base / height) * columns, max(0.05 * base, TINY))
    weights = [_row_weights(width, axis) for axis in (0, 1)]
    lags = np.arange(1, min(len(weights[0]), residual.shape[1]))
    thinned = difference[::THINNED_ROWS]
    products = np.array([(thinned[:, k:] * thinned[:, :-k]).mean() for k in lags])
    correlation = products / max(square[::THINNED_ROWS].mean(), TINY)
    along_y, along_x = (max(1 + 2 * float((_autocorrelation(w)[lags] * correlation).sum()), 0.1) for w in weights)
    return along_y * pixel, along_x * pixel


def _row_weights(width: float, axis: int) -> NDArray[np.float64]:
    """Weights of the pixels of a row in the estimate at a column of this width, px."""
    x = np.arange(-_reach(width), _reach(width) + 1)
    gaussian = np.exp(-0.5 * (x / width) ** 2)
    weights = gaussian if axis == 0 else x * gaussian
    return weights - weights.mean()


def _autocorrelation(values: NDArray) -> NDArray[np.float64]:
    """Autocorrelation at the lags 0 to ``len(values) - 1``, 1 at 0."""
    products = np.correlate(values, values, "full")[len(values) - 1 :]
    return products / products[0]


def _reach(width: float) -> int:
    """Pixels on either side of a column of this width that give estimates."""
    return max(2, math.ceil(REACH * width))


@dataclass(frozen=True)
class _Windows:
    """Pixels around each column as the displaced beam records them, ``(n_columns, n_rows, n_pixels)``.

    ``row`` and ``displacement`` (px, along the axis) are ``(n_columns, n_rows)``; ``index`` is that of the pixels in
    the flattened image, those outside clipped; ``slope`` is the derivative of the column's Gaussian less its mean along
    the row, ``gaussian`` the Gaussian of amplitude 1, ``squared`` the squared distance from the centre, px squared.
    """

    row: NDArray[np.int64]
    displacement: NDArray[np.float64]
    index: NDArray[np.int64]
    inside: NDArray[np.bool_]
    slope: NDArray[np.float64]
    gaussian: NDArray[np.float64]
    squared: NDArray[np.float64]

    @classmethod
    def of(cls, fits: ColumnFits, shifts: NDArray, axis: int) -> _Windows:
        n_y, n_x = shifts.shape[1:]
        reach = _reach(float(np.median(fits.sigma)))
        span = np.arange(-reach, reach + 1)
        row = np.round(fits.y).astype(int)[:, None] + span
        safe = np.clip(row, 0, n_y - 1)
        at_y, at_x = (shift[safe, np.clip(np.round(fits.x).astype(int), 0, n_x - 1)[:, None]] for shift in shifts)
        # the displaced beam records the column at its position less the displacement
        col = np.round(fits.x[:, None] - at_x).astype(int)[:, :, None] + span
        inside = ((row >= 0) & (row < n_y))[:, :, None] & (col >= 0) & (col < n_x)
        dx = col + at_x[:, :, None] - fits.x[:, None, None]
        dy = (row + at_y - fits.y[:, None])[:, :, None]
        width, squared = fits.sigma[:, None, None], dx**2 + dy**2
        gaussian = np.exp(-0.5 * squared / width**2)
        slope = -fits.amplitude[:, None, None] * (dx if axis == 1 else dy) / width**2
        slope = slope * gaussian * inside
        slope = (slope - slope.sum(2, keepdims=True) / np.maximum(inside.sum(2, keepdims=True), 1)) * inside
        index = safe[:, :, None] * n_x + np.clip(col, 0, n_x - 1)
        return cls(row, at_x if axis == 1 else at_y, index, inside, slope, gaussian, squared)

    def shared_noise(self, estimates: ShiftEstimates, known: NDArray, variance: NDArray) -> NDArray[np.float64]:
        """Variance of the mean estimate of each row ``(n_y,)`` over that of independent columns, whose weights add.

        Columns that are close share their pixels, and with them the noise. ``known`` is the sum of squared slopes of
        each estimate ``(n_columns, n_rows)``, ``variance`` that of a pixel ``(n_y, n_x)``.
        """
        of_pixel = (estimates.weight / known)[:, :, None] * self.slope
        total = np.bincount(self.index.ravel(), of_pixel.ravel(), variance.size).reshape(variance.shape)
        shared, independent = (total**2 * variance).sum(1), estimates.by_row(estimates.weight)
        return np.where(shared > 0, shared / np.maximum(independent, TINY), 1.0)

    def parameter_effects(self, slope_squared: NDArray, axis: int) -> list[NDArray[np.float64]]:
        """Changes of the estimates by errors of the fitted parameters: position, along y also amplitude and width.

        The estimate of a column whose fitted amplitude or width is too large changes its sign at the centre.
        """
        position = np.ones(self.row.shape)
        if axis == 1:
            return [position]
        others = [(self.slope * self.gaussian * r).sum(2) / slope_squared for r in (1.0, self.squared)]
        return [position, *others]


def _without_tilt(shift: NDArray, weight: NDArray, dy: NDArray) -> NDArray[np.float64]:
    """Estimates along x without a slant that all columns have in common: an astigmatic probe makes tilted ellipses."""
    slant = float((weight * shift * dy).sum() / max(float((weight * dy**2).sum()), TINY))
    return np.where(weight > 0, shift - slant * dy, shift)


def _without_profile(
    shift: NDArray, weight: NDArray, dy: NDArray, rows: NDArray, amplitude: NDArray
) -> NDArray[np.float64]:
    """Estimates along y without their mean over columns of similar amplitude at the same distance from the centre.

    It is caused by columns that are not Gaussian, and would be the same in a whole row of columns along x. Means of
    displaced rows differ from 0, too: their expected fraction of the squares is kept (James and Stein 1961).
    """
    group = np.searchsorted(np.quantile(amplitude, [1 / 3, 2 / 3]), amplitude)
    place = np.rint(dy).astype(int)
    use = weight > 0
    reach = int(np.abs(place[use]).max(initial=0))
    index = (group[:, None] * (2 * reach + 1) + place + reach)[use]
    n, row = 3 * (2 * reach + 1), rows[use]
    n_y = int(row.max(initial=0)) + 1
    # columns in a row share its displacement: each row counts once in a mean
    by_row = np.bincount(index * n_y + row, weight[use], n * n_y).reshape(n, n_y)
    total = np.maximum(by_row.sum(1), TINY)
    mean = np.bincount(index, (weight * shift)[use], n) / total
    square = float(np.average(shift[use] ** 2, weights=weight[use])) if use.any() else 0.0
    expected = ((by_row / total[:, None]) ** 2).sum(1) * square  # 0 for groups without columns
    chi_squared = float((mean**2 / np.maximum(expected, TINY)).sum())
    kept = min((total > TINY).sum() / max(chi_squared, TINY), 1.0)
    out = shift.copy()
    out[use] -= (1 - kept) * mean[index]
    return out


def _with_misfit(estimates: ShiftEstimates) -> ShiftEstimates:
    """Weights reduced at columns whose estimates differ from a parabola along their rows by more than their noise.

    A neighbour that is too faint to be fitted appears as displacements along y. The variance of a column's estimates is
    multiplied by its chi squared per degree of freedom where that exceeds 1. Parabolas, since hum and long jitter
    change along the row.
    """
    weight, n_modes, row = estimates.weight, len(estimates.modes), estimates.row
    total = np.maximum(estimates.by_row(weight), TINY)
    terms = np.vander((estimates.x - estimates.x.mean()) / max(float(np.ptp(estimates.x)), TINY), 3)
    by_row = [estimates.by_row(weight * a[:, None] * b[:, None]) for a in terms.T for b in terms.T]
    inverse = np.linalg.pinv(np.stack(by_row, axis=1).reshape(-1, 3, 3), hermitian=True)
    score = np.stack([estimates.by_row(weight * estimates.shift * term[:, None]) for term in terms.T], axis=1)
    coefficients = np.einsum("yij,yj->yi", inverse, score)
    about_row = estimates.shift - np.einsum("cj,ckj->ck", terms, coefficients[row])
    leverage = weight * np.einsum("ci,ckij,cj->ck", terms, inverse[row], terms, optimize=True)
    chi_squared = (estimates.free_of_modes(about_row) * about_row).sum(1)
    freedom = np.maximum(((weight > 0) * (1 - leverage)).sum(1) - n_modes, 1.0)
    excess = max(float(chi_squared.sum() / max(freedom.sum(), 1.0)) - 1, 0.0)
    row_noise = float((total > TINY).sum() / total.sum())  # of a typical row: some have hardly any information
    reweighted = estimates.reweighted(weight / np.maximum(chi_squared / freedom, 1.0)[:, None])
    return replace(reweighted, misfit=excess * row_noise)


def _orthonormal(modes: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """Gram-Schmidt for each column, under its weights; a mode that depends linearly on the others becomes 0."""
    out = np.zeros_like(modes)
    for i, mode in enumerate(modes):
        rest = mode.copy()
        for known in out[:i]:
            rest -= (weight * rest * known).sum(1, keepdims=True) * known
        norm, before = (np.sqrt((weight * m**2).sum(1, keepdims=True)) for m in (rest, mode))
        out[i] = np.where(norm > 1e-6 * before, rest / np.maximum(norm, TINY), 0.0)
    return out
