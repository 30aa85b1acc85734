"""Projection of atoms without a periodic cell: clusters and particles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from stemkit.synthesis.arrangements.columns import Columns, columns_at
from stemkit.synthesis.arrangements.projection import POWER, brightness

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["projected_columns"]


def projected_columns(
    atoms: Atoms,
    shape: tuple[int, int],
    pixel_size: float,
    *,
    sigma: float = 0.04,
    together: float = 0.03,
    power: float = POWER,
) -> Columns:
    """Columns of a particle, projected along z, in the centre of an image.

    Parameters
    ----------
    atoms : ase.Atoms
        Positions in angstrom; rotate them with ``atoms.rotate`` for another projection.
    shape : (int, int)
        ``(n_y, n_x)``, px.
    pixel_size : float
        Pixel size, nm.
    sigma : float
        Width of a column, nm.
    together : float
        Atoms whose projections are nearer than this, nm, are one column.
    power : float
        A column's amplitude is the sum of its atoms' ``occupancy * Z**power``, relative to the brightest column; see
        :func:`~stemkit.synthesis.crystal_cell`.
    """
    if not pixel_size > 0 or not sigma > 0:
        raise ValueError(f"pixel_size and sigma must be positive nm, but are {pixel_size!r} and {sigma!r}")
    if len(atoms) == 0:
        raise ValueError("atoms must contain at least one atom, but is empty")
    xy = atoms.positions[:, :2] / 10
    pairs = cKDTree(xy).query_pairs(together, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(xy), len(xy)))
    count, group = connected_components(graph, directed=False)
    weight = brightness(atoms, power)
    total = np.bincount(group, weight, minlength=count)
    x, y = (np.bincount(group, weight * along, minlength=count) / total for along in xy.T)
    middle = [(np.ptp(v) / 2 + v.min()) for v in (y, x)]
    places = [(v - m) / pixel_size + (n - 1) / 2 for v, m, n in zip((y, x), middle, shape, strict=True)]
    return columns_at(np.column_stack(places), total / total.max(), sigma / pixel_size)
