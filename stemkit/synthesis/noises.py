"""The noise of many microscopes, drawn anew for each image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stemkit.noise.drawing import NoiseParameters
from stemkit.synthesis.chance import log_uniform, pick, uniform

__all__ = ["draw_noise"]

Range = tuple[float, float]
#: Ranges of the noise that is drawn anew for each image: fractions of the contrast, electrons per pixel at a column,
#: and jitter as a fraction of the spacing.
READOUT: Range = (0.01, 0.6)
DOSE: Range = (1.5, 300.0)
STREAKS: Range = (0.01, 0.2)
JITTER: Range = (0.004, 0.07)
CORRELATION: Range = (0.0, 0.5)
BACKGROUND: Range = (0.0, 0.12)
#: The beam trembles by less than this, px, and across the rows by this part of what it does along them, if at all.
LARGEST_JITTER = 3.0
ACROSS: Range = (0.3, 1.0)


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
    counted = pick(g, n, 0.35).bool()
    gain = torch.where(counted, electron, uniform(g, n, -0.3, 1.0).clamp_min(0) * readout**2 * 2)
    # counting detectors read out a fraction of an electron, and see some electrons between the columns; in bright
    # field there are more than matter takes away
    least = electron * uniform(g, n, 0.02, 1.5)
    readout = torch.where(counted, (least + dark * depth * electron).sqrt(), readout)
    gain = torch.where(dark, -torch.minimum(gain, readout**2 / depth), gain)
    correlation = pick(g, n, 0.4) * uniform(g, n, *CORRELATION)
    streaks = pick(g, n, 0.7) * log_uniform(g, n, *STREAKS)
    jitter = pick(g, n, 0.75) * (log_uniform(g, n, *JITTER) * spacing).clamp(max=LARGEST_JITTER)
    whole = pick(g, n, 0.5).bool()
    nothing = torch.full((n,), math.nan, device=g.device)
    digital = pick(g, n, 0.3).bool()
    return NoiseParameters(
        background=pick(g, n, 0.7) * uniform(g, n, *BACKGROUND),
        background_length=log_uniform(g, n, 8.0, 64.0),
        streaks=streaks,
        streak_length=torch.where(pick(g, n, 0.4).bool(), torch.inf, log_uniform(g, n, 4.0, 60.0)),
        jitter=jitter,
        jitter_length=torch.where(whole, torch.inf, log_uniform(g, n, 4.0, 60.0)),
        readout=readout,
        gain=gain,
        shape=uniform(g, n, -0.1, 0.2),
        correlation_x=torch.where(counted, torch.zeros_like(correlation), correlation),
        poisson=counted & pick(g, n, 0.7).bool(),
        low=nothing,
        high=nothing,
        step=torch.where(digital, log_uniform(g, n, 0.005, 0.02), nothing),
        step_origin=torch.zeros(n, device=g.device),
        jitter_y=pick(g, n, 0.4) * uniform(g, n, *ACROSS) * jitter,
    )
