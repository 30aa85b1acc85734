"""Unit cells of planar lattices: by name, at random, and of crystals projected along a zone axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stemkit.parameters import check_option, check_positive, is_number
from stemkit.synthesis.arrangements.projection import POWER, brightness, project

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["LATTICES", "Cell", "crystal_cell", "nearest_site_distance", "planar_cell", "random_cell"]

#: The five planar lattices: angle of a and b in degrees or None, whether they are equally long, whether the cell is
#: centred.
LATTICES: dict[str, tuple[float | None, bool, bool]] = {
    "square": (90.0, True, False),
    "rectangular": (90.0, False, False),
    "centred rectangular": (90.0, False, True),
    "hexagonal": (60.0, True, False),
    "oblique": (None, False, False),
}
#: Largest distance, cells, at which the nearest column is searched (chosen).
MAX_STEPS = 12


@dataclass
class Cell:
    """Unit cells of a batch.

    Parameters
    ----------
    vectors : Tensor of shape (n_images, 2, 2)
        Rows a and b, (y, x) each, in any unit.
    basis : Tensor of shape (n_images, n_sites, 2)
        Sites in fractions of a and b.
    occupied : Tensor of shape (n_images, n_sites)
    amplitude, width : Tensor of shape (n_images, n_sites)
        Relative height and width of each site's column.
    """

    vectors: Tensor
    basis: Tensor
    occupied: Tensor
    amplitude: Tensor
    width: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def single(cls, vectors: ArrayLike, basis: ArrayLike, amplitude: ArrayLike = 1.0, width: ArrayLike = 1.0) -> Cell:
        """Cell of one crystal: vectors ``(2, 2)``, basis ``(n_sites, 2)``."""
        a_b, sites = (torch.as_tensor(np.array(v, dtype=float))[None] for v in (vectors, basis))
        if a_b.shape[1:] != (2, 2) or not float(torch.linalg.det(a_b).abs()) > 1e-9 * float(a_b.abs().max()) ** 2:
            raise ValueError(f"vectors must be two, (y, x) each, that are not along one line, but is {vectors!r}")
        if sites.ndim != 3 or sites.shape[2] != 2 or sites.shape[1] == 0:
            raise ValueError(f"basis must be of shape (n_sites, 2), in fractions of the vectors, but is {basis!r}")
        heights, widths = (_per_site(v, sites.shape[1], k) for v, k in ((amplitude, "amplitude"), (width, "width")))
        return cls(a_b, sites, torch.ones_like(heights, dtype=torch.bool), heights, widths)


def planar_cell(
    name: str,
    *,
    ratio: float = 1.0,
    angle: float = 75.0,
    basis: ArrayLike = ((0.0, 0.0),),
    amplitude: ArrayLike = 1.0,
    width: ArrayLike = 1.0,
) -> Cell:
    """Cell of one of the five planar lattices, with a along x and of length 1.

    Parameters
    ----------
    name : {"square", "rectangular", "centred rectangular", "hexagonal", "oblique"}
    ratio : float
        Length of b over that of a; square and hexagonal lattices have 1.
    angle : float
        Between a and b, degrees, for an oblique lattice.
    basis : array-like of shape (n_sites, 2)
        Sites in fractions of a and b. ``[(0, 0), (1/3, 1/3)]`` in a hexagonal cell is a honeycomb.
    amplitude, width : float or array-like of shape (n_sites,)
        Relative height and width of each site's column.

    Examples
    --------
    >>> from stemkit.synthesis import lattice, planar_cell
    >>> perovskite = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.4])
    >>> columns = lattice(perovskite, (128, 128), spacing=12.0)
    """
    check_option("name", name, LATTICES)
    fixed, equal, centered = LATTICES[name]
    check_positive("ratio", ratio)
    if equal and ratio != 1.0:
        raise ValueError(f"ratio must be 1 in a {name} lattice, but is {ratio!r}: choose another lattice")
    if not is_number(angle) or not 0 < angle < 180:
        raise ValueError(f"angle must be between 0 and 180 degrees, but is {angle!r}")
    radians = math.radians(angle if fixed is None else fixed)
    sites = np.atleast_2d(np.asarray(basis, dtype=float))
    if centered:
        heights, widths = (np.broadcast_to(v, len(sites)) for v in (amplitude, width))
        sites, amplitude, width = np.concatenate([sites, sites + 0.5]), np.tile(heights, 2), np.tile(widths, 2)
    return Cell.single([(0.0, 1.0), (ratio * math.sin(radians), ratio * math.cos(radians))], sites, amplitude, width)


def crystal_cell(atoms: Atoms, zone_axis: Sequence[int] = (0, 0, 1), *, power: float = POWER) -> Cell:
    """Projection of a crystal along a zone axis: its cell in nm, with one site for each column.

    Parameters
    ----------
    atoms : ase.Atoms
        Periodic along its three cell vectors: ``ase.io.read("crystal.cif")``, ``ase.build.bulk("Au", cubic=True)``.
    zone_axis : sequence of three int
        ``[u v w]``, the beam's direction, in terms of the cell vectors.
    power : float
        A column's amplitude is the sum of ``occupancy * Z**power`` along it, relative to the brightest column: 1.7 in
        HAADF, 2 at very large detector angles [1]_, 1.64 as measured in medium-angle dark field [2]_, less in BF.

    Raises
    ------
    ValueError
        If the crystal is not periodic, or the zone axis is not three integers that are not all zero.

    Notes
    -----
    The vectors of the projected cell are the projections of two lattice vectors which, with the shortest one along the
    zone axis, span a cell of the crystal. Occupancies are those that ASE reads from CIF files (``atoms.info``). Thermal
    motion, channelling and absorption are neglected.

    References
    ----------
    .. [1] S. J. Pennycook, D. E. Jesson, Ultramicroscopy 37, 14 (1991),
       https://doi.org/10.1016/0304-3991(91)90004-P
    .. [2] O. L. Krivanek et al., Nature 464, 571 (2010), https://doi.org/10.1038/nature08879

    Examples
    --------
    >>> from ase.build import bulk
    >>> from stemkit.synthesis import crystal_cell, lattice
    >>> silicon = crystal_cell(bulk("Si", cubic=True), (1, 1, 0))
    >>> columns = lattice(silicon, (128, 128), pixel_size=0.01, sigma=4.0)
    """
    projection = project(atoms, zone_axis)
    weights = brightness(atoms, power)
    sites = np.array([projection.center(group, weights) for group in projection.groups])
    amplitude = np.array([weights[group].sum() for group in projection.groups])
    return Cell.single(projection.vectors, sites, amplitude / amplitude.max())


def random_cell(n_images: int, generator: torch.Generator, max_sites: int = 4) -> Cell:
    """Random cells of the five planar lattices with one to ``max_sites`` columns."""
    u = torch.rand((n_images, 8), generator=generator, device=generator.device)
    kind = u[:, 0]
    ratio = torch.where(kind < 0.65, torch.ones_like(kind), 1.0 + 0.8 * u[:, 1])
    angle = torch.full_like(kind, math.pi / 2)
    angle = torch.where((kind >= 0.4) & (kind < 0.65), torch.full_like(kind, math.pi / 3), angle)
    angle = torch.where(kind >= 0.85, math.pi * (0.36 + 0.14 * u[:, 2]), angle)
    a = torch.stack([torch.zeros_like(kind), torch.ones_like(kind)], dim=-1)
    b = torch.stack([ratio * torch.sin(angle), ratio * torch.cos(angle)], dim=-1)
    hexagonal = (kind >= 0.4) & (kind < 0.65)
    center = torch.where(hexagonal[:, None], torch.full((2,), 1 / 3, device=kind.device), 0.5)
    special = torch.stack(
        [
            torch.zeros(n_images, 2, device=kind.device),
            center.expand(n_images, 2),
            torch.tensor([0.5, 0.0], device=kind.device).expand(n_images, 2),
            torch.tensor([0.0, 0.5], device=kind.device).expand(n_images, 2),
        ],
        dim=1,
    )
    # a third of the second sites are in general positions: dumbbells and bases of low symmetry
    general = 0.22 + 0.5 * torch.rand((n_images, 1, 2), generator=generator, device=generator.device)
    second = torch.where((u[:, 4] < 0.33)[:, None, None], general, special[:, 1:2])
    basis = torch.cat([special[:, :1], second, special[:, 2:]], dim=1)[:, :max_sites]
    n_sites = 1 + (u[:, 3] * u[:, 3] * max_sites).long().clamp(max=max_sites - 1)
    n_sites = torch.where(hexagonal, n_sites.clamp(max=2), n_sites)
    occupied = torch.arange(max_sites, device=kind.device)[None] < n_sites[:, None]
    ones = torch.ones_like(basis[..., 0])
    return Cell(torch.stack([a, b], dim=1), basis, occupied, ones, ones)


def nearest_site_distance(cell: Cell) -> Tensor:
    """Distance between nearest columns of each cell's lattice, ``(n_images,)``, in units of its vectors."""
    # the nearest sites of an elongated cell may be several short vectors apart
    length = torch.linalg.norm(cell.vectors, dim=-1)
    elongation = (length.amax(1) ** 2 / torch.linalg.det(cell.vectors).abs()).max()
    m = min(MAX_STEPS, 1 + math.ceil(float(elongation)))
    steps = torch.cartesian_prod(*(torch.arange(-m, m + 1, device=cell.basis.device),) * 2).to(cell.basis.dtype)
    apart = cell.basis[:, :, None, None] - cell.basis[:, None, :, None]
    apart = apart - apart.round() + steps
    distance = torch.linalg.norm(apart @ cell.vectors[:, None, None], dim=-1)
    pairs = cell.occupied[:, :, None] & cell.occupied[:, None, :]
    valid = pairs[..., None] & (distance > 1e-6)
    return torch.where(valid, distance, torch.inf).flatten(1).min(dim=1).values


# --- steps -------------------------------------------------------------------------------------------------------


def _per_site(values: ArrayLike, n: int, name: str) -> Tensor:
    given = np.asarray(values, dtype=float)
    if given.ndim > 1 or given.size not in (1, n) or not (given > 0).all():
        raise ValueError(f"{name} must be positive, one number or one for each of {n} sites, but is {values!r}")
    return torch.as_tensor(np.broadcast_to(given, n).copy())[None]
