"""Fourier rings: products of images by spatial frequency, thresholds and resolution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stemkit.parameters import check_option

__all__ = ["THRESHOLDS", "Rings", "half_plane_weights", "hann_window", "resolution", "threshold_curve"]

#: Names of the thresholds of a Fourier ring correlation.
THRESHOLDS = ("half-bit", "1/7")

#: Number of coefficients along a ring that a Hann window makes dependent, ``<w^4> / <w^2>^2`` (derived); a ring has a
#: width of one coefficient.
HANN_DEPENDENT = 35 / 18
#: Signal-to-noise ratio of each of two images whose mean has half a bit per coefficient (van Heel and Schatz 2005).
HALF_BIT_SNR = (math.sqrt(2) - 1) / 2
#: Rings with fewer independent numbers have no Fourier ring correlation (chosen).
MIN_COEFFICIENTS = 4


class Rings:
    """Products of images summed over rings of spatial frequency.

    Parameters
    ----------
    shape : (int, int)
        ``(n_y, n_x)`` of the images.
    pixel_sizes : (float, float)
        Height and width of a pixel, in nm, or 1 for frequencies per pixel.

    Attributes
    ----------
    frequency : ndarray of shape (n_rings,)
        Centres of the rings, per nm or per px; one ring per frequency pixel of the shorter side, up to Nyquist's
        frequency.
    n_independent : ndarray of shape (n_rings,)
        Independent real numbers among the Fourier coefficients: as many as there are coefficients, since those at
        opposite frequencies are conjugate, divided by the number that the window makes dependent. The correlation of
        two images of white noise has the standard deviation ``1 / sqrt(n_independent)``.
    """

    def __init__(self, shape: tuple[int, int], pixel_sizes: tuple[float, float] = (1.0, 1.0)):
        q_y, q_x = fft.fftfreq(shape[0], pixel_sizes[0]), fft.rfftfreq(shape[1], pixel_sizes[1])
        q = np.hypot(q_y[:, None], q_x)
        width = 1 / min(n * size for n, size in zip(shape, pixel_sizes, strict=True))
        n_rings = int(0.5 / max(pixel_sizes) / width)
        self._ring = np.minimum(np.round(q / width).astype(np.intp), n_rings + 1).ravel()
        self._weight = half_plane_weights(*shape).ravel()
        self._kept = slice(1, n_rings + 1)
        self._window = hann_window(*shape)
        self.frequency = width * np.arange(1, n_rings + 1)
        self.n_independent = self._sum(np.ones(q.size)) / HANN_DEPENDENT

    def transform(self, image: NDArray) -> NDArray[np.complex128]:
        """Fourier coefficients of an image without its mean, in a Hann window."""
        mean = (image * self._window).sum() / self._window.sum()
        return np.asarray(fft.rfft2((image - mean) * self._window)).ravel()

    def product(self, a: NDArray, b: NDArray) -> NDArray[np.float64]:
        """Sum over each ring of the products of two images' coefficients, of shape (n_rings,)."""
        return self._sum(np.asarray((a * b.conj()).real))

    def correlation(self, a: NDArray, b: NDArray) -> NDArray[np.float64]:
        """Fourier ring correlation of two images' coefficients; NaN where a ring has too few of them, or no power."""
        power = self.product(a, a) * self.product(b, b)
        out = np.full(power.shape, np.nan)
        usable = (power > 0) & (self.n_independent >= MIN_COEFFICIENTS)
        np.divide(self.product(a, b), np.sqrt(power), out=out, where=usable)
        return out

    def covariance(self, images: Sequence[NDArray] | NDArray) -> NDArray[np.float64]:
        """Products of all pairs of images, of shape (n_rings, n_images, n_images)."""
        coefficients = [self.transform(image) for image in images]
        out = np.empty((len(self.frequency), len(images), len(images)))
        for a, b in itertools.combinations_with_replacement(range(len(images)), 2):
            out[:, a, b] = out[:, b, a] = self.product(coefficients[a], coefficients[b])
        return out

    def _sum(self, values: NDArray) -> NDArray[np.float64]:
        summed = np.bincount(self._ring, values * self._weight, minlength=self._kept.stop + 1)
        return summed[self._kept].astype(np.float64)


def half_plane_weights(n_y: int, n_x: int) -> NDArray[np.float64]:
    """Number of Fourier coefficients for which each one of ``rfft2`` stands, ``(n_y, n_x // 2 + 1)``.

    It is 2, but 1 at the frequencies along x that are their own conjugates: 0, and Nyquist's if n_x is even.
    """
    weight = np.full((n_y, n_x // 2 + 1), 2.0)
    weight[:, 0] = 1.0
    if n_x % 2 == 0:
        weight[:, -1] = 1.0
    return weight


def hann_window(n_y: int, n_x: int) -> NDArray[np.float64]:
    """Hann window ``(n_y, n_x)`` without the zeros at its border."""
    return np.outer(*(np.hanning(n + 2)[1:-1] for n in (n_y, n_x)))


def threshold_curve(n_independent: NDArray, threshold: str = "half-bit") -> NDArray[np.float64]:
    """Correlation above which a ring is resolved.

    Parameters
    ----------
    n_independent : ndarray of shape (n_rings,)
        Independent real numbers in each ring.
    threshold : {"half-bit", "1/7"}
        Half a bit of information per coefficient [1]_, or a constant 1/7.

    Returns
    -------
    ndarray of shape (n_rings,)
        At most 1.

    Notes
    -----
    With the signal-to-noise ratio s of each of the two images, the correlation is
    ``(s + (2 sqrt(s) + 1) / sqrt(n)) / (s + 1 + 2 sqrt(s) / sqrt(n))``. Half a bit for the mean of the two,
    ``log2(1 + 2 s) = 1 / 2``, is s = 0.2071.

    References
    ----------
    .. [1] M. van Heel and M. Schatz, J. Struct. Biol. 151, 250 (2005), https://doi.org/10.1016/j.jsb.2005.05.009
    """
    check_option("threshold", threshold, THRESHOLDS)
    if threshold == "1/7":
        return np.full(np.shape(n_independent), 1 / 7)
    root = np.sqrt(np.maximum(n_independent, 1.0))
    mixed = 2 * math.sqrt(HALF_BIT_SNR) / root
    return np.minimum((HALF_BIT_SNR + mixed + 1 / root) / (HALF_BIT_SNR + 1 + mixed), 1.0)


def resolution(frequency: NDArray, curve: NDArray, threshold: NDArray) -> float:
    """Period at the highest frequency where a correlation crosses the threshold, interpolated between rings.

    Between the reflections of a crystal there is no signal, so that the curve can cross the threshold several times:
    the last crossing counts. Where the curve is above the threshold up to the last ring, its period is returned.

    Parameters
    ----------
    frequency, curve, threshold : ndarray of shape (n_rings,)
        Rings whose correlation is NaN are left out.

    Returns
    -------
    float
        Reciprocal of the frequency's unit; NaN where no ring is above the threshold.
    """
    known = np.isfinite(curve)
    q, excess = frequency[known], (curve - threshold)[known]
    above = np.flatnonzero(excess > 0)
    if above.size == 0:
        return float("nan")
    last = int(above[-1])
    if last == len(q) - 1:
        return float(1 / q[-1])
    fraction = excess[last] / (excess[last] - excess[last + 1])
    return float(1 / (q[last] + fraction * (q[last + 1] - q[last])))
