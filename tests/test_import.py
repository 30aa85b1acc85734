"""What importing costs, and that rooms stand on their floors."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stemkit

PACKAGE = Path(stemkit.__file__).parent
#: From the ground up; rooms on one floor do not import each other.
FLOORS = [
    {"_version", "atomic", "filters", "image_checks"},
    {"images", "metrics", "pixels", "compute", "networks"},
    {"plotting", "columns", "periodicity"},
    {"io"},
    {"noise"},
    {"synthesis"},
    {"denoising", "detection"},
    {"benchmark"},
    {"cli"},
]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_THREAD_TIMEOUT")


def run(code, **environment):
    given = {name: value for name, value in os.environ.items() if name not in WAITING} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=given).stdout


def waiting_after(code, **environment):
    """How threads wait, in the process's own environment, after some imports."""
    asked = f"import os; print([os.environ.get(name) for name in {WAITING}])"
    return ast.literal_eval(run(f"{code}; {asked}", **environment))


@pytest.mark.parametrize("first", ["import stemkit", "from stemkit.columns import fit_columns", "import stemkit.cli"])
def test_threads_sleep_while_they_wait(first):
    assert waiting_after(first) == ["PASSIVE", None, "4"]


def test_the_setting_of_threads_is_there_when_torch_is_loaded():
    # libgomp prints what it has read when it is loaded
    read = subprocess.run(
        [sys.executable, "-c", "from stemkit.columns import fit_columns"],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if k not in WAITING} | {"OMP_DISPLAY_ENV": "TRUE"},
    ).stderr
    if "OPENMP DISPLAY ENVIRONMENT" not in read:
        pytest.skip("the OpenMP library does not print its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in read


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "100"}])
def test_a_user_s_own_setting_of_threads_is_kept(own):
    own = own | {"OPENBLAS_THREAD_TIMEOUT": "20"}
    assert waiting_after("import stemkit", **own) == [own.get(name) for name in WAITING]


def test_a_setting_that_comes_too_late_is_not_made():
    assert waiting_after("import numpy, torch, stemkit") == [None, None, None]


def test_importing_loads_nothing_heavy():
    heavy = ("torch", "sklearn", "matplotlib", "skorch", "tifffile")
    assert run(f"import sys, stemkit; print([m for m in {heavy} if m in sys.modules])").strip() == "[]"


def test_the_command_s_help_loads_nothing_heavy():
    code = "import sys, stemkit.cli; print([m for m in ('torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    assert run(code).strip() == "[]"


@pytest.mark.parametrize("name", [n for n in stemkit.__all__ if n != "__version__"])
def test_public_names_are_there_and_documented(name):
    assert getattr(stemkit, name).__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = stemkit.Nothing


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stemkit."):
            yield node.module.split(".")[1]


def test_imports_point_downwards():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in FLOOR:
            continue
        wrong += [
            f"{path.relative_to(PACKAGE)} -> {to}" for to in imports_of(path) if to != room and FLOOR[to] >= FLOOR[room]
        ]
    assert wrong == []
