"""Search for the settings of a crystal, its orientation and origin, that agree with a lattice of columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stemkit.statistics import finite_median
from stemkit.structure.bases import reduced_basis, superlattices
from stemkit.structure.crystal_sites import CrystalSites

__all__ = ["Limits", "MeasuredCell", "Setting", "compare_with_columns", "find_settings"]

#: Least predicted brightness of a column whose absence counts, fraction of the brightest (chosen: below Al-O in LaAlO3,
#: 0.12, above O in SrTiO3, 0.07).
MIN_VISIBLE_BRIGHTNESS = 0.09
#: Largest distance of a column from its site, shortest distances of columns (chosen).
MAX_SITE_DISTANCE = 0.25


@dataclass(frozen=True)
class _Constants:
    """Constants of the search for settings."""

    #: Most cells of the measured lattice that repeat together in the crystal (chosen: columns of similar brightness and
    #: invisible ones hide superlattices).
    max_cells: int = 4
    #: Largest multiple of a vector of the crystal that is compared with a vector of the measured lattice (chosen).
    max_steps: int = 3
    #: Standard deviation of the logarithm of the brightness from ``Z**power`` (chosen: thickness, channelling,
    #: detector).
    brightness_error: float = 0.3
    #: Standard deviation of the mean positions of sites, shortest distances of columns (chosen: off-centring,
    #: relaxation).
    position_error: float = 0.04
    #: Brightness of a site without columns, at most, fraction of the faintest columns (chosen).
    max_empty_brightness: float = 0.5
    #: Cost of a kind of column without a site, and of a visible site without columns, nats (chosen: 4 standard
    #: deviations).
    unexplained_cost: float = 8.0
    #: Cost above the lowest one up to which settings are kept, nats (derived: their probability is below 1e-5).
    max_cost_difference: float = 12.0
    #: Decimals of costs of equal settings, which are sorted by their rotation (chosen).
    cost_decimals: int = 6
    #: Difference of the transforms of equal settings, fraction of the scale (chosen).
    equal_transforms: float = 1e-6
    #: Distance of the origins of equal settings, shortest distances of columns (chosen).
    equal_origins: float = 0.02
    #: Columns at most of which means are compared (chosen: their errors are then far below the tolerances).
    max_compared_columns: int = 4000
    #: Standard deviation of the strain (chosen: drift of the specimen during the scan).
    strain_error: float = 0.05


CONSTANTS = _Constants()


@dataclass(frozen=True)
class Limits:
    """Ranges: of the scale (measured per true length), of the strain, and of the rotation in degrees."""

    scale: tuple[float, float]
    strain: float
    rotation: tuple[float, float] | None


@dataclass(frozen=True)
class MeasuredCell:
    """The cell of the measured lattice, in the unit of the table.

    ``vectors`` is ``(2, 2)``, ``fractions`` ``(s, 2)``, ``brightness`` ``(s,)`` (NaN: unknown), ``shortest`` the
    shortest distance of two columns.
    """

    vectors: NDArray[np.float64]
    fractions: NDArray[np.float64]
    brightness: NDArray[np.float64]
    shortest: float


@dataclass(frozen=True)
class NearestSites:
    """Sites ``(n,)`` and cells ``(n, 2)`` of a crystal that are nearest to n places, and the distances ``(n,)``."""

    site: NDArray[np.int64]
    cell: NDArray[np.int64]
    distance: NDArray[np.float64]

    def positions(self, crystal: CrystalSites) -> NDArray[np.float64]:
        """Positions ``(n, 2)`` of the sites in the crystal, nm."""
        return (self.cell + crystal.fractions[self.site]) @ crystal.vectors


@dataclass(frozen=True)
class Setting:
    """Orientation and origin: the place r (nm) in the crystal is at ``origin + r @ transform`` in the image.

    ``cost`` is the negative logarithm of its likelihood, per cell of the measured lattice, ``misfit`` the part that is
    not due to positions and brightness.
    """

    transform: NDArray[np.float64]
    origin: NDArray[np.float64]
    cost: float = 0.0
    misfit: float = 0.0

    @property
    def mirrored(self) -> bool:
        """Whether the crystal is seen from the opposite side."""
        return bool(np.linalg.det(self.transform) < 0)

    @property
    def scale(self) -> float:
        """Ratio of measured to true length."""
        return float(np.sqrt(abs(np.linalg.det(self.transform))))

    @property
    def strain(self) -> float:
        """Ratio of the largest to the smallest change of length, less 1."""
        first, second = np.linalg.svd(self.transform, compute_uv=False)
        return float(first / second - 1)

    @property
    def rotation(self) -> float:
        """Rotation of the crystal's a, degrees from +x towards +y."""
        return float(rotation(self.transform))

    def nearest_sites(self, places: NDArray, crystal: CrystalSites) -> NearestSites:
        """Sites of the crystal that are nearest to places ``(n, 2)``."""
        cell = crystal.vectors @ self.transform
        fractions = (places - self.origin) @ np.linalg.inv(cell)
        apart = fractions[:, None] - crystal.fractions
        cells = np.round(apart)
        distance = np.linalg.norm((apart - cells) @ cell, axis=-1)
        site = distance.argmin(axis=1)
        rows = np.arange(len(places))
        return NearestSites(site, cells[rows, site].astype(np.int64), distance[rows, site])


