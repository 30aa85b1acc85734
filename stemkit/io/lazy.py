"""Pixels that dask reads when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemkit.io.file_dataset import FileDataset, Parts, native

__all__ = ["lazy_pixels", "require_dask"]


def lazy_pixels(found: FileDataset, guarded: Callable[[Callable[[], Any]], Any]) -> Any:
    """The pixels of a dataset as a dask array, with blocks of whole images.

    Parameters
    ----------
    found : FileDataset
        A format that can't read some images of a stack without the others is read now.
    guarded : callable
        Calls a function without arguments that reads, and adds the path to its errors. It is pickled where dask
        computes in other processes.
    """
    import dask.array as da
    from dask.delayed import delayed

    shape, dtype = found.values.shape, native(np.empty(0, found.values.dtype)).dtype
    if len(shape) == 2 and found.fetch is not None:
        return da.from_delayed(delayed(_whole)(found.fetch, guarded), shape, dtype)
    if found.parts is None:
        return da.from_array(guarded(found.pixels), chunks=(1, -1, -1) if len(shape) == 3 else -1)
    parts: Parts = guarded(found.parts)
    blocks = [min(parts.block, shape[0] - start) for start in range(0, shape[0], parts.block)]
    return da.map_blocks(
        _part,
        read=parts.read,
        guarded=guarded,
        chunks=(tuple(blocks), *((n,) for n in shape[1:])),
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
    )


def require_dask(path: Path) -> None:
    """Raise an ImportError if dask is not installed."""
    try:
        import dask.array  # noqa: F401
    except ImportError:
        raise ImportError(
            f"can't read {path} with lazy=True: it needs dask, install it with pip install 'stemkit[dask]'"
        ) from None


def _whole(fetch: Callable[[], NDArray], guarded: Callable[[Callable[[], NDArray]], NDArray]) -> NDArray:
    return np.ascontiguousarray(native(guarded(fetch)))


def _part(
    read: Callable[[int, int], NDArray],
    guarded: Callable[[Callable[[], NDArray]], NDArray],
    block_info: Any = None,
) -> NDArray:
    start, stop = block_info[None]["array-location"][0]
    return np.ascontiguousarray(native(guarded(lambda: read(start, stop))))
