"""Records of finished results, by which a command that is repeated skips what it has finished.

A folder of results contains a hidden folder with one JSON file per input file and command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from stemkit._version import __version__
from stemkit.atomic import write_text

__all__ = ["Record"]

#: Folder of the records, in a folder of results.
FOLDER = ".stemkit"
#: Arguments that do not change the results of a file.
_NEUTRAL = frozenset(
    {
        "run",
        "paths",
        "output",
        "overwrite",
        "recursive",
        "merge",
        "json",
        "debug",
        "minutes",
        "judged",
        "workers",
        "scheduler",
        "verbose",
        "quiet",
    }
)


class Record:
    """The results of a command for one file, or for several together: how they are made and which of them are finished.

    Parameters
    ----------
    folder : Path
        Folder of the results.
    name : str
        Name of the record, unique to the input file and the command.
    sources : sequence of Path
        Input files.
    arguments : Namespace
        Arguments of the command.
    """

    def __init__(self, folder: Path, name: str, sources: Sequence[Path], arguments: argparse.Namespace):
        self.folder = folder
        self.path = folder / FOLDER / f"{name}.json"
        self.made_with = {
            "stemkit": __version__,
            "code": _newest_source(),
            "inputs": [[os.fsencode(os.path.realpath(path)).hex(), *_state(path)] for path in sources],
            "parameters": {
                key: _described(value) for key, value in sorted(vars(arguments).items()) if key not in _NEUTRAL
            },
        }
        self.outputs = self._read()

    def finished(self) -> list[Path]:
        """Results that the same command has finished and that have not changed since; empty unless all are."""
        paths = [self.folder / name for name in self.outputs]
        complete = all(self._is_own(path) and self.outputs[path.name] is not None for path in paths)
        return paths if complete else []

    def may_replace(self, path: Path) -> bool:
        """Whether the same command has written or begun to write this file."""
        return path.name in self.outputs and self._is_own(path)

    def begin(self, paths: Iterable[Path]) -> None:
        """Record that these files will be written; those of others that exist must not become this command's."""
        self.outputs = {path.name: self.outputs.get(path.name, []) if path.exists() else None for path in paths}
        self._write()

    def finish(self) -> None:
        """Record the files that were written, or nothing if there is none."""
        self.outputs = {name: list(_state(self.folder / name)) for name in self._written()}
        self._write()

    def abandon(self) -> None:
        """Record which files a failed run has written: another run may replace them."""
        self.outputs = {name: self.outputs[name] for name in self._written() if self.outputs[name] != []}
        self._write()

    def _written(self) -> list[str]:
        return [name for name in self.outputs if (self.folder / name).exists()]

    def _is_own(self, path: Path) -> bool:
        state = self.outputs[path.name]
        return state is None or (path.exists() and list(_state(path)) == state)

    def _read(self) -> dict[str, list[int] | None]:
        """Outputs of an earlier run with the same parameters, version and input."""
        try:
            found = json.loads(self.path.read_text())
            same = found["made_with"] == self.made_with
            return dict(found["outputs"]) if same else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def _write(self) -> None:
        # without a record the results are as good, they are only not recognised
        with contextlib.suppress(OSError):
            if not self.outputs:
                self.path.unlink(missing_ok=True)
                self.path.parent.rmdir()
                return
            self.path.parent.mkdir(exist_ok=True)
            write_text(self.path, json.dumps({"made_with": self.made_with, "outputs": self.outputs}))


def _described(value: Any) -> Any:
    """A parameter as JSON; of a file also its size and time of change."""
    if isinstance(value, Path) or (isinstance(value, str) and value.endswith((".safetensors", ".pth"))):
        return [str(value), *_state(Path(value))]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _state(path: Path) -> tuple[int, ...]:
    """Size and time of change of a file, empty if there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_size, status.st_mtime_ns)


@cache
def _newest_source() -> int:
    """Time of the newest change of the package's own files, ns: results of edited code are not those of the version."""
    package = Path(__file__).parents[1]
    return max(path.stat().st_mtime_ns for path in package.rglob("*.py"))
