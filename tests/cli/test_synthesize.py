"""``stemkit synthesize``."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import stemkit
from stemkit import NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.cli import main
from stemkit.synthesis import lattice, planar_cell


def run(*arguments) -> int:
    return main(["synthesize", *map(str, arguments)])


def test_pairs_and_their_columns(tmp_path, capsys):
    path = tmp_path / "pairs.nc"
    assert run("-n", 3, "--mode", "bf", "--size", 48, "--seed", 4, "-o", path, "--figure") == 0
    assert "3 pairs, bf" in capsys.readouterr().out
    expected, columns = STEMSynthesizer(mode="bf", shape=(48, 48), random_state=4).sample(3, return_columns=True)
    with xr.open_dataset(path, engine="h5netcdf") as pairs:
        for name in expected:
            np.testing.assert_array_equal(pairs[name], expected[name])
        assert pairs["arrangement"].values.tolist() == expected["arrangement"].values.tolist()
        assert pairs["noisy"].stem.pixel_size == pytest.approx(0.01)
    table = pd.read_csv(tmp_path / "pairs_columns.csv")
    assert len(table) == len(columns)
    np.testing.assert_allclose(table["y"], columns["y"])
    assert (tmp_path / "pairs.png").stat().st_size > 5000


def test_pairs_like_an_image(tmp_path):
    noise = NoiseModel(500.0, 100.0, pointwise=PointwiseNoise(readout=0.1))
    crystal = lattice(planar_cell("square"), (128, 128), spacing=14.0, sigma=2.5)
    image = STEMSynthesizer(shape=(128, 128), noise=noise, pixel_size=0.03, random_state=0).record(crystal)
    stemkit.write(image["noisy"].isel(image=0).drop_vars("arrangement"), tmp_path / "image.tif")
    path = tmp_path / "mine.nc"
    assert run(tmp_path / "image.tif", "-n", 2, "--size", 64, "--arrangement", "lattice", "-o", path) == 0
    with xr.open_dataset(path, engine="h5netcdf") as pairs:
        assert pairs["noisy"].stem.pixel_size == pytest.approx(0.03, rel=1e-5)
        assert set(pairs["arrangement"].values) == {"lattice"}
        assert 50 < float(pairs["enhance"].min()) < 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "pairs.tif"], "--output must end with .nc"),
        (["--spacing", "1", "2", "3"], "--spacing must be one or two numbers of nm"),
        (["--arrangement", "cubist"], "arrangements must be one or several of"),
        (["-n", "0"], "n must be a positive integer"),
        (["missing.dm4"], "missing.dm4"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_are_not_replaced(tmp_path, capsys):
    (tmp_path / "pairs_columns.csv").write_text("precious")
    assert run("-n", 1, "--size", 32, "-o", tmp_path / "pairs.nc") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert not (tmp_path / "pairs.nc").exists()
    assert run("-n", 1, "--size", 32, "-o", tmp_path / "pairs.nc", "--overwrite") == 0
