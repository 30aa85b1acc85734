"""Read many hostile files: ``python -m tests.hostile.run --count 5000``.

Each block of files is read in a process of its own, so that a crash of a library is counted and the others continue.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.hostile import attempt as trying
from tests.hostile.corpus import by_hand, damaged
from tests.hostile.seeds import write_seeds

#: What a process sends before it reads its first file.
READY = "ready"
#: Files that one process reads.
BLOCK = 250
#: Time after which a process that doesn't return from a library is killed, s.
PATIENCE = 60
#: The same before its first file, while it imports libraries and reads valid files, s.
STARTING = 600


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.run", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="number of damaged files (default: 5000)")
    parser.add_argument("--start", type=int, default=0, help="number of the first (default: 0)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["STEMKIT_PAYLOAD"] = str(folder / "payload")
        results: list[tuple[str, str, str]] = []
        for start in range(arguments.start, arguments.start + arguments.count, BLOCK):
            stop = min(start + BLOCK, arguments.start + arguments.count)
            results += _in_a_process(_read_damaged, folder / str(start), start, stop)
            print(f"{len(results)} files", file=sys.stderr)
        results += _in_a_process(_read_by_hand, folder / "by_hand", 0, 0)
        executed = (folder / "payload").exists()
    return _report(results, executed)


def _report(results: list[tuple[str, str, str]], executed: bool) -> int:
    counts = Counter(outcome for outcome, _, _ in results)
    print(f"{len(results)} files read")
    for outcome in ("image", "refused", "undocumented", "unclear", "hang", "memory", "crash"):
        print(f"  {outcome:<13}{counts[outcome]}")
    print(f"  executed     {int(executed)}")
    bad = [r for r in results if r[0] not in ("image", "refused")]
    for outcome, name, text in bad[:40]:
        print(f"{outcome}: {name}: {text[:300]}")
    return int(bool(bad) or executed)


def _in_a_process(work, folder: Path, start: int, stop: int) -> list[tuple[str, str, str]]:  # type: ignore[no-untyped-def]
    """Results of a block; what a crash of the process left unread is read in a new one."""
    found: list[tuple[str, str, str]] = []
    context = mp.get_context("spawn")
    while True:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(sender, folder, start, stop, len(found)))
        process.start()
        sender.close()
        finished, ready = False, False
        try:
            while True:
                if not receiver.poll(PATIENCE if ready else STARTING):
                    process.kill()
                    break
                item = receiver.recv()
                if item == READY:
                    ready = True
                    continue
                if item is None:
                    finished = True
                    break
                found.append(item)
        except EOFError:
            pass
        process.join()
        if finished:
            return found
        what = "hang" if process.exitcode == -signal.SIGKILL else "crash"
        found.append((what, f"number {len(found)} of block {start}", f"exit code {process.exitcode}"))


def _read_damaged(sender, folder: Path, start: int, stop: int, done: int) -> None:  # type: ignore[no-untyped-def]
    seeds = write_seeds(folder)
    for path in seeds:
        trying.attempt(path)  # libraries are loaded before memory is measured
    sender.send(READY)
    for index in range(start + done, stop):
        name, content, suffix = damaged(seeds, index)
        path = folder / f"hostile{suffix}"
        path.write_bytes(content)
        sender.send(_measured(path, name))
        path.unlink()
    sender.send(None)


def _read_by_hand(sender, folder: Path, start: int, stop: int, done: int) -> None:  # type: ignore[no-untyped-def]
    for path in write_seeds(folder / f"seeds{done}"):
        trying.attempt(path)
    sender.send(READY)
    for i, path in enumerate(by_hand(folder / f"files{done}")):
        if i >= done:
            sender.send(_measured(path, path.name))
    sender.send(None)


def _measured(path: Path, name: str) -> tuple[str, str, str]:
    before = trying.peak_memory()
    result = trying.attempt(path)
    grown = trying.peak_memory() - before
    if grown > trying.MEMORY_LIMIT:
        return "memory", name, f"{grown / 2**20:.0f} MiB"
    return result.outcome, name, result.text


if __name__ == "__main__":
    sys.exit(main())
