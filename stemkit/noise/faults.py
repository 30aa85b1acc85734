"""Faults of an image that are in no noise model: pixels that are no measurement, and faults of the scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits
from stemkit.noise.differences import robust_deviation, row_difference
from stemkit.noise.hum import level_bands
from stemkit.noise.registration import Registration
from stemkit.pixels import Noise, PixelFaults

__all__ = ["pixel_faults", "saturated", "scan_faults"]

#: Smallest fraction of the pixels at the highest or lowest value that is an end of the detector's range (chosen).
SATURATED = 2e-3
#: Variance of counts over their mean, with the variation of the specimen between two pixels (chosen).
COUNTED = 1.6
#: Fraction of the levels at which the variance of an image of counts is their mean (chosen).
ALL_COUNTED = 0.7
#: A line in the spectrum of the displacements is hum where noise would be that high once in a thousand images.
CHANCE = 1e-3
#: Displacement at the left edge that is reported: in px, and in its own standard deviations.
FLYBACK, SURE = 0.1, 5.0


def saturated(values: NDArray, faulty: NDArray | None = None) -> NDArray[np.bool_]:
    """Pixels at an end of the detector's range: at an extreme value that more of them share than noise would put there.

    Zero is no end of the range of counts: where few electrons arrive many pixels have none. The variance of counts
    equals their mean, and that of noise which is cut off at zero exceeds it there.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    faulty : ndarray of bool, shape (n_y, n_x), optional
        Pixels that are no measurement, and are at no end.
    """
    out = np.zeros(values.shape, dtype=bool)
    good = values if faulty is None else values[~faulty]
    low, high = good.min(), good.max()
    if low == high:
        return out
    for end, beside in ((low, good[good > low].min()), (high, good[good < high].max())):
        at_end = values == end
        if faulty is not None:
            at_end &= ~faulty
        # digital levels share values everywhere: an end holds many more pixels than the level next to it
        if at_end.mean() <= SATURATED or at_end.sum() <= 2 * (values == beside).sum():
            continue
        if end != 0 or beside < 0 or not _is_no_count(values, at_end, float(beside)):
            out |= at_end
    return out


def _is_no_count(values: NDArray, at_zero: NDArray, quantum: float) -> bool:
    """Whether zeros are counts of none: next to them, or in most of the image, the variance is the mean."""
    if values.shape[1] < 3:
        return False
    y, x = np.nonzero(at_zero[:, 1:-1])
    left, right = (values[y, x + i].astype(np.float64) for i in (0, 2))
    mean = float((left + right).mean()) / 2
    if float(((left - right) ** 2).mean()) / 2 <= COUNTED * quantum * mean:
        return True
    # zeros next to the edge of a specimen do not tell: then the rest of the image does
    noise = Noise.of(values.astype(np.float64))
    ratio = noise.variance / np.maximum(quantum * noise.level, 1e-300)
    return bool(((ratio > 1 / COUNTED) & (ratio < COUNTED)).mean() > ALL_COUNTED)


def pixel_faults(values: NDArray, found: PixelFaults) -> dict[str, str]:
    """Name and sentence of what is wrong with the pixels of an image.

    ``rows``: dead, hot or missing rows; ``hot``, ``dead``: pixels; ``constant``: areas of a single value;
    ``saturation``: pixels at an end of the detector's range.
    """
    faults = {}
    bad = np.flatnonzero(found.rows.any(axis=1))
    if len(bad):
        end = len(values) - 1
        last = " (the scan was cut short)" if bad[-1] == end and np.array_equal(bad, np.arange(bad[0], end + 1)) else ""
        faults["rows"] = f"{len(bad)} row(s) are no recording, the first is row {bad[0]}{last}"
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
        rows, columns = ndimage.find_objects(labels)[int(np.argmax(np.bincount(labels.ravel())[1:]))]
        faults["constant"] = (
            f"{int(found.constant.sum())} pixels in {n} area(s) of a single value are no recording, the largest area "
            f"in rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
        )
    clipped = float(saturated(values, found.mask).mean())
    if clipped:
        faults["saturation"] = f"{clipped:.1%} of the pixels are at an end of the detector's range"
    return faults


def scan_faults(
    values: NDArray,
    fits: ColumnFits | None = None,
    registration: Registration | None = None,
    vectors: NDArray | None = None,
    *,
    faulty: NDArray | None = None,
) -> dict[str, str]:
    """What is wrong with the scan: name and sentence of each fault.

    ``direction``: noise that is correlated down the image, as if the scan lines ran along y; ``hum``: rows displaced
    periodically; ``flyback``: columns at the left edge displaced by the beam's return.
    """
    faults = _direction(values, np.zeros(values.shape, dtype=bool) if faulty is None else faulty)
    if registration is not None:
        faults |= _hum(registration.shifts.mean(axis=1), vectors, values.shape[1])
    if fits is not None:
        faults |= _flyback(fits, values.shape[1])
    return faults


def _direction(values: NDArray, faulty: NDArray) -> dict[str, str]:
    """Whether noise is correlated more along y than along x: both seen through a fourth difference across."""
    if min(values.shape) < 64:
        return {}
    found = []
    for image, bad in ((values, faulty), (values.T, faulty.T)):
        difference = row_difference(np.asarray(image, dtype=np.float64))
        limit = 8 * robust_deviation(difference)
        difference = np.clip(difference, -limit, limit)
        if bad.any():
            difference *= ~np.logical_or.reduce([bad[i : i + len(difference)] for i in range(5)])
        together = [float((difference[:, :-k] * difference[:, k:]).mean()) for k in (4, 5, 6, 7, 8)]
        found.append((float(np.mean(together)), float((difference**2).mean()) / np.sqrt(difference.size)))
    (along_x, _), (along_y, noise) = found
    if along_y <= max(3 * along_x, SURE * 2 * noise):
        return {}
    return {"direction": "noise is correlated along y: if that is how the beam scanned, transpose the image first"}


def _hum(shifts: NDArray, vectors: NDArray | None, width: int) -> dict[str, str]:
    """Fisher's exact test for the largest line of a spectrum (Proc. R. Soc. A 125, 54, 1929).

    Rows of columns come periodically, too, and with them whatever a model of columns leaves.
    """
    n = len(shifts)
    power = np.abs(np.fft.rfft(shifts - shifts.mean()))[1 : (n + 1) // 2] ** 2
    # slow drift is no hum
    power[:2] = 0.0
    if n < 64 or power.sum() == 0:
        return {}
    line = int(np.argmax(power))
    share = power[line] / power.sum()
    chance = len(power) * (1 - share) ** (len(power) - 1)
    if chance > CHANCE:
        return {}
    amplitude, period = 2 * np.sqrt(power[line]) / n, n / (line + 1)
    if any(low < 1 / period < high for low, high in level_bands(vectors, width)):
        return {}
    return {"hum": f"rows are displaced periodically: amplitude {amplitude:.2g} px, once in {period:.3g} rows"}


def _flyback(fits: ColumnFits, n_x: int) -> dict[str, str]:
    """Columns at the left edge against those farther right, by how far each is from the middle of its neighbours."""
    places = np.column_stack([fits.y, fits.x])
    if len(places) < 50:
        return {}
    tree = cKDTree(places)
    near = tree.query(places, k=2)[0][:, 1]
    spacing = float(np.median(near))
    # the neighbour to the right, and the one beyond it: a straight lattice has them evenly spaced
    first, second = _neighbour(tree, places, spacing), _neighbour(tree, places, spacing, 2)
    both = (first >= 0) & (second >= 0)
    bend = np.where(both, places[:, 1] - 2 * places[first, 1] + places[second, 1], np.nan)
    left = both & (places[:, 1] < 1.5 * spacing)
    rest = both & (places[:, 1] > 3 * spacing)
    if left.sum() < 5 or rest.sum() < 20:
        return {}
    shift = float(np.median(bend[left]) - np.median(bend[rest]))
    error = 1.25 * float(np.std(bend[rest])) / np.sqrt(left.sum())
    if abs(shift) < max(FLYBACK, SURE * error):
        return {}
    return {"flyback": f"columns at the left edge are displaced by {shift:+.2f} ± {error:.2f} px: the beam's return"}


def _neighbour(tree: cKDTree, places: NDArray, spacing: float, step: int = 1) -> NDArray[np.int64]:
    """Index of the column that is ``step`` places to the right in the same row of columns, -1 without one."""
    distance, index = tree.query(places, k=min(9, len(places)))
    offset = places[index] - places[:, None]
    right = (offset[..., 1] > 0.5 * spacing) & (np.abs(offset[..., 0]) < 0.35 * spacing) & (distance < 2.2 * spacing)
    first = np.where(right.any(1), index[np.arange(len(places)), np.argmax(right, axis=1)], -1)
    return first if step == 1 else np.where(first >= 0, first[first], -1)
