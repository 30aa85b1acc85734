from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import crystal, displacements, gaussians, lattice_positions, pixel_sizes, seeds

import stemkit
from stemkit import NoiseCalibrator, NoiseModel, PointwiseNoise, RowAligner, ScanNoise
from stemkit.denoising.base import without_faults
from stemkit.noise.displacement_parts import DisplacementParts
from stemkit.noise.row_alignment import _limit_slow

SHAPE = (224, 224)
Y = np.arange(SHAPE[0])
FEW = settings(max_examples=3)


def specimen(*, sine: float = 0.0, period: float = 150.0, shear: float = 0.0, bend: float = 0.0) -> np.ndarray:
    """A crystal whose columns are displaced along x as a function of y, px."""
    positions = lattice_positions(SHAPE, 16.0, margin=12.0)
    y = positions[:, 0] - SHAPE[0] / 2
    positions[:, 1] += sine * np.sin(2 * np.pi * y / period) + shear * y + bend * (2 * y / SHAPE[0]) ** 2
    return gaussians(SHAPE, positions, 2.6)


def jittered(true_image: np.ndarray, jitter: float, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A recorded image, and the displacements of its rows about their mean, px."""
    model = NoiseModel(scan=ScanNoise(jitter=jitter), pointwise=PointwiseNoise(noise))
    rows = displacements(model, SHAPE, seed)[:, SHAPE[1] // 2]
    return model.apply(true_image, random_state=seed), rows - rows.mean()


def labeled(values: np.ndarray, pixel_size: float = 0.01, **attrs: object) -> xr.DataArray:
    return stemkit.calibrated(values, pixel_size=pixel_size).assign_attrs(mode="haadf", **attrs).rename("counts")


@FEW
@given(st.floats(0.3, 1.0), st.floats(0.01, 0.06), seeds)
def test_rows_are_aligned(jitter, noise, seed):
    true_image = specimen()
    image, rows = jittered(true_image, jitter, noise, seed)
    aligner = RowAligner(mode="haadf")
    straight = aligner.fit_transform(image)
    (shifts,) = aligner.shifts_
    assert shifts.shape == (SHAPE[0],)
    assert (shifts - rows).std() < 0.25 * rows.std()
    inside = np.s_[:, 8:-8]
    quiet = ((straight - true_image)[inside] ** 2).mean() - noise**2
    assert quiet < 0.15 * (((image - true_image)[inside] ** 2).mean() - noise**2)


@pytest.mark.parametrize("jitter", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("strain", [{"sine": 0.5}, {"shear": 0.04}, {"bend": 2.0}], ids=["sine", "shear", "bend"])
def test_a_strained_lattice_stays_strained(strain, jitter):
    # fraction of the lattice's displacement that is removed, by regression on it
    (shape,) = ({"sine": np.sin, "shear": np.copy, "bend": lambda y: y**2}[k] for k in strain)
    own = shape((2 * np.pi / 150 if "sine" in strain else 2 / SHAPE[0]) * (Y - SHAPE[0] / 2))
    own = (own - own.mean()) * {"sine": 0.5, "shear": 0.04 * SHAPE[0] / 2, "bend": 2.0}[next(iter(strain))]
    removed = []
    for seed in range(3):
        image, rows = jittered(specimen(**strain), jitter, 0.02, seed)
        error = RowAligner(mode="haadf").fit(image).shifts_[0] - rows
        removed.append((error * own).mean() / (own**2).mean())
    # of one image up to twice as much
    assert abs(np.mean(removed)) < 0.2


@FEW
@given(st.floats(0.01, 0.15), seeds)
def test_rows_without_displacement_stay_in_place(noise, seed):
    image, _ = jittered(specimen(), 0.0, noise, seed)
    aligner = RowAligner(mode="haadf")
    straight = aligner.fit_transform(image)
    assert np.abs(aligner.shifts_[0]).max() < 0.5 * noise
    assert (straight - image).std() < 0.1 * noise


@FEW
@given(pixel_sizes, st.sampled_from(["f4", "f8", "u2"]), seeds)
def test_labels_are_kept_and_the_noise_model_is_removed(pixel_size, dtype, seed):
    image, _ = jittered(specimen(), 0.5, 0.05, seed)
    recorded = labeled((100 * image + 1000).astype(dtype), pixel_size, sample="STO")
    with_noise = recorded.assign_attrs(noise=json.dumps(NoiseModel().to_dict()))
    straight = RowAligner().fit_transform(with_noise)
    assert straight.dtype == (np.float64 if dtype == "f8" else np.float32)
    kept = {name: value for name, value in straight.attrs.items() if name != "stemkit"}
    assert (straight.dims, straight.name, kept) == (recorded.dims, "counts", recorded.attrs)
    assert json.loads(straight.attrs["stemkit"])["step"] == "straighten"
    xr.testing.assert_identical(straight.coords.to_dataset(), recorded.coords.to_dataset())
    assert "noise" in with_noise.attrs


def test_dark_columns_are_inverted_bright_ones():
    image, _ = jittered(specimen(), 0.5, 0.05, 0)
    bright = RowAligner(mode="haadf").fit(image)
    dark = RowAligner(mode="bf").fit(3 - image)
    np.testing.assert_allclose(dark.shifts_[0], bright.shifts_[0], atol=1e-6)
    np.testing.assert_allclose(dark.transform(3 - image), 3 - bright.transform(image), atol=1e-6)


@settings(max_examples=2)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_shifts_do_not_depend_on_the_units(scale, offset):
    image, _ = jittered(specimen(), 0.5, 0.05, 0)
    straight = RowAligner(mode="haadf").fit_transform(image)
    other = RowAligner(mode="haadf").fit_transform(scale * image + offset)
    # fits end within a tenth of their errors
    np.testing.assert_allclose((other - offset) / scale, straight, atol=2e-3)


@pytest.mark.slow
def test_stacks_and_lists_are_measured_one_by_one():
    images = [jittered(specimen(), jitter, 0.05, seed)[0] for seed, jitter in enumerate([0.3, 0.8])]
    alone = [RowAligner(mode="haadf").fit_transform(image) for image in images]
    aligner = RowAligner(mode="haadf").fit(np.stack(images))
    assert aligner.n_images_ == len(aligner.shifts_) == 2
    np.testing.assert_array_equal(aligner.transform(np.stack(images)), np.stack(alone))
    sizes = [labeled(images[0]), images[1][:180, :200]]
    first, second = RowAligner(mode="haadf").fit_transform(sizes)
    np.testing.assert_array_equal(first, alone[0])
    assert isinstance(second, np.ndarray)
    assert second.shape == (180, 200)
    # an image that was not fitted is measured by itself
    np.testing.assert_array_equal(RowAligner(mode="haadf").fit(images[0]).transform(images[1]), alone[1])


def test_residual_jitter_is_small_in_a_calibration():
    image, rows = jittered(specimen(), 0.8, 0.05, 2)
    straight = RowAligner(mode="haadf").fit_transform(image)
    left = NoiseCalibrator(mode="haadf").fit(straight).noise_model_.scan
    assert left.jitter < 0.25 * rows.std()


def test_rows_without_columns_are_not_shifted():
    noise = np.random.default_rng(0).normal(size=(96, 96))
    aligner = RowAligner(mode="haadf")
    with pytest.warns(UserWarning, match="no lattice of columns was found in the image: its rows are left"):
        aligner.fit(noise)
    assert (aligner.shifts_[0] == 0).all()
    np.testing.assert_array_equal(aligner.transform(noise), noise)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(RowAligner(mode="haadf").fit_transform(np.full((40, 40), 3.0)), 3.0)


def test_denoised_images_are_refused():
    image = labeled(specimen())
    denoised = image.assign_coords(recorded=image.variable)
    with pytest.raises(ValueError, match="put RowAligner before the denoiser"):
        RowAligner().fit(denoised)
    aligner = RowAligner().fit(image)
    with pytest.raises(ValueError, match="put RowAligner before the denoiser"):
        aligner.transform(denoised)


def test_dead_rows_do_not_affect_the_others():
    image, rows = jittered(specimen(), 0.5, 0.03, 3)
    image[100:102] = -5.0
    shifts = RowAligner(mode="haadf").fit(image).shifts_[0]
    good = np.r_[0:97, 105:224]
    assert (shifts - rows)[good].std() < 0.25 * rows.std()


def test_unknown_modes_and_unfitted_aligners_are_refused():
    with pytest.raises(ValueError, match="mode must be one of 'haadf', 'bf' or None, but is 'df'"):
        RowAligner(mode="df").fit(np.zeros((40, 40)))
    with pytest.raises(ValueError, match="not fitted"):
        RowAligner().transform(np.zeros((40, 40)))


def test_single_counts_of_an_aligned_image_are_not_faulty():
    counts = NoiseModel(scan=ScanNoise(jitter=0.5), pointwise=PointwiseNoise.counted(0.5, background=0.02))
    image = labeled(counts.apply(specimen(), random_state=1))
    # faults would be searched for in interpolated counts, which are not counts
    aligned = RowAligner().fit_transform(image)
    assert np.ptp(RowAligner().fit(image).shifts_[0]) > 0.5
    assert without_faults(aligned) is aligned
    assert without_faults(stemkit.NoiseCalibrator().fit_transform(aligned)).equals(aligned)
    assert json.loads(aligned.attrs["stemkit"])["step"] == "straighten"


def test_faulty_pixels_are_not_spread_by_interpolation():
    true_image = specimen()
    image, _ = jittered(true_image, 0.5, 0.03, 4)
    expected = RowAligner(mode="haadf").fit_transform(image)
    image[50, 60] = 1e3
    aligned = RowAligner(mode="haadf").fit_transform(image)
    assert np.abs(np.asarray(aligned) - np.asarray(expected)).max() < 1.0


def test_an_image_without_a_lattice_keeps_its_rows_and_its_faults_are_interpolated():
    image = labeled(np.random.default_rng(0).normal(size=(64, 64)))
    with pytest.warns(UserWarning, match="no lattice of columns"):
        aligned = RowAligner().fit_transform(image)
    np.testing.assert_array_equal(aligned.values, image.values)
    assert json.loads(aligned.attrs["stemkit"])["step"] == "straighten"  # also in lazy images, whose rows are not known
    np.testing.assert_array_equal(aligned, image)


def test_a_drift_without_jitter_is_removed_at_low_frequencies():
    noise = NoiseModel(scan=ScanNoise(drift=1.0, drift_rows=4.0), pointwise=PointwiseNoise(0.03))
    left = []
    for seed in range(3):
        rows = displacements(noise, SHAPE, seed)[:, SHAPE[1] // 2]
        image = noise.apply(specimen(), random_state=seed)
        # the mean and the mean slope are not distinguished from position and shear of the crystal
        error = rows - RowAligner(mode="haadf").fit(image).shifts_[0]
        left.append((error - np.polyval(np.polyfit(Y, error, 1), Y)).std() / rows.std())
    assert max(left) < 0.3, left


def test_rows_with_drift_are_aligned():
    true_image = crystal((256, 256), angle=0.3)
    scan = ScanNoise(jitter=0.15, drift=0.6, drift_rows=2.5)
    model = NoiseModel(scan=scan, pointwise=PointwiseNoise(0.15))
    noisy = model.apply(true_image, random_state=3)
    shifts = RowAligner(mode="haadf").fit(noisy).shifts_[0]
    true = displacements(model, true_image.shape, 3)[:, 128]
    left, before = (shifts - true)[4:-4].std(), true[4:-4].std()
    assert left < 0.45 * before


def test_a_slow_displacement_is_kept_as_far_as_the_drift_has_it():
    rng, n_rows = np.random.default_rng(0), 320
    slow = np.sin(2 * np.pi * 1.5 * np.arange(n_rows) / n_rows)
    rows = 0.1 * rng.normal(size=n_rows) + slow
    parts = DisplacementParts(0.1, 1.5, 20.0)
    kept = [
        float((_limit_slow(rows, 60.0, one) * slow).sum() / (slow**2).sum()) for one in (DisplacementParts(), parts)
    ]
    assert kept[0] < 0.3
    assert kept[1] > 0.8
