"""Means of an image over the translations of its lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stemkit.filters import lanczos_weights, wide_gaussian
from stemkit.periodicity import central_crop, find_periodicity

__all__ = ["Translations"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the average over translations, all chosen."""

    #: Edge of the square in the middle of the image on which the lattice is measured, px: a dozen cells or more.
    measured_on: int = 768
    #: Edge of the square on which the window is chosen, px.
    chosen_on: int = 512
    #: Standard deviations of the Gaussian window over the translations, in edges of the unit cell. The one that
    #: predicts the recorded pixels best is used, so that a distorted lattice is averaged over a shorter distance.
    windows: tuple[float, float] = (8.0, 3.0)
    #: Longest translation, in standard deviations of the window.
    truncation: float = 2.5
    #: Longest translation, as a fraction of the image: beyond, hardly any pixel has a partner.
    longest: float = 0.8
    #: Taps of the windowed sinc for translations between pixels, as in ``PeriodicDenoiser``.
    taps: int = 6
    #: Least number of equivalent unit cells, for the median pixel, for an average.
    min_cells: float = 6.0
    #: Longest lattice vector of the refinement, as a fraction of the image, where half of the pixels still overlap.
    refined: float = 0.45
    #: Largest distance between a peak of the autocorrelation and the lattice vector to which it belongs, px.
    nearest: float = 1.5


CONSTANTS = _Constants()


@dataclass(frozen=True)
class Translations:
    """Means over the translations of a lattice, by convolution.

    Parameters
    ----------
    spacing : float
        Distance of nearest columns, px.
    spectrum : ndarray
        ``rfft2`` of the weights of all translations on a grid of shape ``padded``.
    padded : tuple of int
        Image and longest translation, so that nothing wraps around.
    cells : ndarray of shape (n_y, n_x)
        Sum of the weights of the translations that stay inside the image: the number of averaged cells.
    """

    spacing: float
    spectrum: NDArray
    padded: tuple[int, int]
    cells: NDArray

    @classmethod
    def from_images(cls, recorded: NDArray, enhanced: NDArray) -> Translations | None:
        """The lattice of an image, with the window that predicts the recorded pixels best; None without a lattice."""
        for image in (enhanced, recorded):
            found = find_periodicity(central_crop(image, CONSTANTS.measured_on))
            if found.vectors is not None and found.spacing is not None:
                break
        else:
            return None
        vectors = _refined(central_crop(image, CONSTANTS.measured_on).astype(np.float64), found.vectors)
        part = central_crop(recorded, CONSTANTS.chosen_on)
        several = [cls._with_window(part.shape, vectors, found.spacing, window) for window in CONSTANTS.windows]
        predictions = [one.prediction(part) for one in several]
        choice = int(np.argmax(predictions))
        enough = float(np.median(several[choice].cells)) >= CONSTANTS.min_cells
        if not enough or predictions[choice] <= 0:
            return None
        if part.shape == recorded.shape:
            return several[choice]
        return cls._with_window(recorded.shape, vectors, found.spacing, CONSTANTS.windows[choice])

    @classmethod
    def _with_window(cls, shape: tuple[int, ...], vectors: NDArray, spacing: float, window: float) -> Translations:
        kernel = _kernel(shape, vectors, window)
        spectrum = fft.rfft2(kernel)
        padded = (kernel.shape[0], kernel.shape[1])
        cells = _convolved(np.ones(shape, np.float32), spectrum, padded)
        return cls(spacing, spectrum, padded, np.maximum(cells, 1.0))

    def mean(self, values: NDArray) -> NDArray:
        """Mean over the translations that stay inside the image."""
        level = values.mean()
        return np.asarray(_convolved(values - level, self.spectrum, self.padded) / self.cells + level)

    def prediction(self, values: NDArray) -> float:
        """Correlation of an image with the mean of its other cells."""
        flat = values - wide_gaussian(values.astype(np.float64), max(4.0, self.spacing))
        others = (_convolved(flat, self.spectrum, self.padded) - flat) / np.maximum(self.cells - 1, 0.1)
        power = float((others**2).sum() * (flat**2).sum())
        return float((others * flat).sum()) / np.sqrt(power) if power else 0.0


def _convolved(values: NDArray, spectrum: NDArray, padded: tuple[int, int]) -> NDArray:
    transformed = fft.rfft2(values.astype(np.float32), s=padded, workers=-1) * spectrum
    return np.asarray(fft.irfft2(transformed, s=padded, workers=-1)[: values.shape[0], : values.shape[1]])


