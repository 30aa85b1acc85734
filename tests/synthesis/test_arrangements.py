from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from strategies import seeds, shapes

from stemkit.synthesis.arrangements import Cell, keep_near_frame, lattice, nearest_distance, random_cell


def crystals(spacing: float, angle: float, shape: tuple[int, int], seed: int, n: int = 6, margin: float = 40.0):
    g = torch.Generator().manual_seed(seed)
    cell = random_cell(n, g)
    return lattice(cell, torch.full((n,), spacing), torch.full((n,), angle), shape, g, margin), cell


@settings(max_examples=25)
@given(st.floats(5.0, 32.0), st.floats(0, 2 * math.pi), shapes(16, 90), seeds)
def test_nearest_neighbours_are_spacing_apart(spacing, angle, shape, seed):
    columns, _ = crystals(spacing, angle, shape, seed, margin=2.5 * spacing)
    for k in range(6):
        present = columns.present[k].numpy()
        positions = torch.stack([columns.y[k], columns.x[k]], dim=1).numpy()[present]
        distance = cKDTree(positions).query(positions, k=2)[0][:, 1]
        assert distance.min() == pytest.approx(spacing, rel=1e-3)


@settings(max_examples=25)
@given(st.floats(7.0, 32.0), st.floats(0, 2 * math.pi), shapes(16, 90), seeds)
def test_a_crystal_fills_the_frame(spacing, angle, shape, seed):
    margin = 2.5 * spacing
    columns, cell = crystals(spacing, angle, shape, seed, margin=margin)
    scale = (spacing / nearest_distance(cell)).double() ** 2
    density = cell.occupied.sum(dim=1) / (torch.linalg.det(cell.vectors.double()).abs() * scale)
    n_y, n_x = (n - 1 + 2 * margin for n in shape)
    expected = (density * n_y * n_x).numpy()
    found = columns.present.sum(dim=1).numpy()
    # what is cut at the border is a fraction of a cell's row along it
    longest = (torch.linalg.norm(cell.vectors, dim=-1).sum(dim=1) * scale.sqrt()).numpy()
    assert (np.abs(found - expected) <= density.numpy() * 2 * (n_y + n_x) * longest).all()
    assert (found > 0.5 * expected).all()


@settings(max_examples=20)
@given(st.floats(6.0, 20.0), st.floats(0.0, 30.0), shapes(16, 60), seeds)
def test_no_column_lies_beyond_the_margin(spacing, margin, shape, seed):
    columns, _ = crystals(spacing, 0.4, shape, seed, margin=40.0)
    cut = keep_near_frame(columns, shape, margin)
    for axis, n in (("y", shape[0]), ("x", shape[1])):
        position = getattr(cut, axis)[cut.present]
        assert bool(((position > -margin) & (position < n - 1 + margin)).all())
    inside = columns.present.clone()
    for axis, n in (("y", shape[0]), ("x", shape[1])):
        position = getattr(columns, axis)
        inside &= (position > -margin) & (position < n - 1 + margin)
    assert cut.present.sum(dim=1).tolist() == inside.sum(dim=1).tolist()
    assert cut.y.shape[1] == max(int(inside.sum(dim=1).max()), 1)


def test_nearest_distance_of_known_lattices():
    square = torch.eye(2)
    hexagonal = torch.tensor([[0.0, 1.0], [math.sqrt(3) / 2, 0.5]])
    basis = torch.tensor([[[0.0, 0.0], [0.5, 0.5]], [[0.0, 0.0], [1 / 3, 1 / 3]], [[0.0, 0.0], [0.5, 0.5]]])
    occupied = torch.tensor([[True, True], [True, True], [True, False]])
    cell = Cell(torch.stack([square, hexagonal, square]), basis, occupied)
    found = nearest_distance(cell).tolist()
    assert found == pytest.approx([math.sqrt(0.5), 1 / math.sqrt(3), 1.0], rel=1e-6)


@given(seeds)
@settings(max_examples=20)
def test_cells_have_one_to_four_sites_and_are_not_flat(seed):
    cell = random_cell(50, torch.Generator().manual_seed(seed))
    n_sites = cell.occupied.sum(dim=1)
    assert bool(cell.occupied[:, 0].all())
    assert set(n_sites.tolist()) <= {1, 2, 3, 4}
    assert len(set(n_sites.tolist())) > 1
    assert float(torch.linalg.det(cell.vectors).abs().min()) > 0.8
    assert float(nearest_distance(cell).min()) > 0.2
