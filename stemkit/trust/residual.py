"""Whether the residual of an enhanced image is noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft, ndimage, stats

from stemkit.filters import wide_gaussian
from stemkit.trust.column_field import column_field, significant_peaks, two_sided_noise_peaks
from stemkit.trust.displaced_rows import fit_displacements
from stemkit.trust.expected_noise import ExpectedNoise, column_width
from stemkit.trust.rings import half_plane_weights, hann_window

__all__ = ["ResidualTests", "check_residual", "smoothing_width"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the tests, all of them chosen."""

    #: Sigma of the Gaussian filter whose result is subtracted from the residual, as its background, column widths.
    high_pass: float = 3.0
    #: Least sigma of this filter, px.
    min_high_pass: float = 8.0
    #: Frequency below which the residual may contain the background that was removed, per px: that of a background of
    #: 8 px, the shortest of the training, is below 0.1 % of its maximum.
    background: float = 0.055
    #: Edge of the squares in which the local variance is measured, column widths.
    block: float = 5.0
    #: Least edge of these squares, px.
    min_block: int = 16
    #: Fraction of the power of the enhanced image in the Fourier coefficients in which a lattice is searched for.
    power: float = 0.95
    #: Largest fraction of the coefficients that are used.
    max_fraction: float = 0.02
    #: Width of the rings of spatial frequency in which the residual must be white, per px.
    ring: float = 0.02
    #: Highest of these frequencies; in the corners of the spectrum there is no specimen.
    highest: float = 0.5
    #: Probability of noise, over all tests, below which a value is significant.
    significance: float = 0.01
    #: Values from which a significant test counts as structure: in a million pixels small deviations from any model of
    #: the noise are significant, too.
    effects: Mapping[str, float] = field(
        default_factory=lambda: {
            "whiteness": 1.3,
            "variance": 2.0,
            "lattice": 0.05,
            "blur": 0.03,
            "shift": 0.1,
            "columns": 0.0,
        }
    )


CONSTANTS = _Constants()


@dataclass(frozen=True, eq=False)
class ResidualTests:
    """Tests of a residual, and the positions at which it is not noise.

    Attributes
    ----------
    table : DataFrame
        One row per test: ``value``, ``unit`` and ``p``, the probability that noise has at least this value.
        ``whiteness``: largest power in a ring of spatial frequencies, over that of noise. ``variance``: largest local
        variance, over the median. ``lattice``: RMS of the lattice left in the residual, as a fraction of that in the
        enhanced image. ``blur``: excess of the width of the columns in the enhanced image, as a fraction of this width;
        a contrast that is too low and noise that the enhanced image has kept have the same effect. ``shift``:
        displacement of the whole recorded image relative to the enhanced one, px. ``columns``: largest height of a
        column, standard deviations; positive where the recorded image has more.
    map : ndarray of shape (n_y, n_x)
        Residual after the matched filter of a column, in standard deviations of the noise: positive where the recorded
        image has more than the enhanced one.
    places : DataFrame
        Peaks of the map, the highest first: ``y_px, x_px, z`` and ``q_value``, the expected fraction of noise among the
        peaks that are at least as high.
    width : float
        Width of a column, px.
    displacement : float
        RMS displacement of the rows, px; 0 where it is not significant.
    calibrated : bool
        Whether the expected noise is calibrated, or was measured in the residual.
    """

    table: pd.DataFrame
    map: NDArray[np.float64]
    places: pd.DataFrame
    width: float
    displacement: float
    calibrated: bool

    @property
    def structure(self) -> pd.DataFrame:
        """Tests that show structure: significant, and large enough to matter."""
        significant = self.table["p"] * len(self.table) < CONSTANTS.significance
        large = self.table["value"].abs() >= pd.Series(CONSTANTS.effects).reindex(self.table.index)
        return self.table[significant & large]

    @property
    def p(self) -> float:
        """Probability that noise gives a p-value as small as the smallest of the tests: Bonferroni's bound."""
        return min(1.0, float(self.table["p"].min()) * len(self.table))


