"""``stemkit demo``."""

import pytest

from stemkit.cli import main

NAMES = [f"{mode}_{seed}" for mode in ("haadf", "bf") for seed in (20, 21, 22)]


def test_gains_and_finds(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for name in NAMES:
        line = next(row.split() for row in out.splitlines() if row.split()[:1] == [name])
        before, after, f1 = float(line[1]), float(line[3]), float(line[7])
        assert after > before + 5
        assert f1 > 0.9
        assert (tmp_path / f"{name}.png").exists()
        assert (tmp_path / f"{name}_columns.csv").exists()


@pytest.mark.parametrize("name", ["haadf_21_columns.csv", "bf_22.png"])
def test_files_are_not_replaced(tmp_path, name, capsys):
    (tmp_path / name).write_text("precious")
    assert main(["demo", "-o", str(tmp_path)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"
