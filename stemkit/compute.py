"""Devices, precision, random seeds and parallel tasks; all code that depends on the kind of device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from stemkit.parameters import check_option

__all__ = [
    "PRECISIONS",
    "autocast",
    "describe_device",
    "inference_dtype",
    "parallel_map",
    "resolve_device",
    "seed_from",
    "seeded",
    "torch_generator",
    "workers",
]

#: Precisions of a network's activations.
PRECISIONS = ("auto", "float32", "bfloat16")

Task = TypeVar("Task")
Result = TypeVar("Result")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device with this name; ``"auto"`` is a CUDA device if one is available, else the CPU.

    Raises
    ------
    ValueError
        If the name is not valid or the device is not available.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        # not mps, which lacks float64 and some FFTs that the networks need
        return torch.device("cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'device must be "auto" or a torch device such as "cpu" or "cuda", but is {device!r}'
        ) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device is {device!r}, but torch finds no CUDA device: use device="auto"')
    return found


def describe_device(device: torch.device) -> str:
    """Name of the device, for model cards and tables."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} thread(s)"


def seed_from(random_state: int | np.random.RandomState | np.random.Generator | None) -> int:
    """A seed for torch from any ``random_state`` of scikit-learn, or from a NumPy generator.

    Raises
    ------
    ValueError
        If ``random_state`` is negative or of another type.
    """
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**62))
    if isinstance(random_state, int | np.integer):
        if random_state < 0:
            raise ValueError(f"random_state must not be negative, but is {random_state!r}")
        return int(random_state)
    if random_state is None:
        return int(np.random.default_rng().integers(2**62))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1)) * 2**31 + int(random_state.randint(2**31 - 1))
    raise ValueError(
        "random_state must be None, an int, a numpy RandomState or a numpy Generator, but is "
        f"{type(random_state).__name__}"
    )


def torch_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A seeded random generator on the device."""
    return torch.Generator(device=device).manual_seed(seed % 2**63)


def autocast(device: torch.device, enabled: bool = True) -> contextlib.AbstractContextManager:
    """Context of mixed precision in bfloat16 if the device has bfloat16 arithmetic, else one without effect."""
    if enabled and _is_fast_in_half(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def inference_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """Data type of a network's activations: with ``"auto"``, bfloat16 if the device has bfloat16 arithmetic.

    Raises
    ------
    ValueError
        If the precision is not one of :data:`PRECISIONS`.
    """
    check_option("precision", precision, PRECISIONS)
    half = _is_fast_in_half(device) if precision == "auto" else precision == "bfloat16"
    return torch.bfloat16 if half else torch.float32


def _is_fast_in_half(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # other CPUs emulate it
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return device.type == "cpu" and any(is_supported() for is_supported in checks if is_supported is not None)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block with torch's global random generators seeded, and restore their state afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed % 2**63)
        yield


@contextlib.contextmanager
def workers(n: int) -> Iterator[Callable[[Callable[[Task], Result], Iterable[Task]], list[Result]]]:
    """Context of a function ``run(work, tasks)`` that runs up to ``n`` tasks in parallel on the CPU.

    It returns the list of results in the order of the tasks.

    The threads of torch are divided among the tasks: small operations gain little from several threads.
    """
    n_threads = torch.get_num_threads()
    if n == 1:
        yield lambda work, tasks: [work(task) for task in tasks]
        return
    share = max(1, n_threads // n)
    try:
        # torch has a number of threads per thread, which new threads inherit
        with ThreadPoolExecutor(min(n, n_threads), initializer=torch.set_num_threads, initargs=(share,)) as pool:
            yield lambda work, tasks: list(pool.map(work, tasks))
    finally:
        torch.set_num_threads(n_threads)


def parallel_map(work: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
    """Run tasks in parallel on the CPU, one thread each, at most the number of torch's threads at a time.

    The results are in the order of the tasks and do not depend on the number of threads.
    """
    with workers(max(2, torch.get_num_threads())) as run:
        return run(work, tasks)