def check_residual(residual: NDArray, enhanced: NDArray, expected: ExpectedNoise) -> ResidualTests:
    """Test whether a residual is noise.

    Parameters
    ----------
    residual : ndarray of shape (n_y, n_x)
        Recorded minus enhanced image, columns bright.
    enhanced : ndarray of shape (n_y, n_x)
    expected : ExpectedNoise

    Returns
    -------
    ResidualTests

    Notes
    -----
    The residual is divided by the expected standard deviation of the pointwise noise, and the displacements of rows are
    fitted and removed: they leave residuals around columns that are noise of the scan
    (:func:`~stemkit.trust.displaced_rows.fit_displacements`).

    1. *Whiteness.* The power in rings of spatial frequency, over that of the noise, is the mean of M independent
       coefficients and has a gamma distribution of shape M; p is that of the largest, times the number of rings. The
       power of noise may depend on the frequency along the row, and is the mean over the frequencies across it.
    2. *Variance.* The largest mean square in a square is compared with a gamma distribution; its variance is that
       expected from the kurtosis of the pixels, or that of the squares' means, whichever is larger.
    3. *Lattice.* The same as 1 at the Fourier coefficients that hold most of the power of the enhanced image.
    4. *Blur.* An image I blurred by a Gaussian of variance v leaves the residual ``-v/2 laplace(I)``. The least-squares
       estimate of v/2, weighted by the power of the noise, has a normal distribution; p is that of a larger one. Tests
       2 and 3 need no template and therefore have less power. Displacements of rows have the opposite sign. An
       image of too low contrast, or one that contains a part of the noise, has such a residual, too.
    5. *Shift.* The mean of the displacements over its standard error, that of the means of eight groups of rows.
    6. *Columns.* The largest peak after the matched filter of a column; see
       :func:`~stemkit.trust.column_field.two_sided_noise_peaks`.
    """
    width = column_width(enhanced)
    smoothing = smoothing_width(width)
    std = np.sqrt(expected.variance)
    rows = fit_displacements(residual - wide_gaussian(residual, smoothing), enhanced, std)
    detail = (enhanced - wide_gaussian(enhanced, smoothing)) / std
    blurred = -ndimage.laplace(enhanced, mode="nearest") / std
    spectral = _spectral_tests(rows.residual, detail, blurred)
    blur, p_blur = spectral["blur"]
    found = column_field(rows.residual * std, expected, width)
    places = significant_peaks(found, rows.residual, width)
    tests = {
        "whiteness": (*spectral["whiteness"], "of the power of noise"),
        "variance": (*_local_variance(rows.residual, width, expected.correlation_x), "of the median"),
        "lattice": (*spectral["lattice"], "of the enhanced image"),
        "blur": (blur / width**2, p_blur, "of the width of columns"),
        "shift": (float(np.hypot(*rows.shift)), rows.p, "px"),
        "columns": (*_highest(places, found.shape, width), "standard deviations"),
    }
    table = pd.DataFrame.from_dict(tests, orient="index", columns=["value", "p", "unit"])[["value", "unit", "p"]]
    return ResidualTests(table, found, places, width, rows.rms, expected.calibrated)


def smoothing_width(width: float) -> float:
    """Sigma, px, of the Gaussian filter that yields the background in a residual, for a column width in px."""
    return max(CONSTANTS.high_pass * width, CONSTANTS.min_high_pass)


# --- spectrum ----------------------------------------------------------------------------------------------------


def _spectral_tests(scaled: NDArray, detail: NDArray, blurred: NDArray) -> dict[str, tuple[float, float]]:
    """Value and p of the tests ``whiteness``, ``lattice`` and ``blur`` (of the latter the factor of its template)."""
    q_y, q_x = fft.fftfreq(scaled.shape[0])[:, None], fft.rfftfreq(scaled.shape[1])
    q = np.hypot(q_y, q_x)
    chosen = _strong_coefficients(detail, q)
    near = ndimage.binary_dilation(chosen, iterations=2)
    coefficients = fft.rfft2(scaled)
    power = np.abs(coefficients) ** 2
    used = ~near & (q >= CONSTANTS.background)
    noise = np.where(used, power, 0.0).sum(axis=0) / np.maximum(used.sum(axis=0), 1)
    ratio = power / np.maximum(noise, 1e-300)
    number = used.sum(axis=0)
    weight = half_plane_weights(*scaled.shape)
    power_ratio, p_lattice = _excess(ratio, weight, chosen, number)
    signal = float((weight * np.abs(fft.rfft2(detail)) ** 2).sum())
    left = math.sqrt(max(0.0, float((weight * (power - noise))[chosen].sum())) / signal) if signal else 0.0
    blur_weight = np.where(q >= CONSTANTS.background, weight, 0.0) / noise
    return {
        "whiteness": _whiteness(ratio, weight, np.where(used, q, np.inf), number),
        "lattice": (left if power_ratio > 1 else 0.0, p_lattice),
        "blur": _fitted_template(coefficients, fft.rfft2(blurred), blur_weight),
    }


