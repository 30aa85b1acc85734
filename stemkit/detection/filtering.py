"""An image seen through a filter of the columns' width, in standard deviations of the noise; and its peaks that noise
does not make.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.columns import pixel_subset
from stemkit.columns.peaks import BACKGROUND_RATIO
from stemkit.detection.view import View
from stemkit.filters import wide_gaussian
from stemkit.noise import NoiseModel

__all__ = ["LOWEST", "filtered", "noise_variance", "skewness", "threshold", "without_streaks"]

#: Peaks of the recorded image are looked at from this many standard deviations of the noise.
LOWEST = 2.5
#: Of the peaks of about one height that are taken for columns, this part may be noise; and this part of all.
FALSE, FALSE_IN_ALL = 0.25, 0.02
#: Part of the skewness of counts that is reckoned with: brighter places have less, and all of it costs faint columns.
SKEWED = 0.5
#: Gaussian filters end at this many sigmas (chosen: what is left out is 0.3 % of their weight).
TRUNCATE = 3.0
#: Part of the streaks' variance that a filter of half their length leaves, and a margin.
LEFT_OF_STREAKS = 0.03


def filtered(values: NDArray, width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An image through the difference of a Gaussian of the columns' width and a wider one; and through the first."""
    level, surround = (
        ndimage.gaussian_filter(values, sigma, mode="reflect", truncate=TRUNCATE)
        for sigma in (width, BACKGROUND_RATIO * width)
    )
    return level - surround, level


def noise_variance(level: NDArray, view: View, noise: NoiseModel, width: float) -> NDArray[np.float64]:
    """Variance of the noise of a filtered image, where the recorded image through the Gaussian is ``level``."""
    white, other = _filtered_noise(noise, width)
    variance = view.variance(level)
    variance *= white * _mirrored(level.shape, width)
    variance += other
    return variance


def threshold(heights: NDArray, area: float, width: float, known: int = 0, skewness: float = 0.0) -> float:
    """The lowest height, in standard deviations of the noise, down to which few peaks are noise.

    Parameters
    ----------
    heights : ndarray of shape (n,)
        Of the peaks of an image seen through :func:`~stemkit.columns.column_response`.
    area : float
        Of the image, px^2.
    width : float
        Of the filter, px.
    known : int
        Number of columns that are known already.
    skewness : float
        Of the filtered noise.

    Notes
    -----
    Gaussian noise of variance 1 has ``q z exp(-z^2 / 2) / (2 pi)^(3/2)`` maxima above z in a unit of area, where q is
    minus the curvature of its autocovariance at zero [1]_: 0.825 / width^2 through the filter. From the highest peak
    downwards, peaks count as long as these are at most a quarter of those that there are up to one above (the local
    false discovery rate [2]_: strong columns don't lend their credit to faint peaks), and at most one in fifty of all.

    References
    ----------
    .. [1] R. J. Adler, The Geometry of Random Fields, Wiley (1981), https://doi.org/10.1137/1.9780898718980
    .. [2] B. Efron, R. Tibshirani, J. D. Storey, V. Tusher, J. Am. Stat. Assoc. 96, 1151 (2001),
       https://doi.org/10.1198/016214501753382129
    """

    def from_here(sample: NDArray, z: NDArray) -> NDArray:
        return np.searchsorted(sample, z + 1, side="right") - np.searchsorted(sample, z)

    ordered = np.sort(heights)
    all_noise = _noise_peaks(ordered, area, width, skewness)
    noise = all_noise - _noise_peaks(ordered + 1, area, width, skewness)
    above = known + np.arange(len(ordered), 0, -1)
    # few peaks may be there by chance: what counts is how many there are at least
    near = from_here(ordered, ordered)
    allowed = np.maximum(FALSE * (near - 1.5 * np.sqrt(near)), FALSE_IN_ALL)
    good = np.flatnonzero((noise <= allowed) & (all_noise <= FALSE_IN_ALL * above))
    return max(LOWEST, float(np.nextafter(ordered[good[0]], 0))) if len(good) else math.inf


