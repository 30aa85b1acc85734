"""The residual after the matched filter of a column, in standard deviations of the noise, and its peaks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage, stats

from stemkit.columns.peaks import BACKGROUND_RATIO, RESPONSE_WEIGHTS
from stemkit.detection.matched_filter import MIN_LENGTH, TRUNCATE, matched_filter, noise_peaks
from stemkit.filters import gaussian_variance_gain
from stemkit.trust.expected_noise import ExpectedNoise

__all__ = ["column_field", "normal_scores", "response_variance", "significant_peaks", "two_sided_noise_peaks"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the scores."""

    #: Border in which the filtered residual is not used, column widths (chosen: its noise is larger there).
    border: float = 2.0
    #: Least skewness, which stands for 0 (chosen: its effect is below 0.001).
    min_skewness: float = 1e-4
    #: Largest excess kurtosis of the filtered noise that is corrected for (chosen: the expansion is monotonic).
    max_kurtosis: float = 0.3
    #: Largest significance up to which the expansion is used (chosen).
    max_score: float = 8.0
    #: Skewness of white noise after the filter of a column of width w, in px, times w, over that before (derived: sum
    #: of the cubes of the difference of Gaussians).
    skewness: float = 0.389
    #: Excess kurtosis after this filter, times w^2, over that before (derived: sum of the fourth powers).
    kurtosis: float = 0.17


CONSTANTS = _Constants()


def response_variance(expected: ExpectedNoise, width: float, local: NDArray) -> NDArray[np.float64]:
    """Variance of the noise of the response at pixels whose pointwise noise has the variance ``local``."""

    def gain(lengths: tuple[float, float] = (0.0, 0.0), correlation: float = 0.0) -> float:
        sigmas = (width, BACKGROUND_RATIO * width)
        return gaussian_variance_gain(sigmas, RESPONSE_WEIGHTS, lengths=lengths, correlation_x=correlation)

    variance = local * gain(correlation=expected.correlation_x)
    for streaks, length in expected.streaks:
        variance = variance + streaks * gain((0.0, max(length, MIN_LENGTH)))
    background, length = expected.background
    return np.asarray(variance + background * gain((max(length, MIN_LENGTH),) * 2) if background else variance)


def column_field(residual: NDArray, expected: ExpectedNoise, width: float) -> NDArray[np.float64]:
    """Matched filter of a column of a residual ``(n_y, n_x)``, over the standard deviation of its noise.

    Where the noise is larger than expected in most of the image, it is divided by the noise found: the median absolute
    deviation.
    """
    # the square of a Gaussian is one of 1 / sqrt(2) of its width
    local = ndimage.gaussian_filter(expected.variance, width / math.sqrt(2), truncate=TRUNCATE)
    field = matched_filter(residual, width).response / np.sqrt(response_variance(expected, width, local))
    found = float(stats.median_abs_deviation(_inside(field, width), axis=None, scale="normal"))
    return np.asarray(field / max(1.0, found))


def significant_peaks(field: NDArray, scaled: NDArray, width: float) -> pd.DataFrame:
    """Peaks of both signs with corrected significance, the highest first, and their q-values.

    Parameters
    ----------
    field : ndarray of shape (n_y, n_x)
        Result of :func:`column_field`.
    scaled : ndarray of shape (n_y, n_x)
        The residual in units of its noise, for the skewness and the kurtosis.
    width : float
        Column width, px.

    Returns
    -------
    DataFrame
        ``y_px, x_px``, the corrected significance ``z`` (standard deviations of the noise, with sign), ``q_value``.
    """
    absolute = np.abs(field)
    is_peak = absolute == ndimage.maximum_filter(absolute, 2 * max(1, round(width)) + 1)
    inner = np.zeros(field.shape, dtype=bool)
    _inside(inner, width)[...] = True
    at = np.argwhere(is_peak & inner)
    skewness, kurtosis = (float(moment(scaled, axis=None)) for moment in (stats.skew, stats.kurtosis))
    z = normal_scores(field[tuple(at.T)], width, skewness, kurtosis)
    order = np.argsort(-np.abs(z), kind="stable")
    at, z = at[order], z[order]
    expected = two_sided_noise_peaks(np.abs(z), field.shape, width) / np.arange(1, len(z) + 1)
    q = np.minimum.accumulate(expected[::-1])[::-1].clip(max=1.0)
    return pd.DataFrame({"y_px": at[:, 0].astype(float), "x_px": at[:, 1].astype(float), "z": z, "q_value": q})


def normal_scores(
    field: NDArray, width: float, skewness: NDArray | float, kurtosis: NDArray | float = 0.0
) -> NDArray[np.float64]:
    """Scores of a normal distribution for those of filtered noise whose pixels have this skewness and excess kurtosis.

    Notes
    -----
    Skew noise has about a gamma distribution, whose cube root is nearly normal [1]_; with the skewness c of the
    filtered noise, the score of z is ``6 / c ((1 + c z / 2)^(1/3) - 1 + c^2 / 36)``. The kurtosis in excess of that of
    the gamma distribution is corrected by the first term of the expansion of Cornish and Fisher [2]_.

    References
    ----------
    .. [1] E. B. Wilson and M. M. Hilferty, Proc. Natl. Acad. Sci. 17, 684 (1931), https://doi.org/10.1073/pnas.17.12.684
    .. [2] E. A. Cornish and R. A. Fisher, Rev. Inst. Int. Stat. 5, 307 (1938), https://doi.org/10.2307/1400905
    """
    skew = np.asarray(skewness * CONSTANTS.skewness / width)
    skew = np.where(np.abs(skew) < CONSTANTS.min_skewness, CONSTANTS.min_skewness, skew)
    z = 6 / skew * (np.cbrt(1 + skew * field / 2) - 1 + skew**2 / 36)
    excess = np.clip(kurtosis * CONSTANTS.kurtosis / width**2 - 1.5 * skew**2, 0.0, CONSTANTS.max_kurtosis)
    t = np.clip(z, -CONSTANTS.max_score, CONSTANTS.max_score)
    return np.asarray(z - excess * (t**3 - 3 * t) / 24)


def two_sided_noise_peaks(z: NDArray, shape: tuple[int, ...], width: float) -> NDArray[np.float64]:
    """Expected number of peaks of noise, of both signs, above a significance.

    Parameters
    ----------
    z : ndarray
        Heights, standard deviations.
    shape : (int, int)
        ``(n_y, n_x)`` of the image.
    width : float
        Width of the filter, px.

    Notes
    -----
    ``2 A q z exp(-z^2 / 2) / (2 pi)^(3/2)`` in the area A inside the border; q is minus the curvature of the
    autocovariance at 0, ``0.825 / width^2``. The detector searches columns by the same formula for peaks of one sign.

    References
    ----------
    R. J. Adler, The Geometry of Random Fields, Wiley (1981), https://doi.org/10.1137/1.9780898718980
    """
    border = _border(shape, width)
    area = float(np.prod([n - 2 * border for n in shape]))
    return np.asarray(2 * noise_peaks(z, area, width, skewness=0.0))


def _border(shape: tuple[int, ...], width: float) -> int:
    return min(math.ceil(CONSTANTS.border * width), (min(shape) - 1) // 4)


def _inside(values: NDArray, width: float) -> NDArray:
    border = _border(values.shape, width)
    return values[border : values.shape[0] - border, border : values.shape[1] - border]
