"""Reduced cells, several lattices, refusals of chance, references and the errors of lengths."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from strategies import seeds

from stemkit.structure import fit_lattice, fit_lattices, missing_sites, sublattices, weak_columns
from stemkit.structure.bases import matching_basis, reduced_basis, reference_basis
from stemkit.structure.strain import strain, strain_map

A = 0.39  # nm
angles = st.floats(0, math.pi)


def turned(angle):
    """Rows ``(y, x)`` times this are turned from +x towards +y."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def crystal(vectors, half, sites=((0.0, 0.0),), at=(0.0, 0.0)):
    """Positions ``(n, 2)`` in a square field of width ``2 half``, and the site of each."""
    reach = int(3 * half / min(np.hypot(*reduced_basis(vectors).T))) + 3
    cell = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    whole = np.concatenate([(cell + np.array(s)) @ vectors for s in sites]) + at
    inside = (np.abs(whole) < half).all(axis=1)
    return whole[inside], np.repeat(np.arange(len(sites)), len(cell))[inside]


def frame(positions, **columns):
    return pd.DataFrame({"y": positions[:, 0], "x": positions[:, 1], **columns})


def shortest_vectors(vectors):
    """Lengths of the two shortest independent vectors, by trying all small combinations."""
    whole = np.array([v for v in itertools.product(range(-6, 7), repeat=2) if v != (0, 0)]) @ vectors
    whole = whole[np.argsort(np.hypot(*whole.T))]
    first = whole[0]
    across = np.abs(first[0] * whole[:, 1] - first[1] * whole[:, 0])
    second = whole[np.argmax(across > 1e-6 * abs(first @ first))]
    return np.hypot(*first), np.hypot(*second)


#: Unit cells of the five plane lattices, by the ratio of the lengths and a number between 0 and 1.
PLANE_LATTICES = {
    "oblique": lambda q, t: np.array([[0, 1.0], [q * math.sin(1.1 + 0.35 * t), q * math.cos(1.1 + 0.35 * t)]]),
    "rectangular": lambda q, t: np.array([[0, 1.0], [q, 0]]),
    "centred rectangular": lambda q, t: np.array([[0, 1.0], [q * 0.9, 0.5]]),
    "square": lambda q, t: np.array([[0, 1.0], [1.0, 0]]),
    "hexagonal": lambda q, t: np.array([[0, 1.0], [math.sqrt(0.75), 0.5]]),
}
cells = st.builds(
    lambda kind, q, t, angle: PLANE_LATTICES[kind](q, t) @ turned(angle),
    st.sampled_from(sorted(PLANE_LATTICES)),
    st.floats(1.0, 3.3),
    st.floats(0, 1),
    angles,
)
UNIMODULAR = [
    np.array(m).reshape(2, 2) for m in itertools.product(range(-2, 3), repeat=4) if abs(m[0] * m[3] - m[1] * m[2]) == 1
]


# --- reduced cells -----------------------------------------------------------------------------------------------


@given(cells, st.sampled_from(UNIMODULAR))
@settings(max_examples=200)
def test_reduced_vectors_are_the_shortest_of_the_lattice(cell, change):
    a, b = reduced_basis(change @ cell)
    first, second = shortest_vectors(cell)
    lengths = np.hypot(*np.array([a, b]).T)
    # equal lengths may come in any order, and an obtuse angle is preferred where it costs nothing
    assert sorted(lengths) == pytest.approx([first, second], rel=0.041)
    assert lengths[0] <= 1.041 * lengths[1]
    whole = np.array([a, b]) @ np.linalg.inv(cell)
    assert whole == pytest.approx(np.round(whole), abs=1e-6)
    assert abs(round(np.linalg.det(whole))) == 1
    assert a.sum() >= -1e-9
    assert a[1] * b[0] - a[0] * b[1] > 0  # clockwise on the screen
    assert 59 < math.degrees(math.acos(a @ b / np.prod(lengths))) < 122


@given(cells, st.sampled_from(UNIMODULAR))
@settings(max_examples=100)
def test_every_basis_of_a_lattice_has_the_same_reduced_one(cell, change):
    first, second = reduced_basis(cell), reduced_basis(change @ cell)
    # a lattice on the border between two choices may go either way
    ties = [abs(first[0].sum()) < 1e-6, abs(abs(first[0, 1]) - abs(first[1, 1])) < 1e-6]
    assume(not any(ties))
    assert second == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize("lengths", [(0.39, 1.20), (1.17, 0.385)])
