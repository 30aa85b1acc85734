"""Cells of a lattice: what distinguishes them, and what is said where nothing does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from stemkit import NoiseModel, PointwiseNoise, SeriesAligner
from stemkit.series import draw_displacements, draw_series
from stemkit.series.envelope import Envelopes, mean_spectrum
from stemkit.series.jumps import without_jumps
from stemkit.series.pairs import Pairs
from stemkit.series.rigid import rigid_shifts
from stemkit.series.vectors import vectors_of_spectrum
from stemkit.synthesis import columns_at, cropped, disk, lattice, planar_cell, superposed

SIZE, SPACING = 128, 12.0


def frames_of(scatter, shifts, dose, seed):
    """Frames of a crystal whose columns differ in height by a fraction."""
    shifts = np.asarray(shifts, dtype=float)
    columns = lattice(planar_cell("square"), (SIZE, SIZE), spacing=SPACING, sigma=2.0, margin=80.0)
    drawn = torch.randn(columns.amplitude.shape, generator=torch.Generator().manual_seed(seed))
    columns = replace(columns, amplitude=columns.amplitude * (1 + scatter * drawn))
    noise = NoiseModel(dose, 0.2 * dose, pointwise=PointwiseNoise.counted(dose, background=0.2 * dose))
    moved = np.repeat(shifts[:, None], SIZE, axis=1)
    return draw_series(columns, moved, shape=(SIZE, SIZE), noise=noise, random_state=seed).values.astype(float)


class TestLikelihood:
    @settings(max_examples=6, deadline=None)
    @given(st.integers(0, 10**5), st.integers(-2, 2), st.integers(-2, 2))
    def test_the_true_shift_is_the_most_likely_of_the_lattice(self, seed, u, v):
        true = SPACING * np.array([u, v])
        frames = frames_of(0.2, [(0, 0), true], 30.0, seed)
        envelopes = Envelopes.of(frames, mean_spectrum(frames))
        steps = [SPACING * np.array([i, j]) for i in range(-3, 4) for j in range(-3, 4)]
        values = [envelopes.log_likelihood(0, 1, tuple(-step)) for step in steps]
        np.testing.assert_allclose(steps[int(np.argmax(values))], true)
        assert max(values) > np.log(100)

    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 10**5))
    def test_it_is_not_positive_for_noise(self, seed):
        frames = np.random.default_rng(seed).normal(size=(2, SIZE, SIZE))
        envelopes = Envelopes.of(frames, mean_spectrum(frames))
        # a likelihood ratio of e^7 has a probability below e^-7 without a relation, each of 25 times
        assert max(envelopes.log_likelihood(0, 1, (8.0 * i, 8.0 * j)) for i in range(5) for j in range(5)) < 7

    def test_more_frames_weigh_a_pair_less(self):
        frames = frames_of(0.2, [(0, 0), (0, 0)], 30.0, 0)
        envelopes = Envelopes.of(frames, mean_spectrum(frames))
        two, eight = (envelopes.log_likelihood(0, 1, (0.0, 0.0), n) for n in (2, 8))
        assert 2 / 8 * two < eight < two


class TestJumps:
    @settings(max_examples=4, deadline=None)
    @given(st.integers(0, 10**5), st.integers(1, 3))
    def test_frames_that_are_a_cell_off_are_put_back(self, seed, first):
        true = np.array([(0.0, 0.0), (3.0, 5.0), (6.0, 10.0), (9.0, 15.0)])
        pairs = Pairs(frames_of(0.2, true, 30.0, seed), (60, 60))
        wrong = true.copy()
        wrong[first:] += (SPACING, 0.0)
        wrong[2] += (0.0, -SPACING)
        assert {(abs(round(y)), abs(round(x))) for y, x in pairs.vectors} >= {(0, 12), (12, 0)}
        found, ambiguous = without_jumps(pairs, wrong)
        np.testing.assert_allclose(found - found[0], true, atol=1.5)
        assert ambiguous == []

    def test_a_perfect_crystal_is_ambiguous(self):
        frames = frames_of(0.0, [(0, 0), (1, 2), (2, 4)], 30.0, 0)
        found = rigid_shifts(list(frames))
        # the smallest displacement is taken
        np.testing.assert_allclose(found.shifts - found.shifts[0], [(0, 0), (1, 2), (2, 4)], atol=0.3)
        assert {one.frames for one in found.ambiguous} == {(1,), (2,), (1, 2)}
        assert all(round(float(np.hypot(*one.vector))) in (12, 17) for one in found.ambiguous)

    def test_it_is_said(self):
        frames = frames_of(0.0, [(0, 0), (1, 2), (2, 4)], 30.0, 1)
        with pytest.warns(UserWarning, match=r"frame\(s\) .* may be displaced by a lattice vector"):
            aligner = SeriesAligner(rows=False, denoiser=None, mode="haadf").fit(frames)
        assert {one.frames for one in aligner.ambiguous_} == {(1,), (2,), (1, 2)}

    def test_noise_has_no_lattice(self):
        frames = np.random.default_rng(0).normal(size=(3, 64, 64))
        assert len(vectors_of_spectrum(mean_spectrum(frames))) == 0


def test_frames_in_which_an_atom_moves_are_aligned():
    # structure that is not periodic, such as the outline of a particle, must outweigh the change of a single column
    cells = planar_cell("hexagonal")
    particle = cropped(lattice(cells, (144, 144), spacing=16.0, sigma=2.2, margin=40.0), disk((70.0, 74.0), 58.0))
    noise = NoiseModel(40.0, 8.0, pointwise=PointwiseNoise.counted(40.0, background=8.0))
    true = draw_displacements(6, 144, drift=(1.5, -2.0), random_state=3)
    frames = []
    for i, place in enumerate([(52.0, 66.0)] * 3 + [(80.0, 95.0)] * 3):
        adatom = columns_at(np.array([place]), amplitude=1.3, sigma=2.2, spacing=16.0)
        frames.append(
            draw_series(superposed(particle, adatom), true[i : i + 1], shape=(144, 144), noise=noise, random_state=i)
        )
    aligner = SeriesAligner(rows=False, denoiser=None).fit(xr.concat(frames, "frame"))
    assert aligner.rejected_ == {}
    error = aligner.displacements_.mean(axis=1) - true.mean(axis=1)
    assert np.ptp(error, axis=0).max() < 0.5
