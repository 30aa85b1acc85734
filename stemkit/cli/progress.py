"""Progress of a command on stderr: a bar on a terminal, else a line for each step that takes long."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

__all__ = ["OutputError", "Progress", "printing"]

#: A step that takes longer is announced where stderr is not a terminal, s (chosen).
QUIET = 2.0
#: Interval of the lines about one step where stderr is not a terminal, s (chosen).
REMINDER = 60.0
#: Interval at which the bar is redrawn and the time of a step is checked, s (chosen).
TICK = 0.5
#: Columns and rows of a terminal that does not know its size (chosen).
TERMINAL = (80, 24)


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

    Notes
    -----
    Results are printed with :meth:`say` and messages with :meth:`note`, which do not interfere with the bar.
    """

    def __init__(self, total: int = 1):
        self.total = total
        self._done = 0
        self._text = ""
        self._since = time.monotonic()
        self._printed: float | None = None
        self._bar: Any = _bar(total) if sys.stderr.isatty() else None
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
        if self._bar is not None:
            self._bar.close()

    def step(self, text: str) -> None:
        """Begin a step."""
        self._text, self._since, self._printed = text, time.monotonic(), None
        if self._bar is not None:
            self._bar.set_description_str(text)

    def advance(self) -> None:
        """Count an item as done."""
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
        self._print(text, sys.stderr)

    def _print(self, text: str, file: Any) -> None:
        if self._bar is None:
            print(text, file=file)
        else:
            self._bar.write(text, file=file)
        file.flush()  # an error of the output, such as a closed pipe, belongs to this result

    def _watch(self) -> None:
        while not self._ended.wait(TICK):
            if self._bar is not None:
                self._bar.refresh()
            else:
                self._remind(time.monotonic())

    def _remind(self, now: float) -> None:
        last = self._since + QUIET if self._printed is None else self._printed + REMINDER
        if not self._text or now < last:
            return
        which = f"{self._done + 1}/{self.total} " if self.total > 1 else ""
        taken = "" if self._printed is None else f" ({now - self._since:.0f} s)"
        self._printed = now
        print(f"stemkit: {which}{self._text}{taken}", file=sys.stderr, flush=True)


def _bar(total: int) -> Any:
    from tqdm import tqdm

    counts = "{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {desc}"
    tqdm.monitor_interval = 0  # the bar is redrawn here
    # a terminal may not know its size, and then tqdm would draw nothing
    width = shutil.get_terminal_size(TERMINAL).columns - 1
    form = counts if total > 1 else "[{elapsed}] {desc}"
    return tqdm(total=total, leave=False, ncols=width, nrows=TERMINAL[1], bar_format=form)
