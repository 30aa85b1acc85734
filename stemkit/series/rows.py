"""Displacements of the rows of a frame against a reference image, with their distribution as the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage

from stemkit.noise import ScanNoise

__all__ = ["RowPrior", "RowReadings", "expected_displacements", "read_rows", "trends_of", "without_trends"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the measurement of rows."""

    #: Step of the finite differences for the slope of the reference, px (chosen).
    step: float = 0.5
    #: Pixels whose reference has fewer frames than this are not compared (chosen).
    min_count: float = 0.5
    #: Quantile of the intensity of a bright pixel; that of a dark one is 1 minus it (chosen).
    bright: float = 0.99
    #: Least variance of a pixel, fraction of the larger of the variances of a bright and of a dark pixel (chosen: the
    #: reference is not exact, and where almost no electrons are expected a single one would dominate).
    min_variance: float = 0.4
    #: Sigma, px, of the Gaussian filter with which a frame is compared with the reference, that of a column (chosen).
    column_sigma: float = 1.5
    #: Differences of more standard deviations are not noise (chosen: white noise exceeds it in 1e-5 of the pixels).
    different: float = 4.5
    #: Pixels along y and x around such a difference that count less, too: those of a column (chosen).
    near: int = 7
    #: Median of the modulus of a normal number of unit variance (derived).
    normal_median: float = 0.6745
    #: Standard deviations, px, of a displacement of the whole frame and of its linear and quadratic change from the
    #: first row to the last (chosen: much wider than the rows' readings leave them).
    trend: tuple[float, float, float] = (5.0, 5.0, 2.0)


CONSTANTS = _Constants()


@dataclass(frozen=True)
class RowReadings:
    """Information that the pixels of a frame contain on the displacements of its rows, along y and x (first axis).

    Parameters
    ----------
    place : ndarray of shape (2, n_y)
        Displacement at which the row matches the reference best, px.
    information : ndarray of shape (2, n_y)
        Inverse of its variance, px^-2; 0 for a row in which the reference does not vary.
    residual : float
        Mean square of the residuals over their expected variance.
    """

    place: NDArray[np.float64]
    information: NDArray[np.float64]
    residual: float

    def first(self, n_rows: int) -> RowReadings:
        """The readings of the first rows."""
        return replace(self, place=self.place[:, :n_rows], information=self.information[:, :n_rows])


def read_rows(
    frame: NDArray, displacement: NDArray, reference: NDArray, count: NDArray, variance: tuple[float, float]
) -> RowReadings:
    """Compare each row with the reference at its present displacement: one Gauss-Newton step.

    Parameters
    ----------
    frame : ndarray of shape (n_y, n_x)
    displacement : ndarray of shape (n_y, 2)
        Present displacement of the rows along y and x, in pixels of the reference.
    reference, count : ndarray
        Image with little noise, and the number of frames in each of its pixels.
    variance : (float, float)
        Constant and slope of the variance of a pixel of the frame against the reference.

    Notes
    -----
    The reference is smoother than the frame, and the residual at the flanks of blurred columns would be fitted by
    displacements: the reference is first replaced with ``a R + b laplace R``, with a and b fitted to the frame. A row
    then differs from it by an offset, its streak, and by ``d . grad R``. The offset is eliminated, and
    ``sum (frame - R - offset - d . grad R)^2 / variance`` is minimised along either axis.
    """
    y = np.arange(frame.shape[0])[:, None] + displacement[:, :1] + np.zeros(frame.shape)
    x = np.arange(frame.shape[1]) + displacement[:, 1:]
    seen = ndimage.map_coordinates(count, np.stack([y, x]), order=1, mode="constant") > CONSTANTS.min_count
    bent = ndimage.laplace(reference, mode="nearest")
    first = [_sampled(ndimage.spline_filter(values, 3), y, x) for values in (reference, bent)]
    weight = _weights(first[0], seen, variance)
    scale, sharpening = _coefficients(frame, first, weight)
    knots = ndimage.spline_filter(scale * reference + sharpening * bent, 3)

    def at(dy: float, dx: float) -> NDArray[np.float64]:
        return _sampled(knots, y + dy, x + dx)

    expected = at(0, 0)
    slopes = [at(CONSTANTS.step, 0) - at(-CONSTANTS.step, 0), at(0, CONSTANTS.step) - at(0, -CONSTANTS.step)]
    difference, slopes = frame - expected, [slope / (2 * CONSTANTS.step) for slope in slopes]
    weight = weight * _agreement(difference, slopes, weight)
    residual = _centred(difference, weight)
    centered = [_centred(slope, weight) for slope in slopes]
    information = np.stack([(weight * slope**2).sum(1) for slope in centered])
    projected = np.stack([(weight * slope * residual).sum(1) for slope in centered])
    step = projected / np.maximum(information, 1e-300)
    mean_square = float((weight * residual**2).sum() / max(float(seen.sum()), 1.0))
    return RowReadings(displacement.T + step, information, mean_square)


def _sampled(knots: NDArray, y: NDArray, x: NDArray) -> NDArray[np.float64]:
    return np.asarray(ndimage.map_coordinates(knots, np.stack([y, x]), order=3, prefilter=False, mode="nearest"))


