"""Micrographs that are not part of the repository; skipped where they are absent."""

import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import stemkit

DATA = Path(__file__).parents[2].parent / "shared" / "data"
FILES = sorted((DATA / "real").glob("*.*")) if (DATA / "real").is_dir() else []

pytestmark = pytest.mark.skipif(not FILES, reason="no micrographs here")


def listed():
    """File name -> shape, dtype and pixel size (None for files that have none) of the table in INDEX.md."""
    rows = (line.split("|")[1:-1] for line in (DATA / "INDEX.md").read_text().splitlines() if line.startswith("| "))
    table = {}
    for name, _, shape, size, *_ in ([cell.strip() for cell in row] for row in rows):
        number = re.match(r"[\d.]+", size)
        has_none = name.endswith((".png", ".npy")) or number is None
        # where the table says no number, what the file says is not checked
        known = None if has_none else float(number[0])
        table[name] = (shape.split()[0].split("x"), math.nan if size in ("in file", "wrong") else known)
    return table


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_shape_and_pixel_size(path):
    with warnings.catch_warnings():
        if path.suffix == ".hspy":
            warnings.filterwarnings("ignore", "(?s).*without a unit", UserWarning)
        image = stemkit.read(path)
    shape, pixel_size = listed()[path.name]
    if shape != ["see"]:
        assert [str(n) for n in image.shape] == shape
    assert image.dims == ("y", "x")
    assert image.dtype.isnative
    assert np.ptp(image.values) > 0
    assert image.attrs["source"] == path.name
    assert image.stem.is_calibrated == (pixel_size is not None)
    if pixel_size and math.isfinite(pixel_size):
        assert image.stem.pixel_size == pytest.approx(pixel_size, rel=0.02)
    (info,) = stemkit.datasets(path)
    assert info.is_image
    assert info.shape == image.shape


def test_every_family_is_there():
    assert {".dm3", ".dm4", ".emd", ".ser", ".hspy", ".tif", ".png", ".npy"} <= {p.suffix for p in FILES}


@pytest.mark.parametrize("name", ["Acquisition_18.emd", "16_STOimage_1.ser"])
def test_scan_lines_run_along_x(name):
    """The detector's afterglow correlates neighbours along a scan line and not across it."""
    values = stemkit.read(DATA / "real" / name).values.astype(float)
    rough = values - values.mean()
    rough = rough[1:-1, 1:-1] - (values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]) / 4
    along, across = (rough[:, 1:] * rough[:, :-1]).mean(), (rough[1:] * rough[:-1]).mean()
    assert along > across


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix in (".dm3", ".dm4")], ids=lambda p: p.name)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_truncated_dm(path, part, tmp_path):
    content = path.read_bytes()
    cut = tmp_path / path.name
    cut.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=rf"can't read .*{path.suffix} as DM"):
        stemkit.read(cut)
