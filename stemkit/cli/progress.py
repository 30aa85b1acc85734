"""Progress of a command on stderr: a bar on a terminal, else a line for each step that takes long."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

__all__ = ["Messages", "OutputError", "Progress", "printing"]

#: Steps and their times, messages, and the versions and parameters of a command.
log = logging.getLogger("stemkit.cli")

#: A step that takes longer is announced where stderr is not a terminal, s (chosen).
MAX_QUIET_TIME = 2.0
#: Interval of the lines about one step where stderr is not a terminal, s (chosen).
REMINDER_INTERVAL = 60.0
#: Interval at which the bar is redrawn and the time of a step is checked, s (chosen).
TICK_INTERVAL = 0.5
#: Columns and rows of a terminal that does not state its size (chosen).
DEFAULT_TERMINAL_SIZE = (80, 24)


class OutputError(OSError):
    """Results can't be printed."""


@contextmanager
def printing() -> Iterator[None]:
    """Raise errors of stdout, other than a closed pipe, as :class:`OutputError`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"can't print results: {error.strerror or error}") from error


class Progress:
    """Progress over a number of items, each of which takes several steps.

    Parameters
    ----------
    total : int
        Number of items.
    quiet : bool
        Print results and errors only.

    Notes
    -----
    Results are printed with :meth:`say` and messages with :meth:`note`, which do not interfere with the bar.
    """

    def __init__(self, total: int = 1, quiet: bool = False):
        self.total, self.quiet = total, quiet
        self._done = 0
        self._text = self._parts = ""
        self._since = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._printed: float | None = None
        self._bar: Any = _bar(total) if sys.stderr.isatty() and not quiet else None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._log_step()
        if self._bar is not None:
            self._bar.close()

    def step(self, text: str) -> None:
        """Begin a step."""
        self._log_step()
        self._text, self._since, self._printed = text, time.monotonic(), None
        self._parts, self._first = "", None
        if self._bar is not None:
            self._bar.set_description_str(text)

    def count(self, done: int, total: int) -> None:
        """Show how many parts of the step are done, and how long the others will take."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        since, before = self._first
        left = f", {_duration((now - since) / (done - before) * (total - done))} left" if done > before else ""
        self._parts = f" {done} of {total}{left}"
        if self._bar is not None:
            self._bar.set_description_str(self._text + self._parts)

    def advance(self) -> None:
        """Count an item as done."""
        self._log_step()
        self._text = ""
        self._done += 1
        if self._bar is not None:
            self._bar.update()

    def say(self, text: str) -> None:
        """Print a result to stdout.

        Raises
        ------
        BrokenPipeError
            If the reader of the output has ended.
        OutputError
            If the output can't be written for another reason, such as a full disk.
        """
        with printing():
            self._print(text, sys.stdout)

    def note(self, text: str) -> None:
        """Print a message to stderr."""
        log.warning(text.removeprefix("stemkit: "))
        if not (self.quiet and text.startswith("stemkit: note: ")):
            self._print(text, sys.stderr)

    def _log_step(self) -> None:
        if self._text:
            log.info("%s: %.2f s", self._text, time.monotonic() - self._since)

    def _print(self, text: str, file: Any) -> None:
        if self._bar is None:
            print(text, file=file)
        else:
            self._bar.write(text, file=file)
        file.flush()  # an error of the output, such as a closed pipe, belongs to this result

    def _watch(self) -> None:
        while not self._ended.wait(TICK_INTERVAL):
            if self._bar is not None:
                self._bar.refresh()
            else:
                self._remind(time.monotonic())

    def _remind(self, now: float) -> None:
        last = self._since + MAX_QUIET_TIME if self._printed is None else self._printed + REMINDER_INTERVAL
        if not self._text or now < last or self.quiet:
            return
        which = f"{self._done + 1}/{self.total} " if self.total > 1 else ""
        taken = "" if self._printed is None else f" ({now - self._since:.0f} s)"
        self._printed = now
        print(f"stemkit: {which}{self._text}{self._parts}{taken}", file=sys.stderr, flush=True)


class Messages:
    """Messages of a worker, for the process that prints them: it has the methods of :class:`Progress`."""

    def __init__(self) -> None:
        self._said: list[tuple[str, str]] = []
        self._text, self._since = "", time.monotonic()

    def step(self, text: str) -> None:
        """Begin a step."""
        self.end()
        self._text, self._since = text, time.monotonic()

    def end(self) -> None:
        """End the last step."""
        if self._text:
            self._said.append(("log", f"{self._text}: {time.monotonic() - self._since:.2f} s"))
        self._text = ""

    def count(self, done: int, total: int) -> None:
        """Parts of a worker's step are not shown."""

    def say(self, text: str) -> None:
        """Keep a result."""
        self._said.append(("say", text))

    def note(self, text: str) -> None:
        """Keep a message."""
        self._said.append(("note", text))

    def repeat(self, progress: Progress) -> None:
        """Print the kept results and messages in their order."""
        self.end()
        for kind, text in self._said:
            if kind == "log":
                log.info(text)
            else:
                getattr(progress, kind)(text)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bar(total: int) -> Any:
    from tqdm import tqdm

    counts = "{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {desc}"
    tqdm.monitor_interval = 0  # the bar is redrawn here
    # a terminal may not state its size, and then tqdm would draw nothing
    width = shutil.get_terminal_size(DEFAULT_TERMINAL_SIZE).columns - 1
    form = counts if total > 1 else "[{elapsed}] {desc}"
    return tqdm(total=total, leave=False, ncols=width, nrows=DEFAULT_TERMINAL_SIZE[1], bar_format=form)
