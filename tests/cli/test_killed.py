"""Commands that are killed or interrupted while they write a stack."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import stemkit
from stemkit.cli import main

pytest.importorskip("dask.array")
pytest.importorskip("zarr")


#: The command, which rests after each image: a busy machine would not notice one of a few hundredths of a second.
#: A shell that starts the tests in the background ignores interruptions, and so would the command.
RESTING = """
import signal
import time
from stemkit.cli import command
from stemkit.cli.unfinished import Unfinished

def mark(self, block, marked=Unfinished.mark):
    marked(self, block)
    time.sleep(1)

Unfinished.mark = mark
signal.signal(signal.SIGINT, signal.default_int_handler)
command()
"""


@pytest.fixture
def path(tmp_path, image):
    """A stack of four small images."""
    stack = stemkit.calibrated(np.stack([image.values + 5 * i for i in range(4)]), pixel_size=0.01)
    return stemkit.write(stack.rename(image="frame").assign_attrs(mode="haadf"), tmp_path / "stack.zarr")


def run(*arguments):
    return main([*map(str, arguments)])


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_worker_that_starts_after_the_end_of_its_command_ends():
    # a process that has ended is the parent of none
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    code = f"import time; from stemkit.cli.interruption import end_with; end_with({ended.pid}); time.sleep(100)"
    assert subprocess.run([sys.executable, "-c", code], timeout=90, check=False).returncode == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
class TestKilled:
    """Nothing but the last block is lost, and the same command ends with the same result."""

    def kill_after(self, n, command, folder, number=signal.SIGKILL):
        process = subprocess.Popen(
            [sys.executable, "-c", RESTING, *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        finished = folder / "finished"
        end = time.monotonic() + 200
        while time.monotonic() < end and process.poll() is None:
            if finished.exists() and finished.read_text().count("\n") >= n:
                break
            time.sleep(0.01)
        before = time.monotonic()
        os.killpg(process.pid, number)
        error = process.communicate()[1]
        return process.returncode, time.monotonic() - before, error

    @pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=["alone", "two workers"])
    def test_enhance(self, path, tmp_path, capsys, more):
        out, unfinished = tmp_path / "out.zarr", tmp_path / ".out.zarr.unfinished"
        command = ["enhance", path, "-o", out, *more]
        code, _, _ = self.kill_after(2, command, unfinished)
        assert code == -signal.SIGKILL
        assert not out.exists()
        kept = {p: p.stat().st_mtime_ns for p in (unfinished / "out.zarr" / "0" / "c").rglob("*") if p.is_file()}
        done = [int(line) for line in (unfinished / "finished").read_text().split()]
        assert run(*command[:4]) == 0  # the number of workers makes no difference
        assert f"{len(done)} of 4 images were finished before" in capsys.readouterr().err
        for file, changed in kept.items():
            if int(file.relative_to(unfinished / "out.zarr" / "0" / "c").parts[0]) in done:
                assert (out / file.relative_to(unfinished / "out.zarr")).stat().st_mtime_ns == changed
        expected = stemkit.SFINDenoiser().fit_transform(stemkit.read(path))
        np.testing.assert_allclose(stemkit.read(out).values, expected.values, rtol=1e-5)
        assert names(tmp_path) == [".stemkit", "out.zarr", "stack.zarr"]

    def test_an_interruption_ends_the_command_and_keeps_what_is_finished(self, path, tmp_path):
        out, unfinished = tmp_path / "out.zarr", tmp_path / ".out.zarr.unfinished"
        code, seconds, error = self.kill_after(1, ["enhance", path, "-o", out], unfinished, signal.SIGINT)
        assert code == 130
        assert seconds < 20  # within a second on a computer without other load
        assert error.count("stemkit: interrupted") == 1
        assert (unfinished / "finished").read_text().startswith("0\n")