def test_a_long_cell_is_not_hexagonal(lengths):
    for angle in np.linspace(0.2, 0.7, 6):
        positions, _ = crystal(np.diag(lengths)[:, ::-1] @ turned(angle), 5.0)
        lattice = fit_lattice(frame(positions))
        assert lattice.lengths == pytest.approx(sorted(lengths), rel=1e-6)
        assert lattice.angle == pytest.approx(90, abs=1e-6)


@given(cells, seeds, st.integers(1, 3), st.floats(0, 0.04), st.floats(0, 0.1))
@settings(max_examples=25)
def test_the_reduced_cell_is_found_with_its_sites(cell, seed, n_sites, noise, missing):
    rng = np.random.default_rng(seed)
    vectors = A * cell
    area = abs(np.linalg.det(vectors))
    sites = np.vstack([[0, 0], rng.random((n_sites - 1, 2))])
    apart = ((sites[:, None] - sites)[:, :, None] + np.mgrid[-1:2, -1:2].reshape(2, -1).T) @ vectors
    distances = np.hypot(apart[..., 0], apart[..., 1])
    nearest = distances[distances > 1e-9].min()
    assume(nearest > 0.45 * math.sqrt(area / n_sites))
    assume(not nearly_smaller(sites, vectors, 0.5 * nearest))
    positions, site = crystal(vectors, math.sqrt(area * rng.uniform(60, 300) / n_sites) / 2, sites)
    kept = rng.random(len(positions)) >= missing
    positions, site = positions[kept], site[kept]
    positions = positions + rng.normal(0, noise * nearest, positions.shape)
    lattice = fit_lattice(frame(positions))
    change = lattice.vectors @ np.linalg.inv(vectors)
    assert abs(round(np.linalg.det(change))) == 1
    assert change == pytest.approx(np.round(change), abs=0.04)
    assert sorted(lattice.lengths) == pytest.approx(shortest_vectors(lattice.vectors), rel=0.041)
    assert 58 < lattice.angle < 123
    assert len(lattice.sites) == n_sites
    placed = lattice.site >= 0
    assert placed.mean() > 0.97
    counts = pd.crosstab(site[placed], lattice.site[placed]).to_numpy()
    assert counts.max(axis=1).sum() > 0.98 * placed.sum()
    ideal = lattice.ideal(lattice.indices[placed], lattice.site[placed])
    assert positions[placed] - ideal == pytest.approx(lattice.displacement[placed], abs=1e-9)
    assert np.hypot(*lattice.displacement[placed].T).max() < 0.5 * nearest


def nearly_smaller(sites, vectors, tolerance):
    """Whether a shift by the difference of two sites, or by half a vector, moves all sites onto sites."""
    shifts = [s - sites[0] for s in sites[1:]]
    for shift in shifts:
        rest = sites[:, None] + shift - sites
        rest = (rest - np.round(rest)) @ vectors
        if (np.hypot(rest[..., 0], rest[..., 1]).min(axis=1) < tolerance).all():
            return True
    return False


def test_errors_follow_a_change_of_the_cell():
    rng = np.random.default_rng(3)
    vectors = A * PLANE_LATTICES["oblique"](1.3, 0.2) @ turned(0.4)
    positions, _ = crystal(vectors, 2.0)
    table = frame(positions + rng.normal(0, 0.01, positions.shape), y_err=0.01, x_err=0.01)
    lattice = fit_lattice(table)
    for change in (np.array([[1, 1], [0, 1]]), np.array([[2, 1], [1, 1]]), np.array([[0, -1], [1, 0]])):
        other = fit_lattice(table, vectors=change @ lattice.vectors)
        assert other.vectors == pytest.approx(change @ lattice.vectors, abs=1e-9)
        expected = np.einsum("ij,kjl,ml->kim", change, lattice.covariance, change)
        assert other.covariance == pytest.approx(expected, rel=1e-6, abs=1e-15)


# --- several lattices --------------------------------------------------------------------------------------------


def joined(first, second, normal, at=0.0):
    """Two crystals on either side of a plane, without columns that overlap, and which of the two each belongs to."""
    first, second = first[first @ normal < at], second[second @ normal >= at]
    positions = np.vstack([first, second])
    label = np.repeat([0, 1], [len(first), len(second)])
    nearest = np.median(cKDTree(positions).query(positions, k=2)[0][:, 1])
    kept = np.ones(len(positions), dtype=bool)
    for i, j in cKDTree(positions).query_pairs(0.6 * nearest):
        kept[j] &= ~kept[i]
    return positions[kept], label[kept]


def agreement(truth, found):
    """Share of the columns with the label of their grain, grains and labels being matched one to one."""
    counts = pd.crosstab(truth, found).drop(columns=-1, errors="ignore").to_numpy()
    pairs = itertools.permutations(range(counts.shape[1]), 2)
    return max(counts[0, i] + counts[1, j] for i, j in pairs) / len(truth)


