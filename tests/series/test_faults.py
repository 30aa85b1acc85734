"""Faulty pixels of the frames of a series, and of its average."""

import numpy as np
import pytest

from stemkit import NoiseCalibrator, NoiseModel, PointwiseNoise, RowAligner, SeriesAligner
from stemkit.denoising.base import without_faults
from stemkit.detection.normalized_image import NormalizedImage
from stemkit.images.provenance import RECORDED, was_averaged
from stemkit.pixels import faulty_pixels
from stemkit.series import draw_displacements, draw_series
from stemkit.series.frames import read_series
from stemkit.synthesis import cropped, disk, lattice, planar_cell

SIZE = 128


def counts(n=4, dose=8.0, vacuum=0.02):
    """A particle in vacuum, where hardly any electron is counted."""
    columns = lattice(planar_cell("square"), (SIZE, SIZE), spacing=9.0, angle=5.0, margin=40.0)
    columns = cropped(columns, disk((62.0, 66.0), 34.0))
    moved = draw_displacements(n, SIZE, drift=(1.3, -1.7), random_state=0)
    noise = NoiseModel(dose, vacuum, pointwise=PointwiseNoise.counted(dose, background=vacuum))
    return draw_series(columns, moved, shape=(SIZE, SIZE), noise=noise, pixel_size=0.02, random_state=1)


@pytest.fixture(scope="module")
def average():
    return SeriesAligner(denoiser=None).fit_transform(counts(n=5, dose=2.0, vacuum=0.001))


class TestAverage:
    def test_single_electrons_in_its_vacuum_are_not_hot(self, average):
        # without digital levels they would be
        assert faulty_pixels(average.values).sum() > 10
        calibrator = NoiseCalibrator(mode="haadf").fit(average)
        assert not {"hot", "dead"} & set(calibrator.diagnostics_[0]["faults"])
        assert not calibrator.diagnostics_[0]["faulty"].any()

    def test_none_of_the_steps_searches_it(self, average):
        assert without_faults(average) is average
        normalized = NormalizedImage.from_image(average, "haadf")
        assert normalized.faulty is None
        noise = normalized.noise
        np.testing.assert_allclose(normalized.recorded * noise.contrast + noise.level, average.values, atol=1e-4)
        shifted = RowAligner(mode="haadf").fit_transform(average)
        assert was_averaged(shifted)

    def test_it_is_known_by_its_record_and_by_its_numbers_of_frames(self, average):
        assert was_averaged(average)
        assert was_averaged(average.drop_vars(["n_frames", "standard_error"]))
        assert was_averaged(average.assign_attrs(stemkit=None))
        assert not was_averaged(average.drop_vars("n_frames").assign_attrs(stemkit=None))
        assert was_averaged(average.assign_coords({RECORDED: (("y", "x"), average.values)}))


class TestFrames:
    @pytest.mark.parametrize("height", [12.0, 4000.0])
    def test_a_pixel_that_is_hot_in_every_frame_is_not_averaged(self, height):
        frames = counts()
        intact = SeriesAligner(rows=False, denoiser=None).fit_transform(frames)
        frames.values[:, 20, 30] += height
        spoiled = SeriesAligner(rows=False, denoiser=None).fit_transform(frames)
        assert spoiled.shape == intact.shape
        assert np.abs(spoiled - intact).max() < 2.0

    def test_what_is_faulty_in_the_mean_alone_is_interpolated(self):
        # on noise of 3, a fault of 18 is not significant in a frame; in the mean of 16 it is
        values = 100 + 3 * np.random.default_rng(0).normal(size=(16, 64, 64))
        values[:, 30, 40] += 18.0
        assert not faulty_pixels(values[0])[30, 40]
        series = read_series(values, "haadf")
        assert np.mean([series.bright(i)[30, 40] for i in range(16)]) < 103

    def test_columns_of_frames_that_do_not_move_are_not_faulty(self):
        frames = counts(dose=100.0, vacuum=5.0)
        series = read_series(frames.copy(data=np.repeat(frames.values[:1], 4, axis=0) + np.arange(4)[:, None, None]))
        for i in range(4):
            np.testing.assert_array_equal(series.bright(i), frames.values[0].astype(float) + i)
