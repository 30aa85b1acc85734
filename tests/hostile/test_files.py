"""No file, however broken or hostile, is read for ever, fills the memory, or gives anything but a clear error.

``python -m tests.hostile.run --count 5000`` reads more of the same kind.
"""

import importlib.util
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import stemkit

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes, links and alarms are of POSIX systems")


def module(name):
    """A neighbouring file: the tests are not a package."""
    spec = importlib.util.spec_from_file_location(f"hostile_{name}", Path(__file__).with_name(f"{name}.py"))
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def trying():
    return module("attempt")


@pytest.fixture(scope="module")
def corpus():
    return module("corpus")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return module("seeds").write_seeds(tmp_path_factory.mktemp("seeds"))


def checked(trying, path, name):
    before = trying.peak_memory()
    result = trying.attempt(path)
    assert result.outcome in ("image", "refused"), f"{name}: {result.outcome}: {result.text}"
    assert trying.peak_memory() - before < trying.MEMORY_LIMIT, name
    return result


def test_the_files_are_valid_before_they_are_damaged(seeds, trying):
    assert {p.suffix for p in seeds} >= {".tif", ".nc", ".hspy", ".npy", ".emd", ".mrc", ".ser", ".dm3", ".npz", ".mat"}
    for path in seeds:
        assert checked(trying, path, path.name).outcome == "image", path.name


@pytest.mark.parametrize("block", range(8))
def test_damaged_files(block, seeds, trying, corpus, tmp_path):
    outcomes = []
    for index in range(75 * block, 75 * (block + 1)):
        name, content, suffix = corpus.damaged(seeds, index)
        path = tmp_path / f"hostile{suffix}"
        path.write_bytes(content)
        outcomes.append(checked(trying, path, name).outcome)
        path.unlink()
    assert outcomes.count("refused") > 15


def test_files_that_are_wrong_on_purpose(trying, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("STEMKIT_PAYLOAD", str(tmp_path / "payload"))
    for path in corpus.by_hand(tmp_path / "files"):
        result = checked(trying, path, path.name)
        if path.name.startswith(("empty", "text", "zeros", "ones", "huge", "bomb")):
            assert result.outcome == "refused", f"{path.name} was read as {result.text}"
    assert not (tmp_path / "payload").exists()


def test_truncated_files_are_refused_or_complete(seeds, tmp_path):
    """What is read of a file without its end has all of its pixels: none were made up."""
    refused = 0
    for seed in seeds:
        whole = [stemkit.read(seed, dataset=d.index) for d in stemkit.datasets(seed) if d.is_image]
        content = seed.read_bytes()
        path = tmp_path / f"short{seed.suffix}"
        for part in (0.02, 0.2, 0.4, 0.5, 0.6, 0.8, 0.95):
            path.write_bytes(content[: int(part * len(content))])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    image = stemkit.read(path)
            except ValueError:
                refused += 1
            else:
                same = [w.shape == image.shape and np.array_equal(w.values, image.values) for w in whole]
                assert any(same), f"{seed.name} at {part}"
    assert refused > 6 * len(seeds)
