"""Files around the package: links of the documentation, imports of the benchmarks and examples, dependencies of the
recipe and of the oldest constraints.
"""

import ast
import importlib
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKS = runpy.run_path(str(ROOT / "docs" / "links.py"))


def test_the_links_of_the_repository():
    files = LINKS["texts"]()
    assert {Path("README.md"), Path("docs/index.rst"), Path("stemkit/metrics.py")} <= set(files)
    assert [*LINKS["malformed"](LINKS["addresses"](files)), *LINKS["internal"](files)] == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("docs/a.rst", "See :doc:`mesuring`.", "the page mesuring does not exist"),
        ("docs/api/a.rst", "See :doc:`the glossary <../glosary>`.", "the page ../glosary does not exist"),
        ("examples/a.py", "# See :doc:`plot_first_step`.", "the page plot_first_step does not exist"),
        ("docs/a.rst", "See :ref:`right-angels`.", "the label right-angels is not defined"),
        ("docs/a.rst", ".. image:: images/none.png", "images/none.png does not exist"),
        ("README.md", "See [it](docs/none.png).", "docs/none.png does not exist"),
        ("README.md", "## A `name`, twice\nSee [it](#a-name).", "there is no such heading"),
        ("stemkit/a.py", "# The table is in tests/none.csv.", "tests/none.csv does not exist"),
    ],
)
def test_broken_internal_links_are_found(name, text, problem):
    assert [problem in found for found in LINKS["internal"]({Path(name): text})] == [True]


def test_existing_internal_links_are_accepted():
    texts = {
        "docs/a.rst": ".. _here:\n\n:doc:`measuring`, :doc:`/gallery/plot_series`, :doc:`a <glossary>`, :ref:`here`",
        "examples/b.py": "# :doc:`plot_series` and :doc:`../measuring`",
        "README.md": "## A `name`, twice\n[it](#a-name-twice), [that](docs/measuring.rst), docs/measuring.rst",
    }
    assert list(LINKS["internal"]({Path(name): text for name, text in texts.items()})) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http://example.org/a", "is not an https address"),
        ("https://doi.org/11.1016/j.jsb", "is not a DOI"),
        ("(doi:10.1016).", "is not a DOI"),
        ("https://doi.org/10.1000/ABC and doi:10.1000/abc", "in several spellings"),
    ],
)
def test_malformed_addresses_are_found(text, problem):
    found = LINKS["addresses"]({Path("a.rst"): text})
    assert [problem in one for one in LINKS["malformed"](found)] == [True]


def test_addresses_end_before_the_punctuation():
    text = "(see https://doi.org/10.1016/0304-3991(91)90117-O), `a <https://a.org/b>`_, doi:10.1000/182."
    assert list(LINKS["addresses"]({Path("a.rst"): text})) == [
        "https://a.org/b",
        "https://doi.org/10.1000/182",
        "https://doi.org/10.1016/0304-3991(91)90117-O",
    ]


def test_recipe_and_oldest_constraints_agree_with_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert runpy.run_path("tests/check_packages.py")["requirements"]() == []
    assert runpy.run_path("recipe/release_notes.py")["problems"](_version()) == []


def _version():
    import stemkit

    return stemkit.__version__


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "docs"])
def test_names_that_are_imported_from_the_package_exist(folder):
    """Scripts are not run by the suite, and modules are renamed."""
    imported = [
        (path.name, node.module, name.name)
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "stemkit"
        for name in node.names
    ]
    assert imported
    missing = []
    for script, module, name in imported:
        try:
            found = hasattr(importlib.import_module(module), name) or importlib.import_module(f"{module}.{name}")
        except ImportError:
            found = False
        if not found:
            missing.append(f"{script}: {module}.{name}")
    assert missing == []
