from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, seeds

from stemkit.noise.hum import lattice_frequency_bands
from stemkit.noise.spectrum import RowSpectrum, drift_factor, row_spectrum
from stemkit.noise.spectrum_fit import fit_displacement_spectra

N_ROWS = 320


def spectrum_of(rows: np.ndarray, noise: float, rng: np.random.Generator) -> RowSpectrum:
    """Spectrum of displacements of rows that are measured with errors of this standard deviation."""
    n = len(rows)
    read = rows + noise * rng.normal(size=n)
    values = np.full(n, noise**-2.0)
    return row_spectrum(values, np.eye(n), values * read, 1.0)


def drawn(
    rng: np.random.Generator, jitter: float, drift: float, rows: float, hum: float, frequency: float
) -> np.ndarray:
    factor = drift_factor(N_ROWS, rows)
    wave = hum * np.sin(2 * np.pi * (frequency * np.arange(N_ROWS) + rng.uniform()))
    return jitter * rng.normal(size=N_ROWS) + drift * factor @ rng.normal(size=factor.shape[1]) + wave


@settings(max_examples=15)
@given(st.floats(0.3, 0.6), st.floats(0.4, 1.0), st.floats(2.0, 6.0), st.floats(0.5, 1.0), st.floats(0.1, 0.45), seeds)
def test_jitter_drift_and_hum_are_separated(jitter, drift, rows, hum, frequency, seed):
    rng = np.random.default_rng(seed)
    found = fit_displacement_spectra(
        [spectrum_of(drawn(rng, jitter, drift, rows, hum, frequency), 0.2, rng) for _ in range(2)]
    )
    for parts in found:
        assert abs(parts.jitter**2 - jitter**2) < SIGMAS * parts.std["jitter^2"]
        # a draw of a drift has more or less than its expected variance
        own = drift**2 * math.sqrt(2 * math.sqrt(2 * math.pi) * rows / N_ROWS)
        assert abs(parts.drift**2 - drift**2) < SIGMAS * math.hypot(parts.std["drift^2"], own)
        assert abs(parts.drift_rows - rows) < SIGMAS * parts.std["drift_rows"] + 0.1 * rows
        assert abs(parts.hum - hum) < SIGMAS * parts.std["hum"]
        assert abs(parts.hum_frequency - frequency) < SIGMAS * parts.std["hum_frequency"]


@settings(max_examples=15)
@given(st.floats(0.0, 1.0), seeds)
def test_independent_rows_have_neither_drift_nor_hum(jitter, seed):
    rng = np.random.default_rng(seed)
    parts = fit_displacement_spectra([spectrum_of(jitter * rng.normal(size=N_ROWS), 0.1, rng)])[0]
    # both appear once in a thousand draws
    assert parts.drift == parts.hum == 0
    assert math.isnan(parts.hum_frequency)
    assert 0 < parts.std["drift"] < 0.3 * max(jitter, 0.1)
    assert 0 < parts.std["hum"] < 0.3 * max(jitter, 0.1)


def test_no_hum_is_found_at_frequencies_of_the_lattice():
    rng = np.random.default_rng(0)
    spectrum = spectrum_of(drawn(rng, 0.3, 0.0, 1.0, 0.5, 0.0625), 0.1, rng)
    assert fit_displacement_spectra([spectrum])[0].hum > 0.3
    bands = lattice_frequency_bands(np.array([[16.0, 0.0], [0.0, 16.0]]), 256)
    assert fit_displacement_spectra([spectrum], bands)[0].hum == 0
