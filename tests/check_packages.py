"""Contents of a wheel and a source distribution: ``python tests/check_packages.py WHEEL SDIST`` (``nox -s build``)."""

from __future__ import annotations

import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

#: Files that the packages must contain, besides the modules.
NEEDED = (
    "stemkit/py.typed",
    "stemkit/__init__.pyi",
    "stemkit/denoising/shipped/sfin-general.safetensors",
    "stemkit/denoising/shipped/sfin-general.md",
    "stemkit/benchmark/simulated/gold_110.npz",
    "stemkit/report/templates/page.html.jinja",
    "stemkit/report/templates/page.js",
    "stemkit/report/templates/style.css",
    "stemkit/report/templates/unpack.js",
)
#: Largest size of a package, MB (chosen: the weights and the simulated images are most of it).
LARGEST = {".whl": 8.0, ".gz": 12.0}
#: Files that the source distribution must contain, so that its tests, its documentation and the packages of others can
#: be built from it.
SOURCES = (
    "noxfile.py",
    "constraints.txt",
    "constraints-oldest.txt",
    "recipe/recipe.yaml",
    "SECURITY.md",
    "CITATION.cff",
)
#: Names of packages on conda-forge that differ from those on PyPI.
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "lazy-loader": "lazy_loader"}


def names(path: Path) -> list[str]:
    """Names of the files in a package, from the package's folder on."""
    if path.suffix == ".whl":
        return zipfile.ZipFile(path).namelist()
    return [name.partition("/")[2] for name in tarfile.open(path).getnames()]


def problems(path: Path) -> list[str]:
    """What is wrong with a package."""
    inside = names(path)
    modules = [str(p) for p in Path("stemkit").rglob("*.py")]
    found = [f"lacks {name}" for name in (*NEEDED, *modules) if name not in inside]
    found += [f"contains {name}" for name in inside if "__pycache__" in name or name.endswith((".nbi", ".nbc"))]
    if path.suffix == ".gz":
        found += [f"lacks {name}" for name in SOURCES if name not in inside]
    if path.suffix == ".whl":
        found += [f"contains {name}" for name in inside if not name.startswith("stemkit")]
    size = path.stat().st_size / 1e6
    return found + ([f"has {size:.1f} MB"] if size > LARGEST[path.suffix] else [])


def requirements() -> list[str]:
    """Differences between the dependencies of pyproject.toml, of the conda recipe and of the oldest constraints."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        one
        for name in ("formats", "zarr", "dask", "crystals", "exports", "report")
        for one in project["optional-dependencies"][name]
    ]
    recipe = Path("recipe/recipe.yaml").read_text(encoding="utf-8").partition("\n  run:\n")[2].partition("\n\n")[0]
    run = dict(re.findall(r"- (\S+) >=(\S+)", recipe))
    oldest = dict(re.findall(r"^([\w.-]+)==(\S+)", Path("constraints-oldest.txt").read_text(encoding="utf-8"), re.M))
    known = {CONDA.get(name, name) for name in (text.partition(">=")[0] for text in project["dependencies"])}
    found = [f"recipe/recipe.yaml needs {name}, pyproject.toml does not" for name in run.keys() - {"python", *known}]
    if f">={run.get('python')}" != project["requires-python"]:
        found.append(
            f"recipe/recipe.yaml has python >={run.get('python')}, pyproject.toml {project['requires-python']}"
        )
    for text in project["dependencies"]:
        name, _, least = text.partition(">=")
        if run.get(CONDA.get(name, name)) != least:
            found.append(f"recipe/recipe.yaml has {name} >={run.get(CONDA.get(name, name))}, pyproject.toml {least}")
    for text in [*project["dependencies"], *extras]:
        name, _, least = re.sub(r"\[.*?\]", "", text).partition(">=")
        # of torch, old builds without CUDA are not on PyPI
        if name != "torch" and not f"{oldest.get(name)}.".startswith(f"{least}."):
            found.append(f"constraints-oldest.txt has {name} {oldest.get(name)}, pyproject.toml {least}")
    return found


def main() -> int:
    paths = [Path(name) for name in sys.argv[1:]]
    found = requirements() + [f"{path.name} {problem}" for path in paths for problem in problems(path)]
    sys.stdout.write("\n".join([*found, *(f"{p.name}: {p.stat().st_size / 1e6:.1f} MB" for p in paths)]) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
