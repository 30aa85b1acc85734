from __future__ import annotations

import numpy as np
import pytest
from strategies import crystal

from stemkit import NoiseModel, PointwiseNoise
from stemkit.noise.scale import measure_scale, sublattice_threshold
from stemkit.noise.separation import separate_specimen


def test_threshold_between_two_sublattices():
    rng = np.random.default_rng(0)
    two = np.concatenate([rng.normal(1.0, 0.05, 60), rng.normal(0.5, 0.05, 80)])
    assert (two >= sublattice_threshold(two)).sum() == 60
    one = rng.normal(1.0, 0.1, 100)
    assert (one >= sublattice_threshold(one)).all()


def test_contrast_is_that_of_the_brighter_sublattice():
    true_image = 20.0 + 100.0 * crystal((224, 224), 22.0, 2.6, second=0.6)
    noisy = NoiseModel(100.0, 20.0, pointwise=PointwiseNoise(0.1)).apply(true_image, random_state=0)
    scale = measure_scale(separate_specimen(noisy))
    assert scale.contrast == pytest.approx(100.0, abs=5 * scale.contrast_std + 1.0)
    assert scale.level == pytest.approx(20.0, abs=5 * scale.level_std + 1.0)
    assert 0 < scale.contrast_std < 2.0


def test_contrast_without_columns_is_a_range_of_intensities():
    image = np.broadcast_to(np.linspace(0.0, 100.0, 64), (64, 64))
    scale = measure_scale(separate_specimen(image))
    # quantiles 0.05 and 0.995
    assert scale.level == pytest.approx(5.0, abs=2.0)
    assert scale.contrast == pytest.approx(94.5, abs=4.0)
    assert np.isnan(scale.contrast_std)
