"""Faults of an image that no noise model contains: saturated and faulty pixels, and faults of the scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits
from stemkit.noise.constants import TINY
from stemkit.noise.differences import difference_std, row_difference, rows_without
from stemkit.noise.scan import ScanNoise
from stemkit.pixels import PixelFaults
from stemkit.pixels.noise import LevelDependentNoise
from stemkit.statistics import median_spacing

__all__ = ["describe_hum", "describe_pixel_faults", "find_scan_faults", "saturated_pixels"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the detection."""

    #: Smallest fraction of the pixels at the highest or lowest value that is an end of the range (chosen).
    saturated: float = 2e-3
    #: Variance of counts over their mean, with the variation of the specimen between two pixels (chosen).
    counts_variance: float = 1.6
    #: Fraction of the levels at which the variance of an image of counts is their mean (chosen).
    counted_levels: float = 0.7
    #: Shortest side of an image whose scan is analysed, px (chosen).
    min_side: int = 64
    #: Lags at which noise is correlated along the scan lines, px (chosen).
    lags: tuple[int, ...] = (4, 5, 6, 7, 8)
    #: Noise is correlated along y if its covariance there is this many times that along x (chosen).
    along_y: float = 3.0
    #: Significance of a correlation along y and of a displacement at the left edge, standard deviations (chosen).
    significance: float = 5.0
    #: Least displacement at the left edge that is reported, px (chosen).
    min_flyback: float = 0.1
    #: Fewest columns at the left edge from which it is measured (chosen).
    min_left: int = 5
    #: Fewest columns elsewhere (chosen).
    min_right: int = 20
    #: Fewest columns in all (chosen).
    min_columns: int = 50


CONSTANTS = _Constants()


def saturated_pixels(values: NDArray, faulty: NDArray | None = None) -> NDArray[np.bool_]:
    """Pixels at an end of the digital range: at an extreme value that more of them share than noise explains.

    Zero is no end of the range of counts: where few electrons arrive many pixels have none. The variance of counts
    equals their mean, and that of noise which is cut off at zero exceeds it there.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    faulty : ndarray of bool, shape (n_y, n_x), optional
        Faulty pixels, which are not saturated.
    """
    out = np.zeros(values.shape, dtype=bool)
    good = values if faulty is None else values[~faulty]
    low, high = good.min(), good.max()
    if low == high:
        return out
    for end, neighbor in ((low, good[good > low].min()), (high, good[good < high].max())):
        at_end = values == end
        if faulty is not None:
            at_end &= ~faulty
        # digital levels share values everywhere: an end has many more pixels than the level next to it
        if at_end.mean() <= CONSTANTS.saturated or at_end.sum() <= 2 * (values == neighbor).sum():
            continue
        if end != 0 or neighbor < 0 or not _is_no_count(values, at_end, float(neighbor)):
            out |= at_end
    return out


def _is_no_count(values: NDArray, at_zero: NDArray, quantum: float) -> bool:
    """Whether zeros are pixels without electrons: next to them, or in most of the image, the variance is the mean."""
    if values.shape[1] < 3:
        return False
    y, x = np.nonzero(at_zero[:, 1:-1])
    left, right = (values[y, x + i].astype(np.float64) for i in (0, 2))
    mean = float((left + right).mean()) / 2
    if float(((left - right) ** 2).mean()) / 2 <= CONSTANTS.counts_variance * quantum * mean:
        return True
    # zeros at the edge of a specimen have neighbours of different means: the rest of the image decides
    noise = LevelDependentNoise.from_image(values.astype(np.float64))
    ratio = noise.variance / np.maximum(quantum * noise.level, TINY)
    equal = (ratio > 1 / CONSTANTS.counts_variance) & (ratio < CONSTANTS.counts_variance)
    return bool(equal.mean() > CONSTANTS.counted_levels)


def describe_pixel_faults(values: NDArray, found: PixelFaults) -> dict[str, str]:
    """A sentence for each kind of fault of the pixels.

    Returns
    -------
    dict
        Keys ``rows``: dead, hot or missing rows; ``hot``, ``dead``: pixels; ``constant``: areas of a single value;
        ``saturation``: pixels at an end of the digital range.
    """
    faults = {}
    rows = np.flatnonzero(found.rows.any(axis=1))
    if len(rows):
        to_the_end = np.array_equal(rows, np.arange(rows[0], len(values)))
        cut = " (the scan was cut short)" if to_the_end else ""
        faults["rows"] = f"{len(rows)} row(s) are dead, hot or missing, the first is row {rows[0]}{cut}"
    for name, mask, farthest in (("hot", found.hot, np.argmax), ("dead", found.dead, np.argmin)):
        if mask.any():
            y, x = np.nonzero(mask)
            i = int(farthest(values[y, x]))
            faults[name] = (
                f"{len(y)} {name} pixel(s), the {'brightest' if name == 'hot' else 'darkest'} at y={y[i]}, x={x[i]} "
                f"with the value {values[y[i], x[i]]:.6g}"
            )
    if found.constant.any():
        labels, n = ndimage.label(found.constant)
        area_rows, columns = ndimage.find_objects(labels)[int(np.argmax(np.bincount(labels.ravel())[1:]))]
        faults["constant"] = (
            f"{int(found.constant.sum())} pixels in {n} area(s) have a single value, the largest area "
            f"in rows {area_rows.start} to {area_rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
        )
    saturated = float(saturated_pixels(values, found.mask).mean())
    if saturated:
        faults["saturation"] = f"{saturated:.1%} of the pixels are at an end of the detector's range"
    return faults


