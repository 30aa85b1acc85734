"""What each row of an image says of where the beam stood while it crossed the columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.columns import ColumnFits

__all__ = ["Readings", "read_shifts", "slope"]

#: A row tells of a column's place within this many widths of its centre.
REACH = 2.2


@dataclass(frozen=True)
class Readings:
    """What each row says of each column's place along x, ``(n_columns, n_y)``.

    ``shift`` is the beam's displacement in px, ``weight`` the inverse of its variance; 0 where the row does not
    cross the column. ``modes`` ``(n_modes, n_columns, n_y)`` are what an error of the column's own parameters makes of
    the readings, orthonormal under the weights: nothing of that kind is known.
    """

    shift: NDArray[np.float64]
    weight: NDArray[np.float64]
    x: NDArray[np.float64]
    modes: NDArray[np.float64]

    def none(self) -> Readings:
        """The same without any weight."""
        return Readings(self.shift, np.zeros_like(self.weight), self.x, self.modes)

    def weighted_modes(self) -> NDArray[np.float64]:
        """``weight * modes``."""
        return self.weight * self.modes

    def moved(self, by: NDArray) -> Readings:
        """The same with displacements (px, of a shape that ``shift`` takes) added."""
        return Readings(self.shift + by, self.weight, self.x, self.modes)

    def reweighted(self, weight: NDArray) -> Readings:
        """The same with other weights, under which the modes are orthonormal again."""
        return Readings(self.shift, weight, self.x, _orthonormal(self.modes, weight))

    def take(self, chosen: NDArray) -> Readings:
        """Those of some columns."""
        return Readings(self.shift[chosen], self.weight[chosen], self.x[chosen], self.modes[:, chosen])


def slope(image: NDArray, axis: int = 1) -> NDArray[np.float64]:
    """Derivative along x (or y: axis 0), exact for polynomials of degree 4."""
    return ndimage.correlate1d(image, np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12.0, axis=axis, mode="nearest")


def read_shifts(
    residual: NDArray, gradient: NDArray, fits: ColumnFits, shifts: NDArray, variance: NDArray, *, axis: int = 1
) -> Readings:
    """The displacement that each row shows at each column, from the residual of the columns' model.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
        The image without its model at ``shifts``.
    gradient : ndarray of shape (n_y, n_x)
        Derivative of that model along the axis.
    fits : ColumnFits
        The model.
    shifts : ndarray of shape (2, n_y, n_x)
        Displacements along y and x that the model has already, px.
    variance : ndarray of shape (n_y, n_x)
        Variance that the noise has for a reading: that of a pixel times the colour of the noise.
    axis : int
        Displacements along x, or along y (0).

    Notes
    -----
    A displacement d adds ``d dI/dx``: it is the regression of the residual on the column's own slope, which is taken
    without its mean along the row, so that a row's offset does not count.
    """
    n_y, n_x = residual.shape
    reach = max(2, int(np.ceil(REACH * float(np.median(fits.sigma)))))
    span = np.arange(-reach, reach + 1)
    row = np.round(fits.y).astype(int)[:, None] + span
    place = np.clip(np.round(fits.x).astype(int), 0, n_x - 1)
    safe = np.clip(row, 0, n_y - 1)
    # the beam meets the column where it stands, not where the column is
    at_y, at_x = (shift[safe, place[:, None]] for shift in shifts)
    col = np.round(fits.x[:, None] - at_x).astype(int)[:, :, None] + span
    inside = ((row >= 0) & (row < n_y))[:, :, None] & (col >= 0) & (col < n_x)
    flat = safe[:, :, None] * n_x + np.clip(col, 0, n_x - 1)
    dx = col + at_x[:, :, None] - fits.x[:, None, None]
    dy = (row + at_y - fits.y[:, None])[:, :, None]
    width = fits.sigma[:, None, None]
    own = -fits.amplitude[:, None, None] * (dx if axis == 1 else dy) / width**2
    own = own * np.exp(-0.5 * (dx**2 + dy**2) / width**2) * inside
    own = (own - own.sum(2, keepdims=True) / np.maximum(inside.sum(2, keepdims=True), 1)) * inside
    top = (own * residual.ravel()[flat]).sum(2)
    bottom = (own * gradient.ravel()[flat]).sum(2)
    noise = (own**2 * variance.ravel()[flat]).sum(2)
    # a column that is cut by the border, or whose neighbour turns the slope around, tells nothing
    good = (bottom > 0.3 * (own**2).sum(2)) & (noise > 0) & (inside.sum(2) > reach)
    n, at = len(fits), at_x if axis == 1 else at_y
    shift, weight = np.zeros((n, n_y)), np.zeros((n, n_y))
    index = np.broadcast_to(np.arange(n)[:, None], row.shape)[good]
    shift[index, row[good]] = top[good] / bottom[good] + at[good]
    weight[index, row[good]] = bottom[good] ** 2 / noise[good]
    effects = [np.ones(row.shape)]
    if axis == 0:
        # a column that is taken for too bright or too wide seems displaced up on one side and down on the other
        bump = np.exp(-0.5 * (dx**2 + dy**2) / width**2)
        safe_bottom = np.where(good, bottom, 1.0)
        effects += [(own * bump * r).sum(2) / safe_bottom for r in (1.0, dx**2 + dy**2)]
        shift = _without_profile(shift, weight, np.arange(n_y) - fits.y[:, None], fits.amplitude)
    else:
        shift = _without_tilt(shift, weight, np.arange(n_y) - fits.y[:, None])
    modes = np.zeros((len(effects), n, n_y))
    for mode, effect in zip(modes, effects, strict=True):
        mode[index, row[good]] = effect[good]
    return Readings(shift, weight, fits.x, _orthonormal(modes, weight))


def _without_tilt(shift: NDArray, weight: NDArray, dy: NDArray) -> NDArray[np.float64]:
    """Readings along x without a slant that all columns have in common: an astigmatic probe draws tilted ellipses."""
    slant = float((weight * shift * dy).sum() / max(float((weight * dy**2).sum()), 1e-300))
    return np.where(weight > 0, shift - slant * dy, shift)


def _without_profile(shift: NDArray, weight: NDArray, dy: NDArray, amplitude: NDArray) -> NDArray[np.float64]:
    """Readings along y without what all columns of about the same height have in common at the same distance from their
    centres: columns are no Gaussians, and where a lattice is level they would all say so in the same row.
    """
    group = np.searchsorted(np.quantile(amplitude, [1 / 3, 2 / 3]), amplitude)
    place = np.rint(dy).astype(int)
    reach = int(np.abs(place[weight > 0]).max(initial=0))
    use = weight > 0
    index = (group[:, None] * (2 * reach + 1) + place + reach)[use]
    total = np.bincount(index, weight[use], 3 * (2 * reach + 1))
    mean = np.bincount(index, (weight * shift)[use], 3 * (2 * reach + 1)) / np.maximum(total, 1e-300)
    out = shift.copy()
    out[use] -= mean[index]
    return out


def _orthonormal(modes: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """Gram-Schmidt for each column, under its weights; a mode that the others hold becomes 0."""
    out = np.zeros_like(modes)
    for i, mode in enumerate(modes):
        rest = mode.copy()
        for known in out[:i]:
            rest -= (weight * rest * known).sum(1, keepdims=True) * known
        norm, before = (np.sqrt((weight * m**2).sum(1, keepdims=True)) for m in (rest, mode))
        out[i] = np.where(norm > 1e-6 * before, rest / np.maximum(norm, 1e-300), 0.0)
    return out
