"""Structures that training never draws.

Each function takes the spacing in px, the shape of the image and a generator, and returns the columns of one image with
their amplitudes and widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from stemkit.synthesis import (
    Cell,
    Columns,
    columns_at,
    disk,
    half_plane,
    joined,
    lattice,
    lattice_vectors,
    planar_cell,
    removed,
    subset,
    superposed,
)

__all__ = ["HELD_BACK"]

Shape = tuple[int, int]
#: Column width as a fraction of the spacing (chosen).
RELATIVE_WIDTH = 0.2
#: The same for dumbbells, whose columns overlap (chosen).
DUMBBELL_RELATIVE_WIDTH = 0.38
#: Columns are arranged up to this distance beyond the image, in spacings (chosen).
MARGIN_SPACINGS = 3.0
#: Radius of a particle, as a fraction of the shorter side (chosen).
PARTICLE_RADIUS = 0.42
#: Radius of an island, as a fraction of the shorter side (chosen).
ISLAND_RADIUS = 0.35
#: Fraction of the fainter columns that are removed along the line of vacancies (chosen).
LINE_VACANCY_FRACTION = 0.5
#: Fraction of all columns that are removed elsewhere (chosen).
OTHER_VACANCY_FRACTION = 0.02
#: Half the width of that line, in spacings (chosen).
LINE_HALF_WIDTH = 1.2
#: Amplitude of a crystal below single atoms (chosen).
SUPPORT_AMPLITUDE = 0.35
#: Number of single atoms per squared spacing (chosen).
ATOM_DENSITY = 0.02


def kagome(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A kagome lattice: three columns in a hexagonal cell."""
    cell = planar_cell("hexagonal", basis=[(0.5, 0), (0, 0.5), (0.5, 0.5)], amplitude=[1.0, 0.8, 0.8])
    return _crystal(cell, spacing, shape, g)


