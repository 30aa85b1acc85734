"""Tests of AtomDetector and NormalizedImage with faulty pixels."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import gaussians, lattice_positions

from stemkit import AtomDetector, NoiseCalibrator
from stemkit.detection import Quality
from stemkit.detection.normalized_image import NormalizedImage
from stemkit.images import split
from stemkit.metrics import match_columns

SHAPE = (160, 170)
POSITIONS = lattice_positions(SHAPE, 13.0, angle=0.1, margin=-9.0)
INSIDE = POSITIONS[((POSITIONS > 3) & (np.array(SHAPE) - 4 > POSITIONS)).all(axis=1)]


def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(100 * (0.1 + gaussians(SHAPE, POSITIONS, 2.4))).astype(float)


def spoiled(kind: str) -> np.ndarray:
    out = counts()
    if kind == "hot row":
        out[80] = 65535.0
    else:
        y, x = np.random.default_rng(1).integers(0, 160, (2, 1 if kind == "one" else 25))
        out[y, x] = 65535.0
    return out


def found(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the good columns, px, and the quality of all."""
    table = AtomDetector(mode="haadf").fit_transform(image)
    places, quality = table[["y_px", "x_px"]].to_numpy(), table["quality"].to_numpy()
    match = match_columns(places, INSIDE, 4.0)
    assert len(match.true) == len(INSIDE)
    inside = ((places > 3) & (places < np.array(SHAPE) - 4)).all(axis=1)
    assert inside.sum() == len(INSIDE)
    good = quality[match.found] == 0
    return (places[match.found] - INSIDE[match.true])[good], quality


@pytest.mark.parametrize("kind", ["one", "many", "hot row"])
def test_faulty_pixels_do_not_reduce_recall_or_accuracy(kind):
    without, _ = found(counts())
    errors, quality = found(spoiled(kind))
    assert np.sqrt((errors**2).mean()) < 1.04 * np.sqrt((without**2).mean())
    assert (quality & Quality.FAULTY_PIXELS > 0).sum() >= (1 if kind == "many" else 0)
    flagged = (quality & Quality.FAULTY_PIXELS > 0).mean()
    assert flagged < 0.25


def test_faulty_pixels_are_interpolated_and_marked():
    values, known = spoiled("many"), NoiseCalibrator(mode="haadf").fit(counts()).noise_model_
    image = NormalizedImage.from_image(split(values)[0], "haadf")
    assert image.faulty is not None
    np.testing.assert_array_equal(image.faulty, values == 65535)
    recorded = (values - image.noise.level) / image.noise.contrast
    np.testing.assert_allclose(image.recorded[~image.faulty], recorded[~image.faulty])
    assert image.recorded.max() < 2.0
    assert image.noise.contrast == pytest.approx(known.contrast, rel=0.01)
    assert NormalizedImage.from_image(split(counts())[0], "haadf").faulty is None
