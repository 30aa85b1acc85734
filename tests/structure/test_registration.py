"""Registration of crystals to columns with known truth."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from stemkit.structure import register_crystal

ase = pytest.importorskip("ase")
from ase.build import bulk, graphene, mx2  # noqa: E402
from ase.spacegroup import crystal  # noqa: E402

from stemkit.structure.crystal_sites import crystal_sites  # noqa: E402

TITANATE = crystal(
    ["Sr", "Ti", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[3.905] * 3 + [90] * 3
)
SCANDATE = crystal(
    ["Dy", "Sc", "O", "O"],
    [(0.0607, 0.25, 0.983), (0, 0, 0.5), (0.444, 0.25, 0.119), (0.303, 0.056, 0.694)],
    spacegroup=62,
    cellpar=[5.717, 7.901, 5.443, 90, 90, 90],
)
#: Crystals, zone axes, and the names of the columns that an image shows.
CRYSTALS = {
    "titanate": (TITANATE, (0, 0, 1), {"Sr", "TiO"}),
    "titanate 110": (TITANATE, (1, 1, 0), {"SrO", "Ti", "O2"}),
    "supercell": (TITANATE * (2, 2, 1), (0, 0, 1), {"Sr", "TiO"}),
    "gold": (bulk("Au", cubic=True), (0, 0, 1), {"Au"}),
    "silicon": (bulk("Si", cubic=True), (1, 1, 0), {"Si"}),
    "sulphide": (mx2(), (0, 0, 1), {"Mo", "S2"}),
    "graphene": (graphene(), (0, 0, 1), {"C"}),
}
kinds = st.sampled_from(sorted(CRYSTALS))
angles = st.floats(-np.pi, np.pi)


def image_of(kind, angle, seed, *, scale=1.0, missing=0.1, unit="nm", mirrored=False, error=0.004, power=1.7, cells=10):
    """Columns of a crystal as a table, with the true names and the site and cell of each."""
    rng = np.random.default_rng(seed)
    atoms, axis, visible = CRYSTALS[kind]
    sites = crystal_sites(atoms, axis, power)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    side = np.diag([-1.0 if mirrored else 1.0, 1.0])
    cell = np.mgrid[0:cells, 0:cells].reshape(2, -1).T
    shown = [k for k, name in enumerate(sites.names) if name in visible]
    parts = []
    for k in shown:
        place = (cell + sites.fractions[k]) @ sites.vectors @ side @ turn * scale
        brightness = sites.brightness[k] * np.exp(rng.normal(0, 0.05, len(cell)))
        parts.append(
            pd.DataFrame({"y": place[:, 0], "x": place[:, 1], "amplitude": brightness, "true": sites.names[k]})
        )
    table = pd.concat(parts, ignore_index=True)
    table = table[rng.random(len(table)) >= missing].sample(frac=1, random_state=seed % 1000)
    errors = rng.uniform(0.5, 1.5, (len(table), 2)) * error * scale
    table[["y", "x"]] += errors * rng.normal(size=errors.shape)
    table[["y_err", "x_err"]] = errors
    table.attrs["unit"] = unit
    return table


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(kinds, angles, st.floats(0.9, 1.1), st.booleans(), seeds)
def test_every_column_has_its_name(kind, angle, scale, mirrored, seed):
    table = image_of(kind, angle, seed, scale=scale, mirrored=mirrored)
    atoms, axis, _ = CRYSTALS[kind]
    registered = register_crystal(table, atoms, axis)
    assert registered.fits
    named = registered.columns
    assert named.index.equals(table.index)
    on_site = named["crystal_site"] >= 0
    assert on_site.mean() > 0.97
    assert (named["name"] == table["true"])[on_site].all()
    assert (named["probability"][on_site] > 0.9).all()
    assert registered.deformation.scale == pytest.approx(scale, abs=5 * registered.deformation.scale_err + 1e-4)


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.sampled_from(["titanate", "sulphide"]), angles, seeds)
def test_a_table_in_px_gives_the_pixel_size(kind, angle, seed):
    table = image_of(kind, angle, seed, scale=55.0, unit="px")
    registered = register_crystal(table, *CRYSTALS[kind][:2])
    shape = registered.deformation
    assert abs(shape.scale - 55.0) < 5 * shape.scale_err
    size, error = map(float, re.search(r"pixel size ([\d.]+) ± ([\d.e-]+) nm", registered.verdict).groups())
    assert size == pytest.approx(1 / shape.scale, abs=error)
    assert error == pytest.approx(shape.scale_err / shape.scale**2, rel=0.5)


@pytest.mark.slow
def test_errors_of_scale_and_displacements_are_those_of_the_columns():
    scale_pulls, pulls = [], []
    for seed in range(6):
        table = image_of("titanate", 0.3, seed, missing=0.0)
        registered = register_crystal(table, TITANATE)
        shape, columns = registered.deformation, registered.columns
        scale_pulls.append((shape.scale - 1) / shape.scale_err)
        pulls.append(
            columns[["displacement_y", "displacement_x"]].to_numpy()
            / columns[["displacement_y_err", "displacement_x_err"]].to_numpy()
        )
    # the standard deviation of n normally distributed numbers scatters by 1 / sqrt(2 n)
    assert 0.3 < np.std(scale_pulls) < 2.2
    assert 0.95 < np.std(np.concatenate(pulls)) < 1.05


@pytest.mark.slow
def test_the_offset_of_a_sublattice_is_measured_with_its_error():
    shift = np.array([0.012, -0.007])
    pulls = []
    for seed in range(8):
        table = image_of("titanate", 0.0, seed, missing=0.0)
        table.loc[table["true"] == "TiO", ["y", "x"]] += shift
        sites = register_crystal(table, TITANATE, rotation=(-20, 20)).sites.set_index("name")
        means = sites[["displacement_y", "displacement_x"]].to_numpy(dtype=float)[:2]
        errors = sites[["displacement_y_err", "displacement_x_err"]].to_numpy(dtype=float)[:2]
        pulls.append((means[1] - 500 * shift) / errors[1])
    assert np.abs(np.mean(pulls)) < 4 / np.sqrt(16)
    assert 0.5 < np.std(pulls) < 1.6


def test_missing_columns_are_named_and_listed():
    table = image_of("titanate", 0.2, 5, missing=0.0)
    inside = table[(table[["y", "x"]] - table[["y", "x"]].mean()).abs().max(axis=1) < 0.8]
    gone = inside.groupby("true").sample(2, random_state=1)
    missing = register_crystal(table.drop(index=gone.index), TITANATE).missing
    assert sorted(missing["name"]) == ["Sr", "Sr", "TiO", "TiO"]
    apart = np.linalg.norm(missing[["y", "x"]].to_numpy()[:, None] - gone[["y", "x"]].to_numpy(), axis=-1)
    assert (apart.min(axis=1) < 0.02).all()


def test_columns_of_the_crystal_that_the_image_lacks_are_named():
    table = image_of("titanate", 0.2, 5)
    registered = register_crystal(table[table["true"] == "Sr"], TITANATE)
    assert not registered.fits
    assert "no columns at the visible sites of TiO" in registered.verdict
    assert set(registered.columns["name"].dropna()) == {"Sr"}


def test_columns_without_a_site_are_not_named():
    table = image_of("titanate", 0.2, 5, missing=0.0)
    extra = table[table["true"] == "Sr"].assign(true="none")
    extra[["y", "x"]] += 0.5 * (table.loc[table["true"] == "TiO", ["y", "x"]].mean() - extra[["y", "x"]].mean())
    registered = register_crystal(pd.concat([table, extra], ignore_index=True), TITANATE)
    assert not registered.fits
    assert "without a site" in registered.verdict


def test_the_zigzag_of_a_crystal_decides_its_orientation():
    angle = 0.1
    sites = crystal_sites(SCANDATE, (1, 0, 1), 1.7, 0.05)
    rng = np.random.default_rng(0)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    cell = np.mgrid[0:6, 0:6].reshape(2, -1).T
    shown = np.flatnonzero(sites.brightness > 0.1)
    parts = [
        pd.DataFrame((cell + sites.fractions[k]) @ sites.vectors @ turn, columns=["y", "x"]).assign(
            amplitude=sites.brightness[k]
        )
        for k in shown
    ]
    table = pd.concat(parts, ignore_index=True)
    table[["y", "x"]] += rng.normal(0, 0.002, (len(table), 2))
    table.attrs["unit"] = "nm"
    registered = register_crystal(table, SCANDATE, (1, 0, 1))
    turned = (registered.settings["rotation"].iloc[0] + np.degrees(angle)) % 180
    assert min(turned, 180 - turned) < 1
    assert registered.columns["displacement"].max() < 12


def test_symmetry_that_exchanges_equal_columns_is_reported():
    registered = register_crystal(image_of("graphene", 0.4, 3), graphene())
    assert registered.columns["site_probability"].max() < 0.6
    assert registered.columns["probability"].min() == pytest.approx(1.0)
    assert "exchange columns of equal names" in registered.verdict
    assert "names are unambiguous" in registered.verdict


def test_without_brightness_names_of_a_honeycomb_are_ambiguous():
    registered = register_crystal(image_of("sulphide", 0.4, 3), mx2(), by=None)
    assert registered.columns["probability"].max() < 0.6
    assert "names are ambiguous" in registered.verdict


def test_a_cif_file_and_shared_sites(tmp_path):
    path = tmp_path / "crystal.cif"
    TITANATE.write(path)
    table = image_of("titanate", 0.2, 5)
    assert register_crystal(table, path).columns["name"].equals(register_crystal(table, TITANATE).columns["name"])
    alloy = crystal(
        ["La", "Mn", "O"],
        [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
        spacegroup=221,
        cellpar=[3.88] * 3 + [90] * 3,
    )
    alloy.info["occupancy"] = {"0": {"La": 0.7, "Sr": 0.3}, "1": {"Mn": 1.0}, "2": {"O": 1.0}}
    assert crystal_sites(alloy, (0, 0, 1), 1.7).names[0] == "La0.7Sr0.3"


def test_a_crystal_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="must have a cell of the shape of the lattice"):
        register_crystal(image_of("graphene", 0.0, 1), TITANATE, max_strain=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (1.2, 0.8)}, "scale must be a range"),
        ({"scale": (-1.0, 2.0)}, "scale must be positive"),
        ({"rotation": (1.0,)}, "rotation must be a range"),
        ({"max_strain": 1.0}, "max_strain must be"),
        ({"resolution": -1.0}, "resolution must be"),
        ({"zone_axis": (0, 0, 0)}, "zone_axis must be"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        register_crystal(image_of("gold", 0.0, 1), CRYSTALS["gold"][0], **options)


def test_invalid_structures_are_refused():
    with pytest.raises(TypeError, match="structure must be"):
        register_crystal(image_of("gold", 0.0, 1), 3)
