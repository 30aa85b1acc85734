"""Jitter, drift and hum from readings of the rows."""

import numpy as np
import pytest

from stemkit import ScanNoise
from stemkit.series import draw_displacements
from stemkit.series.prior import measured_scan_noise
from stemkit.series.rows import RowReadings, trends_of, without_trends

NOISE = 0.2


def readings(n_frames, n_rows, scan, seed, trend=(0.0, 0.0, 0.0)):
    """What rows of equal information tell of displacements about the mean of the frames."""
    moved = draw_displacements(n_frames, n_rows, scan=scan, random_state=seed)
    moved = moved - moved.mean(0) + (trends_of(n_rows) @ np.array(trend))[:, None]
    random = np.random.default_rng(seed)
    information = np.full((2, n_rows), NOISE**-2)
    return [RowReadings(one.T + NOISE * random.normal(size=(2, n_rows)), information, 1.0) for one in moved]


@pytest.mark.parametrize("n_rows", [128, 160])
def test_drift_is_not_lost_with_the_trends_of_short_frames(n_rows):
    # 11 or 13 lengths of the drift in a frame, of whose RMS the constant, line and parabola take a third
    scan = ScanNoise(jitter=0.2, jitter_y=0.2, drift=0.4, drift_y=0.4, drift_rows=12.0)
    flat = np.zeros((n_rows, n_rows))
    found = [measured_scan_noise(readings(8, n_rows, scan, seed), 8, flat) for seed in range(6)]
    # the error of an RMS from 6 * 8 frames with some five independent values each is about 5 %
    for name in ("drift", "drift_y"):
        assert np.sqrt(np.mean([getattr(one, name) ** 2 for one in found])) == pytest.approx(0.4, rel=0.2)
    assert np.median([one.drift_rows for one in found]) == pytest.approx(12.0, rel=0.2)


def test_the_drift_of_few_rows_is_not_extrapolated():
    # 8 lengths of the drift in a frame: its mean square over series without a limit of the length is 0.46^2
    scan = ScanNoise(jitter=0.2, jitter_y=0.2, drift=0.4, drift_y=0.4, drift_rows=12.0)
    found = [measured_scan_noise(readings(8, 96, scan, seed), 8, np.zeros((96, 96))) for seed in range(8)]
    assert max(one.drift_rows for one in found) <= 0.13 * 96
    squares = [getattr(one, name) ** 2 for one in found for name in ("drift", "drift_y")]
    assert np.sqrt(np.mean(squares)) == pytest.approx(0.4, rel=0.1)


def test_trends_are_no_drift():
    scan = ScanNoise(jitter=0.2, jitter_y=0.2)
    with_trend, without = (
        measured_scan_noise(readings(6, 128, scan, 1, trend), 6, np.zeros((128, 128)))
        for trend in ((3.0, 5.0, -2.0), (0.0, 0.0, 0.0))
    )
    assert with_trend.jitter == pytest.approx(without.jitter, rel=1e-3)
    assert with_trend.drift == pytest.approx(without.drift, abs=1e-3)
    assert with_trend.jitter == pytest.approx(0.2, rel=0.2)


def test_trends_are_fitted_by_the_information_of_the_rows():
    (one,) = readings(1, 64, ScanNoise(), 0, (2.0, -3.0, 1.0))
    information = np.where(np.arange(64) < 40, one.information, 0.0)
    place = np.where(np.arange(64) < 40, one.place, 1e3)
    rest = without_trends(RowReadings(place, information, 1.0))
    assert np.abs(rest[:, :40]).max() < 4.5 * NOISE
    assert (rest[:, 40:] == 0).all()