def find_settings(cell: MeasuredCell, crystal: CrystalSites, limits: Limits) -> list[Setting]:
    """Settings within limits, most likely first; empty if the shape of no cell agrees.

    Each superlattice of up to four cells is compared with cells of the crystal, in all orientations and from both
    sides; then each column of the crystal is placed on each site of the lattice.
    """
    settings: list[Setting] = []
    for steps in (steps for n_cells in range(1, CONSTANTS.max_cells + 1) for steps in superlattices(n_cells)):
        combined = reduced_basis(steps @ cell.vectors)
        steps = np.round(combined @ np.linalg.inv(cell.vectors)).astype(np.int64)
        supercell = _Supercell.from_cell(cell, steps)
        for transform, ratio in _transforms(combined, crystal, limits, len(supercell.places)):
            origins = _origins(supercell.places[: len(cell.fractions)], supercell.brightness, transform, crystal)
            settings += [_scored(transform, origin, supercell, crystal, ratio) for origin in origins]
    settings.sort(
        key=lambda setting: (round(setting.cost, CONSTANTS.cost_decimals), setting.mirrored, abs(setting.rotation))
    )
    likely = [setting for setting in settings if setting.cost <= settings[0].cost + CONSTANTS.max_cost_difference]
    return _different(likely, crystal, cell.shortest)


@dataclass(frozen=True)
class _Supercell:
    """Places ``(n, 2)`` and brightness ``(n,)`` of the columns in a superlattice cell of ``n_cells`` cells."""

    places: NDArray[np.float64]
    brightness: NDArray[np.float64]
    n_cells: int
    shortest: float

    @classmethod
    def from_cell(cls, cell: MeasuredCell, steps: NDArray) -> _Supercell:
        """The cell with the vectors ``steps @ cell.vectors``."""
        reach = int(np.abs(steps).sum())
        cells = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
        inside = np.round(cells @ np.linalg.inv(steps), 9)
        cells = cells[((inside >= 0) & (inside < 1)).all(axis=1)]
        places = (cells[:, None] + cell.fractions).reshape(-1, 2) @ cell.vectors
        n_cells = round(abs(np.linalg.det(steps)))
        return cls(places, np.tile(cell.brightness, len(cells)), n_cells, cell.shortest)


