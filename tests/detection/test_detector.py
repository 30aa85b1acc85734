"""Tests of AtomDetector: which columns are found, their numbers, and whether the errors are right."""

import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from strategies import gaussians, labeled

import stemkit
from stemkit import (
    AtomDetector,
    Digitization,
    NoiseCalibrator,
    NoiseModel,
    PointwiseNoise,
    ScanNoise,
    SFINDenoiser,
)
from stemkit.detection import Quality
from stemkit.detection.table import COLUMNS
from stemkit.images.pixel_size import with_pixel_sizes
from stemkit.metrics import match_columns

SIGMA, SPACING, SIZE = 3.0, 14.0, 256


def square_grid(spacing, size):
    grid = np.arange(spacing / 2, size, spacing)
    return np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)


def disturbed_lattice(mode="haadf", contrast=100.0, level=50.0, seed=0):
    """A square lattice with random displacements: image without noise, and positions (y, x), px."""
    positions = square_grid(SPACING, SIZE)
    positions += np.random.default_rng(seed).uniform(-0.5, 0.5, positions.shape)
    sign = 1 if mode == "haadf" else -1
    return level + sign * contrast * gaussians((SIZE, SIZE), positions, SIGMA), positions


def recorded(mode="haadf", seed=0, pixel_size=0.02, **noise):
    contrast, level = 100.0, 50.0 if mode == "haadf" else 500.0
    true_image, positions = disturbed_lattice(mode, contrast, level)
    model = NoiseModel(contrast, level, mode, pointwise=PointwiseNoise(**noise))
    image = model.apply(true_image, random_state=seed)
    return stemkit.calibrated(image, pixel_size=pixel_size).assign_attrs(mode=mode), positions


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_finds_every_column_and_nothing_else(mode):
    image, positions = recorded(mode, readout=0.1)
    table = AtomDetector().fit_transform(image)
    match = match_columns(table[["y_px", "x_px"]], positions, SPACING / 3)
    assert (match.precision, match.recall) == (1.0, 1.0)
    assert (table["amplitude"] > 0).all()
    assert table["amplitude"].median() == pytest.approx(100.0, rel=0.03)


@pytest.mark.parametrize(
    "noise",
    [
        {"readout": 0.1},
        {"readout": 0.05, "gain": 0.05},
        {"readout": 0.1, "correlation_x": 0.3},
        {"readout": 0.1, "gain": 0.05, "kind": "poisson"},
    ],
    ids=["white", "signal-dependent", "correlated", "counted"],
)
def test_errors_are_the_scatter_of_the_positions(noise):
    image, positions = recorded(**noise)
    table = AtomDetector().fit_transform(image)
    match = match_columns(table[["y_px", "x_px"]], positions, SPACING / 3)
    found, true = table.iloc[match.found], positions[match.true]
    inside = (found["quality"] == 0).to_numpy()
    n = inside.sum()
    assert n > 200
    for i, axis in enumerate("yx"):
        error = (found[f"{axis}_px"].to_numpy() - true[:, i])[inside]
        pull = error / found[f"{axis}_px_err"].to_numpy()[inside]
        # the standard deviation of n pulls has a relative error of 1 / sqrt(2 n), the calibrated noise about 10 %
        assert pull.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * n) + 0.1)
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(n)


def test_jitter_has_its_own_column():
    true_image, positions = disturbed_lattice()
    model = NoiseModel(100.0, 50.0, scan=ScanNoise(jitter=0.6), pointwise=PointwiseNoise(readout=0.05))
    image = stemkit.calibrated(model.apply(true_image, random_state=1), pixel_size=0.02).assign_attrs(mode="haadf")
    table = AtomDetector().fit_transform(image)
    match = match_columns(table[["y_px", "x_px"]], positions, SPACING / 3)
    found = table.iloc[match.found]
    good = ((found["quality"] & (Quality.EDGE | Quality.FAILED)) == 0).to_numpy()
    error = (found["x_px"].to_numpy() - positions[match.true, 1])[good]
    stated = np.hypot(found["x_px_err"], found["x_jitter"] / 0.02).to_numpy()[good]
    # columns of one lattice row share their scan lines: there are about 18 independent displacements
    assert np.sqrt(np.mean((error / stated) ** 2)) == pytest.approx(1.0, abs=0.4)


