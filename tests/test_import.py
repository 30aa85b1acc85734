"""What importing costs, and that rooms stand on their floors."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stemkit

PACKAGE = Path(stemkit.__file__).parent
#: From the ground up; rooms on one floor do not import each other.
FLOORS = [
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


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


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
