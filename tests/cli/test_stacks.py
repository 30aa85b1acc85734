"""Stacks that are processed image by image: blocks, kills, interruptions, workers, logs."""

import os
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
import tifffile

import stemkit
from stemkit.cli import main
from stemkit.cli.unfinished import Unfinished, unfinished_result
from stemkit.cli.workers import in_workers
from stemkit.detection.exports import read_columns

pytest.importorskip("dask.array")
zarr = pytest.importorskip("zarr")

posix = pytest.mark.skipif(os.name == "nt", reason="no processes of POSIX systems")


@pytest.fixture
def path(tmp_path, image):
    """A stack of four small images."""
    stack = stemkit.calibrated(np.stack([image.values + 5 * i for i in range(4)]), pixel_size=0.01)
    return stemkit.write(stack.rename(image="frame").assign_attrs(mode="haadf"), tmp_path / "stack.zarr")


def run(*arguments):
    return main([*map(str, arguments)])


def names(folder):
    return sorted(p.name for p in folder.iterdir())


class TestEnhance:
    def test_out_of_core_it_gives_what_the_estimator_gives(self, path, tmp_path):
        out = tmp_path / "out.zarr"
        assert run("enhance", path, "-o", out) == 0
        result, expected = stemkit.read(out), stemkit.SFINDenoiser().fit_transform(stemkit.read(path))
        assert result.dims == ("frame", "y", "x")
        np.testing.assert_allclose(result.values, expected.values, rtol=1e-6)
        np.testing.assert_array_equal(result.recorded.values, expected.recorded.values)
        assert result.stem.pixel_size == pytest.approx(0.01)
        assert names(tmp_path) == [".stemkit", "out.zarr", "stack.zarr"]

    def test_it_is_not_made_twice(self, path, tmp_path, capsys):
        out = tmp_path / "out.zarr"
        assert run("enhance", path, "-o", out) == run("enhance", path, "-o", out) == 0
        assert f"{out}: finished before" in capsys.readouterr().out
        assert run("enhance", path, "-o", out, "--sampling", "0.7") == 1
        assert "--overwrite" in capsys.readouterr().err
        assert run("enhance", path, "-o", out, "--sampling", "0.7", "--overwrite") == 0
        assert names(tmp_path) == [".stemkit", "out.zarr", "stack.zarr"]

    def test_several_files_need_a_folder(self, path, tif, tmp_path, capsys):
        assert run("enhance", path, tif, "-o", tmp_path / "out.zarr") == 1
        assert "must be a folder for the results of 2 files" in capsys.readouterr().err

    def test_a_single_image(self, tif, tmp_path, image):
        assert run("enhance", tif, "-o", tmp_path / "o", "--format", "zarr") == 0
        assert stemkit.read(tmp_path / "o" / "image_enhanced.zarr").shape == image.shape

    def test_an_image_that_fails_is_named_and_the_others_are_kept(self, path, tmp_path, capsys):
        group = zarr.open_group(path, mode="r+")
        values = group["0"][2]
        group["0"][2] = np.full_like(values, np.nan)
        assert run("enhance", path, "-o", tmp_path / "out.zarr") == 1
        assert "image 2: X must be finite" in capsys.readouterr().err
        unfinished = tmp_path / ".out.zarr.unfinished"
        assert (unfinished / "finished").read_text().split() == ["0", "1"]
        assert run("enhance", path, "-o", tmp_path / "out.zarr", "--sampling", "0.5") == 1
        assert "finished blocks of another run (other --sampling auto)" in capsys.readouterr().err
        group["0"][2] = values
        os.utime(path)
        assert run("enhance", path, "-o", tmp_path / "out.zarr", "--sampling", "0.5", "--overwrite") == 0


class TestDetect:
    @pytest.mark.slow
    def test_a_parquet_file_per_image(self, path, tmp_path, capsys):
        out = tmp_path / "columns.parquet"
        assert run("detect", path, "-o", out, "--per-frame", "--no-enhance") == 0
        assert names(out) == [f"image_{i:06d}.parquet" for i in range(4)]
        table = read_columns(out)
        assert set(table["image"]) == {0, 1, 2, 3}
        assert table.attrs["unit"] == "nm"
        assert f"{len(table)} columns" in capsys.readouterr().out
        assert len(pd.read_parquet(out)) == len(table)
        whole = stemkit.AtomDetector().fit_transform(stemkit.NoiseCalibrator().fit_transform(stemkit.read(path)))
        # noise and widths are measured in some of the images: in these, in all
        pd.testing.assert_frame_equal(table, whole, rtol=1e-6)


