"""Fourier ring correlation of the true image with a mean of frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stemkit.benchmark.frame_scores import ceiling, signal_variance
from stemkit.trust.rings import Rings

__all__ = ["ring_ceiling"]

#: Standard deviations above which the correlation of frames in a ring is not that of noise (chosen).
MIN_SIGNAL_SNR = 3.0


def ring_ceiling(rings: Rings, images: Sequence[NDArray] | NDArray, n_averaged: int) -> NDArray[np.float64]:
    """Ring correlation of the true image with a mean of frames.

    Parameters
    ----------
    rings : Rings
    images : sequence of ndarray of shape (n_y, n_x), or (n_frames, n_y, n_x)
        Aligned recorded frames.
    n_averaged : int
        Number of frames in the mean.

    Returns
    -------
    ndarray of shape (n_rings,)
        As :func:`~stemkit.benchmark.frame_scores.ceiling`; NaN in rings where the mean correlation of two frames is
        below three standard deviations of that of noise: it is not known there.
    """
    covariance = rings.covariance(images)
    n_pairs = math.comb(len(images), 2)
    power = np.trace(covariance, axis1=-2, axis2=-1) / len(images)
    noise_std = power / np.sqrt(np.maximum(rings.n_independent, 1.0) * n_pairs)
    is_signal = signal_variance(covariance) > MIN_SIGNAL_SNR * noise_std
    return np.where(is_signal, ceiling(covariance, range(len(images)), n_averaged), np.nan)
