"""Faulty rows and constant areas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.pixels.constants import CONSTANTS, MEAN_DIFFERENCE
from stemkit.pixels.noise import LevelDependentNoise

__all__ = ["abrupt_areas", "distant_rows", "single_valued_areas"]


def distant_rows(work: NDArray, noise: LevelDependentNoise, flat: NDArray) -> NDArray[np.bool_]:
    """Rows whose difference from both neighbours is much larger than that of other rows nearby."""
    far = np.zeros(len(work), dtype=bool)
    rows = work[:, :: max(1, work.shape[1] // 256)]
    extent = noise.ceiling - noise.floor
    rows = np.clip(rows, noise.floor - 2 * extent, noise.ceiling + 2 * extent)
    keep = np.flatnonzero(~flat & (np.isfinite(rows).mean(axis=1) > CONSTANTS.min_valid_fraction))
    if len(keep) < CONSTANTS.min_rows:
        return far
    rows = rows[keep]
    distance = _row_mean(np.abs(np.diff(rows, axis=0)))
    if len(distance) > CONSTANTS.median_rows:
        typical = ndimage.median_filter(distance, CONSTANTS.median_rows, mode="mirror")
    else:
        typical = np.full(len(distance), np.median(distance))
    # rows without noise and variation have no difference: the addend prevents the comparison of two zeros
    least = MEAN_DIFFERENCE * noise.std(_row_mean(rows)) + 1e-300
    typical = np.maximum(np.minimum(np.r_[np.inf, typical], np.r_[typical, np.inf]), least)
    # the first and the last row have both neighbours on the same side
    first, last = (_row_mean(np.abs(rows[i] - rows[j])[None]) for i, j in ((0, 2), (-1, -3)))
    before, after = np.r_[first, distance], np.r_[distance, last]
    far[keep] = np.minimum(before, after) > CONSTANTS.min_row_distance * typical
    return far


def _row_mean(values: NDArray) -> NDArray:
    """Mean of each row over its finite pixels."""
    good = np.isfinite(values)
    return np.where(good, values, 0.0).sum(axis=1) / np.maximum(good.sum(axis=1), 1)


def single_valued_areas(work: NDArray) -> NDArray[np.bool_]:
    """Mask of the areas, and of the runs along a row, whose pixels have the same value."""
    n_y, n_x = work.shape
    across, down = work[:, 1:] == work[:, :-1], work[1:] == work[:-1]
    area = np.zeros(work.shape, dtype=bool)
    edge = min(CONSTANTS.min_area_size, n_y, n_x)
    if (across[1:] & down[:, 1:]).sum() >= (edge - 1) ** 2:
        starts = _windows(_windows(across, edge - 1, 1), edge, 0) & _windows(down, edge - 1, 0)[:, : n_x - edge + 1]
        area |= _covered(_covered(starts, edge, 0), edge, 1)
    run = min(CONSTANTS.min_run_length, n_x)
    if across.sum() >= run - 1:
        area |= _covered(_windows(across, run - 1, 1), run, 1)
    return area


def _windows(mask: NDArray, size: int, axis: int) -> NDArray[np.bool_]:
    """Whether all elements of the window of this size are True, for each start along the axis."""
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


def abrupt_areas(work: NDArray, area: NDArray, noise: LevelDependentNoise) -> NDArray[np.bool_]:
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
    is_small = np.bincount(labels.ravel(), minlength=n + 1) < CONSTANTS.max_small_area
    factor = np.where(is_small, CONSTANTS.min_small_area_contrast, CONSTANTS.min_area_contrast)
    abrupt = np.abs(value - ring_mean) > CONSTANTS.min_area_variation * variation + factor * noise.std(ring_mean)
    inside = (value > work.min()) & (value < work.max())
    least = CONSTANTS.min_noise * (noise.ceiling - noise.floor)
    # noise of less than half a digital level is not visible
    visible = noise.variance_at(value) > max((noise.quantum / 2) ** 2, least**2)
    bad = (n_ring > 0) & (abrupt | (inside & visible))
    bad[0] = False
    return bad[labels]
