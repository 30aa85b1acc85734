"""Gaussian filters whose cost does not grow with sigma, the variance after them, and weights of an interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["gaussian_variance_gain", "lanczos_weights", "wide_gaussian"]

#: Number of box filters that approximate a Gaussian (chosen: three differ by less than 3 % of its height, Wells 1986).
N_BOXES = 3
#: Smallest sigma of the approximation, px (chosen: the length of a box is an integer number of pixels).
MIN_BOX_SIGMA = 3.0


def wide_gaussian(values: NDArray, sigma: float, axes: Sequence[int] = (0, 1)) -> NDArray[np.float64]:
    """Gaussian filter, approximated by three box filters for large sigma, with reflection at the border.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    sigma : float
        Standard deviation, px.
    axes : sequence of int
        Axes that are filtered.

    Returns
    -------
    ndarray of shape (n_y, n_x)

    Notes
    -----
    A box of n px has the variance ``(n^2 - 1) / 12``. Each of the three boxes has n or n + 2 px, such that the sum of
    their variances is nearest to sigma^2 [1]_. A box is no longer than the image.

    References
    ----------
    .. [1] W. M. Wells, IEEE Trans. Pattern Anal. Mach. Intell. 8, 234 (1986), https://doi.org/10.1109/TPAMI.1986.4767776
    """
    from scipy import ndimage

    out = np.asarray(values, dtype=np.float64)
    size = 2 * math.floor((math.sqrt(12 * sigma**2 / N_BOXES + 1) - 1) / 2) + 1
    n_small = round((N_BOXES * (size + 2) ** 2 - N_BOXES - 12 * sigma**2) / (4 * size + 4))
    for axis in axes:
        if sigma < MIN_BOX_SIGMA:
            out = ndimage.gaussian_filter1d(out, sigma, axis=axis, mode="reflect")
            continue
        for i in range(N_BOXES):
            length = size if i < n_small else size + 2
            out = ndimage.uniform_filter1d(out, min(length, out.shape[axis]), axis=axis, mode="reflect")
    return np.asarray(out)


def lanczos_weights(fraction: NDArray | float, n_taps: int) -> NDArray[np.float64]:
    """Weights ``(..., n_taps)`` of the samples about positions, each a fraction of a step beyond a sample.

    The sample before a position has the index ``n_taps // 2 - 1``. The weights are a windowed sinc, with the sum 1.
    """
    distance = np.arange(n_taps) - (n_taps // 2 - 1) - np.asarray(fraction)[..., None]
    weights = np.sinc(distance) * np.sinc(distance / (n_taps / 2))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def gaussian_variance_gain(
    sigmas: float | Sequence[float],
    weights: float | Sequence[float] = 1.0,
    *,
    lengths: tuple[float, float] = (0.0, 0.0),
    correlation_x: float = 0.0,
) -> float:
    """Variance of a random field after a linear filter, over that before: the filter is a sum of Gaussians.

    Parameters
    ----------
    sigmas : float or sequence of float
        Standard deviations of the Gaussians, px, not below about 0.5 (a sum over pixels is taken as an integral).
    weights : float or sequence of float
        Their weights: ``(1.0, -1.0)`` is a difference of Gaussians.
    lengths : (float, float)
        Correlation of the field along y and x: 0 is white noise, L px is white noise filtered with a Gaussian of sigma
        L, ``inf`` is constant along that axis. Streaks have ``(0, L)``, a smooth background ``(L, L)``.
    correlation_x : float
        Correlation r of neighbouring pixels along x of white noise (first-order autoregressive), between -1 and 1.

    Returns
    -------
    float

    Notes
    -----
    The filtered variance is ``sum_ij w_i w_j k_y(v_ij) k_x(v_ij)`` with ``v_ij = sigma_i^2 + sigma_j^2``, and along
    each axis ``k(v) = (2 pi v)^-1/2`` for white noise and ``k(v) = (1 + v / (2 L^2))^-1/2`` for a field of length L.
    Autoregressive noise has ``(1 + r) / (1 - r)`` times the power of white noise at low frequency.
    """
    s, w = np.broadcast_arrays(np.atleast_1d(sigmas), np.atleast_1d(weights))
    v = s[:, None] ** 2 + s[None, :] ** 2
    kernel = np.ones_like(v, dtype=np.float64)
    for length in lengths:
        kernel = kernel / np.sqrt(2 * math.pi * v if length == 0 else 1 + v / (2 * length**2))
    return float(w @ kernel @ w) * (1 + correlation_x) / (1 - correlation_x)
