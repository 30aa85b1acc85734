"""Micrographs that are not part of the repository; skipped where they are absent."""

import math
import re
import warnings
import zipfile
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


#: Default dataset, dims and pixel size (y, x) in nm of files that are hard to read.
HARD = {
    "fei_dpc.emd": ("DF4-C", ("y", "x"), (0.0996, 0.0996)),
    "multi_signal.dm3": ("HAADF", ("y", "x"), (0.01775, 0.01775)),
    "nonsq.dm4": ("dmTest_float32_nonSquare_diffPixelSize", ("y", "x"), (0.2, 1.0)),
    "stackbuilder.dm3": ("stackbuilder_test4_16x2", ("image", "y", "x"), (59.98, 59.98)),
    "velox_spectrum_image.emd": ("HAADF", ("frame", "y", "x"), (5.302, 5.302)),
}
OTHERS = [p for d in ("formats", "series", "pairs", "fitted", "scenes") for p in sorted((DATA / d).rglob("*.*"))]


@pytest.mark.parametrize("path", [p for p in OTHERS if p.name in HARD], ids=lambda p: p.name)
def test_hard_files(path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*contains .* images", UserWarning)
        image = stemkit.read(path)
    name, dims, sizes = HARD[path.name]
    assert (image.attrs["dataset"], image.dims) == (name, dims)
    assert image.stem.pixel_sizes == pytest.approx(sizes, rel=1e-3)


def test_a_detector_comes_before_the_maps_of_a_spectrum_image(tmp_path):
    with zipfile.ZipFile(DATA / "formats" / "velox_EELS_EDS.zip") as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".emd")]
        path = Path(archive.extract(name, tmp_path))
    with pytest.warns(UserWarning, match=r"contains 8 images and 4 'DF-S' \(16 x 20\) is read"):
        image = stemkit.read(path)
    assert image.attrs["mode"] == "haadf"
    contents = [d.content for d in stemkit.datasets(path)]
    assert contents.count("image") == 2
    assert contents.count("map of a spectrum image") == 6
    assert contents.count("an EELS spectrum image") == 3


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: p.name)
def test_every_file_is_read_or_refused(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if path.suffix == ".zip":
            with pytest.raises(ValueError, match="the suffix must be one of"):
                stemkit.read(path)
        else:
            values = stemkit.read(path).values
            assert np.isfinite(values).all()
            assert np.ptp(values) > 0


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
