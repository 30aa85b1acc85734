"""The columns that a crystal shows along a zone axis: their names, brightness and atoms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from stemkit.structure.bases import reduced_basis
from stemkit.synthesis.arrangements.projection import Projection, brightness, elements, project

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["CrystalSites", "crystal_sites"]

#: Largest distance of two columns that a translation brings together, nm (chosen: rounded coordinates in CIF files).
SAME_PLACE = 0.01
#: Empty space above a layer, angstrom (chosen: any, it only separates the layer from its repetitions).
VACUUM = 10.0
#: Decimals of occupancies in names (chosen).
DIGITS = 2


@dataclass(frozen=True)
class CrystalSites:
    """The smallest cell of a projected crystal.

    Parameters
    ----------
    vectors : ndarray of shape (2, 2)
        Rows a and b, ``(y, x)`` in nm, a along x.
    fractions : ndarray of shape (k, 2)
        Position of each column in units of a and b.
    names : tuple of str
        Atoms of each column within one period along the beam, such as ``"TiO"``.
    heights : tuple of tuple of float
        Positions of the atoms of each column along the beam, nm.
    brightness : ndarray of shape (k,)
        Sum of ``occupancy * Z**power``, relative to the brightest column.
    period : float
        Period along the beam, nm.
    """

    vectors: NDArray[np.float64]
    fractions: NDArray[np.float64]
    names: tuple[str, ...]
    heights: tuple[tuple[float, ...], ...]
    brightness: NDArray[np.float64]
    period: float


def crystal_sites(
    structure: Atoms | str | os.PathLike[str], zone_axis: Sequence[int], power: float, resolution: float = 0.0
) -> CrystalSites:
    """Project a crystal, given as atoms or as the path of a CIF file, to the smallest cell of its columns.

    Atoms whose projections are nearer than the resolution, nm, are one column.
    """
    atoms = _atoms(structure)
    weights = brightness(atoms, power)
    projection = _resolved(project(atoms, zone_axis), weights, resolution)
    fractions = np.array([projection.center(group, weights) for group in projection.groups])
    parts = _repetitions(atoms, projection)
    names = [_name(elements(atoms), group, parts) for group in projection.groups]
    vectors, first = _smallest_cell(projection.vectors, fractions, names)
    total = np.array([weights[group].sum() for group in projection.groups])[first]
    order = np.argsort(-total, kind="stable")
    first = first[order]
    places = fractions[first] @ projection.vectors @ np.linalg.inv(vectors)
    return CrystalSites(
        _along_x(vectors),
        (places - places[0] + 1e-6) % 1.0 - 1e-6,
        tuple(names[k] for k in first),
        tuple(_heights(projection, projection.groups[k], parts) for k in first),
        total[order] / total.max(),
        projection.period / parts,
    )


def _atoms(structure: Atoms | str | os.PathLike[str]) -> Atoms:
    """Periodic atoms: a period along the beam is added to a layer without one."""
    try:
        import ase.io
    except ImportError as error:
        raise ImportError("register_crystal requires ase: pip install stemkit[crystals]") from error
    read = ase.io.read(os.fspath(structure)) if isinstance(structure, str | os.PathLike) else structure
    if not isinstance(read, ase.Atoms):
        raise TypeError(f"structure must be ase.Atoms or the path of a CIF file, but is {type(structure).__name__}")
    if read.pbc.sum() != 2:
        return read
    layer = read.copy()
    (free,) = np.flatnonzero(~layer.pbc)
    layer.cell[free] = 0
    normal = layer.cell.complete()[free]  # of unit length
    heights = layer.positions @ normal
    layer.cell[free] = normal * (np.ptp(heights) + VACUUM)
    layer.positions -= heights.min() * normal
    layer.pbc = True
    return layer


def _resolved(projection: Projection, weights: NDArray, resolution: float) -> Projection:
    """The projection with columns that the image does not resolve as one."""
    places = np.array([projection.center(group, weights) for group in projection.groups])
    apart = places[:, None] - places
    near = np.linalg.norm((apart - apart.round()) @ projection.vectors, axis=-1) < resolution
    count, label = connected_components(csr_array(near), directed=False)
    groups = [
        np.concatenate([g for g, k in zip(projection.groups, label, strict=True) if k == n]) for n in range(count)
    ]
    return replace(projection, groups=tuple(groups))


def _repetitions(atoms: Atoms, projection: Projection) -> int:
    """Number of times that all columns repeat within the period of the given cell."""
    weight = brightness(atoms, 1.0)
    most = int(np.gcd.reduce([len(group) for group in projection.groups]))
    for n in range(most, 1, -1):
        if most % n == 0 and all(_repeats(projection, group, weight[group], n) for group in projection.groups):
            return n
    return 1


def _repeats(projection: Projection, group: NDArray, weight: NDArray, n: int) -> bool:
    """Whether the atoms of a column are the same after a step of an nth of the period."""
    heights, period = projection.heights[group], projection.period
    apart = heights[:, None] + period / n - heights[None]
    near = np.abs(apart - np.round(apart / period) * period) < SAME_PLACE
    return bool((near & np.isclose(weight[:, None], weight)).any(axis=1).all())


def _name(occupancies: list[dict[str, float]], group: NDArray, repetitions: int) -> str:
    """Formula of the atoms of a column in a period, heaviest first: ``"TiO"``, ``"S2"``, ``"La0.7Sr0.3"``."""
    from ase.data import atomic_numbers

    total: dict[str, float] = {}
    for i in group:
        for symbol, share in occupancies[i].items():
            total[symbol] = total.get(symbol, 0.0) + share / repetitions
    parts = sorted(total, key=lambda symbol: -atomic_numbers[symbol])
    numbers = [round(total[symbol], DIGITS) for symbol in parts]
    return "".join(f"{symbol}{'' if n == 1 else f'{n:g}'}" for symbol, n in zip(parts, numbers, strict=True))


def _heights(projection: Projection, group: NDArray, repetitions: int) -> tuple[float, ...]:
    """Heights of the atoms in the first period."""
    heights = np.sort(projection.heights[group])
    return tuple(float(h) for h in heights[: len(group) // repetitions])


def _smallest_cell(vectors: NDArray, fractions: NDArray, names: list[str]) -> tuple[NDArray, NDArray[np.int64]]:
    """Vectors of the smallest cell of columns of equal names, and one column of each kind in it."""
    labels = np.unique(names, return_inverse=True)[1]
    rarest = np.flatnonzero(labels == np.argmin(np.bincount(labels)))
    steps = [step for step in fractions[rarest] - fractions[rarest[0]] if _is_period(step, vectors, fractions, labels)]
    if len(steps) == 1:
        return vectors, np.arange(len(names))
    around = np.mgrid[-1:2, -1:2].reshape(2, -1).T
    translations = (np.array(steps)[:, None] + around).reshape(-1, 2) @ vectors
    length = np.hypot(*translations.T)
    order = np.argsort(length)[1:]
    a = translations[order[0]]
    area = np.abs(a[0] * translations[order, 1] - a[1] * translations[order, 0])
    wanted = abs(np.linalg.det(vectors)) / len(steps)
    b = translations[order[np.flatnonzero(np.isclose(area, wanted, rtol=0.05))[0]]]
    cell = reduced_basis(np.array([a, b]))
    places = fractions @ vectors @ np.linalg.inv(cell)
    first: list[int] = []
    for i in range(len(names)):
        apart = places[first] - places[i] if first else np.empty((0, 2))
        distance = np.linalg.norm((apart - apart.round()) @ cell, axis=1)
        if not (distance < SAME_PLACE).any():
            first.append(i)
    return cell, np.array(first)


def _along_x(vectors: NDArray) -> NDArray[np.float64]:
    """Vectors turned such that a points along x."""
    y, x = vectors[0] / np.linalg.norm(vectors[0])
    return vectors @ np.array([[x, y], [-y, x]])


def _is_period(step: NDArray, vectors: NDArray, fractions: NDArray, labels: NDArray) -> bool:
    """Whether a translation brings each column to one with the same name."""
    apart = (fractions + step)[:, None] - fractions[None]
    distance = np.linalg.norm((apart - apart.round()) @ vectors, axis=-1)
    return bool(((distance < SAME_PLACE) & (labels[:, None] == labels)).any(axis=1).all())