def _transforms(
    vectors: NDArray, crystal: CrystalSites, limits: Limits, n_columns: int
) -> list[tuple[NDArray[np.float64], int]]:
    """Matrices ``(2, 2)`` that bring cells of the crystal to these vectors, with the number of crystal cells."""
    steps = (
        np.mgrid[-CONSTANTS.max_steps : CONSTANTS.max_steps + 1, -CONSTANTS.max_steps : CONSTANTS.max_steps + 1]
        .reshape(2, -1)
        .T
    )
    length = np.linalg.norm(steps @ crystal.vectors, axis=1)
    low, high = limits.scale[0] / (1 + limits.strain), limits.scale[1] * (1 + limits.strain)
    measured = np.linalg.norm(vectors, axis=1)
    chosen = [steps[(length > 0) & (length * low <= m) & (m <= length * high)] for m in measured]
    if min(map(len, chosen)) == 0:
        return []
    first, second = (part.ravel() for part in np.meshgrid(*(np.arange(len(c)) for c in chosen), indexing="ij"))
    pairs = np.stack([chosen[0][first], chosen[1][second]], axis=1)
    count = np.round(np.abs(np.linalg.det(pairs))).astype(np.int64)
    visible = int((crystal.brightness >= MIN_VISIBLE_BRIGHTNESS).sum())
    # each visible column without a site, or site without a column, costs more than a wrong setting saves
    plausible = (count > 0) & (count * len(crystal.names) >= n_columns / 2) & (count * visible <= 2 * n_columns)
    pairs, count = pairs[plausible], count[plausible]
    transforms = np.linalg.inv(pairs @ crystal.vectors) @ vectors
    singular = np.linalg.svd(transforms, compute_uv=False)
    scale = np.sqrt(singular.prod(axis=1))
    good = (singular[:, 0] / singular[:, 1] <= 1 + limits.strain) & (scale >= limits.scale[0])
    good &= (scale <= limits.scale[1]) & _in_range(rotation(transforms), limits.rotation)
    return list(zip(transforms[good], count[good].tolist(), strict=True))


