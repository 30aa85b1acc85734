from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, crystal, displacements, seeds

from stemkit import NoiseCalibrator, NoiseModel, PointwiseNoise, RowAligner, ScanNoise
from stemkit.noise.displacement_parts import DisplacementParts
from stemkit.noise.hum import lattice_frequency_bands
from stemkit.noise.posterior import RowPosterior
from stemkit.noise.row_alignment import _limit_slow
from stemkit.noise.spectrum import RowSpectrum, drift_factor, drift_spectrum, row_spectrum
from stemkit.noise.spectrum_fit import fit_displacement_spectra

N_ROWS = 320
FEW = settings(max_examples=5)
#: Suffixes of the names of displacements along x and along y.
suffixes = st.sampled_from(["", "_y"])


# --- spectra -----------------------------------------------------------------------------------------------------


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
    assert ((bands[:, 0] < 0.0625) & (bands[:, 1] > 0.0625)).any()
    assert fit_displacement_spectra([spectrum], bands)[0].hum == 0
    assert len(lattice_frequency_bands(None, 256)) == 0


@FEW
@given(st.floats(1.0, 20.0))
def test_the_spectrum_of_a_drift_is_that_of_its_autocovariance(rows):
    n = 120
    factor = drift_factor(n, rows)
    lag = np.arange(n)
    covariance = factor @ factor.T
    np.testing.assert_allclose(covariance, np.exp(-(((lag[:, None] - lag) / (2 * rows)) ** 2)), atol=2e-4)
    assert drift_spectrum(n, rows).sum() == pytest.approx(n)


def test_a_fitted_noise_of_zero_leaves_displacements_finite():
    n = 40
    values, vectors = np.ones(n), np.eye(n)
    parts = DisplacementParts(0.3, 0.5, 4.0, noise=0.0, std={"drift^2": 0.01, "jitter^2": 0.01})
    posterior = RowPosterior.of(values, vectors, parts)
    score = np.random.default_rng(0).normal(size=n)
    drift, found = posterior.drift(score, parts)
    assert np.isfinite(drift).all()
    assert np.isfinite(found.drift)
    assert np.isfinite(posterior.jitter(score, found)).all()


@FEW
@given(st.floats(0.2, 0.6), st.floats(0.4, 1.0), st.floats(2.0, 8.0), seeds)
def test_expected_drift_and_jitter_are_those_of_a_gaussian_process(jitter, drift, rows, seed):
    rng = np.random.default_rng(seed)
    n = 60
    root = rng.normal(size=(n, n))
    information = root @ root.T / n + np.eye(n)
    values, vectors = np.linalg.eigh(information)
    score = rng.normal(size=n)
    parts = DisplacementParts(jitter, drift, rows, std={"drift^2": 0.0, "jitter^2": 0.0})
    posterior = RowPosterior.of(values, vectors, parts)
    expected, found = posterior.drift(vectors.T @ score, parts)
    slow = drift**2 * drift_factor(n, rows) @ drift_factor(n, rows).T
    whole = slow + jitter**2 * np.eye(n)
    direct = slow @ np.linalg.solve(np.eye(n) + information @ whole, score)
    np.testing.assert_allclose(expected, direct - direct.mean(), atol=1e-8)
    left = np.linalg.inv(np.linalg.inv(whole) + information)
    covariance = vectors @ posterior.apply_displacement_covariance(vectors.T @ np.eye(n))
    np.testing.assert_allclose(covariance, left, atol=1e-8)
    center = np.eye(n) - 1 / n
    own = slow - slow @ information @ np.linalg.solve(np.eye(n) + whole @ information, slow)
    mean_square = float(expected @ expected + np.trace(center @ own)) / n
    assert found.drift == pytest.approx(math.sqrt(mean_square), rel=1e-6)


# --- images ------------------------------------------------------------------------------------------------------

SHAPE = (256, 256)
CLEAN = crystal(SHAPE, angle=0.3)


def calibrated(scan: ScanNoise, seed: int, readout: float = 0.05) -> NoiseCalibrator:
    image = NoiseModel(scan=scan, pointwise=PointwiseNoise(readout)).apply(CLEAN, random_state=seed)
    return NoiseCalibrator(mode="haadf").fit(image)


