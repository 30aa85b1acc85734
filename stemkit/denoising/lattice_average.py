"""Combination of a network's result with the average over the translations of the lattice.

A network enhances each place from its surroundings. In a crystal, every unit cell shows the same columns, and the mean
of the network's result over the cells has its random error divided by the square root of the number of cells. The mean
is used where the recorded pixels agree with it; where they contradict it, as at a vacancy or beyond an edge, the
network's result is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from stemkit.columns import LinearVariance
from stemkit.denoising.translations import Translations
from stemkit.filters import gaussian_variance_gain, wide_gaussian
from stemkit.statistics import gaussian_width, row_correlation

__all__ = ["combine_with_lattice"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the combination.

    Those marked "tuned" were chosen for PSNR and planted defects on scenes of ``stemkit.benchmark`` drawn with other
    seeds than those of its tables.
    """

    #: Widths of the Gaussian filters between which the correction of the network's bias is divided into bands, px.
    bands: tuple[float, ...] = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
    #: A band counts by its power above this multiple of that of noise (tuned); the last one, below the frequencies of
    #: the widest filter, by its power above that of noise.
    band_threshold: float = 1.5
    #: Range of chi-squared over which a residual changes from noise to a contradiction; by chance noise exceeds 8
    #: in 5 % and 16 in 0.1 % of the places (tuned).
    contradiction: tuple[float, float] = (8.0, 16.0)
    #: The same for displacements and heights of columns to be refitted (tuned).
    refit: tuple[float, float] = (8.0, 14.0)
    #: Fraction of a refitted deviation in the network's result from which the refit is used in full (tuned).
    agreement: float = 0.5
    #: Range of the mean of chi-squared at columns, divided by its expectation, over which a lattice changes from one
    #: that explains the image to one that does not (tuned).
    chi_squared: tuple[float, float] = (1.1, 1.4)
    #: Shift of this range for the mean in a neighbourhood (chosen).
    local_chi_squared: float = 0.1
    #: Standard deviation of that neighbourhood, in spacings (chosen).
    neighborhood: float = 3.0
    #: Window of a refitted column, in column widths (tuned).
    refit_window: float = 1.2
    #: Largest refitted deviation of a height, in heights; a vacancy is -1 (chosen).
    max_height: float = 1.25
    #: Largest refitted displacement, in column widths: a linear expansion does not describe larger ones (chosen).
    max_shift: float = 1.5
    #: Added to the diagonal of the normalised normal equations: directions that the window cannot determine stay 0
    #: (chosen).
    ridge: float = 0.02
    #: Correlation between neighbouring pixels of a row below which it is sampling error (chosen).
    uncorrelated: float = 0.02
    #: Residuals are clipped at this many standard deviations before rows are averaged (chosen).
    outlying: float = 3.0
    #: Number of rows that are refitted at once (chosen: memory).
    strip: int = 512
    #: Rows that are added on either side of a strip, in column widths (chosen: the filters end before).
    strip_margin: float = 8.0
    #: Quantile of the periodic estimate that counts as the background of the columns (chosen).
    background_quantile: float = 0.05
    #: Least variance of the noise of a pixel, as a fraction of the mean (chosen).
    min_variance: float = 0.2
    #: Half the edge of the square over which a significance is extended, in column widths (chosen).
    dilation: float = 0.6


CONSTANTS = _Constants()
#: Degrees of freedom of chi-squared: a column's height and its displacements along y and x.
N_TEMPLATES = 3
#: Added to divisors that may be 0 (chosen: far below those of any column; squares of images of unit variance).
TINY = 1e-9


