"""Figures."""

import matplotlib as mpl
import numpy as np
import pytest

import stemkit
from stemkit import AtomDetector, plotting

mpl.use("agg")


@pytest.fixture
def axes():
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.fixture
def image():
    y, x = np.mgrid[:96, :128]
    spots = np.exp(-((y % 16 - 8) ** 2 + (x % 16 - 8) ** 2) / 10.0)
    noisy = spots + np.random.default_rng(0).normal(0, 0.05, spots.shape)
    return stemkit.calibrated(noisy, pixel_size=0.02).assign_attrs(mode="haadf")


def test_scale_bar_only_where_there_is_a_scale(axes, image):
    plotting.show_image(image, axes)
    assert [t.get_text() for t in axes.texts] == ["5 Å"]
    axes.clear()
    plotting.show_image(image.values, axes)
    assert not axes.texts


@pytest.mark.parametrize(("width", "length"), [(10.0, 2.0), (2.56, 0.5), (100.0, 20.0), (0.9, 0.2), (47.0, 10.0)])
def test_scale_bar_is_round_and_about_a_fifth(width, length):
    assert plotting.scale_bar_length(width) == pytest.approx(length)


def test_the_bar_is_as_long_as_it_says(axes, image):
    plotting.show_image(image, axes)
    (bar,) = axes.patches
    assert bar.get_width() * 0.02 == pytest.approx(0.5)


def test_columns_are_drawn_where_they_are(axes, image):
    table = AtomDetector().fit_transform(image)
    plotting.show_columns(image, table, axes)
    drawn = np.concatenate([c.get_offsets() for c in axes.collections])
    assert len(drawn) == len(table)
    assert axes.get_ylim() == (95.5, -0.5)


def test_a_stack_is_refused(axes):
    with pytest.raises(ValueError, match="single image"):
        plotting.show_image(np.zeros((2, 8, 8)), axes)


def test_save_picture_keeps_what_is_there(tmp_path, image):
    path = plotting.save_picture(image, tmp_path / "a.png")
    with pytest.raises(FileExistsError, match="overwrite"):
        plotting.save_picture(image, path)
    plotting.save_picture(image, path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_columns_stand_at_their_place_in_a_part_of_the_image(axes, image):
    table = AtomDetector().fit_transform(image)
    plotting.show_columns(image[32:, 48:], table, axes)
    drawn = np.concatenate([c.get_offsets() for c in axes.collections])
    expected = table[["x_px", "y_px"]].to_numpy() - [48, 32]
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(expected, axis=0), atol=1e-6)


def test_a_picture_is_no_measurement(tmp_path, image):
    path = plotting.save_picture(image, tmp_path / "a.png")
    with pytest.raises(ValueError, match="does not carry its recorded pixels"):
        AtomDetector(mode="haadf").fit(stemkit.read(path))
