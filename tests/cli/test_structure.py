"""``stemkit structure``."""

import re

import numpy as np
import pandas as pd
import pytest

from stemkit.cli import main
from stemkit.detection.exports import write_columns

ANALYSES = (
    "polarization", "counts", "grains", "rings", "dumbbells", "dislocations", "vacancies", "defects", "strain",
    "profile",
)  # fmt: skip


def structure(*arguments):
    return main(["structure", *map(str, arguments)])


def columns_of_a_perovskite(n=9, pixel=0.02, seed=0):
    """A table as that of ``stemkit detect``: B is displaced by 10 pm along x, and a column of A is missing."""
    rng = np.random.default_rng(seed)
    cell = np.mgrid[0:n, 0:n].reshape(2, -1).T * 0.4 + 0.3
    table = pd.DataFrame(np.concatenate([cell, np.add(cell, [0.2, 0.21])]), columns=["y", "x"])
    table["amplitude"] = np.repeat([2.0, 1.0], n * n) * rng.normal(1, 0.02, len(table))
    table = table.drop(index=4 * n + 4).reset_index(drop=True)
    table[["y", "x"]] += rng.normal(0, 0.002, (len(table), 2))
    table[["y_px", "x_px"]] = table[["y", "x"]] / pixel
    table[["y_err", "x_err"]] = 0.002
    table = table.assign(image=0, sigma=0.06, background=0.1, amplitude_err=0.02, quality=0)
    table["intensity"] = 2 * np.pi * table["amplitude"] * 0.06**2
    table["intensity_err"] = 0.01 * table["intensity"]
    table.attrs["unit"] = "nm"
    return table


@pytest.fixture
def csv(tmp_path):
    return write_columns(columns_of_a_perovskite(), tmp_path / "crystal.csv")


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_figures")
def test_every_analysis_writes_a_table_and_a_figure_and_prints_a_line(tmp_path, csv, capsys):
    out = tmp_path / "out"
    assert structure(csv, *(f"--{name}" for name in ANALYSES), "-o", out) == 0
    files = {path.name for path in out.iterdir() if path.is_file()}
    assert files == {f"crystal_{name}.{suffix}" for name in ANALYSES for suffix in ("csv", "png")}
    printed = capsys.readouterr().out
    a, error, digits = re.search(r"crystal\.\w+: a = (0\.(?:\d+))\((\d+)\) nm, b = ", printed).group(1, 2, 1)
    assert abs(float(a) - 0.4) < 5 * int(error) * 10.0 ** -len(digits[2:])
    for name in ANALYSES:
        assert f"crystal_{name}.csv: " in printed
    vectors = pd.read_csv(out / "crystal_polarization.csv")
    assert vectors["column"].tolist() == list(range(161))
    assert vectors["displacement_x"].mean() == pytest.approx(10.0, abs=1.5)
    assert set(vectors["unit"]) == {"nm"}
    assert "1 site without a column (--image FILE tests" in printed
    assert (pd.read_csv(out / "crystal_counts.csv")["reason"] == "another sublattice").sum() == 81


def test_a_table_in_parquet_is_read_like_one_in_csv(tmp_path, csv):
    pytest.importorskip("pyarrow")
    parquet = write_columns(columns_of_a_perovskite(), tmp_path / "other.parquet")
    assert structure(csv, parquet, "--strain", "-o", tmp_path) == 0
    one, other = (pd.read_csv(tmp_path / f"{name}_strain.csv") for name in ("crystal", "other"))
    pd.testing.assert_frame_equal(one, other)


def test_a_repeated_command_skips_what_is_finished(tmp_path, csv, capsys):
    assert structure(csv, "--strain", "-o", tmp_path) == 0
    capsys.readouterr()
    assert structure(csv, "--strain", "-o", tmp_path) == 0
    assert "crystal_strain.csv: finished before" in capsys.readouterr().out
    assert structure(csv, "--strain", "--pixel-size-error", "0.01", "-o", tmp_path) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_polarisation_with_charges(tmp_path, csv, capsys):
    options = ["--polarization", "--born-charge", "7", "--cell-volume", "0.064", "-o", tmp_path]
    assert structure(csv, *options) == 0
    assert "uC/cm2" in capsys.readouterr().out
    assert "polarization_x" in pd.read_csv(tmp_path / "crystal_polarization.csv")
    assert structure(csv, "--polarization", "--born-charge", "7") == 1
    assert "--cell-volume must be given both" in capsys.readouterr().err


