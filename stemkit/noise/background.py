"""Amplitude and length of the smooth background, from the covariance of pixels between the columns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, optimize

from stemkit.columns import ColumnFits
from stemkit.columns.rendering import fitted_change
from stemkit.noise.drawing import smooth_field

__all__ = ["BackgroundStatistics", "OtherNoise", "between_columns", "measure_background"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the measurement."""

    #: Distances from a column within which pixels are left out, column widths (chosen); the first that leaves the
    #: fraction ``min_pixel_fraction`` of the image is used.
    near: tuple[float, ...] = (2.0, 1.6, 1.3)
    #: Fraction of the image that has to be left by one of the distances ``near`` (chosen).
    min_pixel_fraction: float = 0.15
    #: Shortest side for which a background is measured, px (chosen).
    min_side: int = 32
    #: Smallest fraction of the pixels between columns for which it is measured (chosen).
    min_pixels: float = 0.05
    #: Longest distance up to which the covariance is fitted, correlation lengths (chosen).
    reach: float = 3.0
    #: Longest distance up to which the covariance is fitted, as a fraction of the image's side (chosen).
    farthest: float = 0.35
    #: Distance up to which the covariance is fitted at least, px (chosen).
    nearest: float = 12.0
    #: Residual of the columns' model that is not distinguished from a background, as a fraction of the contrast
    #: (chosen).
    misfit: float = 0.02
    #: A background with a length below this many widths of a column is residual of the columns' model (chosen).
    shortest: float = 1.8
    #: Fraction of the RMS misfit of the covariance by which its value at 0 may be wrong (chosen).
    misfit_at_zero: float = 0.4
    #: Relative error of the correction for the columns' fits (chosen).
    correction_error: float = 0.25
    #: Variance over its error below which no background is stated (chosen).
    min_signal: float = 2.0
    #: Largest fraction of the variance that the mean of the image has (chosen).
    max_mean: float = 0.6


CONSTANTS = _Constants()
#: Length of a model without background, px (chosen).
DEFAULT_LENGTH = 32.0


@dataclass(frozen=True)
class BackgroundStatistics:
    """Background of one image.

    Parameters
    ----------
    amplitude, amplitude_std : float
        Fraction of the contrast, and its standard deviation.
    length, length_std : float
        Correlation length, px, and its standard deviation.
    distance, covariance, fitted : ndarray of shape (n_bins,)
        Covariance of pixels in different rows against their distance, px, and the fitted curve.
    """

    amplitude: float = 0.0
    length: float = DEFAULT_LENGTH
    amplitude_std: float = math.nan
    length_std: float = math.nan
    distance: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    covariance: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    fitted: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class OtherNoise:
    """Variances of pointwise noise and streaks, contrast squared, and the length of the streaks, px."""

    pointwise: float
    streaks: float
    streak_length: float


def between_columns(shape: tuple[int, int], fits: ColumnFits | None) -> NDArray[np.bool_]:
    """Pixels that belong to no column."""
    if fits is None:
        return np.ones(shape, dtype=bool)
    width = float(np.median(fits.sigma))
    reach = math.ceil(CONSTANTS.near[0] * width) + 1
    span, center = np.arange(-reach, reach + 1), np.rint(fits.positions).astype(int)
    rows, cols = center[:, :1] + span, center[:, 1:] + span
    squared = ((rows - fits.y[:, None]) ** 2)[:, :, None] + ((cols - fits.x[:, None]) ** 2)[:, None, :]
    inside = ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((cols >= 0) & (cols < shape[1]))[:, None, :]
    pixel, squared = (rows[:, :, None] * shape[1] + cols[:, None, :])[inside], squared[inside]
    for near in CONSTANTS.near:
        between = np.ones(shape, dtype=bool)
        between.ravel()[pixel[squared <= (near * width) ** 2]] = False
        if between.mean() > CONSTANTS.min_pixel_fraction:
            break
    return between


