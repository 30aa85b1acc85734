from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from strategies import crystal, seeds, shapes

from stemkit.metrics import Match, match_columns, psnr, psnr_8bit, ssim

RADIUS = 1.0


def positions(n: int, seed: int, field: float) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, field, (n, 2))


def best(found: np.ndarray, true: np.ndarray, radius: float) -> tuple[int, float]:
    """Most pairs within the radius, and their least sum of squares, by trying every pairing."""
    square = ((found[:, None] - true[None]) ** 2).sum(-1)
    for n in range(min(len(found), len(true)), 0, -1):
        costs = [
            sum(square[i, j] for i, j in zip(some, other, strict=True))
            for some in itertools.combinations(range(len(found)), n)
            for other in itertools.permutations(range(len(true)), n)
            if all(square[i, j] <= radius**2 for i, j in zip(some, other, strict=True))
        ]
        if costs:
            return n, min(costs)
    return 0, 0.0


@settings(max_examples=60)
@given(st.integers(0, 5), st.integers(0, 5), seeds, st.floats(0.5, 4.0))
def test_matching_is_optimal(n_found, n_true, seed, field):
    found, true = positions(n_found, seed, field), positions(n_true, seed + 1, field)
    match = match_columns(found, true, RADIUS)
    n, cost = best(found, true, RADIUS)
    assert len(match.found) == len(match.true) == n
    assert ((found[match.found] - true[match.true]) ** 2).sum() == pytest.approx(cost, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 200), st.integers(0, 200), seeds, st.floats(2.0, 40.0))
def test_matching_is_one_to_one_and_within_the_radius(n_found, n_true, seed, field):
    found, true = positions(n_found, seed, field), positions(n_true, seed + 1, field)
    match = match_columns(found, true, RADIUS)
    assert len(set(match.found)) == len(match.found)
    assert len(set(match.true)) == len(match.true)
    difference = found[match.found] - true[match.true]
    assert (np.hypot(*difference.T) <= RADIUS * (1 + 1e-12)).all()
    other = match_columns(true, found, RADIUS)
    assert len(other.found) == len(match.found)
    assert (other.precision, other.recall) == (match.recall, match.precision)
    if len(match.found):
        assert match.rms == pytest.approx(np.sqrt((difference**2).mean(axis=0)))
        assert match.bias == pytest.approx(difference.mean(axis=0))


@settings(max_examples=20)
@given(st.integers(1, 60), seeds)
def test_the_truth_matches_itself(n, seed):
    true = positions(n, seed, 50.0)
    order = np.random.default_rng(seed).permutation(n)
    match = match_columns(true[order], true, 3.0)
    assert np.array_equal(order[match.found], match.true)
    assert (match.precision, match.recall, match.f1) == (1, 1, 1)
    assert match.rms == match.bias == (0, 0)


@settings(max_examples=20)
@given(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_a_shift_is_a_bias(dy, dx):
    true = np.stack(np.meshgrid(np.arange(5.0), np.arange(6.0)), -1).reshape(-1, 2)
    match = match_columns(true + np.array([dy, dx]), true, 0.45)
    assert match.bias == pytest.approx((dy, dx), abs=1e-12)
    assert match.rms == pytest.approx((abs(dy), abs(dx)), abs=1e-12)


def test_missed_and_false_columns():
    match = match_columns([[0, 0], [0, 10], [50, 50]], [[0, 0.5], [0, 10], [20, 20], [30, 30]], 1.0)
    assert match.precision == pytest.approx(2 / 3)
    assert match.recall == pytest.approx(0.5)
    assert match.f1 == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [([], [], (1, 1, 1)), ([], [[0, 0]], (0, 0, 0)), ([[0, 0]], [], (0, 0, 0)), ([[0, 0]], [[5, 5]], (0, 0, 0))],
)
def test_matching_nothing(found, true, expected):
    match = match_columns(found, true, 1.0)
    assert (match.precision, match.recall, match.f1) == expected
    assert all(math.isnan(v) for v in (*match.rms, *match.bias))


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan])
def test_impossible_radii_are_refused(radius):
    with pytest.raises(ValueError, match="radius must be a positive number"):
        match_columns([[0, 0]], [[0, 0]], radius)


def test_f1_of_nothing_right():
    nothing = np.empty(0, dtype=int)
    assert Match(nothing, nothing, 0.0, 0.0, (0, 0), (0, 0)).f1 == 0.0


# --- images ------------------------------------------------------------------------------------------------------

scales = st.floats(1e-3, 1e3)
offsets = st.floats(-1e3, 1e3)


def pair(shape: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=shape)
    return truth + 0.3 * rng.normal(size=shape), truth


@settings(max_examples=40)
@given(shapes(2, 30), seeds, scales, offsets)
def test_psnr_does_not_depend_on_the_units(shape, seed, scale, offset):
    image, truth = pair(shape, seed)
    assert psnr(scale * image + offset, scale * truth + offset) == pytest.approx(psnr(image, truth), abs=1e-4)
    assert psnr(-image, -truth) == pytest.approx(psnr(image, truth))


