"""Rows and pixels that are no recording, and other faults of a scan that the noise model does not hold."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits
from stemkit.noise.differences import row_difference
from stemkit.noise.registration import Registration

__all__ = ["find_faults", "recorded_rows", "repaired", "saturated", "scan_faults"]

#: A row that is this many times farther from both its neighbours than rows usually are is no recording.
BROKEN = 6.0
#: More than this part of the pixels at the very highest or lowest value: the detector's end.
SATURATED = 2e-3
#: A line in the spectrum of the displacements is hum where noise would be that high once in a thousand images.
CHANCE = 1e-3
#: Hum whose frequency is this near to that of level rows of columns is the lattice.
LIKE_THE_LATTICE = 0.1
#: Displacement at the left edge that is reported: in px, and in its own standard deviations.
FLYBACK, SURE = 0.1, 5.0


def recorded_rows(values: NDArray) -> NDArray[np.bool_]:
    """Which rows are a recording: not dead, not after the scan was cut short, not far off both their neighbours."""
    out = np.asarray(values, dtype=np.float64)
    if out.shape[0] < 8:
        return np.ones(len(out), dtype=bool)
    # a broken row is far from both of its neighbours, the first of a broken block from the one before
    flat = (np.abs(np.diff(out, axis=1)).max(axis=1) == 0) if out.shape[1] > 1 else np.zeros(len(out), dtype=bool)
    size = np.array([np.median(np.abs(b - a)) for a, b in pairwise(out)])
    far = np.r_[0.0, size], np.r_[size, 0.0]
    usual = np.median(size)
    dead = flat & (np.ptp(out) > 0) & (flat.mean() < 0.5)
    broken = dead | (np.minimum(*far) > BROKEN * usual) & (usual > 0)
    return ~broken if 0 < broken.sum() < len(out) else np.ones(len(out), dtype=bool)


def repaired(values: NDArray, recorded: NDArray | None = None) -> NDArray[np.float64]:
    """The image with rows that are no recording filled from the nearest good ones."""
    out = np.asarray(values, dtype=np.float64)
    good = np.flatnonzero(recorded_rows(out) if recorded is None else recorded)
    if len(good) == len(out):
        return out
    nearest = good[np.abs(np.arange(len(out))[:, None] - good[None, :]).argmin(axis=1)]
    return out[nearest]


def saturated(values: NDArray) -> NDArray[np.bool_]:
    """Pixels at the detector's ends: at an extreme value that is shared by more of them than noise would put there."""
    out = np.zeros(values.shape, dtype=bool)
    low, high = values.min(), values.max()
    if low == high:
        return out
    for end, beside in ((low, values[values > low].min()), (high, values[values < high].max())):
        at_end = values == end
        # digital levels share values everywhere: an end holds many more pixels than the level beside it
        if at_end.mean() > SATURATED and at_end.sum() > 2 * (values == beside).sum():
            out |= at_end
    return out


def find_faults(values: NDArray, recorded: NDArray | None = None) -> dict[str, str]:
    """What is wrong with the pixels: name and sentence of each fault.

    ``rows``: dead or missing rows; ``saturation``: pixels at the detector's ends. ``recorded`` are the
    :func:`recorded_rows`, where they are known.
    """
    faults = {}
    bad = np.flatnonzero(~(recorded_rows(values) if recorded is None else recorded))
    if len(bad):
        end = len(values) - 1
        last = " (the scan was cut short)" if bad[-1] == end and np.array_equal(bad, np.arange(bad[0], end + 1)) else ""
        faults["rows"] = f"{len(bad)} row(s) are no recording, the first is row {bad[0]}{last}"
    clipped = float(saturated(values).mean())
    if clipped:
        faults["saturation"] = f"{clipped:.1%} of the pixels are at an end of the detector's range"
    return faults


def scan_faults(
    values: NDArray,
    fits: ColumnFits | None = None,
    registration: Registration | None = None,
    vectors: NDArray | None = None,
) -> dict[str, str]:
    """What is wrong with the scan: name and sentence of each fault.

    ``direction``: noise that is correlated down the image, as if the scan lines ran along y; ``hum``: rows displaced
    periodically; ``flyback``: columns at the left edge displaced by the beam's return.
    """
    faults = _direction(values)
    if registration is not None:
        faults |= _hum(registration.shifts.mean(axis=1), vectors, values.shape[1])
    if fits is not None:
        faults |= _flyback(fits, values.shape[1])
    return faults


def _direction(values: NDArray) -> dict[str, str]:
    """Whether noise is correlated more along y than along x: both seen through a fourth difference across."""
    if min(values.shape) < 64:
        return {}
    found = []
    for image in (values, values.T):
        difference = row_difference(np.asarray(image, dtype=np.float64))
        limit = 8 * 1.4826 * float(np.median(np.abs(difference)))
        difference = np.clip(difference, -limit, limit)
        together = [float((difference[:, :-k] * difference[:, k:]).mean()) for k in (4, 5, 6, 7, 8)]
        found.append((float(np.mean(together)), float((difference**2).mean()) / np.sqrt(difference.size)))
    (along_x, _), (along_y, noise) = found
    if along_y < max(3 * along_x, SURE * 2 * noise):
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
    if vectors is not None and _is_of_the_lattice(1 / period, vectors, width):
        return {}
    return {"hum": f"rows are displaced periodically: amplitude {amplitude:.2g} px, once in {period:.3g} rows"}


def _is_of_the_lattice(frequency: float, vectors: NDArray, width: int) -> bool:
    """Whether rows of columns that are level come so often: a reciprocal vector along y has the frequency."""
    h = np.arange(-1, 2)
    reciprocal = np.stack(np.meshgrid(h, h), axis=-1).reshape(-1, 2) @ np.linalg.inv(vectors).T
    level = np.abs(reciprocal[:, 1]) * width < 3
    return bool((np.abs(np.abs(reciprocal[level, 0]) / frequency - 1) < LIKE_THE_LATTICE).any())


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