def test_elements_from_a_cif_file(tmp_path, csv, capsys):
    spacegroup = pytest.importorskip("ase.spacegroup")
    crystal = spacegroup.crystal(
        ["Pb", "Ti", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[4, 4, 4, 90, 90, 90]
    )
    crystal.write(tmp_path / "crystal.cif")
    assert structure(csv, "--elements", tmp_path / "crystal.cif", "-o", tmp_path) == 0
    assert pd.read_csv(tmp_path / "crystal_elements.csv")["name"].value_counts().to_dict() == {"TiO": 81, "Pb": 80}
    assert "80 Pb, 81 TiO of 161 columns" in capsys.readouterr().out


def test_without_an_analysis_the_lattice_is_printed(tmp_path, csv, capsys):
    assert structure(csv, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "° (statistical errors), 2 sites, 161 of 161 columns\n" in printed
    assert "Lattice(" not in printed


def test_a_table_of_several_images_needs_a_number(tmp_path, capsys):
    table = pd.concat([columns_of_a_perovskite(), columns_of_a_perovskite(seed=1).assign(image=1)], ignore_index=True)
    path = write_columns(table, tmp_path / "stack.csv", unit="nm")
    assert structure(path, "--strain", "-o", tmp_path) == 1
    assert "choose one with --number N" in capsys.readouterr().err
    assert structure(path, "--strain", "--number", "1", "-o", tmp_path) == 0
    assert pd.read_csv(tmp_path / "stack_strain.csv")["column"].tolist() == list(range(161, 322))
    assert structure(path, "--strain", "--number", "7", "-o", tmp_path / "other") == 1
    assert "has the images [0, 1]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--elements", "nowhere.cif"], "can't read nowhere.cif: there is no such file"),
        (["--defects", "--false-discovery-rate", "2"], "--false-discovery-rate must be between 0 and 1"),
        (["--image", "nowhere.tif", "--defects"], "nowhere.tif"),
    ],
)
def test_what_cannot_be_used_is_an_error(tmp_path, csv, options, message, capsys):
    assert structure(csv, *options, "-o", tmp_path) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--along", "1"], ["--zone-axis", "1,a,0"], ["--born-charge", "much"]])
def test_invalid_arguments_end_with_2(csv, options):
    with pytest.raises(SystemExit) as ended:
        structure(csv, *options)
    assert ended.value.code == 2


def test_other_files_and_folders_are_refused(tmp_path, csv, capsys):
    assert structure(tmp_path, "--strain") == 1
    assert "is a folder: name its tables" in capsys.readouterr().err
    other = tmp_path / "notes.csv"
    other.write_text("a,b\n1,2\n")
    assert structure(other, csv, "--strain", "-o", tmp_path) == 1
    printed = capsys.readouterr()
    assert "does not contain a table of columns" in printed.err
    assert "crystal_strain.csv: " in printed.out
    assert "1 of 2 failed" in printed.err


def test_an_image_of_another_size_is_refused(tmp_path, csv, capsys):
    np.save(tmp_path / "small.npy", np.random.default_rng(0).normal(size=(40, 40)))
    assert structure(csv, "--defects", "--image", tmp_path / "small.npy", "-o", tmp_path) == 1
    assert "--image must be the image of the table" in capsys.readouterr().err


def test_dumbbells_of_a_table_without_a_brightness(tmp_path, capsys):
    y, x = np.mgrid[0:6, 0:6].reshape(2, -1) * np.array([[0.384], [0.543]])
    table = pd.DataFrame({"y": np.tile(y, 2), "x": np.concatenate([x, x + 0.136])})
    table += np.random.default_rng(0).normal(0, 0.001, table.shape)
    table[["y_px", "x_px"]] = table[["y", "x"]] / 0.02
    table.attrs["unit"] = "nm"
    path = write_columns(table, tmp_path / "silicon.csv")
    assert structure(path, "--dumbbells", "-o", tmp_path / "out") == 0
    line = capsys.readouterr().out
    assert "36 dumbbells" in line
    distances = pd.read_csv(tmp_path / "out" / "silicon_dumbbells.csv")["distance"]
    assert distances.mean() == pytest.approx(0.136, abs=4 * 0.001 * (2 / 36) ** 0.5)
    assert "polarity" not in line


def test_an_analysis_that_fails_does_not_stop_the_others(tmp_path, csv, capsys):
    # cages of 200 columns do not exist among those of this table
    out = tmp_path / "out"
    assert structure(csv, "--polarization", "--strain", "--n-cage", "200", "-o", out) == 1
    captured = capsys.readouterr()
    assert "crystal_strain.csv: " in captured.out
    assert "--polarization: " in captured.err
    assert not (out / "crystal_polarization.csv").exists()
    # the number of columns is passed on, and with a possible one the same command completes the results
    assert structure(csv, "--polarization", "--n-cage", "4", "-o", out) == 0
    assert pd.read_csv(out / "crystal_polarization.csv")["displacement_x"].mean() == pytest.approx(10.0, abs=1.5)
