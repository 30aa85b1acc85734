from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import crystal, pixel_sizes, seeds, shapes

import stemkit
from stemkit import NoiseModel, PointwiseNoise, ScanNoise
from stemkit.periodicity import find_periodicity

LATTICES = st.tuples(st.floats(7.0, 24.0), st.floats(0.0, math.pi / 2))


@settings(max_examples=20)
@given(LATTICES)
def test_spacing_of_a_lattice(lattice):
    spacing, angle = lattice
    found = find_periodicity(crystal((160, 160), spacing, 0.2 * spacing, angle))
    # of seven cells along an axis of the image, the autocorrelation tells the period to 2.1 %
    assert found.spacing == pytest.approx(spacing, rel=0.025)
    assert found.strength > 0.7


@settings(max_examples=20)
@given(LATTICES)
def test_vectors_repeat_the_lattice(lattice):
    spacing, angle = lattice
    vectors = find_periodicity(crystal((160, 160), spacing, 0.2 * spacing, angle)).vectors
    assert np.hypot(*vectors.T) == pytest.approx([spacing, spacing], rel=0.03)
    assert abs(vectors[0] @ vectors[1]) < 0.05 * spacing**2
    # a whole number of lattice vectors
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    steps = vectors @ turn.T / spacing
    np.testing.assert_allclose(steps, np.round(steps), atol=0.05)


@settings(max_examples=10)
@given(LATTICES, st.floats(0.05, 0.4), st.floats(0.0, 0.2), seeds)
def test_spacing_in_noise(lattice, readout, streaks, seed):
    spacing, angle = lattice
    model = NoiseModel(scan=ScanNoise(streaks, math.inf), pointwise=PointwiseNoise(readout))
    image = model.apply(crystal((192, 192), spacing, 0.2 * spacing, angle), random_state=seed)
    assert find_periodicity(image).spacing == pytest.approx(spacing, rel=0.03)


@settings(max_examples=15)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.booleans())
def test_spacing_does_not_depend_on_units_or_contrast(scale, offset, dark):
    image = crystal((96, 96), 12.0, 2.5) + np.random.default_rng(0).normal(0, 0.1, (96, 96))
    one, other = find_periodicity(image), find_periodicity((-scale if dark else scale) * image + offset)
    assert other.spacing == pytest.approx(one.spacing, rel=1e-5)
    assert other.strength == pytest.approx(one.strength, rel=1e-5)


@pytest.mark.parametrize("streaks", [0.0, 1.0])
def test_noise_does_not_repeat(streaks):
    for seed in range(8):
        model = NoiseModel(scan=ScanNoise(streaks, math.inf), pointwise=PointwiseNoise(1.0))
        found = find_periodicity(model.apply(np.zeros((128, 128)), random_state=seed))
        assert found.spacing is None
        assert found.vectors is None


@settings(max_examples=15)
@given(shapes(1, 40), st.floats(-1e3, 1e3))
def test_a_constant_image_does_not_repeat(shape, value):
    found = find_periodicity(np.full(shape, value))
    assert (found.spacing, found.vectors, found.strength) == (None, None, 0.0)


