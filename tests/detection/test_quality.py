"""Tests of the quality flags, of good_columns and of fixed backgrounds."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SIGMAS, gaussians, lattice_positions, seeds

import stemkit
from stemkit import AtomDetector, NoiseModel, PointwiseNoise
from stemkit.detection import Quality, good_columns
from stemkit.detection.quality import BLENDED_DISTANCE, RESOLVED_ERROR, UNUSABLE
from stemkit.detection.table import COLUMNS
from stemkit.metrics import match_columns

SHAPE = (256, 256)
SIGMA = 2.7


def table_with(places: np.ndarray, quality: object, error: object = 0.05, image: object = 0) -> pd.DataFrame:
    """A table with these positions, flags and errors; the other numbers are 1."""
    table = pd.DataFrame(dict.fromkeys(COLUMNS, 1.0), index=range(len(places)))
    table[["y_px", "x_px"]] = places
    table["quality"], table["image"] = quality, image
    table["y_px_err"] = table["x_px_err"] = error
    return table


def far_apart(n: int) -> np.ndarray:
    return 50.0 * np.column_stack([np.arange(n), np.arange(n) % 3])


def recorded(true_image: np.ndarray, readout: float, seed: int = 0, **attrs: object):
    noisy = NoiseModel(pointwise=PointwiseNoise(readout)).apply(true_image, random_state=seed)
    return stemkit.calibrated(noisy, pixel_size=0.02).assign_attrs(mode="haadf", **attrs)


class TestGoodColumns:
    @pytest.mark.parametrize("flag", [f for f in Quality if f & UNUSABLE])
    def test_columns_whose_numbers_are_wrong_are_dropped(self, flag):
        table = table_with(far_apart(3), [0, int(flag), int(flag) | Quality.FAINT])
        pd.testing.assert_frame_equal(good_columns(table), table[:1])

    def test_faint_columns_and_fixed_widths_are_kept(self):
        flags = [0, Quality.FAINT, Quality.WIDTH_FIXED, Quality.FAINT | Quality.WIDTH_FIXED]
        table = table_with(far_apart(4), [int(f) for f in flags])
        pd.testing.assert_frame_equal(good_columns(table), table)

    @given(st.lists(st.integers(0, 511), min_size=1, max_size=30), seeds)
    def test_order_and_index_are_kept(self, quality, seed):
        # pairs with a failed fit have a test of their own
        quality = [q & ~Quality.FAILED.value for q in quality]
        rng = np.random.default_rng(seed)
        table = table_with(far_apart(len(quality)), quality)
        table.index = rng.permutation(1000)[: len(quality)]
        good = good_columns(table)
        assert list(good.index) == [i for i in table.index if i in set(good.index)]
        # columns this far apart are resolved
        expected = np.array(quality) & UNUSABLE == 0
        np.testing.assert_array_equal(good.index, table.index[expected])

    @pytest.mark.parametrize(("error", "stays"), [(0.1, True), (2.0, False), (np.nan, False)])
    def test_a_resolved_blended_pair_is_kept(self, error, stays):
        places = np.vstack([far_apart(3), [[20.0, 30.0], [20.0, 36.0]]])
        quality = [0, 0, 0, Quality.BLENDED, Quality.BLENDED]
        table = table_with(places, [int(q) for q in quality], np.r_[[0.05] * 3, [error] * 2])
        assert len(good_columns(table)) == 3 + 2 * stays

    def test_the_larger_error_of_a_pair_decides(self):
        table = table_with(np.array([[20.0, 30.0], [20.0, 36.0]]), int(Quality.BLENDED), np.array([0.01, 2.0]))
        assert len(good_columns(table)) == 0

    @settings(max_examples=50)
    @given(st.floats(3.0, 8.0), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
    def test_both_columns_of_a_pair_are_kept_or_dropped(self, distance, one, other):
        table = table_with(np.array([[20.0, 30.0], [20.0, 30.0 + distance]]), int(Quality.BLENDED), [one, other])
        resolved = math.sqrt(2) * max(one, other) < RESOLVED_ERROR * distance
        assert len(good_columns(table)) == 2 * resolved

    def test_a_pair_with_a_failed_fit_is_dropped(self):
        quality = [int(Quality.BLENDED), int(Quality.BLENDED | Quality.FAILED)]
        table = table_with(np.array([[20.0, 30.0], [20.0, 36.0]]), quality, [0.01, np.nan])
        assert len(good_columns(table)) == 0

    def test_columns_of_other_images_are_not_neighbours(self):
        """Two images with one column of a pair each, at the same places."""
        places = np.array([[20.0, 30.0], [20.0, 36.0], [20.0, 30.0], [20.0, 36.0]])
        table = table_with(places, int(Quality.BLENDED), [0.01, 0.01, 0.01, 5.0], [0, 0, 1, 1])
        np.testing.assert_array_equal(good_columns(table)["image"], [0, 0])
        shuffled = table.iloc[[2, 0, 3, 1]]
        np.testing.assert_array_equal(sorted(good_columns(shuffled).index), [0, 1])
        # tables of one image need not name it
        assert len(good_columns(table[:2].drop(columns="image"))) == 2

    @pytest.mark.parametrize("missing", ["quality", "y_px", "x_px_err"])
    def test_a_table_without_needed_columns_is_refused(self, missing):
        with pytest.raises(ValueError, match=f"lacks .*{missing}"):
            good_columns(table_with(far_apart(3), 0).drop(columns=missing))

    @pytest.mark.parametrize("n", [0, 1, 7])
    def test_a_table_read_from_csv_gives_the_same(self, n):
        quality = np.arange(n) % 2 * int(Quality.EDGE) + int(Quality.BLENDED) * (np.arange(n) > 4)
        table = table_with(far_apart(n), quality)
        text = io.StringIO()
        table.to_csv(text, index=False)
        text.seek(0)
        back = pd.read_csv(text)
        good = good_columns(back)
        assert list(good.columns) == list(table.columns)
        assert len(good) == len(good_columns(table)) == (quality & Quality.EDGE == 0).sum()

    @pytest.mark.filterwarnings("ignore:the image is .* px:UserWarning")
    def test_an_empty_table_stays_empty(self):
        empty = AtomDetector(mode="haadf").fit_transform(np.zeros((40, 40)))
        good = good_columns(empty)
        assert tuple(good.columns) == COLUMNS
        assert len(good) == 0


def dumbbells(distance: float, spacing: float = 32.0) -> np.ndarray:
    middle = lattice_positions(SHAPE, spacing, angle=0.1, margin=-14.0)
    half = np.array([0.0, distance / 2])
    return np.vstack([middle - half, middle + half])


class TestBlended:
    """Pairs of sigma 3."""

    @pytest.mark.parametrize("distance", [7.2, 9.5])
    def test_both_columns_of_a_pair_without_a_dip_are_flagged(self, distance):
        positions = dumbbells(distance)
        table = AtomDetector(width=0.06, spacing=0.02 * distance).fit_transform(
            recorded(gaussians(SHAPE, positions, 3.0), 0.005)
        )
        match = match_columns(table[["y_px", "x_px"]], positions, 1.5)
        assert (match.precision, match.recall) == (1.0, 1.0)
        blended = table["quality"].to_numpy() & Quality.BLENDED > 0
        assert (blended == (distance < BLENDED_DISTANCE * 3.0)).all()

    @pytest.mark.parametrize("seed", [0, 1])
    def test_pairs_with_small_errors_are_kept(self, seed):
        positions = dumbbells(7.2)
        true_image = gaussians(SHAPE, positions, 3.0)
        detector = AtomDetector(width=0.06, spacing=0.144)
        clear, noisy = (detector.fit_transform(recorded(true_image, readout, seed)) for readout in (0.005, 0.4))
        inside = (clear["quality"].to_numpy() & Quality.EDGE) == 0
        assert len(good_columns(clear)) == inside.sum()
        good = good_columns(noisy)
        blended = good[good["quality"] & Quality.BLENDED > 0]
        assert 0 < len(blended) < ((noisy["quality"] & Quality.BLENDED > 0) & (noisy["quality"] & UNUSABLE == 0)).sum()
        # they are kept in pairs, and their positions are correct within the errors
        match = match_columns(blended[["y_px", "x_px"]], positions, 3.6)
        kept = np.zeros(len(positions), dtype=bool)
        kept[match.true] = True
        first, second = np.split(kept, 2)
        assert (first == second).mean() > 0.9
        off = blended["x_px"].to_numpy()[match.found] - positions[match.true, 1]
        assert (np.abs(off) < 4.5 * blended["x_px_err"].to_numpy()[match.found]).mean() > 0.97


def two_widths(places: np.ndarray, wide: float = 2.0, part: float = 0.5) -> np.ndarray:
    """Non-Gaussian columns: sums of two Gaussians whose widths have the ratio ``wide``."""
    return gaussians(SHAPE, places, 2.0, 1 - part) + gaussians(SHAPE, places, 2.0 * wide, part)


class TestOddShape:
    def test_equal_non_gaussian_columns_are_not_odd(self):
        places = lattice_positions(SHAPE, 24.0, margin=-14.0)
        table = AtomDetector().fit_transform(recorded(two_widths(places), 0.002))
        assert len(table) == len(places)
        assert table.attrs["residual"] > 3
        assert table.attrs["residual"] == pytest.approx(table["residual"].median())
        assert (table["quality"].to_numpy() & Quality.ODD_SHAPE > 0).mean() < 0.05

    @pytest.mark.parametrize("part", [0.3, 0.5])
    @pytest.mark.parametrize("wide", [1.6, 3.0])
    def test_the_misfit_of_non_gaussian_columns_is_not_a_column(self, wide, part):
        """The misfit repeats with the lattice, as columns do."""
        places = lattice_positions(SHAPE, 24.0, margin=-14.0)
        table = AtomDetector().fit_transform(recorded(two_widths(places, wide, part), 0.005))
        match = match_columns(table[["y_px", "x_px"]], places, 6.0)
        assert (match.precision, match.recall) == (1.0, 1.0)

    @pytest.mark.parametrize("readout", [0.005, 0.05])
    def test_the_misfit_of_elliptical_columns_is_not_a_column(self, readout):
        places = lattice_positions(SHAPE, 24.0, margin=-14.0)
        y, x = np.indices(SHAPE)
        true_image = sum(np.exp(-((y - r) ** 2) / (2 * 3.0**2) - (x - c) ** 2 / (2 * 4.2**2)) for r, c in places)
        table = AtomDetector().fit_transform(recorded(true_image, readout))
        match = match_columns(table[["y_px", "x_px"]], places, 6.0)
        assert (match.precision, match.recall) == (1.0, 1.0)

    def test_a_column_of_another_shape_is_odd(self):
        places = lattice_positions(SHAPE, 24.0, margin=-14.0)
        other = int(np.argmin(np.hypot(*(places - 128).T)))
        y, x = np.indices(SHAPE) - places[other][:, None, None]
        square = np.where((abs(y) < 4.5) & (abs(x) < 4.5), 1.0, 0.0)
        true_image = two_widths(np.delete(places, other, axis=0)) + square
        table = AtomDetector().fit_transform(recorded(true_image, 0.002))
        odd = table["quality"].to_numpy() & Quality.ODD_SHAPE > 0
        distance = np.hypot(*(table[["y_px", "x_px"]].to_numpy() - places[other]).T)
        assert odd[distance < 5].any()
        # except for its neighbours, which share pixels with it
        assert odd[distance > 40].mean() < 0.05

    def test_gaussian_columns_are_not_odd(self):
        places = lattice_positions(SHAPE, 14.0, margin=4.0)
        table = AtomDetector().fit_transform(recorded(gaussians(SHAPE, places, 3.0), 0.05))
        assert (table["quality"].to_numpy() & Quality.ODD_SHAPE == 0).all()
        assert table.attrs["residual"] == pytest.approx(1.0, abs=0.1)


class TestBackground:
    """A particle whose columns are 3.3 sigma apart; for closer ones the stated errors are too small."""

    @staticmethod
    def particle(level: float, contrast: float, sign: float, seed: int, readout: float = 0.03):
        """Overlapping columns of a particle on a support of one intensity, in plain NumPy."""
        places = lattice_positions(SHAPE, 9.0, margin=-70.0)
        places = places[np.hypot(*(places - 127.5).T) < 45]
        heights = np.random.default_rng(seed).uniform(0.8, 1.2, len(places))
        true_image = level + sign * contrast * gaussians(SHAPE, places, SIGMA, heights)
        noise = NoiseModel(contrast, level, "haadf" if sign > 0 else "bf", pointwise=PointwiseNoise(readout))
        image = stemkit.calibrated(noise.apply(true_image, random_state=seed), pixel_size=0.02)
        return image.assign_attrs(mode=noise.mode), places, 2 * np.pi * (SIGMA * 0.02) ** 2 * contrast * heights

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_intensities_are_integrals_above_the_background(self, sign, seed):
        level, contrast = 500.0, 80.0
        image, places, volume = self.particle(level, contrast, sign, seed)
        table = AtomDetector(background=level).fit_transform(image)
        match = match_columns(table[["y_px", "x_px"]], places, 3.0)
        assert match.recall == 1.0
        assert match.precision > 0.97
        np.testing.assert_allclose(table["background"], level)
        assert (table["background_err"] == 0).all()
        found = table.iloc[match.found]
        pull = (found["intensity"].to_numpy() - volume[match.true]) / found["intensity_err"].to_numpy()
        n = len(pull)
        assert pull.std() == pytest.approx(1.0, rel=SIGMAS / math.sqrt(2 * n) + 0.1)
        assert found["intensity"].sum() == pytest.approx(volume.sum(), rel=0.01)

    def test_a_wrong_background_biases_the_intensities(self):
        """A background that is too high by 2 % of the contrast."""
        image = self.particle(500.0, 80.0, 1.0, 0)[0]
        right, wrong = (AtomDetector(background=b).fit_transform(image) for b in (500.0, 501.6))
        assert len(right) == len(wrong)
        assert wrong["intensity"].sum() < 0.97 * right["intensity"].sum()

    @pytest.mark.parametrize("value", [np.nan, np.inf, "0", True, [1.0]])
    def test_an_invalid_background_is_refused(self, value):
        with pytest.raises(ValueError, match="background must be a finite number or None"):
            AtomDetector(background=value).fit(np.zeros((40, 40)))
