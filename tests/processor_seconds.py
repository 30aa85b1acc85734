"""Seconds of a processor of each test and file, with the processes that it waits for.

``PYTHONPATH=tests pytest -p processor_seconds tests/cli`` prints the largest; in one process, without ``-n``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

SECONDS = Counter[str]()
N_PRINTED = 40


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        SECONDS[item.nodeid] = sum(os.times()[:4]) - before


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    files = Counter[str]()
    for name, seconds in SECONDS.items():
        files[name.partition("::")[0]] += seconds
    for found in (files, SECONDS):
        terminalreporter.section(f"seconds of a processor: {sum(found.values()):.0f}")
        for name, seconds in found.most_common(N_PRINTED):
            terminalreporter.write_line(f"{seconds:7.1f} {name}")
