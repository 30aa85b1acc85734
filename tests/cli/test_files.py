"""Selection of files, and names of their results."""

import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemkit.cli.files import MAX_NAME_BYTES, RESULT_ENDINGS, is_result_ending, result_names, select_files

#: Few letters, so that names collide.
NAMES = st.builds("{}{}".format, st.text("ab_", min_size=1, max_size=4), st.sampled_from([".tif", ".npy", "_tif.png"]))
PATHS = st.lists(st.builds(Path, st.sampled_from(["/x", "/x/d", "/y/d", "/y_d"]), NAMES), unique=True, max_size=12)


@given(PATHS)
def test_names_differ(paths):
    names = result_names(paths)
    assert len(set(names)) == len(paths)
    for path, name in zip(paths, names, strict=True):
        assert name.endswith((path.stem, path.name.replace(".", "_")))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a.tif", "y/b.tif"], ["a", "b"]),
        (["a.tif", "a.npy"], ["a_tif", "a_npy"]),
        (["/x/d/a.tif", "/y/d/a.tif"], ["x_d_a_tif", "y_d_a_tif"]),
        (["/z/a.tif", "/z/a.npy", "/z/a_tif.png"], ["z_a_tif", "a_npy", "a_tif_png"]),
    ],
)
def test_examples_of_names(paths, names):
    assert result_names([Path(p) for p in paths]) == names


@given(st.text(string.ascii_letters + "µÅé", min_size=MAX_NAME_BYTES + 1, max_size=255))
def test_long_names_leave_space_for_endings(stem):
    long, other = result_names([Path(f"{stem}.tif"), Path(f"{stem}b.tif")])
    assert max(len(os.fsencode(long)), len(os.fsencode(other))) <= MAX_NAME_BYTES
    assert long != other


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def selected(*paths, recursive=False):
    selection = select_files(paths, recursive)
    return [p.name for p in selection.files], [p.name for p in selection.left_out], list(selection.problems)


def test_folders_are_searched_for_readable_files(tmp_path):
    touch(tmp_path, "b.tif", "a.dm4", "notes.txt", ".hidden.tif", "sub/c.npy", ".stemkit/d.png")
    assert selected(tmp_path) == (["a.dm4", "b.tif"], [], [])
    assert selected(tmp_path, recursive=True) == (["a.dm4", "b.tif", "c.npy"], [], [])


def test_each_file_is_taken_once(tmp_path):
    touch(tmp_path, "a.tif")
    (tmp_path / "link.tif").symlink_to(tmp_path / "a.tif")
    assert selected(tmp_path / "a.tif", tmp_path, tmp_path / "link.tif") == (["a.tif"], [], [])


def test_results_of_other_files_are_left_out_unless_named(tmp_path):
    results = ["a_enhanced.tif", "a_columns.png", "a_y0-8_x0-9_straightened.tif", "a_enhanced_noise_001.png"]
    touch(tmp_path, "a.dm4", *results)
    files, left_out, _ = selected(tmp_path)
    assert files == ["a.dm4"]
    assert sorted(left_out) == sorted(results)
    files, left_out, _ = selected(tmp_path, tmp_path / "a_enhanced.tif")
    assert "a_enhanced.tif" in files
    assert "a_enhanced.tif" not in left_out


@pytest.mark.parametrize("ending", RESULT_ENDINGS)
def test_results_of_every_command_are_left_out(ending, tmp_path):
    results = [f"a_{ending}.png", f"a_{ending}_012.png", f"a_y0-8_x0-9_{ending}.nc"]
    touch(tmp_path, "a.dm4", *results)
    assert selected(tmp_path)[0] == ["a.dm4"]


def test_results_of_average_are_not_images(tmp_path):
    results = ["a_average.nc", "a_drift.png", "a_aligned.nc"]
    touch(tmp_path, "a.emd", *results)
    files, left_out, _ = selected(tmp_path)
    assert files == ["a.emd"]
    assert sorted(left_out) == sorted(results)


@pytest.mark.parametrize(
    ("ending", "known"), [("_drift.png", True), ("_columns_001.png", True), ("_other.png", False), ("drift.png", False)]
)
def test_endings_of_results(ending, known):
    assert is_result_ending(ending) == known


def test_results_without_their_source_are_images(tmp_path):
    touch(tmp_path, "a_enhanced.nc", "b_straightened.tif")
    assert selected(tmp_path)[0] == ["a_enhanced.nc", "b_straightened.tif"]


def test_folders_without_files_and_those_that_can_t_be_read_are_problems(tmp_path):
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "full/a.tif")
    files, _, (problem,) = selected(tmp_path / "empty", tmp_path / "full")
    assert files == ["a.tif"]
    assert problem.startswith(f"can't read {tmp_path / 'empty'}: the folder contains no image file")
    assert problem.endswith("-r also searches its sub-folders")


def test_files_of_folders_are_in_natural_order(tmp_path):
    touch(tmp_path, *(f"frame_{i}.tif" for i in (10, 9, 1, 100)), "sub_10/a.npy", "sub_9/b.npy")
    assert selected(tmp_path)[0] == ["frame_1.tif", "frame_9.tif", "frame_10.tif", "frame_100.tif"]
    assert selected(tmp_path, recursive=True)[0][4:] == ["b.npy", "a.npy"]


def test_zarr_folders_are_files(tmp_path):
    touch(tmp_path, "a.zspy/zarr.json", "b.zarr/c.npy", "sub/d.zarr/zarr.json")
    assert selected(tmp_path)[0] == ["a.zspy", "b.zarr"]
    assert selected(tmp_path, recursive=True)[0] == ["a.zspy", "b.zarr", "d.zarr"]
    assert selected(tmp_path / "a.zspy")[0] == ["a.zspy"]


def test_a_path_that_is_too_long_is_left_to_the_reading(tmp_path):
    path = tmp_path / f"{'a' * 300}.tif"
    assert selected(path)[0] == [path.name]
