"""Structures that the training stream never draws: the scenes of the benchmark that nobody can have learnt by heart.

Each is a function of the spacing in px, the shape and a generator, and gives the columns of one image with heights and
widths of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
#: Width of columns in parts of the spacing.
SIGMA = 0.2
#: How far beyond the frame columns are arranged, in spacings.
BEYOND = 3.0


def kagome(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """Three columns in a hexagonal cell, holes where four would be."""
    cell = planar_cell("hexagonal", basis=[(0.5, 0), (0, 0.5), (0.5, 0.5)], amplitude=[1.0, 0.8, 0.8])
    return _crystal(cell, spacing, shape, g)


def superstructure(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A square crystal in which one of nine columns is another: an ordered alloy."""
    places = [(i / 3, j / 3) for i in range(3) for j in range(3)]
    cell = planar_cell("square", basis=places, amplitude=[0.45] + [1.0] * 8)
    return _crystal(cell, spacing, shape, g)


def perovskite_with_oxygen(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """Two bright sublattices, and a third one of a tenth of their height, off the middle as in a ferroelectric."""
    places = [(0, 0), (0.5, 0.56), (0.5, 0.06), (0.0, 0.56)]
    cell = planar_cell("rectangular", ratio=1.04, basis=places, amplitude=[1.0, 0.5, 0.1, 0.1])
    return _crystal(cell, spacing, shape, g)


def dumbbells_in_a_row(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """Pairs of columns of unlike height, nearer than the probe resolves: GaN or CdTe along [11-20] or [110]."""
    pair = [(0, 0), (0.25, 0.0), (0.5, 0.5), (0.75, 0.5)]
    cell = planar_cell("rectangular", ratio=math.sqrt(0.5), basis=pair, amplitude=[1.0, 0.55, 1.0, 0.55])
    return _crystal(cell, spacing, shape, g, sigma=0.38)


def antiphase_boundary(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """An ordered crystal that is shifted by half a cell on one side of a plane."""
    cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.4])
    angle, origin = _turn(g), torch.rand(2, generator=g)
    first = lattice(cell, shape, spacing=spacing, sigma=SIGMA * spacing, angle=angle, origin=tuple(origin))
    second = lattice(cell, shape, spacing=spacing, sigma=SIGMA * spacing, angle=angle, origin=tuple(origin + 0.5))
    return joined(first, second, half_plane(_middle(shape, g), angle), 0.5 * spacing)


def stacking_faults(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A close-packed crystal along [110]: each row is displaced by a third of its period against the one above, every
    fifth the other way.
    """
    size = max(shape) + 4 * BEYOND * spacing
    rows = np.arange(-math.ceil(size / spacing), math.ceil(size / spacing))
    offset = np.cumsum(np.where(rows % 5 == 0, -1 / 3, 1 / 3))
    row, column = (part.ravel() for part in np.meshgrid(rows, rows, indexing="ij"))
    places = np.stack([row * math.sqrt(8) / 3, column + np.repeat(offset, len(rows)) % 1.0], axis=1) * spacing
    return _turned(places, spacing, shape, g)


def dodecagonal(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A quasicrystal with twelvefold symmetry: the vertices of squares and rhombs, not periodic."""
    stars = np.array([(math.cos(k * math.pi / 6), math.sin(k * math.pi / 6)) for k in range(6)]).T
    return _projected(stars, spacing, shape, g)


def penrose(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A quasicrystal with tenfold symmetry."""
    stars = np.array([(math.cos(2 * k * math.pi / 5), math.sin(2 * k * math.pi / 5)) for k in range(5)]).T
    return _projected(stars, spacing, shape, g)


def five_fold_twin(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A particle of five crystals that share one column, seen along it: a decahedron of a face-centred metal."""
    turn = _turn(g)
    count = math.ceil(0.42 * min(shape) / spacing)
    i, j = (part.ravel() for part in np.meshgrid(np.arange(count + 1), np.arange(count + 1), indexing="ij"))
    i, j = i[(i + j <= count) & (i > 0)], j[(i + j <= count) & (i > 0)]
    places, heights = [np.zeros((1, 2))], [np.array([1.0])]
    for k in range(5):
        a, b = (math.radians(turn + 72 * (k + n)) for n in (0, 1))
        places.append(np.outer(i, (math.sin(a), math.cos(a))) + np.outer(j, (math.sin(b), math.cos(b))))
        heights.append(np.sqrt(1 - ((i + j) / (count + 1)) ** 2))
    middle = np.array([(n - 1) / 2 for n in shape])
    return columns_at(
        np.concatenate(places) * spacing + middle, np.concatenate(heights), SIGMA * spacing, spacing=spacing
    )


def line_of_vacancies(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A layer from which half the columns along a line are gone, and a few elsewhere."""
    cell = planar_cell("hexagonal", basis=[(0, 0), (1 / 3, 1 / 3)], amplitude=[1.0, 0.5])
    columns = _crystal(cell, spacing, shape, g)
    a = lattice_vectors(cell, columns.spacing)[0, 0]
    angle = math.degrees(math.atan2(float(a[0]), float(a[1])))
    away = half_plane(tuple((n - 1) / 2 for n in shape), angle)(columns.y, columns.x).abs()
    row = (away < 1.2 * spacing) & (columns.species == 1) & subset(columns, 0.5, g)
    host = removed(columns, row)
    return removed(host, subset(host, 0.02, g))


def island_on_a_crystal(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """A second layer that covers a part of the first, in register with it: its columns are twice as bright there."""
    columns = _crystal(planar_cell("hexagonal"), spacing, shape, g)
    columns.amplitude *= 0.5
    inside = disk(_middle(shape, g), 0.35 * min(shape))(columns.y, columns.x) > 0
    columns.amplitude = torch.where(inside, 2 * columns.amplitude, columns.amplitude)
    return columns


def atoms_on_a_crystal(spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """Single heavy atoms that sit anywhere on a dim crystal."""
    columns = _crystal(planar_cell("hexagonal", basis=[(0, 0), (1 / 3, 1 / 3)], amplitude=0.35), spacing, shape, g)
    n = max(3, int(0.02 * shape[0] * shape[1] / spacing**2))
    at = torch.rand((n, 2), generator=g).numpy() * np.array(shape)
    return superposed(columns, columns_at(at, 1.0, 0.9 * SIGMA * spacing, species=2, spacing=spacing))


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


def _turn(g: torch.Generator) -> float:
    return 360.0 * float(torch.rand(1, generator=g))


def _middle(shape: Shape, g: torch.Generator) -> tuple[float, float]:
    """A place in the inner half of the image."""
    y, x = (0.25 + 0.5 * torch.rand(2, generator=g)).tolist()
    return y * shape[0], x * shape[1]


def _crystal(cell: Cell, spacing: float, shape: Shape, g: torch.Generator, sigma: float = SIGMA) -> Columns:
    origin = torch.rand(2, generator=g).tolist()
    return lattice(cell, shape, spacing=spacing, sigma=sigma * spacing, angle=_turn(g), origin=(origin[0], origin[1]))


def _turned(places: np.ndarray, spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """Places around the origin, turned, in the middle of an image, those near the frame."""
    turn = math.radians(_turn(g))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    size = np.array(shape)
    moved = places @ rotation.T + (size - 1) / 2
    near = ((moved > -BEYOND * spacing) & (moved < size + BEYOND * spacing)).all(axis=1)
    return columns_at(moved[near], 1.0, SIGMA * spacing, spacing=spacing)


def _projected(stars: np.ndarray, spacing: float, shape: Shape, g: torch.Generator) -> Columns:
    """The vertices of de Bruijn's dual of as many grids of parallel lines as there are stars, ``(2, n)``.

    N. G. de Bruijn, Proc. K. Ned. Akad. Wet. A 84, 39 (1981). Vertices of flat rhombs are nearer to each other than
    the others; the spacing is that of the nearest.
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
    return _turned(unique @ stars.T * edge, spacing, shape, g)
