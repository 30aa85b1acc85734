"""Processing of the files of a command: names of results, failures of single files, progress."""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stemkit.atomic import check_place
from stemkit.cli.files import RESULT_ENDINGS, is_result_ending, result_names, select_files
from stemkit.cli.messages import about, counted, described, with_option_names
from stemkit.cli.progress import OutputError, Progress
from stemkit.cli.records import Record

__all__ = ["Job", "for_each_file"]


@dataclass
class Job:
    """One input file of a command.

    Attributes
    ----------
    path : Path
    name : str
        Name of its results, without their endings.
    """

    path: Path
    name: str
    arguments: argparse.Namespace
    progress: Progress
    record: Record | None = None
    began: bool = field(default=False, init=False)

    def step(self, text: str) -> None:
        """Begin a step, such as "enhancing"."""
        self.progress.step(f"{self.path.name}: {text}")

    def say(self, text: str) -> None:
        """Print a result."""
        self.progress.say(text)

    def outputs(self, *endings: str) -> list[Path]:
        """Paths of the results with these endings; existing files raise an error before the computation.

        Files that the same command has written may be replaced without ``--overwrite``.
        """
        if unknown := [ending for ending in endings if not is_result_ending(ending)]:
            raise ValueError(
                f"endings must be among {RESULT_ENDINGS}, but are {unknown}: add them in stemkit.cli.files"
            )
        folder = self.arguments.output
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"-o must name a folder, but {folder} is a file: give another path")
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}{ending}" for ending in endings]
        for path in paths:
            own = self.record is not None and self.record.may_replace(path)
            check_place(path, self.arguments.overwrite or own)
        if self.record is not None:
            self.record.begin(paths)
            self.began = True
        return paths


def for_each_file(
    arguments: argparse.Namespace,
    work: Callable[[Job], None],
    *,
    result: str | None = None,
    skipped: Callable[[Job, list[Path]], None] | None = None,
    prepare: Callable[[], object] | None = None,
) -> int:
    """Call ``work`` for each file; report failures and return the exit code.

    Parameters
    ----------
    arguments : Namespace
    work : callable
        Processes a :class:`Job`.
    result : str, optional
        What the results of the command are, such as ``"columns"``; None for a command that only prints.
    skipped : callable, optional
        Called with the job and its results where the same command has finished them before; they are then not made
        again. Without it, everything is.
    prepare : callable, optional
        Called once before the first file that is processed; its errors end the command.
    """
    selection = select_files(arguments.paths, arguments.recursive, getattr(arguments, "series", False))
    names = result_names(selection.files)
    _report_selection(selection.problems, selection.left_out)
    failed = len(selection.problems)
    with Progress(len(selection.files)) as progress:
        for path, name in zip(selection.files, names, strict=True):
            job = Job(path, _labelled(name, arguments), arguments, progress)
            if result is not None:
                job.record = Record(arguments.output, f"{job.name}_{result}", [path], arguments)
            if skipped is not None and job.record is not None and (finished := job.record.finished()):
                skipped(job, finished)
            else:
                if prepare is not None:
                    prepare()
                    prepare = None
                failed += not _succeeds(job, work)
            progress.advance()
    if failed:
        print(f"stemkit: {failed} of {len(selection.files) + len(selection.problems)} failed", file=sys.stderr)
    return 1 if failed else 0


def _report_selection(problems: tuple[str, ...], left_out: tuple[Path, ...]) -> None:
    for problem in problems:
        print(f"stemkit: {problem}", file=sys.stderr)
    if left_out:
        print(
            f"stemkit: note: {counted(len(left_out), 'file')} in the folders have names of results of the others and "
            f"are left out, such as {left_out[0]}: name them to use them",
            file=sys.stderr,
        )


def _labelled(name: str, arguments: argparse.Namespace) -> str:
    """The name of results with the dataset and the region, if they are given."""
    label = ""
    if arguments.dataset is not None:
        label += "_dataset-" + "".join(c if c.isalnum() or c in "-." else "-" for c in arguments.dataset)[:40]
    if arguments.region is not None:
        rows, columns = arguments.region
        label += f"_y{rows.start}-{rows.stop}_x{columns.start}-{columns.stop}"
    # the results of an image that was cropped before have its label already
    return name if label and label in name else name + label


def _succeeds(job: Job, work: Callable[[Job], None]) -> bool:
    """Process one file and print its notes; whether that succeeded."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        failure = _failure(job, work)
    for note in dict.fromkeys(with_option_names(n.message) for n in notes if issubclass(n.category, UserWarning)):
        job.progress.note(f"stemkit: note: {about(job.path, note)}")
    if failure:
        job.progress.note(f"stemkit: {about(job.path, failure)}")
    if job.record is not None and job.began:
        (job.record.abandon if failure else job.record.finish)()
    return not failure


def _failure(job: Job, work: Callable[[Job], None]) -> str:
    """Process one file; the description of its failure, which must not stop the others."""
    try:
        job.step("reading")
        work(job)
    except (BrokenPipeError, OutputError):
        raise
    except Exception as error:
        if job.arguments.debug:
            job.progress.note(traceback.format_exc())
        return described(error)
    return ""
