"""Registration of a known crystal to a table of columns: which atoms each column consists of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit.parameters import check_fraction, check_number
from stemkit.structure.crystal_settings import (
    Limits,
    MeasuredCell,
    Setting,
    compare_with_columns,
    find_settings,
)
from stemkit.structure.crystal_sites import CrystalSites, crystal_sites
from stemkit.structure.fitting import fit_lattice
from stemkit.structure.lattice import Lattice, check_lattice
from stemkit.structure.registration_tables import (
    NO_SITE,
    OFF_LATTICE,
    named_columns,
    named_missing_sites,
    site_table,
    sites_or_none,
)
from stemkit.structure.setting_errors import Deformation, deformation
from stemkit.structure.tables import amplitudes, check_index, column_positions
from stemkit.synthesis.arrangements.projection import POWER
from stemkit.tables import counted

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["CrystalRegistration", "register_crystal"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the registration."""

    #: Default of ``max_strain`` (chosen: drift strains images of thin layers by up to a fifth).
    max_strain: float = 0.2
    #: Default of ``resolution``, nm (chosen: most instruments resolve 0.08 nm, the dumbbells of silicon 0.136 nm).
    resolution: float = 0.05
    #: Difference of the costs of settings between which the image does not decide, nats (chosen: a likelihood ratio of
    #: 3).
    min_cost_difference: float = 1.1
    #: Cells along each vector whose columns are compared between settings (derived: a multiple of all superlattices).
    n_compared_cells: int = 12
    #: Probability of a name from which it is not called ambiguous (chosen).
    min_certain_probability: float = 0.95


CONSTANTS = _Constants()


@dataclass(frozen=True, eq=False)
class CrystalRegistration:
    """A crystal registered to columns.

    Parameters
    ----------
    columns : DataFrame
        With the table's index: ``y, x``; ``name``, the atoms of the column in one period along the beam (``"TiO"``);
        ``crystal_site``, the row of ``sites``; ``i, j``, the cell of the crystal; ``probability`` of this name and
        ``site_probability`` of this site, among the settings; the displacement from the site of the registered crystal
        with its error and significance, as of :func:`cage_displacements`; ``reason``, why a column has no name.
    sites : DataFrame
        One row per column of the crystal's projected cell, brightest first: ``name``; ``fraction_a, fraction_b``;
        ``heights`` of its atoms along the beam (nm); predicted ``brightness`` relative to the brightest; ``visible``,
        whether it is bright enough to be expected; ``n_columns`` and ``n_missing``; ``measured``, the median brightness
        in the table; the mean displacement of its columns from the site with its error, relative to that of all.
    missing : DataFrame
        Sites inside the crystal without a column, as of :func:`missing_sites`, with ``name`` and ``crystal_site``.
    settings : DataFrame
        Settings of the crystal that were compared, most likely first: ``rotation`` (degrees), ``mirrored`` (seen from
        the opposite side), ``scale``, ``strain``, ``cost`` (nats), ``probability``, and ``naming``: settings with the
        same number give every column the same name.
    vectors : ndarray of shape (2, 2)
        The crystal's projected vectors a and b in the image, rows ``(y, x)`` in the unit of the table.
    deformation : Deformation
        Scale, rotation and strain of the image relative to the crystal, with errors.
    period : float
        Period of the crystal along the beam, nm.
    fits : bool
        Whether every kind of column has a site and every visible site has columns.
    verdict : str
        A sentence: which columns and sites agree, which do not, and which ambiguities remain.
    """

    columns: pd.DataFrame
    sites: pd.DataFrame
    missing: pd.DataFrame
    settings: pd.DataFrame
    vectors: NDArray[np.float64]
    deformation: Deformation
    period: float
    fits: bool
    verdict: str

    def __repr__(self) -> str:
        return f"CrystalRegistration({self.verdict})"


