from __future__ import annotations

import math

import pytest
import torch
from strategies import SIGMAS

from stemkit.compute import torch_generator
from stemkit.synthesis import noises
from stemkit.synthesis.noises import draw_noise

N = 20_000
#: Correlation of the rows' displacements at lags 1, 2, 3 and 5 in recorded images.
RECORDED = [
    (0.53, 0.30, 0.32, 0.15),
    (0.57, 0.44, 0.31, 0.13),
    (0.31, 0.50, 0.26, 0.28),
    (0.39, 0.19, 0.14, -0.07),
    (-0.21, 0.37, -0.14, 0.04),
]


def rms(noise, suffix):
    return (
        noise.amplitude("jitter", suffix) ** 2
        + noise.amplitude("drift", suffix) ** 2
        + noise.amplitude("hum", suffix) ** 2 / 2
    ).sqrt()


@pytest.mark.parametrize(("suffix", "limits"), [("", noises.CONSTANTS.along_x), ("_y", noises.CONSTANTS.along_y)])
@pytest.mark.parametrize("spacing", [4.0, 12.0, 36.0])
def test_displacements_of_real_scans(suffix, limits, spacing):
    noise = draw_noise(torch.full((N,), spacing), torch_generator(0))
    scanned = noise.drift > 0
    # half of the three in four whose rows are displaced
    share = noises.CONSTANTS.displaced * noises.CONSTANTS.scanned
    assert abs(float(scanned.float().mean()) - share) < SIGMAS * math.sqrt(share * (1 - share) / N)
    size = rms(noise, suffix)[scanned]
    assert float(size.min()) >= limits[0] * (1 - 1e-5)
    assert float(size.max()) <= max(limits[0], min(limits[1], noises.CONSTANTS.max_fraction * spacing)) * (1 + 1e-5)
    humming = noise.amplitude("hum", suffix)[scanned] > 0
    assert abs(float(humming.float().mean()) - noises.CONSTANTS.humming) < SIGMAS * math.sqrt(0.25 / len(humming))


def test_the_others_have_independent_rows():
    noise = draw_noise(torch.full((N,), 20.0), torch_generator(0))
    simple = noise.drift == 0
    for name in ("drift_y", "hum", "hum_y"):
        assert not getattr(noise, name)[simple].any()
    assert (noise.jitter[simple] > 0).any()
    assert (noise.jitter[simple] == 0).any()
    assert ((noise.short_streaks > 0) & (noise.streaks > 0)).any()
    assert ((noise.short_streaks == 0) & (noise.streaks == 0)).any()


@pytest.mark.parametrize("lag", [1, 2, 3, 5])
def test_correlations_of_recorded_rows_are_in_the_drawn_range(lag):
    noise = draw_noise(torch.full((N,), 20.0), torch_generator(0))
    scanned = noise.drift > 0
    correlated = noise.drift**2 * torch.exp(-(lag**2) / (4 * noise.drift_rows**2))
    correlated += noise.hum**2 / 2 * torch.cos(2 * math.pi * lag / noise.hum_period)
    drawn = (correlated / rms(noise, "") ** 2)[scanned]
    place = [1, 2, 3, 5].index(lag)
    for recorded in RECORDED:
        # not at the very edge of what is drawn
        assert float(drawn.quantile(0.001)) < recorded[place] < float(drawn.quantile(0.999))


def fractions_of(noise):
    """How many images have a kind of noise, by its name, and how many were expected."""
    return {
        "background": (noise.background > 0, 0.7),
        "streaks": (noise.streaks > 0, 0.7),
        "long streaks": (noise.streak_length < torch.inf, 0.6),
        "short streaks": (noise.short_streaks > 0, noises.CONSTANTS.shortly_streaked),
        "displaced rows": (noise.jitter > 0, 0.75),
        # across the rows two in five of those with independent rows, and all of the others
        "displaced across": (noise.jitter_y > 0, 0.75 * (0.4 + 0.6 * noises.CONSTANTS.scanned)),
        "rows as a whole": (noise.jitter_length == torch.inf, 0.5),
        "correlated": (noise.correlation_x > 0, 0.4 * (1 - 0.35)),
        "Poisson": (noise.poisson, 0.35 * 0.7),
        "digital levels": (noise.step > 0, 0.3),
    }


def test_kinds_of_noise_are_as_frequent_and_as_large_as_stated():
    noise = draw_noise(torch.full((N,), 20.0), torch_generator(0))
    for name, (has, expected) in fractions_of(noise).items():
        error = SIGMAS * math.sqrt(expected * (1 - expected) / N)
        assert abs(float(has.float().mean()) - expected) < error, name
    ranges = {
        "background": noises.CONSTANTS.background,
        "streaks": noises.CONSTANTS.streaks,
        "short_streaks": noises.CONSTANTS.short_streaks,
        "short_streak_length": noises.CONSTANTS.short_streak_length,
        "correlation_x": noises.CONSTANTS.correlation,
        "hum_period": noises.CONSTANTS.hum_period,
        "drift_rows": noises.CONSTANTS.drift_rows,
        "step": (0.005, 0.02),
    }
    for name, (low, high) in ranges.items():
        values = getattr(noise, name)
        drawn = values[values > 0]
        assert float(drawn.min()) >= low * (1 - 1e-6), name
        # of thousands of values the largest is near the end of the range
        assert high * 0.98 < float(drawn.max()) <= high * (1 + 1e-6), name
