"""Scores of an enhanced frame against the mean of the other recorded frames, whose noise is independent of it.

All scores are functions of second moments. For each frame i, ``second[i]`` is the matrix of mean products over the
pixels of the n images on the grid of frame i, of which number i is the enhanced one and the others are recorded;
``covariance[i]`` is the same without the means.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Moments",
    "ceiling",
    "correlation_with_mean",
    "jackknife_error",
    "mean_squared_error",
    "signal_variance",
    "spearman_brown",
    "split_half_correlation",
]

#: Maximum number of splits (chosen: all splits of 12 frames).
MAX_SPLITS = 2000


@dataclass(frozen=True)
class Moments:
    """Second moments of denoised and recorded frames.

    Attributes
    ----------
    second : ndarray of shape (n_frames, n_frames, n_frames)
        ``second[i, a, b]``: mean product of the images a and b on the grid of frame i; image i is enhanced.
    covariance : ndarray of shape (n_frames, n_frames, n_frames)
        Mean products of the images without their means.
    """

    second: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def from_stacks(cls, stacks: Iterable[NDArray]) -> Moments:
        """Moments of n stacks ``(n_frames, n_y, n_x)``; in stack i, image i is enhanced."""
        second, means = [], []
        for stack in stacks:
            images = np.asarray(stack, dtype=np.float64).reshape(len(stack), -1)
            second.append(images @ images.T / images.shape[1])
            means.append(np.outer(images.mean(axis=1), images.mean(axis=1)))
        return cls(np.stack(second), np.stack(second) - np.stack(means))


# --- one frame against the others --------------------------------------------------------------------------------


def correlation_with_mean(covariance: NDArray, frame: int, others: Sequence[int]) -> NDArray[np.float64]:
    """Pearson correlation of an image with the mean of others.

    Parameters
    ----------
    covariance : ndarray of shape (..., n_frames, n_frames)
    frame : int
    others : sequence of int

    Returns
    -------
    ndarray of shape (...)
        NaN where one of the two is constant.
    """
    others = list(others)
    common = covariance[..., frame, others].mean(axis=-1)
    of_mean = covariance[..., others, :][..., others].mean(axis=(-2, -1))
    square = covariance[..., frame, frame] * of_mean
    return _over_root(common, square, np.nan)


def mean_squared_error(second: NDArray, frame: int, others: Sequence[int]) -> float:
    """Unbiased estimate of the mean squared error of an image against the truth.

    Parameters
    ----------
    second : ndarray of shape (n_frames, n_frames)
        Mean products of the enhanced image `frame` and the recorded `others`.
    frame : int
    others : sequence of int
        At least two.

    Returns
    -------
    float
        Squared units of the image; can be negative where the error is smaller than its standard error.

    Notes
    -----
    With the mean m of K others f_j, and the variance of its noise estimated from their scatter,

    ``<(d - m)^2> - sum_j <(f_j - m)^2> / (K (K - 1)) = <d^2> - 2 <d m> + mean over j != k of <f_j f_k>``.

    The noise of f_j is independent of that of d and of f_k, and has the mean 0: the expected value is ``<(d - t)^2>``
    with the truth t, whatever the distribution of the noise.
    """
    others = list(others)
    products = second[np.ix_(others, others)]
    return float(second[frame, frame] - 2 * second[frame, others].mean() + _off_diagonal_mean(products))


def signal_variance(covariance: NDArray) -> NDArray[np.float64]:
    """Unbiased variance of the truth: mean covariance of different recorded frames ``(..., n_frames, n_frames)``."""
    return _off_diagonal_mean(covariance)


def _off_diagonal_mean(matrix: NDArray) -> NDArray[np.float64]:
    n = matrix.shape[-1]
    trace = np.trace(matrix, axis1=-2, axis2=-1)
    return (matrix.sum(axis=(-2, -1)) - trace) / (n * (n - 1))


def _over_root(covariance: NDArray, product: NDArray, undefined: float) -> NDArray[np.float64]:
    """Covariance over the root of the product of two variances; `undefined` where that is not positive."""
    out = np.full(covariance.shape, undefined)
    return np.divide(covariance, np.sqrt(np.maximum(product, 0)), out=out, where=product > 0)


# --- ceiling -----------------------------------------------------------------------------------------------------


def spearman_brown(reliability: ArrayLike, factor: float) -> NDArray[np.float64]:
    """Reliability of a mean of `factor` times as many frames: ``k r / (1 + (k - 1) r)``.

    Parameters
    ----------
    reliability : array-like
        Correlation of two such means with independent noise.
    factor : float

    Returns
    -------
    ndarray

    References
    ----------
    C. Spearman, Br. J. Psychol. 3, 271 (1910), https://doi.org/10.1111/j.2044-8295.1910.tb00206.x;
    W. Brown, Br. J. Psychol. 3, 296 (1910), https://doi.org/10.1111/j.2044-8295.1910.tb00207.x
    """
    r = np.asarray(reliability, dtype=np.float64)
    return factor * r / (1 + (factor - 1) * r)


def split_half_correlation(covariance: NDArray, frames: Sequence[int]) -> NDArray[np.float64]:
    """Correlation of the means of two halves of the frames, averaged over all splits.

    Of an odd number of frames, each split leaves one out. Where there are more than 2000 splits, a fixed random subset
    of 2000 is taken.

    Parameters
    ----------
    covariance : ndarray of shape (..., n_frames, n_frames)
        Covariances of recorded frames.
    frames : sequence of int
        At least two.

    Returns
    -------
    ndarray of shape (...)
    """
    values = []
    for first, second in _splits(list(frames)):
        common = covariance[..., first, :][..., second].mean(axis=(-2, -1))
        a, b = (covariance[..., half, :][..., half].mean(axis=(-2, -1)) for half in (first, second))
        square = a * b
        values.append(_over_root(common, square, 0.0))
    return np.mean(values, axis=0)


def ceiling(covariance: NDArray, frames: Sequence[int], n_averaged: int) -> NDArray[np.float64]:
    """Correlation of the true image with a mean of frames: the square root of the reliability of that mean.

    Parameters
    ----------
    covariance : ndarray of shape (..., n_frames, n_frames)
        Covariances of recorded frames.
    frames : sequence of int
        Those that are split into halves.
    n_averaged : int
        Number of frames in the mean.

    Returns
    -------
    ndarray of shape (...)
        0 where halves do not correlate. No method can be expected to correlate better with that mean.

    Notes
    -----
    Halves of m frames with the correlation r give the reliability R of a mean of K by the formula of Spearman and
    Brown with k = K / m. The correlation of the truth with that mean is sqrt(R), as for the Fourier shell correlation
    of a half map with the truth [1]_.

    References
    ----------
    .. [1] P. B. Rosenthal and R. Henderson, J. Mol. Biol. 333, 721 (2003), https://doi.org/10.1016/j.jmb.2003.07.013
    """
    half = len(list(frames)) // 2
    r = np.clip(split_half_correlation(covariance, frames), 0.0, 1.0)
    return np.sqrt(spearman_brown(r, n_averaged / half))


def _splits(frames: list[int]) -> list[tuple[list[int], list[int]]]:
    """Disjoint pairs of equal halves, each once."""
    half = len(frames) // 2
    n_splits = math.comb(len(frames), half) * math.comb(len(frames) - half, half) // 2
    if n_splits > MAX_SPLITS:
        rng = np.random.default_rng(0)
        orders = (rng.permutation(frames).tolist() for _ in range(MAX_SPLITS))
        return [(order[:half], order[half : 2 * half]) for order in orders]
    return [
        (list(first), list(second))
        for first in itertools.combinations(frames, half)
        for second in itertools.combinations([f for f in frames if f not in first], half)
        if first < second
    ]


# --- errors ------------------------------------------------------------------------------------------------------


def jackknife_error(estimate: Callable[[list[int]], float | NDArray], n_frames: int) -> NDArray[np.float64]:
    """Standard error of an estimate by leaving out one frame at a time, both as denoised and as one of the others.

    Parameters
    ----------
    estimate : callable
        Function of the indices of frames that returns the estimate.
    n_frames : int

    Returns
    -------
    ndarray
        Shape of the estimate.

    References
    ----------
    B. Efron and C. Stein, Ann. Stat. 9, 586 (1981), https://doi.org/10.1214/aos/1176345462
    """
    values = np.array([estimate([i for i in range(n_frames) if i != left_out]) for left_out in range(n_frames)])
    return np.sqrt((n_frames - 1) / n_frames * ((values - values.mean(axis=0)) ** 2).sum(axis=0))