@pytest.mark.slow
def test_lengths_are_in_nm_where_calibrated():
    image, _ = recorded(readout=0.1)
    in_nm = AtomDetector().fit(image)
    bare = image.drop_vars(["y", "x"])
    in_px = AtomDetector().fit(bare)
    assert in_nm.calibrated_
    assert not in_px.calibrated_
    assert in_nm.spacing_ == pytest.approx(0.02 * in_px.spacing_)
    assert in_px.width_ == pytest.approx(SIGMA, rel=0.03)
    assert in_px.spacing_ == pytest.approx(SPACING, abs=1.0)
    a, b = in_nm.transform(image), in_px.transform(bare)
    np.testing.assert_allclose(a["x"], 0.02 * b["x"], rtol=1e-6)
    np.testing.assert_allclose(a["x_err"], 0.02 * b["x_px_err"], rtol=1e-6)
    np.testing.assert_allclose(b["x"], b["x_px"])
    with pytest.raises(ValueError, match="fitted on images calibrated in nm"):
        in_nm.transform(bare)


def test_a_crop_keeps_its_place():
    image, _ = recorded(readout=0.05)
    detector = AtomDetector().fit(image)
    whole, part = detector.transform(image), detector.transform(image[100:, 60:])
    match = match_columns(part[["y", "x"]], whole[["y", "x"]], 0.05)
    inner = part.iloc[match.found]["quality"].to_numpy() == 0
    assert inner.sum() > 50
    difference = part.iloc[match.found][["y", "x"]].to_numpy() - whole.iloc[match.true][["y", "x"]].to_numpy()
    assert np.abs(difference[inner]).max() < 2e-3


class TestEnhancedImages:
    """Columns are searched in the enhanced image and measured on the recorded pixels."""

    def test_a_displaced_enhanced_image_does_not_displace_columns(self):
        image, _ = recorded(readout=0.15)
        enhanced = SFINDenoiser().fit_transform(NoiseCalibrator().fit_transform(image))
        moved = enhanced.copy(data=np.roll(enhanced.values, 2, axis=1))
        moved = moved.assign_coords(detect=(("y", "x"), np.roll(enhanced.coords["detect"].values, 2, axis=1)))
        a, b = (AtomDetector().fit_transform(i) for i in (enhanced, moved))
        match = match_columns(a[["y_px", "x_px"]], b[["y_px", "x_px"]], 1.0)
        good = (a.iloc[match.found]["quality"] == 0).to_numpy()
        difference = a.iloc[match.found]["x_px"].to_numpy() - b.iloc[match.true]["x_px"].to_numpy()
        assert good.sum() > 200
        # fits converge to a twentieth of their errors; whether two columns are fitted together depends on their starts
        in_errors = np.abs(difference[good] / a.iloc[match.found]["x_px_err"].to_numpy()[good])
        assert np.quantile(in_errors, 0.98) < 0.2
        assert in_errors.max() < 1
        assert np.abs(difference[good]).mean() < 0.02

    def test_errors_come_from_the_recorded_pixels(self):
        image, _ = recorded(readout=0.15)
        calibrated = NoiseCalibrator().fit_transform(image)
        enhanced = SFINDenoiser().fit_transform(calibrated)
        with_network, without = (AtomDetector().fit_transform(i) for i in (enhanced, calibrated))
        assert with_network["x_err"].median() == pytest.approx(without["x_err"].median(), rel=0.05)

    def test_calibrated_noise_is_taken_from_the_image(self):
        image, _ = recorded(readout=0.1)
        calibrated = NoiseCalibrator().fit_transform(image)
        noise = json.loads(calibrated.attrs["noise"])
        noise["pointwise"]["readout"] *= 2
        louder = calibrated.assign_attrs(noise=json.dumps(noise))
        a, b = (AtomDetector().fit_transform(i) for i in (calibrated, louder))
        assert b["x_err"].median() == pytest.approx(2 * a["x_err"].median(), rel=0.1)


