"""Figures of merit: PSNR, SSIM, and columns matched with the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize, sparse
from scipy.spatial import cKDTree

__all__ = ["Match", "match_columns", "psnr", "psnr_8bit", "ssim"]


@dataclass(frozen=True)
class Match:
    """Found columns matched one to one with true ones.

    ``found`` and ``true`` are ``(n_matched,)`` indices of the pairs; ``rms`` and ``bias`` are ``(y, x)`` in the unit
    of the positions, NaN without a match.
    """

    found: NDArray[np.intp]
    true: NDArray[np.intp]
    precision: float
    recall: float
    rms: tuple[float, float]
    bias: tuple[float, float]

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 0.0 if total == 0 else 2 * self.precision * self.recall / total


def psnr(image: ArrayLike, truth: ArrayLike) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the truth's range, max - min. That of a stack is the mean.

    Raises
    ------
    ValueError
        If the shapes differ, or the truth is constant.
    """
    image, truth = _pair(image, truth)
    if image.ndim == 3:
        return float(np.mean([psnr(i, t) for i, t in zip(image, truth, strict=True)]))
    error = float(np.mean((image - truth) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(_range(truth) ** 2 / error))


def psnr_8bit(image: ArrayLike, truth: ArrayLike) -> float:
    """PSNR in dB as it is often published: of the image as an 8-bit picture in which the truth spans 0 to 255.

    What the image shows beyond the truth's range is cut off, and its grey values are rounded: nothing is better than
    about 59 dB. That of a stack is the mean.
    """
    image, truth = _pair(image, truth)
    if image.ndim == 3:
        return float(np.mean([psnr_8bit(i, t) for i, t in zip(image, truth, strict=True)]))
    low, scale = float(truth.min()), 255 / _range(truth)
    return psnr(np.round((image - low) * scale).clip(0, 255), (truth - low) * scale)


def ssim(image: ArrayLike, truth: ArrayLike) -> float:
    """Structural similarity with Gaussian weights of sigma 1.5 px and the truth's range. That of a stack is the mean.

    References
    ----------
    Wang et al., IEEE Trans. Image Process. 13, 600 (2004), https://doi.org/10.1109/TIP.2003.819861
    """
    image, truth = _pair(image, truth)
    if image.ndim == 3:
        return float(np.mean([ssim(i, t) for i, t in zip(image, truth, strict=True)]))
    c1, c2 = (0.01 * _range(truth)) ** 2, (0.03 * _range(truth)) ** 2

    def mean(values: NDArray) -> NDArray:
        return ndimage.gaussian_filter(values, 1.5, truncate=3.5)

    mu_i, mu_t = mean(image), mean(truth)
    var_i, var_t = mean(image**2) - mu_i**2, mean(truth**2) - mu_t**2
    covariance = mean(image * truth) - mu_i * mu_t
    similarity = (2 * mu_i * mu_t + c1) * (2 * covariance + c2)
    similarity /= (mu_i**2 + mu_t**2 + c1) * (var_i + var_t + c2)
    pad = 5 if min(image.shape) > 10 else 0
    return float(similarity[pad : image.shape[0] - pad, pad : image.shape[1] - pad].mean())


def match_columns(found: ArrayLike, true: ArrayLike, radius: float) -> Match:
    """Match found positions with true ones: as many pairs as possible within the radius, the closest overall.

    Parameters
    ----------
    found, true : array-like of shape (n, 2)
        ``(y, x)`` in one unit.
    radius : float
        Largest distance of a pair, same unit.
    """
    found, true = (np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in (found, true))
    if not radius > 0:
        raise ValueError(f"radius must be positive, but is {radius!r}")
    i, j = _assign(found, true, radius)
    difference = found[i] - true[j]
    missing = (float("nan"), float("nan"))
    rms = tuple(np.sqrt((difference**2).mean(axis=0)).tolist()) if len(i) else missing
    bias = tuple(difference.mean(axis=0).tolist()) if len(i) else missing
    precision = len(i) / len(found) if len(found) else float(len(true) == 0)
    recall = len(i) / len(true) if len(true) else float(len(found) == 0)
    return Match(i, j, precision, recall, rms, bias)


def _assign(found: NDArray, true: NDArray, radius: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Optimal assignment within each cluster of positions that reach each other."""
    nothing = np.empty(0, dtype=np.intp)
    if len(found) == 0 or len(true) == 0:
        return nothing, nothing
    reach = cKDTree(found).sparse_distance_matrix(cKDTree(true), radius, output_type="coo_matrix")
    if reach.nnz == 0:
        return nothing, nothing
    n = len(found)
    graph = sparse.coo_matrix((np.ones(reach.nnz), (reach.row, reach.col + n)), shape=(n + len(true),) * 2)
    _, label = sparse.csgraph.connected_components(graph, directed=False)
    order = np.argsort(label[reach.row], kind="stable")
    edges = np.split(order, np.flatnonzero(np.diff(label[reach.row][order])) + 1)
    pairs = [_assign_cluster(reach.row[e], reach.col[e], reach.data[e], radius) for e in edges]
    i, j = (np.concatenate(side).astype(np.intp) for side in zip(*pairs, strict=True))
    return i, j


def _assign_cluster(row: NDArray, col: NDArray, distance: NDArray, radius: float) -> tuple[NDArray, NDArray]:
    if len(row) == 1:
        return row, col
    rows, r = np.unique(row, return_inverse=True)
    cols, c = np.unique(col, return_inverse=True)
    # out of reach costs more than any number of pairs within reach
    too_far = 1e3 * radius * (len(rows) + len(cols))
    cost = np.full((len(rows), len(cols)), too_far)
    cost[r, c] = distance**2 / radius
    i, j = optimize.linear_sum_assignment(cost)
    within = cost[i, j] < too_far
    return rows[i[within]], cols[j[within]]


def _pair(image: ArrayLike, truth: ArrayLike) -> tuple[NDArray, NDArray]:
    image, truth = np.asarray(image, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if image.shape != truth.shape:
        raise ValueError(f"image and truth must have one shape, but have {image.shape} and {truth.shape}")
    if image.ndim not in (2, 3):
        raise ValueError(f"image must be (n_y, n_x) or a stack of such, but has shape {image.shape}")
    return image, truth


def _range(truth: NDArray) -> float:
    peak = float(np.ptp(truth))
    if peak == 0:
        raise ValueError("truth must not be constant: its range is the peak that errors are compared with")
    return peak
