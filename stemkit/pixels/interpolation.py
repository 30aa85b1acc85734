"""Interpolation of masked pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.pixels.constants import CONSTANTS

__all__ = ["interpolated"]


def interpolated(values: NDArray, mask: NDArray) -> NDArray:
    """Interpolated values of the pixels of the mask."""
    # sum of the interpolations across the narrowest gap, and their number: 1, or 2 where both axes have equal gaps
    total, n_axes = (np.zeros(int(mask.sum())) for _ in range(2))
    narrowest = np.full(len(total), CONSTANTS.max_gap + 2)
    y, x = np.nonzero(mask)
    for image, bad, along, at in ((values, mask, x, y), (values.T, mask.T, y, x)):
        value, gap = _across_gap(image, bad, at, along)
        better, equal = gap < narrowest, gap == narrowest
        total = np.where(better, value, total + equal * value)
        n_axes = np.where(better, 1.0, n_axes + equal)
        narrowest = np.minimum(narrowest, gap)
    out = total / np.maximum(n_axes, 1.0)
    remaining = narrowest == CONSTANTS.max_gap + 2
    if remaining.any():
        means = _multiscale_mean(np.where(mask, 0.0, values).astype(np.float64), (~mask).astype(np.float64))
        out[remaining] = means[mask][remaining]
    return out


def _across_gap(image: NDArray, bad: NDArray, y: NDArray, x: NDArray) -> tuple[NDArray, NDArray]:
    """Cubic interpolation along each row through two valid pixels on either side of a gap, and the distance of the
    inner two; 0 and ``CONSTANTS.max_gap + 2`` if the gap is wider or these pixels are missing.
    """
    widest, n = CONSTANTS.max_gap, image.shape[1]
    margin = widest + 2
    padded, missing = (np.pad(a, ((0, 0), (margin, margin)), mode="reflect") for a in (image, bad))
    span = np.arange(-margin, margin + 1)
    near = missing[y[:, None], x[:, None] + margin + span]
    # distance of the first valid pixel on either side
    before = np.argmin(near[:, margin::-1], axis=1)
    after = np.argmin(near[:, margin:], axis=1)
    start, end = x + margin - before, x + margin + after
    inside = (before > 0) & (after > 0) & (before + after <= widest + 1)
    start, end = np.where(inside, start, margin), np.where(inside, end, margin + 1)
    inside &= ~missing[y, start - 1] & ~missing[y, end + 1] & (n > margin)
    gap = (end - start).astype(np.float64)
    t = np.where(inside, before, 0.0)
    outer, inner = t * (t - gap) / ((1 + gap) * (2 + gap)), (t + 1) * (t - gap - 1) / (gap + 1) / gap
    value = (
        padded[y, start - 1] * -outer * (t - gap - 1)
        + padded[y, start] * inner * (t - gap)
        - padded[y, end] * inner * t
        + padded[y, end + 1] * outer * (t + 1)
    )
    return np.where(inside, value, 0.0), np.where(inside, end - start, widest + 2)


def _multiscale_mean(total: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """Mean of the valid pixels around each pixel, from sums and weights at half the size, recursively."""
    good = weight > 0
    mean = np.divide(total, weight, out=np.zeros_like(total), where=good)
    if good.all() or min(total.shape) < 2:
        return mean
    shape = [n + n % 2 for n in total.shape]
    margin = [(0, s - n) for s, n in zip(shape, total.shape, strict=True)]

    def halved(a: NDArray) -> NDArray:
        return np.pad(a, margin).reshape(shape[0] // 2, 2, shape[1] // 2, 2).sum((1, 3))

    coarse = _multiscale_mean(halved(total), halved(weight))
    fine = np.repeat(np.repeat(coarse, 2, 0), 2, 1)[: total.shape[0], : total.shape[1]]
    return np.where(good, mean, ndimage.uniform_filter(fine, 3, mode="nearest"))