class TestUnfinished:
    def test_an_incomplete_last_line_is_not_a_finished_block(self, tmp_path):
        first = Unfinished(tmp_path / "a")
        first.open({"stemkit": "1"}, overwrite=False)
        first.folder.mkdir()
        first.mark(7)
        with (first.place / "finished").open("a") as file:
            file.write("1")
        again = Unfinished(tmp_path / "a")
        again.open({"stemkit": "1"}, overwrite=False)
        again.mark(12)
        third = Unfinished(tmp_path / "a")
        third.open({"stemkit": "1"}, overwrite=False)
        assert third.finished == {7, 12}

    def test_a_kill_while_the_first_blocks_place_is_made_begins_again(self, tmp_path):
        # a folder without all of its arrays has no finished block
        first = Unfinished(tmp_path / "a")
        first.open({}, overwrite=False)
        (first.folder / "0").mkdir(parents=True)
        again = Unfinished(tmp_path / "a")
        again.open({}, overwrite=False)
        assert again.is_new
        assert not again.folder.exists()

    @pytest.mark.parametrize("older", [False, True])
    def test_a_kill_after_the_result_is_in_its_place_loses_nothing(self, tmp_path, older):
        target, recorded = tmp_path / "a", []
        first = Unfinished(target)
        first.open({}, overwrite=False)
        first.folder.mkdir()
        first.mark(0)
        first.complete()
        (target / "block").write_text("made")
        if older:
            (tmp_path / ".a.replaced").mkdir()  # removed after the result is in its place
        with unfinished_result(target, {}, False, lambda: recorded.append(names(tmp_path))) as again:
            assert again.finished == {0}
            assert not again.is_new
        assert (target / "block").read_text() == "made"
        assert recorded == [[".a.unfinished", "a"]]
        assert names(tmp_path) == ["a"]

    def test_blocks_that_a_kill_has_removed_in_part_are_not_resumed(self, tmp_path, monkeypatch):
        first = Unfinished(tmp_path / "a")
        first.open({"stemkit": "1"}, overwrite=False)
        first.mark(0)
        first.folder.mkdir()

        class Killed(BaseException):
            pass

        def killed(path, ignore_errors):
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr("shutil.rmtree", killed)
            with pytest.raises(Killed):
                Unfinished(tmp_path / "a").open({"stemkit": "2"}, overwrite=True)
        again = Unfinished(tmp_path / "a")
        again.open({"stemkit": "1"}, overwrite=False)
        assert again.is_new

    def test_another_version_is_refused(self, tmp_path):
        first = Unfinished(tmp_path / "a")
        first.open({"stemkit": "1"}, overwrite=False)
        with pytest.raises(FileExistsError, match="other version of stemkit"):
            Unfinished(tmp_path / "a").open({"stemkit": "2"}, overwrite=False)

    @posix
    def test_a_running_process_is_not_disturbed(self, tmp_path):
        first = Unfinished(tmp_path / "a")
        first.open({}, overwrite=False)
        manifest = first.place / "manifest.json"
        manifest.write_text(manifest.read_text().replace(str(os.getpid()), str(os.getppid())))
        with pytest.raises(FileExistsError, match="is writing a"):
            Unfinished(tmp_path / "a").open({}, overwrite=True)

    def test_nothing_is_left_of_a_failure_before_the_first_block(self, tmp_path):
        def fails():
            with unfinished_result(tmp_path / "a", {}, overwrite=False) as unfinished:
                unfinished.folder.mkdir()
                raise ValueError("no image")

        with pytest.raises(ValueError, match="no image"):
            fails()
        assert names(tmp_path) == []


class TestFilesInSeveralProcesses:
    @pytest.mark.slow
    def test_order_names_and_failures_are_those_of_one_process(self, tmp_path, image, capsys):
        folder = tmp_path / "f"
        folder.mkdir()
        for name in "abc":
            stemkit.write(image, folder / f"{name}.tif")
        (folder / "b.tif").write_bytes(b"II*\0")
        outputs = []
        for more in ([], ["--workers", "2"]):
            out = tmp_path / f"out{len(more)}"
            assert run("detect", folder, "-o", out, "--no-enhance", "--merge", *more) == 1
            captured = capsys.readouterr()
            outputs.append(captured.out.replace(str(out), "out"))
            assert "b.tif" in captured.err
            assert "1 of 3 failed" in captured.err
        assert outputs[0] == outputs[1]
        read = [(tmp_path / f"out{n}" / "columns.csv").read_bytes() for n in (0, 2)]
        assert read[0] == read[1]


