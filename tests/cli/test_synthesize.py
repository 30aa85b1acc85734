"""``stemkit synthesize``."""

import signal

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import stemkit
from stemkit import NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.cli import main
from stemkit.synthesis import lattice, planar_cell


def run(*arguments) -> int:
    return main(["synthesize", *map(str, arguments)])


@pytest.mark.usefixtures("drawn_figures")
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
    with Image.open(tmp_path / "pairs.png") as picture:
        values = np.asarray(picture.convert("L"))
    # two rows of three images, 2.6 inches wide each
    assert values.shape[1] / values.shape[0] == pytest.approx(7.8 / 5.6, rel=0.1)
    for row in np.array_split(values, 2):
        assert all(part[20:-20, 20:-20].std() > 20 for part in np.array_split(row, 3, axis=1))


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
        (["--size", "1000000"], "16 pairs of 1000000 x 1000000 px need about"),
        (["missing.dm4"], "missing.dm4"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["-n", "--size", "--pixel-size", "--spacing"])
def test_numbers_must_be_positive(tmp_path, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        run(option, "0", "-o", tmp_path / "pairs.nc")
    assert f"{option}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_are_not_replaced(tmp_path, capsys):
    (tmp_path / "pairs_columns.csv").write_text("precious")
    assert run("-n", 1, "--size", 32, "-o", tmp_path / "pairs.nc") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert not (tmp_path / "pairs.nc").exists()
    assert run("-n", 1, "--size", 32, "-o", tmp_path / "pairs.nc", "--overwrite") == 0


def test_a_full_disk(tmp_path, capsys):
    """A limit of the size of files fails in the same calls as a full disk does."""
    resource = pytest.importorskip("resource", reason="limits of the size of files are of POSIX systems")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        code = run("-n", 1, "--size", 64, "-o", tmp_path / "p.nc")
    finally:  # before pytest writes its report
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 1
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"stemkit: can't write {tmp_path / 'p.nc'}: the disk is full, or a quota is reached"
    )
    assert list(tmp_path.iterdir()) == []
