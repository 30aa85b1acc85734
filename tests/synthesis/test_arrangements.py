from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from strategies import seeds, shapes

from stemkit.synthesis import (
    Cell,
    Columns,
    Defect,
    columns_at,
    cropped,
    crystal_cell,
    disk,
    dislocated,
    displaced_randomly,
    facets,
    half_plane,
    inserted,
    inside,
    joined,
    keep_near_frame,
    lattice,
    lattice_vectors,
    mirrored,
    nearest,
    nearest_site_distance,
    planar_cell,
    poisson_disk_columns,
    projected_columns,
    random_cell,
    removed,
    shifted,
    stacked,
    strained,
    subset,
    substituted,
    superposed,
    uneven,
)
from stemkit.synthesis.arrangements.cells import LATTICES


def crystals(spacing: float, angle: float, shape: tuple[int, int], seed: int, n: int = 6, margin: float = 40.0):
    g = torch.Generator().manual_seed(seed)
    cell = random_cell(n, g)
    return lattice(cell, shape, spacing=torch.full((n,), spacing), angle=angle, margin=margin), cell


@settings(max_examples=25)
@given(st.floats(5.0, 32.0), st.floats(0, 360), shapes(16, 90), seeds)
def test_nearest_neighbours_have_the_spacing(spacing, angle, shape, seed):
    columns, _ = crystals(spacing, angle, shape, seed, margin=2.5 * spacing)
    for k in range(6):
        present = columns.present[k].numpy()
        positions = torch.stack([columns.y[k], columns.x[k]], dim=1).numpy()[present]
        distance = cKDTree(positions).query(positions, k=2)[0][:, 1]
        assert distance.min() == pytest.approx(spacing, rel=1e-3)


@settings(max_examples=25)
@given(st.floats(7.0, 32.0), st.floats(0, 360), shapes(16, 90), seeds)
def test_a_crystal_covers_the_image(spacing, angle, shape, seed):
    margin = 2.5 * spacing
    columns, cell = crystals(spacing, angle, shape, seed, margin=margin)
    scale = (spacing / nearest_site_distance(cell)).double() ** 2
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
    alike = torch.ones(3, 2)
    cell = Cell(torch.stack([square, hexagonal, square]), basis, occupied, alike, alike)
    found = nearest_site_distance(cell).tolist()
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
    assert float(nearest_site_distance(cell).min()) > 0.2


def there(columns: Columns, image: int = 0) -> np.ndarray:
    """Positions of the columns that are present, ``(n, 2)``."""
    return columns.places[image][columns.present[image]].double().numpy()


def nearest_of(columns: Columns, image: int = 0) -> np.ndarray:
    places = there(columns, image)
    return cKDTree(places).query(places, k=2)[0][:, 1]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SQUARE = planar_cell("square")


# --- cells -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LATTICES)
@given(st.floats(1.05, 2.5), st.floats(50.0, 85.0), st.floats(4.0, 20.0))
@settings(max_examples=10)
def test_planar_lattices_have_their_symmetry(name, ratio, angle, spacing):
    fixed, equal, centered = LATTICES[name]
    cell = planar_cell(name, ratio=1.0 if equal else ratio, angle=angle)
    a, b = cell.vectors[0].numpy()
    assert np.hypot(*b) / np.hypot(*a) == pytest.approx(1.0 if equal else ratio)
    between = math.degrees(math.acos(a @ b / np.hypot(*a) / np.hypot(*b)))
    assert between == pytest.approx(angle if fixed is None else fixed)
    assert cell.basis.shape[1] == (2 if centered else 1)
    columns = lattice(cell, (90, 90), spacing=spacing)
    assert nearest_of(columns).min() == pytest.approx(spacing, rel=1e-9)
    # half a turn leaves every planar lattice as it is
    turned = 89.0 - there(columns)
    assert cKDTree(there(columns)).query(turned[((turned > 0) & (turned < 89)).all(1)])[0].max() < 1e-8


def test_a_base_of_several_columns():
    cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.4], width=[1.0, 1.5])
    columns = lattice(cell, (60, 60), pixel_size=0.1, sigma=2.0)
    assert nearest_of(columns).min() == pytest.approx(10 / math.sqrt(2))
    for species, height, width in ((0, 1.0, 2.0), (1, 0.4, 3.0)):
        ours = columns.species == species
        assert columns.amplitude[ours].unique().tolist() == [height]
        assert columns.sigma[ours].unique().tolist() == pytest.approx([width])
    # one at the middle of the image
    assert np.abs(there(columns) - 29.5).max(axis=1).min() < 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cubic",), "name must be one of 'square'"),
        (("rectangular", {"ratio": -1.0}), "ratio must be a positive number"),
        (("square", {"ratio": 2.0}), "ratio must be 1 in a square lattice"),
        (("oblique", {"angle": 200.0}), "angle must be between 0 and 180"),
        (("square", {"basis": [(0, 0)], "amplitude": [1.0, 2.0]}), "amplitude must be positive, one number or one for"),
        (("square", {"basis": [0.0, 0.5, 0.3]}), "basis must be of shape"),
    ],
)
def test_cells_that_are_refused(arguments, message):
    name, *options = arguments
    with pytest.raises(ValueError, match=message):
        planar_cell(name, **(options[0] if options else {}))


