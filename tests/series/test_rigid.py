"""Displacements of whole frames."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stemkit import NoiseModel, PointwiseNoise
from stemkit.series import draw_displacements, draw_series
from stemkit.series.rigid import rigid_shifts
from stemkit.synthesis import cropped, disk, lattice, planar_cell

SPACING = 10.0


def particle(size, reach):
    columns = lattice(planar_cell("square"), (size, size), spacing=SPACING, angle=5.0, margin=reach)
    return cropped(columns, disk((0.47 * size, 0.52 * size), 0.33 * size))


def uneven_crystal(size, reach, seed):
    columns = lattice(planar_cell("square"), (size, size), spacing=SPACING, angle=5.0, margin=reach)
    scatter = torch.randn(columns.amplitude.shape, generator=torch.Generator().manual_seed(seed))
    return replace(columns, amplitude=columns.amplitude * (1 + 0.2 * scatter))


def errors(shifts, displacements):
    true = displacements.mean(1)
    return np.abs((shifts - shifts.mean(0)) - (true - true.mean(0))).max()


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.floats(-1.6, 1.6), st.floats(-1.6, 1.6), st.booleans())
def test_drift_beyond_a_cell_is_followed(seed, dy, dx, is_particle):
    size, n = 128, 4
    # whole frames are displaced, not sheared
    moved = np.repeat(SPACING * np.arange(n)[:, None, None] * np.array([dy, dx]), size, axis=1)
    moved -= moved.mean((0, 1))
    reach = np.abs(moved).max() + 20
    columns = particle(size, reach) if is_particle else uneven_crystal(size, reach, seed)
    noise = NoiseModel(contrast=20.0, level=4.0, pointwise=PointwiseNoise.counted(20.0, background=4.0))
    frames = draw_series(columns, moved, shape=(size, size), noise=noise, random_state=seed)
    found = rigid_shifts(list(frames.values))
    assert found.rejected == {}
    assert errors(found.shifts, moved) < 0.5


def test_large_frames_are_binned():
    size = 1040
    moved = draw_displacements(2, size, drift=(14.0, -23.0))
    moved[:] = moved.mean(1, keepdims=True)
    columns = lattice(planar_cell("square"), (size, size), spacing=40.0, margin=60.0)
    frames = draw_series(cropped(columns, disk((500.0, 540.0), 330.0)), moved, shape=(size, size))
    assert errors(rigid_shifts(list(frames.values)).shifts, moved) < 1.0


@pytest.mark.slow
def test_frames_after_the_specimen_has_moved_away_are_not_placed():
    # more of them than those with which each is compared
    random, size = np.random.default_rng(0), 48
    moved = draw_displacements(4, size, drift=(0.5, -0.5), random_state=0)
    noise = NoiseModel(pointwise=PointwiseNoise(readout=0.1))
    shown = draw_series(particle(size, 20.0), moved, shape=(size, size), noise=noise, random_state=1).values
    frames = [*shown, *random.normal(0.0, 0.5, (9, size, size))]
    found = rigid_shifts(frames)
    # a frame of noise in such small ones may match another one by chance
    assert len(found.rejected) >= 8
    assert min(found.rejected) > 3
    error = found.shifts[:4] - moved.mean(axis=1)
    assert np.ptp(error, axis=0).max() < 1.0


@pytest.mark.parametrize("odd", [0, 2, 4])
def test_a_frame_of_noise_is_not_placed(odd):
    size = 96
    moved = draw_displacements(5, size, drift=(3.0, 4.0), random_state=0)
    noise = NoiseModel(pointwise=PointwiseNoise(readout=0.2))
    frames = draw_series(particle(size, 40.0), moved, shape=(size, size), noise=noise, random_state=1).values
    frames[odd] = np.random.default_rng(0).normal(frames.mean(), frames.std(), frames[0].shape)
    assert list(rigid_shifts(list(frames)).rejected) == [odd]
