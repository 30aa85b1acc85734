"""Figure of ``stemkit detect``."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from stemkit.cli import main
from stemkit.cli.overlay import detection_figure, enlarged_part
from stemkit.detection import Quality
from stemkit.plotting.flags import FLAG_STYLES, GOOD_STYLE

SHAPE = (200, 300)


@pytest.fixture
def table():
    """Columns at a spacing of 10 px; three are faint around (150, 250), one failed and is faint."""
    y, x = np.mgrid[10:200:10, 10:300:10].reshape(2, -1).astype(float)
    quality = np.zeros(len(y), dtype=int)
    quality[np.hypot(y - 150, x - 250) < 10.5] = Quality.FAINT
    quality[(y == 150) & (x == 250)] |= Quality.FAILED
    quality[(y == 10) & (x < 100)] = Quality.EDGE
    return pd.DataFrame({"y": y, "x": x, "y_px": y, "x_px": x, "quality": quality})


@pytest.fixture
def image():
    values = np.random.default_rng(0).normal(size=SHAPE)
    return xr.DataArray(values, dims=("y", "x")).assign_coords(recorded=(("y", "x"), values + 5))


def drawn(ax):
    """Positions by the label without its number."""
    return {
        c.get_label().rsplit(" (", 1)[0]: c.get_offsets().data[:, ::-1] for c in ax.collections if len(c.get_offsets())
    }


def test_every_column_is_drawn_once_by_its_most_serious_flag(image, table):
    figure = detection_figure(image, table)
    symbols = drawn(figure.axes[0])
    assert {name: len(places) for name, places in symbols.items()} == {
        "with a failed fit": 1,
        "faint": 4,
        "near the border": 9,
        "without a flag": len(table) - 14,
    }
    np.testing.assert_array_equal(symbols["with a failed fit"], [[150, 250]])
    (legend,) = figure.legends
    assert "faint (4)" in [t.get_text() for t in legend.get_texts()]
    plt.close(figure)


def test_the_enlarged_part_has_the_suspicious_columns_in_both_images(image, table):
    part = enlarged_part(SHAPE, table)
    assert part.rows.start < 150 < part.rows.stop
    assert part.columns.start < 250 < part.columns.stop
    assert part.rows.stop - part.rows.start == part.columns.stop - part.columns.start == 80
    figure = detection_figure(image, table)
    _, recorded, enhanced = figure.axes
    for ax, shown in ((recorded, image.stem.recorded), (enhanced, image)):
        np.testing.assert_array_equal(ax.images[0].get_array(), shown[part.rows, part.columns])
        np.testing.assert_array_equal(
            drawn(ax)["with a failed fit"], [[150 - part.rows.start, 250 - part.columns.start]]
        )
    plt.close(figure)


def test_without_suspicious_columns_the_middle_is_enlarged(table):
    part = enlarged_part(SHAPE, table.assign(quality=0))
    assert (part.rows.start + part.rows.stop, part.columns.start + part.columns.stop) == SHAPE


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_columns(image, table, n):
    figure = detection_figure(image, table[:n])
    assert sum(map(len, drawn(figure.axes[0]).values())) == n
    plt.close(figure)


def test_symbols_are_visible_on_black_and_on_white(image, table):
    """Each symbol has pixels of its colour and of its black outline, on a white image as on a black one."""
    for level in (0.0, 1.0):
        flat = xr.DataArray(np.full(SHAPE, level), dims=("y", "x"))
        flat[0, 0] = 1 - level  # the range of the grey values
        figure = detection_figure(flat, table.assign(quality=0))
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
        color = np.array([int(GOOD_STYLE[0][i : i + 2], 16) for i in (1, 3, 5)])
        near = np.abs(pixels - color).sum(axis=-1) < 60
        assert near.sum() > 2000
        if level == 1.0:
            assert (pixels.sum(axis=-1) < 90).sum() > 2000
        plt.close(figure)


def test_flags_have_symbols_of_their_own():
    assert set(FLAG_STYLES) == {flag.name for flag in Quality}
    assert len({*FLAG_STYLES.values(), GOOD_STYLE}) == len(FLAG_STYLES) + 1


@pytest.mark.usefixtures("drawn_figures")
@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_formats_of_figures(tmp_path, tif, suffix, start):
    out = tmp_path / "out"
    assert main(["detect", str(tif), "--no-enhance", "-o", str(out), "--figure-format", suffix]) == 0
    assert (out / f"image_columns.{suffix}").read_bytes().startswith(start)


@pytest.mark.usefixtures("drawn_figures")
def test_a_stack_has_a_figure_per_frame_with_its_own_columns(tmp_path):
    values = np.zeros((2, 60, 60), dtype=np.float32) + np.random.default_rng(0).normal(0, 0.02, (2, 60, 60))
    y, x = np.mgrid[:60, :60]
    for frame, centers in enumerate(([(15, 15)], [(15, 40), (40, 15), (40, 42)])):
        for p, q in centers:
            values[frame] += np.exp(-((y - p) ** 2 + (x - q) ** 2) / 18)
    np.save(tmp_path / "stack.npy", values)
    out = tmp_path / "out"
    assert main(["detect", str(tmp_path / "stack.npy"), "--no-enhance", "--figure", "-o", str(out)]) == 0
    n = pd.read_csv(out / "stack_columns.csv").groupby("image").size()
    blue = []
    for frame in (0, 1):
        with Image.open(out / f"stack_columns_{frame:03d}.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        blue.append((np.abs(pixels - [0x56, 0xB4, 0xE9]).sum(axis=-1) < 60).sum())
    assert n[1] > n[0]
    assert blue[1] > 1.3 * blue[0]


def test_lattice_lines_and_vacancies_are_drawn(tmp_path, monkeypatch):
    y, x = np.mgrid[:160, :160]
    true_image = np.zeros((160, 160))
    for p in range(10, 160, 16):
        for q in range(10, 160, 16):
            if (p, q) != (74, 90):
                true_image += np.exp(-((y - p) ** 2 + (x - q) ** 2) / 18)
    np.save(tmp_path / "lattice.npy", true_image + np.random.default_rng(0).normal(0, 0.03, true_image.shape))
    figures = []
    monkeypatch.setattr("stemkit.cli.detect.save_and_close", lambda figure, path: figures.append(figure))
    options = ["--no-enhance", "--lattice", "--figure", "-o", str(tmp_path)]
    assert main(["detect", str(tmp_path / "lattice.npy"), *options]) == 0
    (vacancy,) = pd.read_csv(tmp_path / "lattice_vacancies.csv").to_dict("records")
    assert (vacancy["y_px"], vacancy["x_px"]) == pytest.approx((74, 90), abs=0.5)
    (figure,) = figures
    np.testing.assert_allclose(drawn(figure.axes[0])["vacancy"], [[74, 90]], atol=0.5)
    lengths = [np.hypot(*np.diff(line.get_xydata(), axis=0)[0]) for line in figure.axes[1].lines]
    assert len(lengths) > 150
    np.testing.assert_allclose(lengths, 16, atol=1)
    plt.close(figure)


def test_a_wide_image_has_the_whole_width_above_the_enlarged_parts(image, table):
    wide = image.isel(y=slice(0, 60))
    figure = detection_figure(wide, table[table["y"] < 60])
    figure.draw_without_rendering()
    whole, *parts = (ax.get_position() for ax in figure.axes)
    assert whole.y0 > max(part.y1 for part in parts)
    assert whole.width > 1.8 * max(part.width for part in parts)
    plt.close(figure)