def test_a_lattice_needs_one_scale():
    with pytest.raises(ValueError, match="either spacing or pixel_size"):
        lattice(SQUARE, (32, 32))
    with pytest.raises(ValueError, match="spacing must be positive"):
        lattice(SQUARE, (32, 32), spacing=-3.0)
    with pytest.raises(ValueError, match="that are not along one line"):
        Cell.single([(0, 1), (0, 2)], [(0, 0)])


@given(st.floats(0, 360), st.floats(5.0, 15.0))
@settings(max_examples=20)
def test_a_turned_crystal_is_the_crystal_turned(angle, spacing):
    cell = planar_cell("oblique", ratio=1.3, basis=[(0, 0), (0.3, 0.4)])
    plain = lattice(cell, (80, 80), spacing=spacing, margin=60.0)
    turned = lattice(cell, (80, 80), spacing=spacing, angle=angle, margin=10.0)
    turn = math.radians(angle)
    y, x = (there(plain) - 39.5).T
    # clockwise as it is displayed: x turns towards y
    expected = np.stack([math.cos(turn) * y + math.sin(turn) * x, math.cos(turn) * x - math.sin(turn) * y], axis=1)
    assert cKDTree(expected + 39.5).query(there(turned))[0].max() < 1e-6


# --- crystals ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def build():
    return pytest.importorskip("ase.build")


def test_silicon_along_110_is_dumbbells(build):
    cell = crystal_cell(build.bulk("Si", cubic=True), (1, 1, 0))
    # two dumbbells in a cell of a / sqrt(2) by a, atoms a / 4 apart
    assert float(nearest_site_distance(cell)) == pytest.approx(0.543 / 4, rel=1e-3)
    assert cell.basis.shape[1] == 4
    assert float(torch.linalg.det(cell.vectors).abs()) == pytest.approx(0.543**2 / math.sqrt(2), rel=1e-3)
    columns = lattice(cell, (128, 128), pixel_size=0.01)
    places = there(columns)
    inner = ((places > 0) & (places < 127)).all(axis=1)
    near = cKDTree(places).query(places[inner], k=3)[0]
    assert near[:, 1] == pytest.approx(13.575, abs=0.001)
    assert near[:, 2].min() > 23


@pytest.mark.parametrize(
    ("axis", "spacing"),
    [((0, 0, 1), 1 / 2), ((1, 1, 0), math.sqrt(3 / 8)), ((1, 1, 1), 1 / math.sqrt(6)), ((-2, 0, 0), 1 / 2)],
)
def test_gold_along_its_axes(build, axis, spacing):
    cell = crystal_cell(build.bulk("Au", cubic=True, a=4.08), axis)
    assert float(nearest_site_distance(cell)) == pytest.approx(0.408 * spacing, rel=1e-6)
    assert cell.amplitude.unique().tolist() == [1.0]


@given(st.tuples(*[st.integers(-4, 4)] * 3).filter(any))
@settings(max_examples=40)
def test_density_of_any_zone_axis(build, axis):
    # atoms per area seen along an axis, times the axis' length, is the crystal's density
    atoms = build.bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    cell = crystal_cell(atoms, axis)
    common = math.gcd(*axis)
    length = np.linalg.norm(np.array(axis) / common @ np.asarray(atoms.cell)) / 10
    area = float(torch.linalg.det(cell.vectors[0]).abs())
    assert area * length == pytest.approx(atoms.cell.volume / 1000, rel=1e-6)
    assert float(cell.amplitude.max()) == 1.0