@settings(max_examples=40)
@given(shapes(2, 30), seeds, st.floats(0.01, 100.0))
def test_psnr_of_a_known_error(shape, seed, error):
    _, truth = pair(shape, seed)
    assert psnr(truth + error, truth) == pytest.approx(20 * math.log10(np.ptp(truth) / error), abs=1e-6)
    # ten times the error is 20 dB
    assert psnr(truth + error, truth) - psnr(truth + 10 * error, truth) == pytest.approx(20, abs=1e-6)


def test_psnr_of_the_truth_itself():
    _, truth = pair((8, 8), 0)
    assert psnr(truth, truth) == math.inf


def test_psnr_does_not_wrap_integers():
    truth = np.array([[0, 255]], dtype=np.uint8)
    assert psnr(np.array([[1, 254]], dtype=np.uint8), truth) == pytest.approx(20 * math.log10(255))
    assert psnr(truth[:, ::-1], truth) == pytest.approx(0.0)


@settings(max_examples=30)
@given(shapes(2, 30), seeds, scales)
def test_ssim_is_at_most_one_and_scales(shape, seed, scale):
    image, truth = pair(shape, seed)
    assert ssim(truth, truth) == pytest.approx(1.0)
    assert -1 <= ssim(image, truth) < 1
    assert ssim(scale * image, scale * truth) == pytest.approx(ssim(image, truth), abs=1e-6)


def test_ssim_falls_with_noise():
    truth = crystal((64, 64))
    noise = np.random.default_rng(0).normal(size=truth.shape)
    values = [ssim(truth + level * noise, truth) for level in (0.0, 0.02, 0.1, 0.5)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.5


def test_ssim_is_the_definition():
    image, truth = pair((17, 19), 3)
    at = np.arange(-5, 6)
    line = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * np.ptp(truth)) ** 2, (0.03 * np.ptp(truth)) ** 2
    values = []
    for y in range(5, 12):
        for x in range(5, 14):
            i, t = (v[y - 5 : y + 6, x - 5 : x + 6] for v in (image, truth))
            mean_i, mean_t = (window * i).sum(), (window * t).sum()
            var_i, var_t = (window * (i - mean_i) ** 2).sum(), (window * (t - mean_t) ** 2).sum()
            both = (window * (i - mean_i) * (t - mean_t)).sum()
            values.append(
                (2 * mean_i * mean_t + c1) * (2 * both + c2) / ((mean_i**2 + mean_t**2 + c1) * (var_i + var_t + c2))
            )
    assert ssim(image, truth) == pytest.approx(np.mean(values), rel=1e-9)


@settings(max_examples=20)
@given(shapes(11, 30), seeds, scales, offsets)
def test_values_are_those_of_scikit_image(shape, seed, scale, offset):
    image, truth = (scale * values + offset for values in pair(shape, seed))
    known = {"data_range": np.ptp(truth)}
    assert psnr(image, truth) == pytest.approx(peak_signal_noise_ratio(truth, image, **known))
    known |= {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    assert ssim(image, truth) == pytest.approx(structural_similarity(truth, image, **known))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pairs_that_can_not_be_compared_are_refused(measure):
    with pytest.raises(ValueError, match=r"image and truth must have the same shape, but have \(3, 3\) and \(3, 4\)"):
        measure(np.zeros((3, 3)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="truth must not be constant"):
        measure(np.eye(3), np.ones((3, 3)))


@settings(max_examples=20)
@given(shapes(2, 30), seeds)
def test_a_better_image_has_a_better_psnr(shape, seed):
    image, truth = pair(shape, seed)
    assume(not np.array_equal(image, truth))
    assert psnr((image + truth) / 2, truth) == pytest.approx(psnr(image, truth) + 20 * math.log10(2), abs=1e-6)


@given(seeds)
def test_psnr_of_pictures(seed):
    truth = np.random.default_rng(seed).uniform(-3.0, 5.0, (32, 40))
    # grey values are rounded: an error of a twelfth of one squared
    assert psnr_8bit(truth, truth) == pytest.approx(20 * np.log10(255 * np.sqrt(12)), abs=0.5)
    # what is beyond the truth's range is cut off
    beyond = np.where(truth > 4.0, 100.0, truth)
    assert psnr_8bit(beyond, truth) > psnr(beyond, truth) + 20
    assert psnr_8bit(np.stack([truth, beyond]), np.stack([truth, truth])) == pytest.approx(
        (psnr_8bit(truth, truth) + psnr_8bit(beyond, truth)) / 2
    )


@pytest.mark.parametrize("found", [np.zeros((2, 3)), np.zeros(4), [[0.0, np.nan]]])
def test_positions_have_two_finite_components(found):
    with pytest.raises(ValueError, match=r"found must be finite positions \(y, x\) of shape \(n, 2\)"):
        match_columns(found, np.zeros((3, 2)), 1.0)
