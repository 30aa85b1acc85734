"""Simulated repeat frames whose truth and shifts are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from strategies import gaussians, lattice_positions

from stemkit import NoiseModel, PointwiseNoise, ScanNoise

SHAPE = (160, 168)
SPACING, SIGMA = 14.0, 2.5


@dataclass
class Repeated:
    """Frames ``(n_frames, n_y, n_x)``, each frame's true image, and its shift (y, x), px, of mean 0."""

    frames: NDArray
    truths: NDArray
    shifts: NDArray


def particle(shift=(0.0, 0.0), radius=60.0, shape=SHAPE):
    """A round particle of columns of height 1 in vacuum; an infinite radius fills the image."""
    positions = lattice_positions(shape, SPACING, 0.3, margin=60)
    center = (np.array(shape) - 1) / 2
    inside = np.hypot(*(positions - center).T) < radius
    return gaussians(shape, positions[inside] + np.asarray(shift), SIGMA)


def repeated(seed=0, n=5, dose=6.0, extent=3.0, radius=60.0, shape=SHAPE, streaks=0.0):
    """Frames of counted electrons, displaced by up to ``extent`` px."""
    shifts = np.random.default_rng(seed).uniform(-extent / 2, extent / 2, (n, 2))
    shifts -= shifts.mean(axis=0)
    truths = np.stack([particle(shift, radius, shape) for shift in shifts])
    model = NoiseModel(scan=ScanNoise(streaks), pointwise=PointwiseNoise.counted(dose, background=1.0))
    frames = np.stack([model.apply(truth, random_state=1000 * seed + k) for k, truth in enumerate(truths)])
    return Repeated(frames, truths, shifts)
