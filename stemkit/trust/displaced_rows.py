"""Displacement of the rows, fitted to the residual of an enhanced image and removed from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

__all__ = ["DisplacedRows", "fit_displacements"]

#: Lengths of the parts of a row that are displaced as a whole, px (chosen); the second one is used where the first
#: shows displacements, since jitter can change along the row.
PART_LENGTHS = (48, 16)
#: Standard deviation of the displacements before they are fitted, px (chosen: where a row crosses no column they
#: remain 0).
PRIOR_STD = 3.0
#: Significance above which a mean square is not due to errors alone, standard errors (chosen).
SIGNIFICANCE = 3.0
#: Number of groups of rows whose mean displacements are compared (chosen: drift is independent between groups).
N_GROUPS = 8


@dataclass(frozen=True, eq=False)
class DisplacedRows:
    """Residual without the displacement of rows, and the displacement of the whole image.

    Attributes
    ----------
    residual : ndarray of shape (n_y, n_x)
        Residual in units of the standard deviation of the noise.
    shift : ndarray of shape (2,)
        Mean displacement (y, x) of the recorded relative to the enhanced image, px.
    rms : float
        RMS displacement of the rows along both axes, px; 0 where it is not significant.
    p : float
        Probability of a shift that is at least as significant if displacements have the mean 0.
    """

    residual: NDArray[np.float64]
    shift: NDArray[np.float64]
    rms: float
    p: float


def fit_displacements(residual: NDArray, enhanced: NDArray, std: NDArray) -> DisplacedRows:
    """Fit offsets and displacements along y and x of parts of rows to a residual, and remove them.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
        Recorded minus enhanced image.
    enhanced : ndarray of shape (n_y, n_x)
    std : ndarray of shape (n_y, n_x)
        Standard deviation of the noise.

    Notes
    -----
    Offsets are those of streaks, shrunk by the ratio of their variance to that with their errors: without streaks none
    is removed. A part of a row that is displaced by d has the residual ``d . grad I``, which is fitted by least
    squares, weighted by the noise, with a prior of 3 px. Where displacements exceed their errors, the enhanced image
    is displaced by them, shrunk in the same way, and the fit is repeated with shorter parts.

    Fits of different rows are independent, so that noise that is independent between rows remains so.
    """
    slopes = np.gradient(enhanced)
    recorded = _Parts(std, PART_LENGTHS[0]).without_offsets(residual / std)
    scaled, total = recorded, np.zeros((2, *std.shape))
    shift, p, rms = np.zeros(2), 1.0, 0.0
    for stage, length in enumerate(PART_LENGTHS):
        rows = _Parts(std, length)
        found, errors = rows.displacements(scaled, slopes)
        if stage == 0:
            shift, p = _common_shift(found, 1 / errors)
        squares = np.array([_mean_square(value, error) for value, error in zip(found, errors, strict=True)])
        if not squares.any():
            break
        rms = rms or math.sqrt(float(squares.sum()))
        weight = squares[:, None, None] / (squares[:, None, None] + errors)
        total += rows.spread(weight * found)
        scaled = recorded - (_displaced(enhanced, total) - enhanced) / std
        # the mean residual that the errors of the displacements cause
        for axis, left in enumerate(rows.spread(weight * errors)):
            scaled -= 0.5 * left * np.gradient(slopes[axis], axis=axis) / std
    rest = rows.spread(rows.displacements(scaled, slopes)[0])
    return DisplacedRows(scaled - (rest[0] * slopes[0] + rest[1] * slopes[1]) / std, shift, rms, p)


class _Parts:
    """Parts of rows, and fits to each of them; parameters have the shape ``(n_y, n_parts)``."""

    def __init__(self, std: NDArray, length: int):
        n = max(1, round(std.shape[1] / length))
        self.std = std
        self.starts = np.arange(n) * std.shape[1] // n
        self.lengths = np.diff(np.append(self.starts, std.shape[1]))

    def summed(self, values: NDArray) -> NDArray:
        """Sums over the pixels of each part."""
        return np.asarray(np.add.reduceat(values, self.starts, axis=1))

    def spread(self, values: NDArray) -> NDArray:
        """Values of the parts at each of their pixels."""
        return np.repeat(values, self.lengths, axis=-1)

    def without_offsets(self, scaled: NDArray) -> NDArray:
        """A residual in units of its noise, less the offsets of the parts."""
        error = 1 / self.summed(self.std**-2)
        offset = self.summed(scaled / self.std) * error
        mean = _mean_square(offset, error)
        return np.asarray(scaled - self.spread(mean / (mean + error) * offset) / self.std) if mean else scaled

    def displacements(self, scaled: NDArray, slopes: list[NDArray]) -> tuple[NDArray, NDArray]:
        """Displacements (y, x), px, and the variances of their errors, ``(2, n_y, n_parts)`` each."""
        templates = [slope / self.std for slope in slopes]
        pairs = (self.summed(templates[i] * templates[j]) for i, j in ((0, 0), (0, 1), (1, 1)))
        a, b, d = (pair + prior for pair, prior in zip(pairs, (PRIOR_STD**-2, 0.0, PRIOR_STD**-2), strict=True))
        right = [self.summed(template * scaled) for template in templates]
        determinant = a * d - b**2
        found = np.stack([d * right[0] - b * right[1], a * right[1] - b * right[0]]) / determinant
        return found, np.stack([d, a]) / determinant


def _displaced(image: NDArray, shifts: NDArray) -> NDArray:
    """The image as recorded by a beam that is displaced by ``(2, n_y, n_x)`` px."""
    return np.asarray(ndimage.map_coordinates(image, np.indices(image.shape) + shifts, order=3, mode="nearest"))


def _mean_square(value: NDArray, error: NDArray) -> float:
    """Mean square of fitted values, without the variances of their errors; 0 where it is not significant."""
    weight = 1 / error**2
    excess = float(np.sum(weight * (value**2 - error)) / np.sum(weight))
    # for normal errors the variance of value^2 is 2 error^2
    return excess if excess > SIGNIFICANCE * math.sqrt(2 / float(np.sum(weight))) else 0.0


def _common_shift(values: NDArray, weights: NDArray) -> tuple[NDArray[np.float64], float]:
    """Weighted mean of displacements ``(2, n_y, n_parts)``, and its significance by the means of groups of rows."""
    groups = np.array_split(np.arange(values.shape[1]), min(N_GROUPS, values.shape[1]))
    totals = np.stack([weights[:, rows].sum(axis=(1, 2)) for rows in groups], axis=1)
    means = np.stack([(weights * values)[:, rows].sum(axis=(1, 2)) for rows in groups], axis=1) / totals
    shift = (totals * means).sum(axis=1) / totals.sum(axis=1)
    n = len(groups)
    if n < 2:
        return shift, 1.0
    variance = (totals**2 * (means - shift[:, None]) ** 2).sum(axis=1) / totals.sum(axis=1) ** 2 * n / (n - 1)
    t = np.abs(shift) / np.sqrt(np.maximum(variance, 1e-300))
    return shift, min(1.0, 2 * float(2 * stats.t.sf(t.max(), n - 1))) if math.isfinite(t.max()) else 1.0
