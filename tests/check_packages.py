"""Contents of a wheel and a source distribution: ``python tests/check_packages.py WHEEL SDIST`` (``nox -s build``)."""

from __future__ import annotations

import sys
import tarfile
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
    "stemkit/report/templates/style.css",
)
#: Largest size of a package, MB (chosen: the weights and the simulated images are most of it).
LARGEST = {".whl": 8.0, ".gz": 12.0}


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
    if path.suffix == ".whl":
        found += [f"contains {name}" for name in inside if not name.startswith("stemkit")]
    size = path.stat().st_size / 1e6
    return found + ([f"has {size:.1f} MB"] if size > LARGEST[path.suffix] else [])


def main() -> int:
    paths = [Path(name) for name in sys.argv[1:]]
    found = [f"{path.name} {problem}" for path in paths for problem in problems(path)]
    sys.stdout.write("\n".join([*found, *(f"{p.name}: {p.stat().st_size / 1e6:.1f} MB" for p in paths)]) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
