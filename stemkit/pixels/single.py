"""Single pixels and small clusters that are brighter or darker than the probe and the noise allow."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.pixels.constants import CONSTANTS, CUBIC_RESIDUAL_STD, MIN_LARGER_CUBIC
from stemkit.pixels.noise import LevelDependentNoise

__all__ = ["cubic_interpolations", "isolated_pixels", "outlying_pixels"]


def isolated_pixels(work: NDArray, noise: LevelDependentNoise, sign: float) -> NDArray[np.bool_]:
    """Pixels that are brighter (darker: sign -1) than the width of the probe allows."""
    padded = np.pad(work * sign, 2, mode="reflect")
    found = np.zeros(work.shape, dtype=bool)
    sharpest = CONSTANTS.min_width if sign > 0 else CONSTANTS.min_dark_width
    ratio = math.exp(0.5 / sharpest**2)
    y, x = _candidates(padded, ratio, noise.threshold * float(np.sqrt(noise.variance.min() + noise.quantum**2)))
    for _ in range(CONSTANTS.n_rounds):
        if len(y) == 0:
            break
        highest = _highest(padded, y, x, noise, sign, sharpest)
        over = padded[y + 2, x + 2] > highest + noise.threshold * noise.std(sign * highest)
        y, x = y[over], x[over]
        if len(y) == 0:
            break
        found[y, x] = True
        _replace(padded, found, y, x)
        ring = ndimage.binary_dilation(found, np.ones((3, 3))) & ~found
        y, x = np.nonzero(ring)
    return found


def cubic_interpolations(work: NDArray) -> tuple[NDArray, NDArray]:
    """Cubics through the four nearest pixels along y and along x, without two px at each border."""

    def cubic(image: NDArray) -> NDArray:
        out = image[1:-3] + image[3:-1]
        out *= 4.0
        out -= image[:-4]
        out -= image[4:]
        out /= 6.0
        return out

    return cubic(work[:, 2:-2]), cubic(work.T[:, 2:-2]).T


def outlying_pixels(
    work: NDArray, cubics: tuple[NDArray, NDArray], noise: LevelDependentNoise, sign: float
) -> NDArray[np.bool_]:
    """Pixels that are brighter (darker: sign -1) than the cubics through their neighbors along both axes.

    Bright pixels must also be brighter than the width of the probe allows.
    """
    middle = work[2:-2, 2:-2]
    threshold = CUBIC_RESIDUAL_STD * noise.threshold
    least = threshold * float(np.sqrt(noise.variance.min() + noise.quantum**2))
    excess = middle - np.maximum(*cubics) if sign > 0 else np.minimum(*cubics) - middle
    y, x = np.nonzero(excess > MIN_LARGER_CUBIC * least)
    expected = (cubics[0][y, x] + cubics[1][y, x]) / 2
    local_least = threshold * noise.std(expected)
    over = sign * (middle[y, x] - expected) > local_least
    over &= excess[y, x] > MIN_LARGER_CUBIC * local_least
    y, x = y[over], x[over]
    if sign > 0 and len(y):
        over = middle[y, x] > _highest(work, y, x, noise, sign, CONSTANTS.min_width)
        y, x = y[over], x[over]
    out = np.zeros(work.shape, dtype=bool)
    out[y + 2, x + 2] = True
    return out


def _highest(
    padded: NDArray, y: NDArray, x: NDArray, noise: LevelDependentNoise, sign: float, sharpest: float
) -> NDArray[np.float64]:
    """Upper limits of the intensities of pixels for columns of this sigma, from their neighbors and the noise."""
    left, right, up, down = (padded[y + 2 + i, x + 2 + j] for i, j in ((0, -1), (0, 1), (-1, 0), (1, 0)))
    base = _neighborhoods(padded, y, x).min(axis=1)
    allowance = CONSTANTS.neighbor_allowance * noise.std(sign * (left + right + up + down) / 4)
    mean_x = np.sqrt(np.maximum(left - base, 0) + allowance) * np.sqrt(np.maximum(right - base, 0) + allowance)
    mean_y = np.sqrt(np.maximum(up - base, 0) + allowance) * np.sqrt(np.maximum(down - base, 0) + allowance)
    return base + math.exp(0.5 / sharpest**2) * np.maximum(mean_x, mean_y)


def _candidates(padded: NDArray, ratio: float, least: float) -> tuple[NDArray, NDArray]:
    """Rows and columns of the pixels that may exceed the limit of :func:`_highest`, from bounds that take less time.

    The geometric mean of two neighbors is at least the smaller of them.
    """
    middle = slice(2, -2)
    # the first bound does not need the minima of the neighborhoods, which take most of the time
    lowest = np.minimum(padded[middle, 1:-3], padded[middle, 3:-1])
    np.maximum(lowest, np.minimum(padded[1:-3, middle], padded[3:-1, middle]), out=lowest)
    y, x = np.nonzero(padded[middle, middle] > lowest + least * (1 - 1 / ratio))
    base = _base(padded)[y, x] if len(y) > padded.size / 25 else _neighborhoods(padded, y, x).min(axis=1)
    keep = padded[y + 2, x + 2] - base > np.maximum(ratio * (lowest[y, x] - base), least)
    return y[keep], x[keep]


def _base(padded: NDArray) -> NDArray[np.float64]:
    """Minimum over 5 x 5 px at each pixel of an image that is padded by 2 px."""
    for _ in range(2):
        # along the last axis, then, after the transposition, along the other; SciPy's filter takes six times longer
        out = np.minimum(padded[:, :-4], padded[:, 4:])
        for i in (1, 2, 3):
            np.minimum(out, padded[:, i : padded.shape[1] - 4 + i], out=out)
        padded = out.T
    return padded


def _neighborhoods(padded: NDArray, y: NDArray, x: NDArray) -> NDArray:
    """The 5 x 5 neighbourhoods ``(n, 25)`` of pixels of an image that is padded by 2 px."""
    span = np.arange(5)
    return padded[(y[:, None] + span)[:, :, None], (x[:, None] + span)[:, None, :]].reshape(len(y), 25)


def _replace(padded: NDArray, found: NDArray, y: NDArray, x: NDArray) -> None:
    """Replace faulty pixels with the median of the valid pixels of their neighbourhood, in place."""
    bad = _neighborhoods(np.pad(found, 2, mode="reflect"), y, x)
    neighborhoods = np.where(bad, np.nan, _neighborhoods(padded, y, x))
    has_valid = ~bad.all(axis=1)
    padded[y[has_valid] + 2, x[has_valid] + 2] = np.nanmedian(neighborhoods[has_valid], axis=1)
    n_y, n_x = found.shape
    padded[:] = np.pad(padded[2 : n_y + 2, 2 : n_x + 2], 2, mode="reflect")
