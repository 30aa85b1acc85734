"""Large images are searched in tiles, with the columns of the whole image."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial import cKDTree

import stemkit
from stemkit import AtomDetector, NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.detection import Quality, tiles
from stemkit.synthesis import lattice, planar_cell


@pytest.fixture(scope="module")
def image():
    """A crystal of two kinds of columns, with an offset of its coordinates."""
    crystal = lattice(planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6]), (300, 280), spacing=14.0)
    noise = NoiseModel(contrast=500.0, level=100.0, pointwise=PointwiseNoise(readout=0.08))
    synthesizer = STEMSynthesizer(shape=(300, 280), noise=noise, pixel_size=0.02, random_state=1)
    noisy = synthesizer.record(crystal, 1)["noisy"][0]
    return noisy.assign_coords(y=noisy.y + 3.0, x=noisy.x + 5.0)


@pytest.mark.slow
@pytest.mark.parametrize("calibrated", [True, False])
def test_columns_of_tiles_are_those_of_the_whole_image(image, monkeypatch, calibrated):
    if not calibrated:
        image = image.drop_vars(["y", "x"]).drop_attrs().assign_attrs(mode="haadf")
    detector = AtomDetector().fit(image)
    whole = detector.transform(image)
    small = dataclasses.replace(tiles.CONSTANTS, largest_search=10_000, edge=110, margin=40, margin_spacings=3.0)
    monkeypatch.setattr(tiles, "CONSTANTS", small)
    found = detector.transform(image)
    assert found.attrs["unit"] == whole.attrs["unit"] == ("nm" if calibrated else "px")
    distance, at = cKDTree(whole[["y_px", "x_px"]]).query(found[["y_px", "x_px"]])
    # thresholds depend on the area that is searched: single faint columns differ
    same = distance < 1.0
    assert len(set(at[same])) == same.sum() >= len(whole) - 2 > 400
    assert len(found) <= len(whole) + 2
    found, whole, distance = found[same].reset_index(drop=True), whole.iloc[at[same]].reset_index(), distance[same]
    assert (distance < 0.2 * found["x_px_err"]).mean() > 0.95
    assert (distance < found["x_px_err"]).all()
    np.testing.assert_allclose(found["y"] - whole["y"], 0, atol=0.02 if calibrated else 1.0)
    assert ((found["quality"] ^ whole["quality"]) & Quality.EDGE == 0).all()
    assert ((found["quality"] == 0) == (whole["quality"] == 0)).mean() > 0.98
    # fit and transform in one call do the same
    assert abs(len(AtomDetector().fit_transform(image)) - len(whole)) <= 2


@pytest.mark.parametrize("shape", [(7000, 3000), (16384, 16384), (3073, 9000)])
def test_tiles_cover_an_image_once(shape):
    count = np.zeros([n // 8 + 1 for n in shape], dtype=int)
    for tile in tiles.image_tiles(shape, 96):
        assert all(s.start <= o.start and o.stop <= s.stop for s, o in zip(tile.searched, tile.own, strict=True))
        assert all(o.stop - o.start <= tiles.CONSTANTS.edge for o in tile.own)
        y, x = (slice(-(-o.start // 8), -(-o.stop // 8)) for o in tile.own)
        count[y, x] += 1
    assert (count[: -(-shape[0] // 8), : -(-shape[1] // 8)] == 1).all()


def test_an_image_without_columns_has_an_empty_table(monkeypatch):
    small = dataclasses.replace(tiles.CONSTANTS, largest_search=1000, edge=64)
    monkeypatch.setattr(tiles, "CONSTANTS", small)
    flat = stemkit.calibrated(np.random.default_rng(0).normal(100.0, 1.0, (128, 130)), pixel_size=0.02)
    table = AtomDetector(width=0.06, spacing=0.3).fit_transform(flat.assign_attrs(mode="haadf"))
    assert len(table) <= 2
    assert "y_px" in table