@settings(max_examples=4)
@given(suffixes, st.floats(0.2, 0.4), st.floats(0.5, 0.8), st.floats(2.0, 3.5), st.integers(0, 1000))
def test_drift_in_an_image_is_found(suffix, jitter, drift, rows, seed):
    scan = ScanNoise(**{f"jitter{suffix}": jitter, f"drift{suffix}": drift}, drift_rows=rows)
    calibrator = calibrated(scan, seed)
    found, std = calibrator.noise_model_.scan, calibrator.noise_model_std_
    drawn = displacements(NoiseModel(scan=scan), SHAPE, seed, 0 if suffix else 1)[8:-8, 128]
    assert getattr(found, f"displacement{suffix}") == pytest.approx(drawn.std(), rel=0.2)
    # a draw of a drift has more or less than its expected variance
    assert abs(getattr(found, f"drift{suffix}") - drift) < SIGMAS * math.hypot(
        std[f"scan.drift{suffix}"], drift * math.sqrt(math.sqrt(2 * math.pi) * rows / (2 * SHAPE[0]))
    )
    assert abs(found.drift_rows - rows) < SIGMAS * std["scan.drift_rows"] + 0.1 * rows
    assert abs(getattr(found, f"jitter{suffix}") - jitter) < 0.2 * jitter + SIGMAS * std[f"scan.jitter{suffix}"]


@settings(max_examples=4)
@given(suffixes, st.floats(0.3, 0.6), st.floats(1.4, 9.0), st.integers(0, 1000))
def test_hum_in_an_image_is_found_with_its_period(suffix, hum, period, seed):
    # frequencies near 1/2 per row cannot be distinguished from their aliases
    frequency = 1 / period
    assume(abs(frequency - 0.5) > 0.03)
    scan = ScanNoise(**{f"hum{suffix}": hum, f"jitter{suffix}": 0.2}, hum_period=1 / frequency)
    calibrator = calibrated(scan, seed)
    found, std = calibrator.noise_model_.scan, calibrator.noise_model_std_
    assert abs(getattr(found, f"hum{suffix}") - hum) < SIGMAS * std[f"scan.hum{suffix}"] + 0.1 * hum
    assert abs(1 / found.hum_period - frequency) < SIGMAS * std["scan.hum_period"] * frequency**2 + 1e-4
    assert found.drift == found.drift_y == 0


@pytest.mark.parametrize("scan", [ScanNoise(), ScanNoise(0.05, 20.0, 0.4, jitter_y=0.3), ScanNoise(jitter=0.8)])
def test_an_image_without_drift_and_hum_has_none(scan):
    calibrator = calibrated(scan, 0, readout=0.1)
    found, std = calibrator.noise_model_.scan, calibrator.noise_model_std_
    assert (found.drift, found.drift_y, found.hum, found.hum_y, found.short_amplitude) == (0, 0, 0, 0, 0)
    assert all(std[f"scan.{name}"] > 0 for name in ("drift", "drift_y", "hum", "hum_y"))
    assert math.isnan(std["scan.drift_rows"])
    assert math.isnan(std["scan.hum_period"])


def test_lengths_are_means_over_the_images_that_have_them():
    still = NoiseModel(scan=ScanNoise(jitter=0.2), pointwise=PointwiseNoise(0.05))
    humming = replace(still, scan=replace(still.scan, hum=0.6, hum_period=4.3))
    images = [one.apply(CLEAN, random_state=i) for i, one in enumerate((still, humming, still))]
    calibrator = NoiseCalibrator(mode="haadf").fit(images)
    found = calibrator.noise_model_.scan
    assert found.hum_period == pytest.approx(4.3, abs=0.02)
    assert found.hum == pytest.approx(0.2, rel=0.15)
    assert calibrator.noise_model_std_["scan.hum"] > 0.1


def test_rows_with_drift_are_aligned():
    scan = ScanNoise(jitter=0.15, drift=0.6, drift_rows=2.5)
    model = NoiseModel(scan=scan, pointwise=PointwiseNoise(0.15))
    noisy = model.apply(CLEAN, random_state=3)
    shifts = RowAligner(mode="haadf").fit(noisy).shifts_[0]
    true = displacements(model, SHAPE, 3)[:, 128]
    left, before = (shifts - true)[4:-4].std(), true[4:-4].std()
    assert left < 0.45 * before


def test_a_slow_displacement_is_kept_as_far_as_the_drift_has_it():
    rng = np.random.default_rng(0)
    slow = np.sin(2 * np.pi * 1.5 * np.arange(N_ROWS) / N_ROWS)
    rows = 0.1 * rng.normal(size=N_ROWS) + slow
    parts = DisplacementParts(0.1, 1.5, 20.0)
    kept = [
        float((_limit_slow(rows, 60.0, one) * slow).sum() / (slow**2).sum()) for one in (DisplacementParts(), parts)
    ]
    assert kept[0] < 0.3
    assert kept[1] > 0.8
