"""Tables of columns to files and other programs."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import stemkit
from stemkit.detection.exports import (
    from_hyperspy_markers,
    read_columns,
    to_ase,
    to_atomap,
    to_hyperspy_markers,
    to_napari,
    write_columns,
)
from stemkit.plotting.columns import COLUMN_COLOR, FLAGGED_COLOR

PIXEL = 0.0125
ORIGIN = (0.4, 1.3)


def measured(n, seed=0, images=1):
    """A table as the detector's; the last column's fit failed."""
    rng = np.random.default_rng(seed)
    y_px, x_px = rng.uniform(0, 80, (2, n))
    error = rng.uniform(0.01, 0.1, n)
    error[-1:] = np.nan
    one = pd.DataFrame(
        {
            "image": np.zeros(n, dtype=np.int64),
            "y": ORIGIN[0] + y_px * PIXEL,
            "x": ORIGIN[1] + x_px * PIXEL,
            "y_px": y_px,
            "x_px": x_px,
            "amplitude": rng.normal(1000, 1, n),
            "sigma": rng.uniform(0.03, 0.05, n),
            "y_err": error * PIXEL,
            "x_err": error * PIXEL,
            "y_px_err": error,
            "x_px_err": error,
            "quality": np.where(np.isnan(error), 2, 0),
        }
    )
    return pd.concat([one.assign(image=i) for i in range(images)], ignore_index=True)


@pytest.fixture
def table():
    return measured(30)


@pytest.fixture
def in_px(table):
    return table.assign(y=table["y_px"], x=table["x_px"])


@pytest.fixture
def image():
    """A part of a larger image: it does not begin at 0 nm."""
    before = [round(start / PIXEL) for start in ORIGIN]
    whole = stemkit.calibrated(np.zeros((80 + before[0], 90 + before[1])), pixel_size=PIXEL)
    return whole[before[0] :, before[1] :]


def xyz_frames(path):
    """Comment line and rows of each frame, by the format's own rules."""
    lines, frames = path.read_text().splitlines(), []
    while lines:
        n = int(lines[0])
        frames.append((lines[1], [line.split() for line in lines[2 : n + 2]]))
        del lines[: n + 2]
    return frames


def info_of(comment):
    return dict(word.split("=") for word in comment.split('" ')[-1].split())


@pytest.fixture(params=[".csv", ".parquet"])
def suffix(request):
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return request.param


