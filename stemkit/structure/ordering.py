"""Whether columns at alike places differ from cell to cell, so that the true cell is larger."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stemkit.structure.vectors import standard

__all__ = ["brightness_order", "displacement_order", "enlarge"]

#: Cells of up to so many small ones are tried.
LARGEST = 4
#: Order must explain this share of the variance, with this little doubt.
EXPLAINED, DOUBT = 0.5, 1e-6
#: It must make this much of a difference to the logarithm of the brightness, or, as a fraction of the shortest
#: distance of places, to the positions, where doubt counts lines of columns: the beam's jitter moves whole lines.
BRIGHTER, DISPLACED, DOUBT_OF_LINES = 0.05, 0.03, 1e-4


def brightness_order(cell: NDArray, site: NDArray, brightness: NDArray) -> NDArray[np.int64] | None:
    """Vectors of the smallest superlattice that explains the brightness, as rows of small vectors; None without one.

    Parameters
    ----------
    cell : ndarray of shape (n, 2)
    site : ndarray of shape (n,)
        Those of -1 are left out.
    brightness : ndarray of shape (n,)
        Positive; others are left out.
    """
    used = (site >= 0) & np.isfinite(brightness) & (brightness > 0)
    cell, site, values = cell[used], site[used], np.log(brightness[used])
    for s in np.unique(site):
        values[site == s] -= np.median(values[site == s])
    values = np.clip(values, -1.0, 1.0)
    return _smallest(cell, site, values, BRIGHTER, DOUBT, len(values))


def displacement_order(cell: NDArray, site: NDArray, shift: NDArray, shortest: float) -> NDArray[np.int64] | None:
    """The same for what separates columns from their places: ``shift`` ``(n, 2)``, in the unit of ``shortest``."""
    used = site >= 0
    cell, site, shift = cell[used], site[used], shift[used]
    lines = min((len(np.unique(line)) for line in cell.T), default=0)
    for k in range(2):
        order = _smallest(cell, site, shift[:, k], DISPLACED * shortest, DOUBT_OF_LINES, lines)
        if order is not None:
            return order
    return None


def _smallest(
    cell: NDArray, site: NDArray, values: NDArray, least: float, doubt: float, count: int
) -> NDArray[np.int64] | None:
    """The superlattice of fewest cells that explains the values, ``count`` of which are independent."""
    if len(values) < 8:
        return None
    values = _without_slope(cell, values)
    for n in range(2, LARGEST + 1):
        lattices = _superlattices(n)
        explained = [_explained(_classes(cell, site, h), site, values, least, doubt, count) for h in lattices]
        if max(explained) > 0:
            return lattices[int(np.argmax(explained))]
    return None


def enlarge(
    cell: NDArray, site: NDArray, vectors: NDArray, order: NDArray
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Cells, sites and reduced vectors in a larger cell, whose vectors are the rows of ``order`` times the small."""
    large = standard(order @ vectors)
    whole = np.round(large @ np.linalg.inv(vectors)).astype(np.int64)
    new = np.floor(cell @ np.linalg.inv(whole) + 1e-6).astype(np.int64)
    rest = np.column_stack([cell - new @ whole, site])
    label = np.full(len(site), -1)
    reached = site >= 0
    label[reached] = np.unique(rest[reached], axis=0, return_inverse=True)[1].ravel()
    return new, label, large


def _superlattices(count: int) -> list[NDArray[np.int64]]:
    """All lattices whose cell holds ``count`` small ones (Hermite normal forms)."""
    divisors = [p for p in range(1, count + 1) if count % p == 0]
    return [np.array([[p, q], [0, count // p]]) for p in divisors for q in range(count // p)]


def _classes(cell: NDArray, site: NDArray, order: NDArray) -> NDArray[np.int64]:
    """Number of the place in the larger cell, different sites apart."""
    (p, q), (_, r) = order
    down = cell[:, 0] // p
    rest = (cell[:, 1] - down * q) % r
    return ((cell[:, 0] % p) * r + rest) * (site.max() + 1) + site


def _without_slope(cell: NDArray, values: NDArray) -> NDArray[np.float64]:
    """Less what varies slowly over the crystal (thickness, tilt, bending): a parabola."""
    if len(values) < 24:
        return values
    i, j = ((cell - cell.mean(axis=0)) / np.maximum(np.ptp(cell, axis=0), 1)).T
    design = np.column_stack([np.ones_like(i), i, j, i * i, i * j, j * j])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def _explained(classes: NDArray, site: NDArray, values: NDArray, least: float, doubt: float, count: int) -> float:
    """Share of the variance within the sites that the classes explain; 0 where it is too little or may be chance."""
    fine, coarse = _means(classes, values), _means(site, values)
    freedom = count - len(np.unique(classes))
    more = len(np.unique(classes)) - len(np.unique(site))
    between, total = ((fine - coarse) ** 2).sum(), ((values - coarse) ** 2).sum()
    if freedom < 3 or more < 1 or between < least**2 * len(values) or between < EXPLAINED * total:
        return 0.0
    ratio = (between / more) / max((total - between) / freedom, 1e-300)
    return float(between / total) if stats.f.sf(ratio, more, freedom) < doubt else 0.0


def _means(group: NDArray, values: NDArray) -> NDArray[np.float64]:
    _, label = np.unique(group, return_inverse=True)
    return (np.bincount(label, values) / np.bincount(label))[label]