def combine_with_lattice(recorded: NDArray, enhanced: NDArray) -> NDArray[np.float64]:
    """Average an enhanced image over the translations of its lattice where the recorded pixels agree.

    Parameters
    ----------
    recorded : ndarray of shape (n_y, n_x)
        Recorded image, columns bright.
    enhanced : ndarray of shape (n_y, n_x)
        The network's result, in the same units.

    Returns
    -------
    ndarray of shape (n_y, n_x)
        ``enhanced`` itself where no lattice is found.

    Notes
    -----
    1. The periodic estimate is the mean of ``enhanced`` over lattice vectors t with Gaussian weights,
       ``P(r) = sum_t g(t) enhanced(r + t) / sum_t g(t)`` over the t inside the image, plus the mean of the residual
       ``recorded - enhanced``, which is the network's bias, with each band of frequencies shrunk by the ratio of its
       power above the noise to its power, as a Wiener filter does.
    2. The residual ``recorded - o - P``, where the offset o of a row is its mean of ``recorded - enhanced``, is
       divided by the standard deviation of its noise, and projected on a Gaussian of the columns' width and on its two
       derivatives. The sum of the three squares is chi-squared with three degrees of freedom where P is right.
    3. Where heights and displacements of columns, fitted to the residual by least squares in a window of a column's
       size, are significant, and the network shows them too, they are added to P.
    4. Where the residual is still significant, or the mean of chi-squared in a neighbourhood or in the whole image
       exceeds its expectation, the network's result is used.

    The variance of the noise is a linear function of intensity, fitted to the squared residuals of ``enhanced``.
    """
    enhanced = np.asarray(enhanced, dtype=np.float64)
    offset, scale = float(enhanced.mean()), float(enhanced.std())
    if not scale:
        return enhanced
    normalized = (((np.asarray(image, dtype=np.float64) - offset) / scale) for image in (recorded, enhanced))
    combined = _combine(*(image.astype(np.float32) for image in normalized))
    return enhanced if combined is None else combined * scale + offset


def _combine(recorded: NDArray, enhanced: NDArray) -> NDArray[np.float64] | None:
    """The combination of a recorded and an enhanced image; None if it is the enhanced image itself."""
    translations = Translations.from_images(recorded, enhanced)
    if translations is None:
        return None
    noise = _Noise.from_residual(recorded - enhanced, enhanced)
    without_row_offsets = recorded - noise.row_offsets
    periodic = _periodic_estimate(translations, noise, recorded, enhanced)
    width = gaussian_width(periodic)
    chi_squared = noise.chi_squared(without_row_offsets - periodic, width)
    misfit = _lattice_misfit(chi_squared, periodic, noise, width, translations.spacing).astype(np.float32)
    if misfit.min() == 1:
        return None
    periodic = periodic + (1 - misfit) * _refit(without_row_offsets, periodic, enhanced, noise, width)
    chi_squared = noise.chi_squared(without_row_offsets - periodic, width)
    keep = np.maximum(misfit, _dilated_weight(chi_squared, CONSTANTS.contradiction, width))
    return np.asarray(periodic + keep * (enhanced - periodic), dtype=np.float64)


# --- the noise ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Noise:
    """Noise of a recorded image, from its residual with an enhanced one.

    Parameters
    ----------
    row_offsets : ndarray of shape (n_y, 1)
        Mean of the residual along each row.
    variance : ndarray of shape (n_y, n_x)
    variance_inflation : float
        Factor by which the variance of a wide filter's output exceeds that of white noise of this variance.
    """

    row_offsets: NDArray
    variance: NDArray
    variance_inflation: float

    @classmethod
    def from_residual(cls, residual: NDArray, enhanced: NDArray) -> _Noise:
        """The noise of a residual, recorded minus enhanced image."""
        variance = _linear_variance(residual, enhanced)(enhanced)
        limit = CONSTANTS.outlying * residual.std()
        row_offsets = residual.clip(-limit, limit).mean(axis=1, keepdims=True)
        scaled = (residual - row_offsets) / np.sqrt(variance)
        correlation = row_correlation(scaled)
        if correlation < CONSTANTS.uncorrelated:
            correlation = 0.0
        power = float(np.mean(scaled**2)) or 1.0
        return cls(row_offsets, variance, power * (1 + correlation) / (1 - correlation))

    def chi_squared(self, residual: NDArray, width: float) -> NDArray:
        """Sum of the squares of a residual's projections on a Gaussian column and its derivatives along y and x, each
        of unit variance where the residual is noise.

        White noise filtered with a Gaussian of width s has ``1 / (4 pi s^2)`` of its variance, and with a derivative of
        the Gaussian ``1 / (8 pi s^4)``.
        """
        scaled = residual / np.sqrt(self.variance)
        height = self.variance_inflation * gaussian_variance_gain(width)
        slope = height / (2 * width**2)
        variances = {(0, 0): height, (1, 0): slope, (0, 1): slope}
        return np.asarray(
            sum(ndimage.gaussian_filter(scaled, width, order=order) ** 2 / v for order, v in variances.items())
        )