class TestFiles:
    @pytest.mark.parametrize("n", [30, 1, 0])
    def test_are_the_same_after_export_and_import(self, tmp_path, suffix, n):
        table = measured(n)
        table.attrs["unit"] = "nm"
        read = read_columns(write_columns(table, tmp_path / f"a{suffix}"))
        pd.testing.assert_frame_equal(read, table, check_exact=True)
        if n:
            assert read.attrs["unit"] == "nm"

    def test_lengths_in_px_remain_in_px(self, tmp_path, suffix, in_px):
        assert read_columns(write_columns(in_px, tmp_path / f"a{suffix}")).attrs == {"unit": "px"}

    def test_the_table_is_left_alone(self, tmp_path, suffix, table):
        before = table.copy()
        write_columns(table, tmp_path / f"a{suffix}")
        pd.testing.assert_frame_equal(table, before)
        assert table.attrs == {}

    def test_csv_has_a_column_for_the_unit(self, tmp_path, table):
        plain = pd.read_csv(write_columns(table, tmp_path / "a.csv"))
        assert set(plain["unit"]) == {"nm"}
        assert list(plain.columns[:-1]) == list(table.columns)

    def test_a_table_that_pandas_read_keeps_its_unit(self, tmp_path, in_px):
        plain = pd.read_csv(write_columns(in_px, tmp_path / "a.csv", unit="nm"))
        assert read_columns(write_columns(plain, tmp_path / "b.csv")).attrs["unit"] == "nm"

    def test_parquet_keeps_attributes_and_the_version_that_wrote_it(self, tmp_path, table):
        parquet = pytest.importorskip("pyarrow.parquet")
        table.attrs.update(sample="a", weights=np.float64(0.5), odd=object())
        path = write_columns(table, tmp_path / "a.parquet")
        assert read_columns(path).attrs == {"sample": "a", "weights": 0.5, "unit": "nm"}
        assert json.loads(parquet.read_schema(path).metadata[b"stemkit"])["stemkit"] == stemkit.__version__

    def test_does_not_replace_files_without_overwrite(self, tmp_path, table):
        path = tmp_path / "a.csv"
        path.write_text("precious")
        with pytest.raises(FileExistsError, match="overwrite=True"):
            write_columns(table, path)
        assert path.read_text() == "precious"
        assert len(read_columns(write_columns(table, path, overwrite=True))) == 30

    def test_whole_or_not_at_all(self, tmp_path, in_px):
        path = tmp_path / "a.xyz"
        path.write_text("precious")
        with pytest.raises(ValueError, match=r"Angstrom, but is in px.*stemkit\.calibrated"):
            write_columns(in_px, path, overwrite=True)
        assert [p.name for p in tmp_path.iterdir()] == ["a.xyz"]
        assert path.read_text() == "precious"

    def test_without_pyarrow(self, tmp_path, table, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ImportError, match="pip install pyarrow"):
            write_columns(table, tmp_path / "a.parquet")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["a.xlsx", "a"])
    def test_unknown_suffix(self, tmp_path, table, name):
        with pytest.raises(ValueError, match=r"can't write .*use one of \.csv, \.parquet, \.xyz"):
            write_columns(table, tmp_path / name)
        with pytest.raises(ValueError, match=r"can't read .*use one of \.csv, \.parquet"):
            read_columns(tmp_path / name)

    def test_no_folder_and_no_file(self, tmp_path, table):
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            write_columns(table, tmp_path / "none" / "a.csv")
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            read_columns(tmp_path / "a.csv")
        (tmp_path / "b.csv").mkdir()
        with pytest.raises(IsADirectoryError, match="it is a folder"):
            write_columns(table, tmp_path / "b.csv", overwrite=True)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "can't read .* as CSV"),
            ("a,b\n1,2\n", "not contain a table of columns: it has no y, x"),
            ("y,x,y_px,x_px,unit\n1,1,2,2,nm\n1,1,2,2,px\n", "b.csv: unit must be 'nm' or 'px'.*'nm and px'"),
        ],
    )
    def test_no_table(self, tmp_path, content, message):
        (tmp_path / "b.csv").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_columns(tmp_path / "b.csv")

    def test_broken_parquet(self, tmp_path):
        pytest.importorskip("pyarrow")
        (tmp_path / "b.parquet").write_bytes(b"PAR1 broken")
        with pytest.raises(ValueError, match=r"can't read .* as PARQUET"):
            read_columns(tmp_path / "b.parquet")

    def test_objects_that_are_no_table_are_refused(self, tmp_path, table):
        with pytest.raises(TypeError, match="DataFrame like that of AtomDetector, but is a list"):
            write_columns([1, 2], tmp_path / "a.csv")
        with pytest.raises(ValueError, match="lacks y_px, x_px"):
            write_columns(table[["y", "x"]], tmp_path / "a.csv")
        with pytest.raises(ValueError, match=r"unit must be 'nm' or 'px'.*'mm'"):
            write_columns(table, tmp_path / "a.csv", unit="mm")