SITES = {"square": ((0, 0),), "hexagonal": ((0, 0),), "honeycomb": ((0, 0), (1 / 3, 1 / 3))}


@pytest.mark.slow
@given(st.sampled_from(sorted(SITES)), angles, seeds, st.floats(0, 0.03), st.floats(0, 0.05))
@settings(max_examples=8)
def test_two_grains_are_two_lattices(kind, angle, seed, noise, missing):
    rng = np.random.default_rng(seed)
    vectors = A * PLANE_LATTICES["square" if kind == "square" else "hexagonal"](1, 0) @ turned(angle)
    other = vectors @ turned(math.radians(14))
    first, second = (crystal(v, 4.0, SITES[kind], rng.uniform(-0.2, 0.2, 2))[0] for v in (vectors, other))
    direction = rng.uniform(0, math.pi)
    positions, truth = joined(first, second, np.array([math.cos(direction), math.sin(direction)]), rng.uniform(-1, 1))
    kept = rng.random(len(positions)) >= missing
    spacing = A / math.sqrt(len(SITES[kind]) + (kind == "honeycomb"))
    positions, truth = positions[kept] + rng.normal(0, noise * spacing, (kept.sum(), 2)), truth[kept]
    table = frame(positions).set_index(np.arange(len(positions)) * 2 + 5)
    found = fit_lattices(table)
    assert len(found.lattices) == 2
    assert agreement(truth, found.labels.to_numpy()) > 0.85
    assert found.labels.index.equals(table.index)
    for lattice, number in zip(found.lattices, (0, 1), strict=True):
        assert min(matching_basis(v, lattice.vectors)[1] for v in (vectors, other)) < 0.02
        assert np.array_equal(lattice.site >= 0, found.labels == number)
    with pytest.warns(UserWarning, match=r"one lattice does not explain the columns.*fit_lattices\(table\) finds all"):
        fit_lattice(table)


@pytest.mark.parametrize("coherent", [True, False])
@given(angles, seeds, st.floats(0, 0.015))
@settings(max_examples=4)
def test_film_and_substrate_are_two_lattices(coherent, angle, seed, noise):
    rng = np.random.default_rng(seed)
    substrate = 0.39 * np.eye(2)[::-1]
    film = np.array([[0, 0.39], [0.41, 0]]) if coherent else 0.41 * np.eye(2)[::-1]
    first, second = crystal(substrate, 5.0)[0], crystal(film, 5.0)[0]
    positions, truth = joined(first, second, np.array([-1.0, 0.0]))
    positions = (positions + rng.normal(0, noise * A, positions.shape)) @ turned(angle)
    found = fit_lattices(frame(positions))
    assert len(found.lattices) == 2
    assert agreement(truth, found.labels.to_numpy()) > 0.9
    lengths = sorted(float(lattice.lengths.max()) for lattice in found.lattices)
    assert lengths == pytest.approx([0.39, 0.41], abs=0.004)


def test_twins_are_two_lattices():
    vectors = A * PLANE_LATTICES["oblique"](1.2, 0.0)
    first, second = crystal(vectors, 4.0)[0], crystal(vectors * [-1, 1], 4.0)[0]
    positions, truth = joined(first, second, np.array([1.0, 0.0]))
    found = fit_lattices(frame(positions + np.random.default_rng(0).normal(0, 0.006, positions.shape)))
    assert len(found.lattices) == 2
    assert agreement(truth, found.labels.to_numpy()) > 0.9
    # mirror images of each other: the angle of one adds to that of the other to 180 degrees
    assert sum(lattice.angle for lattice in found.lattices) == pytest.approx(180, abs=0.5)


@pytest.mark.slow
@given(st.sampled_from(sorted(SITES)), angles, seeds, st.floats(0, 0.01), st.floats(0, 0.03))
@settings(max_examples=8)
def test_a_crystal_that_bends_is_one_lattice(kind, angle, seed, bend, noise):
    vectors = A * PLANE_LATTICES["square" if kind == "square" else "hexagonal"](1, 0) @ turned(angle)
    positions, _ = crystal(vectors, 3.5, SITES[kind])
    # circles that turn by ``bend`` per cell
    if bend > 1e-4:
        radius = A / bend
        turn = positions[:, 1] / radius
        deep = radius - positions[:, 0]
        positions = np.column_stack([radius - deep * np.cos(turn), deep * np.sin(turn)])
    positions = positions + np.random.default_rng(seed).normal(0, noise * A / 2, positions.shape)
    found = fit_lattices(frame(positions))
    assert len(found.lattices) == 1
    assert (found.labels == 0).mean() > 0.97
    fit_lattice(frame(positions))  # without a warning