def _agreement(difference: NDArray, slopes: list[NDArray], weight: NDArray) -> NDArray[np.float64]:
    """Factors of the weights, below 1 where noise and displacement do not explain the difference from the reference.

    Columns that move, appear or vanish would otherwise displace the rows through them. The residual of the best
    displacement of each row is smoothed with the width of a column and compared with its noise; where it exceeds
    ``CONSTANTS.different`` standard deviations, and near such pixels, weights decrease with its square.
    """
    rest = _centred(difference, weight)
    centered = [_centred(slope, weight) for slope in slopes]
    yy, xx, yx = ((weight * a * b).sum(1) for a, b in ((centered[0],) * 2, (centered[1],) * 2, tuple(centered)))
    right = [(weight * slope * rest).sum(1) for slope in centered]
    determinant = yy * xx - yx**2
    usable = determinant > 1e-6 * yy * xx
    steps = xx * right[0] - yx * right[1], yy * right[1] - yx * right[0]
    for step, slope in zip(steps, centered, strict=True):
        rest = rest - np.divide(step, determinant, out=np.zeros_like(step), where=usable)[:, None] * slope
    smooth = ndimage.gaussian_filter(rest * np.sqrt(weight), CONSTANTS.column_sigma)
    # white noise keeps 1 / (4 pi sigma^2) of its variance
    units = np.abs(smooth) * (2 * math.sqrt(math.pi) * CONSTANTS.column_sigma)
    seen = weight > 0
    usual = float(np.median(units[seen])) / CONSTANTS.normal_median if seen.any() else 1.0
    largest = ndimage.maximum_filter(units / max(usual, 1.0), size=CONSTANTS.near)
    return np.asarray(np.minimum(1.0, (CONSTANTS.different / np.maximum(largest, CONSTANTS.different)) ** 2))


def _weights(expected: NDArray, seen: NDArray, variance: tuple[float, float]) -> NDArray[np.float64]:
    noise = variance[0] + variance[1] * expected
    ends = variance[0] + variance[1] * np.quantile(expected, (1 - CONSTANTS.bright, CONSTANTS.bright))
    floor = CONSTANTS.min_variance * float(ends.max())
    return np.where(seen, 1 / np.maximum(noise, max(floor, 1e-300)), 0.0)


def _coefficients(frame: NDArray, parts: list[NDArray], weight: NDArray) -> tuple[float, float]:
    """Factors of the reference and its Laplacian that fit a frame best, up to an offset of each row."""
    design = np.stack([_centred(values, weight) for values in parts])
    matrix = np.einsum("ayx,byx,yx->ab", design, design, weight)
    right = (design * (weight * _centred(frame, weight))).sum((1, 2))
    matrix += 1e-9 * np.trace(matrix) * np.eye(2)
    scale, sharpening = np.linalg.solve(matrix, right) if np.trace(matrix) > 0 else (1.0, 0.0)
    return float(scale), float(sharpening)


def _centred(values: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """Values less their weighted mean along each row."""
    mean = (weight * values).sum(1) / np.maximum(weight.sum(1), 1e-300)
    return np.asarray(values - mean[:, None])


@dataclass(frozen=True)
class RowPrior:
    """Covariances of the displacements of the rows along y and x, px squared: ``(2, n_y, n_y)``."""

    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, scan: ScanNoise, n_rows: int, factor: float = 1.0) -> RowPrior:
        """The prior for jitter, drift and hum, and a quadratic polynomial of time as displacement of the whole frame.

        ``factor`` multiplies the variances of the first three: the reference is displaced, too.
        """
        steps = np.arange(n_rows)
        trends = trends_of(n_rows) * np.array(CONSTANTS.trend)
        broad = trends @ trends.T
        return cls(np.stack([broad + factor * linalg.toeplitz(scan.autocovariance(steps, axis)) for axis in "yx"]))


def trends_of(n_rows: int) -> NDArray[np.float64]:
    """Constant, line and parabola ``(n_rows, 3)``; orthogonal, the last two from -1 to 1 and about a mean of 0."""
    t = np.linspace(-1, 1, n_rows) if n_rows > 1 else np.zeros(1)
    return np.stack([np.ones(n_rows), t, t**2 - (t**2).mean()], axis=1)


def without_trends(readings: RowReadings) -> NDArray[np.float64]:
    """The displacements ``(2, n_y)`` less the constant, line and parabola that fit them best."""
    trends, out = trends_of(readings.place.shape[1]), np.empty_like(readings.place)
    for axis, (place, information) in enumerate(zip(readings.place, readings.information, strict=True)):
        root = np.sqrt(information)
        fitted = np.linalg.lstsq(trends * root[:, None], place * root, rcond=None)[0]
        out[axis] = np.where(information > 0, place - trends @ fitted, 0.0)
    return out


def expected_displacements(readings: RowReadings, prior: RowPrior) -> NDArray[np.float64]:
    """Expectation ``(n_y, 2)`` of the displacements given the readings, px.

    With the covariance K and the information W it is ``(1 + K W)^-1 K W t``, about the weighted mean of the readings t.
    """
    expected = []
    for place, information, covariance in zip(readings.place, readings.information, prior.covariance, strict=True):
        mean = (information * place).sum() / max(float(information.sum()), 1e-300)
        weighted = covariance @ (information * (place - mean))
        expected.append(mean + np.linalg.solve(np.eye(len(place)) + covariance * information, weighted))
    return np.stack(expected, axis=1)