def test_strontium_titanate(build):
    crystal = pytest.importorskip("ase.spacegroup").crystal
    atoms = crystal(
        ["Sr", "Ti", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[3.905] * 3 + [90] * 3
    )
    cell = crystal_cell(atoms, (0, 0, 1), power=1.7)
    heights = np.sort(cell.amplitude[0].numpy())[::-1]
    expected = np.array([38**1.7, 22**1.7 + 8**1.7, 8**1.7, 8**1.7])
    assert heights == pytest.approx(expected / expected[0])
    atoms.info["occupancy"] = {"0": {"Sr": 0.5, "Ba": 0.5}}
    mixed = crystal_cell(atoms, (0, 0, 1)).amplitude[0].numpy()
    expected[0] = 0.5 * 38**1.7 + 0.5 * 56**1.7
    assert np.sort(mixed)[::-1] == pytest.approx(expected / expected[0])


def test_crystals_that_are_refused(build):
    with pytest.raises(ValueError, match="atoms must be periodic"):
        crystal_cell(build.molecule("H2O"))
    with pytest.raises(ValueError, match="zone_axis must be three integers"):
        crystal_cell(build.bulk("Au"), (0, 0, 0))
    with pytest.raises(ValueError, match="zone_axis must be three integers"):
        crystal_cell(build.bulk("Au"), (0.5, 0, 1))


def test_a_particle_of_atoms(build):
    atoms = build.bulk("Au", cubic=True, a=4.08) * (3, 3, 3)
    atoms.pbc = False
    columns = projected_columns(atoms, (128, 128), 0.02, sigma=0.04)
    places = there(columns)
    # 9 cells with 2 columns of 3 atoms, and the two face atoms between, which are columns of 3, too
    assert len(places) == 36
    assert nearest_of(columns) == pytest.approx(np.full(36, 10.2))
    assert places.mean(axis=0) == pytest.approx([63.5, 63.5])
    assert columns.sigma.unique().tolist() == pytest.approx([2.0])
    assert columns.amplitude.unique().tolist() == pytest.approx([1.0])
    assert float(columns.spacing) == pytest.approx(10.2)


# --- without a lattice -------------------------------------------------------------------------------------------


@given(st.floats(2.5, 25.0), shapes(30, 90), seeds)
@settings(max_examples=20)
def test_poisson_disk_columns_keep_their_distance_and_cover_the_area(spacing, shape, seed):
    columns = poisson_disk_columns(spacing, shape, generator(seed))
    places = there(columns)
    assert nearest_of(columns).min() >= spacing * (1 - 1e-5)
    # no hole in which another column has room, or very few
    rows, cols = np.meshgrid(*(np.arange(0.0, n) for n in shape), indexing="ij")
    away = cKDTree(places).query(np.stack([rows.ravel(), cols.ravel()], axis=1))[0]
    assert (away > spacing).mean() < 0.02
    assert away.max() < 1.6 * spacing


def test_poisson_disk_columns_of_several_spacings_and_seeds():
    spacing = torch.tensor([5.0, 11.0, 20.0])
    columns = poisson_disk_columns(spacing, (100, 120), generator(3))
    for k in range(3):
        assert nearest_of(columns, k).min() >= float(spacing[k]) * (1 - 1e-5)
    again = poisson_disk_columns(spacing, (100, 120), generator(3))
    assert torch.equal(columns.places, again.places)


# --- defects -----------------------------------------------------------------------------------------------------


def crystal_of(n: int = 1, spacing: float = 10.0) -> Columns:
    one = lattice(SQUARE, (90, 100), spacing=spacing)
    return stacked([one] * n)


@given(st.lists(st.tuples(st.floats(5, 80), st.floats(5, 90)), min_size=1, max_size=5))
@settings(max_examples=20)
def test_vacancies_are_at_the_requested_positions(at):
    columns = crystal_of()
    chosen = nearest(columns, at)
    damaged = removed(columns, chosen)
    gone = columns.places[0][(damaged.defect == Defect.VACANCY)[0]].numpy()
    assert len(gone) == int(chosen.sum()) == int(columns.present.sum() - damaged.present.sum())
    tree = cKDTree(there(columns))
    expected = {tuple(there(columns)[k]) for k in tree.query(at)[1]}
    assert {tuple(p) for p in gone} == expected


@given(st.floats(0.0, 1.0), seeds)
@settings(max_examples=20)
def test_some_columns_are_a_part_of_all(fraction, seed):
    columns = crystal_of(20)
    chosen = subset(columns, fraction, generator(seed))
    n = int(columns.present.sum())
    assert abs(int(chosen.sum()) - fraction * n) <= 6 * math.sqrt(n * fraction * (1 - fraction)) + 1e-9
    assert bool((columns.present | ~chosen).all())


def test_a_cluster_of_another_kind():
    columns = crystal_of()
    chosen = inside(columns, (44.5, 49.5), 15.0)
    changed = substituted(columns, chosen, amplitude=0.5, width=1.2)
    distance = np.hypot(*(there(columns) - (44.5, 49.5)).T)
    assert int(chosen.sum()) == int((distance <= 15).sum()) > 4
    assert changed.amplitude[chosen].unique().tolist() == [0.5]
    assert changed.sigma[chosen].unique().tolist() == pytest.approx([2.4])
    assert changed.species[chosen].unique().tolist() == [1]
    assert changed.amplitude[~chosen].unique().tolist() == [1.0]
    assert bool((changed.defect[chosen] == Defect.SUBSTITUTION).all())


def test_columns_off_their_sites_and_between_them():
    columns = crystal_of()
    chosen = nearest(columns, (44.5, 49.5))
    moved = shifted(columns, chosen, 1.5, -2.0)
    change = (moved.places - columns.places)[0].numpy()
    assert change[chosen[0].numpy()].tolist() == [[1.5, -2.0]]
    assert np.abs(change[~chosen[0].numpy()]).max() == 0
    more = inserted(columns, [(39.5, 44.5)], amplitude=0.6, sigma=1.5)
    assert int(more.present.sum()) == int(columns.present.sum()) + 1
    new = more.defect == Defect.INTERSTITIAL
    assert more.places[new].tolist() == [[39.5, 44.5]]
    assert more.amplitude[new].tolist() == [0.6]


# --- displacements -----------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-0.05, 0.05), min_size=4, max_size=4))
@settings(max_examples=20)
def test_strain_has_the_requested_value(numbers):
    columns = crystal_of()
    gradient = np.array(numbers).reshape(2, 2)
    moved = strained(columns, gradient, about=(44.5, 49.5))
    r = there(columns) - (44.5, 49.5)
    np.testing.assert_allclose(there(moved) - (44.5, 49.5), r + r @ gradient.T, atol=1e-9)


@given(st.sampled_from([(0.0, 10.0), (10.0, 0.0), (0.0, -10.0), (10.0, 10.0)]), st.floats(0.0, 0.45))
@settings(max_examples=20)
def test_burgers_circuit(burgers, poisson):
    # the displacement grows by the Burgers vector around the core, and nowhere else
    turn = np.linspace(0, 2 * np.pi, 2001)
    for center, closure in (((50.0, 50.0), 1.0), ((20.0, 80.0), 0.0)):
        circle = np.stack([center[0] + 9 * np.sin(turn), center[1] + 9 * np.cos(turn)], axis=1)
        columns = columns_at(circle)
        moved = dislocated(columns, (50.0, 50.0), burgers, poisson)
        steps = np.diff((moved.places - columns.places)[0].numpy(), axis=0)
        jumps = np.hypot(*steps.T) > 1.0
        assert jumps.sum() == closure
        np.testing.assert_allclose(steps[~jumps].sum(axis=0), np.array(burgers) * closure, atol=0.15)
    # beyond the core each column has its neighbours
    crystal = dislocated(crystal_of(), (44.0, 49.0), burgers, poisson)
    places = there(crystal)
    far = np.hypot(*(places - (44.0, 49.0)).T) > 25
    assert cKDTree(places).query(places[far], k=2)[0][:, 1].min() > 7.5


def test_no_burgers_vector_no_dislocation():
    columns = crystal_of()
    assert torch.equal(dislocated(columns, (44.0, 49.0), (0.0, 0.0)).places, columns.places)


def test_disorder_has_its_rms():
    columns = crystal_of(50)
    moved = displaced_randomly(columns, 0.7, generator())
    change = (moved.places - columns.places).numpy()
    assert change.std() == pytest.approx(0.7, rel=0.03)
    assert np.abs(change).max() <= 2.5 * 0.7 + 1e-9


# --- regions -----------------------------------------------------------------------------------------------------


def test_regions_are_distances_from_their_border():
    y, x = torch.tensor([[10.0, 30.0, 20.0]]), torch.tensor([[10.0, 5.0, 40.0]])
    below = half_plane((20.0, 0.0), 0.0)(y, x)
    assert below.tolist() == [[-10.0, 10.0, 0.0]]
    left = half_plane((0.0, 20.0), 90.0)(y, x)
    assert left[0].tolist() == pytest.approx([10.0, 15.0, -20.0], abs=1e-5)
    assert disk((10.0, 10.0), 5.0)(y, x)[0, 0] == 5.0
    square = facets((0.0, 0.0), 20.0, sides=4)(y, x)
    assert square[0].tolist() == pytest.approx([10.0, -10.0, -20.0], abs=1e-5)
    with pytest.raises(ValueError, match="sides must be an integer of at least 3"):
        facets((0, 0), 1.0, sides=2)


@given(st.floats(0, 360), st.floats(0.3, 1.0), st.floats(5.0, 40.0))
@settings(max_examples=20)
def test_a_grain_boundary_keeps_its_gap(angle, gap, twist):
    spacing = 9.0
    first, second = (lattice(planar_cell("hexagonal"), (90, 90), spacing=spacing, angle=a) for a in (0.0, twist))
    both = joined(first, second, half_plane((44.0, 46.0), angle), gap * spacing)
    assert nearest_of(both).min() >= gap * spacing - 1e-6
    distance = half_plane((44.0, 46.0), angle)(both.y, both.x)
    n = first.y.shape[1]
    assert bool((distance[:, :n][both.present[:, :n]] > 0).all())
    assert bool((distance[:, n:][both.present[:, n:]] < 0).all())
    # columns are lost only next to the border
    lost = ~both.present & (distance.abs() > gap * spacing)
    assert bool(((distance[:, :n] < 0) | ~lost[:, :n]).all())


@given(st.floats(0, 360), st.tuples(st.floats(20, 60), st.floats(20, 60)))
@settings(max_examples=20)
def test_a_mirror_image_keeps_the_mirror(angle, through):
    columns = crystal_of()
    plane = half_plane(through, angle)
    image = mirrored(columns, through, angle)
    np.testing.assert_allclose(plane(image.y, image.x), -plane(columns.y, columns.x), atol=1e-9)
    twice = mirrored(image, through, angle)
    np.testing.assert_allclose(twice.places, columns.places, atol=1e-9)
    middle = ((image.places + columns.places) / 2).unbind(-1)
    np.testing.assert_allclose(plane(*middle), 0, atol=1e-9)


def test_a_twin_shares_the_columns_of_its_plane():
    cell = planar_cell("oblique", angle=75.0)
    crystal = lattice(cell, (120, 120), spacing=10.0)
    a = lattice_vectors(cell, torch.tensor([10.0], dtype=torch.float64))[0, 0]
    angle = math.degrees(math.atan2(float(a[0]), float(a[1])))
    twin = joined(crystal, mirrored(crystal, (59.5, 59.5), angle), half_plane((57.5, 59.5), angle))
    assert nearest_of(twin).min() == pytest.approx(10.0)
    places = there(twin)
    inner = places[((places > 5) & (places < 114)).all(axis=1)]
    reflected = inner * (-1, 1) + (119, 0)
    assert cKDTree(places).query(reflected)[0].max() < 1e-9
    assert (np.abs(inner[:, 0] - 59.5) < 1e-9).sum() > 8


def test_particles_have_an_edge_and_a_thickness():
    columns = crystal_of()
    region = disk((44.5, 49.5), 30.0)
    particle = cropped(columns, region)
    far = np.hypot(*(there(particle) - (44.5, 49.5)).T)
    assert far.max() < 30
    assert len(far) == (np.hypot(*(there(columns) - (44.5, 49.5)).T) < 30).sum()
    thick = uneven(particle, region(columns.y, columns.x) / 30)
    np.testing.assert_allclose(thick.amplitude[particle.present], 1 - far / 30, atol=1e-9)


def test_layers_lie_on_each_other():
    first, second = (lattice(planar_cell("hexagonal"), (60, 60), spacing=8.0, angle=a) for a in (0.0, 7.0))
    both = superposed(first, second)
    assert len(there(both)) == len(there(first)) + len(there(second))


def test_positions_that_are_refused():
    with pytest.raises(ValueError, match="positions must be of shape"):
        columns_at([1.0, 2.0])


def test_the_nearest_column_of_a_flat_cell_is_far_along_it():
    cell = planar_cell("oblique", ratio=3.0, angle=10.0)
    columns = lattice(cell, (60, 60), pixel_size=0.1)
    assert nearest_of(columns).min() == pytest.approx(10 * float(nearest_site_distance(cell)), rel=1e-6)


@pytest.mark.parametrize("origin", [(8.0, 0.0), (-3.5, 7.25)])
def test_an_origin_far_away_is_one_in_the_cell(origin):
    near = lattice(SQUARE, (64, 64), spacing=8.0, origin=(origin[0] % 1, origin[1] % 1))
    far = lattice(SQUARE, (64, 64), spacing=8.0, origin=origin)
    torch.testing.assert_close(far.places, near.places)


def test_no_columns_have_no_defects():
    nobody = columns_at(np.empty((0, 2)), spacing=10.0)
    assert nearest(nobody, (3.0, 4.0)).shape == (1, 0)
    assert len(there(inserted(nobody, [(5.0, 6.0)], 1.0, 2.0))) == 1
    assert len(there(substituted(nobody, nobody.present, 0.5))) == 0