def rotation(transform: NDArray) -> NDArray[np.float64]:
    """Rotation of the crystal's a, degrees from +x towards +y, of transforms ``(..., 2, 2)``.

    Of the nearest rotation, or reflection of y followed by a rotation (polar decomposition).
    """
    sign = np.sign(np.linalg.det(transform))
    yy, yx, xy, xx = (transform[..., i, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    return np.degrees(np.arctan2(xy - sign * yx, xx + sign * yy))


def _in_range(angle: NDArray, limits: tuple[float, float] | None) -> NDArray[np.bool_]:
    if limits is None:
        return np.ones(len(angle), dtype=bool)
    middle, half = (limits[0] + limits[1]) / 2, (limits[1] - limits[0]) / 2
    return np.asarray(np.abs((angle - middle + 180) % 360 - 180) <= half)


def _origins(places: NDArray, brightness: NDArray, transform: NDArray, crystal: CrystalSites) -> NDArray[np.float64]:
    """Origins ``(m, 2)`` that place a column of the crystal on one of the lattice, a visible one if it may be."""
    known = np.isfinite(brightness).any()
    chosen = crystal.brightness >= MIN_VISIBLE_BRIGHTNESS if known else np.ones(len(crystal.names), dtype=bool)
    sites = crystal.fractions[chosen] @ crystal.vectors @ transform
    return (places[:, None] - sites).reshape(-1, 2)


def _scored(transform: NDArray, origin: NDArray, supercell: _Supercell, crystal: CrystalSites, ratio: int) -> Setting:
    """The setting with its origin refined, and its cost."""
    places, shortest = supercell.places, supercell.shortest
    for _ in range(2):
        setting = Setting(transform, origin)
        nearest = setting.nearest_sites(places, crystal)
        matched = np.flatnonzero(nearest.distance <= MAX_SITE_DISTANCE * shortest)
        ideal = nearest.positions(crystal) @ transform + origin
        if len(matched):
            origin = origin + (places - ideal)[matched].mean(axis=0)
    found = np.unique(np.column_stack([nearest.site, nearest.cell])[matched], axis=0)[:, 0]
    absent = np.where(
        crystal.brightness >= MIN_VISIBLE_BRIGHTNESS, ratio - np.bincount(found, minlength=len(crystal.names)), 0
    )
    cost = CONSTANTS.unexplained_cost * (len(places) - len(found) + int(absent.sum()))
    if len(found):
        # columns of an absent kind are fainter than all that were found
        excess = np.log(crystal.brightness / crystal.brightness[found].min()) - np.log(CONSTANTS.max_empty_brightness)
        cost += float((absent * np.maximum(excess, 0) ** 2).sum()) / 4 / CONSTANTS.brightness_error**2
    misfit = cost / supercell.n_cells + (setting.strain / CONSTANTS.strain_error) ** 2 / 2
    brightness = supercell.brightness[matched]
    cost = _deviation((places - ideal)[matched], brightness, crystal.brightness[nearest.site[matched]], shortest)
    return Setting(transform, origin, misfit + cost / supercell.n_cells, misfit)


def _deviation(steps: NDArray, brightness: NDArray, predicted: NDArray, shortest: float) -> float:
    """Cost of the deviations ``(m, 2)`` of mean positions and of the brightness ``(m,)`` from the crystal."""
    if len(steps) == 0:
        return 0.0
    steps = steps - steps.mean(axis=0)
    cost = float((steps**2).sum()) / 2 / (CONSTANTS.position_error * shortest) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.log(brightness / predicted)
    difference = difference[np.isfinite(difference)]
    if len(difference):
        cost += float(((difference - difference.mean()) ** 2).sum()) / 2 / CONSTANTS.brightness_error**2
    return cost


def compare_with_columns(
    settings: list[Setting], crystal: CrystalSites, cell: MeasuredCell, ideal: NDArray, steps: NDArray, values: NDArray
) -> list[Setting]:
    """Settings in the order of their likelihood for the means of the columns at each site of the crystal.

    These show what the measured lattice does not contain: displacements and brightness that alternate between its
    cells.

    Parameters
    ----------
    settings : list of Setting
    crystal : CrystalSites
    cell : MeasuredCell
    ideal, steps : ndarray of shape (n, 2)
        Sites of the measured lattice and the displacements of the columns from them.
    values : ndarray of shape (n,)
        Brightness, NaN if unknown.
    """
    known = np.flatnonzero(np.isfinite(steps).all(axis=1))
    known = known[:: max(len(known) // CONSTANTS.max_compared_columns, 1)]
    ideal, steps, values = ideal[known], steps[known], values[known]
    compared = [_compared(setting, crystal, cell, ideal, steps, values) for setting in settings]
    return sorted(compared, key=lambda s: (round(s.cost, CONSTANTS.cost_decimals), s.mirrored, abs(s.rotation)))


def _compared(
    setting: Setting, crystal: CrystalSites, cell: MeasuredCell, ideal: NDArray, steps: NDArray, values: NDArray
) -> Setting:
    nearest = setting.nearest_sites(ideal, crystal)
    site, near = nearest.site, nearest.distance <= MAX_SITE_DISTANCE * cell.shortest
    moved = ideal + steps - nearest.positions(crystal) @ setting.transform - setting.origin
    kinds = np.unique(site[near])
    means = np.array([moved[near & (site == k)].mean(axis=0) for k in kinds]).reshape(-1, 2)
    medians = np.array([finite_median(values[near & (site == k)]) for k in kinds])
    n_cells = abs(np.linalg.det(crystal.vectors @ setting.transform) / np.linalg.det(cell.vectors))
    cost = _deviation(means, medians, crystal.brightness[kinds], cell.shortest) / n_cells
    origin = setting.origin + (means.mean(axis=0) if len(means) else 0.0)
    return replace(setting, origin=origin, cost=setting.misfit + cost)


def _different(settings: list[Setting], crystal: CrystalSites, shortest: float) -> list[Setting]:
    """Settings without those that differ from a previous one by a translation of the crystal."""
    kept: list[Setting] = []
    for setting in settings:
        cell = crystal.vectors @ setting.transform
        same = [
            k
            for k in kept
            if np.allclose(k.transform, setting.transform, rtol=0, atol=CONSTANTS.equal_transforms * setting.scale)
        ]
        steps = np.array([(setting.origin - other.origin) @ np.linalg.inv(cell) for other in same]).reshape(-1, 2)
        if not (np.linalg.norm((steps - steps.round()) @ cell, axis=1) < CONSTANTS.equal_origins * shortest).any():
            kept.append(setting)
    return kept