def register_crystal(
    table: pd.DataFrame,
    structure: Atoms | str | os.PathLike[str],
    zone_axis: Sequence[int] = (0, 0, 1),
    *,
    lattice: Lattice | None = None,
    scale: tuple[float, float] | None = None,
    max_strain: float = CONSTANTS.max_strain,
    rotation: tuple[float, float] | None = None,
    by: str | None = "amplitude",
    power: float = POWER,
    resolution: float = CONSTANTS.resolution,
) -> CrystalRegistration:
    """Find where a known crystal is in a table of columns, and name the columns.

    Parameters
    ----------
    table : DataFrame
        Columns of one image. Without errors of the positions, displacements have none.
    structure : ase.Atoms, str or path
        The crystal, or its CIF file; requires ``pip install stemkit[crystals]``. A layer may be periodic along two
        vectors only.
    zone_axis : sequence of three int, default=(0, 0, 1)
        ``[u v w]``, the direction of the beam.
    lattice : Lattice, optional
        ``fit_lattice(table)``, the default, or one of ``fit_lattices(table)``.
    scale : (float, float), optional
        Range of measured per true length. By default 0.85 to 1.15 for a table in nm, in which the pixel size may be
        wrong, and any for one in px, where it is in px per nm.
    max_strain : float, default=0.2
        Largest ratio of two changes of length, less 1: strain and distortions of the scan.
    rotation : (float, float), optional
        Range of the rotation of the crystal, degrees: of its projected vector a from +x towards +y. By default any.
    by : str or None, default="amplitude"
        Column of the table that is the brightness; None if it does not depend on the atomic number, as in phase
        contrast.
    power : float, default=1.7
        Predicted brightness is the sum of ``occupancy * Z**power`` along a column.
    resolution : float, default=0.05
        Distance, nm, below which atoms of the projected crystal are one column of the image.

    Returns
    -------
    CrystalRegistration

    Raises
    ------
    ImportError
        If ASE is not installed.
    ValueError
        If no cell of the crystal has the shape of the lattice within the ranges, or options are impossible.

    See Also
    --------
    brightness_classes : Kinds of columns from their brightness alone.
    stemkit.plotting.show_names : The names on the image.

    Notes
    -----
    The lattice of the columns, and its superlattices of up to four cells, are compared with all cells of the projected
    crystal with vectors of up to three steps, from both sides; then each column of the crystal is placed on each site.
    Missing columns do not disturb this, since only the sites of the lattice are compared. The cost of a setting is a
    negative logarithm of the likelihood: mean positions of sites scatter by 4 % of the shortest distance, the
    logarithm of the brightness by 0.3 around ``Z**power``, strain by 5 %; a kind of column without a site and a
    visible site without columns cost 8 each. These widths are those of models, not of the noise: a probability says
    which setting the image supports, not that the crystal is the right one.

    A projection does not show everything. Settings that the symmetry of the projection relates agree equally with the
    image; ``site_probability`` is then below 1 for columns that they exchange, and heights along the beam are those of
    the first setting. A crystal and the one that is inverted have mirrored projections, or the same one.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from ase.spacegroup import crystal
    >>> from stemkit.structure import register_crystal
    >>> titanate = crystal(["Sr", "Ti", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221,
    ...                    cellpar=[3.905, 3.905, 3.905, 90, 90, 90])
    >>> y, x = np.mgrid[0:6, 0:6].reshape(2, -1) * 0.3905
    >>> table = pd.DataFrame({"y": [*y, *(y + 0.195)], "x": [*x, *(x + 0.195)], "amplitude": [2.0] * 36 + [1.0] * 36})
    >>> table.attrs["unit"] = "nm"
    >>> registered = register_crystal(table, titanate)
    >>> registered.columns["name"].iloc[[0, 36]].tolist()
    ['Sr', 'TiO']
    """
    columns = column_positions(table)
    check_index(table)
    limits = _limits(scale, max_strain, rotation, resolution, columns.unit)
    crystal = crystal_sites(structure, zone_axis, power, resolution)
    lattice = fit_lattice(table) if lattice is None else lattice
    check_lattice(lattice, table)
    values = amplitudes(table, by)[0] if by is not None and by in table else np.full(len(table), np.nan)
    cell = MeasuredCell(lattice.vectors, lattice.sites, _medians(values, lattice), lattice.shortest)
    settings = find_settings(cell, crystal, limits)
    if not settings:
        raise ValueError(
            f"structure must have a cell of the shape of the lattice, {lattice!r}, within the scale "
            f"{limits.scale[0]:g} to {limits.scale[1]:g} and the strain {limits.strain:g}, but its projected vectors "
            f"along {tuple(zone_axis)} are {_lengths(crystal)}: give another zone_axis, or wider ranges"
        )
    on_lattice = np.flatnonzero(lattice.site >= 0)
    ideal = lattice.ideal(lattice.indices[on_lattice], lattice.site[on_lattice]) - lattice.origin
    settings = compare_with_columns(
        settings, crystal, cell, ideal, lattice.displacement[on_lattice], values[on_lattice]
    )
    chances = _Chances.from_settings(settings, lattice, crystal)
    best = settings[0]
    named = named_columns(table, lattice, crystal, best, chances.name, chances.site)
    missing = named_missing_sites(table, lattice, crystal, best, by)
    sites = site_table(table, crystal, named, missing, values)
    shape = deformation(lattice, best)
    fits, verdict = _verdict(named, sites, chances, shape, columns.unit)
    return CrystalRegistration(
        named.drop(columns=["moved_y", "moved_x"]),
        sites,
        missing,
        chances.table,
        crystal.vectors @ best.transform,
        shape,
        crystal.period,
        fits,
        verdict,
    )


