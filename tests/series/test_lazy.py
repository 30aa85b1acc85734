"""Series whose frames are read when they are needed: the same results, without all frames in memory."""

import weakref

import numpy as np
import pytest
import xarray as xr

from stemkit import AtomDetector, NoiseModel, PointwiseNoise, SeriesAligner, read, write
from stemkit.images.lazy import is_lazy
from stemkit.series import draw_displacements, draw_series, measure_series
from stemkit.synthesis import cropped, disk, lattice, planar_cell

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")

SIZE, N = 96, 7


class Recording:
    """A lazy copy of frames that counts how many of them are in memory."""

    def __init__(self, frames):
        self.values, self.alive, self.largest, self.reads = frames.values, 0, 0, 0
        blocks = da.from_array(np.arange(len(frames)), chunks=1)
        pixels = blocks.map_blocks(
            self.read, chunks=((1,) * len(frames), *((n,) for n in frames.shape[1:])), new_axis=[1, 2], dtype="f4"
        )
        self.frames = frames.copy(data=pixels)

    def read(self, number):
        if number.size == 0:  # dask asks for the kind of the result
            return np.empty((0, 0, 0), "f4")
        frame = self.values[number[0] : number[0] + 1].astype("f4")
        self.alive, self.reads = self.alive + 1, self.reads + 1
        self.largest = max(self.largest, self.alive)
        weakref.finalize(frame, self.freed)
        return frame

    def freed(self):
        self.alive -= 1


@pytest.fixture(scope="module")
def frames():
    columns = lattice(planar_cell("square"), (SIZE, SIZE), spacing=9.0, angle=5.0, margin=40.0)
    columns = cropped(columns, disk((45.0, 50.0), 36.0))
    moved = draw_displacements(N, SIZE, drift=(0.7, -0.9), random_state=0)
    noise = NoiseModel(20.0, 4.0, pointwise=PointwiseNoise.counted(20.0, background=4.0))
    return draw_series(columns, moved, shape=(SIZE, SIZE), noise=noise, pixel_size=0.02, random_state=1)


@pytest.fixture(scope="module")
def expected(frames):
    aligner = SeriesAligner(denoiser=None).fit(frames)
    return aligner, aligner.transform(frames)


@pytest.fixture
def one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.mark.usefixtures("one_thread")
class TestLazy:
    @pytest.mark.slow
    def test_the_result_is_that_of_frames_in_memory_without_all_in_memory(self, frames, expected):
        recording = Recording(frames)
        aligner = SeriesAligner(denoiser=None).fit(recording.frames)
        np.testing.assert_array_equal(aligner.displacements_, expected[0].displacements_)
        image = aligner.transform(recording.frames)
        np.testing.assert_array_equal(image, expected[1])
        assert image.attrs == expected[1].attrs
        aligned = aligner.aligned(recording.frames)
        assert is_lazy(aligned)
        np.testing.assert_array_equal(aligned[3], expected[0].aligned(frames)[3])
        for one, whole in zip(aligned, expected[0].aligned(frames), strict=True):
            xr.testing.assert_identical(one.compute(), whole)
        assert recording.reads > N
        assert recording.largest <= 2
        assert recording.alive <= 1

    def test_columns_are_measured_without_all_frames_in_memory(self, frames, expected):
        columns = AtomDetector(spacing=0.18, width=0.04).fit_transform(expected[1].fillna(expected[1].median()))
        noise = NoiseModel(20.0, 4.0, pointwise=PointwiseNoise.counted(20.0, background=4.0))
        recording = Recording(frames)
        table = measure_series(recording.frames, columns, expected[0], noise=noise)
        np.testing.assert_array_equal(table, measure_series(frames, columns, expected[0], noise=noise))
        assert recording.largest <= 2

    def test_a_list_of_lazy_frames_and_a_lazy_file_stay_lazy(self, frames, tmp_path):
        whole = SeriesAligner(rows=False, denoiser=None).fit(frames).displacements_
        recording = Recording(frames)
        found = SeriesAligner(rows=False, denoiser=None).fit(list(recording.frames)).displacements_
        np.testing.assert_array_equal(found, whole)
        assert recording.largest <= 2
        write(frames, tmp_path / "series.nc")
        lazy = read(tmp_path / "series.nc", lazy=True)
        assert is_lazy(lazy)
        found = SeriesAligner(rows=False, denoiser=None).fit(lazy).displacements_
        np.testing.assert_allclose(found, whole, atol=1e-6)

    def test_lazy_maps_are_averaged_map_by_map(self, frames, expected):
        maps = np.stack([frames.values, 2 * frames.values], axis=1)
        lazy = da.from_array(maps, chunks=(1, 1, SIZE, SIZE))
        array = frames.expand_dims(element=2, axis=1).copy(data=lazy)
        found = expected[0].apply(array)
        np.testing.assert_array_equal(found, expected[0].apply(maps))
        np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-6)

    def test_frames_that_cannot_be_used_are_named(self, frames):
        spoiled = frames.copy(deep=True)
        spoiled.values[2] = 3.0
        spoiled.values[4, 5, 6] = np.nan
        spoiled.values[6] = spoiled.values[1]
        with pytest.warns(UserWarning, match="3 of 7 frames are left out"):
            aligner = SeriesAligner(rows=False, denoiser=None).fit(Recording(spoiled).frames)
        assert sorted(aligner.rejected_) == [2, 4, 6]

    def test_other_frames_than_those_fitted_are_refused(self, frames, expected):
        with pytest.raises(ValueError, match="their pixels differ"):
            expected[0].transform(Recording(frames + 1).frames)
