"""A Gaussian filter as a baseline for repeat frames."""

from __future__ import annotations

from typing import Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.benchmark.alignment import Alignment
from stemkit.benchmark.frame_scores import Moments, correlation_with_mean

__all__ = ["SIGMAS", "GaussianFilter", "best_sigma"]

#: Standard deviations that are tried, px, in steps of 10 % (chosen).
SIGMAS = tuple(float(sigma) for sigma in np.round(0.4 * 1.1 ** np.arange(32), 3))


class GaussianFilter:
    """Convolution with a Gaussian.

    Parameters
    ----------
    sigma : float
        Standard deviation, px.
    """

    def __init__(self, sigma: float):
        self.sigma = sigma

    def fit(self, X: xr.DataArray, y: object = None) -> Self:
        """Do nothing: the filter has no parameters to fit."""
        return self

    def transform(self, X: xr.DataArray) -> xr.DataArray:
        """Filter one image ``(n_y, n_x)``."""
        return X.copy(data=ndimage.gaussian_filter(np.asarray(X.values, dtype=np.float64), self.sigma))


def best_sigma(frames: NDArray, alignment: Alignment) -> float:
    """The width of the filter whose results have the highest correlation with the means of the other frames.

    It maximises the score itself: no Gaussian filter of another width has a higher score on these frames.

    Parameters
    ----------
    frames : ndarray of shape (n_frames, n_y, n_x)
    alignment : Alignment

    Returns
    -------
    float
        One of ``SIGMAS``, px.
    """
    aligned = [alignment.on_grid_of(i, frames) for i in range(len(frames))]

    def score(sigma: float) -> float:
        stacks = (_with_filtered(aligned[i], i, frames[i][...], alignment, sigma) for i in range(len(frames)))
        covariance = Moments.from_stacks(stacks).covariance
        others = [[j for j in range(len(frames)) if j != i] for i in range(len(frames))]
        return float(np.mean([correlation_with_mean(covariance[i], i, others[i]) for i in range(len(frames))]))

    return max(SIGMAS, key=score)


def _with_filtered(aligned: NDArray, i: int, frame: NDArray, alignment: Alignment, sigma: float) -> NDArray:
    out = aligned.copy()
    out[i] = ndimage.gaussian_filter(frame, sigma)[alignment.crop(i)]
    return out
