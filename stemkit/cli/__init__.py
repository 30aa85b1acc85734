"""The ``stemkit`` command: one module per verb, each with ``add_to(subparsers)`` and ``run(arguments)``.

- All commands: ``common`` and ``parsers`` (arguments), ``messages``, ``figures``, ``batch`` (files, with ``files``:
  their names, ``records``: of finished results, ``progress``), ``stacks`` (images of a stack, with ``unfinished``),
  ``workers``, ``interruption``, ``logs``.
- Steps of ``detect``: ``lattices``, ``merging``, ``overlay``, ``suspicion`` (implausible results); of ``enhance``:
  ``assessing``; of ``structure``: ``analyses``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from stemkit._version import __version__
from stemkit.cli import (
    average,
    benchmark,
    calibrate,
    demo,
    detect,
    enhance,
    info,
    report,
    straighten,
    structure,
    synthesize,
    train,
)
from stemkit.cli.interruption import INTERRUPTED, announce, prompt_interruption
from stemkit.cli.logs import add_log_arguments, logged
from stemkit.cli.messages import error_line, with_option_names
from stemkit.cli.progress import OutputError, printing

__all__ = ["command", "main"]

#: Modules of the verbs, in the order of the help.
VERBS = (enhance, detect, structure, report, calibrate, straighten, average, info, synthesize, train, benchmark, demo)
#: Exit code of a command whose output is closed, as shells report it.
PIPE_CLOSED = 128 + 13  # SIGPIPE, which not all systems have


def command() -> None:
    """Run the command and end the process, after an interruption without waiting for anything."""
    with prompt_interruption():
        code = main()
        if code == INTERRUPTED:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. Without arguments, the help is printed.

    Returns
    -------
    int
        0, or 1 if anything failed, 130 if the command was interrupted, 141 if the reader of its output ended before
        it. Invalid arguments end the process with code 2.
    """
    arguments = _parser().parse_args((sys.argv[1:] if argv is None else argv) or ["--help"])
    quiet = _quiet_deletions(arguments.debug)
    with warnings.catch_warnings(), _streams(), _one_blas_thread(), quiet, logged(arguments):
        warnings.showwarning = _show_warning
        code = _run(arguments)
        if code:
            gc.collect()  # deletions that fail are suppressed here, and not at the end of the process
        return code


def _run(arguments: argparse.Namespace) -> int:
    try:
        code = int(arguments.run(arguments))
        with printing():
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        announce()
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return PIPE_CLOSED
    except Exception as error:
        if isinstance(error, OutputError):
            _discard_output()  # what a full disk did not take would be written again at the end of the process
        if arguments.debug:
            traceback.print_exc()
        print(f"stemkit: {error_line(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stemkit",
        description="Calibrate, enhance and measure atomic-resolution STEM images.",
        epilog="To begin: stemkit report image.dm4 -o out, and open out/index.html in a browser. stemkit VERB --help "
        "describes the options of a verb.",
    )
    # the short form widens the column of the verbs, too, so that each has one line
    parser.add_argument("-V", "--version", action="version", version=f"stemkit {__version__}")
    parser.add_argument("--debug", action="store_true", help="print where in the program an error occurred")
    subparsers = parser.add_subparsers(required=True, metavar="VERB", title="verbs")
    for verb in VERBS:
        verb.add_to(subparsers)
    for subparser in subparsers.choices.values():
        add_log_arguments(subparser)
    return parser


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Print the names of files whatever their encoding: on stdout with their own bytes."""
    before = list[tuple[Any, str]]()
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            before.append((stream, stream.errors or "strict"))
            stream.reconfigure(errors=errors)
    try:
        yield
    finally:
        for changed, errors in before:
            with contextlib.suppress(OSError, ValueError):
                changed.reconfigure(errors=errors)


def _discard_output() -> None:
    """Discard the rest of stdout's buffer, so that the end of the process does not write it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _quiet_deletions(debug: bool) -> Iterator[None]:
    """Suppress errors in the deletion of objects, which damaged files cause; the reading itself has failed before."""
    if debug:
        yield
        return
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = before


def _one_blas_thread() -> contextlib.AbstractContextManager:
    """Context of one thread for NumPy's matrix products, unless the user has set the number of threads.

    The matrices are small: the calibration of 463 x 463 px takes 1.4 CPU seconds with one thread, and 2.4 with two on
    two busy cores. The threads of torch are not changed.
    """
    if "OPENBLAS_NUM_THREADS" in os.environ:
        return contextlib.nullcontext()
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: contextlib.AbstractContextManager = threadpool_limits(limits=1, user_api="blas")
    return limits


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:  # type: ignore[no-untyped-def]
    print(f"stemkit: note: {with_option_names(message)}", file=sys.stderr)