def _kernel(shape: tuple[int, ...], vectors: NDArray, window: float) -> NDArray[np.float32]:
    """Gaussian weights at all lattice points, each between pixels by a windowed sinc (Lanczos)."""
    length = window * np.sqrt(abs(np.linalg.det(vectors)))
    reach = int(np.ceil(CONSTANTS.truncation * window)) + 1
    steps = np.arange(-reach, reach + 1)
    points = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2) @ vectors
    inside = (np.abs(points) < CONSTANTS.longest * np.array(shape)).all(axis=1)
    points = points[inside & (np.hypot(*points.T) < CONSTANTS.truncation * length)]
    weights = np.exp(-(points**2).sum(axis=1) / (2 * length**2))
    margin = np.ceil(np.abs(points).max(axis=0)).astype(int) + CONSTANTS.taps
    kernel = np.zeros([fft.next_fast_len(int(n + m), real=True) for n, m in zip(shape, margin, strict=True)])
    whole = np.floor(points).astype(int)
    taps = np.arange(CONSTANTS.taps) - (CONSTANTS.taps // 2 - 1)
    lanczos = lanczos_weights(points - whole, CONSTANTS.taps)
    at = [(whole[:, k, None] + taps) % kernel.shape[k] for k in (0, 1)]
    values = weights[:, None, None] * lanczos[:, 0, :, None] * lanczos[:, 1, None, :]
    np.add.at(kernel, (at[0][:, :, None], at[1][:, None, :]), values)
    return kernel.astype(np.float32)


def _refined(values: NDArray, vectors: NDArray) -> NDArray:
    """Lattice vectors by least squares from all peaks of the autocorrelation, first the near ones, then to its half."""
    correlation = _autocorrelation(values)
    limit, reach = CONSTANTS.refined * min(values.shape), 2.5 * float(np.hypot(*vectors.T).max())
    while True:
        index, peaks, weights = _lattice_peaks(correlation, vectors, min(reach, limit))
        if len(peaks) < 3 or np.linalg.matrix_rank(index) < 2:
            return vectors
        vectors = np.linalg.lstsq(index * weights[:, None], peaks * weights[:, None], rcond=None)[0]
        if reach >= limit:
            return vectors
        reach *= 2


def _autocorrelation(values: NDArray) -> NDArray:
    """Correlation coefficient of an image and itself at each distance, which is taken modulo the shape.

    Mean and variance are those of the parts that overlap: those of the whole image displace the peaks, since the parts
    do not hold whole numbers of unit cells.
    """
    flat = values - values.mean()
    padded = [fft.next_fast_len(2 * n, real=True) for n in values.shape]
    image, square, ones = (fft.rfft2(v, s=padded, workers=-1) for v in (flat, flat**2, np.ones_like(flat)))

    def sums(one: NDArray, other: NDArray) -> NDArray:
        return np.asarray(fft.irfft2(one * other.conj(), s=padded, workers=-1))

    def opposite(product: NDArray) -> NDArray:
        return np.roll(product[::-1, ::-1], (1, 1), (0, 1))

    n = np.maximum(sums(ones, ones), 1.0)
    total, power = sums(image, ones), sums(square, ones)
    variance = np.maximum(power / n - (total / n) ** 2, 1e-6 * float(flat.var()) + 1e-30)
    covariance = sums(image, image) / n - total * opposite(total) / n**2
    return np.asarray(covariance / np.sqrt(variance * opposite(variance)))


def _lattice_peaks(correlation: NDArray, vectors: NDArray, limit: float) -> tuple[NDArray, NDArray, NDArray]:
    """Indices of lattice points, peaks (y, x) of the autocorrelation near them, px, and the roots of their heights."""
    reach = int(np.ceil(limit / np.hypot(*vectors.T).min())) + 1
    steps = np.arange(-reach, reach + 1)
    index = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    index = index[(index[:, 0] > 0) | ((index[:, 0] == 0) & (index[:, 1] > 0))]
    expected = index @ vectors
    inside = (np.abs(expected) < limit).all(axis=1)
    index, expected = index[inside], expected[inside]
    around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1)

    def near(places: NDArray) -> NDArray:
        at = places[:, None, None, :] + around
        return np.asarray(correlation[at[..., 0] % correlation.shape[0], at[..., 1] % correlation.shape[1]])

    places = np.round(expected).astype(int)
    highest = near(places).reshape(-1, 9).argmax(axis=1)
    places = places + around.reshape(9, 2)[highest]
    values = near(places)
    height = values[:, 1, 1]
    slopes = np.stack([values[:, 2, 1] - values[:, 0, 1], values[:, 1, 2] - values[:, 1, 0]], -1) / 2
    sums = np.stack([values[:, 2, 1] + values[:, 0, 1], values[:, 1, 2] + values[:, 1, 0]], -1)
    curvature = np.minimum(sums - 2 * height[:, None], 0.0)
    peaked = (curvature < 0).all(axis=1) & (height > 0)
    peaks = places - np.clip(slopes / np.where(curvature < 0, curvature, -1.0), -1, 1)
    peaked &= (np.abs(peaks - expected) < CONSTANTS.nearest).all(axis=1)
    return index[peaked], peaks[peaked], np.sqrt(height[peaked])