def measure_background(residual: NDArray, use: NDArray, fits: ColumnFits, other: OtherNoise) -> BackgroundStatistics:
    """Amplitude and length of the background.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
        The image without its columns, over the contrast.
    use : ndarray of bool
        Pixels between the columns.
    fits : ColumnFits
        The columns: their fits have absorbed a fraction of the background, which is measured on one drawn at random.
    other : OtherNoise
        It limits the accuracy.

    Notes
    -----
    White noise filtered with a Gaussian of sigma L has the covariance ``A^2 exp(-r^2 / (4 L^2))``. It is measured
    between pixels of different rows, where the other noise has none, and fitted with the mean of the image (which is
    attributed to the level) subtracted, which lowers it everywhere by ``A^2 4 pi L^2 / area``.
    """
    if min(residual.shape) < CONSTANTS.min_side or use.mean() < CONSTANTS.min_pixels:
        return BackgroundStatistics()
    curve = _RadialCovariance.of(residual, use)
    fit = _fit(curve)
    none = BackgroundStatistics(amplitude_std=CONSTANTS.misfit, distance=curve.distance, covariance=curve.covariance)
    if fit.variance == 0.0 or fit.length < CONSTANTS.shortest * float(np.median(fits.sigma)):
        return none
    ratio = _Ratio.simulated(use, fits, fit.length)
    squared, length = fit.variance / ratio.variance, fit.length / ratio.length
    realised = max(squared, 0.0) * (1 - _mean_fraction(length, curve.area))
    error = _variance_error(curve, fit, ratio, other, use)
    if realised < CONSTANTS.min_signal * error:
        return replace(none, amplitude_std=math.sqrt(error) / 2)
    amplitude = math.sqrt(realised)
    sampling = math.sqrt(2 * math.pi * length**2 / curve.area)
    return BackgroundStatistics(
        amplitude=amplitude,
        length=length,
        amplitude_std=error / (2 * amplitude),
        length_std=1.3 * length * math.hypot(sampling, error / realised / 2, abs(1 - ratio.length) / 4),
        distance=curve.distance,
        covariance=curve.covariance,
        fitted=fit.variance * _shape(curve.distance, fit.length, curve.area),
    )


def _variance_error(curve: _RadialCovariance, fit: _FieldFit, ratio: _Ratio, other: OtherNoise, use: NDArray) -> float:
    """Standard deviation of the variance of the background."""
    n_y, n_x = use.shape
    squared, length = fit.variance / ratio.variance, fit.length / ratio.length
    fitted = curve.take(fit.used)
    shape = _shape(fitted.distance, length, curve.area)
    extent = 2 * math.sqrt(math.pi) * min(other.streak_length, n_x / (2 * math.sqrt(math.pi)))
    # products of the other noise with itself, within rows, and with the background
    white = (other.pointwise + other.streaks) / math.sqrt(float((fitted.pairs * shape**2).sum()))
    rows = other.streaks * math.sqrt(extent / (length * n_x * n_y))
    power = other.pointwise + other.streaks * extent
    cross = 2 * math.sqrt(max(squared, 0.0) * power / use.sum())
    realised = max(squared, 0.0) * (1 - _mean_fraction(length, curve.area))
    relative = CONSTANTS.misfit + CONSTANTS.correction_error * abs(1 / ratio.variance - 1)
    # residuals of a lattice do not have this covariance
    residual = fitted.covariance - fit.variance * _shape(fitted.distance, fit.length, curve.area)
    misfit = CONSTANTS.misfit_at_zero * math.sqrt(float(np.average(residual**2, weights=fitted.pairs)))
    return math.hypot(white / ratio.variance, rows, cross, 2 * relative * realised, CONSTANTS.misfit**2 / 4, misfit)


# --- covariance --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _RadialCovariance:
    """Covariance of pixels in different rows against their distance in px, the number of pairs, and the image's area
    in px.
    """

    distance: NDArray[np.float64]
    covariance: NDArray[np.float64]
    pairs: NDArray[np.float64]
    area: float

    @classmethod
    def of(cls, residual: NDArray, use: NDArray) -> _RadialCovariance:
        """Covariance of the pixels that are used, by Fourier transform, in blocks of 2 x 2 px in large images."""
        block = 2 if min(residual.shape) >= 128 else 1
        weight = _block_sums(use.astype(np.float64), block)
        values = _block_sums(np.where(use, residual, 0.0), block)
        values = values - weight * values.sum() / weight.sum()
        reach = int(CONSTANTS.farthest * min(values.shape))
        products, pairs = (_lagged_products(one, reach) for one in (values, weight))
        radius = np.hypot(np.arange(1, reach + 1)[:, None], np.arange(-reach, reach + 1)[None, :])
        index = np.rint(radius).astype(int).ravel()
        keep = index <= reach
        count: NDArray[np.float64] = np.bincount(index[keep], pairs.ravel()[keep]).astype(np.float64)
        distance, covariance = (
            np.bincount(index[keep], one.ravel()[keep]) / np.maximum(count, 1e-9) for one in (radius * pairs, products)
        )
        some = count > 1
        return cls(distance[some] * block, covariance[some], count[some], float(residual.size))

    def take(self, chosen: NDArray) -> _RadialCovariance:
        """A subset of the distances."""
        return _RadialCovariance(self.distance[chosen], self.covariance[chosen], self.pairs[chosen], self.area)


