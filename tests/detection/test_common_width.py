"""Tests of AtomDetector with a common width and a fixed background, for overlapping columns."""

import numpy as np
import pytest
from strategies import gaussians

import stemkit
from stemkit import AtomDetector
from stemkit.metrics import match_columns

SPACING, WIDTH, LEVEL = 14.5, 5.0, 40.0


def particle(seed: int, noise: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A round particle on a constant background: image, positions ``(n, 2)`` px and heights of its columns."""
    rng = np.random.default_rng(seed)
    i, j = (k.ravel() for k in np.mgrid[-8:9, -9:10])
    places = SPACING * np.column_stack([i * np.sqrt(3) / 2, j + 0.5 * (i % 2)]) + 112 + rng.uniform(-3, 3, 2)
    radius = np.hypot(*(places - 112).T)
    places, radius = places[radius < 80], radius[radius < 80]
    heights = 100 * np.sqrt(1 - (radius / 85) ** 2) * rng.uniform(0.7, 1.3, len(places))
    image = LEVEL + gaussians((224, 224), places, WIDTH, heights)
    return image + rng.normal(0, noise, image.shape), places, heights


@pytest.mark.parametrize("seed", range(3))
def test_intensities_of_overlapping_columns(seed):
    image, places, heights = particle(seed)
    detector = AtomDetector(common_width=True, background=LEVEL)
    table = detector.fit_transform(stemkit.calibrated(image.astype(np.float32), pixel_size=0.02))
    match = match_columns(table[["y_px", "x_px"]].to_numpy(), places, SPACING / 3)
    assert match.f1 > 0.98
    assert detector.width_ / 0.02 == pytest.approx(WIDTH, rel=0.08)
    assert table["sigma"].nunique() == 1
    assert table["sigma_err"].isna().all()
    intensity = table["intensity"].to_numpy()[match.found] / 0.02**2
    expected = 2 * np.pi * WIDTH**2 * heights[match.true]
    assert np.median(intensity / expected) == pytest.approx(1, abs=0.06)
    assert np.corrcoef(intensity, expected)[0, 1] > 0.99


def test_a_common_width_is_not_flagged():
    image, _, _ = particle(3)
    table = AtomDetector(common_width=True, width=WIDTH).fit_transform(image.astype(np.float32))
    assert not (table["quality"] & stemkit.detection.Quality.WIDTH_FIXED).any()
    assert table["sigma"].eq(WIDTH).all()
