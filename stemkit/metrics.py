"""Figures of merit: PSNR, SSIM, and the matching of measured with true columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse
from scipy.spatial import cKDTree
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from stemkit.parameters import is_number

__all__ = ["Match", "match_columns", "psnr", "psnr_8bit", "ssim"]

#: Sigma of the weights of SSIM, px (Wang et al. 2004).
SSIM_SIGMA = 1.5
#: Size of the window of SSIM, px (Wang et al. 2004); half of it is the border whose SSIM is not averaged.
SSIM_WINDOW = 11
#: Cost of a pair beyond the radius, in units of the upper limit of the total cost within it (chosen: well above 1).
UNMATCHED_COST = 1e3


@dataclass(frozen=True)
class Match:
    """Measured columns matched one to one with true columns.

    ``found`` and ``true`` are ``(n_matched,)`` indices of the pairs; ``rms`` and ``bias`` are the RMS and the mean
    of the position errors ``(y, x)`` in the unit of the positions, NaN without a match.
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
    """Peak signal-to-noise ratio in dB, where the peak is the range of the truth; the mean over a stack.

    Parameters
    ----------
    image, truth : array-like of shape (n_y, n_x) or (n_images, n_y, n_x)
        Image and true image in the same units.

    Raises
    ------
    ValueError
        If the shapes differ, or the truth is constant.
    """
    return _mean_over_images(_psnr, image, truth)


def psnr_8bit(image: ArrayLike, truth: ArrayLike) -> float:
    """PSNR in dB of the image converted to 8 bits, with the range of the truth as 0 to 255; the mean over a stack.

    Many publications state this value. Intensities outside the range of the truth are clipped, and grey values are
    rounded, which limits the PSNR to about 59 dB.
    """
    return _mean_over_images(_psnr_8bit, image, truth)


def ssim(image: ArrayLike, truth: ArrayLike) -> float:
    """Structural similarity with Gaussian weights of sigma 1.5 px and the range of the truth; the mean over a stack.

    It is that of ``skimage.metrics.structural_similarity`` with ``gaussian_weights=True`` and
    ``use_sample_covariance=False``.

    References
    ----------
    Wang et al., IEEE Trans. Image Process. 13, 600 (2004), https://doi.org/10.1109/TIP.2003.819861
    """
    return _mean_over_images(_ssim, image, truth)


def match_columns(found: ArrayLike, true: ArrayLike, radius: float) -> Match:
    """Match found with true positions one to one, as many pairs as possible within a radius.

    Of the matchings with the largest number of pairs it is the one with the smallest sum of squared distances.

    Parameters
    ----------
    found, true : array-like of shape (n, 2)
        Positions ``(y, x)`` in the same unit.
    radius : float
        Largest distance of a pair, in the unit of the positions.

    Returns
    -------
    Match

    Raises
    ------
    ValueError
        If the radius is not positive, or positions are not finite or not of shape ``(n, 2)``.
    """
    found, true = _positions(found, "found"), _positions(true, "true")
    if not (is_number(radius) and radius > 0):
        raise ValueError(f"radius must be a positive number, but is {radius!r}")
    i, j = _matched_indices(found, true, radius)
    difference = found[i] - true[j]
    missing = (float("nan"), float("nan"))
    rms = tuple(np.sqrt((difference**2).mean(axis=0)).tolist()) if len(i) else missing
    bias = tuple(difference.mean(axis=0).tolist()) if len(i) else missing
    precision = len(i) / len(found) if len(found) else float(len(true) == 0)
    recall = len(i) / len(true) if len(true) else float(len(found) == 0)
    return Match(i, j, precision, recall, rms, bias)


def _matched_indices(found: NDArray, true: NDArray, radius: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Optimal assignment within each connected component of the graph of pairs within the radius."""
    empty = np.empty(0, dtype=np.intp)
    if len(found) == 0 or len(true) == 0:
        return empty, empty
    distances = cKDTree(found).sparse_distance_matrix(cKDTree(true), radius, output_type="coo_matrix")
    if distances.nnz == 0:
        return empty, empty
    n = len(found)
    graph = sparse.coo_matrix((np.ones(distances.nnz), (distances.row, distances.col + n)), shape=(n + len(true),) * 2)
    _, label = sparse.csgraph.connected_components(graph, directed=False)
    order = np.argsort(label[distances.row], kind="stable")
    edges = np.split(order, np.flatnonzero(np.diff(label[distances.row][order])) + 1)
    pairs = [_assign_component(distances.row[e], distances.col[e], distances.data[e], radius) for e in edges]
    i, j = (np.concatenate(side).astype(np.intp) for side in zip(*pairs, strict=True))
    return i, j


def _assign_component(row: NDArray, col: NDArray, distance: NDArray, radius: float) -> tuple[NDArray, NDArray]:
    """Optimal assignment in one component, given the distances of its pairs within the radius."""
    if len(row) == 1:
        return row, col
    rows, r = np.unique(row, return_inverse=True)
    cols, c = np.unique(col, return_inverse=True)
    # a pair beyond the radius costs more than all pairs within it
    unmatched = UNMATCHED_COST * radius * (len(rows) + len(cols))
    cost = np.full((len(rows), len(cols)), unmatched)
    cost[r, c] = distance**2 / radius
    i, j = optimize.linear_sum_assignment(cost)
    matched = cost[i, j] < unmatched
    return rows[i[matched]], cols[j[matched]]


def _positions(values: ArrayLike, name: str) -> NDArray[np.float64]:
    positions = np.asarray(values, dtype=np.float64)
    positions = positions.reshape(-1, 2) if positions.size == 0 else positions
    if positions.ndim != 2 or positions.shape[1] != 2 or not np.isfinite(positions).all():
        raise ValueError(f"{name} must be finite positions (y, x) of shape (n, 2), but has shape {np.shape(values)}")
    return positions


def _mean_over_images(metric: Callable[[NDArray, NDArray], float], image: ArrayLike, truth: ArrayLike) -> float:
    """A metric of two images, or its mean over two stacks."""
    image, truth = np.asarray(image, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if image.shape != truth.shape:
        raise ValueError(f"image and truth must have the same shape, but have {image.shape} and {truth.shape}")
    if image.ndim not in (2, 3):
        raise ValueError(f"image must have shape (n_y, n_x) or (n_images, n_y, n_x), but has {image.shape}")
    pairs = zip(image, truth, strict=True) if image.ndim == 3 else [(image, truth)]
    return float(np.mean([metric(one, its_truth) for one, its_truth in pairs]))


def _psnr(image: NDArray, truth: NDArray) -> float:
    with np.errstate(divide="ignore"):  # an image without an error has an infinite PSNR
        return float(peak_signal_noise_ratio(truth, image, data_range=_range(truth)))


def _psnr_8bit(image: NDArray, truth: NDArray) -> float:
    low, scale = float(truth.min()), 255 / _range(truth)
    return _psnr(np.round((image - low) * scale).clip(0, 255), (truth - low) * scale)


def _ssim(image: NDArray, truth: NDArray) -> float:
    # with Gaussian weights the size of the window determines only the border that is not averaged
    window = SSIM_WINDOW if min(image.shape) >= SSIM_WINDOW else 1
    weights = {"gaussian_weights": True, "sigma": SSIM_SIGMA, "use_sample_covariance": False}
    return float(structural_similarity(truth, image, win_size=window, data_range=_range(truth), **weights))


def _range(truth: NDArray) -> float:
    peak = float(np.ptp(truth))
    if peak == 0:
        raise ValueError("truth must not be constant: its range is the peak of the signal. Give an image with contrast")
    return peak
