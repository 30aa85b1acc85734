"""Stored results of the compilation are those of the present sources, and none of them can stop the program."""

import itertools
import os
import pickle
import subprocess
import sys

import numba
import pytest

from stemkit.compilation import _remove_oldest

HELPER = """
from typing import NamedTuple
from stemkit.compilation import compiled

class {name}(NamedTuple):
    value: float

Arguments = {name}

@compiled
def factor():
    return {factor}
"""
USER = """
from toy.compiled.helper import factor
from stemkit.compilation import compiled

@compiled
def product(arguments):
    return factor() * arguments.value
"""
RUN = """
import toy
from toy.compiled.helper import Arguments
from toy.compiled.user import product
print(product(Arguments(2.0)), sum(product.stats.cache_hits.values()))
"""


class Toy:
    """A package with a compiled function that calls one of another file."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "toy" / "compiled").mkdir(parents=True)
        for package in ("toy", "toy/compiled"):
            (folder / package / "__init__.py").write_text("")
        (folder / "toy" / "compiled" / "user.py").write_text(USER)
        self.write()

    def write(self, factor=3.0, name="Arguments1"):
        (self.folder / "toy" / "compiled" / "helper.py").write_text(HELPER.format(factor=factor, name=name))

    def run(self, **environment):
        """The function's value, and how often it was loaded, in a new process."""
        paths = [str(self.folder), *(p for p in sys.path if p)]
        given = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
        given |= {"PYTHONPATH": os.pathsep.join(paths), **environment}
        done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, env=given, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        value, hits = done.stdout.split()
        return float(value), int(hits)

    def stored(self, folder="toy/__pycache__"):
        return sorted(p for p in (self.folder / folder).glob("**/*.nb[ic]"))


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


@pytest.mark.slow
def test_a_second_process_loads_the_result(toy):
    assert toy.run() == (6.0, 0)
    assert toy.run() == (6.0, 1)


@pytest.mark.slow
def test_a_change_in_another_file_is_noticed(toy):
    assert toy.run() == (6.0, 0)
    # the size of the file is the same, and its time may be
    toy.write(factor=5.0)
    assert toy.run() == (10.0, 0)


@pytest.mark.slow
def test_a_class_that_was_renamed_does_not_matter(toy):
    assert toy.run() == (6.0, 0)
    toy.write(name="Arguments2")
    assert toy.run() == (6.0, 0)


@pytest.mark.slow
def test_what_cannot_be_read_is_compiled_again_and_replaced(toy):
    toy.run()
    stored = toy.stored()
    assert {p.suffix for p in stored} == {".nbi", ".nbc"}
    damaged = itertools.cycle([b"", b"no pickle", pickle.dumps(numba.__version__)])
    for path, content in zip(stored, damaged, strict=False):
        path.write_bytes(content)
    assert toy.run() == (6.0, 0)
    assert toy.run() == (6.0, 1)


@pytest.mark.slow
def test_an_index_that_names_a_class_which_is_gone(toy):
    toy.run()
    for path in toy.stored():
        content = path.read_bytes()
        path.write_bytes(content.replace(b"Arguments1", b"Arguments9"))
    assert toy.run()[0] == 6.0


@pytest.mark.slow
def test_without_a_folder_that_can_be_written_functions_are_compiled_each_time(toy):
    (toy.folder / "toy" / "__pycache__").write_text("a file, which cannot contain another one")
    home = toy.folder / "home"
    home.write_text("no folder either")
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "LOCALAPPDATA": str(home), "USERPROFILE": str(home)}
    assert toy.run(PYTHONDONTWRITEBYTECODE="1", **environment) == (6.0, 0)


@pytest.mark.slow
def test_numba_s_own_setting_is_used(toy):
    chosen = toy.folder / "chosen"
    assert toy.run(NUMBA_CACHE_DIR=str(chosen)) == (6.0, 0)
    assert toy.run(NUMBA_CACHE_DIR=str(chosen)) == (6.0, 1)
    assert toy.stored("chosen")
    assert not toy.stored()


def test_folders_of_former_sources_are_removed(tmp_path):
    for i in range(7):
        (tmp_path / f"toy-{i}").mkdir()
        (tmp_path / f"toy-{i}" / "product.nbi").write_text("")
        os.utime(tmp_path / f"toy-{i}", (1e9 + i, 1e9 + i))
    (tmp_path / "toy.pyc").write_text("")
    _remove_oldest(tmp_path, "toy-*")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy-2", "toy-3", "toy-4", "toy-5", "toy-6", "toy.pyc"]
