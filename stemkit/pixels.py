"""Pixels that are no measurement: hot and dead pixels, cosmic rays, missing rows, constant areas.

An electron microscope's image is sharp only to the width of its probe: a pixel that differs from its neighbours by more
than the probe and the noise allow comes from the detector or from the readout.
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
    """Constants of the search for faulty pixels; tuned on simulated images, see ``tests/test_pixels.py``."""

    #: Sigma of the sharpest column that can be recorded, px (chosen: a pixel alone blurs by 0.29 px).
    sharpest: float = 0.75
    #: The same for dark spots, which in a dense lattice are the gaps between the columns, px (tuned).
    sharpest_dark: float = 0.55
    #: Excess of a faulty pixel over the highest possible recording, standard deviations of the noise (tuned).
    excess: float = 7.0
    #: Growth of ``excess`` with the 99.8 % quantile of the noise beyond that of a normal distribution (tuned).
    tail: float = 5.0
    #: The same quantile for a normal distribution (derived).
    normal_tail: float = 3.09
    #: Blocks with a residual beyond this many standard deviations do not count for the tails (chosen).
    extreme: float = 7.0
    #: Allowance for the noise of the neighbours, standard deviations (tuned).
    allowance: float = 1.5
    #: Noise is never less than this fraction of the image's range (chosen).
    least_noise: float = 2e-3
    #: Rounds that remove clusters of faulty pixels from their corners inwards (chosen).
    rounds: int = 6
    #: Edge of the blocks in which the noise is measured, px (chosen).
    block: int = 8
    #: Edge of the smallest constant area, px, and the shortest constant run along a row, px (chosen).
    area: int = 7
    run: int = 48
    #: Constant areas of fewer pixels must differ by twice as many deviations from their surroundings (chosen).
    small: int = 200
    #: A row whose distance from both neighbours exceeds the usual one by this factor is no recording (tuned).
    row_distance: float = 6.0
    #: Widest gap that is filled by interpolation along an axis, px (chosen).
    gap: int = 4
    #: Smallest image that is searched, px (chosen).
    smallest: int = 12


LIMITS = Limits()
#: Standard deviation of a pixel less the mean of the cubics along both axes, for noise of 1 (derived).
CUBIC = math.sqrt(1 + 4 / 9 + 4 / 144)
#: Fraction of that excess which a pixel has above the larger of the two cubics (chosen).
ONE_AXIS = 0.6


@dataclass(frozen=True)
class PixelFaults:
    """Masks ``(n_y, n_x)`` of the faulty pixels by kind; a pixel belongs to one kind.

    Parameters
    ----------
    hot, dead : ndarray of bool
        Pixels and small clusters that are brighter or darker than the probe and the noise allow.
    rows : ndarray of bool
        Rows that are no recording.
    constant : ndarray of bool
        Areas of a single value: a border added by alignment, a masked or dead area of the detector.
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
    """Mask ``(n_y, n_x)`` of the pixels that are no measurement.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        One recorded image, in any units, columns bright or dark.

    Returns
    -------
    ndarray of bool

    See Also
    --------
    find_pixel_faults : the same by kind, and the method.
    filled : replaces these pixels.

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
    """Pixels that are no measurement, by kind.

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
    v^2`` (Cauchy-Schwarz), counted from the minimum of their neighbourhood of 5 x 5 px. A pixel is hot where it exceeds
    ``exp(1 / (2 s^2)) sqrt(l r)`` along both axes, with an allowance for the noise of the neighbours, and either this
    limit or the cubics through its neighbours by several standard deviations of the noise. It is dead where it is below
    the cubics, or where the inverted image exceeds the limit for a smaller width. The noise is a function of the
    local level: mean squares of the residuals of a cubic interpolation, in blocks of 8 x 8 px, their medians in bins of
    the blocks' level. One digital level is added, so that single counts are recordings, and the threshold grows with
    the tails of the noise. Clusters are removed from their corners inwards.

    A row is no recording if it is constant, or much farther from both neighbours than the rows around it are. Areas
    and runs of one value are no recording if noise would be visible at that value, or if they end more abruptly than
    the image around them varies. Zero counts in vacuum are recordings, and so are pixels at an end of the detector's
    range if the image approaches that end gradually.
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
    rows[flat | _far_rows(np.where(constant, np.nan, work), noise, flat)] = True
    if rows.all():
        rows = none
    constant &= ~rows
    bad = rows | constant
    if bad.mean() > 0.9:
        return PixelFaults(none, none, none, none)
    work = filled(work, bad)
    cubics = _cubics(work)
    hot, dead = (_isolated(work, noise, sign) | _outlying(work, cubics, noise, sign) for sign in (1.0, -1.0))
    return PixelFaults(hot & ~bad, dead & ~bad & ~hot, rows, constant)