class TestNoColumns:
    @pytest.mark.parametrize(
        "image",
        [np.full((64, 64), 3.0), np.random.default_rng(0).normal(size=(128, 128)), np.zeros((3, 3))],
        ids=["constant", "noise", "tiny"],
    )
    @pytest.mark.filterwarnings("ignore:the image is .* px:UserWarning")
    def test_gives_an_empty_table_with_the_columns(self, image):
        table = AtomDetector(mode="haadf").fit_transform(image)
        assert isinstance(table, pd.DataFrame)
        assert tuple(table.columns) == COLUMNS
        assert len(table) == 0

    def test_one_column(self):
        true_image = gaussians((64, 64), np.array([[30.3, 33.8]]), 3.0)
        image = NoiseModel(pointwise=PointwiseNoise(readout=0.05)).apply(true_image, random_state=0)
        table = AtomDetector(mode="haadf").fit_transform(image)
        assert len(table) == 1
        assert table.loc[0, ["y_px", "x_px"]].to_numpy(float) == pytest.approx([30.3, 33.8], abs=0.1)


@pytest.mark.slow
def test_rows_of_several_images_have_their_index():
    (a, _), (b, _) = recorded(readout=0.1), recorded(readout=0.1, seed=3)
    table = AtomDetector().fit_transform([a, b[:128]])
    counts = table["image"].value_counts()
    assert counts[0] > 1.8 * counts[1] > 0


@pytest.mark.slow
def test_score_is_the_mean_f1():
    (a, positions), (b, _) = recorded(readout=0.1), recorded(readout=0.1, seed=3)
    images = [a, b[:128]]
    truth = pd.DataFrame(positions, columns=["y_px", "x_px"])
    tables = [truth, truth[truth["y_px"] < 120]]
    detector = AtomDetector().fit(images)
    assert 0.95 < detector.score(images, tables) <= 1.0
    assert detector.score(images, [tables[0], tables[1].iloc[:0]]) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="one table per image"):
        detector.score(images, tables[:1])


@pytest.mark.parametrize("parameter", ["significance", "spacing", "width"])
def test_parameters_must_be_positive(parameter):
    with pytest.raises(ValueError, match=f"{parameter} must be a positive number"):
        AtomDetector(**{parameter: -1.0}).fit(np.zeros((40, 40)))


class TestRecordedPixels:
    def test_an_enhanced_image_without_its_recorded_pixels_is_refused(self):
        image, _ = recorded(readout=0.1)
        enhanced = SFINDenoiser().fit_transform(image)
        with pytest.raises(ValueError, match="does not carry its recorded pixels"):
            AtomDetector().fit(enhanced.drop_vars("recorded"))

    def test_oblong_pixels_are_refused(self):
        image, positions = recorded(readout=0.1)
        image = with_pixel_sizes(image, 0.02, 0.01)
        with pytest.raises(ValueError, match="needs square pixels") as refused:
            AtomDetector().fit(image)
        remedy = re.search(r"image\.interp\(.*\)(?=,)", str(refused.value))
        image = eval(remedy[0], {"image": image, "np": np})
        assert image.stem.pixel_size == pytest.approx(0.02)
        found = AtomDetector().fit_transform(image.drop_attrs(deep=False))
        match = match_columns(found[["y_px", "x_px"]], positions * [1.0, 0.5], 2.0)
        assert match.f1 > 0.9

    @pytest.mark.slow
    def test_calibration_after_enhancement_measures_the_recorded_pixels(self):
        image, _ = recorded(readout=0.1)
        before = NoiseCalibrator().fit(image).noise_model_
        after = NoiseCalibrator().fit(SFINDenoiser().fit_transform(image)).noise_model_
        assert after == before


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_the_detect_map_as_target_finds_the_same_columns(mode):
    image, positions = recorded(mode, readout=0.1)
    table = AtomDetector().fit_transform(SFINDenoiser(target="detect").fit_transform(image))
    match = match_columns(table[["y_px", "x_px"]], positions, SPACING / 3)
    assert (match.precision, match.recall) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("amplitude", "length", "recall"), [(0.15, 40.0, 0.97), (0.15, np.inf, 0.97), (0.3, 40.0, 0.8)]
)
def test_streaks_are_in_the_errors(amplitude, length, recall):
    true_image, positions = disturbed_lattice()
    model = NoiseModel(100.0, 50.0, scan=ScanNoise(amplitude, length), pointwise=PointwiseNoise(readout=0.1, gain=0.01))
    image = stemkit.calibrated(model.apply(true_image, random_state=0), pixel_size=0.02).assign_attrs(mode="haadf")
    table = AtomDetector().fit_transform(image)
    match = match_columns(table[["y_px", "x_px"]], positions, SPACING / 3)
    assert match.recall > recall
    found = table.iloc[match.found]
    good = (found["quality"] == 0).to_numpy()
    assert good.mean() > 0.8
    pull = (found["y_px"].to_numpy() - positions[match.true, 0])[good] / found["y_px_err"].to_numpy()[good]
    # columns of one lattice row share their streaks: there are about 18 independent rows
    assert pull.std() == pytest.approx(1.0, abs=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_units_do_not_matter(scale):
    image, _ = recorded(readout=0.1)
    a, b = (AtomDetector().fit_transform(i) for i in (image, image * scale))
    np.testing.assert_allclose(b[["y", "x", "y_err", "x_err"]], a[["y", "x", "y_err", "x_err"]], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(b["amplitude"], scale * a["amplitude"], rtol=1e-4)


def test_columns_too_faint_for_a_width_have_the_learnt_one():
    true_image, positions = disturbed_lattice()
    model = NoiseModel(100.0, 50.0, pointwise=PointwiseNoise(readout=0.9))
    image = stemkit.calibrated(model.apply(true_image, random_state=0), pixel_size=0.02).assign_attrs(mode="haadf")
    detector = AtomDetector(width=0.02 * SIGMA, spacing=0.02 * SPACING).fit(image)
    table = detector.transform(image)
    held = (table["quality"] & Quality.WIDTH_FIXED > 0) & (table["quality"] & Quality.FAILED == 0)
    assert held.sum() > 5
    np.testing.assert_allclose(table.loc[held, "sigma"], detector.width_)
    assert table.loc[held, "sigma_err"].isna().all()
    match = match_columns(table.loc[held, ["y_px", "x_px"]], positions, SPACING / 3)
    assert match.precision > 0.8
    found, true = table[held].iloc[match.found], positions[match.true]
    pull = (found["y_px"].to_numpy() - true[:, 0]) / found["y_px_err"].to_numpy()
    assert pull.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(pull)) + 0.25)