def _linear_variance(residual: NDArray, signal: NDArray) -> LinearVariance:
    """Straight line through the squares of a residual against the signal, at least ``min_variance`` of their mean."""
    squares, level = residual**2, float(signal.mean())
    centered = signal - level
    power = float(np.mean(centered.astype(np.float64) ** 2))
    slope = float(np.mean(squares * centered)) / power if power else 0.0
    mean = float(squares.mean(dtype=np.float64))
    # without a residual any variance will do
    return LinearVariance(mean - slope * level, slope, CONSTANTS.min_variance * mean or 1.0)


# --- the estimate ------------------------------------------------------------------------------------------------


def _periodic_estimate(translations: Translations, noise: _Noise, recorded: NDArray, enhanced: NDArray) -> NDArray:
    """The mean over the cells of the network's result, corrected for its bias."""
    # the offsets of rows are in the bias, since those of streaks are averaged over the cells like other noise
    bias = translations.mean(recorded - enhanced)
    averaged_variance = float(np.mean(noise.variance / translations.cells))
    return translations.mean(enhanced) + _wiener_by_bands(bias, averaged_variance)


def _wiener_by_bands(values: NDArray, variance: float) -> NDArray:
    """Bands of an image that exceed white noise of a variance: a Wiener filter by bands, borders reflected."""
    waves = fft.dctn(values, type=2, norm="ortho", workers=-1)
    y, x = (np.square(np.arange(n) / n) for n in values.shape)
    squares = y[:, None] + x
    passed, gain = np.ones_like(waves), np.zeros_like(waves)
    for width in (*CONSTANTS.bands, np.inf):
        lower = np.exp(-0.5 * (np.pi * width) ** 2 * squares) if np.isfinite(width) else np.zeros_like(waves)
        band = passed - lower
        power = float(np.mean((band * waves) ** 2))
        expected = variance * float(np.mean(band**2)) * (CONSTANTS.band_threshold if np.isfinite(width) else 1.0)
        gain += band * max(0.0, 1 - expected / power if power else 0.0)
        passed = lower
    return np.asarray(fft.idctn(gain * waves, type=2, norm="ortho", workers=-1))


def _lattice_misfit(chi_squared: NDArray, periodic: NDArray, noise: _Noise, width: float, spacing: float) -> NDArray:
    """Weight of the network's result, 0 to 1: rises to 1 where the mean chi-squared at columns shows that one lattice
    does not explain the image.
    """
    detail = periodic - wide_gaussian(periodic, spacing)
    weight = ndimage.gaussian_filter(detail**2 / noise.variance, width)
    reach = CONSTANTS.neighborhood * spacing
    nearby = wide_gaussian(weight * chi_squared, reach) / np.maximum(wide_gaussian(weight, reach), 1e-12 * weight.max())
    low, high = CONSTANTS.chi_squared
    overall = _smoothstep(np.asarray(np.sum(weight * chi_squared) / np.sum(weight) / N_TEMPLATES), low, high)
    local = _smoothstep(nearby / N_TEMPLATES, low + CONSTANTS.local_chi_squared, high + CONSTANTS.local_chi_squared)
    return np.maximum(local, overall)


def _refit(without_row_offsets: NDArray, periodic: NDArray, enhanced: NDArray, noise: _Noise, width: float) -> NDArray:
    """Significant heights and displacements of columns, as the deviation from the periodic estimate that they cause."""
    out, halo = np.zeros_like(periodic), int(np.ceil(CONSTANTS.strip_margin * width))
    background = float(np.quantile(periodic, CONSTANTS.background_quantile))
    for start in range(0, len(periodic), CONSTANTS.strip):
        first, last = max(0, start - halo), min(len(periodic), start + CONSTANTS.strip + halo)
        deviation = _refit_strip(
            *(image[first:last] - background for image in (without_row_offsets, periodic, enhanced)),
            variance=noise.variance[first:last],
            variance_inflation=noise.variance_inflation,
            width=width,
        )
        out[start : start + CONSTANTS.strip] = deviation[start - first : start - first + CONSTANTS.strip]
    return out