def _ends_itself(item):
    os.kill(os.getpid(), 9)


@posix
@pytest.mark.slow
def test_a_worker_that_was_killed_is_said_in_words():
    arguments = Namespace(workers=2, scheduler=None)
    with pytest.raises(OSError, match=r"a worker has ended before its work.*use fewer --workers"):
        list(in_workers(_ends_itself, [1, 2, 3], arguments, ordered=True))


class TestLogs:
    def test_a_log_has_versions_parameters_and_times(self, tif, tmp_path):
        assert run("enhance", tif, "-o", tmp_path / "o") == 0
        log = (tmp_path / "o" / ".stemkit" / "enhance.log").read_text()
        assert f"stemkit {stemkit.__version__}" in log
        assert "sampling=auto" in log
        assert "torch" in log
        assert "image.tif: enhancing: " in log

    def test_verbose_and_quiet(self, tif, tmp_path, capsys):
        assert run("detect", tif, "-o", tmp_path / "o", "-v", "--no-enhance") == 0
        assert "image.tif: measuring the columns: " in capsys.readouterr().err
        small = stemkit.write(stemkit.read(tif)[:24, :24], tmp_path / "small.tif")
        assert run("calibrate", small) == 0
        assert "note: " in capsys.readouterr().err
        assert run("calibrate", small, "-q") == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert "contrast" in captured.out


class TestOtherLibraries:
    """Results are opened with their pixel size by libraries that know nothing of stemkit."""

    def test_zarr(self, path, tmp_path, image):
        assert run("enhance", path, "-o", tmp_path / "out.zarr") == 0
        group = zarr.open_group(tmp_path / "out.zarr", mode="r")
        (described,) = group.attrs["ome"]["multiscales"]
        assert [(a["name"], a["type"], a.get("unit")) for a in described["axes"]] == [
            ("t", "time", None),
            ("y", "space", "nanometer"),
            ("x", "space", "nanometer"),
        ]
        full = described["datasets"][0]
        assert full["coordinateTransformations"][0] == {"type": "scale", "scale": pytest.approx([1.0, 0.01, 0.01])}
        assert group[full["path"]].shape == (4, *image.shape)
        np.testing.assert_array_equal(group[full["path"]][:], stemkit.read(tmp_path / "out.zarr").values)

    def test_ome_zarr(self, path, tmp_path, image):
        reader, location = pytest.importorskip("ome_zarr.reader"), pytest.importorskip("ome_zarr.io")
        assert run("enhance", path, "-o", tmp_path / "out.zarr") == 0
        (node,) = reader.Reader(location.parse_url(tmp_path / "out.zarr"))()
        assert node.data[0].shape == (4, *image.shape)
        assert node.metadata["coordinateTransformations"][0][0]["scale"] == pytest.approx([1.0, 0.01, 0.01])

    def test_tifffile(self, tif, tmp_path, image):
        assert run("enhance", tif, "-o", tmp_path / "o") == 0
        result = tmp_path / "o" / "image_enhanced.tif"
        size = stemkit.read(tif).stem.pixel_size
        with tifffile.TiffFile(result) as opened:
            assert opened.imagej_metadata["unit"] == "nm"
            resolution = [np.divide(*opened.pages[0].tags.valueof(code)) for code in (282, 283)]
            assert resolution == pytest.approx([1 / size] * 2)  # pixels per nm
            np.testing.assert_array_equal(opened.asarray(), stemkit.read(result).values)

    @pytest.mark.slow
    def test_pandas(self, path, tmp_path):
        assert run("detect", path, "-o", tmp_path / "a.parquet", "--per-frame", "--no-enhance") == 0
        table, own = pd.read_parquet(tmp_path / "a.parquet"), read_columns(tmp_path / "a.parquet")
        np.testing.assert_array_equal(table[["y", "x"]], own[["y", "x"]])
        pyarrow = pytest.importorskip("pyarrow.parquet")
        schema = pyarrow.read_schema(tmp_path / "a.parquet" / "image_000000.parquet")
        assert b"nm" in b"".join(schema.metadata.values())
