"""SeriesAligner: displacements, average, contracts and unusable input."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline

from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise, SFINDenoiser, read, write
from stemkit.series import SeriesAligner, draw_displacements, draw_series
from stemkit.synthesis import cropped, disk, lattice, planar_cell

SIZE = 96
SCAN = ScanNoise(jitter=0.3, jitter_y=0.2, drift=0.3, drift_y=0.3, drift_rows=8.0)
#: Frames that do not match are announced.
LEFT_OUT = pytest.mark.filterwarnings("ignore:.* frames are left out:UserWarning")
FAST = {"denoiser": None}
#: For what does not depend on the displacements of single rows, which take the most time.
WHOLE = {"rows": False, **FAST}


def specimen(size=SIZE, reach=40.0):
    columns = lattice(planar_cell("square"), (size, size), spacing=9.0, angle=5.0, margin=reach)
    return cropped(columns, disk((0.47 * size, 0.52 * size), 0.42 * size))


def recorded(n=4, *, dose=30.0, scan=SCAN, drift=(2.0, -3.0), seed=0, **options):
    moved = draw_displacements(n, SIZE, scan=scan, drift=drift, random_state=seed)
    noise = NoiseModel(dose, 0.2 * dose, pointwise=PointwiseNoise.counted(dose, background=0.2 * dose))
    frames = draw_series(
        specimen(), moved, shape=(SIZE, SIZE), noise=noise, pixel_size=0.02, random_state=seed + 1, **options
    )
    return frames, moved


@pytest.fixture(scope="module")
def series():
    return recorded()


@pytest.fixture(scope="module")
def aligned(series):
    """The fitted aligner and the average."""
    aligner = SeriesAligner(**FAST).fit(series[0])
    return aligner, aligner.transform(series[0])


def between_frames(found, true):
    """RMS error per axis, in the rows of the particle, after the best common affine map of the rows."""
    n, n_y, _ = true.shape
    place = np.arange(n_y) + found[..., 0]
    inner = np.zeros((n, n_y), dtype=bool)
    inner[:, 20:-24] = True
    design = np.stack([np.ones(inner.sum()), place[inner]], axis=1)
    difference = (true - found)[inner]
    residual = difference - design @ np.linalg.lstsq(design, difference, rcond=None)[0]
    return np.sqrt((residual**2).mean(0))


class TestDisplacements:
    @pytest.mark.slow
    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 10**5), st.floats(-9.0, 9.0), st.floats(-9.0, 9.0))
    def test_they_are_the_true_ones(self, seed, dy, dx):
        frames, moved = recorded(5, drift=(dy, dx), seed=seed)
        found = SeriesAligner(**FAST).fit(frames).displacements_
        assert found.shape == (5, SIZE, 2)
        # the mean of five frames' displacements, .45 and .40 px RMS, is not seen, nor a part of the jitter: the
        # standard deviation of a row's reading is .15 px
        assert (between_frames(found, moved) < (0.32, 0.35)).all()

    def test_rows_improve_on_whole_frames(self, series, aligned):
        frames, moved = series
        rows, whole = aligned[0].displacements_, SeriesAligner(**WHOLE).fit(frames).displacements_
        assert (between_frames(rows, moved) < 0.8 * between_frames(whole, moved)).all()
        assert np.ptp(whole, axis=1).max() == 0

    def test_their_distribution_is_measured(self):
        scan = ScanNoise(jitter=0.5, jitter_y=0.2)
        found = SeriesAligner(**FAST).fit(recorded(6, scan=scan, seed=3)[0]).scan_noise_
        assert found.displacement == pytest.approx(0.5, abs=0.12)
        assert found.displacement_y < 0.35

    def test_rows_do_not_follow_an_atom_that_moves(self):
        # one column hops by 4 px to the left and to the right; its rows would hop, too, by some tenths of a pixel
        particle, n = specimen(), 6
        moved = draw_displacements(n, SIZE, scan=ScanNoise(jitter=0.1, jitter_y=0.1), drift=(0.7, -0.9), random_state=0)
        middle = int(((particle.places[0] - 50.0) ** 2).sum(-1).argmin())
        noise = NoiseModel(30.0, 6.0, pointwise=PointwiseNoise.counted(30.0, background=6.0))
        signs, frames = [(-1.0) ** i for i in range(n)], []
        for i, sign in enumerate(signs):
            x, amplitude = particle.x.clone(), particle.amplitude.clone()
            x[0, middle], amplitude[0, middle] = x[0, middle] + 4.0 * sign, 1.5
            hopped = replace(particle, x=x, amplitude=amplitude)
            frames.append(
                draw_series(hopped, moved[i : i + 1], shape=(SIZE, SIZE), noise=noise, random_state=i).values[0]
            )
        error = SeriesAligner(mode="haadf", **FAST).fit(np.stack(frames)).displacements_ - moved
        rows = np.abs(np.arange(SIZE) - float(particle.y[0, middle]))
        near, far = error[:, rows < 5, 1], error[:, (rows > 10) & (rows < 25), 1]
        followed = np.array(signs) * (near.mean(1) - far.mean(1))
        # the standard deviation of such a mean is .03 px
        assert abs(followed.mean()) < 0.05

    def test_still_frames_stay(self):
        frames, _ = recorded(4, scan=ScanNoise(), drift=(0.0, 0.0), dose=100.0)
        found = SeriesAligner(**FAST).fit(frames).displacements_[:, 20:-24]
        assert found.std(axis=(0, 1)).max() < 0.1


class TestAverage:
    def test_it_is_an_image_with_numbers_errors_and_noise(self, aligned):
        _, image = aligned
        assert image.dims == ("y", "x")
        assert image.dtype == np.float32
        assert image.attrs["mode"] == "haadf"
        assert image.stem.pixel_size == pytest.approx(0.02)
        assert int(image.n_frames.max()) == 4
        assert json.loads(image.attrs["noise"])["pixel_size"] == pytest.approx(0.02)
        assert json.loads(image.attrs["stemkit"])["step"] == "average"

    @pytest.mark.slow
    @settings(max_examples=4, deadline=None)
    @given(st.integers(0, 10**5))
    def test_its_standard_error_is_that_of_counted_electrons(self, seed):
        n, dose = 6, 30.0
        frames, _ = recorded(n, dose=dose, scan=ScanNoise(), seed=seed)
        image = SeriesAligner(**FAST).fit_transform(frames)
        whole = image.n_frames.values == n
        counted = np.sqrt(np.mean(image.values[whole]) / n)
        stated = np.sqrt(np.mean(image.standard_error.values[whole] ** 2))
        assert stated == pytest.approx(counted, rel=0.12)

    def test_it_has_less_noise_than_a_frame(self, series, aligned):
        (frames, _), (_, image) = series, aligned
        doses = [NoiseModel.from_dict(one).dose for one in (self.noise_of(image), self.noise_of(frames[0]))]
        # the dose of four frames; a calibration of such small images has an error of a fifth
        assert doses[0] == pytest.approx(4 * 30.0, rel=0.3)
        assert doses[0] > 2 * doses[1]

    def noise_of(self, image):
        labeled = image if "noise" in image.attrs else NoiseCalibrator().fit_transform(image)
        values = json.loads(labeled.attrs["noise"])
        del values["pixel_size"]
        return values

    def test_coverage_crops_and_pads(self, series):
        frames, _ = series
        shapes = {}
        for coverage in (0.0, 0.5, 1.0):
            image = SeriesAligner(coverage=coverage, **WHOLE).fit_transform(frames)
            shapes[coverage] = image.size
            assert bool(np.isnan(image.values).any()) == (coverage == 0)
            assert float((image.n_frames >= max(1, 4 * coverage)).mean()) > (0.6 if coverage == 0 else 0.8)
        assert shapes[0.0] > shapes[0.5] > shapes[1.0]
        assert shapes[0.0] > frames[0].size > shapes[1.0]

    @pytest.mark.slow
    def test_the_pipeline_gives_one_table(self, series):
        frames, _ = series
        steps = [
            ("align", SeriesAligner()),
            ("noise", NoiseCalibrator()),
            ("denoise", SFINDenoiser()),
            ("atoms", AtomDetector()),
        ]
        table = Pipeline(steps).fit_transform(frames)
        one = Pipeline(steps[1:]).fit_transform(frames[0])
        assert set(table["image"]) == {0}
        # as many as there are columns well inside the particle, at least
        assert len(table) > 0.8 * np.pi * (0.42 * SIZE) ** 2 / 9.0**2
        assert table["x_err"].median() < 0.75 * one["x_err"].median()

    def test_it_can_be_written_and_read(self, aligned, tmp_path):
        _, image = aligned
        again = read(write(image, tmp_path / "average.nc"))
        np.testing.assert_array_equal(again.values, image.values)
        assert again.attrs["noise"] == image.attrs["noise"]

    @pytest.mark.slow
    def test_dark_columns(self, series, aligned):
        bright, _ = series
        dark = (100 - bright).assign_attrs(mode="bf")
        expected = 100 - aligned[1]
        found = SeriesAligner(**FAST).fit_transform(dark)
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert json.loads(found.attrs["noise"])["mode"] == "bf"


class TestContainers:
    @pytest.mark.parametrize("dims", [("frame", "y", "x"), ("image", "y", "x")])
    def test_stacks(self, series, dims):
        frames = xr.DataArray(series[0].values, dims=dims, attrs={"mode": "haadf"})
        image = SeriesAligner(**WHOLE).fit_transform(frames)
        assert image.dims == ("y", "x")
        assert not image.stem.is_calibrated

    @pytest.mark.slow
    def test_arrays_and_lists_give_the_same(self, series):
        frames, _ = series
        aligner = SeriesAligner(mode="haadf", **WHOLE)
        image = aligner.fit_transform(frames)
        array = aligner.fit_transform(frames.values)
        assert isinstance(array, xr.DataArray)  # an array has no number of frames, standard errors and noise
        np.testing.assert_array_equal(array.values, image.values)
        listed = aligner.fit_transform([frames[i] for i in range(4)])
        assert isinstance(listed, xr.DataArray)
        np.testing.assert_array_equal(listed.values, image.values)

    def test_integers_give_floats_and_are_left_alone(self, series):
        frames = (10 * series[0]).astype(np.uint16)
        before = frames.copy(deep=True)
        assert SeriesAligner(**WHOLE).fit_transform(frames).dtype == np.float32
        xr.testing.assert_identical(frames, before)

    def test_other_signals_move_along(self, series, aligned):
        (frames, _), (aligner, image) = series, aligned
        maps = xr.concat([frames, 2 * frames + 1], dim="element").transpose("frame", "element", "y", "x")
        out = aligner.apply(maps.assign_coords(element=["Sr", "Ti"]))
        assert out.dims == ("element", "y", "x")
        assert list(out.element.values) == ["Sr", "Ti"]
        np.testing.assert_allclose(out[0], image, rtol=1e-4)
        np.testing.assert_allclose(out[1], 2 * image + 1, rtol=1e-4)
        with pytest.raises(ValueError, match=r"maps must have the shape .* 4 frames of 96 by 96"):
            aligner.apply(frames.values[:3])

    def test_aligned_frames_lie_on_the_average(self, series):
        frames, _ = series
        aligner = SeriesAligner(coverage=1.0, **WHOLE).fit(frames)
        aligned, image = aligner.aligned(frames), aligner.transform(frames)
        assert aligned.dims == ("frame", "y", "x")
        difference = (aligned.mean("frame") - image).values[4:-4, 4:-4]
        assert difference.std() < 0.5 * image.standard_error.values[4:-4, 4:-4].mean()

    def test_other_frames_are_refused(self, series, aligned):
        aligner, _ = aligned
        with pytest.raises(ValueError, match="their pixels differ: fit again"):
            aligner.transform(series[0] + 1)
        with pytest.raises(ValueError, match="but has 3 of 96 by 96 px: fit again"):
            aligner.transform(series[0][:3])

    def test_its_frames_are_given_as_they_were_recorded(self, series):
        values = series[0].values.copy()
        values[1, 20, 30] = 1e4
        values[3] = 0.0
        with pytest.warns(UserWarning, match="left out"):
            aligner = SeriesAligner(mode="haadf", **WHOLE).fit(values)
        frames = aligner.fitted_frames(values)
        assert aligner.mode_ == "haadf"
        assert aligner.quarter_turns_.tolist() == [0, 0, 0, 0]
        assert list(frames.images) == [0, 1, 2]
        np.testing.assert_array_equal(frames.images[1], values[1])
        assert frames.faulty(1)[20, 30]
        assert frames.bright(1)[20, 30] < 100
        with pytest.raises(ValueError, match="their pixels differ"):
            aligner.fitted_frames(values + 1)

    def test_a_pickled_or_cloned_aligner_does_the_same(self, series, aligned):
        aligner, image = aligned
        again = pickle.loads(pickle.dumps(aligner))
        xr.testing.assert_identical(again.transform(series[0]), image)
        assert clone(aligner).get_params() == aligner.get_params()


class TestUnusableFrames:
    @LEFT_OUT
    @pytest.mark.parametrize(
        ("name", "reason"), [("blank", "it is constant"), ("nan", "must be finite"), ("copy", "identical to frame 0")]
    )
    def test_they_are_named_and_left_out(self, series, name, reason):
        frames = series[0].values.copy()
        frames[2] = {"blank": 0.0, "nan": np.nan, "copy": frames[0]}[name]
        aligner = SeriesAligner(mode="haadf", **WHOLE).fit(frames)
        assert list(aligner.rejected_) == [2]
        assert reason in aligner.rejected_[2]
        assert np.isnan(aligner.displacements_[2]).all()
        assert np.isfinite(aligner.displacements_[[0, 1, 3]]).all()
        assert int(aligner.transform(series[0].copy(data=frames)).n_frames.max()) == 3

    def test_they_are_announced(self, series):
        frames = series[0].values.copy()
        frames[1, 3, 4] = np.nan
        with pytest.warns(UserWarning, match=r"1 of 4 frames are left out: frame 1: .* must be finite"):
            SeriesAligner(mode="haadf", **WHOLE).fit(frames)

    @LEFT_OUT
    def test_another_size_or_pixel_size(self, series):
        frames = [series[0][i] for i in range(4)]
        sizes = SeriesAligner(**WHOLE).fit([*frames, frames[0][:64]])
        assert "64 by 96 px, while most have 96 by 96" in sizes.rejected_[4]
        other = frames[0].assign_coords(y=2 * frames[0].y, x=2 * frames[0].x)
        other.y.attrs["units"] = other.x.attrs["units"] = "nm"
        scales = SeriesAligner(**WHOLE).fit([frames[0], other + 1, *frames[2:]])
        assert "pixel size" in scales.rejected_[1]

    @LEFT_OUT
    def test_a_frame_of_another_place(self, series):
        frames = series[0].values.copy()
        frames[3] = np.random.default_rng(0).poisson(frames[3].mean(), frames[3].shape)
        assert list(SeriesAligner(mode="haadf", **WHOLE).fit(frames).rejected_) == [3]


class TestSmallSeries:
    def test_two_frames_are_enough(self):
        frames, moved = recorded(2)
        aligner = SeriesAligner(**FAST).fit(frames)
        true = moved.mean(1)
        assert np.abs(np.diff(aligner.displacements_.mean(1), axis=0) - np.diff(true, axis=0)).max() < 0.5

    def test_one_frame_is_not(self, series):
        with pytest.raises(ValueError, match=r"at least 2 frames .* but has 1 frame"):
            SeriesAligner().fit(series[0][:1])
        with pytest.raises(ValueError, match="a single frame has no other"):
            SeriesAligner().fit(series[0].values[0])
        with pytest.raises(ValueError, match="give a series of frames, not one image"):
            SeriesAligner().fit(series[0][0])

    def test_identical_frames_are_not(self, series):
        same = np.stack([series[0].values[0]] * 3)
        with pytest.raises(ValueError, match=r"of which 1 can be used \(frame 1: it is identical to frame 0"):
            SeriesAligner(mode="haadf").fit(same)

    def test_tiny_frames_are_not(self):
        with pytest.raises(ValueError, match="at least 24 px along y and x, but have 16 by 40"):
            SeriesAligner(mode="haadf").fit(np.random.default_rng(0).normal(size=(3, 16, 40)))

    def test_small_frames_are(self):
        moved = draw_displacements(3, 64, drift=(1.0, 2.0))
        noise = NoiseModel(pointwise=PointwiseNoise(readout=0.1))
        frames = draw_series(specimen(64), moved, shape=(64, 64), noise=noise, random_state=0)
        found = SeriesAligner(**FAST).fit(frames).displacements_.mean(1)
        assert np.abs((found - found.mean(0)) - (moved.mean(1) - moved.mean((0, 1)))).max() < 0.4

    def test_flat_frames_that_are_displaced_by_more_than_their_height(self):
        shape = (36, 512)
        moved = np.repeat(np.array([[0.0, -60.0], [0.0, 0.0], [0.0, 60.0]])[:, None], shape[0], axis=1)
        columns = lattice(planar_cell("square"), shape, spacing=9.0, angle=5.0, margin=100.0)
        columns = cropped(columns, disk((18.0, 230.0), 140.0))
        noise = NoiseModel(pointwise=PointwiseNoise(readout=0.1))
        frames = draw_series(columns, moved, shape=shape, noise=noise, random_state=0)
        found = SeriesAligner(**FAST).fit(frames).displacements_.mean(1)
        assert np.abs((found - found.mean(0)) - (moved.mean(1) - moved.mean((0, 1)))).max() < 0.5

    def test_noise_alone_is_no_series(self):
        frames = np.random.default_rng(0).normal(size=(3, 64, 64))
        with pytest.raises(ValueError, match="nothing that the other frames show"):
            SeriesAligner(mode="haadf").fit(frames)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"coverage": 1.5}, "coverage must be a number from 0 to 1, but is 1.5"),
        ({"max_shift": 0.0}, "max_shift must be a positive number of px or None, but is 0.0"),
        ({"denoiser": "wavelets"}, "denoiser must be .* but is 'wavelets'"),
    ],
)
def test_wrong_parameters(series, parameters, message):
    with pytest.raises(ValueError, match=message):
        SeriesAligner(**parameters).fit(series[0])


def test_scikit_learn_s_conventions(series):
    # its own checks are of two-dimensional input alone, which is one frame here
    aligner = SeriesAligner(**WHOLE)
    before = dict(vars(aligner))
    assert aligner.fit(series[0]) is aligner
    assert {name: vars(aligner)[name] for name in before} == before
    with pytest.raises(NotFittedError):
        clone(aligner).transform(series[0])
    with pytest.raises(TypeError, match="positional"):
        SeriesAligner(True)