def find_scan_faults(
    values: NDArray, fits: ColumnFits | None = None, *, faulty: NDArray | None = None
) -> dict[str, str]:
    """A sentence for each fault of the scan.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    fits : ColumnFits, optional
        The columns of the image.
    faulty : ndarray of bool, shape (n_y, n_x), optional

    Returns
    -------
    dict
        Keys ``direction``: noise that is correlated along y, as if the scan lines ran along y; ``flyback``: columns at
        the left edge displaced by the return of the beam.
    """
    faults = _direction(values, np.zeros(values.shape, dtype=bool) if faulty is None else faulty)
    if fits is not None:
        faults |= _flyback(fits.positions)
    return faults


def describe_hum(scan: ScanNoise) -> dict[str, str]:
    """A sentence for the hum of a noise model, with the key ``hum``; empty without one."""
    axes = [f"{amplitude:.2g} px along {axis}" for axis, amplitude in (("x", scan.hum), ("y", scan.hum_y)) if amplitude]
    if not axes:
        return {}
    frequency = 1 / scan.hum_period
    seen = abs(frequency - round(frequency))
    # the image shows the alias of a period below two rows
    alias = f", which looks like once in {1 / seen:.3g} rows" if frequency > 0.5 and seen > 0 else ""
    amplitudes = " and ".join(axes)
    return {
        "hum": f"rows are displaced periodically: amplitude {amplitudes}, once in {scan.hum_period:.3g} rows{alias}"
    }


def _direction(values: NDArray, faulty: NDArray) -> dict[str, str]:
    """Whether noise is correlated more along y than along x, each in fourth differences across that axis."""
    if min(values.shape) < CONSTANTS.min_side:
        return {}
    covariances = []
    for image, bad in ((values, faulty), (values.T, faulty.T)):
        difference = row_difference(np.asarray(image, dtype=np.float64))
        limit = 8 * difference_std(difference)
        difference = np.clip(difference, -limit, limit) * rows_without(bad)
        products = [float((difference[:, :-k] * difference[:, k:]).mean()) for k in CONSTANTS.lags]
        covariances.append((float(np.mean(products)), float((difference**2).mean()) / np.sqrt(difference.size)))
    (along_x, _), (along_y, noise) = covariances
    if along_y <= max(CONSTANTS.along_y * along_x, CONSTANTS.significance * 2 * noise):
        return {}
    return {"direction": "noise is correlated along y: if that is how the beam scanned, transpose the image first"}


def _flyback(positions: NDArray) -> dict[str, str]:
    """Columns at the left edge: second differences of x with the two columns to the right, compared with the rest."""
    if len(positions) < CONSTANTS.min_columns:
        return {}
    tree = cKDTree(positions)
    spacing = median_spacing(positions)
    first = _right_neighbor(tree, positions, spacing)
    second = np.where(first >= 0, first[first], -1)
    both = (first >= 0) & (second >= 0)
    x = positions[:, 1]
    difference = np.where(both, x - 2 * x[first] + x[second], np.nan)
    left, right = both & (x < 1.5 * spacing), both & (x > 3 * spacing)
    if left.sum() < CONSTANTS.min_left or right.sum() < CONSTANTS.min_right:
        return {}
    shift = float(np.median(difference[left]) - np.median(difference[right]))
    error = 1.25 * float(np.std(difference[right])) / np.sqrt(left.sum())
    if abs(shift) < max(CONSTANTS.min_flyback, CONSTANTS.significance * error):
        return {}
    return {"flyback": f"columns at the left edge are displaced by {shift:+.2f} ± {error:.2f} px: the beam's return"}


def _right_neighbor(tree: cKDTree, positions: NDArray, spacing: float) -> NDArray[np.int64]:
    """Index of the next column to the right in the same row of columns, -1 without one."""
    distance, index = tree.query(positions, k=min(9, len(positions)))
    offset = positions[index] - positions[:, None]
    right = (offset[..., 1] > 0.5 * spacing) & (np.abs(offset[..., 0]) < 0.35 * spacing) & (distance < 2.2 * spacing)
    return np.where(right.any(1), index[np.arange(len(positions)), np.argmax(right, axis=1)], -1)
