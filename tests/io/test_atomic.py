"""Writing completely or not at all: full disks, killed processes, long names."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import stemkit
from stemkit.atomic import check_place, whole_file
from stemkit.io.writing import WRITABLE

IMAGE = np.random.default_rng(0).integers(0, 60000, (300, 300)).astype(np.uint16)


def python(code, folder):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="limits of the size of files are of POSIX systems")
@pytest.mark.parametrize("suffix", WRITABLE)
def test_a_full_disk(suffix, tmp_path):
    """A limit of the size of files fails in the same calls as a full disk does."""
    done = python(
        f"""
        import resource, signal, numpy as np, stemkit
        image = np.random.default_rng(0).integers(0, 60000, (300, 300)).astype(np.uint16)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        try:
            stemkit.write(image, "a{suffix}")
        except OSError as error:
            print(error)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert f"can't write a{suffix}: the disk is full" in done.stdout
    assert done.stderr == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_what_a_killed_process_left_behind_is_removed(tmp_path):
    done = python(
        """
        import os, pathlib, signal
        from stemkit.atomic import whole_file
        with whole_file(pathlib.Path("a.tif")) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path)
    stemkit.write(IMAGE, tmp_path / "b.tif")
    assert left in os.listdir(tmp_path)  # of another file
    stemkit.write(IMAGE, tmp_path / "a.tif")
    assert sorted(os.listdir(tmp_path)) == ["a.tif", "b.tif"]


def test_the_temporary_file_of_a_running_process_is_kept(tmp_path):
    with whole_file(tmp_path / "a.tif") as first:
        first.write_bytes(b"first")
        with whole_file(tmp_path / "a.tif") as second:
            second.write_bytes(b"second")
        assert first.read_bytes() == b"first"
    assert (tmp_path / "a.tif").read_bytes() == b"first"


@pytest.mark.parametrize("name", ["x" * 251 + ".tif", "\u9ad8" * 83 + ".tif", "a." + "s" * 250])
def test_names_as_long_as_the_file_system_allows(name, tmp_path):
    path = stemkit.write(IMAGE, tmp_path / name, format="tif")
    assert os.listdir(tmp_path) == [name]
    if name.endswith(".tif"):
        np.testing.assert_array_equal(stemkit.read(path).values, IMAGE)


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(OSError, match="its name has 304 bytes, but at most"):
        stemkit.write(IMAGE, tmp_path / ("x" * 300 + ".tif"))
    with pytest.raises(OSError, match="its name has 304 bytes, but at most"):
        check_place(tmp_path / ("x" * 300 + ".tif"), overwrite=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_can_not_be_written_to(tmp_path):
    (tmp_path / "folder").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r"can't write .*a\.tif: Permission denied"):
        stemkit.write(IMAGE, tmp_path / "folder" / "a.tif")
