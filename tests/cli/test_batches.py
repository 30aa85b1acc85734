"""Commands on several files: failures of single files, unique results, results that are finished."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import stemkit
from stemkit.cli import main


def results(folder):
    """Names of the files in a folder, without hidden ones."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


@pytest.fixture
def folder(tmp_path):
    """A folder of three small images."""
    made = tmp_path / "folder"
    made.mkdir()
    for seed, name in enumerate("abc"):
        np.save(made / f"{name}.npy", np.random.default_rng(seed).normal(size=(40, 40)).astype(np.float32))
    return made


def enhance(*arguments):
    return main(["enhance", *map(str, arguments)])


def test_one_bad_file_is_reported_and_the_others_run(folder, tmp_path, capsys):
    (folder / "b.npy").write_bytes(b"\x93NUMPY broken")
    (folder / "notes.txt").write_text("not an image")
    assert enhance(folder, "-o", tmp_path / "out") == 1
    assert results(tmp_path / "out") == ["a_enhanced.tif", "c_enhanced.tif"]
    err = capsys.readouterr().err
    assert "b.npy" in err
    assert "1 of 3 failed" in err


def test_a_name_that_is_too_long_does_not_stop_the_others(folder, tmp_path, capsys):
    assert enhance(f"{'x' * 300}.tif", folder / "a.npy", "-o", tmp_path / "out") == 1
    assert results(tmp_path / "out") == ["a_enhanced.tif"]
    err = capsys.readouterr().err
    assert "1 of 2 failed" in err


def test_results_of_long_names_are_written(folder, tmp_path):
    names = [f"{'y' * 240}{i}.npy" for i in range(2)]
    for name in names:
        (folder / "a.npy").rename(folder / name) if name == names[0] else (folder / "b.npy").rename(folder / name)
    assert enhance(*(folder / name for name in names), "-o", tmp_path / "out") == 0
    assert len(results(tmp_path / "out")) == 2


def test_files_of_one_name_have_results_of_their_own(tmp_path):
    (tmp_path / "x" / "d").mkdir(parents=True)
    (tmp_path / "y" / "d").mkdir(parents=True)
    values = {"x/d/a.tif": 1.0, "y/d/a.tif": 2.0, "x/d/a.npy": 3.0}
    for name, level in values.items():
        stemkit.write(np.full((40, 40), level, dtype=np.float32), tmp_path / name)
    out = tmp_path / "out"
    assert enhance(*(tmp_path / name for name in values), "-o", out, "--overwrite") == 0
    means = {p: float(stemkit.read(out / p).mean()) for p in results(out)}
    assert means == {
        "a_npy_enhanced.tif": pytest.approx(3.0),
        "x_d_a_tif_enhanced.tif": pytest.approx(1.0),
        "y_d_a_tif_enhanced.tif": pytest.approx(2.0),
    }


@pytest.mark.parametrize("path", ["missing.tif", "empty"])
def test_nothing_to_do_is_a_failure(tmp_path, capsys, path):
    (tmp_path / "empty").mkdir()
    assert main(["info", str(tmp_path / path)]) == 1
    assert path in capsys.readouterr().err


def test_sub_folders_on_request(folder, tmp_path):
    (folder / "sub").mkdir()
    (folder / "a.npy").rename(folder / "sub" / "a.npy")
    assert enhance(folder, "-o", tmp_path / "out") == 0
    assert results(tmp_path / "out") == ["b_enhanced.tif", "c_enhanced.tif"]
    assert enhance("-r", folder, "-o", tmp_path / "out") == 0
    assert results(tmp_path / "out") == ["a_enhanced.tif", "b_enhanced.tif", "c_enhanced.tif"]