def _refit_strip(
    without_row_offsets: NDArray,
    periodic: NDArray,
    enhanced: NDArray,
    *,
    variance: NDArray,
    variance_inflation: float,
    width: float,
) -> NDArray:
    """Significant deviation of some rows from the periodic estimate, all intensities above the background.

    In a Gaussian window about each pixel, the residual is fitted by a height times the periodic estimate, and
    displacements times its slopes. The fit is weighted by its significance, and by how much of it the network's result
    shows; it is 0 where the height or the displacement is too large for a linear expansion.
    """
    window = CONSTANTS.refit_window * width
    templates = np.stack([periodic, *np.gradient(periodic)]) / np.sqrt(variance)
    residual = (without_row_offsets - periodic) / np.sqrt(variance)
    products = [ndimage.gaussian_filter(template * residual, window) for template in templates]
    pairs = {
        (i, j): ndimage.gaussian_filter(templates[i] * templates[j], window)
        for i in range(N_TEMPLATES)
        for j in range(i, N_TEMPLATES)
    }
    tiny = TINY * sum(float(pairs[i, i].max()) for i in range(N_TEMPLATES)) or 1.0
    scale = [np.sqrt(pairs[i, i] + tiny) for i in range(N_TEMPLATES)]
    right = np.stack([product / s for product, s in zip(products, scale, strict=True)])
    solved = _solve_3x3({(i, j): pairs[i, j] / (scale[i] * scale[j]) for i, j in pairs}, right)
    # a Gaussian window averages over as many independent pixels as it reduces the variance of white noise
    significance = (solved * right).sum(axis=0) / (variance_inflation * gaussian_variance_gain(window))
    height, dy, dx = (solved[i] / scale[i] for i in range(N_TEMPLATES))
    deviation = height * templates[0] + dy * templates[1] + dx * templates[2]
    network_deviation = (enhanced - periodic) / np.sqrt(variance)
    power = ndimage.gaussian_filter(deviation**2, width) + TINY
    confirmed = ndimage.gaussian_filter(network_deviation * deviation, width) / power
    is_linear = (np.abs(height) <= CONSTANTS.max_height) & (np.hypot(dy, dx) <= CONSTANTS.max_shift * width)
    factor = is_linear * _smoothstep(confirmed, 0.0, CONSTANTS.agreement)
    weight = _dilated_weight(significance, CONSTANTS.refit, width, factor)
    return np.asarray(weight * deviation * np.sqrt(variance))


def _solve_3x3(matrix: dict[tuple[int, int], NDArray], right: NDArray) -> NDArray:
    """Solutions of symmetric 3 x 3 systems, one per pixel, with a ridge on the diagonal: Cramer's rule.

    ``numpy.linalg.solve`` would need the matrices of all pixels, nine numbers each, in one array.
    """
    a, d, f = (matrix[i, i] + CONSTANTS.ridge for i in range(3))
    b, c, e = matrix[0, 1], matrix[0, 2], matrix[1, 2]
    minors = [[d * f - e * e, c * e - b * f, b * e - c * d]]
    minors += [[minors[0][1], a * f - c * c, b * c - a * e]]
    minors += [[minors[0][2], minors[1][2], a * d - b * b]]
    determinant = a * minors[0][0] + b * minors[0][1] + c * minors[0][2]
    return np.stack([sum(minors[i][j] * right[j] for j in range(3)) / determinant for i in range(3)])


# --- weights -----------------------------------------------------------------------------------------------------


def _smoothstep(values: NDArray, low: float, high: float) -> NDArray:
    """0 below a range, 1 above it, smooth between."""
    at = ((values - low) / (high - low)).clip(0, 1)
    return np.asarray(at * at * (3 - 2 * at))


def _dilated_weight(
    significance: NDArray, limits: tuple[float, float], width: float, factor: NDArray | float = 1.0
) -> NDArray:
    """Weights that cover the column at which something is significant, and end smoothly."""
    edge = 2 * max(1, round(CONSTANTS.dilation * width)) + 1
    return ndimage.gaussian_filter(_smoothstep(ndimage.maximum_filter(significance, edge), *limits) * factor, width / 2)
