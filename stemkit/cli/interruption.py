"""Interruptions (Ctrl-C) end a command at once, also inside long computations; workers end with the command."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

__all__ = ["INTERRUPTED", "announce", "end_with", "prompt_interruption"]

#: Exit code of an interrupted command, as shells report it.
INTERRUPTED = 128 + signal.SIGINT
#: Time in which an interrupted command can tidy up, s (chosen: it must end within a second).
GRACE = 0.3
#: Interval at which a worker checks that the command still runs, s (chosen).
TICK = 0.5

#: Set when the message about an interruption is printed.
_announced = threading.Event()


@contextlib.contextmanager
def prompt_interruption() -> Iterator[None]:
    """End the process soon after SIGINT, whatever it computes.

    Python raises KeyboardInterrupt after the current call of a library, which may take long, and its end waits for
    threads. What is being written then has a temporary name, which the next call removes.
    """
    if os.name == "nt" or threading.current_thread() is not threading.main_thread():
        yield
        return
    _announced.clear()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)  # ends the thread


def _watch(reading: int) -> None:
    while received := os.read(reading, 1):
        if received[0] == signal.SIGINT:
            time.sleep(GRACE)
            with contextlib.suppress(OSError, ValueError):
                announce()
                sys.stdout.flush()
            os._exit(INTERRUPTED)
    os.close(reading)


def announce() -> None:
    """Print once that the command was interrupted."""
    if not _announced.is_set():
        _announced.set()
        print("stemkit: interrupted", file=sys.stderr, flush=True)


def end_with(parent: int) -> None:
    """End this process, a worker, when the process that has started it ends, even if that is killed.

    Parameters
    ----------
    parent : int
        Its number, which the worker can't find out where that process has ended already.
    """
    if os.name == "nt" or any(thread.name == _end_after.__name__ for thread in threading.enumerate()):
        return
    threading.Thread(target=_end_after, args=(parent,), name=_end_after.__name__, daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(TICK)
    os._exit(1)
