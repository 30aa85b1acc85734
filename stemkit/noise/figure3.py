"""The paper's figure 3: two filters split an image's noise into a scan part and a pointwise part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from stemkit.images import mode_sign
from stemkit.noise.model import NoiseModel, PointwiseNoise, ScanNoise

__all__ = ["Curve", "figure3", "figure3_model"]

#: Pixels whose distribution is compared with Tukey's.
MOST_RANKED = 4000
#: Bins of a curve that hold fewer of the pixels than this are left out: the high-gradient tail.
SMALLEST_SHARE = 0.005


@dataclass(frozen=True)
class Curve:
    """A standard deviation against what it depends on, with the straight line through it.

    ``x``, ``y`` and ``count`` are ``(n_bins,)``; the line is ``intercept + slope x``, weighted by the counts.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    count: NDArray[np.int64]
    intercept: float
    slope: float


def figure3(values: NDArray, sigma: float, n_bins: int = 24, *, valid: NDArray | None = None) -> tuple[Curve, Curve]:
    """Deviation of the scan residual against the gradient, and of the pointwise residual against the pixel value.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        One image, in its own units.
    sigma : float
        Width of both filters, px.
    n_bins : int
        Bins of a curve.
    valid : ndarray of bool, optional
        Pixels that count; None takes all.

    Returns
    -------
    scan, pointwise : Curve
        The pointwise deviation is corrected for what the row filter itself takes of white noise: the residual keeps
        ``1 - 2 h(0) + sum(h^2)`` of its variance, for the row filter's kernel h.

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
    kernel = ndimage.gaussian_filter1d(np.eye(1, 8 * int(np.ceil(sigma)) + 9, 4 * int(np.ceil(sigma)) + 4)[0], sigma)
    kept = 1 - 2 * kernel.max() + (kernel**2).sum()
    pointwise = _curve(blurred[use], ((work - row_blurred) / np.sqrt(kept))[use], n_bins)
    return scan, pointwise


def figure3_model(values: NDArray, *, mode: str, contrast: float, level: float, sigma: float) -> NoiseModel:
    """The noise as figure 3 alone tells it, without any correction: what :class:`~stemkit.NoiseCalibrator` is compared
    with.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    mode : {"haadf", "bf"}
    contrast, level : float
        Brightness of the columns above the background, and the background's, in the image's units.
    sigma : float
        Width of the filters, px.

    Returns
    -------
    NoiseModel
        Streaks: the scan residual's deviation where there is no gradient; jitter: its growth with the gradient; their
        length: the filter's, since the method does not measure it. Readout and gain: the pointwise deviation's line, at
        the background and at the columns. Shape: the largest probability plot correlation. No background, and no
        correlation along the row.
    """
    bright = np.asarray(values, dtype=np.float64) * mode_sign(mode)
    scan, pointwise = figure3(bright, sigma)
    at_level, at_column = (
        max(pointwise.intercept + pointwise.slope * s, 0.0) / contrast
        for s in (level * mode_sign(mode), level * mode_sign(mode) + contrast)
    )
    residual = (bright - ndimage.gaussian_filter1d(bright, sigma, axis=1)).ravel()
    some = residual[:: max(1, residual.size // MOST_RANKED)]
    shape = float(np.clip(stats.ppcc_max(some, brack=(-0.3, 0.5)), -0.39, 2.0))
    return NoiseModel(
        contrast,
        level,
        mode,
        scan=ScanNoise(max(scan.intercept, 0.0) / contrast, sigma, max(scan.slope, 0.0)),
        pointwise=PointwiseNoise(at_level, at_column**2 - at_level**2, shape),
    )


def _curve(x: NDArray, residual: NDArray, n_bins: int) -> Curve:
    edges = np.linspace(x.min(), x.max() + 1e-12 * (1 + abs(x.max())), n_bins + 1)
    index = np.clip(np.digitize(x.ravel(), edges) - 1, 0, n_bins - 1)
    count = np.bincount(index, minlength=n_bins)
    square = np.bincount(index, residual.ravel() ** 2, minlength=n_bins)
    keep = count > max(SMALLEST_SHARE * x.size, 10)
    if keep.sum() < 2:
        return Curve(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64), float(residual.std()), 0.0)
    centre, deviation = (edges[:-1] + edges[1:])[keep] / 2, np.sqrt(square[keep] / count[keep])
    slope, intercept = np.polyfit(centre, deviation, 1, w=np.sqrt(count[keep]))
    return Curve(centre, deviation, count[keep], float(intercept), float(slope))