class TestMeasure:
    @pytest.mark.slow
    def test_every_position_is_a_row_in_its_order(self):
        image, positions = recorded(readout=0.1)
        detector = AtomDetector().fit(image)
        start = np.vstack([positions[::-1] + 0.3, [[-40.0, 10.0]]])
        table = detector.measure(image, start)
        assert len(table) == len(start)
        assert table["quality"].iloc[-1] & Quality.FAILED
        good = ((table["quality"] & Quality.FAILED) == 0).to_numpy()
        assert good.sum() >= len(positions) - 3
        off = table[["y_px", "x_px"]].to_numpy()[good] - np.vstack([positions[::-1], [[0, 0]]])[good]
        assert np.abs(off).max() < 0.6

    @pytest.mark.slow
    def test_amplitudes_at_fixed_positions_show_vacancies(self):
        true_image, positions = disturbed_lattice()
        vacancy = positions[150]
        rest = np.delete(positions, 150, axis=0)
        true_image -= 100.0 * gaussians(true_image.shape, vacancy[None], SIGMA)
        image = NoiseModel(100.0, 50.0, pointwise=PointwiseNoise(readout=0.1)).apply(true_image, random_state=0)
        detector = AtomDetector(mode="haadf").fit(image)
        asked = np.vstack([vacancy, positions[149]])
        table = detector.measure(image, asked, neighbors=np.delete(rest, 149, axis=0), fix_positions=True)
        np.testing.assert_array_equal(table[["y_px", "x_px"]], asked)
        pull = (table["amplitude"] - [0.0, 100.0]) / table["amplitude_err"]
        assert np.abs(pull).max() < 4.5
        assert table["amplitude_err"].max() < 5

    @pytest.mark.parametrize("positions", [[1.0, 2.0], [[1.0, 2.0, 3.0]], [[np.nan, 1.0]]])
    def test_invalid_positions_are_refused(self, positions):
        image, _ = recorded(readout=0.1)
        with pytest.raises(ValueError, match="positions must be"):
            AtomDetector().fit(image).measure(image, positions)


