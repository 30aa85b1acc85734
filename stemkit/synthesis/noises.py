"""Random noise, with the distribution of that of many microscopes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stemkit.noise.drawing import NoiseParameters
from stemkit.synthesis.chance import log_uniform, pick, uniform

__all__ = ["draw_noise"]


@dataclass(frozen=True)
class _Constants:
    """Distribution of the noise; ranges are from the lowest to the highest value."""

    #: Standard deviation of the noise that does not depend on the signal, fraction of the contrast (chosen).
    readout: tuple[float, float] = (0.01, 0.6)
    #: Fraction of the images with counted electrons (chosen).
    counted: float = 0.35
    #: Electrons per pixel at a column where they are counted (chosen).
    dose: tuple[float, float] = (1.5, 300.0)
    #: Variance between the columns where electrons are counted, in electrons per pixel squared of the dose (chosen).
    counted_background: tuple[float, float] = (0.02, 1.5)
    #: Fraction of the images with counted electrons whose noise has the distribution of counts (chosen).
    poisson: float = 0.7
    #: Increase of the variance from the background to a column where electrons are not counted, in units of twice the
    #: variance of the background; negative values are 0 (chosen).
    gain: tuple[float, float] = (-0.3, 1.0)
    #: Tukey lambda of the distribution of the noise (chosen: from heavy tails to normal).
    shape: tuple[float, float] = (-0.1, 0.2)
    #: Fraction of the images whose noise is correlated along the row (chosen).
    correlated: float = 0.4
    #: Correlation of neighbouring pixels of a row (chosen).
    correlation: tuple[float, float] = (0.0, 0.5)
    #: Fraction of the images with streaks (chosen).
    streaked: float = 0.7
    #: Amplitude of streaks, fraction of the contrast (chosen).
    streaks: tuple[float, float] = (0.01, 0.2)
    #: Length of streaks and of jitter along the row, px (chosen).
    length: tuple[float, float] = (4.0, 60.0)
    #: Fraction of the images in which streaks are whole rows (chosen).
    whole_streaks: float = 0.4
    #: Fraction of the images with a background (chosen).
    clouded: float = 0.7
    #: Amplitude of the background, fraction of the contrast (chosen).
    background: tuple[float, float] = (0.0, 0.12)
    #: Length of the background, px (chosen).
    background_length: tuple[float, float] = (8.0, 64.0)
    #: Fraction of the images on digital levels (chosen).
    digital: float = 0.3
    #: Step between digital levels, fraction of the contrast (chosen).
    step: tuple[float, float] = (0.005, 0.02)
    #: Fraction of the images with displaced rows (chosen).
    displaced: float = 0.75
    #: RMS displacement of independent rows, fraction of the spacing (chosen).
    jitter: tuple[float, float] = (0.004, 0.07)
    #: Largest RMS displacement of the beam, px (chosen).
    max_jitter: float = 3.0
    #: Fraction of the images with displaced rows that are displaced along y, too (chosen).
    displaced_along_y: float = 0.4
    #: Displacement along y, if there is one, relative to that along x (chosen).
    across: tuple[float, float] = (0.3, 1.0)
    #: Fraction of the images in which whole rows are displaced (chosen).
    whole_rows: float = 0.5

    # Displacement of the beam as in recorded scans. "Measured": by NoiseCalibrator in fourteen recorded images of
    # crystals (benchmarks/realism.py --recipe compares them with this recipe). Unless stated otherwise, a range is the
    # measured one widened by half at both ends. Averaged and aligned images have less displacement: they correspond to
    # the other images.
    #: Fraction of the images with displaced rows that have this displacement; the others have independent rows. Chosen.
    scanned: float = 0.5
    #: RMS displacement along x, px. Measured: 0.22 to 1.83 in single scans, 0.03 to 0.26 in averages.
    along_x: tuple[float, float] = (0.15, 2.8)
    #: RMS displacement along y, px. Measured: 0.3 to 1.4; chosen above that: 2.2 was measured at less noise. Limited by
    #: ``max_jitter``.
    along_y: tuple[float, float] = (0.2, max_jitter)
    #: Largest RMS displacement as a fraction of the spacing, where that is less: columns remain apart. Chosen.
    max_fraction: float = 0.1
    #: Length of the jitter along the row, px. Measured: 24 to 214.
    scan_length: tuple[float, float] = (16.0, 375.0)
    #: Fraction of the variance that is drift. Measured: 0.14 to 0.55 in six of fourteen images; limited so that with
    #: the largest hum some jitter is left.
    drift_share: tuple[float, float] = (0.05, 0.6)
    #: Correlation length of the drift, rows. Measured: 1.4 to 12; chosen above that: slower drift cannot be
    #: distinguished from strain of the specimen.
    drift_rows: tuple[float, float] = (1.0, 40.0)
    #: Fraction of these images that show mains hum. Measured: in six of fourteen.
    humming: float = 0.45
    #: Fraction of the variance that is hum. Measured: 0.015 to 0.26.
    hum_share: tuple[float, float] = (0.01, 0.38)
    #: Period of the hum, rows. Measured: 1.9 to 16; chosen above that: 20 was found by another method.
    hum_period: tuple[float, float] = (1.3, 30.0)
    #: Fraction of images with short streaks. Measured: in half of the images; chosen below that: simple noise stays.
    shortly_streaked: float = 0.35
    #: Amplitude of short streaks as a fraction of the contrast. Measured: 0.02 to 0.06, with or without longer ones.
    short_streaks: tuple[float, float] = (0.013, 0.105)
    #: Length of short streaks along the row, px. Measured: 1.5 to 7, where they are the only ones.
    short_streak_length: tuple[float, float] = (1.0, 10.5)


CONSTANTS = _Constants()


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
    readout = log_uniform(g, n, *CONSTANTS.readout)
    electron = 1.0 / log_uniform(g, n, *CONSTANTS.dose)
    counted = pick(g, n, CONSTANTS.counted).bool()
    gain = torch.where(counted, electron, uniform(g, n, *CONSTANTS.gain).clamp_min(0) * readout**2 * 2)
    # counting detectors have a readout noise of a fraction of an electron, and detect some electrons between the
    # columns; in bright field there are more electrons than the columns remove
    least = electron * uniform(g, n, *CONSTANTS.counted_background)
    readout = torch.where(counted, (least + dark * depth * electron).sqrt(), readout)
    gain = torch.where(dark, -torch.minimum(gain, readout**2 / depth), gain)
    correlation = pick(g, n, CONSTANTS.correlated) * uniform(g, n, *CONSTANTS.correlation)
    streaks = pick(g, n, CONSTANTS.streaked) * log_uniform(g, n, *CONSTANTS.streaks)
    moved = pick(g, n, CONSTANTS.displaced)
    jitter = moved * (log_uniform(g, n, *CONSTANTS.jitter) * spacing).clamp(max=CONSTANTS.max_jitter)
    jitter_y = pick(g, n, CONSTANTS.displaced_along_y) * uniform(g, n, *CONSTANTS.across) * jitter
    whole = pick(g, n, CONSTANTS.whole_rows).bool()
    length = log_uniform(g, n, *CONSTANTS.length)
    scanned = (moved * pick(g, n, CONSTANTS.scanned)).bool()
    along_x, along_y = (_displacement(spacing, limits, g) for limits in (CONSTANTS.along_x, CONSTANTS.along_y))
    scan_length = log_uniform(g, n, *CONSTANTS.scan_length)
    unknown = torch.full((n,), math.nan, device=g.device)
    digital = pick(g, n, CONSTANTS.digital).bool()
    return NoiseParameters(
        background=pick(g, n, CONSTANTS.clouded) * uniform(g, n, *CONSTANTS.background),
        background_length=log_uniform(g, n, *CONSTANTS.background_length),
        streaks=streaks,
        streak_length=torch.where(
            pick(g, n, CONSTANTS.whole_streaks).bool(), torch.inf, log_uniform(g, n, *CONSTANTS.length)
        ),
        jitter=torch.where(scanned, along_x.jitter, jitter),
        jitter_length=torch.where(whole, torch.inf, torch.where(scanned, scan_length, length)),
        readout=readout,
        gain=gain,
        shape=uniform(g, n, *CONSTANTS.shape),
        correlation_x=torch.where(counted, torch.zeros_like(correlation), correlation),
        poisson=counted & pick(g, n, CONSTANTS.poisson).bool(),
        low=unknown,
        high=unknown,
        step=torch.where(digital, log_uniform(g, n, *CONSTANTS.step), unknown),
        step_origin=torch.zeros(n, device=g.device),
        jitter_y=torch.where(scanned, along_y.jitter, jitter_y),
        drift=scanned * along_x.drift,
        drift_y=scanned * along_y.drift,
        drift_rows=log_uniform(g, n, *CONSTANTS.drift_rows),
        hum=scanned * along_x.hum,
        hum_y=scanned * along_y.hum,
        hum_period=log_uniform(g, n, *CONSTANTS.hum_period),
        short_streaks=pick(g, n, CONSTANTS.shortly_streaked) * log_uniform(g, n, *CONSTANTS.short_streaks),
        short_streak_length=log_uniform(g, n, *CONSTANTS.short_streak_length),
    )


class _Displacement(NamedTuple):
    """The parts of a displacement along one axis: RMS of jitter and drift, amplitude of hum, px."""

    jitter: Tensor
    drift: Tensor
    hum: Tensor


def _displacement(spacing: Tensor, limits: tuple[float, float], g: torch.Generator) -> _Displacement:
    """A displacement as real scans show it: its RMS between limits, and how its variance is divided."""
    n = len(spacing)
    largest = (CONSTANTS.max_fraction * spacing).clamp(limits[0], limits[1])
    rms = limits[0] * (largest / limits[0]) ** uniform(g, n, 0.0, 1.0)
    drift = uniform(g, n, *CONSTANTS.drift_share)
    hum = pick(g, n, CONSTANTS.humming) * uniform(g, n, *CONSTANTS.hum_share)
    # the mean square of a sine is half of its amplitude squared
    return _Displacement(rms * (1 - drift - hum).sqrt(), rms * drift.sqrt(), rms * (2 * hum).sqrt())