def skewness(view: View, width: float) -> float:
    """Skewness of the filtered noise of counts, of which a part is reckoned with: ``0.389 gain / (width sigma)``.

    The filter's third moment is ``0.389 / width`` times its second one's power of 3/2; a count of variance v and gain g
    has the skewness ``g / v^1/2``.
    """
    pointwise = view.noise.pointwise
    if pointwise.kind != "poisson" or view.sign < 0:
        return 0.0
    variance = float(view.variance(np.atleast_1d(np.median(pixel_subset(view.recorded))))[0])
    return SKEWED * 0.389 * max(pointwise.gain, 0.0) / (width * math.sqrt(variance))


def without_streaks(rest: NDArray, noise: NoiseModel, width: float) -> tuple[NDArray[np.float64], NoiseModel]:
    """What columns leave without the rows' own offsets, as far as the rows tell them from the pixels' noise; and the
    noise that is left. ``width`` is that of a column in these pixels.
    """
    scan = noise.scan
    if scan.amplitude == 0:
        return rest, noise
    # half the streaks' length follows them well
    length = min(max(scan.length / 2, 3 * width), rest.shape[1] / 3)
    along = wide_gaussian(rest, length, axes=(1,))
    offset = along - ndimage.gaussian_filter1d(
        along, BACKGROUND_RATIO * width, axis=0, mode="reflect", truncate=TRUNCATE
    )
    pointwise = (noise.pointwise.readout**2 + max(noise.pointwise.gain, 0.0) / 4) / (2 * math.sqrt(math.pi) * length)
    told = scan.amplitude**2 / (scan.amplitude**2 + pointwise)
    left = scan.amplitude * math.sqrt(1 - told + LEFT_OF_STREAKS)
    return rest - told * offset, replace(noise, scan=replace(scan, amplitude=left))


# --- steps -------------------------------------------------------------------------------------------------------


def _noise_peaks(heights: NDArray, area: float, width: float, skewness: float) -> NDArray:
    """How many peaks above a height noise makes in an area; the formula is in :func:`threshold`."""
    v = np.array([2.0, 1 + BACKGROUND_RATIO**2, 2 * BACKGROUND_RATIO**2])
    signs = np.array([1.0, -2.0, 1.0])
    curvature = float((signs / v**2).sum() / (signs / v).sum()) / width**2
    z = np.minimum(heights, 2.5 / max(skewness, 1e-3))
    z = np.maximum(z - skewness * (z**2 - 1) / 6, 1.0)
    return area * curvature / (2 * np.pi) ** 1.5 * z * np.exp(-(z**2) / 2)


def _mirrored(shape: tuple[int, ...], width: float) -> NDArray[np.float64]:
    """How many times the filtered noise of the middle there is near the border, where some pixels count twice:
    Gaussians at distance d from their mirror images overlap by exp(-d^2 / width^2).
    """
    along = [1 + np.exp(-(((np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / width) ** 2)) for n in shape]
    return along[0][:, None] * along[1]


def _filtered_noise(noise: NoiseModel, width: float) -> tuple[float, float]:
    """What the filter leaves of the variance of a pixel, and the variance of streaks and background behind it.

    Through Gaussians s and t, white noise keeps ``g(s^2 + t^2)`` of its variance in common, ``g(v) = 1 / (2 pi v)``;
    noise correlated by rho along the row has (1 + rho) / (1 - rho) times the power at low frequency. A field that is
    white noise through a Gaussian of length L keeps ``2 L^2 / (2 L^2 + v)``; streaks, which are so along the row only,
    ``(2 L^2 / (2 L^2 + v) / (2 pi v))^1/2``.
    """
    wide = BACKGROUND_RATIO * width
    v = np.array([2 * width**2, width**2 + wide**2, 2 * wide**2])
    signs = np.array([1.0, -2.0, 1.0])

    def kept(values: NDArray) -> float:
        return float((signs * values).sum())

    def smooth(length: float) -> NDArray:
        return 1 / (1 + v / (2 * max(length, 0.1) ** 2))

    rho = noise.pointwise.correlation_x
    white = kept(1 / (2 * np.pi * v)) * (1 + rho) / (1 - rho)
    scan = noise.scan
    streaks = sum(
        amplitude**2 * kept(np.sqrt(smooth(length) / (2 * np.pi * v)))
        for amplitude, length in ((scan.amplitude, scan.length), (scan.short_amplitude, scan.short_length))
    )
    background = noise.background.amplitude**2 * kept(smooth(noise.background.length))
    return white, streaks + background
