"""Projection of a crystal along a zone axis: its cell in the plane of the image, and the atoms of each column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["POWER", "Projection", "brightness", "elements", "project"]

#: Atoms whose projections are nearer than this, nm, are one column (chosen: projections of a perfect crystal coincide).
ONE_COLUMN = 0.01
#: Exponent of the atomic number in the HAADF intensity of an atom (chosen: the references of :func:`crystal_cell` have
#: 1.64 to 2).
POWER = 1.7
#: nm per angstrom.
NM = 0.1
#: Decimals to which heights, nm, are rounded (chosen).
DIGITS = 6


@dataclass(frozen=True)
class Projection:
    """A crystal seen along a zone axis.

    Parameters
    ----------
    vectors : ndarray of shape (2, 2)
        Rows a and b of the projected cell, ``(y, x)`` in nm: reduced, a along x, y downwards as in an image.
    fractions : ndarray of shape (n_atoms, 2)
        Position of each atom in units of a and b, from 0 to 1.
    heights : ndarray of shape (n_atoms,)
        Position of each atom along the beam, nm, from 0 to ``period``.
    period : float
        Length of the shortest lattice vector along the beam, nm.
    groups : tuple of ndarray of int
        Atoms of each column.
    """

    vectors: NDArray[np.float64]
    fractions: NDArray[np.float64]
    heights: NDArray[np.float64]
    period: float
    groups: tuple[NDArray[np.int64], ...]

    def center(self, group: NDArray, weights: NDArray) -> NDArray[np.float64]:
        """Mean position ``(2,)`` of the atoms of a column, in fractions of the vectors."""
        apart = self.fractions[group] - self.fractions[group[0]]
        near = self.fractions[group[0]] + apart - apart.round()
        return np.asarray(np.average(near, axis=0, weights=weights[group]))


def project(atoms: Atoms, zone_axis: Sequence[int] = (0, 0, 1)) -> Projection:
    """Project a periodic crystal along ``[u v w]``, in terms of its cell vectors.

    The vectors of the projected cell are the projections of two lattice vectors which, with the shortest one along the
    zone axis, span a cell of the crystal.

    Raises
    ------
    ValueError
        If the crystal is not periodic, or the zone axis is not three integers that are not all zero.
    """
    if not np.all(atoms.pbc) or abs(float(atoms.cell.volume)) < 1e-9:
        raise ValueError(
            f"atoms must be periodic along three vectors, but pbc is {atoms.pbc}: use projected_columns for a particle"
        )
    axis = np.array(zone_axis)
    if axis.shape != (3,) or not np.issubdtype(axis.dtype, np.integer) or not axis.any():
        raise ValueError(f"zone_axis must be three integers [u v w], not all zero, but is {zone_axis!r}")
    steps = _unimodular(axis // math.gcd(*map(int, axis)))
    cell = steps @ np.asarray(atoms.cell) * NM
    along = cell[2] / np.linalg.norm(cell[2])
    plain = cell[:2] - (cell[:2] @ along)[:, None] * along
    across = _reduced(plain, along)
    # x along a, and y such that the view is along the beam
    x = across[0] / np.linalg.norm(across[0])
    plane = np.stack([np.cross(along, x), x])
    vectors = across @ plane.T
    places = (atoms.positions * NM @ plane.T) @ np.linalg.inv(vectors)
    fractions = places % 1.0
    groups = _columns(fractions, vectors)
    # the lattice vectors whose projections are a and b may be inclined to the plane of the image
    inclined = np.round(across @ np.linalg.pinv(plain)) @ (cell[:2] @ along)
    moved = fractions - places
    for group in groups:
        moved[group] -= np.round(fractions[group] - fractions[group[0]])
    heights = atoms.positions * NM @ along + moved @ inclined
    period = float(np.linalg.norm(cell[2]))
    # a height of a rounding error below 0 is 0, not one period
    return Projection(vectors, fractions, np.round(heights, DIGITS) % period, period, groups)


def brightness(atoms: Atoms, power: float) -> NDArray[np.float64]:
    """``occupancy * Z**power`` of each atom, summed over the elements that share a site."""
    from ase.data import atomic_numbers

    return np.array([sum(share * atomic_numbers[x] ** power for x, share in site.items()) for site in elements(atoms)])


def elements(atoms: Atoms) -> list[dict[str, float]]:
    """Occupancy by element of the site of each atom."""
    shared: dict[str, dict[str, float]] = atoms.info.get("occupancy", {})
    kinds = atoms.arrays.get("spacegroup_kinds")
    symbols = atoms.get_chemical_symbols()
    if not shared or kinds is None:
        return [{symbol: 1.0} for symbol in symbols]
    return [shared.get(str(kind), {symbol: 1.0}) for kind, symbol in zip(kinds, symbols, strict=True)]


# --- steps -------------------------------------------------------------------------------------------------------


def _unimodular(axis: NDArray) -> NDArray[np.int64]:
    """Integer matrix of determinant 1 whose last row is a vector of coprime integers."""
    u, v, w = (int(n) for n in axis)
    g, s, t = _bezout(u, v)
    if g == 0:
        return np.array([[1, 0, 0], [0, w, 0], [0, 0, w]])
    _, p, q = _bezout(g, w)
    # (-t, s) and (u, v) / g span the plane of the first two; (-q, p) and (g, w) that of (u, v) / g and the third
    return np.array([[-t, s, 0], [-q * (u // g), -q * (v // g), p], [u, v, w]])


def _bezout(a: int, b: int) -> tuple[int, int, int]:
    """The greatest common divisor g of two integers, and s, t with ``s a + t b = g``."""
    if b == 0:
        return abs(a), (a > 0) - (a < 0), 0
    g, s, t = _bezout(b, a % b)
    return g, t, s - (a // b) * t


def _reduced(vectors: NDArray, normal: NDArray) -> NDArray[np.float64]:
    """Gauss's reduction of two vectors to the shortest ones that span the same lattice, right-handed."""
    a, b = sorted(vectors, key=np.linalg.norm)
    while True:
        shorter = b - round(float(a @ b / (a @ a))) * a
        # the tolerance prevents an endless loop by rounding errors where lengths are equal
        if np.linalg.norm(shorter) > (1 - 1e-9) * np.linalg.norm(b):
            break
        a, b = sorted((a, shorter), key=np.linalg.norm)
    return np.array([a, b if np.cross(a, b) @ normal < 0 else -b])


def _columns(fractions: NDArray, vectors: NDArray) -> tuple[NDArray[np.int64], ...]:
    """Atoms of each column: those whose projections coincide with that of the first one."""
    groups: list[list[int]] = []
    for i, place in enumerate(fractions):
        for group in groups:
            apart = place - fractions[group[0]]
            if np.linalg.norm((apart - apart.round()) @ vectors) < ONE_COLUMN:
                group.append(i)
                break
        else:
            groups.append([i])
    return tuple(np.array(group) for group in groups)