class TestXYZ:
    def test_is_in_angstrom_upwards_from_the_image_s_corner(self, tmp_path, table, image):
        ((comment, rows),) = xyz_frames(write_columns(table, tmp_path / "a.xyz", image=image, thickness=2.0))
        at = np.array([row[1:4] for row in rows], dtype=float)
        np.testing.assert_allclose(at[:, 0], 10 * PIXEL * (table["x_px"] + 0.5), atol=1e-6)
        np.testing.assert_allclose(at[:, 1], 10 * PIXEL * (79.5 - table["y_px"]), atol=1e-6)
        assert (at[:, 2] == 0).all()
        lattice = np.array(comment.split('"')[1].split(), dtype=float)
        np.testing.assert_allclose(lattice, np.diag([900 * PIXEL, 800 * PIXEL, 20.0]).ravel())
        assert 'pbc="F F F"' in comment

    @pytest.mark.parametrize("with_image", [True, False])
    def test_leads_back_to_the_image(self, tmp_path, table, image, with_image):
        path = write_columns(table, tmp_path / "a.xyz", image=image if with_image else None)
        ((comment, rows),) = xyz_frames(path)
        at, info = np.array([row[1:4] for row in rows], dtype=float), info_of(comment)
        np.testing.assert_allclose(float(info["x0_nm"]) + at[:, 0] / 10, table["x"], atol=1e-8)
        np.testing.assert_allclose(float(info["y0_nm"]) - at[:, 1] / 10, table["y"], atol=1e-8)

    def test_every_property_is_in_every_row(self, tmp_path, table):
        table = table.assign(good=table["quality"] == 0, name="a b", **{"two words": 1.0})
        ((comment, rows),) = xyz_frames(write_columns(table, tmp_path / "a.xyz"))
        fields = comment.split("Properties=")[1].split()[0].split(":")
        names, widths = fields[0::3], [int(w) for w in fields[2::3]]
        assert {len(row) for row in rows} == {sum(widths)}
        assert not {"x", "y", "image", "name", "two words"} & set(names)
        values = {name: [row[k + 2] for row in rows] for k, name in enumerate(names) if k > 1}
        np.testing.assert_allclose(np.array(values["sigma"], dtype=float), 10 * table["sigma"])
        np.testing.assert_allclose(np.array(values["x_err"], dtype=float), 10 * table["x_err"])
        np.testing.assert_allclose(np.array(values["x_px_err"], dtype=float), table["x_px_err"])
        assert values["good"] == ["T"] * 29 + ["F"]
        assert values["quality"] == ["0"] * 29 + ["2"]

    def test_a_frame_per_image(self, tmp_path):
        frames = xyz_frames(write_columns(measured(7, images=3), tmp_path / "a.xyz"))
        assert [len(rows) for _, rows in frames] == [7, 7, 7]
        assert [info_of(comment)["image"] for comment, _ in frames] == ["0", "1", "2"]

    def test_images_must_be_those_that_the_table_counts(self, tmp_path, image):
        with pytest.raises(ValueError, match="has 2 images, and table contains image 2"):
            write_columns(measured(7, images=3), tmp_path / "a.xyz", image=[image, image])

    @pytest.mark.parametrize("n", [0, 1])
    def test_few_columns_have_a_cell_all_the_same(self, tmp_path, n):
        ((comment, rows),) = xyz_frames(write_columns(measured(n), tmp_path / "a.xyz"))
        assert len(rows) == n
        assert np.linalg.det(np.array(comment.split('"')[1].split(), dtype=float).reshape(3, 3)) > 0

    def test_species_of_each(self, tmp_path, table):
        species = pd.Series(["Sr", "Ti"] * 15, index=table.index)
        part = table.iloc[::-1]
        ((_, rows),) = xyz_frames(write_columns(part, tmp_path / "a.xyz", species=species))
        assert [row[0] for row in rows] == ["Ti", "Sr"] * 15
        ((_, rows),) = xyz_frames(write_columns(part, tmp_path / "b.xyz", species=["O"] * 30))
        assert {row[0] for row in rows} == {"O"}

    @pytest.mark.parametrize(
        ("species", "message"),
        [
            ("strontium", "chemical symbols such as 'Sr'.*'strontium'"),
            (["Sr"] * 3, "there are 3 for 30 columns"),
            (["Sr"] * 29 + [38], "contains 38"),
            (pd.Series(["Sr"] * 29), "contains nan"),
        ],
    )
    def test_species_that_do_not_fit(self, tmp_path, table, species, message):
        with pytest.raises(ValueError, match=message):
            write_columns(table, tmp_path / "a.xyz", species=species)

    @pytest.mark.parametrize("thickness", [0, -1.0, np.nan, "1"])
    def test_thickness(self, tmp_path, table, thickness):
        with pytest.raises(ValueError, match="thickness must be a positive number of nm"):
            write_columns(table, tmp_path / "a.xyz", thickness=thickness)


