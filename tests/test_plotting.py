"""Figures."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import stemkit
from stemkit import AtomDetector, plotting
from stemkit.plotting.columns import LABEL_COLORS
from stemkit.plotting.drawing import scale_bar_length
from stemkit.plotting.vectors import WHEEL_HOLE_RADIUS
from stemkit.structure import find_grains, fit_lattices, rings

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
    assert scale_bar_length(width) == pytest.approx(length)


def test_the_bar_is_as_long_as_it_says(axes, image):
    plotting.show_image(image, axes)
    (bar,) = axes.patches
    assert bar.get_width() * 0.02 == pytest.approx(0.5)


def test_columns_are_drawn_where_they_are(axes, image):
    table = AtomDetector().fit_transform(image)
    plotting.show_columns(image, table, axes)
    drawn = np.concatenate([c.get_offsets() for c in axes.collections])
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(table[["x_px", "y_px"]], axis=0), atol=1e-6)
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


def test_a_failure_leaves_the_old_figure_and_nothing_else(tmp_path, axes, monkeypatch):
    path = plotting.save_figure(axes.figure, tmp_path / "a.png")
    before = path.read_bytes()

    def fail(place, **options):
        place.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(axes.figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plotting.save_figure(axes.figure, path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == before


def test_columns_stand_at_their_place_in_a_part_of_the_image(axes, image):
    table = AtomDetector().fit_transform(image)
    plotting.show_columns(image[32:, 48:], table, axes)
    drawn = np.concatenate([c.get_offsets() for c in axes.collections])
    expected = table[["x_px", "y_px"]].to_numpy() - [48, 32]
    # those that are elsewhere are not drawn
    expected = expected[(expected > -0.5).all(axis=1)]
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(expected, axis=0), atol=1e-6)


def test_a_picture_is_no_measurement(tmp_path, image):
    path = plotting.save_picture(image, tmp_path / "a.png")
    with pytest.raises(ValueError, match="does not carry its recorded pixels"):
        AtomDetector(mode="haadf").fit(stemkit.read(path))


@pytest.fixture
def known():
    """Two good columns and one whose fit failed, on pixels of 0.02 nm."""
    error = np.array([0.05, 0.1, np.nan])
    table = pd.DataFrame({"y_px": [20.0, 40.0, 60.0], "x_px": [30.0, 60.0, 90.0], "quality": [0, 1, 2]})
    table = table.assign(y=table["y_px"] * 0.02, x=table["x_px"] * 0.02)
    return table.assign(y_px_err=error, x_px_err=2 * error, y_err=0.02 * error, x_err=0.04 * error)


def half_axes(axes):
    """Of the ellipses, (x, y) in px, as they are drawn."""
    from matplotlib.collections import EllipseCollection

    axes.figure.canvas.draw()
    to_px = axes.transData.inverted()
    found = []
    for ellipses in (c for c in axes.collections if isinstance(c, EllipseCollection)):
        for shape in ellipses.get_transforms():
            box = ellipses.get_paths()[0].transformed(ellipses.get_transform()).get_extents()
            corners = np.array([[box.x0, box.y0], [box.x1, box.y1]]) @ shape[:2, :2].T
            found.append(np.abs(np.diff(to_px.transform(corners), axis=0)[0]) / 2)
    return np.array(found)


@pytest.mark.parametrize("calibrated", [True, False])
def test_errors_are_ellipses_of_their_size(axes, image, known, calibrated):
    plotting.show_columns(image if calibrated else image.values, known, axes, error_scale=50)
    np.testing.assert_allclose(half_axes(axes), [[5.0, 2.5], [10.0, 5.0]], rtol=1e-6)
    assert "1σ errors × 50" in [t.get_text() for t in axes.texts]


@pytest.mark.parametrize("calibrated", [True, False])
def test_jitter_is_in_the_ellipses(axes, image, known, calibrated):
    known["x_jitter"] = 0.02 * 0.1 * np.sqrt(3)
    plotting.show_columns(image if calibrated else image.values, known, axes, error_scale=10)
    np.testing.assert_allclose(half_axes(axes)[0], [10 * np.hypot(0.1, 0.1 * np.sqrt(3)), 0.5], rtol=1e-6)


def test_columns_without_errors_are_marked_too(axes, image, known):
    plotting.show_columns(image, known, axes, error_scale=50)
    offsets = np.concatenate([c.get_offsets() for c in axes.collections])
    np.testing.assert_allclose(np.sort(offsets[:, 0]), known["x_px"])


def test_a_key_counts_the_flagged(axes, image, known):
    plotting.show_columns(image, known, axes)
    assert "○ 2 flagged" in [t.get_text() for t in axes.texts]
    axes.clear()
    plotting.show_columns(image, known[:1], axes)
    assert not [t for t in axes.texts if "flagged" in t.get_text()]


@pytest.mark.parametrize("errors", [0, -1.0, np.nan, np.inf])
def test_errors_are_enlarged_by_a_positive_number(axes, image, known, errors):
    with pytest.raises(ValueError, match="error_scale must be a positive number"):
        plotting.show_columns(image, known, axes, error_scale=errors)


def test_an_empty_table_has_no_errors_to_draw(axes, image, known):
    plotting.show_columns(image, known[:0], axes, error_scale=10)
    assert len(half_axes(axes)) == 0


class TestResidual:
    def test_is_in_expected_deviations(self, axes, image):
        model = image.values - 0.3
        plotting.show_residual(image, model, 0.1, axes, "left over")
        (drawn,) = axes.images
        np.testing.assert_allclose(drawn.get_array(), 3.0)
        low, high = drawn.get_clim()
        assert -low == high == pytest.approx(3.0)
        assert {t.get_text() for t in axes.texts} == {"RMS 3", "5 Å"}
        assert axes.get_title() == "left over"

    def test_noise_of_its_own_in_each_pixel(self, axes, image):
        std = np.linspace(0.1, 2.0, image.size).reshape(image.shape)
        left = np.random.default_rng(0).normal(0, std)
        plotting.show_residual(image, image.values - left, std, axes)
        assert float(axes.images[0].get_array().std()) == pytest.approx(1.0, abs=0.03)

    def test_compares_with_what_was_recorded(self, axes, image):
        enhanced = image.copy(data=np.zeros(image.shape)).assign_coords(recorded=(image.dims, image.values))
        plotting.show_residual(enhanced, image.values, 0.1, axes)
        np.testing.assert_array_equal(axes.images[0].get_array(), 0.0)

    @pytest.mark.parametrize(
        ("fitted", "std", "message"),
        [
            (np.zeros((3, 3)), 1.0, r"fitted must have the image's shape, \(96, 128\), but has shape \(3, 3\)"),
            (np.zeros((96, 128)), np.ones(128), "noise_std must be a number or have the image's shape"),
            (np.full((96, 128), np.nan), 1.0, r"fitted must be finite, but 12288 value\(s\)"),
            (np.zeros((96, 128)), 0.0, r"noise_std must be finite and above 0, but 1 value\(s\) are not"),
        ],
    )
    def test_refuses_what_does_not_fit(self, axes, image, fitted, std, message):
        with pytest.raises(ValueError, match=message):
            plotting.show_residual(image, fitted, std, axes)


def test_labels_have_colours_and_a_legend(axes, image):
    table = AtomDetector().fit_transform(image)
    labels = np.where(np.arange(len(table)) < 5, -1, np.arange(len(table)) % 2)
    plotting.show_labels(image, table, labels, axes)
    drawn = [len(c.get_offsets()) for c in axes.collections]
    assert sum(drawn) == len(table)
    texts = [t.get_text() for t in axes.get_legend().get_texts()]
    assert texts == [f"lattice 0 ({drawn[0]})", f"lattice 1 ({drawn[1]})", "none (5)"]
    with pytest.raises(ValueError, match="labels must be one per column"):
        plotting.show_labels(image, table, labels[:3], axes)


def vectors():
    """Displacements as of ``cage_displacements``: three with a vector, one without."""
    table = pd.DataFrame({"y": [0.4, 0.4, 0.8, 0.8], "x": [0.4, 0.8, 0.4, 0.8]})
    table[["displacement_y", "displacement_x"]] = [[0.0, 10.0], [10.0, 0.0], [-5.0, 5.0], [np.nan, np.nan]]
    table["significance"] = [5.0, 5.0, 1.0, np.nan]
    table.attrs.update(unit="nm", units={"displacement_y": "pm"})
    return table


def test_arrows_have_the_direction_length_and_place_of_the_vectors(axes, image):
    plotting.show_displacements(image, vectors(), axes, scale=2.0)
    arrows = axes.collections[0]
    assert np.column_stack([arrows.V, arrows.U]) == pytest.approx(2 * np.array([[0, 10], [10, 0], [-5, 5]]))
    assert arrows.get_offsets()[:, ::-1] == pytest.approx(np.array([[20, 20], [20, 40], [40, 20]]))
    colors = plotting.direction_colors()
    assert arrows.get_facecolor()[:2] == pytest.approx(colors([0.0, 0.25]))
    assert axes.get_ylim() == (95.5, -0.5)
    assert any(t.get_text().endswith(" pm") for t in axes.texts)


def test_the_colour_wheel_is_an_opaque_ring(axes, image):
    plotting.show_displacements(image, vectors(), axes)
    opaque = axes.images[-1].get_array()[..., 3] > 0
    # pixels of a ring with this hole, of a square of 2 by 2 radii
    assert opaque.mean() == pytest.approx(np.pi / 4 * (1 - WHEEL_HOLE_RADIUS**2), rel=0.02)
    middle = len(opaque) // 2
    assert not opaque[middle, middle]
    assert not opaque[0, 0]
    assert opaque[middle, 1]


def test_vectors_that_are_not_significant_are_grey_and_walls_are_between_their_columns(axes, image):
    walls = pd.DataFrame({"i": [0, 0], "j": [1, 2], "wall": [True, False]})
    plotting.show_displacements(image, vectors(), axes, min_significance=3, walls=walls, colormap="twilight")
    faint, clear, lines = axes.collections[:3]
    assert len(faint.U) == 1
    assert len(clear.U) == 2
    assert len(set(faint.get_facecolor()[0, :3])) == 1
    (segment,) = lines.get_segments()
    assert segment == pytest.approx(np.array([[30, 30], [30, 10]]))
    with pytest.raises(ValueError, match="lacks polarization_y"):
        plotting.show_displacements(image, vectors(), axes, name="polarization")


def test_colors_of_directions_are_cyclic_and_of_equal_lightness():
    from skimage.color import rgb2lab

    lab = rgb2lab(plotting.direction_colors()(np.linspace(0, 1, 256, endpoint=False))[:, :3])
    assert np.ptp(lab[:, 0]) < 0.5
    steps = np.linalg.norm(np.roll(lab, -1, axis=0) - lab, axis=1)
    assert np.ptp(steps) < 0.1 * steps.mean()


def test_counts_are_written_into_their_columns(axes, image):
    columns = pd.DataFrame({"y": [0.4, 0.8, 0.8], "x": [0.4, 0.8, 1.2], "fitted": [True, False, False]})
    columns["count"] = pd.array([3, 12, None], dtype="Int64")
    columns.attrs["unit"] = "nm"
    plotting.show_counts(image, columns, axes)
    written = {t.get_text(): t.get_position() for t in axes.texts}
    colors = {t.get_text(): t.get_color() for t in axes.texts}
    assert (colors["3"], colors["12"]) == ("white", "black")  # on violet and yellow
    assert written["3"] == pytest.approx((20, 20))
    assert written["12"] == pytest.approx((40, 40))
    assert [len(c.get_offsets()) for c in axes.collections] == [1, 1, 1]
    with pytest.raises(ValueError, match="lacks count"):
        plotting.show_counts(image, columns.drop(columns="count"), axes)


@pytest.mark.parametrize(("counts", "ticks"), [([1, 1, 1], [1]), ([2, 3, 4], [2, 3, 4])], ids=["one", "three"])
def test_each_number_of_atoms_has_one_colour_and_a_tick(axes, image, counts, ticks):
    columns = pd.DataFrame({"y": [0.4, 0.8, 0.8], "x": [0.4, 0.8, 1.2], "fitted": [True, True, False]})
    columns["count"] = pd.array(counts, dtype="Int64")
    columns.attrs["unit"] = "nm"
    plotting.show_counts(image, columns, axes)
    axes.figure.canvas.draw()
    (bar,) = (ax for ax in axes.figure.axes if ax is not axes)
    low, high = bar.get_ylim()
    assert [float(t) for t in bar.get_yticks() if low <= t <= high] == ticks
    drawn = np.concatenate([c.get_facecolors() for c in axes.collections if c.get_array() is not None])
    assert len(np.unique(drawn, axis=0)) == len(set(counts))


def test_counts_of_no_column_have_no_colour_bar(axes, image):
    columns = pd.DataFrame({"y": [0.4], "x": [0.4], "fitted": [False], "count": pd.array([None], dtype="Int64")})
    plotting.show_counts(image, columns, axes)
    assert axes.figure.axes == [axes]


def test_the_mixture_is_as_high_as_the_histogram(axes):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(10, 1, 3000), rng.normal(20, 1, 1000)])
    columns = pd.DataFrame({"intensity": values, "fitted": True})
    components = pd.DataFrame({"count": [1, 2, 3], "mean": [10.0, 20.0, 30.0], "weight": [0.75, 0.25, 0.0]})
    plotting.show_mixture(columns, components, 1.0, axes)
    heights = np.array([p.get_height() for p in axes.patches])
    assert heights.sum() == 4000
    assert axes.lines[-1].get_ydata().max() == pytest.approx(heights.max(), rel=0.15)
    assert [t.get_text() for t in axes.texts] == ["1", "2"]
    with pytest.raises(ValueError, match="by must be one of 'intensity', 'fitted'"):
        plotting.show_mixture(columns, components, 1.0, axes, by="voronoi")


def test_names_have_a_colour_each_and_missing_sites_are_marked(axes, image):
    columns = pd.DataFrame({"y": [0.2, 0.4, 0.6, 0.8], "x": [0.3, 0.5, 0.7, 0.9]})
    columns["name"] = pd.array(["Sr", "TiO", "Sr", None], dtype="string")
    columns.attrs["unit"] = "nm"
    missing = pd.DataFrame({"y": [1.0], "x": [1.2]})
    missing.attrs["unit"] = "nm"
    plotting.show_names(image, columns, axes, missing=missing)
    drawn = {c.get_label(): c.get_offsets().tolist() for c in axes.collections}
    assert set(drawn) == {"Sr (2)", "TiO (1)", "no name (1)", "no column (1)"}
    np.testing.assert_allclose(drawn["Sr (2)"], [[15, 10], [35, 30]])
    np.testing.assert_allclose(drawn["no column (1)"], [[60, 50]])
    with pytest.raises(ValueError, match="columns must be the result of register_crystal, with names, but lacks name"):
        plotting.show_names(image, columns.drop(columns="name"))


def test_defects_have_a_marker_for_each_kind(axes, image):
    defects = pd.DataFrame({"kind": ["weak", "vacancy", "weak"], "y": [0.2, 0.4, 0.6], "x": [0.3, 0.5, 0.7]})
    defects.attrs["unit"] = "nm"
    plotting.show_defects(image, defects, axes)
    drawn = {c.get_label(): c.get_offsets().tolist() for c in axes.collections}
    assert set(drawn) == {"1 vacancy", "2 weak columns"}
    np.testing.assert_allclose(drawn["1 vacancy"], [[25, 20]])
    axes.clear()
    plotting.show_defects(image, defects.iloc[:0], axes)
    assert axes.get_legend() is None
    with pytest.raises(ValueError, match=r"defects must be point_defects\(table, lattice\).defects, but lacks kind"):
        plotting.show_defects(image, defects.drop(columns="kind"))


def test_the_detection_limit_is_a_colour_and_untested_columns_are_crosses(axes, image):
    columns = pd.DataFrame({"y": [0.2, 0.4, 0.6], "x": [0.3, 0.5, 0.7], "detectable": [0.2, np.nan, 1.4]})
    columns.attrs["unit"] = "nm"
    plotting.show_detection_limit(image, columns, axes)
    tested, untested = axes.collections[:2]
    assert tested.get_array().tolist() == [0.2, 1.4]
    np.testing.assert_allclose(untested.get_offsets().tolist(), [[25, 20]])
    with pytest.raises(ValueError, match="but lacks detectable"):
        plotting.show_detection_limit(image, columns[["y", "x"]])


def two_grains():
    """Two crystals of 0.2 nm, rotated by 12 degrees, left and right of x = 1.28 nm, and their table."""
    cells = np.mgrid[-20:21, -20:21].reshape(2, -1).T * 0.2
    turn = np.radians(12)
    turned = cells @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    center = np.array([0.96, 1.28])
    sides = np.vstack([cells[cells[:, 1] < 0], turned[turned[:, 1] > 0.15]]) + center
    sides = sides[((sides > 0) & (sides < [1.9, 2.54])).all(axis=1)]
    return pd.DataFrame(sides, columns=["y", "x"]).assign(y_px=sides[:, 0] / 0.02, x_px=sides[:, 1] / 0.02)


def test_grains_are_filled_and_boundaries_have_their_misorientation(axes, image):
    table = two_grains()
    grains = find_grains(table, fit_lattices(table, min_columns=20))
    plotting.show_grains(image, grains, axes)
    assert len(grains.boundaries) == 1
    overlay = axes.images[1].get_array()
    left, right = overlay[:, :30, :3], overlay[:, -30:, :3]
    colors = [np.array(mpl.colors.to_rgb(LABEL_COLORS[k])) for k in range(2)]
    first = int(grains.grains["x"].argmin())
    for side, color in ((left, colors[first]), (right, colors[1 - first])):
        assert (np.abs(side - color).max(axis=-1) < 1e-6).mean() > 0.9
    assert any(t.get_text().startswith("12.0") for t in axes.texts)
    (lines,) = axes.collections
    assert np.concatenate(lines.get_segments())[:, 0].mean() == pytest.approx(1.28 / 0.02, abs=8)


def test_rings_are_drawn_with_their_corners_and_counted(axes, image):
    angle = np.arange(6) * np.pi / 3
    table = pd.DataFrame({"y": 0.9 + 0.3 * np.sin(angle), "x": 1.2 + 0.3 * np.cos(angle)})
    table.attrs["unit"] = "nm"
    found = rings(table)
    plotting.show_rings(image, table, found, axes)
    (polygons,) = axes.collections
    corners = polygons.get_paths()[0].vertices[:-1]
    expected = table[["x", "y"]].to_numpy() / 0.02
    assert sorted(map(tuple, corners.round(6))) == sorted(map(tuple, expected.round(6)))
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["1 of size 6"]
    with pytest.raises(ValueError, match="rings must be rings"):
        plotting.show_rings(image, table.iloc[1:], found, axes)