@settings(max_examples=25)
@given(shapes(1, 40), seeds)
def test_the_lengths_of_noise_of_any_size_are_possible(shape, seed):
    found = find_periodicity(np.random.default_rng(seed).normal(size=shape))
    if found.spacing is None:
        assert (found.repeat, found.vectors, found.strength) == (None, None, 0.0)
    else:
        # a peak is at least 2 px away, up to the vertex of its parabola, and at most a third of the image
        assert 1.0 < found.spacing <= found.repeat <= math.hypot(*(max(3, n // 3) for n in shape))


def test_integers_are_images():
    image = (1000 + 500 * crystal((96, 96), 12.0, 2.5)).astype(np.uint16)
    assert find_periodicity(image).spacing == pytest.approx(12.0, rel=0.02)


# --- calibrated --------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(shapes(2, 30), pixel_sizes)
def test_calibrated_by_pixel_size(shape, pixel_size):
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    image = stemkit.calibrated(values, pixel_size=pixel_size)
    assert image.dims == ("y", "x")
    assert image.dtype == np.uint8
    assert np.array_equal(image, values)
    assert image.stem.pixel_size == pytest.approx(pixel_size)
    for axis in ("y", "x"):
        assert image[axis].attrs["units"] == "nm"
        assert image[axis].values[0] == 0
    assert image[1:, :].stem.pixel_sizes == pytest.approx((pixel_size, pixel_size))


@settings(max_examples=8)
@given(st.floats(8.0, 20.0), st.floats(0.1, 0.6))
def test_calibrated_by_lattice_repeat(spacing, known):
    image = stemkit.calibrated(crystal((128, 128), spacing, 0.2 * spacing), lattice_repeat=known)
    assert image.stem.pixel_size == pytest.approx(known / spacing, rel=0.02)


def test_calibrating_again_replaces_and_keeps_the_rest():
    image = xr.DataArray(np.ones((4, 5)), dims=("y", "x"), attrs={"mode": "bf"}, name="scan")
    once = stemkit.calibrated(image, pixel_size=0.01)
    twice = stemkit.calibrated(once, pixel_size=0.02)
    assert (once.stem.pixel_size, twice.stem.pixel_size) == pytest.approx((0.01, 0.02))
    assert twice.attrs == {"mode": "bf"}
    assert twice.name == "scan"
    assert not image.stem.is_calibrated


@pytest.mark.parametrize("electrons", [0.1, 0.3, 1.0, 4.5, 20.0])
def test_few_electrons_do_not_repeat(electrons):
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert find_periodicity(rng.poisson(electrons, (256, 256))).spacing is None


@pytest.mark.parametrize("how", [{"pixel_size": 0.01}, {"lattice_repeat": 0.12}])
def test_calibrated_containers(how):
    values = np.stack([crystal((64, 64), 12.0, 2.5)] * 2)
    for stack in (values, xr.DataArray(values, dims=("image", "y", "x"), coords={"image": [7, 8]})):
        out = stemkit.calibrated(stack, **how)
        assert out.dims == ("image", "y", "x")
        assert out.shape == values.shape
        assert out[0].stem.pixel_size == pytest.approx(0.01, rel=0.02)
    assert out["image"].values.tolist() == [7, 8]
    images = stemkit.calibrated([xr.DataArray(v, dims=("y", "x")) for v in (values[0], values[1][:48])], **how)
    assert [i.shape for i in images] == [(64, 64), (48, 64)]
    assert [i.stem.pixel_size for i in images] == pytest.approx([0.01, 0.01], rel=0.02)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "give exactly one of pixel_size and lattice_repeat"),
        ({"pixel_size": 0.01, "lattice_repeat": 0.3}, "give exactly one of pixel_size and lattice_repeat"),
        ({"pixel_size": 0.0}, "pixel_size must be a positive number of nm"),
        ({"pixel_size": -1.0}, "pixel_size must be a positive number of nm"),
        ({"pixel_size": math.nan}, "pixel_size must be a positive number of nm"),
        ({"pixel_size": math.inf}, "pixel_size must be a positive number of nm"),
        ({"lattice_repeat": 0.0}, "lattice_repeat must be a positive number of nm"),
        ({"lattice_repeat": math.nan}, "lattice_repeat must be a positive number of nm"),
        ({"lattice_repeat": math.inf}, "lattice_repeat must be a positive number of nm"),
    ],
)
def test_impossible_calibrations_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        stemkit.calibrated(crystal((64, 64), 12.0, 2.5), **how)


def test_an_image_without_lattice_has_no_repeat_to_calibrate_by():
    with pytest.raises(ValueError, match="no period was found: give pixel_size instead"):
        stemkit.calibrated(np.random.default_rng(0).normal(size=(64, 64)), lattice_repeat=0.3)


@pytest.mark.parametrize("second", [0.15, 0.3, 0.6])
def test_calibrated_by_the_lattice_s_repeat_and_not_by_an_unlike_neighbour(second):
    n, a, sigma = 320, 20.0, 2.5
    y, x = np.arange(n)[:, None], np.arange(n)[None, :]
    image = np.zeros((n, n))
    for row in np.arange(0, n + a, a):
        for col in np.arange(0, n + a, a):
            image += np.exp(-((y - row) ** 2 + (x - col) ** 2) / (2 * sigma**2))
            image += second * np.exp(-((y - row - a / 2) ** 2 + (x - col - a / 2) ** 2) / (2 * sigma**2))
    noisy = image + np.random.default_rng(0).normal(0, 0.1, image.shape)
    assert stemkit.calibrated(noisy, lattice_repeat=0.4).stem.pixel_size == pytest.approx(0.4 / a, rel=0.01)
