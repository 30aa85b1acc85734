"""Random noise, with the distribution of that of many microscopes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from stemkit.noise.drawing import NoiseParameters
from stemkit.synthesis.chance import log_uniform, pick, uniform

__all__ = ["draw_noise"]

Range = tuple[float, float]
#: Standard deviation of the noise that does not depend on the signal, fraction of the contrast (chosen).
READOUT: Range = (0.01, 0.6)
#: Fraction of the images with counted electrons (chosen).
COUNTED = 0.35
#: Electrons per pixel at a column where they are counted (chosen).
DOSE: Range = (1.5, 300.0)
#: Variance between the columns where electrons are counted, in electrons per pixel squared of the dose (chosen).
COUNTED_BACKGROUND: Range = (0.02, 1.5)
#: Fraction of the images with counted electrons whose noise has the distribution of counts (chosen).
POISSON = 0.7
#: Increase of the variance from the background to a column where electrons are not counted, in units of twice the
#: variance of the background; negative values are 0 (chosen).
GAIN: Range = (-0.3, 1.0)
#: Tukey lambda of the distribution of the noise (chosen: from heavy tails to normal).
SHAPE: Range = (-0.1, 0.2)
#: Fraction of the images whose noise is correlated along the row (chosen).
CORRELATED = 0.4
#: Correlation of neighbouring pixels of a row (chosen).
CORRELATION: Range = (0.0, 0.5)
#: Fraction of the images with streaks (chosen).
STREAKED = 0.7
#: Amplitude of streaks, fraction of the contrast (chosen).
STREAKS: Range = (0.01, 0.2)
#: Length of streaks and of jitter along the row, px (chosen).
LENGTH: Range = (4.0, 60.0)
#: Fraction of the images in which streaks are whole rows (chosen).
WHOLE_STREAKS = 0.4
#: Fraction of the images with a background (chosen).
CLOUDED = 0.7
#: Amplitude of the background, fraction of the contrast (chosen).
BACKGROUND: Range = (0.0, 0.12)
#: Length of the background, px (chosen).
BACKGROUND_LENGTH: Range = (8.0, 64.0)
#: Fraction of the images on digital levels (chosen).
DIGITAL = 0.3
#: Step between digital levels, fraction of the contrast (chosen).
STEP: Range = (0.005, 0.02)
#: Fraction of the images with displaced rows (chosen).
DISPLACED = 0.75
#: RMS displacement of independent rows, fraction of the spacing (chosen).
JITTER: Range = (0.004, 0.07)
#: Largest RMS displacement of the beam, px (chosen).
LARGEST_JITTER = 3.0
#: Fraction of the images with displaced rows that are displaced along y, too (chosen).
DISPLACED_ALONG_Y = 0.4
#: Displacement along y, if there is one, relative to that along x (chosen).
ACROSS: Range = (0.3, 1.0)
#: Fraction of the images in which whole rows are displaced (chosen).
WHOLE_ROWS = 0.5

# Displacement of the beam as in recorded scans. "Measured": by NoiseCalibrator in fourteen recorded images of crystals
# (benchmarks/realism.py --recipe compares them with this recipe). Unless stated otherwise, a range is the measured one
# widened by half at both ends. Averaged and aligned images have less displacement: they correspond to the other images.
#: Fraction of the images with displaced rows that have this displacement; the others have independent rows. Chosen.
SCANNED = 0.5
#: RMS displacement along x, px. Measured: 0.22 to 1.83 in single scans, 0.03 to 0.26 in averages.
ALONG_X: Range = (0.15, 2.8)
#: RMS displacement along y, px. Measured: 0.3 to 1.4; chosen above that: 2.2 was measured at less noise. Limited by
#: LARGEST_JITTER.
ALONG_Y: Range = (0.2, LARGEST_JITTER)
#: Largest RMS displacement as a fraction of the spacing, where that is less: columns remain apart. Chosen.
LARGEST_FRACTION = 0.1
#: Length of the jitter along the row, px. Measured: 24 to 214.
SCAN_LENGTH: Range = (16.0, 375.0)
#: Fraction of the variance that is drift. Measured: 0.14 to 0.55 in six of fourteen images; limited so that with the
#: largest hum some jitter is left.
DRIFT_SHARE: Range = (0.05, 0.6)
#: Correlation length of the drift, rows. Measured: 1.4 to 12; chosen above that: slower drift cannot be distinguished
#: from strain of the specimen.
DRIFT_ROWS: Range = (1.0, 40.0)
#: Fraction of these images that show mains hum. Measured: in six of fourteen.
HUMMING = 0.45
#: Fraction of the variance that is hum. Measured: 0.015 to 0.26.
HUM_SHARE: Range = (0.01, 0.38)
#: Period of the hum, rows. Measured: 1.9 to 16; chosen above that: 20 was found by another method.
HUM_PERIOD: Range = (1.3, 30.0)
#: Fraction of images with short streaks. Measured: in half of the images; chosen below that: simple noise stays.
SHORTLY_STREAKED = 0.35
#: Amplitude of short streaks as a fraction of the contrast. Measured: 0.02 to 0.06, with or without longer ones.
SHORT_STREAKS: Range = (0.013, 0.105)
#: Length of short streaks along the row, px. Measured: 1.5 to 7, where they are the only ones.
SHORT_STREAK_LENGTH: Range = (1.0, 10.5)


def draw_noise(
    spacing: Tensor, generator: torch.Generator, dark: Tensor | None = None, depth: Tensor | None = None
) -> NoiseParameters:
    """Noise of many microscopes: from averaged series to a few electrons per column; jitter grows with the spacing.

    Where ``dark`` marks bright-field images, electrons are fewer where matter is: the gain is negative, and electrons
    are left at the deepest place, ``depth`` contrasts (1 where not given) below the level.
    """
    n, g = len(spacing), generator
    dark = torch.zeros(n, dtype=torch.bool, device=g.device) if dark is None else dark
    depth = torch.ones(n, device=g.device) if depth is None else depth.clamp_min(1.0)
    readout = log_uniform(g, n, *READOUT)
    electron = 1.0 / log_uniform(g, n, *DOSE)
    counted = pick(g, n, COUNTED).bool()
    gain = torch.where(counted, electron, uniform(g, n, *GAIN).clamp_min(0) * readout**2 * 2)
    # counting detectors have a readout noise of a fraction of an electron, and detect some electrons between the
    # columns; in bright field there are more electrons than the columns remove
    least = electron * uniform(g, n, *COUNTED_BACKGROUND)
    readout = torch.where(counted, (least + dark * depth * electron).sqrt(), readout)
    gain = torch.where(dark, -torch.minimum(gain, readout**2 / depth), gain)
    correlation = pick(g, n, CORRELATED) * uniform(g, n, *CORRELATION)
    streaks = pick(g, n, STREAKED) * log_uniform(g, n, *STREAKS)
    moved = pick(g, n, DISPLACED)
    jitter = moved * (log_uniform(g, n, *JITTER) * spacing).clamp(max=LARGEST_JITTER)
    jitter_y = pick(g, n, DISPLACED_ALONG_Y) * uniform(g, n, *ACROSS) * jitter
    whole = pick(g, n, WHOLE_ROWS).bool()
    length = log_uniform(g, n, *LENGTH)
    scanned = (moved * pick(g, n, SCANNED)).bool()
    along_x, along_y = (_displacement(spacing, limits, g) for limits in (ALONG_X, ALONG_Y))
    scan_length = log_uniform(g, n, *SCAN_LENGTH)
    nothing = torch.full((n,), math.nan, device=g.device)
    digital = pick(g, n, DIGITAL).bool()
    return NoiseParameters(
        background=pick(g, n, CLOUDED) * uniform(g, n, *BACKGROUND),
        background_length=log_uniform(g, n, *BACKGROUND_LENGTH),
        streaks=streaks,
        streak_length=torch.where(pick(g, n, WHOLE_STREAKS).bool(), torch.inf, log_uniform(g, n, *LENGTH)),
        jitter=torch.where(scanned, along_x.jitter, jitter),
        jitter_length=torch.where(whole, torch.inf, torch.where(scanned, scan_length, length)),
        readout=readout,
        gain=gain,
        shape=uniform(g, n, *SHAPE),
        correlation_x=torch.where(counted, torch.zeros_like(correlation), correlation),
        poisson=counted & pick(g, n, POISSON).bool(),
        low=nothing,
        high=nothing,
        step=torch.where(digital, log_uniform(g, n, *STEP), nothing),
        step_origin=torch.zeros(n, device=g.device),
        jitter_y=torch.where(scanned, along_y.jitter, jitter_y),
        drift=scanned * along_x.drift,
        drift_y=scanned * along_y.drift,
        drift_rows=log_uniform(g, n, *DRIFT_ROWS),
        hum=scanned * along_x.hum,
        hum_y=scanned * along_y.hum,
        hum_period=log_uniform(g, n, *HUM_PERIOD),
        short_streaks=pick(g, n, SHORTLY_STREAKED) * log_uniform(g, n, *SHORT_STREAKS),
        short_streak_length=log_uniform(g, n, *SHORT_STREAK_LENGTH),
    )


class _Displacement(NamedTuple):
    """The parts of a displacement along one axis: RMS of jitter and drift, amplitude of hum, px."""

    jitter: Tensor
    drift: Tensor
    hum: Tensor


def _displacement(spacing: Tensor, limits: Range, g: torch.Generator) -> _Displacement:
    """A displacement as real scans show it: its RMS between limits, and how its variance is divided."""
    n = len(spacing)
    largest = (LARGEST_FRACTION * spacing).clamp(limits[0], limits[1])
    rms = limits[0] * (largest / limits[0]) ** uniform(g, n, 0.0, 1.0)
    drift = uniform(g, n, *DRIFT_SHARE)
    hum = pick(g, n, HUMMING) * uniform(g, n, *HUM_SHARE)
    # the mean square of a sine is half of its amplitude squared
    return _Displacement(rms * (1 - drift - hum).sqrt(), rms * drift.sqrt(), rms * (2 * hum).sqrt())
