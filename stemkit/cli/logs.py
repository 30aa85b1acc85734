"""The log of a command: versions, parameters, the time of each step, and messages."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stemkit._version import __version__
from stemkit.cli.records import FOLDER

__all__ = ["add_log_arguments", "logged"]

#: Packages whose versions are logged.
PACKAGES = ("numpy", "scipy", "torch", "numba", "scikit-learn", "xarray", "dask", "distributed", "zarr")
#: Form of the lines of a log.
FORM = "%(asctime)s %(process)d %(levelname)s %(message)s"


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for how much is printed."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-v", "--verbose", action="store_true", help="print the time of each step")
    group.add_argument("-q", "--quiet", action="store_true", help="print results and errors only")


@contextlib.contextmanager
def logged(arguments: argparse.Namespace) -> Iterator[None]:
    """Log the command to ``.stemkit/VERB.log`` in the folder of its results, and to stderr with ``--verbose``.

    The folder of the log is made with the first record of a result; a command without results has no log.
    """
    logger = logging.getLogger("stemkit")
    level, propagates = logger.level, logger.propagate
    # without any handler, logging would print warnings itself
    handlers = [logging.NullHandler(), *_handlers(arguments)]
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORM if isinstance(handler, _LogFile) else "%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        _log_start(logger, arguments)
        yield
        logger.info("ended")
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
        logger.propagate = propagates


class _LogFile(logging.FileHandler):
    """A file that is opened once its folder exists; a full disk must not end the command."""

    def __init__(self, path: Path):
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self._before: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream is None and not os.path.isdir(os.path.dirname(self.baseFilename)):
            self._before.append(record)
            return
        for earlier in self._before:
            super().emit(earlier)
        self._before = []
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        del record


def _handlers(arguments: argparse.Namespace) -> Iterator[logging.Handler]:
    output = getattr(arguments, "output", None)
    if output is not None and "run" in arguments:
        from stemkit.cli.batch import result_folder

        verb = arguments.run.__module__.rpartition(".")[2]
        yield _LogFile(result_folder(arguments) / FOLDER / f"{verb}.log")
    if getattr(arguments, "verbose", False):
        yield logging.StreamHandler(sys.stderr)


def _log_start(logger: logging.Logger, arguments: argparse.Namespace) -> None:
    logger.info("stemkit %s: %s", __version__, shlex.join(sys.argv[1:]))
    logger.info("Python %s on %s, %s", platform.python_version(), platform.platform(), ", ".join(_versions()))
    parameters = {k: v for k, v in sorted(vars(arguments).items()) if k != "run"}
    logger.info("parameters: %s", ", ".join(f"{k}={v}" for k, v in parameters.items()))


def _versions() -> Iterator[str]:
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"