def test_a_crystal_among_amorphous_matter_and_single_atoms():
    rng = np.random.default_rng(4)
    inside, _ = crystal(A * np.eye(2)[::-1] @ turned(0.3), 2.0)
    around = blue_noise(rng, 500, 0.28, 5.0)
    around = around[(np.abs(around) > 2.2).any(axis=1)]
    positions = np.vstack([inside + rng.normal(0, 0.008, inside.shape), around])
    table = frame(positions)
    found = fit_lattices(table)
    assert len(found.lattices) == 1
    assert (found.labels[: len(inside)] == 0).mean() > 0.95
    assert (found.labels[len(inside) :] == -1).mean() > 0.85
    with pytest.warns(UserWarning, match="lists the columns that are on it"):
        fit_lattice(table)


def test_every_lattice_is_an_ordinary_one_of_the_table():
    first, second = crystal(A * np.eye(2)[::-1], 4.0)[0], crystal(A * np.eye(2)[::-1] @ turned(0.3), 4.0)[0]
    positions, _ = joined(first, second, np.array([0.0, 1.0]))
    table = frame(positions, amplitude=1.0)
    for lattice in fit_lattices(table).lattices:
        assert len(strain(table, lattice)["exx"].dropna()) > 0.7 * (lattice.site >= 0).sum()
        assert len(missing_sites(table, lattice)) == 0
        assert (sublattices(table, lattice) == -1).sum() == (lattice.site < 0).sum()
        assert len(weak_columns(table, lattice)) == 0


def test_several_lattices_describe_themselves():
    positions, _ = crystal(A * np.eye(2)[::-1], 2.0)
    found = fit_lattices(frame(np.vstack([positions, [[9.2, 9.15]]])))
    assert repr(found).splitlines()[-1] == "1 column on no lattice"
    empty = fit_lattices(frame(positions[:3]))
    assert empty.lattices == ()
    assert (empty.labels == -1).all()


# --- chance ------------------------------------------------------------------------------------------------------


def blue_noise(rng, n, distance, half):
    """Up to ``n`` random points at a least distance in a square, ``(m, 2)``."""
    points = np.empty((0, 2))
    for _ in range(30):
        for at in rng.uniform(-half, half, (n, 2)):
            if len(points) < n and (len(points) == 0 or ((points - at) ** 2).sum(axis=1).min() > distance**2):
                points = np.vstack([points, at])
    return points


def refused(positions):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit_lattice(frame(positions))
        except ValueError as error:
            return "must contain a lattice" in str(error)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 16, 23, 40, 80, 300])
@pytest.mark.parametrize("kind", ["poisson", "blue noise"])
def test_random_positions_are_refused(kind, n):
    draws = 40 if n < 50 else 10
    rng = np.random.default_rng(n)
    found = 0
    for _ in range(draws):
        at = rng.uniform(-1, 1, (n, 2)) if kind == "poisson" else blue_noise(rng, n, 1.5 / math.sqrt(n), 1.0)
        found += not refused(at)
    assert found <= 0.01 * draws


@given(st.sampled_from(sorted(PLANE_LATTICES)), angles, seeds, st.integers(20, 60), st.floats(0, 0.05))
@settings(max_examples=25)
def test_small_lattices_are_not_refused(kind, angle, seed, n, noise):
    rng = np.random.default_rng(seed)
    vectors = A * PLANE_LATTICES[kind](1.2, 0.5) @ turned(angle)
    half = math.sqrt(n / 0.9 * abs(np.linalg.det(vectors))) / 2
    positions, _ = crystal(vectors, half, at=rng.uniform(-0.2, 0.2, 2))
    positions = positions[rng.random(len(positions)) >= 0.1]
    assume(len(positions) >= 20)
    positions = positions + rng.normal(0, noise * A, positions.shape)
    lattice = fit_lattice(frame(positions))
    assert matching_basis(vectors, lattice.vectors)[1] < 0.05


# --- references --------------------------------------------------------------------------------------------------