def _limits(
    scale: tuple[float, float] | None,
    max_strain: float,
    rotation: tuple[float, float] | None,
    resolution: float,
    unit: str,
) -> Limits:
    if scale is None:
        scale = (0.85, 1.15) if unit == "nm" else (1e-3, 1e6)
    for name, pair in (("scale", scale), ("rotation", rotation)):
        if pair is not None and not (np.shape(pair) == (2,) and np.isfinite(pair).all() and pair[0] <= pair[1]):
            raise ValueError(f"{name} must be a range of two numbers in increasing order, but is {pair!r}")
    check_number("resolution", resolution, 0.0)
    if not scale[0] > 0:
        raise ValueError(f"scale must be positive, but is {scale!r}")
    check_fraction("max_strain", max_strain, zero=True)
    return Limits(scale, float(max_strain), rotation)


def _medians(values: NDArray, lattice: Lattice) -> NDArray[np.float64]:
    """Median brightness of each site, NaN without any."""
    known = np.isfinite(values)
    chosen = [values[known & (lattice.site == s)] for s in range(len(lattice.sites))]
    return np.array([np.median(part) if len(part) else np.nan for part in chosen])


def _lengths(crystal: CrystalSites) -> str:
    a, b = np.linalg.norm(crystal.vectors, axis=1)
    return f"{a:.3g} and {b:.3g} nm"


@dataclass(frozen=True)
class _Chances:
    """Settings as a table, and for each column ``(n,)`` the probabilities of its name and site in the first one."""

    table: pd.DataFrame
    name: NDArray[np.float64]
    site: NDArray[np.float64]

    @classmethod
    def from_settings(cls, settings: list[Setting], lattice: Lattice, crystal: CrystalSites) -> _Chances:
        cost = np.array([setting.cost for setting in settings])
        probability = np.exp(cost.min() - cost)
        probability /= probability.sum()
        # columns whose cells differ by a multiple of all superlattices have the same site in every setting
        on_lattice = np.flatnonzero(lattice.site >= 0)
        keys = np.column_stack([lattice.site, lattice.indices % CONSTANTS.n_compared_cells])[on_lattice]
        kinds, kind = np.unique(keys, axis=0, return_inverse=True)
        places = lattice.ideal(kinds[:, 1:], kinds[:, 0]) - lattice.origin
        site = np.array([sites_or_none(setting, places, crystal, lattice.shortest) for setting in settings])
        names = np.unique(crystal.names, return_inverse=True)[1]
        label = np.where(site >= 0, names[site], -1)
        naming = pd.factorize(pd.Series(map(bytes, label.astype(np.int16))))[0]
        of_name, of_site = (probability @ (each == each[0]) for each in (label, site))
        chances = np.full((2, len(lattice.site)), np.nan)
        chances[:, on_lattice] = np.stack([of_name, of_site])[:, kind.ravel()]
        rows = [(s.rotation, s.mirrored, s.scale, s.strain, s.cost) for s in settings]
        table = pd.DataFrame(rows, columns=["rotation", "mirrored", "scale", "strain", "cost"])
        return cls(table.assign(probability=probability, naming=naming), *chances)


def _verdict(
    named: pd.DataFrame,
    sites: pd.DataFrame,
    chances: _Chances,
    shape: Deformation,
    unit: str,
) -> tuple[bool, str]:
    """Whether the crystal fits, and the result in words."""
    without = int((named["reason"] == NO_SITE).sum())
    off = int((named["reason"] == OFF_LATTICE).sum())
    found = sites[sites["n_columns"] > 0]
    kinds = ", ".join(f"{n} {name}" for name, n in found.groupby("name", sort=False)["n_columns"].sum().items())
    parts = [f"{kinds} of {counted(len(named), 'column')}", shape.text(unit)]
    if off:
        parts.append(f"{counted(off, 'column')} off the lattice")
    if without:
        parts.append(f"{counted(without, 'column')} without a site of the crystal")
    absent = sites[sites["visible"] & (sites["n_columns"] == 0)]
    if len(absent):
        parts.append(f"no columns at the visible sites of {', '.join(dict.fromkeys(absent['name']))}")
    fits = without == 0 and len(absent) == 0
    parts.append(_undecided(chances))
    return fits, ("" if fits else "the crystal does not fit: ") + "; ".join(parts)


def _undecided(chances: _Chances) -> str:
    """Text about the ambiguities that remain: names of columns, and equivalent settings."""
    table = chances.table
    equal = table[(table["naming"] == 0) & (table["cost"] <= table["cost"].min() + CONSTANTS.min_cost_difference)]
    certain = np.nanmin(chances.name) if np.isfinite(chances.name).any() else 1.0
    names = (
        "names are unambiguous"
        if certain >= CONSTANTS.min_certain_probability
        else f"names are ambiguous (probability {certain:.2f})"
    )
    if len(equal) <= 1:
        return f"{names}, one setting agrees"
    sides = "seen from both sides" if equal["mirrored"].nunique() > 1 else "seen from one side"
    exchanged = (
        np.nanmin(chances.site) < CONSTANTS.min_certain_probability if np.isfinite(chances.site).any() else False
    )
    same = (
        ", which exchange columns of equal names" if exchanged and certain >= CONSTANTS.min_certain_probability else ""
    )
    return f"{names}, {len(equal)} settings of the crystal, {sides}, agree equally{same}"
