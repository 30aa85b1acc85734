"""What importing costs, and that subpackages and modules import only from lower layers."""

import ast
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

import stemkit

PACKAGE = Path(stemkit.__file__).parent
#: Subpackages and modules in layers, from the lowest one: a layer imports only from lower ones.
LAYERS = [
    {"_version", "atomic", "compilation", "filters", "parabola", "parameters", "statistics", "tables"},
    {"images", "metrics", "pixels", "compute"},
    {"networks", "plotting", "columns", "periodicity", "estimators"},
    {"io"},
    {"noise"},
    {"synthesis"},
    {"denoising", "detection"},
    {"series"},
    {"structure"},
    {"trust"},
    {"benchmark", "report", "napari"},
    {"stemkit"},
    {"cli"},
    {"__main__"},
]
LAYER = {part: i for i, parts in enumerate(LAYERS) for part in parts}


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_THREAD_TIMEOUT")


def run(code, **environment):
    given = {name: value for name, value in os.environ.items() if name not in WAITING} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=given).stdout


def waiting_after(code, **environment):
    """How threads wait, in the process's own environment, after some imports."""
    asked = f"import os; print([os.environ.get(name) for name in {WAITING}])"
    return ast.literal_eval(run(f"{code}; {asked}", **environment))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import stemkit", "from stemkit.columns import fit_columns", "import stemkit.cli"])
def test_threads_sleep_while_they_wait(first):
    assert waiting_after(first) == ["PASSIVE", None, "4"]


@pytest.mark.slow
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


@pytest.mark.slow
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


PACKAGES = [module.name for module in pkgutil.iter_modules(stemkit.__path__) if module.ispkg]


@pytest.mark.parametrize("package", [name for name in PACKAGES if name not in ("cli", "napari")])
def test_public_names_are_those_of_the_api_page(package):
    page = (PACKAGE.parent / "docs" / "api" / "index.rst").read_text()
    listed = re.findall(r"^   stemkit\.(\w+(?:\.\w+)?)$", page, re.MULTILINE)
    public = set(importlib.import_module(f"stemkit.{package}").__all__)
    assert {name for name in listed if name.startswith(f"{package}.")} == {
        f"{package}.{name}" for name in public - set(stemkit.__all__)
    }
    assert public & set(stemkit.__all__) <= set(listed)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="stemkit attribute Nothing"):
        _ = stemkit.Nothing


def parsed(source, module, is_package=False):
    """Imports of a module's source, in functions and under TYPE_CHECKING too: pairs of a module and a name in it."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((base, alias.name) for alias in node.names)


def graph_of(sources, homes=()):
    """Modules that each module imports, from their sources; the name of a package ends with ``/``.

    ``homes`` are the modules that public names of the package are loaded from when they are used.
    """
    modules = {name.rstrip("/") for name in sources}
    graph = {}
    for name, source in sources.items():
        module = name.rstrip("/")
        targets = set()
        for base, member in parsed(source, module, name.endswith("/")):
            full = f"{base}.{member}"
            targets.add(full if full in modules else dict(homes).get(full, base))
        graph[module] = (targets & modules) - {module}
    return graph


def part_of(module):
    """The subpackage or module of stemkit that a module is in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def upward(graph, layer):
    """Imports from a layer that is not lower."""
    pairs = sorted((module, target) for module, targets in graph.items() for target in targets)
    parts = [(module, target, part_of(module), part_of(target)) for module, target in pairs]
    return [f"{module} -> {target}" for module, target, a, b in parts if a != b and layer[b] >= layer[a]]


def circles(graph):
    """Groups of modules that import each other, directly or through others."""
    index = {module: i for i, module in enumerate(sorted(graph))}
    edges = np.zeros((len(index),) * 2, dtype=bool)
    for module, targets in graph.items():
        edges[index[module], [index[t] for t in targets]] = True
    n, label = connected_components(csr_array(edges), directed=True, connection="strong")
    groups = [[m for m, i in index.items() if label[i] == k] for k in range(n)]
    return sorted(group for group in groups if len(group) > 1)