@given(
    cells,
    st.tuples(*[st.floats(-0.03, 0.03)] * 3),
    st.floats(-5, 5),
    st.lists(st.sampled_from(UNIMODULAR), min_size=8, max_size=8),
)
@settings(max_examples=6)
def test_any_basis_of_the_reference_gives_the_same_strain(cell, values, turn, changes):
    exx, eyy, exy = values
    vectors = A * reduced_basis(cell)
    positions, _ = crystal(vectors, 4.5 * A * math.sqrt(abs(np.linalg.det(cell))))
    stretched = positions @ np.array([[1 + eyy, exy], [exy, 1 + exx]]) @ turned(math.radians(turn))
    table = frame(stretched)
    lattice = fit_lattice(table)
    for change in changes:
        at = strain(table, lattice, reference=change @ vectors).dropna()
        assert len(at) > 10
        for name, value in {"exx": exx, "eyy": eyy, "exy": exy, "rotation": turn}.items():
            assert at[name].to_numpy() == pytest.approx(value, abs=1e-5), (name, change)


@given(cells, cells, st.sampled_from(UNIMODULAR))
def test_the_corresponding_basis_is_one_of_the_reference(cell, other, change):
    basis, largest = reference_basis(change @ cell, other)
    whole = basis @ np.linalg.inv(other)
    assert whole == pytest.approx(np.round(whole), abs=1e-6)
    assert abs(round(np.linalg.det(whole))) == 1
    assert largest >= 0


def test_a_reference_of_another_lattice_is_refused():
    positions, _ = crystal(A * np.eye(2)[::-1], 3.0)
    table = frame(positions)
    lattice = fit_lattice(table)
    for reference in (1.3 * lattice.vectors, lattice.vectors * [[1], [2]], 100 * lattice.vectors):
        with pytest.raises(ValueError, match=r"reference must be a lattice within 20 % of the fitted one"):
            strain(table, lattice, reference=reference)
        with pytest.raises(ValueError, match="has a strain of"):
            strain_map(table, lattice, np.zeros((9, 9)), reference=reference)


# --- errors of lengths -------------------------------------------------------------------------------------------


@given(cells, seeds, st.floats(0.001, 0.1))
@settings(max_examples=6)
def test_an_error_of_the_pixel_size_scales_both_lengths(cell, seed, error):
    positions, _ = crystal(A * cell, 6 * A)
    noisy = positions + np.random.default_rng(seed).normal(0, 0.005, positions.shape)
    table = frame(noisy, y_px=noisy[:, 0] / 0.02, x_px=noisy[:, 1] / 0.02)
    known, plain = fit_lattice(table, pixel_size_error=error), fit_lattice(table)
    assert known.unit == "nm"
    assert plain.lengths_total_err == pytest.approx(plain.lengths_err)
    assert known.lengths_err == pytest.approx(plain.lengths_err)
    assert known.lengths_total_err**2 - plain.lengths_err**2 == pytest.approx((error * known.lengths) ** 2)
    added = known.lengths_covariance - plain.lengths_covariance
    correlation = added[0, 1] / math.sqrt(added[0, 0] * added[1, 1])
    assert correlation == pytest.approx(1)
    assert known.angle_err == plain.angle_err
    assert known.ratio_err == pytest.approx(plain.ratio_err, rel=1e-6)
    assert "from the pixel size" in repr(known)
    assert "statistical errors" in repr(plain)
    assert fit_lattices(table, pixel_size_error=error).lattices[0].pixel_size_error == error


def test_the_error_of_the_ratio_is_its_standard_deviation():
    vectors = A * PLANE_LATTICES["oblique"](1.4, 0.3) @ turned(0.3)
    positions, _ = crystal(vectors, 2.5)
    draws = [
        fit_lattice(frame(positions + np.random.default_rng(seed).normal(0, 0.01, positions.shape)), vectors=vectors)
        for seed in range(80)
    ]
    ratios = [lattice.ratio for lattice in draws]
    # a standard deviation from n draws has a relative error of 1 / sqrt(2 n)
    assert np.std(ratios) == pytest.approx(np.mean([lattice.ratio_err for lattice in draws]), rel=0.32)


def test_lengths_in_px_have_no_error_of_the_pixel_size():
    positions, _ = crystal(20 * np.eye(2)[::-1], 80)
    lattice = fit_lattice(
        frame(positions + np.random.default_rng(0).normal(0, 0.1, positions.shape)), pixel_size_error=0.1
    )
    assert lattice.unit == "px"
    assert lattice.lengths_total_err == pytest.approx(lattice.lengths_err)
    assert "pixel size" not in repr(lattice)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"mismatch": 0.0}, "mismatch must be a fraction above 0 and below 0.3, but is 0.0"),
        ({"min_columns": 3}, "min_columns must be an integer of at least 6, but is 3"),
        ({"pixel_size_error": 2.0}, r"pixel_size_error must be a fraction from 0 to below 1"),
    ],
)
def test_impossible_parameters_are_refused(parameters, match):
    with pytest.raises(ValueError, match=match):
        fit_lattices(frame(np.zeros((9, 2))), **parameters)
