"""Work in several processes: on this computer by joblib, on a cluster by dask.distributed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from stemkit.cli.interruption import end_with
from stemkit.cli.parsers import at_least

__all__ = ["add_worker_arguments", "has_workers", "in_workers", "without_workers"]

#: What is known of a worker that has ended.
_ENDED = (
    "a worker has ended before its work: it was killed, perhaps by a system without free memory. Repeat the command to "
    "continue after what is finished, and if workers end again"
)

Item = TypeVar("Item")
Result = TypeVar("Result")


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the number of processes and for a cluster."""
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--workers",
        type=at_least(1),
        default=1,
        metavar="N",
        help="process this many files, or images of a stack, at a time, each in a process of one thread (default: 1)",
    )
    group.add_argument(
        "--scheduler", metavar="ADDRESS", help="use the workers of this dask scheduler, such as tcp://node1:8786"
    )


def has_workers(arguments: argparse.Namespace) -> bool:
    """Whether the arguments contain ``--workers`` above 1 or ``--scheduler``."""
    return getattr(arguments, "workers", 1) > 1 or getattr(arguments, "scheduler", None) is not None


def without_workers(arguments: argparse.Namespace) -> argparse.Namespace:
    """The arguments of the command within a worker, which starts no workers itself."""
    return argparse.Namespace(**{**vars(arguments), "workers": 1, "scheduler": None})


def in_workers(
    work: Callable[[Item], Result], items: Sequence[Item], arguments: argparse.Namespace, *, ordered: bool
) -> Iterator[Result]:
    """Results of ``work`` for each item, in the order of the items or in that in which they are finished.

    Without ``--workers`` and ``--scheduler`` they are computed in this process.

    Raises
    ------
    ImportError
        If ``--scheduler`` is given and distributed is not installed.
    OSError
        If the scheduler does not answer, or if a worker has ended.
    """
    if not items:
        return iter(())
    if not has_workers(arguments):
        return map(work, items)
    if arguments.scheduler is not None:
        return _on_cluster(work, items, arguments.scheduler, ordered)
    return _in_processes(work, items, arguments.workers, ordered)


def _in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], n_workers: int, ordered: bool
) -> Iterator[Result]:
    import joblib

    # an interruption leaves shared memory to joblib's tracker, which removes it and would say so
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    # from its start on: a worker that has received a part of its work only would wait for the rest for ever
    ends = {"initializer": end_with, "initargs": (os.getpid(),)}
    with joblib.parallel_config(backend="loky", n_jobs=min(n_workers, len(items)), inner_max_num_threads=1, **ends):
        parallel = joblib.Parallel(batch_size=1, return_as="generator" if ordered else "generator_unordered")
        try:
            yield from parallel(joblib.delayed(_call)(work, item) for item in items)
        except BrokenProcessPool as error:
            raise OSError(f"{_ENDED}: use fewer --workers") from error


def _on_cluster(work: Callable[[Item], Result], items: Sequence[Item], address: str, ordered: bool) -> Iterator[Result]:
    try:
        import distributed
    except ImportError:
        raise ImportError("--scheduler needs dask.distributed: install it with pip install 'stemkit[dask]'") from None
    with distributed.Client(address, set_as_default=False) as client:
        # a result of its own, so that each worker receives the work, with the weights of a network in it, once; unlike
        # scattered data it is made again if the worker that holds it is lost
        sent: Any = client.submit(_itself, work, pure=False)
        sent.exception()  # waits: the scheduler may unpack the smaller tasks before this one, and cancel them
        futures = [client.submit(_call, sent, item, pure=False) for item in items]
        try:
            for future in futures if ordered else distributed.as_completed(futures, loop=client.loop):
                yield future.result()
        except distributed.KilledWorker as error:
            raise OSError(f"{_ENDED}: give the workers of the cluster more memory") from error


def _call(work: Callable[[Item], Result], item: Item) -> Result:
    """Call: dask replaces a result by its value in the arguments of a task only."""
    return work(item)


def _itself(work: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """The work as a result of a task."""
    return work