def _block_sums(values: NDArray, block: int) -> NDArray[np.float64]:
    n_y, n_x = (n // block * block for n in values.shape)
    return values[:n_y, :n_x].reshape(n_y // block, block, n_x // block, block).sum((1, 3))


def _lagged_products(values: NDArray, reach: int) -> NDArray[np.float64]:
    """Sums of products of pixels at lags 1 to ``reach`` along y and -``reach`` to ``reach`` along x."""
    size = [fft.next_fast_len(n + int(CONSTANTS.farthest * n) + 2, real=True) for n in values.shape]
    products = fft.irfft2(np.abs(fft.rfft2(values, s=size)) ** 2, s=size)
    return products[np.ix_(np.arange(1, reach + 1), np.arange(-reach, reach + 1))]


# --- fit ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _FieldFit:
    """Variance and length (px) of a field, and the distances that they were fitted on."""

    variance: float
    length: float
    used: NDArray[np.bool_]


@dataclass(frozen=True)
class _Ratio:
    """Variance and length of a background after the columns are fitted, over those before."""

    variance: float = 1.0
    length: float = 1.0

    @classmethod
    def simulated(cls, use: NDArray, fits: ColumnFits, length: float) -> _Ratio:
        """Ratio for a background of this length that is drawn at random."""
        generator = torch.Generator().manual_seed(0)
        drawn = smooth_field(torch.Size((1, *use.shape)), torch.tensor([length]), generator, torch.float64)[0].numpy()
        before, after = (_fit(_RadialCovariance.of(one, use)) for one in (drawn, drawn - fitted_change(fits, drawn)))
        if before.variance <= 0 or after.variance <= 0:
            return cls()
        variance, length = after.variance / before.variance, after.length / before.length
        return cls(float(np.clip(variance, 0.3, 1.5)), float(np.clip(length, 0.5, 2.0)))


def _mean_fraction(length: float, area: float) -> float:
    """Fraction of the variance that the mean of an image has."""
    return min(4 * math.pi * length**2 / area, CONSTANTS.max_mean)


def _shape(distance: NDArray, length: float, area: float) -> NDArray[np.float64]:
    return np.exp(-((distance / (2 * length)) ** 2)) - _mean_fraction(length, area)


def _fit(curve: _RadialCovariance) -> _FieldFit:
    """Variance and length, fitted up to a few lengths."""
    farthest = largest = CONSTANTS.farthest * math.sqrt(curve.area)
    for _ in range(3):
        used = curve.distance <= farthest
        variance, length = _least_squares(curve.take(used))
        farthest = float(np.clip(CONSTANTS.reach * length, CONSTANTS.nearest, largest))
    return _FieldFit(variance, length, used)


def _least_squares(curve: _RadialCovariance) -> tuple[float, float]:
    """Variance and length, weighted by pairs: on a grid of lengths, then by a bounded search."""
    weight = curve.pairs / curve.pairs.max()

    def variance(length: float) -> tuple[float, float]:
        shape = _shape(curve.distance, length, curve.area)
        scale = max(float((weight * shape * curve.covariance).sum() / (weight * shape**2).sum()), 0.0)
        return scale, float((weight * (curve.covariance - scale * shape) ** 2).sum())

    tried = np.geomspace(3.0, 0.6 * math.sqrt(curve.area), 40)
    best = int(np.argmin([variance(length)[1] for length in tried]))
    bounds = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
    length = float(optimize.minimize_scalar(lambda g: variance(g)[1], bounds=bounds, method="bounded").x)
    return variance(length)[0], length