def _fitted_template(data: NDArray, template: NDArray, weight: NDArray) -> tuple[float, float]:
    """Factor of a template in Fourier coefficients with noise, and the probability of a larger one without it."""
    total = float((weight * np.abs(template) ** 2).sum())
    if not (total > 0 and math.isfinite(total)):
        return 0.0, 1.0
    factor = float((weight * (data * template.conj()).real).sum()) / total
    return factor, float(stats.norm.sf(factor * math.sqrt(total)))


def _strong_coefficients(detail: NDArray, q: NDArray) -> NDArray[np.bool_]:
    """Fourier coefficients that hold most of the power of an image, above the frequencies of the background."""
    power = np.abs(fft.rfft2(detail * hann_window(*detail.shape))) ** 2
    power[q < CONSTANTS.background] = 0.0
    order = np.sort(power, axis=None)[::-1]
    number = int(np.searchsorted(np.cumsum(order), CONSTANTS.power * order.sum())) + 1
    number = max(1, min(number, int(CONSTANTS.max_fraction * power.size)))
    return np.asarray(power >= max(order[number - 1], 1e-300))


def _excess(ratio: NDArray, weight: NDArray, chosen: NDArray, number: NDArray) -> tuple[float, float]:
    """Mean power of coefficients over that of noise, and its p.

    ``number``: coefficients from which the noise at each frequency along x was measured.
    """
    selected = np.where(chosen, weight / 2, 0.0)
    along_x = selected.sum(axis=0)
    total = float(along_x.sum())
    if not total:
        return 1.0, 1.0
    # the power of noise has an error, too, which the coefficients of one frequency along x share
    variance = 1 / total + float((along_x**2 / np.maximum(number, 1)).sum()) / total**2
    value = float((selected * ratio).sum()) / total
    return value, float(stats.gamma.sf(value / variance, 1 / variance))


def _whiteness(ratio: NDArray, weight: NDArray, q: NDArray, number: NDArray) -> tuple[float, float]:
    """Power in the ring of frequencies that is least like noise, over that of noise, and its p."""
    edges = np.arange(CONSTANTS.background, CONSTANTS.highest + 1e-9, CONSTANTS.ring)
    found = [_excess(ratio, weight, (q >= low) & (q < low + CONSTANTS.ring), number) for low in edges[:-1]]
    value, p = min(found, key=lambda pair: pair[1])
    return value, min(1.0, len(found) * p)


# --- local -------------------------------------------------------------------------------------------------------


def _local_variance(scaled: NDArray, width: float, correlation: float) -> tuple[float, float]:
    """Largest mean square in a square of pixels, over the median, and its p."""
    edge = min(max(CONSTANTS.min_block, round(CONSTANTS.block * width)), *scaled.shape)
    n_y, n_x = (n // edge for n in scaled.shape)
    squares = scaled[: n_y * edge, : n_x * edge] ** 2
    blocks = squares.reshape(n_y, edge, n_x, edge).mean(axis=(1, 3)).ravel()
    middle = float(np.median(blocks))
    if not middle > 0:
        return 1.0, 1.0
    spread = float(stats.median_abs_deviation(blocks, scale="normal")) / middle
    pixels = float(squares.var()) / float(squares.mean()) ** 2
    expected = math.sqrt(pixels / edge**2 * (1 + correlation**2) / (1 - correlation**2))
    shape = 1 / max(spread, expected) ** 2
    value = float(blocks.max()) / middle
    # the median of a gamma distribution is below its mean by about 1/3 of the scale
    alone = float(stats.gamma.sf(value * (shape - 1 / 3), shape))
    return value, -math.expm1(len(blocks) * math.log1p(-min(alone, 1 - 1e-16)))


def _highest(places: pd.DataFrame, shape: tuple[int, ...], width: float) -> tuple[float, float]:
    """Significance of the highest peak, and its p."""
    if len(places) == 0:
        return 0.0, 1.0
    z = float(places["z"].iloc[0])
    return z, -math.expm1(-float(two_sided_noise_peaks(np.array([abs(z)]), shape, width)[0]))
