"""Faulty pixels: hot and dead pixels, cosmic rays, missing rows, constant areas.

The resolution of an image is limited by the width of the probe: a pixel that differs from its neighbours by more than
the probe and the noise allow is a fault of the detector or of the readout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["PixelFaults", "faulty_pixels", "filled", "find_pixel_faults"]


@dataclass(frozen=True)
class Limits:
    """Constants of the search for faulty pixels (tuned: on the simulated images of ``tests/test_pixels.py``)."""

    #: Sigma of the narrowest bright column, px (chosen: integration over a pixel alone has a sigma of 0.29 px).
    sharpest: float = 0.75
    #: Sigma of the narrowest dark spot, such as the gap between columns of a dense lattice, px (tuned).
    sharpest_dark: float = 0.55
    #: Excess of a faulty pixel over the upper limit of its intensity, standard deviations of the noise (tuned).
    excess: float = 7.0
    #: Increase of ``excess`` per unit of the tail of the noise beyond that of a normal distribution (tuned).
    tail: float = 5.0
    #: Quantile of the absolute residuals, in standard deviations, that is the tail of the noise (chosen).
    tail_quantile: float = 0.998
    #: This quantile for a normal distribution, standard deviations (derived).
    normal_tail: float = 3.09
    #: Largest residual of the blocks from which the tail is measured, standard deviations (chosen).
    extreme: float = 7.0
    #: Allowance for the noise of the neighbours, standard deviations (tuned).
    allowance: float = 1.5
    #: Lower limit of the standard deviation of the noise, fraction of the range of intensities (chosen).
    least_noise: float = 2e-3
    #: Quantiles that define the range of intensities (chosen).
    range_quantiles: tuple[float, float] = (0.01, 0.99)
    #: Number of rounds in which clusters of faulty pixels are removed from their corners inwards (chosen).
    rounds: int = 6
    #: Edge of the blocks in which the noise is measured, px (chosen).
    block: int = 8
    #: Edge of these blocks in an image with fewer than ``fewest_blocks``, px (chosen).
    small_block: int = 4
    #: Smallest number of blocks from which the noise is measured (chosen).
    fewest_blocks: int = 4
    #: Largest number of bins of the level (chosen).
    bins: int = 24
    #: Number of blocks per bin at least (chosen).
    blocks_per_bin: int = 16
    #: Number of blocks from which the tail is measured, about (chosen).
    tail_blocks: int = 512
    #: Edge of the smallest constant area, px (chosen).
    area: int = 7
    #: Length of the shortest constant run along a row, px (chosen).
    run: int = 48
    #: Number of pixels below which a constant area has the stricter limit ``small_contrast`` (chosen).
    small: int = 200
    #: Difference of a constant area from its surroundings, standard deviations of the noise (chosen).
    contrast: float = 1.5
    #: The same for a small area: at low dose, areas without electrons occur next to pixels with several (chosen).
    small_contrast: float = 3.0
    #: Difference of a constant area from its surroundings, in units of the variation of these (chosen).
    variation: float = 3.0
    #: Difference of a faulty row from both neighbours, in units of the median difference of rows (tuned).
    row_distance: float = 6.0
    #: Number of rows over which this median is taken (chosen).
    median_rows: int = 17
    #: Fraction of a row's pixels outside constant areas at least, for a comparison with its neighbours (chosen).
    valid_fraction: float = 0.2
    #: Number of rows that can be compared with their neighbours at least (chosen).
    fewest_rows: int = 8
    #: Largest fraction of the image in faulty rows and constant areas; above it none is reported (chosen).
    largest_fraction: float = 0.9
    #: Widest gap that is filled by interpolation along an axis, px (chosen).
    gap: int = 4
    #: Shorter side of the smallest image that is searched, px (chosen).
    smallest: int = 12


LIMITS = Limits()
#: Standard deviation of a pixel minus the mean of the cubics along both axes, for noise of 1 (derived).
CUBIC = math.sqrt(1 + 4 / 9 + 4 / 144)
#: Least excess of a faulty pixel over the larger of the two cubics, in units of its excess over their mean (chosen).
LARGER_CUBIC = 0.6


@dataclass(frozen=True)
class PixelFaults:
    """Masks ``(n_y, n_x)`` of the faulty pixels of each kind; no pixel has two kinds.

    Parameters
    ----------
    hot, dead : ndarray of bool
        Pixels and small clusters that are brighter or darker than the probe and the noise allow.
    rows : ndarray of bool
        Faulty rows.
    constant : ndarray of bool
        Areas of a single value, such as a border added by alignment, or a masked or dead area of the detector.
    """

    hot: NDArray[np.bool_]
    dead: NDArray[np.bool_]
    rows: NDArray[np.bool_]
    constant: NDArray[np.bool_]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """All faulty pixels."""
        return self.hot | self.dead | self.rows | self.constant


def faulty_pixels(values: NDArray) -> NDArray[np.bool_]:
    """Find the faulty pixels of an image.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        One recorded image, in any units, columns bright or dark.

    Returns
    -------
    ndarray of bool, shape (n_y, n_x)

    See Also
    --------
    find_pixel_faults : Masks of each kind of fault; describes the method.
    filled : Replaces these pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from stemkit.pixels import faulty_pixels, filled
    >>> image = np.random.default_rng(0).poisson(20.0, (64, 64))
    >>> image[10, 20] = 4000
    >>> np.argwhere(faulty_pixels(image)).tolist()
    [[10, 20]]
    >>> bool(filled(image).max() < 60)
    True
    """
    return find_pixel_faults(values).mask


def find_pixel_faults(values: NDArray) -> PixelFaults:
    """Find the faulty pixels of an image by kind.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        One recorded image, in any units, columns bright or dark.

    Returns
    -------
    PixelFaults

    Notes
    -----
    A recorded image is the specimen convolved with a probe of sigma s or wider. For any sum of Gaussians of at least
    this width on a constant, three neighbouring pixels l, v, r of a row or a column satisfy ``l r >= exp(-1 / s^2)
    v^2`` (Cauchy-Schwarz), relative to the minimum of their neighbourhood of 5 x 5 px. A pixel is hot if it exceeds
    ``exp(1 / (2 s^2)) sqrt(l r)`` along both axes, with an allowance for the noise of the neighbours, and either this
    limit or the cubics through its neighbours by several standard deviations of the noise. It is dead if it is below
    the cubics, or if the inverted image exceeds the limit for a smaller width. The noise is a function of the local
    level: the mean squares of the residuals of a cubic interpolation in blocks of 8 x 8 px, of which the median is
    taken in bins of the blocks' level. One digital level is added, so that single counts are not faults, and the
    threshold increases with the tails of the noise. Clusters are removed from their corners inwards.

    A row is faulty if it is constant, or if its difference from both neighbours is much larger than that of other rows
    nearby. Areas and runs of a single value are faulty if noise would be visible at that value, or if their edge is
    more abrupt than the variation of the image around them. Zero counts in vacuum are not faults, nor are pixels at an
    end of the detector's range that the image approaches gradually.
    """
    work = _centred(values)
    none = np.zeros(work.shape, dtype=bool)
    if min(work.shape) < LIMITS.smallest or np.ptp(work) == 0:
        return PixelFaults(none, none, none, none)
    constant = _single_valued(work)
    noise = Noise.of(work, constant)
    if constant.any():
        constant = _abrupt(work, constant, noise)
    flat = constant.all(axis=1) & (np.ptp(work, axis=1) == 0)
    rows = none.copy()
    rows[flat | _distant_rows(np.where(constant, np.nan, work), noise, flat)] = True
    if rows.all():
        rows = none
    constant &= ~rows
    bad = rows | constant
    if bad.mean() > LIMITS.largest_fraction:
        return PixelFaults(none, none, none, none)
    work = filled(work, bad)
    cubics = _cubics(work)
    hot, dead = (_isolated(work, noise, sign) | _outlying(work, cubics, noise, sign) for sign in (1.0, -1.0))
    return PixelFaults(hot & ~bad, dead & ~bad & ~hot, rows, constant)


def filled(values: NDArray, mask: NDArray[np.bool_] | None = None) -> NDArray:
    """Replace the faulty pixels of an image by interpolation.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    mask : ndarray of bool, shape (n_y, n_x), optional
        Pixels to replace; by default those of :func:`faulty_pixels`.

    Returns
    -------
    ndarray of shape (n_y, n_x)
        The same array if no pixel, or every pixel, is to be replaced; else a copy, float32 if ``values`` is, otherwise
        float64.

    Notes
    -----
    Pixels in gaps of up to four are interpolated with the cubic through the two pixels on either side, along the axis
    with the narrower gap, or as the mean of both axes if the gaps are equal. The others are replaced with the mean of
    the valid pixels in the smallest area around them that contains any.
    """
    values = np.asarray(values)
    mask = faulty_pixels(values) if mask is None else mask
    if not mask.any() or mask.all():
        return values
    out = values.astype(values.dtype if values.dtype in (np.float32, np.float64) else np.float64)
    out[mask] = _interpolated(out, mask)
    return out


# --- noise -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
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
    def of(cls, work: NDArray, constant: NDArray | None = None) -> Noise:
        """Measure the noise of an image without outliers; constant areas are excluded from the range of intensities."""
        subset = tuple(slice(None, None, max(1, n // 256)) for n in work.shape)
        sample = work[subset]
        if constant is not None and 0 < constant[subset].mean() < 0.8:
            sample = sample[~constant[subset]]
        low, high = (float(q) for q in np.quantile(sample, LIMITS.range_quantiles))
        extent = max(high - low, 1e-12 * float(np.abs(work).max()))
        floor, ceiling = low - extent, high + extent
        b = LIMITS.block
        residual, at = _residual(work), work[2:-2, 2:-2]
        outlier = (at > ceiling) | (at < floor)
        n_y, n_x = (n // b for n in at.shape)
        if n_y * n_x < LIMITS.fewest_blocks:
            b = LIMITS.small_block
            n_y, n_x = (n // b for n in at.shape)

        def blocks(a: NDArray) -> NDArray:
            return a[: n_y * b, : n_x * b].reshape(n_y, b, n_x, b)

        square = np.einsum("iajb,iajb->ij", blocks(residual), blocks(residual)).ravel() / b**2
        mean = blocks(at).mean(axis=(1, 3)).ravel()
        # blocks without variation are faulty, or contain no counts
        good = ~blocks(outlier).any(axis=(1, 3)).ravel() & (square > 0)
        quantum = _quantum(sample)
        if good.sum() < LIMITS.fewest_blocks:
            return cls(np.zeros(1), np.zeros(1), 0.0, quantum, LIMITS.normal_tail, floor, ceiling)
        order = np.flatnonzero(good)[np.argsort(mean[good], kind="stable")]
        groups = np.array_split(order, max(1, min(LIMITS.bins, len(order) // LIMITS.blocks_per_bin)))
        level = np.array([mean[g].mean() for g in groups])
        variance = np.array([np.median(square[g]) for g in groups])
        variance = np.maximum(variance, (LIMITS.least_noise * extent) ** 2)
        gain = max(float(variance[-1] - variance[0]) / max(float(level[-1] - level[0]), 1e-300), 0.0)
        gain = gain if len(level) > 1 else 0.0
        chosen = np.zeros(n_y * n_x, dtype=bool)
        chosen[order[:: max(1, len(order) // LIMITS.tail_blocks)]] = True
        residuals, intensity = (blocks(i).transpose(0, 2, 1, 3).reshape(-1, b * b)[chosen] for i in (residual, at))
        model = cls(level, variance, gain, quantum, LIMITS.normal_tail, floor, ceiling)
        # the level of a pixel is that predicted from its neighbors
        z = np.abs(residuals) / np.sqrt(model.at(intensity - CUBIC * residuals))
        regular = z.max(axis=1) < LIMITS.extreme
        z = z[regular] if regular.mean() > 0.5 else z
        tail = float(np.quantile(z, LIMITS.tail_quantile))
        return cls(level, variance, gain, quantum, max(tail, LIMITS.normal_tail), floor, ceiling)

    def at(self, level: NDArray | float) -> NDArray[np.float64]:
        """Variance at these levels."""
        beyond = np.maximum(np.asarray(level) - self.level[-1], 0.0)
        return np.interp(level, self.level, self.variance) + self.gain * beyond

    def deviation(self, level: NDArray | float) -> NDArray[np.float64]:
        """Standard deviation at these levels, with one digital level added in quadrature."""
        return np.sqrt(self.at(level) + self.quantum**2)

    @property
    def threshold(self) -> float:
        """Least excess of a faulty pixel, in standard deviations."""
        return LIMITS.excess + LIMITS.tail * (self.tail - LIMITS.normal_tail)


def _centred(values: NDArray) -> NDArray[np.float64]:
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
    far /= CUBIC
    return far


# --- pixels ------------------------------------------------------------------------------------------------------


def _isolated(work: NDArray, noise: Noise, sign: float) -> NDArray[np.bool_]:
    """Pixels that are brighter (darker: sign -1) than the width of the probe allows."""
    padded = np.pad(work * sign, 2, mode="reflect")
    found = np.zeros(work.shape, dtype=bool)
    sharpest = LIMITS.sharpest if sign > 0 else LIMITS.sharpest_dark
    ratio = math.exp(0.5 / sharpest**2)
    y, x = _candidates(padded, ratio, noise.threshold * float(np.sqrt(noise.variance.min() + noise.quantum**2)))
    for _ in range(LIMITS.rounds):
        if len(y) == 0:
            break
        highest = _highest(padded, y, x, noise, sign, sharpest)
        over = padded[y + 2, x + 2] > highest + noise.threshold * noise.deviation(sign * highest)
        y, x = y[over], x[over]
        if len(y) == 0:
            break
        found[y, x] = True
        _replace(padded, found, y, x)
        ring = ndimage.binary_dilation(found, np.ones((3, 3))) & ~found
        y, x = np.nonzero(ring)
    return found


def _cubics(work: NDArray) -> tuple[NDArray, NDArray]:
    """Cubics through the four nearest pixels along y and along x, without two px at each border."""

    def cubic(image: NDArray) -> NDArray:
        out = image[1:-3] + image[3:-1]
        out *= 4.0
        out -= image[:-4]
        out -= image[4:]
        out /= 6.0
        return out

    return cubic(work[:, 2:-2]), cubic(work.T[:, 2:-2]).T


def _outlying(work: NDArray, cubics: tuple[NDArray, NDArray], noise: Noise, sign: float) -> NDArray[np.bool_]:
    """Pixels that are brighter (darker: sign -1) than the cubics through their neighbors along both axes.

    Bright pixels must also be brighter than the width of the probe allows.
    """
    image, middle = work * sign, slice(2, -2)
    along_y, along_x = cubics[0] * sign, cubics[1] * sign
    threshold = CUBIC * noise.threshold
    least = threshold * float(np.sqrt(noise.variance.min() + noise.quantum**2))
    excess = image[middle, middle] - np.maximum(along_y, along_x)
    y, x = np.nonzero(excess > LARGER_CUBIC * least)
    expected = (along_y[y, x] + along_x[y, x]) / 2
    local_least = threshold * noise.deviation(sign * expected)
    over = (image[y + 2, x + 2] - expected > local_least) & (excess[y, x] > LARGER_CUBIC * local_least)
    y, x = y[over], x[over]
    if sign > 0 and len(y):
        over = image[y + 2, x + 2] > _highest(image, y, x, noise, sign, LIMITS.sharpest)
        y, x = y[over], x[over]
    out = np.zeros(work.shape, dtype=bool)
    out[y + 2, x + 2] = True
    return out


def _highest(
    padded: NDArray, y: NDArray, x: NDArray, noise: Noise, sign: float, sharpest: float
) -> NDArray[np.float64]:
    """Upper limits of the intensities of pixels for columns of this sigma, from their neighbors and the noise."""
    left, right, up, down = (padded[y + 2 + i, x + 2 + j] for i, j in ((0, -1), (0, 1), (-1, 0), (1, 0)))
    base = _neighborhoods(padded, y, x).min(axis=1)
    allowance = LIMITS.allowance * noise.deviation(sign * (left + right + up + down) / 4)
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


# --- rows and areas ----------------------------------------------------------------------------------------------


def _distant_rows(work: NDArray, noise: Noise, flat: NDArray) -> NDArray[np.bool_]:
    """Rows whose difference from both neighbours is much larger than that of other rows nearby."""
    far = np.zeros(len(work), dtype=bool)
    rows = work[:, :: max(1, work.shape[1] // 256)]
    extent = noise.ceiling - noise.floor
    rows = np.clip(rows, noise.floor - 2 * extent, noise.ceiling + 2 * extent)
    keep = np.flatnonzero(~flat & (np.isfinite(rows).mean(axis=1) > LIMITS.valid_fraction))
    if len(keep) < LIMITS.fewest_rows:
        return far
    rows = rows[keep]
    distance = _row_mean(np.abs(np.diff(rows, axis=0)))
    if len(distance) > LIMITS.median_rows:
        typical = ndimage.median_filter(distance, LIMITS.median_rows, mode="mirror")
    else:
        typical = np.full(len(distance), np.median(distance))
    # the mean absolute difference of two normal variables is 1.13 standard deviations
    least = 1.13 * noise.deviation(_row_mean(rows)) + 1e-300
    typical = np.maximum(np.minimum(np.r_[np.inf, typical], np.r_[typical, np.inf]), least)
    # the first and the last row have both neighbours on the same side
    first, last = (_row_mean(np.abs(rows[i] - rows[j])[None]) for i, j in ((0, 2), (-1, -3)))
    before, after = np.r_[first, distance], np.r_[distance, last]
    far[keep] = np.minimum(before, after) > LIMITS.row_distance * typical
    return far


def _row_mean(values: NDArray) -> NDArray:
    """Mean of each row over its finite pixels."""
    good = np.isfinite(values)
    return np.where(good, values, 0.0).sum(axis=1) / np.maximum(good.sum(axis=1), 1)


def _single_valued(work: NDArray) -> NDArray[np.bool_]:
    """Mask of the areas, and of the runs along a row, whose pixels have the same value."""
    n_y, n_x = work.shape
    across, down = work[:, 1:] == work[:, :-1], work[1:] == work[:-1]
    area = np.zeros(work.shape, dtype=bool)
    edge = min(LIMITS.area, n_y, n_x)
    if (across[1:] & down[:, 1:]).sum() >= (edge - 1) ** 2:
        starts = _windows(_windows(across, edge - 1, 1), edge, 0) & _windows(down, edge - 1, 0)[:, : n_x - edge + 1]
        area |= _covered(_covered(starts, edge, 0), edge, 1)
    run = min(LIMITS.run, n_x)
    if across.sum() >= run - 1:
        area |= _covered(_windows(across, run - 1, 1), run, 1)
    return area


def _windows(mask: NDArray, size: int, axis: int) -> NDArray[np.bool_]:
    """Whether all elements of a window of this size are set, for each start along the axis."""
    out, width = np.moveaxis(mask, axis, 0), 1
    while width < size:
        step = min(width, size - width)
        out, width = out[:-step] & out[step:], width + step
    return np.moveaxis(out, 0, axis)


def _covered(starts: NDArray, size: int, axis: int) -> NDArray[np.bool_]:
    """The elements of the windows of this size with the given starts along the axis."""
    margin = [(0, 0), (0, 0)]
    margin[axis] = (size - 1, size - 1)
    return ~_windows(~np.pad(starts, margin), size, axis)


def _abrupt(work: NDArray, area: NDArray, noise: Noise) -> NDArray[np.bool_]:
    """The constant areas where noise would be visible, or whose edge is more abrupt than the image around them."""
    labels, n = ndimage.label(area)
    near, wide = (ndimage.maximum_filter(labels, size) for size in (3, 5))
    ring = np.where(area, 0, near)
    far = np.where(area | (near > 0), 0, wide)
    image = np.clip(work, noise.floor, noise.ceiling)

    def means(labels: NDArray) -> tuple[NDArray, NDArray]:
        count = np.bincount(labels.ravel(), minlength=n + 1)
        return np.bincount(labels.ravel(), image.ravel(), minlength=n + 1) / np.maximum(count, 1), count

    value = np.zeros(n + 1)
    value[labels[area]] = work[area]
    ring_mean, n_ring = means(ring)
    far_mean, n_far = means(far)
    variation = np.where(n_far > 0, np.abs(far_mean - ring_mean), 0.0)
    is_small = np.bincount(labels.ravel(), minlength=n + 1) < LIMITS.small
    factor = np.where(is_small, LIMITS.small_contrast, LIMITS.contrast)
    abrupt = np.abs(value - ring_mean) > LIMITS.variation * variation + factor * noise.deviation(ring_mean)
    inside = (value > work.min()) & (value < work.max())
    least = LIMITS.least_noise * (noise.ceiling - noise.floor)
    visible = noise.at(value) > max(0.25 * noise.quantum**2, least**2)
    bad = (n_ring > 0) & (abrupt | (inside & visible))
    bad[0] = False
    return bad[labels]


# --- interpolation -----------------------------------------------------------------------------------------------


def _interpolated(values: NDArray, mask: NDArray) -> NDArray:
    """Interpolated values of the pixels of the mask."""
    total, axes = (np.zeros(int(mask.sum())) for _ in range(2))
    narrowest = np.full(len(total), LIMITS.gap + 2)
    y, x = np.nonzero(mask)
    for image, bad, along, at in ((values, mask, x, y), (values.T, mask.T, y, x)):
        value, gap = _across_gap(image, bad, at, along)
        better, equal = gap < narrowest, gap == narrowest
        total = np.where(better, value, total + equal * value)
        axes = np.where(better, 1.0, axes + equal)
        narrowest = np.minimum(narrowest, gap)
    out = total / np.maximum(axes, 1.0)
    rest = narrowest == LIMITS.gap + 2
    if rest.any():
        out[rest] = _multiscale_mean(np.where(mask, 0.0, values).astype(np.float64), (~mask).astype(np.float64))[mask][
            rest
        ]
    return out


def _across_gap(image: NDArray, bad: NDArray, y: NDArray, x: NDArray) -> tuple[NDArray, NDArray]:
    """Cubic interpolation along each row through two valid pixels on either side of a gap, and the distance of the
    inner two; 0 and ``LIMITS.gap + 2`` if the gap is wider or these pixels are missing.
    """
    widest, n = LIMITS.gap, image.shape[1]
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
