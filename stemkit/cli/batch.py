"""Processing of the files of a command: names of results, failures of single files, progress."""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stemkit.atomic import check_place
from stemkit.cli.files import RESULT_ENDINGS, is_result_ending, result_names, select_files
from stemkit.cli.messages import about, error_line, with_option_names
from stemkit.cli.progress import Messages, OutputError, Progress
from stemkit.cli.records import Record
from stemkit.cli.workers import has_workers, in_workers, without_workers
from stemkit.tables import counted

__all__ = ["Job", "for_each_file", "result_folder"]

#: Suffixes of results that are folders; ``-o`` may be the name of one.
FOLDERS = (".zarr", ".parquet")


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
    progress: Progress | Messages
    record: Record | None = None
    began: bool = field(default=False, init=False)

    def step(self, text: str) -> None:
        """Begin a step, such as "enhancing"."""
        self.progress.step(f"{self.path.name}: {text}")

    def say(self, text: str) -> None:
        """Print a result."""
        self.progress.say(text)

    def say_finished(self, results: list[Path]) -> None:
        """Print that the same command has made these results before."""
        self.say("\n".join(f"{path}: finished before" for path in results))

    def note(self, text: str) -> None:
        """Print a message to stderr."""
        self.progress.note(text)

    def count(self, done: int, total: int) -> None:
        """Show how many parts of the step are done, and the time left."""
        self.progress.count(done, total)

    def outputs(self, *endings: str) -> list[Path]:
        """Paths of the results with these endings; existing files raise an error before the computation.

        Files that the same command has written may be replaced without ``--overwrite``.
        """
        if unknown := [ending for ending in endings if not is_result_ending(ending)]:
            raise ValueError(
                f"endings must be among {RESULT_ENDINGS}, but are {unknown}: add them in stemkit.cli.files"
            )
        folder = result_folder(self.arguments)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"-o must name a folder, but {folder} is a file: give another path")
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}{ending}" for ending in endings]
        if folder != self.arguments.output:
            paths = [self.arguments.output]
        for path in paths:
            own = self.record is not None and self.record.may_replace(path)
            check_place(path, self.arguments.overwrite or own, folder=path.suffix in FOLDERS)
        if self.record is not None:
            self.record.begin(paths)
            self.began = True
        return paths


def result_folder(arguments: argparse.Namespace) -> Path:
    """Folder of the results: ``-o``, or that of a result which ``-o`` names, such as ``out.zarr``."""
    output: Path = arguments.output
    return output.parent if output.suffix.lower() in FOLDERS else output


def for_each_file(
    arguments: argparse.Namespace,
    work: Callable[[Job], object],
    *,
    result: str | None = None,
    skipped: Callable[[Job, list[Path]], None] | None = None,
    prepare: Callable[[], object] | None = None,
    done: Callable[[Path, Any], object] | None = None,
) -> int:
    """Call ``work`` for each file; report failures and return the exit code.

    Parameters
    ----------
    arguments : Namespace
    work : callable
        Processes a :class:`Job`.
    result : str, optional
        Name of the results of the command, such as ``"columns"``; None for a command that only prints.
    skipped : callable, optional
        Called with the job and its results if the same command has finished them before; they are then not made again.
        None: all results are made.
    prepare : callable, optional
        Called once before the first file that is processed; its errors end the command.
    done : callable, optional
        Called with each file and what ``work`` has returned for it, in the order of the files.
    """
    selection = select_files(arguments.paths, arguments.recursive, getattr(arguments, "series", False))
    names = [_labeled(name, arguments) for name in result_names(selection.files)]
    if result is not None and len(names) > 1 and result_folder(arguments) != arguments.output:
        raise ValueError(
            f"-o must be a folder for the results of {len(names)} files, but is {arguments.output}, the name of one"
        )
    _report_selection(selection.problems, selection.left_out)
    failed = len(selection.problems)
    parallel = len(names) > 1 and has_workers(arguments)
    task = _Task(work, without_workers(arguments) if parallel else arguments, result)
    with Progress(len(selection.files), getattr(arguments, "quiet", False)) as progress:
        jobs = [task.job(path, name, progress) for path, name in zip(selection.files, names, strict=True)]
        finished = [j.record.finished() if skipped is not None and j.record is not None else [] for j in jobs]
        left = [(job.path, job.name) for job, paths in zip(jobs, finished, strict=True) if not paths]
        if left and prepare is not None:
            prepare()
        if parallel:
            progress.step("working in several processes")
        outcomes = in_workers(task.in_worker, left, arguments, ordered=True) if parallel else iter(())
        for job, paths in zip(jobs, finished, strict=True):
            if paths and skipped is not None:
                skipped(job, paths)
            else:
                outcome = next(outcomes) if parallel else task.run(job)
                outcome.messages.repeat(progress)
                failed += not outcome.succeeded
                if outcome.succeeded and done is not None:
                    done(job.path, outcome.value)
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


def _labeled(name: str, arguments: argparse.Namespace) -> str:
    """The name of results with the dataset and the region, if they are given."""
    label = ""
    if arguments.dataset is not None:
        label += "_dataset-" + "".join(c if c.isalnum() or c in "-." else "-" for c in arguments.dataset)[:40]
    if arguments.region is not None:
        rows, columns = arguments.region
        label += f"_y{rows.start}-{rows.stop}_x{columns.start}-{columns.stop}"
    # the results of an image that was cropped before have its label already
    return name if label and label in name else name + label


@dataclass(frozen=True)
class _Outcome:
    """Result of a file: whether it succeeded, what ``work`` returned, and the messages of a worker."""

    succeeded: bool
    value: object
    messages: Messages


@dataclass(frozen=True)
class _Task:
    """The work on a file, in this process or in another one."""

    work: Callable[[Job], object]
    arguments: argparse.Namespace
    result: str | None

    def job(self, path: Path, name: str, progress: Progress | Messages) -> Job:
        record = None
        if self.result is not None:
            folder, output = result_folder(self.arguments), self.arguments.output
            label = f"{name}_{self.result}" if folder == output else output.name
            record = Record(folder, label, [path], self.arguments)
        return Job(path, name, self.arguments, progress, record)

    def in_worker(self, file: tuple[Path, str]) -> _Outcome:
        """Process a file, with messages that the process which prints gets with the outcome."""
        messages = Messages()
        outcome = self.run(self.job(*file, messages))
        return replace(outcome, messages=messages)

    def run(self, job: Job) -> _Outcome:
        values: list[object] = []
        succeeded = _processed(job, lambda job: values.append(self.work(job)))
        return _Outcome(succeeded, values[0] if values else None, Messages())


def _processed(job: Job, work: Callable[[Job], object]) -> bool:
    """Process one file and print its notes; return whether that succeeded."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        failure = _failure(job, work)
    for note in dict.fromkeys(with_option_names(n.message) for n in notes if issubclass(n.category, UserWarning)):
        job.progress.note(f"stemkit: note: {about(job.path, note)}")
    if failure:
        job.progress.note(f"stemkit: {about(job.path, failure)}")
    if job.record is not None and job.began:
        if failure:
            job.record.abandon()
        else:
            job.record.finish()
    return not failure


def _failure(job: Job, work: Callable[[Job], object]) -> str:
    """Process one file; return the description of its failure, which must not stop the others, or an empty text."""
    try:
        job.step("reading")
        work(job)
    except (BrokenPipeError, OutputError):
        raise
    except Exception as error:
        if job.arguments.debug:
            job.progress.note(traceback.format_exc())
        return error_line(error)
    return ""