def package_graph():
    sources = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("stemkit", *path.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(parts[:-1]) + "/" if parts[-1] == "__init__" else ".".join(parts)
        sources[name] = path.read_text()
    return graph_of(sources, lazy_names((PACKAGE / "__init__.pyi").read_text()))


def lazy_names(stub):
    """Names of the package that are loaded lazily, with the modules that define them."""
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom) and node.module]
    return {f"stemkit.{alias.name}": f"stemkit.{node.module}" for node in imports for alias in node.names}


def test_lazy_names_are_those_of_the_package():
    names = {name.removeprefix("stemkit.") for name in lazy_names((PACKAGE / "__init__.pyi").read_text())}
    assert names < set(stemkit.__all__)
    assert {"SFINDenoiser", "read", "calibrated"} <= names


def test_imports_point_downwards():
    assert upward(package_graph(), LAYER) == []


def test_no_module_imports_itself_through_others():
    assert circles(package_graph()) == []


#: Two subpackages, ``low`` in a layer below ``high``, in which nothing is wrong.
MADE_UP = {
    "p/": "from p.high import Thing as Thing",
    "p.low/": "from p.low.a import f",
    "p.low.a": "import os\nimport numpy as np\nfrom p.low import b",
    "p.low.b": "",
    "p.high/": "from .c import Thing",
    "p.high.c": "import p.low.a\nfrom ..low.b import g",
}
MADE_UP_LAYER = {"low": 0, "high": 1, "p": 2}
FORMS = {
    "import": "import {0}",
    "import as": "import {0} as other",
    "from package": "from {1} import {2}",
    "from module": "from {0} import name",
    "function": "def f():\n    import {0}",
    "type": "if TYPE_CHECKING:\n    from {0} import T",
    "class": "class A:\n    def f(self):\n        from {1} import {2}",
}


def test_a_tree_without_faults_has_none():
    graph = graph_of(MADE_UP)
    assert graph["p.high.c"] == {"p.low.a", "p.low.b"}
    assert graph["p.low.a"] == {"p.low.b"}
    assert upward(graph, MADE_UP_LAYER) == circles(graph) == []


@pytest.mark.parametrize("form", FORMS)
def test_upward_imports_of_every_form_are_found(form):
    source = FORMS[form].format("p.high.c", "p.high", "c")
    graph = graph_of(MADE_UP | {"p.low.b": source})
    assert upward(graph, MADE_UP_LAYER) == ["p.low.b -> p.high.c"]


@pytest.mark.parametrize("form", FORMS)
def test_circles_of_every_form_are_found(form):
    source = FORMS[form].format("p.low.a", "p.low", "a")
    assert circles(graph_of(MADE_UP | {"p.low.b": source})) == [["p.low.a", "p.low.b"]]


@pytest.mark.parametrize(
    "source", ["from ..high import c", "from ..high.c import Thing", "def f(): from ..high import c"]
)
def test_relative_imports_are_found(source):
    assert upward(graph_of(MADE_UP | {"p.low.b": source}), MADE_UP_LAYER) == ["p.low.b -> p.high.c"]
    inner = graph_of(MADE_UP | {"p.low.b": "from .a import f"})
    assert circles(inner) == [["p.low.a", "p.low.b"]]


def test_circles_through_a_package_and_of_three_modules_are_found():
    own = graph_of(MADE_UP | {"p.low.b": "from p.low import f"})
    assert circles(own) == [["p.low", "p.low.a", "p.low.b"]]
    assert circles({"p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": {"p.a"}, "p.d": {"p.a"}}) == [["p.a", "p.b", "p.c"]]


def test_public_names_count_as_their_home():
    low = MADE_UP | {"p.low.b": "from p import Thing"}
    assert upward(graph_of(low, {"p.Thing": "p.high"}), MADE_UP_LAYER) == ["p.low.b -> p.high"]
    assert upward(graph_of(low), MADE_UP_LAYER) == ["p.low.b -> p"]


def test_parts_of_one_layer_do_not_import_each_other():
    assert upward({"p.a.x": {"p.b.y"}, "p.b.y": set()}, {"a": 0, "b": 0}) == ["p.a.x -> p.b.y"]