class TestASE:
    def test_reads_the_file_as_the_same_atoms(self, tmp_path, table, image):
        ase_io = pytest.importorskip("ase.io")
        path = write_columns(table, tmp_path / "a.xyz", species="Sr", image=image)
        read, made = ase_io.read(path), to_ase(table, species="Sr", image=image)
        assert read.get_chemical_symbols() == made.get_chemical_symbols() == ["Sr"] * 30
        assert set(read.arrays) == set(made.arrays)
        for name, values in made.arrays.items():
            np.testing.assert_allclose(read.arrays[name], values, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(read.cell, made.cell, rtol=1e-8)
        assert read.info == pytest.approx(made.info)
        assert not made.pbc.any()

    def test_refuses_tables_without_a_pixel_size(self, in_px):
        pytest.importorskip("ase")
        with pytest.raises(ValueError, match="table must be in nm"):
            to_ase(in_px)
        assert len(to_ase(in_px, unit="nm")) == 30

    def test_takes_one_image(self):
        pytest.importorskip("ase")
        table = measured(4, images=2)
        with pytest.raises(
            ValueError, match=r"to_ase requires the columns of one image, but table contains those of 2"
        ):
            to_ase(table)
        assert to_ase(table[table["image"] == 1]).info["image"] == 1

    def test_without_ase(self, table, monkeypatch):
        monkeypatch.setitem(sys.modules, "ase", None)
        with pytest.raises(ImportError, match="to_ase requires ase: pip install ase"):
            to_ase(table)


def test_atomap_takes_x_and_y_in_px(table):
    positions = to_atomap(table)
    np.testing.assert_array_equal(positions, np.column_stack([table["x_px"], table["y_px"]]))
    with pytest.raises(ValueError, match="to_atomap requires the columns of one image"):
        to_atomap(measured(4, images=2))


def signal_with(*axes):
    return SimpleNamespace(axes_manager=SimpleNamespace(signal_axes=axes))


class TestHyperSpy:
    def test_markers_stand_on_the_signal_s_axes(self, table):
        hs = pytest.importorskip("hyperspy.api")
        signal = hs.signals.Signal2D(np.zeros((80, 90)))
        for axis, (scale, offset) in zip(signal.axes_manager.signal_axes, ((0.1, 5.0), (0.2, -3.0)), strict=True):
            axis.scale, axis.offset, axis.units = scale, offset, "Å"
        markers = to_hyperspy_markers(table, signal, size=6)
        expected = np.column_stack([5 + 0.1 * table["x_px"], -3 + 0.2 * table["y_px"]])
        np.testing.assert_allclose(markers.kwargs["offsets"], expected)
        signal.add_marker(markers, permanent=True, plot_marker=False)
        assert len(signal.metadata.Markers.Points) == 30
        back = from_hyperspy_markers(signal.metadata.Markers.Points, signal)
        np.testing.assert_allclose(back[["y_px", "x_px"]], table[["y_px", "x_px"]])
        # 0.1 and 0.2 angstrom per px along x and y
        np.testing.assert_allclose(back[["y", "x"]], table[["y_px", "x_px"]] * [0.02, 0.01])

    def test_markers_as_a_table(self):
        axes = [SimpleNamespace(scale=s, offset=o, units="pm") for s, o in ((20.0, 100.0), (-40.0, 0.0))]
        markers = SimpleNamespace(kwargs={"offsets": np.array([[140.0, -120.0], [100.0, 0.0]])})
        table = from_hyperspy_markers(markers, signal_with(*axes))
        assert table.attrs["unit"] == "nm"
        np.testing.assert_allclose(table[["y_px", "x_px"]], [[3, 2], [0, 0]])
        np.testing.assert_allclose(table[["y", "x"]], [[0.12, 0.04], [0, 0]])
        axes[0].units = "1/nm"
        table = from_hyperspy_markers(markers, signal_with(*axes))
        assert table.attrs["unit"] == "px"
        np.testing.assert_allclose(table[["y", "x"]], [[3, 2], [0, 0]])
        with pytest.raises(TypeError, match="markers with positions, but are str"):
            from_hyperspy_markers("markers", signal_with(*axes))
        with pytest.raises(ValueError, match="two signal axes"):
            from_hyperspy_markers(markers, signal_with(axes[0]))
        markers.kwargs["offsets"] = np.array([np.zeros((2, 2)), None], dtype=object)
        with pytest.raises(ValueError, match="select an image"):
            from_hyperspy_markers(markers, signal_with(*axes))

    def test_refuses_a_spectrum(self, table):
        axis = SimpleNamespace(scale=1.0, offset=0.0)
        with pytest.raises(ValueError, match="two signal axes"):
            to_hyperspy_markers(table, signal_with(axis))

    def test_without_hyperspy(self, table, monkeypatch):
        monkeypatch.setitem(sys.modules, "hyperspy", None)
        monkeypatch.setitem(sys.modules, "hyperspy.api", None)
        axis = SimpleNamespace(scale=1.0, offset=0.0)
        with pytest.raises(ImportError, match="pip install hyperspy"):
            to_hyperspy_markers(table, signal_with(axis, axis))


class TestNapari:
    def test_points_in_px_with_their_numbers(self, table):
        data, kwargs, kind = to_napari(table, name="atoms")
        assert kind == "points"
        np.testing.assert_array_equal(data, table[["y_px", "x_px"]])
        pd.testing.assert_frame_equal(kwargs["features"], table)
        assert kwargs["name"] == "atoms"
        assert kwargs["face_color"] == [COLUMN_COLOR] * 29 + [FLAGGED_COLOR]
        assert "scale" not in kwargs

    def test_stand_in_nm_where_the_image_does(self, table, image):
        data, kwargs, _ = to_napari(table, image=image)
        places = data * kwargs["scale"] + kwargs["translate"]
        np.testing.assert_allclose(places, table[["y", "x"]], atol=1e-12)
        assert "scale" not in to_napari(table, image=image.values)[1]

    def test_points_of_a_stack_have_the_index_of_the_image(self, image):
        table = measured(4, images=2)
        data, kwargs, _ = to_napari(table, image=[image, image])
        np.testing.assert_array_equal(data[:, 0], table["image"])
        assert kwargs["scale"] == pytest.approx((1.0, PIXEL, PIXEL))
        assert to_napari(measured(4), image=np.zeros((2, 80, 90)))[0].shape == (4, 3)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own imports
    def test_napari_takes_it(self, table, image):
        layers = pytest.importorskip("napari.layers")
        layer = layers.Layer.create(*to_napari(table, image=image))
        assert len(layer.data) == 30
        assert "x_err" in layer.properties

    def test_nothing_found(self, image):
        data, kwargs, _ = to_napari(measured(0), image=image)
        assert data.shape == (0, 2)
        assert kwargs["size"] > 0