def filled(values: NDArray, mask: NDArray[np.bool_] | None = None) -> NDArray:
    """The image with its faulty pixels replaced by an interpolation of their surroundings.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    mask : ndarray of bool, shape (n_y, n_x), optional
        Pixels to replace; None takes :func:`faulty_pixels`.

    Returns
    -------
    ndarray
        The same array where there is nothing to replace; else a copy: float32 and float64 stay, other types become
        float64.

    Notes
    -----
    Pixels in gaps of up to four are interpolated by the cubic through the two pixels on either side, along the axis
    whose gap is narrower, along both where they are equal. The others take the average of the good pixels around them,
    over as large an area as it needs.
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

    ``level`` and ``variance`` are ``(n_bins,)``, ``gain`` the growth of the variance beyond the highest level,
    ``quantum`` the digital level (0: none), ``tail`` the 99.8 % quantile of the noise in standard deviations,
    ``floor`` and ``ceiling`` the range of intensities without outliers.
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
        """From the image, with its outliers left out; areas of a single value do not count for its range."""
        some = tuple(slice(None, None, max(1, n // 256)) for n in work.shape)
        sample = work[some]
        if constant is not None and 0 < constant[some].mean() < 0.8:
            sample = sample[~constant[some]]
        low, high = (float(q) for q in np.quantile(sample, [0.01, 0.99]))
        reach = max(high - low, 1e-12 * float(np.abs(work).max()))
        floor, ceiling = low - reach, high + reach
        b = LIMITS.block
        residual, at = _residual(work), work[2:-2, 2:-2]
        outlier = (at > ceiling) | (at < floor)
        n_y, n_x = (n // b for n in at.shape)
        if n_y * n_x < 4:
            b, n_y, n_x = 4, at.shape[0] // 4, at.shape[1] // 4

        def blocks(a: NDArray) -> NDArray:
            return a[: n_y * b, : n_x * b].reshape(n_y, b, n_x, b)

        square = np.einsum("iajb,iajb->ij", blocks(residual), blocks(residual)).ravel() / b**2
        mean = blocks(at).mean(axis=(1, 3)).ravel()
        # blocks without any variation are no recording, or hold no counts
        good = ~blocks(outlier).any(axis=(1, 3)).ravel() & (square > 0)
        quantum = _quantum(sample)
        if good.sum() < 4:
            return cls(np.zeros(1), np.zeros(1), 0.0, quantum, LIMITS.normal_tail, floor, ceiling)
        order = np.flatnonzero(good)[np.argsort(mean[good], kind="stable")]
        groups = np.array_split(order, max(1, min(24, len(order) // 16)))
        level = np.array([mean[g].mean() for g in groups])
        variance = np.array([np.median(square[g]) for g in groups])
        variance = np.maximum(variance, (LIMITS.least_noise * reach) ** 2)
        gain = max(float(variance[-1] - variance[0]) / max(float(level[-1] - level[0]), 1e-300), 0.0)
        gain = gain if len(level) > 1 else 0.0
        chosen = np.zeros(n_y * n_x, dtype=bool)
        chosen[order[:: max(1, len(order) // 512)]] = True
        picked, intensity = (blocks(i).transpose(0, 2, 1, 3).reshape(-1, b * b)[chosen] for i in (residual, at))
        model = cls(level, variance, gain, quantum, LIMITS.normal_tail, floor, ceiling)
        # the noise of a pixel is that of the level which its neighbors predict
        z = np.abs(picked) / np.sqrt(model.at(intensity - CUBIC * picked))
        usual = z.max(axis=1) < LIMITS.extreme
        z = z[usual] if usual.mean() > 0.5 else z
        tail = float(np.quantile(z, 0.998))
        return cls(level, variance, gain, quantum, max(tail, LIMITS.normal_tail), floor, ceiling)

    def at(self, level: NDArray | float) -> NDArray[np.float64]:
        """Variance at these levels."""
        beyond = np.maximum(np.asarray(level) - self.level[-1], 0.0)
        return np.interp(level, self.level, self.variance) + self.gain * beyond

    def deviation(self, level: NDArray | float) -> NDArray[np.float64]:
        """Standard deviation at these levels, one digital level included."""
        return np.sqrt(self.at(level) + self.quantum**2)

    @property
    def threshold(self) -> float:
        """Excess of a faulty pixel, in standard deviations."""
        return LIMITS.excess + LIMITS.tail * (self.tail - LIMITS.normal_tail)


def _centred(values: NDArray) -> NDArray[np.float64]:
    """Double precision, without the offset."""
    work = np.asarray(values, dtype=np.float64)
    return work - np.median(work[:: max(1, len(work) // 64)])


def _quantum(sample: NDArray) -> float:
    """Smallest step between the values of an image, 0 where they are continuous."""
    levels = np.unique(sample)
    return float(np.diff(levels).min()) if 1 < len(levels) < 0.5 * sample.size else 0.0


def _residual(work: NDArray) -> NDArray[np.float64]:
    """Residual of a cubic interpolation along both axes, of the variance of the noise; without the outer two px."""
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
    """Pixels that are brighter (darker: sign -1) than any probe makes them."""
    padded = np.pad(work * sign, 2, mode="reflect")
    found = np.zeros(work.shape, dtype=bool)
    sharpest = LIMITS.sharpest if sign > 0 else LIMITS.sharpest_dark
    widen = math.exp(0.5 / sharpest**2)
    y, x = _sharp(padded, widen, noise.threshold * float(np.sqrt(noise.variance.min() + noise.quantum**2)))
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
    """Cubics through the neighbors along y and along x; without the outer two px, where there is none."""

    def cubic(image: NDArray) -> NDArray:
        out = image[1:-3] + image[3:-1]
        out *= 4.0
        out -= image[:-4]
        out -= image[4:]
        out /= 6.0
        return out

    return cubic(work[:, 2:-2]), cubic(work.T[:, 2:-2]).T


def _outlying(work: NDArray, cubics: tuple[NDArray, NDArray], noise: Noise, sign: float) -> NDArray[np.bool_]:
    """Pixels that are brighter (darker: sign -1) than the cubics through their neighbors along both axes; of the
    bright ones those that are sharper than a column.
    """
    image, middle = work * sign, slice(2, -2)
    along_y, along_x = cubics[0] * sign, cubics[1] * sign
    threshold = CUBIC * noise.threshold
    least = threshold * float(np.sqrt(noise.variance.min() + noise.quantum**2))
    excess = image[middle, middle] - np.maximum(along_y, along_x)
    y, x = np.nonzero(excess > ONE_AXIS * least)
    expected = (along_y[y, x] + along_x[y, x]) / 2
    least_there = threshold * noise.deviation(sign * expected)
    over = (image[y + 2, x + 2] - expected > least_there) & (excess[y, x] > ONE_AXIS * least_there)
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
    """The largest values that columns of this sigma can have between the neighbors of pixels, given their noise."""
    left, right, up, down = (padded[y + 2 + i, x + 2 + j] for i, j in ((0, -1), (0, 1), (-1, 0), (1, 0)))
    base = _around(padded, y, x).min(axis=1)
    room = LIMITS.allowance * noise.deviation(sign * (left + right + up + down) / 4)
    side = np.sqrt(np.maximum(left - base, 0) + room) * np.sqrt(np.maximum(right - base, 0) + room)
    along = np.sqrt(np.maximum(up - base, 0) + room) * np.sqrt(np.maximum(down - base, 0) + room)
    return base + math.exp(0.5 / sharpest**2) * np.maximum(side, along)


def _sharp(padded: NDArray, widen: float, least: float) -> tuple[NDArray, NDArray]:
    """Rows and columns of the pixels that may be too bright for their neighbors: those that remain to be tested.

    The smaller of two neighbors is no more than their geometric mean.
    """
    middle = slice(2, -2)
    # without the minima of the neighborhood in a first step: these take longer
    lowest = np.minimum(padded[middle, 1:-3], padded[middle, 3:-1])
    np.maximum(lowest, np.minimum(padded[1:-3, middle], padded[3:-1, middle]), out=lowest)
    y, x = np.nonzero(padded[middle, middle] > lowest + least * (1 - 1 / widen))
    base = _base(padded)[y, x] if len(y) > padded.size / 25 else _around(padded, y, x).min(axis=1)
    keep = padded[y + 2, x + 2] - base > np.maximum(widen * (lowest[y, x] - base), least)
    return y[keep], x[keep]


def _base(padded: NDArray) -> NDArray[np.float64]:
    """Minimum over 5 x 5 px of the image inside a border of 2 px."""
    for _ in range(2):
        # along one axis, which the transposition changes; SciPy's filter takes six times longer
        out = np.minimum(padded[:, :-4], padded[:, 4:])
        for i in (1, 2, 3):
            np.minimum(out, padded[:, i : padded.shape[1] - 4 + i], out=out)
        padded = out.T
    return padded


def _around(padded: NDArray, y: NDArray, x: NDArray) -> NDArray:
    """The 5 x 5 neighbourhoods ``(n, 25)`` of pixels of the image inside a border of 2 px."""
    span = np.arange(5)
    return padded[(y[:, None] + span)[:, :, None], (x[:, None] + span)[:, None, :]].reshape(len(y), 25)


def _replace(padded: NDArray, found: NDArray, y: NDArray, x: NDArray) -> None:
    """Faulty pixels take the median of the others of their neighbourhood."""
    around = _around(padded, y, x)
    bad = _around(np.pad(found, 2, mode="reflect"), y, x)
    around = np.where(bad, np.nan, around)
    some = ~bad.all(axis=1)
    padded[y[some] + 2, x[some] + 2] = np.nanmedian(around[some], axis=1)
    n_y, n_x = found.shape
    padded[:] = np.pad(padded[2 : n_y + 2, 2 : n_x + 2], 2, mode="reflect")


# --- rows and areas ----------------------------------------------------------------------------------------------


def _far_rows(work: NDArray, noise: Noise, flat: NDArray) -> NDArray[np.bool_]:
    """Rows that are much farther from both neighbours than rows around them are from theirs."""
    far = np.zeros(len(work), dtype=bool)
    some = work[:, :: max(1, work.shape[1] // 256)]
    reach = noise.ceiling - noise.floor
    some = np.clip(some, noise.floor - 2 * reach, noise.ceiling + 2 * reach)
    keep = np.flatnonzero(~flat & (np.isfinite(some).mean(axis=1) > 0.2))
    if len(keep) < 8:
        return far
    some = some[keep]
    size = _mean(np.abs(np.diff(some, axis=0)))
    usual = ndimage.median_filter(size, 17, mode="mirror") if len(size) > 17 else np.full(len(size), np.median(size))
    # a difference of two normal numbers has a mean modulus of 1.13 standard deviations
    least = 1.13 * noise.deviation(_mean(some)) + 1e-300
    usual = np.maximum(np.minimum(np.r_[np.inf, usual], np.r_[usual, np.inf]), least)
    # the first and the last row have two neighbours on one side
    first, last = (_mean(np.abs(some[i] - some[j])[None]) for i, j in ((0, 2), (-1, -3)))
    before, after = np.r_[first, size], np.r_[size, last]
    far[keep] = np.minimum(before, after) > LIMITS.row_distance * usual
    return far


def _mean(values: NDArray) -> NDArray:
    """Mean of each row over its finite pixels."""
    good = np.isfinite(values)
    return np.where(good, values, 0.0).sum(axis=1) / np.maximum(good.sum(axis=1), 1)


def _single_valued(work: NDArray) -> NDArray[np.bool_]:
    """Areas and runs along a row whose pixels have the same value."""
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
    """Whether all of the ``size`` elements that start at a place are set; shorter by ``size - 1``."""
    out, width = np.moveaxis(mask, axis, 0), 1
    while width < size:
        step = min(width, size - width)
        out, width = out[:-step] & out[step:], width + step
    return np.moveaxis(out, 0, axis)


def _covered(starts: NDArray, size: int, axis: int) -> NDArray[np.bool_]:
    """The elements of windows of this size that start where ``starts`` is set; longer by ``size - 1``."""
    margin = [(0, 0), (0, 0)]
    margin[axis] = (size - 1, size - 1)
    return ~_windows(~np.pad(starts, margin), size, axis)


def _abrupt(work: NDArray, area: NDArray, noise: Noise) -> NDArray[np.bool_]:
    """The areas where noise would be visible, or which end more abruptly than the image around them varies."""
    labels, n = ndimage.label(area)
    near, wide = (ndimage.maximum_filter(labels, size) for size in (3, 5))
    ring = np.where(area, 0, near)
    far = np.where(area | (near > 0), 0, wide)
    image = np.clip(work, noise.floor, noise.ceiling)

    def means(of: NDArray, where: NDArray) -> tuple[NDArray, NDArray]:
        count = np.bincount(where.ravel(), minlength=n + 1)
        return np.bincount(where.ravel(), of.ravel(), minlength=n + 1) / np.maximum(count, 1), count

    value = np.zeros(n + 1)
    value[labels[area]] = work[area]
    beside, has_ring = means(image, ring)
    beyond, has_more = means(image, far)
    varies = np.where(has_more > 0, np.abs(beyond - beside), 0.0)
    # where few electrons arrive small areas without any may be next to pixels with several
    factor = np.where(np.bincount(labels.ravel(), minlength=n + 1) < LIMITS.small, 3.0, 1.5)
    sharp = np.abs(value - beside) > 3 * varies + factor * noise.deviation(beside)
    inside = (value > work.min()) & (value < work.max())
    least = LIMITS.least_noise * (noise.ceiling - noise.floor)
    visible = noise.at(value) > max(0.25 * noise.quantum**2, least**2)
    bad = (has_ring > 0) & (sharp | (inside & visible))
    bad[0] = False
    return bad[labels]


# --- interpolation -----------------------------------------------------------------------------------------------


def _interpolated(values: NDArray, mask: NDArray) -> NDArray:
    """Values for the pixels of the mask."""
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
        out[rest] = _spread(np.where(mask, 0.0, values).astype(np.float64), (~mask).astype(np.float64))[mask][rest]
    return out


def _across_gap(image: NDArray, bad: NDArray, y: NDArray, x: NDArray) -> tuple[NDArray, NDArray]:
    """Cubic interpolation along each row through two good pixels on either side of a gap, and the distance of the inner
    two; ``LIMITS.gap + 2`` and 0 where the gap is wider or the pixels are missing.
    """
    widest, n = LIMITS.gap, image.shape[1]
    margin = widest + 2
    padded, missing = (np.pad(a, ((0, 0), (margin, margin)), mode="reflect") for a in (image, bad))
    span = np.arange(-margin, margin + 1)
    near = missing[y[:, None], x[:, None] + margin + span]
    # steps to the first good pixel on either side
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


def _spread(total: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """Averages of the good pixels around each pixel: ``total`` is their weighted sum, halved in size step by step."""
    good = weight > 0
    mean = np.divide(total, weight, out=np.zeros_like(total), where=good)
    if good.all() or min(total.shape) < 2:
        return mean
    shape = [n + n % 2 for n in total.shape]
    margin = [(0, s - n) for s, n in zip(shape, total.shape, strict=True)]

    def halved(a: NDArray) -> NDArray:
        return np.pad(a, margin).reshape(shape[0] // 2, 2, shape[1] // 2, 2).sum((1, 3))

    coarse = _spread(halved(total), halved(weight))
    fine = np.repeat(np.repeat(coarse, 2, 0), 2, 1)[: total.shape[0], : total.shape[1]]
    return np.where(good, mean, ndimage.uniform_filter(fine, 3, mode="nearest"))