@pytest.mark.parametrize("apart", [0.8, 1.3, 1.7])
def test_two_spots_of_the_map_for_each_column_give_one_column(apart):
    """Networks draw such pairs of spots for scan noise that they were not trained on."""
    true_image, positions = disturbed_lattice()
    model = NoiseModel(100.0, 50.0, "haadf", pointwise=PointwiseNoise(readout=0.03))
    image = model.apply(true_image, random_state=0)
    aside = np.array([0.0, apart * SIGMA / 2])
    halves = np.concatenate([positions + aside, positions - aside])
    spots = 0.8 * gaussians(true_image.shape, halves, 0.8)
    enhanced = stemkit.calibrated(true_image, pixel_size=0.02).assign_attrs(mode="haadf")
    enhanced = enhanced.assign_coords(recorded=(("y", "x"), image), detect=(("y", "x"), spots))
    table = AtomDetector().fit_transform(enhanced)
    match = match_columns(table[["y_px", "x_px"]], positions, 3.0)
    assert (match.precision, match.recall) == (1.0, 1.0)


@pytest.mark.slow
def test_detectors_of_one_scan_share_positions():
    (a, positions), (b, _) = recorded(readout=0.1), recorded("bf", readout=0.2, seed=1)
    together = AtomDetector(shared_positions=True).fit_transform([a, b])
    halves = [together[together["image"] == i].reset_index(drop=True) for i in (0, 1)]
    np.testing.assert_array_equal(halves[0][["y", "x"]], halves[1][["y", "x"]])
    match = match_columns(halves[0][["y_px", "x_px"]], positions, SPACING / 3)
    assert (match.precision, match.recall) == (1.0, 1.0)
    for half in halves:
        assert half["amplitude"].median() == pytest.approx(100.0, rel=0.03)
    # two measurements are better than the better one
    alone = AtomDetector().fit_transform(a)
    assert halves[0]["y_err"].median() == pytest.approx(alone["y_err"].median() / np.sqrt(1 + 0.25), rel=0.05)
    with pytest.raises(ValueError, match="images of one scan"):
        AtomDetector(shared_positions=True).fit_transform([a, b[:100]])


def test_elliptical_columns_have_axes():
    y, x = np.mgrid[:200, :200]
    turn = np.radians(30.0)
    positions = square_grid(25.0, 190)
    true_image = np.zeros((200, 200))
    for row, col in positions:
        along = (x - col) * np.cos(turn) + (y - row) * np.sin(turn)
        across = -(x - col) * np.sin(turn) + (y - row) * np.cos(turn)
        true_image += np.exp(-(along**2) / (2 * 4.0**2) - across**2 / (2 * 3.0**2))
    image = NoiseModel(pointwise=PointwiseNoise(readout=0.02)).apply(true_image, random_state=0)
    table = AtomDetector(elliptical=True, mode="haadf").fit_transform(image)
    inner = table[table["quality"] == 0]
    assert len(inner) > 25
    for name, true in (("sigma_major", 4.0), ("sigma_minor", 3.0), ("angle", 30.0)):
        pull = (inner[name] - true) / inner[f"{name}_err"]
        assert inner[name].median() == pytest.approx(true, rel=0.03)
        assert 0.6 < pull.std() < 1.5, name
    assert inner["intensity"].median() == pytest.approx(2 * np.pi * 12.0, rel=0.02)


def test_the_integral_of_a_column_has_an_error():
    image, _ = recorded(readout=0.1)
    table = AtomDetector().fit_transform(image)
    inner = table[table["quality"] == 0]
    pull = (inner["intensity"] - 2 * np.pi * 100.0 * (SIGMA * 0.02) ** 2) / inner["intensity_err"]
    assert pull.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(inner)) + 0.1)


