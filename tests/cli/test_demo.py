"""``stemkit demo``."""

import pytest

import stemkit
from stemkit.cli import demo, main


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_figures")
def test_gains_and_finds(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SCENES", (demo.SCENES[0], demo.SCENES[3]))
    assert main(["demo", "-o", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, gain in (("tungsten_diselenide HAADF", 10), ("gold_110 ABF", 10)):
        cells = next(line for line in lines if line.startswith(name)).removeprefix(name).split()
        before, after, found, n, false, rms, stated = (float(c) for c in cells if c[0].isdigit())
        assert after > before + gain
        assert found > 0.97 * n
        assert false < 0.03 * n
        assert rms == pytest.approx(stated, rel=0.25)
        stem = name.lower().replace(" ", "_")
        assert (tmp_path / f"{stem}.png").exists()
        assert len((tmp_path / f"{stem}_columns.csv").read_text().splitlines()) > found
        assert stemkit.read(tmp_path / f"{stem}.nc").stem.pixel_size == pytest.approx(demo.PIXEL_SIZE)
    assert f"stemkit report {tmp_path / 'tungsten_diselenide_haadf.nc'}" in "\n".join(lines)


@pytest.mark.parametrize("name", ["graphene_silicon_haadf_columns.csv", "gold_110_abf.png"])
def test_files_are_not_replaced(tmp_path, name, capsys):
    (tmp_path / name).write_text("precious")
    assert main(["demo", "-o", str(tmp_path)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"
