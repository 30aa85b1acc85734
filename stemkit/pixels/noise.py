"""Noise of an image as a function of the local level, for the search for faulty pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemkit.pixels.constants import CONSTANTS, CUBIC_RESIDUAL_STD

__all__ = ["LevelDependentNoise", "centered"]


@dataclass(frozen=True)
class LevelDependentNoise:
    """Variance of the noise as a function of the local level, in the units of the image.

    ``level`` and ``variance`` are ``(n_bins,)``, ``gain`` the slope of the variance beyond the highest level,
    ``quantum`` the digital level (0: none), ``tail`` the 99.8 % quantile of the absolute noise in standard deviations,
    ``floor`` and ``ceiling`` the limits beyond which intensities are outliers.
    """

    level: NDArray[np.float64]
    variance: NDArray[np.float64]
    gain: float
    quantum: float
    tail: float
    floor: float
    ceiling: float

    @classmethod
    def from_image(cls, work: NDArray, constant: NDArray | None = None) -> LevelDependentNoise:
        """Measure the noise of an image without outliers; constant areas are excluded from the range of intensities."""
        subset = tuple(slice(None, None, max(1, n // 256)) for n in work.shape)
        sample = work[subset]
        if constant is not None and 0 < constant[subset].mean() < 0.8:
            sample = sample[~constant[subset]]
        low, high = (float(q) for q in np.quantile(sample, CONSTANTS.range_quantiles))
        extent = max(high - low, 1e-12 * float(np.abs(work).max()))
        floor, ceiling = low - extent, high + extent
        b = CONSTANTS.block_size
        residual, at = _residual(work), work[2:-2, 2:-2]
        outlier = (at > ceiling) | (at < floor)
        n_y, n_x = (n // b for n in at.shape)
        if n_y * n_x < CONSTANTS.min_blocks:
            b = CONSTANTS.small_block_size
            n_y, n_x = (n // b for n in at.shape)

        def blocks(a: NDArray) -> NDArray:
            return a[: n_y * b, : n_x * b].reshape(n_y, b, n_x, b)

        square = np.einsum("iajb,iajb->ij", blocks(residual), blocks(residual)).ravel() / b**2
        mean = blocks(at).mean(axis=(1, 3)).ravel()
        # blocks without variation are faulty, or contain no counts
        good = ~blocks(outlier).any(axis=(1, 3)).ravel() & (square > 0)
        quantum = _quantum(sample)
        if good.sum() < CONSTANTS.min_blocks:
            return cls(np.zeros(1), np.zeros(1), 0.0, quantum, CONSTANTS.normal_tail, floor, ceiling)
        order = np.flatnonzero(good)[np.argsort(mean[good], kind="stable")]
        groups = np.array_split(order, max(1, min(CONSTANTS.max_bins, len(order) // CONSTANTS.min_blocks_per_bin)))
        level = np.array([mean[g].mean() for g in groups])
        variance = np.array([np.median(square[g]) for g in groups])
        variance = np.maximum(variance, (CONSTANTS.min_noise * extent) ** 2)
        gain = max(float(variance[-1] - variance[0]) / max(float(level[-1] - level[0]), 1e-300), 0.0)
        gain = gain if len(level) > 1 else 0.0
        chosen = np.zeros(n_y * n_x, dtype=bool)
        chosen[order[:: max(1, len(order) // CONSTANTS.n_tail_blocks)]] = True
        residuals, intensity = (blocks(i).transpose(0, 2, 1, 3).reshape(-1, b * b)[chosen] for i in (residual, at))
        model = cls(level, variance, gain, quantum, CONSTANTS.normal_tail, floor, ceiling)
        # the level of a pixel is that predicted from its neighbors
        z = np.abs(residuals) / np.sqrt(model.variance_at(intensity - CUBIC_RESIDUAL_STD * residuals))
        regular = z.max(axis=1) < CONSTANTS.max_tail_residual
        z = z[regular] if regular.mean() > 0.5 else z
        tail = float(np.quantile(z, CONSTANTS.tail_quantile))
        return cls(level, variance, gain, quantum, max(tail, CONSTANTS.normal_tail), floor, ceiling)

    def variance_at(self, level: NDArray | float) -> NDArray[np.float64]:
        """Variance at these levels."""
        beyond = np.maximum(np.asarray(level) - self.level[-1], 0.0)
        return np.interp(level, self.level, self.variance) + self.gain * beyond

    def std(self, level: NDArray | float) -> NDArray[np.float64]:
        """Standard deviation at these levels, with one digital level added in quadrature."""
        return np.sqrt(self.variance_at(level) + self.quantum**2)

    @property
    def threshold(self) -> float:
        """Least excess of a faulty pixel, in standard deviations."""
        return CONSTANTS.min_excess + CONSTANTS.excess_per_tail * (self.tail - CONSTANTS.normal_tail)


def centered(values: NDArray) -> NDArray[np.float64]:
    """The image in double precision minus about its median, against rounding errors."""
    work = np.asarray(values, dtype=np.float64)
    return work - np.median(work[:: max(1, len(work) // 64)])


def _quantum(sample: NDArray) -> float:
    """Smallest difference between the values of an image, 0 if they are continuous."""
    levels = np.unique(sample)
    return float(np.diff(levels).min()) if 1 < len(levels) < 0.5 * sample.size else 0.0


def _residual(work: NDArray) -> NDArray[np.float64]:
    """Residual of the cubic interpolation along both axes, scaled to the variance of the noise, without two px at each
    border.
    """
    near = work[1:-3, 2:-2] + work[3:-1, 2:-2] + work[2:-2, 1:-3] + work[2:-2, 3:-1]
    far = work[:-4, 2:-2] + work[4:, 2:-2] + work[2:-2, :-4] + work[2:-2, 4:]
    near /= 3.0
    far /= 12.0
    far -= near
    far += work[2:-2, 2:-2]
    far /= CUBIC_RESIDUAL_STD
    return far