class TestUnusualImages:
    def test_saturated_columns_are_flagged(self):
        true_image, _ = disturbed_lattice()
        model = NoiseModel(100.0, 50.0, pointwise=PointwiseNoise(readout=0.05), digitization=Digitization(high=130.0))
        image = stemkit.calibrated(model.apply(true_image, random_state=0), pixel_size=0.02).assign_attrs(mode="haadf")
        image.attrs["noise"] = json.dumps({"pixel_size": 0.02, **model.to_dict()})
        table = AtomDetector().fit_transform(image)
        assert len(table) > 250
        assert ((table["quality"] & Quality.SATURATED) > 0).mean() > 0.9

    @pytest.mark.slow
    def test_a_steep_background(self):
        """In some images (1 of 8 drawn) a few of the 324 columns are lost."""
        scores, shifts = [], []
        for seed in range(3):
            true_image, positions = disturbed_lattice()
            image = NoiseModel(100.0, 50.0, pointwise=PointwiseNoise(readout=0.05)).apply(true_image, random_state=seed)
            image += 2.0 * np.arange(SIZE)
            table = AtomDetector(mode="haadf").fit_transform(image)
            match = match_columns(table[["y_px", "x_px"]], positions, SPACING / 3)
            scores.append(match.f1)
            inner = (table.iloc[match.found]["quality"] & Quality.EDGE == 0).to_numpy()
            off = table.iloc[match.found]["x_px"].to_numpy() - positions[match.true, 1]
            shifts.append(off[inner].mean())
        assert np.median(scores) > 0.98
        assert min(scores) > 0.93
        # the slope b displaces columns by 3.3 b sigma^2 / A, most of which is corrected
        assert np.median(shifts) < 0.3 * 3.3 * 2.0 * SIGMA**2 / 100

    def test_columns_two_px_apart_are_separated(self):
        positions = square_grid(2.0, 64)
        model = NoiseModel(mode="haadf", pointwise=PointwiseNoise(readout=0.05))
        true_image = gaussians((64, 64), positions, 0.5)
        image = labeled(model.apply(true_image, random_state=0), model)
        table = AtomDetector(spacing=2.0, width=0.5).fit_transform(image)
        assert match_columns(table[["y_px", "x_px"]], positions, 0.7).recall > 0.9

    @pytest.mark.parametrize("shape", [(64, 256), (256, 40)])
    def test_a_rectangle(self, shape):
        image, positions = recorded(readout=0.1)
        part = image[: shape[0], : shape[1]]
        table = AtomDetector().fit_transform(part)
        inside = positions[(positions < np.array(shape) - 4).all(axis=1) & (positions > 4).all(axis=1)]
        assert match_columns(table[["y_px", "x_px"]], inside, SPACING / 3).recall == 1.0

    def test_nan_is_refused(self):
        image, _ = recorded(readout=0.1)
        with pytest.raises(ValueError, match="NaN"):
            AtomDetector().fit(image.where(image > image.min()))


def test_faint_partners_of_dumbbells_are_found():
    rng = np.random.default_rng(0)
    first = np.array([(20 + 34 * i, 20 + 36 * j + 18 * (i % 2)) for i in range(7) for j in range(7)], dtype=float)
    first += rng.uniform(-0.5, 0.5, first.shape)
    positions = np.vstack([first, first + np.array([15.0, 0.0])])
    height = np.repeat([1.0, 0.45], len(first))
    true_image = gaussians((270, 290), positions, 4.7, height)
    noise = NoiseModel(1.0, 0.1, "haadf", pointwise=PointwiseNoise(0.05, 1 / 30, kind="poisson"))
    image = noise.apply(true_image + 0.1, random_state=0)
    table = AtomDetector(mode="haadf").fit_transform(image)
    inside = positions[(positions > 14).all(axis=1) & (positions < np.array(image.shape) - 14).all(axis=1)]
    match = match_columns(table[["y_px", "x_px"]], inside, 5.0)
    assert match.recall > 0.98
    found = table.iloc[match.found]
    good = (found["quality"] & (Quality.EDGE | Quality.FAILED)).to_numpy() == 0
    pull = (found["y_px"].to_numpy() - inside[match.true, 0])[good] / found["y_px_err"].to_numpy()[good]
    assert pull.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * good.sum()) + 0.1)


def test_flags_are_decoded():
    assert Quality.describe(0) == ""
    assert Quality.describe(Quality.EDGE | Quality.FAINT) == "EDGE | FAINT"
    quality = pd.Series([0, 24, 1])
    np.testing.assert_array_equal(quality & Quality.BLENDED != 0, [False, True, False])
    assert Quality(24) == Quality.WIDTH_FIXED | Quality.BLENDED
    quality.index = [7, 3, 5]
    decoded = Quality.decode(quality)
    assert list(decoded.index) == [7, 3, 5]
    assert list(decoded.columns) == [flag.name for flag in Quality]
    for flag in Quality:
        np.testing.assert_array_equal(decoded[flag.name], [bool(q & flag) for q in (0, 24, 1)])


@pytest.mark.parametrize(("pixel_size", "plausible"), [(0.02, True), (1.0, False), (0.001, False)])
def test_an_implausible_pixel_size_is_noticed(pixel_size, plausible):
    image = recorded(pixel_size=pixel_size, readout=0.1)[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AtomDetector().fit(image)
    assert any("check the pixel size" in str(w.message) for w in caught) is not plausible