def superstructure(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """An ordered alloy: in a square crystal, one of nine columns is fainter."""
    basis = [(i / 3, j / 3) for i in range(3) for j in range(3)]
    cell = planar_cell("square", basis=basis, amplitude=[0.45] + [1.0] * 8)
    return _crystal(cell, spacing, shape, g)


def perovskite_with_oxygen(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """Two bright sublattices and a faint one of a tenth of their amplitude, displaced as in a ferroelectric."""
    basis = [(0, 0), (0.5, 0.56), (0.5, 0.06), (0.0, 0.56)]
    cell = planar_cell("rectangular", ratio=1.04, basis=basis, amplitude=[1.0, 0.5, 0.1, 0.1])
    return _crystal(cell, spacing, shape, g)


def dumbbells_in_a_row(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """Pairs of overlapping columns of different amplitudes, as in GaN along [11-20] or CdTe along [110]."""
    pair = [(0, 0), (0.25, 0.0), (0.5, 0.5), (0.75, 0.5)]
    cell = planar_cell("rectangular", ratio=math.sqrt(0.5), basis=pair, amplitude=[1.0, 0.55, 1.0, 0.55])
    return _crystal(cell, spacing, shape, g, sigma=DUMBBELL_RELATIVE_WIDTH)


def antiphase_boundary(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """An ordered crystal that is shifted by half a cell on one side of a plane."""
    cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.4])
    angle, origin = _angle(g), torch.rand(2, generator=g)
    first = lattice(cell, shape, spacing=spacing, sigma=RELATIVE_WIDTH * spacing, angle=angle, origin=tuple(origin))
    second = lattice(
        cell, shape, spacing=spacing, sigma=RELATIVE_WIDTH * spacing, angle=angle, origin=tuple(origin + 0.5)
    )
    return joined(first, second, half_plane(_middle(shape, g), angle), 0.5 * spacing)


def stacking_faults(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A close-packed crystal along [110] with stacking faults.

    Each layer is displaced by a third of its period relative to the one above, every fifth in the opposite direction.
    """
    size = max(shape) + 4 * MARGIN_SPACINGS * spacing
    rows = np.arange(-math.ceil(size / spacing), math.ceil(size / spacing))
    offset = np.cumsum(np.where(rows % 5 == 0, -1 / 3, 1 / 3))
    row, column = (part.ravel() for part in np.meshgrid(rows, rows, indexing="ij"))
    positions = np.stack([row * math.sqrt(8) / 3, column + np.repeat(offset, len(rows)) % 1.0], axis=1) * spacing
    return _rotated(positions, spacing, shape, g)


def dodecagonal(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A quasicrystal with twelvefold symmetry: the vertices of a tiling of squares and rhombs."""
    stars = np.array([(math.cos(k * math.pi / 6), math.sin(k * math.pi / 6)) for k in range(6)]).T
    return _projected(stars, spacing, shape, g)


def penrose(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A quasicrystal with tenfold symmetry."""
    stars = np.array([(math.cos(2 * k * math.pi / 5), math.sin(2 * k * math.pi / 5)) for k in range(5)]).T
    return _projected(stars, spacing, shape, g)


def five_fold_twin(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A decahedral particle of a face-centred cubic metal: five twins with a common column, along its axis."""
    turn = _angle(g)
    count = math.ceil(PARTICLE_RADIUS * min(shape) / spacing)
    i, j = (part.ravel() for part in np.meshgrid(np.arange(count + 1), np.arange(count + 1), indexing="ij"))
    i, j = i[(i + j <= count) & (i > 0)], j[(i + j <= count) & (i > 0)]
    positions, amplitudes = [np.zeros((1, 2))], [np.array([1.0])]
    for k in range(5):
        a, b = (math.radians(turn + 72 * (k + n)) for n in (0, 1))
        positions.append(np.outer(i, (math.sin(a), math.cos(a))) + np.outer(j, (math.sin(b), math.cos(b))))
        amplitudes.append(np.sqrt(1 - ((i + j) / (count + 1)) ** 2))
    middle = np.array([(n - 1) / 2 for n in shape])
    at = np.concatenate(positions) * spacing + middle
    return columns_at(at, np.concatenate(amplitudes), RELATIVE_WIDTH * spacing, spacing=spacing)


def line_of_vacancies(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A layer with vacancies of the fainter species along a line, and a few elsewhere."""
    cell = planar_cell("hexagonal", basis=[(0, 0), (1 / 3, 1 / 3)], amplitude=[1.0, 0.5])
    columns = _crystal(cell, spacing, shape, g)
    a = lattice_vectors(cell, columns.spacing)[0, 0]
    angle = math.degrees(math.atan2(float(a[0]), float(a[1])))
    distance = half_plane(tuple((n - 1) / 2 for n in shape), angle)(columns.y, columns.x).abs()
    on_line = (distance < LINE_HALF_WIDTH * spacing) & (columns.species == 1)
    host = removed(columns, on_line & subset(columns, LINE_VACANCY_FRACTION, g))
    return removed(host, subset(host, OTHER_VACANCY_FRACTION, g))


def island_on_a_crystal(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A crystal with an island of a second layer in register, where its columns are twice as bright."""
    columns = _crystal(planar_cell("hexagonal"), spacing, shape, g)
    inside = disk(_middle(shape, g), ISLAND_RADIUS * min(shape))(columns.y, columns.x) > 0
    return replace(columns, amplitude=columns.amplitude * torch.where(inside, 1.0, 0.5))


def atoms_on_a_crystal(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """Single heavy atoms at random positions on a faint crystal."""
    columns = _crystal(
        planar_cell("hexagonal", basis=[(0, 0), (1 / 3, 1 / 3)], amplitude=SUPPORT_AMPLITUDE), spacing, shape, g
    )
    n = max(3, int(ATOM_DENSITY * shape[0] * shape[1] / spacing**2))
    at = torch.rand((n, 2), generator=g).numpy() * np.array(shape)
    return superposed(columns, columns_at(at, 1.0, 0.9 * RELATIVE_WIDTH * spacing, species=2, spacing=spacing))


#: Functions that draw structures, by the name of the structure.
HELD_BACK: dict[str, Callable[[float, Shape, torch.Generator], Columns]] = {
    function.__name__.replace("_", " "): function
    for function in (
        kagome,
        superstructure,
        perovskite_with_oxygen,
        dumbbells_in_a_row,
        antiphase_boundary,
        stacking_faults,
        dodecagonal,
        penrose,
        five_fold_twin,
        line_of_vacancies,
        island_on_a_crystal,
        atoms_on_a_crystal,
    )
}


# --- steps -------------------------------------------------------------------------------------------------------


def _angle(g: torch.Generator) -> float:
    """A random angle, degrees."""
    return 360.0 * float(torch.rand(1, generator=g))


def _middle(shape: Shape, g: torch.Generator) -> tuple[float, float]:
    """A random point (y, x), px, in the inner half of the image."""
    y, x = (0.25 + 0.5 * torch.rand(2, generator=g)).tolist()
    return y * shape[0], x * shape[1]


def _crystal(cell: Cell, spacing: float, shape: Shape, g: torch.Generator, sigma: float = RELATIVE_WIDTH) -> Columns:
    origin = torch.rand(2, generator=g).tolist()
    return lattice(cell, shape, spacing=spacing, sigma=sigma * spacing, angle=_angle(g), origin=(origin[0], origin[1]))


def _rotated(positions: np.ndarray, spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """Columns at positions around the origin, rotated at random and centred in the image; distant ones are left out."""
    turn = math.radians(_angle(g))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    size = np.array(shape)
    moved = positions @ rotation.T + (size - 1) / 2
    near = ((moved > -MARGIN_SPACINGS * spacing) & (moved < size + MARGIN_SPACINGS * spacing)).all(axis=1)
    return columns_at(moved[near], 1.0, RELATIVE_WIDTH * spacing, spacing=spacing)


def _projected(stars: np.ndarray, spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """The vertices of a quasiperiodic tiling, by de Bruijn's method of dual grids.

    ``stars`` are the normals ``(2, n)`` of n grids of parallel lines (N. G. de Bruijn, Proc. K. Ned. Akad. Wet. A 84,
    39 (1981)). The spacing is the shortest distance of vertices, that across the flattest rhomb.
    """
    n = stars.shape[1]
    phase = 0.1 + 0.8 * torch.rand(n, generator=g).double().numpy()
    edge = spacing / (2 * math.sin(math.pi / (2 * n)))
    reach = math.ceil(0.75 * math.hypot(*shape) / edge / (n / 2)) + 2
    lines = np.arange(-reach, reach + 1)
    vertices = []
    for j in range(n):
        for k in range(j + 1, n):
            pair = stars[:, [j, k]].T
            at = np.stack(np.meshgrid(lines - phase[j], lines - phase[k], indexing="ij"), axis=-1).reshape(-1, 2)
            crossing = np.linalg.solve(pair, at.T).T
            index = np.ceil(crossing @ stars + phase)
            for p in (0, 1):
                for q in (0, 1):
                    corner = index.copy()
                    corner[:, j] = np.round(at[:, 0] + phase[j]) + p
                    corner[:, k] = np.round(at[:, 1] + phase[k]) + q
                    vertices.append(corner)
    unique = np.unique(np.concatenate(vertices), axis=0)
    return _rotated(unique @ stars.T * edge, spacing, shape, g)