@pytest.mark.slow
def test_a_folder_of_images_and_results_is_processed_as_before(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for command in (["enhance", "."], ["detect", ".", "--no-enhance", "--figure"], ["calibrate", ".", "--figure"]):
        assert main(command) == 0
        first = results(folder)
        capsys.readouterr()
        assert main(command) == 0
        assert results(folder) == first
        out = capsys.readouterr().out
        assert "enhanced_enhanced" not in out
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == ["a.npy", "b.npy", "c.npy"]


class TestRepeatedCommands:
    def state(self, folder):
        return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir() if p.is_file()}

    @pytest.mark.parametrize("more", [[], ["--overwrite"]])
    def test_finished_results_are_skipped(self, folder, tmp_path, capsys, more):
        assert enhance(folder, "-o", tmp_path / "out") == 0
        before = self.state(tmp_path / "out")
        capsys.readouterr()
        assert enhance(folder, "-o", tmp_path / "out", *more) == 0
        assert self.state(tmp_path / "out") == before
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3
        assert all(line.endswith("_enhanced.tif: finished before") for line in lines)

    def test_other_parameters_input_or_code_are_not_finished(self, folder, tmp_path, capsys, monkeypatch):
        out = tmp_path / "out"
        assert enhance(folder / "a.npy", "-o", out) == 0
        assert enhance(folder / "a.npy", "-o", out, "--sampling", "0.7") == 1
        assert "--overwrite" in capsys.readouterr().err
        np.save(folder / "a.npy", np.zeros((41, 41)) + np.eye(41))
        assert enhance(folder / "a.npy", "-o", out) == 1
        assert enhance(folder / "a.npy", "-o", out, "--overwrite") == 0
        assert stemkit.read(out / "a_enhanced.tif").shape == (41, 41)
        monkeypatch.setattr("stemkit.cli.records.__version__", "0.0.0")
        assert enhance(folder / "a.npy", "-o", out) == 1

    def test_a_result_that_was_changed_is_not_replaced(self, folder, tmp_path, capsys):
        out = tmp_path / "out"
        assert enhance(folder / "a.npy", "-o", out) == 0
        (out / "a_enhanced.tif").write_bytes(b"precious")
        assert enhance(folder / "a.npy", "-o", out) == 1
        assert (out / "a_enhanced.tif").read_bytes() == b"precious"
        assert "--overwrite" in capsys.readouterr().err

    def test_a_file_of_another_program_does_not_become_one_s_own(self, folder, tmp_path, monkeypatch):
        out = tmp_path / "out"
        out.mkdir()
        (out / "a_enhanced.tif").write_bytes(b"precious")

        def fails(*_, **__):
            raise OSError("no space left")

        with monkeypatch.context() as patched:
            patched.setattr("stemkit.write", fails)
            assert enhance(folder / "a.npy", "-o", out, "--overwrite") == 1
        assert enhance(folder / "a.npy", "-o", out) == 1
        assert (out / "a_enhanced.tif").read_bytes() == b"precious"

    def test_a_file_that_failed_is_tried_again(self, folder, tmp_path, monkeypatch):
        out = tmp_path / "out"
        with monkeypatch.context() as patched:
            patched.setattr("stemkit.plotting.save_figure", lambda *_, **__: 1 / 0)
            assert main(["detect", str(folder / "a.npy"), "--no-enhance", "--figure", "-o", str(out)]) == 1
        assert results(out) == ["a_columns.csv"]
        assert main(["detect", str(folder / "a.npy"), "--no-enhance", "--figure", "-o", str(out)]) == 0
        assert results(out) == ["a_columns.csv", "a_columns.png"]

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
    def test_after_a_kill_the_rest_is_done(self, folder, tmp_path, capsys):
        out = tmp_path / "out"
        command = [sys.executable, "-m", "stemkit", "enhance", str(folder), "-o", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while not (out / "a_enhanced.tif").exists() and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert "a_enhanced.tif" in results(out)
        assert enhance(folder, "-o", out) == 0
        assert results(out) == ["a_enhanced.tif", "b_enhanced.tif", "c_enhanced.tif"]
        assert enhance(folder, "-o", out) == 0
        assert capsys.readouterr().out.count("finished before") >= 3


class TestMergedTables:
    @pytest.fixture
    def two(self, tmp_path, image):
        stemkit.write(image, tmp_path / "calibrated.tif")
        np.save(tmp_path / "bare.npy", image.values)
        return [str(tmp_path / "bare.npy"), str(tmp_path / "calibrated.tif")]

    def detect(self, *arguments):
        return main(["detect", "--no-enhance", "--merge", *map(str, arguments)])

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_all_columns_with_their_file_and_unit(self, tmp_path, two, suffix, capsys):
        out = tmp_path / "out"
        assert self.detect(*two, "-o", out, "--format", suffix) == 0
        read = pd.read_csv if suffix == "csv" else pd.read_parquet
        merged = read(out / f"columns.{suffix}")
        assert f"columns.{suffix}: {len(merged)} columns of 2 files" in capsys.readouterr().out
        assert next(iter(merged)) == "file"
        for path, unit in zip(two, ("px", "nm"), strict=True):
            part = merged[merged["file"] == path].reset_index(drop=True)
            assert set(part["unit"]) == {unit}
            single = read(out / f"{os.path.basename(path).split('.')[0]}_columns.{suffix}")
            pd.testing.assert_frame_equal(part.drop(columns="file"), single)

    def test_repeated_it_is_merged_again_and_others_are_not_replaced(self, tmp_path, two, capsys):
        out = tmp_path / "out"
        assert self.detect(two[0], "-o", out) == 0
        assert self.detect(two[0], "-o", out) == 0
        first = (out / "columns.csv").read_bytes()
        assert self.detect(*two, "-o", out) == 1
        assert "--overwrite" in capsys.readouterr().err
        assert (out / "columns.csv").read_bytes() == first
        assert self.detect(*two, "-o", out, "--overwrite") == 0
        assert (out / "columns.csv").stat().st_size > len(first)

    def test_files_that_fail_are_left_out(self, tmp_path, two):
        (tmp_path / "broken.tif").write_bytes(b"II*\0")
        assert self.detect(two[0], tmp_path / "broken.tif", "-o", tmp_path / "out") == 1
        assert set(pd.read_csv(tmp_path / "out" / "columns.csv")["file"]) == {two[0]}

    def test_xyz_can_t_be_merged(self, tmp_path, two, capsys):
        assert self.detect(*two, "-o", tmp_path, "--format", "xyz") == 1
        assert "--merge needs a table as CSV or Parquet" in capsys.readouterr().err
