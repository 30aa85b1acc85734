"""Scans at right angles: turned frames, and the slow drift that they show."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stemkit import NoiseModel, PointwiseNoise, SeriesAligner
from stemkit.series import draw_displacements, draw_series
from stemkit.series.averaging import AverageGrid
from stemkit.series.slow_drift import slow_drifts
from stemkit.series.turns import Turn, quarter_turns
from stemkit.synthesis import cropped, facets, lattice, planar_cell

SIZE = 128


def series(angles, *, drift, bend=(0.0, 0.0), shape=(SIZE, SIZE), seed=0):
    columns = lattice(planar_cell("square"), shape, spacing=9.0, sigma=1.8, angle=8.0, margin=80.0)
    columns = cropped(columns, facets((0.5 * shape[0], 0.52 * shape[1]), 0.36 * min(shape), angle=10.0))
    moved = draw_displacements(len(angles), shape[0], drift=drift, bend=bend, random_state=seed)
    noise = NoiseModel(30.0, 6.0, pointwise=PointwiseNoise.counted(30.0, background=6.0))
    return draw_series(columns, moved, shape=shape, scan_angles=angles, noise=noise, random_state=seed), moved


class TestTurns:
    @given(st.integers(0, 3), st.integers(2, 9), st.integers(2, 9), st.data())
    def test_pixels_grids_and_vectors_turn_alike(self, quarters, n_y, n_x, data):
        image = np.arange(n_y * n_x).reshape(n_y, n_x)
        frame = np.rot90(image, quarters)
        turn = Turn(quarters, frame.shape)
        np.testing.assert_array_equal(turn.image(frame), image)
        top, left = data.draw(st.integers(0, n_y - 1)), data.draw(st.integers(0, n_x - 1))
        grid = AverageGrid((top, left), (n_y - top, n_x - left))
        own = turn.grid_of_frame(grid)
        assert turn.grid_of_image(own) == grid
        part = frame[tuple(slice(o, o + n) for o, n in zip(own.origin, own.shape, strict=True))]
        np.testing.assert_array_equal(turn.image(part), image[top:, left:])
        # the next row of the frame lies one step along the turned vector
        places = [np.argwhere(image == frame[row, 0])[0] for row in (0, 1)] if len(frame) > 1 else []
        if places:
            np.testing.assert_array_equal(places[1] - places[0], turn.to_image(np.array([1.0, 0.0])))
            assert [place[turn.slow_axis] for place in places] == turn.rows()[:2].tolist()
        vector = np.array([0.3, -1.7])
        np.testing.assert_allclose(turn.to_frame(turn.to_image(vector)), vector)

    def test_angles_are_relative_to_the_first(self):
        assert quarter_turns([10.2, 100.2, -79.8, 190.0], 4) == [0, 1, 3, 2]
        assert quarter_turns(None, 3) == [0, 0, 0]

    @pytest.mark.parametrize(
        ("angles", "message"),
        [
            ([0.0], "one angle in degrees for each of the 2 frames"),
            ([0.0, np.nan], "one angle in degrees"),
            ([0.0, 45.0], r"must differ by multiples of 90 degrees, but are \[0.0, 45.0\]"),
            ([0.0, 180.0], "must include two directions at right angles"),
        ],
    )
    def test_other_angles_are_refused(self, angles, message):
        with pytest.raises(ValueError, match=message):
            quarter_turns(angles, 2)


class TestSimulation:
    def test_a_frame_at_90_degrees_is_the_turned_image(self):
        still = np.zeros((4, SIZE, 2))
        columns = lattice(planar_cell("square"), (SIZE, SIZE), spacing=9.0, angle=8.0, margin=60.0)
        frames = draw_series(columns, still, shape=(SIZE, SIZE), scan_angles=[0, 90, 180, 270]).values
        for turns in range(4):
            np.testing.assert_allclose(frames[turns], np.rot90(frames[0], turns), atol=1e-5)


class TestSlowDrift:
    @settings(max_examples=4)
    @given(st.integers(0, 10**5), st.floats(-9, 9), st.floats(-9, 9), st.floats(-3, 3), st.floats(-3, 3))
    @example(seed=29, dy=7.0, dx=0.0, by=2.0, bx=1.0)  # no maximum of the correlation is near the shift
    def test_linear_and_bent_drift_are_found(self, seed, dy, dx, by, bx):
        frames, moved = series([0, 90], drift=(dy, dx), bend=(by, bx), seed=seed)
        turns = [Turn(0, (SIZE, SIZE)), Turn(1, (SIZE, SIZE))]
        images = [turn.image(frame) for turn, frame in zip(turns, frames.values, strict=True)]
        found = slow_drifts(images, [0, 1])
        for turn, true, drift in zip(turns, moved, found.drifts, strict=True):
            error = (drift(turn.rows()) - true)[20:-20]  # the particle fills the middle
            assert np.sqrt(((error - error.mean(0)) ** 2).mean()) < 0.2  # 95 % of 60 such series: below .11

    @pytest.mark.slow
    @pytest.mark.parametrize("angles", [[0, 90], [0, 90, 180, 270], [90, 0, 0]])
    def test_the_average_is_neither_sheared_nor_stretched(self, angles):
        frames, moved = series(angles, drift=(5.0, -7.0), bend=(1.0, 2.0))
        aligner = SeriesAligner(denoiser=None).fit(frames)
        # frames lie as they were drawn, in the directions of the first one
        first = Turn(int(angles[0] // 90), (SIZE, SIZE))
        true = first.to_frame(moved)
        error = (aligner.displacements_ - true)[:, 25:-25]
        error -= error.mean((0, 1))
        assert np.sqrt((error**2).mean()) < 0.25
        image = aligner.transform(frames)
        assert int(image.n_frames.max()) == len(angles)
        assert np.isfinite(image.standard_error.values[image.n_frames.values > 1]).all()

    def test_frames_of_one_direction_keep_the_drift(self):
        frames, moved = series([0, 0], drift=(5.0, -7.0))
        found = SeriesAligner(denoiser=None).fit(frames).displacements_
        slope = np.polyfit(np.arange(SIZE), (found - moved)[0, :, 1], 1)[0]
        assert slope == pytest.approx(7.0 / SIZE, abs=0.015)

    def test_angles_of_the_frames_can_be_given(self):
        frames, _ = series([0, 90], drift=(3.0, 2.0))
        known = SeriesAligner(denoiser=None).fit(frames)
        given_ = SeriesAligner(denoiser=None, scan_angles=[0, 90], mode="haadf").fit(frames.values)
        np.testing.assert_array_equal(known.displacements_, given_.displacements_)
        assert known.apply(frames.values).shape == known.shape_
        assert known.aligned(frames).shape == (2, *known.shape_)
