from __future__ import annotations

import numpy as np

from stemkit.noise.hum import lattice_frequency_bands


def test_bands_contain_the_frequencies_of_the_lattice():
    bands = lattice_frequency_bands(np.array([[16.0, 0.0], [0.0, 16.0]]), 256)
    assert ((bands[:, 0] < 0.0625) & (bands[:, 1] > 0.0625)).any()
    assert len(lattice_frequency_bands(None, 256)) == 0
