from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from crystals import POLAR, A, crystal, measured, pulls
from strategies import SIGMAS

from stemkit.structure import cage_displacements, fit_lattice, interface_profile, lattice_planes


def layers(angle=0.1, cells=14, step=0.008):
    """A perovskite whose planes of A and B are ``step`` nm farther apart in its second half."""
    true = crystal(cells=cells, angle=0.0, polar=np.zeros(2))
    true["y"] += step * np.clip(true["y"] / A, 0, None)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    flat = true["y"].to_numpy()
    true[["y", "x"]] = true[["y", "x"]].to_numpy() @ turn
    return true, flat


@pytest.mark.slow
@pytest.mark.parametrize(("angle", "jitter"), [(0.0, 0.0), (0.0, 0.01), (0.6, 0.01), (np.pi / 2, 0.01)])
def test_spacings_have_their_errors(angle, jitter):
    true, flat = layers(angle)
    vectors = np.array([[-np.sin(angle), np.cos(angle)], [np.cos(angle), np.sin(angle)]]) * A
    z, ratio = [], []
    for seed in range(25):
        table = measured(true, np.random.default_rng(seed), jitter=jitter)
        lattice = fit_lattice(table, vectors)
        planes = lattice_planes(table, lattice)
        profile = interface_profile(table, lattice)
        assert len(profile) == 2 * 14
        mean = pd.Series(flat).groupby(planes).mean()
        expected = (mean.shift(-2) - mean).to_numpy()
        z.append(((profile["spacing"] - expected) / profile["spacing_err"]).dropna().to_numpy())
        ratio.append(((profile["ratio"] - expected / A) / profile["ratio_err"]).dropna().to_numpy())
        assert profile["spacing"].notna().sum() == 26
    for values in (np.stack(z), np.stack(ratio)):
        mean, spread = values.mean(axis=1), (values**2).mean(axis=1)
        assert abs(mean.mean()) < SIGMAS * mean.std() / 5 + 0.05
        assert abs(spread.mean() - 1) < SIGMAS * spread.std() / 5
        assert spread.std() / 5 < 0.12


def test_planes_are_numbered_across_the_interface():
    true, flat = layers(0.0)
    table = measured(true, np.random.default_rng(0))
    lattice = fit_lattice(table, np.array([[0.0, A], [A, 0.0]]))
    planes = lattice_planes(table, lattice)
    order = pd.Series(flat).groupby(planes).mean()
    assert (order.diff().dropna() > 0.1).all()
    assert pd.Series(true["label"]).groupby(planes).nunique().eq(1).all()
    across = lattice_planes(table, lattice, (0, 1))
    assert across.nunique() == 28
    diagonal = lattice_planes(table, lattice, (1, 1))
    assert pd.Series(true["label"]).groupby(diagonal).nunique().iloc[5:-5].eq(2).all()  # A and B in one plane


def test_profiles_contain_brightness_and_displacements():
    true = crystal(cells=14, angle=0.0, polar=lambda b: np.where(b[:, :1] > 0, POLAR, 0.0))
    table = measured(true, np.random.default_rng(0))
    table["amplitude"] += np.random.default_rng(1).normal(0, 0.05, len(table))
    lattice = fit_lattice(table, np.array([[0.0, A], [A, 0.0]]))
    displacements = cage_displacements(table, true["label"])
    profile = interface_profile(table, lattice, displacements=displacements, by=("amplitude", "snr"))
    assert "snr" not in profile
    truth = pd.Series(true["label"]).groupby(lattice_planes(table, lattice)).first().map({0: 2.0, 1: 1.0})
    assert np.abs((profile["amplitude"] - truth) / profile["amplitude_err"]).max() < SIGMAS
    polar = profile.dropna(subset="displacement_y")
    middle = profile["position"].max() / 2
    expected = np.where(polar["position"].to_numpy()[:, None] > middle, POLAR, 0.0)
    assert np.abs(pulls(polar, expected)).max() < SIGMAS
    assert profile.attrs["units"]["displacement_y"] == "pm"


def test_columns_off_the_lattice_are_in_no_plane():
    true = crystal(cells=8, angle=0.0)
    table = measured(true, np.random.default_rng(0))
    extra = pd.DataFrame({"y": [0.1], "x": [0.11], "y_err": [0.003], "x_err": [0.003]}, index=[len(table)])
    table = pd.concat([table, extra])
    table.attrs["unit"] = "nm"
    planes = lattice_planes(table, fit_lattice(table, np.array([[0.0, A], [A, 0.0]])))
    assert planes.isna().tolist() == [False] * (len(table) - 1) + [True]


def test_impossible_directions_are_refused():
    table = measured(crystal(cells=8), np.random.default_rng(0))
    lattice = fit_lattice(table)
    for along in ((2, 0), (0, 0), (1, 0.5), (1, 0, 0), (9, 1)):
        with pytest.raises(ValueError, match="along must be two integers"):
            lattice_planes(table, lattice, along)
