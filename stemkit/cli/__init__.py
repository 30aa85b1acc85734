"""The ``stemkit`` command: one module per verb, each with ``add_to(subparsers)`` and ``run(arguments)``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Sequence

from stemkit._version import __version__
from stemkit.cli import benchmark, calibrate, demo, detect, enhance, info, straighten, synthesize, train
from stemkit.cli.common import with_option_names

__all__ = ["main"]

VERBS = (enhance, detect, calibrate, straighten, info, synthesize, train, benchmark, demo)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 if a file failed, 130 if interrupted (2: invalid arguments)."""
    parser = argparse.ArgumentParser(
        prog="stemkit", description="Calibrate, enhance and measure atomic-resolution STEM images."
    )
    parser.add_argument("--version", action="version", version=f"stemkit {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_to(subparsers)
    arguments = parser.parse_args(argv)
    with warnings.catch_warnings(), _one_blas_thread():
        warnings.showwarning = _show_warning
        try:
            return int(arguments.run(arguments))
        except KeyboardInterrupt:
            print("stemkit: interrupted", file=sys.stderr)
            return 130
        except (OSError, ValueError, ImportError) as error:
            print(f"stemkit: {with_option_names(error)}", file=sys.stderr)
            return 1


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
    print(f"stemkit: note: {message}", file=sys.stderr)
