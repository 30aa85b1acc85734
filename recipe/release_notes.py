"""Release notes of a version from CHANGELOG.md: ``python recipe/release_notes.py 0.1.0``.

Fails unless the version is that of the package, of CITATION.cff and of the conda recipe, and has a dated section.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Files that contain the version, with the text around it.
PLACES = {
    "stemkit/_version.py": r'__version__ = "([^"]+)"',
    "CITATION.cff": r"^version: (\S+)",
    "recipe/recipe.yaml": r'^  version: "([^"]+)"',
}


def problems(version: str) -> list[str]:
    """Files with another version."""
    found = []
    for name, pattern in PLACES.items():
        match = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        if match is None or match[1] != version:
            found.append(f"{name} has the version {match[1] if match else None}, not {version}")
    return found


def notes(version: str, changelog: str) -> str:
    """The section of a version, without its heading."""
    match = re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if match is None:
        raise ValueError(
            f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD': rename the section Unreleased, and add an "
            "empty one above it"
        )
    return match[1].strip()


def main() -> int:
    """Check the version and print the release notes."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if found := problems(sys.argv[1]):
        sys.exit("\n".join(found))
    try:
        text = notes(sys.argv[1], (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
