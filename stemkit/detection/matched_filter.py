"""The matched filter of the columns: response, noise of the response, and the threshold of its peaks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.columns.peaks import BACKGROUND_RATIO, RESPONSE_WEIGHTS, RESPONSE_WIDTHS, pixel_subset
from stemkit.detection.normalized_image import NormalizedImage
from stemkit.filters import gaussian_variance_gain, wide_gaussian
from stemkit.noise import NoiseModel

__all__ = [
    "MIN_SIGNIFICANCE",
    "FilteredImage",
    "detection_threshold",
    "matched_filter",
    "noise_peaks",
    "noise_skewness",
    "noise_variance",
    "remove_streaks",
]

#: Lowest threshold of peaks, standard deviations of the noise (chosen).
MIN_SIGNIFICANCE = 2.5
#: Radius of the Gaussian filters, sigmas (chosen: 0.3 % of the weight of a Gaussian is beyond).
TRUNCATE = 3.0
#: Least correlation length of streaks and background, px (chosen: 0 is white noise for the formulas of the filter).
MIN_LENGTH = 0.1


@dataclass(frozen=True)
class ThresholdConstants:
    """Constants of :func:`detection_threshold` (all chosen)."""

    #: Largest fraction of false peaks among those within one standard deviation above the threshold.
    local_false_fraction: float = 0.25
    #: Largest fraction of false peaks among all columns.
    total_false_fraction: float = 0.02
    #: Margin of the lower limit of the number of peaks near the threshold, standard deviations.
    count_margin: float = 1.5
    #: Fraction of the skewness of counts that is accounted for: bright places have less, and all of it costs faint
    #: columns.
    skewness_fraction: float = 0.5


@dataclass(frozen=True)
class StreakConstants:
    """Constants of :func:`remove_streaks` (all chosen)."""

    #: Length of the filter along the rows, in lengths of the streaks.
    filter_length: float = 0.5
    #: Least length of the filter, in widths of the columns.
    min_filter_length: float = 3.0
    #: Least length of the rows, in lengths of the filter.
    min_filters_per_row: float = 3.0
    #: Fraction of the variance of the streaks that the filter does not remove, with a margin.
    remaining: float = 0.03


THRESHOLD_CONSTANTS = ThresholdConstants()
STREAK_CONSTANTS = StreakConstants()


@dataclass(frozen=True)
class FilteredImage:
    """An image after the matched filter.

    Parameters
    ----------
    response : ndarray of shape (n_y, n_x)
        The difference of Gaussians of :func:`stemkit.columns.column_response`.
    level : ndarray of shape (n_y, n_x)
        The first of these Gaussians alone: the local intensity.
    """

    response: NDArray[np.float64]
    level: NDArray[np.float64]


def matched_filter(values: NDArray, width: float) -> FilteredImage:
    """Filter an image with the difference of a Gaussian of the column width, px, and a wider one."""
    level, background = (
        ndimage.gaussian_filter(values, sigma, mode="reflect", truncate=TRUNCATE)
        for sigma in (width, BACKGROUND_RATIO * width)
    )
    return FilteredImage(level - background, level)


def noise_variance(level: NDArray, image: NormalizedImage, noise: NoiseModel, width: float) -> NDArray[np.float64]:
    """Variance of the noise of the response, ``(n_y, n_x)``, for the level of :class:`FilteredImage`."""
    pointwise_gain, additive = _filtered_noise(noise, width)
    variance = image.variance(level)
    variance *= pointwise_gain * _border_factor(level.shape, width)
    variance += additive
    return variance


def detection_threshold(heights: NDArray, area: float, width: float, n_known: int = 0, skewness: float = 0.0) -> float:
    """The lowest threshold for peaks, in standard deviations of the noise, above which few of them are noise.

    Parameters
    ----------
    heights : ndarray of shape (n,)
        Heights of the peaks of the response, standard deviations of the noise.
    area : float
        Area of the image, px^2.
    width : float
        Width of the filter, px.
    n_known : int
        Number of columns that are already known.
    skewness : float
        Skewness of the filtered noise.

    Notes
    -----
    Filtered Gaussian noise of variance 1 has ``q z exp(-z^2 / 2) / (2 pi)^(3/2)`` maxima above z per unit area, where
    q is minus the curvature of its autocovariance at zero [1]_: 0.825 / width^2 for this filter. At the threshold, the
    expected number of noise peaks within one standard deviation above is at most a quarter of the number of peaks there
    (the local false discovery rate [2]_: bright columns do not justify faint peaks), and the expected number above is
    at most one in fifty of all columns.

    References
    ----------
    .. [1] R. J. Adler, The Geometry of Random Fields, Wiley (1981), https://doi.org/10.1137/1.9780898718980
    .. [2] B. Efron, R. Tibshirani, J. D. Storey, V. Tusher, J. Am. Stat. Assoc. 96, 1151 (2001),
       https://doi.org/10.1198/016214501753382129
    """
    ordered = np.sort(heights)
    noise_above = noise_peaks(ordered, area, width, skewness)
    noise_near = noise_above - noise_peaks(ordered + 1, area, width, skewness)
    n_above = n_known + np.arange(len(ordered), 0, -1)
    n_near = np.searchsorted(ordered, ordered + 1, side="right") - np.searchsorted(ordered, ordered)
    # a lower limit of the number near the threshold: few peaks may be there by chance
    least = n_near - THRESHOLD_CONSTANTS.count_margin * np.sqrt(n_near)
    allowed = np.maximum(THRESHOLD_CONSTANTS.local_false_fraction * least, THRESHOLD_CONSTANTS.total_false_fraction)
    good = np.flatnonzero((noise_near <= allowed) & (noise_above <= THRESHOLD_CONSTANTS.total_false_fraction * n_above))
    return max(MIN_SIGNIFICANCE, float(np.nextafter(ordered[good[0]], 0))) if len(good) else math.inf


def noise_peaks(heights: NDArray, area: float, width: float, skewness: float) -> NDArray:
    """Expected number of noise peaks above each height, of one sign; the formula is in :func:`detection_threshold`.

    Parameters
    ----------
    heights : ndarray
        Standard deviations of the filtered noise.
    area : float
        Area of the image, px^2.
    width : float
        Width of the filter, px.
    skewness : float
        Skewness of the filtered noise.
    """
    v = np.array([2.0, 1 + BACKGROUND_RATIO**2, 2 * BACKGROUND_RATIO**2])
    signs = np.array([1.0, -2.0, 1.0])
    curvature = float((signs / v**2).sum() / (signs / v).sum()) / width**2
    # the Cornish-Fisher expansion for skew noise, up to where it is monotonic
    z = np.minimum(heights, 2.5 / max(skewness, 1e-3))
    z = np.maximum(z - skewness * (z**2 - 1) / 6, 1.0)
    return area * curvature / (2 * np.pi) ** 1.5 * z * np.exp(-(z**2) / 2)


def noise_skewness(image: NormalizedImage, width: float) -> float:
    """Skewness of the filtered noise of counted electrons that is accounted for; 0 for other noise.

    The third moment of the filter is ``0.389 / width`` times its second moment to the power of 3/2. A count of variance
    v and gain g has the skewness ``g / v^1/2``.
    """
    pointwise = image.noise.pointwise
    if pointwise.kind != "poisson" or image.sign < 0:
        return 0.0
    variance = float(image.variance(np.atleast_1d(np.median(pixel_subset(image.recorded))))[0])
    return THRESHOLD_CONSTANTS.skewness_fraction * 0.389 * max(pointwise.gain, 0.0) / (width * math.sqrt(variance))


def remove_streaks(residual: NDArray, noise: NoiseModel, width: float) -> tuple[NDArray[np.float64], NoiseModel]:
    """Subtract the estimated streaks from the residual of the fits.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
    noise : NoiseModel
    width : float
        Width of the columns, px.

    Returns
    -------
    residual : ndarray of shape (n_y, n_x)
    noise : NoiseModel
        With the streaks that remain.
    """
    scan = noise.scan
    if scan.amplitude == 0:
        return residual, noise
    length = max(STREAK_CONSTANTS.filter_length * scan.length, STREAK_CONSTANTS.min_filter_length * width)
    length = min(length, residual.shape[1] / STREAK_CONSTANTS.min_filters_per_row)
    row_means = wide_gaussian(residual, length, axes=(1,))
    smooth = ndimage.gaussian_filter1d(row_means, BACKGROUND_RATIO * width, axis=0, mode="reflect", truncate=TRUNCATE)
    pointwise = (noise.pointwise.readout**2 + max(noise.pointwise.gain, 0.0) / 4) / (2 * math.sqrt(math.pi) * length)
    # the Wiener filter of streaks in pointwise noise
    fraction = scan.amplitude**2 / (scan.amplitude**2 + pointwise)
    remaining = scan.amplitude * math.sqrt(1 - fraction + STREAK_CONSTANTS.remaining)
    return residual - fraction * (row_means - smooth), replace(noise, scan=replace(scan, amplitude=remaining))


# --- steps -------------------------------------------------------------------------------------------------------


def _border_factor(shape: tuple[int, ...], width: float) -> NDArray[np.float64]:
    """Variance of the filtered noise over that far from the border, ``(n_y, n_x)``.

    The image is reflected at the border: a Gaussian at a distance d from its mirror image overlaps it by
    ``exp(-d^2 / width^2)``.
    """
    along = [1 + np.exp(-(((np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / width) ** 2)) for n in shape]
    return along[0][:, None] * along[1]


def _filtered_noise(noise: NoiseModel, width: float) -> tuple[float, float]:
    """Variance of the filtered pointwise noise over that of a pixel, and variance of filtered streaks and background.

    See ``stemkit.filters.gaussian_variance_gain``.
    """
    sigmas = [ratio * width for ratio in RESPONSE_WIDTHS]

    def gain(length_y: float, length_x: float, correlation_x: float = 0.0) -> float:
        return gaussian_variance_gain(
            sigmas, RESPONSE_WEIGHTS, lengths=(length_y, length_x), correlation_x=correlation_x
        )

    def finite(length: float) -> float:
        return max(length, MIN_LENGTH)

    scan, background = noise.scan, noise.background
    streaks = scan.amplitude**2 * gain(0.0, finite(scan.length))
    streaks += scan.short_amplitude**2 * gain(0.0, finite(scan.short_length))
    smooth = background.amplitude**2 * gain(finite(background.length), finite(background.length))
    return gain(0.0, 0.0, noise.pointwise.correlation_x), streaks + smooth
