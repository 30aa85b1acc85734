"""Scan noise and pointwise noise from the residuals of two Gaussian filters (figure 3 of Li et al., CVPR 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from stemkit.images.mode import mode_sign
from stemkit.noise.model import NoiseModel, PointwiseNoise, ScanNoise

__all__ = ["ResidualCurve", "residual_curve_model", "residual_curves"]

#: Pixels whose distribution is compared with Tukey's (chosen).
MAX_RANKED = 4000
#: Bins of a curve with less than this fraction of the pixels are left out: the high-gradient tail (chosen).
MIN_BIN = 0.005
#: Bins of a curve with at most this number of pixels are left out (chosen).
MIN_PIXELS = 10


@dataclass(frozen=True)
class ResidualCurve:
    """Standard deviation of a residual against gradient or pixel value, with the straight line through it.

    Parameters
    ----------
    x : ndarray of shape (n_bins,)
        Gradient, image units per px, or pixel value, image units.
    y : ndarray of shape (n_bins,)
        Standard deviation, image units.
    count : ndarray of shape (n_bins,)
        Number of pixels.
    intercept, slope : float
        The line ``intercept + slope x``, weighted by the counts.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    count: NDArray[np.int64]
    intercept: float
    slope: float

    def at(self, x: float) -> float:
        """The line at one place, not below 0."""
        return max(self.intercept + self.slope * x, 0.0)


def residual_curves(
    values: NDArray, sigma: float, n_bins: int = 24, *, valid: NDArray | None = None
) -> tuple[ResidualCurve, ResidualCurve]:
    """Standard deviation of the scan residual against the gradient, and of the pointwise residual against the value.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        One image, in its own units.
    sigma : float
        Width of both filters, px.
    n_bins : int
        Bins of a curve.
    valid : ndarray of bool, optional
        Pixels that are used; None: all.

    Returns
    -------
    scan, pointwise : ResidualCurve

    Notes
    -----
    The scan residual is the image filtered along the row less the image filtered in both directions; the pointwise
    residual is the image less the one filtered along the row. Of white noise the latter keeps ``1 - 2 h(0) +
    sum(h^2)`` of the variance, for the filter's kernel h, for which the pointwise curve is corrected.

    References
    ----------
    Li, Wu, Shao, Zhang, Fu, CVPR 2025, https://arxiv.org/abs/2504.02555, figure 3
    """
    work = np.asarray(values, dtype=np.float64)
    blurred = ndimage.gaussian_filter(work, sigma)
    row_blurred = ndimage.gaussian_filter1d(work, sigma, axis=1)
    gradient = np.hypot(*np.gradient(blurred)) if min(work.shape) > 1 else np.zeros_like(work)
    use = slice(None) if valid is None else valid
    scan = _curve(gradient[use], (row_blurred - blurred)[use], n_bins)
    half = 4 * math.ceil(sigma) + 4
    kernel = ndimage.gaussian_filter1d(np.eye(1, 2 * half + 1, half)[0], sigma)
    kept = 1 - 2 * kernel.max() + (kernel**2).sum()
    pointwise = _curve(blurred[use], ((work - row_blurred) / np.sqrt(kept))[use], n_bins)
    return scan, pointwise


def residual_curve_model(values: NDArray, *, mode: str, contrast: float, level: float, sigma: float) -> NoiseModel:
    """Noise model from the two residual curves alone, without any correction: a baseline for
    :class:`~stemkit.NoiseCalibrator`.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    mode : {"haadf", "bf"}
    contrast, level : float
        Intensity of the columns above the background, and that of the background, in the image's units.
    sigma : float
        Width of the filters, px.

    Returns
    -------
    NoiseModel
        Streaks: the scan residual's standard deviation without gradient; jitter: its growth with the gradient; their
        length: the filter's, since the method does not measure it. Readout and gain: the line of the pointwise residual
        at the background and at the columns. Shape: the largest probability plot correlation. No background, and no
        correlation along the row.
    """
    bright = np.asarray(values, dtype=np.float64) * mode_sign(mode)
    scan, pointwise = residual_curves(bright, sigma)
    level_bright = level * mode_sign(mode)
    at_level, at_column = (pointwise.at(s) / contrast for s in (level_bright, level_bright + contrast))
    residual = (bright - ndimage.gaussian_filter1d(bright, sigma, axis=1)).ravel()
    thinned = residual[:: max(1, residual.size // MAX_RANKED)]
    shape = float(np.clip(stats.ppcc_max(thinned, brack=(-0.3, 0.5)), -0.39, 2.0))
    return NoiseModel(
        contrast,
        level,
        mode,
        scan=ScanNoise(scan.at(0.0) / contrast, sigma, max(scan.slope, 0.0)),
        pointwise=PointwiseNoise(at_level, at_column**2 - at_level**2, shape),
    )


def _curve(x: NDArray, residual: NDArray, n_bins: int) -> ResidualCurve:
    edges = np.linspace(x.min(), x.max() + 1e-12 * (1 + abs(x.max())), n_bins + 1)
    index = np.clip(np.digitize(x.ravel(), edges) - 1, 0, n_bins - 1)
    count = np.bincount(index, minlength=n_bins)
    square = np.bincount(index, residual.ravel() ** 2, minlength=n_bins)
    keep = count > max(MIN_BIN * x.size, MIN_PIXELS)
    if keep.sum() < 2:
        return ResidualCurve(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64), float(residual.std()), 0.0)
    center, std = (edges[:-1] + edges[1:])[keep] / 2, np.sqrt(square[keep] / count[keep])
    slope, intercept = np.polyfit(center, std, 1, w=np.sqrt(count[keep]))
    return ResidualCurve(center, std, count[keep], float(intercept), float(slope))
