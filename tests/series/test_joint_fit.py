"""Columns measured in the recorded pixels of all frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.columns import fit_columns
from stemkit.metrics import match_columns
from stemkit.series import SeriesAligner, draw_displacements, draw_series, joint_fit, measure_frames, measure_series
from stemkit.series.layers import layers_of
from stemkit.synthesis import cropped, disk, lattice, planar_cell

SIZE, SIGMA, DOSE = 96, 2.0, 10.0
SCAN = ScanNoise(jitter=0.3, jitter_y=0.3)


def recorded(n=4, seed=0, mode="haadf", dose=DOSE):
    """Frames of a particle with known displacements, and an aligner that has found them."""
    moved = draw_displacements(n, SIZE, scan=SCAN, drift=(1.7, -1.2), random_state=seed)
    columns = lattice(planar_cell("square"), (SIZE, SIZE), spacing=12.0, angle=5.0, margin=20.0, sigma=SIGMA)
    columns = cropped(columns, disk((46.0, 50.0), 44.0))
    level = (2.0 if mode == "bf" else 0.2) * dose
    pointwise = PointwiseNoise.counted(dose, background=level, mode=mode)
    noise = NoiseModel(dose, level, mode, pointwise=pointwise)
    frames = draw_series(columns, moved, shape=(SIZE, SIZE), noise=noise, pixel_size=0.02, random_state=seed)
    aligner = SeriesAligner(denoiser=None, rows=False, mode=mode).fit(frames)
    offset = np.round((aligner.displacements_ - moved).mean((0, 1)))
    aligner.displacements_ = moved + offset
    aligner.scan_noise_ = SCAN
    true = columns.places[0].numpy()[columns.present[0].numpy()] + offset
    return frames, aligner, noise, true


def found_in(frames, aligner):
    image = aligner.transform(frames)
    return AtomDetector(spacing=0.24, width=0.04).fit_transform(image.fillna(float(image.median())))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 2), st.floats(-8, 8), st.floats(-0.2, 0.2))
def test_each_row_lies_once_where_it_was_recorded(seed, jitter, offset, stretch):
    random = np.random.default_rng(seed)
    shape = (20, 15)
    displacements = random.normal(0, jitter, (3, *shape[:1], 2)) + offset
    displacements[..., 0] += stretch * np.arange(shape[0])
    pixel = np.arange(3 * 300.0).reshape(3, *shape)
    faulty = random.uniform(size=pixel.shape) < 0.1
    layers = layers_of(zip(pixel, faulty, strict=True), displacements, shape)
    # where each pixel that is on the grid was recorded
    layer, y, x = np.nonzero(layers.valid)
    number = layers.values[layer, y, x].astype(int)
    frame, row, column = np.unravel_index(number, pixel.shape)
    place = np.stack([row, column]) + displacements[frame, row].T
    np.testing.assert_allclose(np.stack([y, x]) + layers.shifts[layer, :, y, x].T, place, atol=1e-5)
    assert np.abs(layers.shifts).max() <= 0.5
    moved = np.rint(np.broadcast_to(displacements[:, :, None], (3, *shape, 2)))
    nearest = np.indices(pixel.shape)[1:] + np.moveaxis(moved, -1, 0)
    inside = np.all((nearest >= 0) & (nearest <= np.array(shape)[:, None, None, None] - 1), axis=0) & ~faulty
    assert sorted(number) == sorted(pixel[inside].astype(int))


def test_an_image_in_parts_is_fitted_as_the_whole():
    random = np.random.default_rng(0)
    y, x = np.mgrid[:60, :60]
    places = np.array([(20.3, 21.8), (24.9, 26.2), (41.1, 39.6)])
    image = 0.3 + sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 8) for a, b in places) + random.normal(0, 0.05, (60, 60))
    part = random.uniform(size=image.shape) < 0.5
    shifts = np.zeros((2, 2, *image.shape))
    shifts[1] = np.array([1.3, -0.4])[:, None, None]
    whole = fit_columns(image, places, 2.0, variance=0.05**2)
    both = fit_columns(
        np.stack([image, np.where(part, image, np.nan)]),
        places,
        2.0,
        variance=0.05**2,
        valid=np.stack([~part, part]),
        shifts=np.zeros_like(shifts),
    )
    for name in ("y", "x", "amplitude", "sigma", "y_err", "amplitude_err", "residual"):
        np.testing.assert_allclose(getattr(both, name), getattr(whole, name), rtol=2e-3)


def test_weights_are_inverse_variances():
    random = np.random.default_rng(0)
    y, x = np.mgrid[:40, :40]
    image = 0.3 + np.exp(-((y - 19.7) ** 2 + (x - 20.2) ** 2) / 8) + random.normal(0, 0.05, (40, 40))
    start = np.array([(19.7, 20.2)])
    weights = np.full(image.shape, 0.25)
    weighted = fit_columns(image, start, 2.0, variance=0.05**2, weights=weights)
    noisier = fit_columns(image, start, 2.0, variance=0.1**2)
    for name in ("y", "y_err", "amplitude_err", "residual"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(noisier, name), rtol=1e-3)


def test_errors_are_those_of_the_electrons_of_all_frames():
    errors, stated = [], []
    for seed in range(3):
        frames, aligner, noise, true = recorded(seed=seed)
        table = measure_series(frames, found_in(frames, aligner), aligner, noise=noise)
        table = table[(table["quality"] == 0) & (table["n_frames"] > 3.9)]
        match = match_columns(table[["y_px", "x_px"]], true, 3.0)
        assert len(match.found) == len(table) >= 15
        errors.append(table[["y_px", "x_px"]].to_numpy()[match.found] - true[match.true])
        stated.append(table[["y_px_err", "x_px_err"]].to_numpy()[match.found])
    error, stated = np.concatenate(errors), np.concatenate(stated)
    tolerance = 5 / np.sqrt(2 * error.size)
    assert np.sqrt(np.mean((error / stated) ** 2)) == pytest.approx(1.0, abs=tolerance)
    # single column, Poisson noise of background and column: information from the slope
    y, x = np.mgrid[-9:10, -9:10]
    shape = np.exp(-(y**2 + x**2) / (2 * SIGMA**2))
    bound = 1 / np.sqrt(4 * DOSE * np.sum((x / SIGMA**2 * shape) ** 2 / (0.2 + shape)))
    assert np.sqrt(np.mean(stated**2)) / bound == pytest.approx(1.0, abs=0.1)
    assert np.sqrt(np.mean(error**2)) / bound == pytest.approx(1.0, abs=0.1 + tolerance)


def test_the_jitter_is_that_of_the_mean_of_the_frames():
    frames, _, noise, _ = recorded()
    aligner = SeriesAligner(denoiser=None).fit(frames)
    aligner.scan_noise_ = SCAN
    average = NoiseCalibrator().fit_transform(aligner.transform(frames))
    columns = AtomDetector(spacing=0.24, width=0.04).fit_transform(average)
    table = measure_series(frames, columns, aligner, noise=noise)
    # jitter^2 / ((2 pi)^1/2 sigma) in a frame
    expected = 0.3 / np.sqrt(np.sqrt(2 * np.pi) * SIGMA) / 2
    assert table["x_jitter"].median() / 0.02 == pytest.approx(expected, rel=0.05)
    # the average says the same
    assert columns["x_jitter"].median() / 0.02 == pytest.approx(expected, rel=0.1)


def test_dark_columns_and_the_units_of_the_table():
    frames, aligner, noise, _ = recorded(mode="bf", n=3, dose=100.0)
    columns = found_in(frames, aligner)
    table = measure_series(frames, columns, aligner, noise=noise)
    assert list(table) == list(columns)
    assert table.attrs["unit"] == "nm"
    assert table["amplitude"].median() == pytest.approx(100.0, rel=0.1)
    assert table["background"].median() == pytest.approx(200.0, rel=0.02)
    np.testing.assert_allclose(table["y"] - columns["y"], (table["y_px"] - columns["y_px"]) * 0.02, atol=1e-6)
    assert (table["y_px"] - columns["y_px"]).abs().median() < 0.5 * columns["y_px_err"].median()


def test_each_frame_alone():
    frames, aligner, noise, _ = recorded(n=3)
    columns = found_in(frames, aligner)
    columns.index = columns.index + 100
    table = measure_frames(frames, columns, aligner, noise=noise)
    assert set(table["frame"]) == {0, 1, 2}
    assert set(table["column"]) <= set(columns.index)
    whole = table[(table["quality"] == 0) & (table["n_frames"] > 0.95)]
    # a third of the information
    ratio = whole["x_err"].median() / measure_series(frames, columns, aligner, noise=noise)["x_err"].median()
    assert ratio == pytest.approx(3**0.5, rel=0.1)
    each = whole.groupby("column")["x"]
    three = each.count() == 3
    scatter = each.var()[three]
    stated = (whole["x_err"] ** 2).groupby(whole["column"]).mean()[three]
    # chi-square with 2 degrees of freedom for each column
    assert (scatter / stated).mean() == pytest.approx(1.0, abs=5 / np.sqrt(three.sum()))
    fixed = measure_frames(frames, columns, aligner, noise=noise, fix_positions=True)
    assert set(fixed["y_px"].round(6)) <= set(columns["y_px"].round(6))
    assert fixed["y_err"].max() == 0
    assert fixed["amplitude_err"].median() < table["amplitude_err"].median()


def test_tables_without_columns_and_without_numbers():
    frames, aligner, noise, _ = recorded(n=2)
    columns = found_in(frames, aligner)
    assert len(measure_series(frames, columns[:0], aligner, noise=noise)) == 0
    assert {"frame", "column"} <= set(measure_frames(frames, columns[:0], aligner))
    with pytest.raises(ValueError, match="columns must be a table of AtomDetector, but lacks sigma"):
        measure_series(frames, columns.drop(columns="sigma"), aligner)
    with pytest.raises(ValueError, match="their pixels differ"):
        measure_series(frames + 1, columns, aligner)


def test_scans_at_right_angles_are_measured_together_and_in_tiles(monkeypatch):
    columns = lattice(planar_cell("square"), (SIZE, SIZE), spacing=12.0, angle=5.0, margin=40.0, sigma=SIGMA)
    columns = cropped(columns, disk((45.0, 50.0), 36.0))
    moved = draw_displacements(4, SIZE, drift=(2.0, -1.0), random_state=0)
    noise = NoiseModel(DOSE, 0.2 * DOSE, pointwise=PointwiseNoise.counted(DOSE, background=0.2 * DOSE))
    frames = draw_series(columns, moved, shape=(SIZE, SIZE), noise=noise, scan_angles=[0, 90, 180, 270], random_state=0)
    aligner = SeriesAligner(denoiser=None).fit(frames)
    found = AtomDetector(spacing=12.0, width=SIGMA).fit_transform(aligner.transform(frames))
    found = found[found["quality"] == 0]
    table = measure_series(frames, found, aligner, noise=noise)
    assert table["n_frames"].median() == pytest.approx(4.0, abs=0.2)
    # the model fits the pixels of all directions
    assert table["residual"].median() == pytest.approx(1.0, abs=0.1)
    difference = table[["y_px", "x_px"]].to_numpy() - found[["y_px", "x_px"]].to_numpy()
    assert np.sqrt(np.mean(difference**2)) < table["x_px_err"].median()
    # few columns have neighbours beyond the margins, and steps end below a tenth of a standard error
    monkeypatch.setattr(joint_fit, "MOST_PIXELS", 1)
    read, layers = [], joint_fit._Frames.layers
    monkeypatch.setattr(joint_fit._Frames, "layers", lambda *args: read.append(args[2]) or layers(*args))
    tiled = measure_series(frames, found, aligner, noise=noise)
    assert len({(rows.start, columns.start) for rows, columns in read}) > 2
    for name in ("y", "x", "amplitude", "sigma", "background"):
        assert ((tiled[name] - table[name]).abs() < 0.1 * table[f"{name}_err"]).all()
        np.testing.assert_allclose(tiled[f"{name}_err"], table[f"{name}_err"], rtol=0.01)
    np.testing.assert_allclose(tiled["n_frames"], table["n_frames"], atol=0.02)
