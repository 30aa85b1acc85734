"""Results of many blocks: a command that is interrupted, or killed, resumes after the last finished block."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stemkit.atomic import is_running, named_error, put_in_place, remove, restore, write_text

__all__ = ["Unfinished", "unfinished_result"]

#: Entries of a manifest about how the blocks were made, in the words of messages.
_WORDS = {"stemkit": "version of stemkit", "code": "code of stemkit", "inputs": "input file"}


class Unfinished:
    """A folder of blocks, some of which may be finished.

    Attributes
    ----------
    folder : Path
        Where the blocks are written; it is renamed to the result at the end.
    finished : set of int
        Numbers of the finished blocks.
    is_new : bool
        Whether no earlier run of the command has finished a block of it.
    """

    def __init__(self, target: Path):
        self.target, self.place = target, target.parent / f".{target.name}.unfinished"
        self.folder = self.place / target.name
        self._manifest, self._finished = self.place / "manifest.json", self.place / "finished"
        self.finished = set[int]()
        self.is_new = True

    def open(self, made_with: Mapping[str, Any], overwrite: bool) -> None:
        """Resume what the same command has begun, or begin.

        Raises
        ------
        FileExistsError
            If another version, other parameters or another input have made the finished blocks, or if a process that is
            running is making them.
        """
        known = self._read()
        if known is not None:
            pid, before = known
            if pid != os.getpid() and is_running(pid):
                raise FileExistsError(f"process {pid} is writing {self.folder.name}: wait for it to end")
            if before == dict(made_with):
                self._resume(target_may_be_complete=not overwrite)
            elif not overwrite:
                raise FileExistsError(
                    f"{self.place} has finished blocks of another run ({_difference(before, made_with)}): repeat that "
                    "command to complete them, or pass overwrite=True to begin again"
                )
        if self.is_new:
            self.remove()
            self.place.mkdir()
        write_text(self._manifest, json.dumps({"pid": os.getpid(), "made_with": made_with}))

    def mark(self, block: int) -> None:
        """Record that a block is finished."""
        with self._finished.open("a") as file:
            file.write(f"{block}\n")
        self.finished.add(block)

    def complete(self) -> None:
        """Move the result to its target, unless a run that was killed at its end has moved it already."""
        if self.folder.exists():
            put_in_place(self.folder, self.target)
        else:
            restore(self.target)

    def close(self) -> None:
        """Remove the folder if it has no finished block."""
        if not self.finished:
            self.remove()

    def remove(self) -> None:
        """Remove all files, the manifest first: blocks that remain after a kill are not resumed without it."""
        remove(self._manifest)
        remove(self.place)

    def _resume(self, target_may_be_complete: bool) -> None:
        """Keep the finished blocks, but not the incomplete folder that a kill before the first block may have left."""
        finished = self._read_finished()
        in_place = target_may_be_complete and self.target.exists()
        if finished and (self.folder.exists() or in_place):
            self.finished, self.is_new = finished, False

    def _read(self) -> tuple[int, dict[str, Any]] | None:
        try:
            found = json.loads(self._manifest.read_text())
            return int(found["pid"]), dict(found["made_with"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _read_finished(self) -> set[int]:
        """Numbers of the finished blocks; the last line may be incomplete."""
        try:
            text = self._finished.read_text()
        except OSError:
            return set()
        *lines, incomplete = text.split("\n")
        if incomplete:
            write_text(self._finished, "".join(f"{line}\n" for line in lines))
        return {int(line) for line in lines}


@contextmanager
def unfinished_result(
    target: Path, made_with: Mapping[str, Any], overwrite: bool, completed: Callable[[], object] = lambda: None
) -> Iterator[Unfinished]:
    """Context in which blocks are written; at its end the result is put in its place, and after an error it is kept.

    ``completed`` is called with the result in its place and the manifest still there: it records that the result is
    finished, so that a kill at any moment leaves one of the two.

    Raises
    ------
    OSError
        If the disk is full: the message names the result.
    """
    unfinished = Unfinished(target)
    unfinished.open(json.loads(json.dumps(made_with)), overwrite)
    try:
        yield unfinished
        unfinished.complete()
        completed()
        unfinished.remove()
    except BaseException as error:
        unfinished.close()
        if isinstance(error, OSError) and (named := named_error(error, target, unfinished.folder)) is not None:
            raise named from error
        raise


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    parts = [word for key, word in _WORDS.items() if before.get(key) != now.get(key)]
    options, given = before.get("parameters") or {}, now.get("parameters") or {}
    parts += [f"--{k.replace('_', '-')} {options.get(k)}" for k in sorted(options) if options.get(k) != given.get(k)]
    return "other " + ", ".join(parts) if parts else "other parameters"
