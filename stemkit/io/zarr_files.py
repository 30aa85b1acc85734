"""Zarr folders, and those of HyperSpy (ZSPY); the functions have the names of those for HDF5."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemkit.io import ome_zarr
from stemkit.io.attributes import plain
from stemkit.io.checks import FormatError, check_expansion
from stemkit.io.file_dataset import FileDataset, Parts, frame_axis, make_dataset, placeholder, table_reason

__all__ = ["SUFFIXES", "attributes", "dataset", "group", "image_of", "load", "opened", "text_of"]

#: Suffixes of the folders that are read as one file.
SUFFIXES = (".zarr", ".zspy")
#: Files with the metadata of an array, of versions 2 and 3 of the format.
_METADATA = (".zarray", "zarr.json")
#: Codecs that are used; others, such as pickle, could execute code.
_CODECS = frozenset(
    ("blosc", "zstd", "zlib", "gzip", "lz4", "bz2", "lzma", "shuffle", "delta", "bytes", "crc32c", "transpose")
)
#: Largest size of an array's metadata, bytes (chosen).
_MAX_METADATA_BYTES = 2**20


def load(path: Path) -> list[FileDataset]:
    """Load the arrays of a folder that have two or more dimensions, by their path in it.

    Of groups with the metadata of OME-NGFF only the full size is an image, with its pixel size.
    """
    root = opened(path)
    arrays = {name: root[name] for name in _array_names(path) if name in root}
    images = [image for parent in dict.fromkeys(_parents(arrays)) if (image := _multiscale(path, root, parent, arrays))]
    described = {name for image in images for name in image[1]}
    others = [
        image_of(path, array, name=name, refusal=table_reason(array.shape))
        for name, array in arrays.items()
        if array.ndim > 1 and name not in described
    ]
    return [image for image, _ in images] + others


def _parents(names: Iterable[str]) -> list[str]:
    """Paths of the groups that contain these arrays."""
    return ["" if "/" not in name else name.rpartition("/")[0] for name in names]


def _multiscale(path: Path, root: Any, parent: str, arrays: dict[str, Any]) -> tuple[FileDataset, list[str]] | None:
    """The image that a group's metadata describe, and the paths of all arrays that belong to it; None without one."""
    prefix = f"{parent}/" if parent else ""
    inside = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    group = root[parent] if parent else root
    found = ome_zarr.multiscale(attributes(group), {name: tuple(array.shape) for name, array in inside.items()})
    if found is None:
        return None
    names = {name: inside[inner] for name, inner in found.pop("maps").items()}
    levels = [f"{prefix}{level}" for level in found.pop("levels")]
    maps = {name: image_of(path, array) for name, array in names.items()}
    image = image_of(path, inside[found.pop("path")], name=parent, maps=maps, **found)
    return image, [*levels, *(array.path for array in names.values())]


def opened(path: Path) -> Any:
    """The group of the folder, with metadata that were checked."""
    if not path.is_dir():
        raise FormatError("it is a file, but Zarr data are a folder: unpack it first")
    for name in _array_names(path):
        _check_codecs(path / name)
    return ome_zarr.open_group(path, "r")


def group(parent: Any, *names: str) -> Any:
    """The group with this path, None without one."""
    found = parent
    for name in names:
        found = found.get(name)
        if not hasattr(found, "keys"):
            return None
    return found


def dataset(parent: Any, name: str) -> Any:
    """The array of this name, None without one."""
    found = parent.get(name)
    return None if found is None or hasattr(found, "keys") else found


def attributes(item: Any) -> dict[str, Any]:
    """Attributes in plain types."""
    return {str(key): plain(value) for key, value in item.attrs.items()}


def text_of(found: Any, column: int | None = None) -> str:
    """Text of an array of strings: texts in arrays are not read, since their codecs could execute code."""
    del found, column
    return ""


def image_of(path: Path, found: Any, arrange: Callable[[NDArray], NDArray] | None = None, **fields: Any) -> FileDataset:
    """An array whose pixels are read when they are needed; see :func:`stemkit.io.hdf5.image_of`."""
    name, shape, dtype = found.path, tuple(found.shape), np.dtype(found.dtype)
    if dtype.kind not in "fiubc":
        return make_dataset(
            np.empty((0,) * len(shape), np.uint8), **{**fields, "refusal": f"no numbers (dtype {dtype})"}
        )
    shown = placeholder(shape, dtype)

    def fetch() -> NDArray:
        check_expansion(math.prod(shape) * dtype.itemsize, _stored_bytes(path / name))
        values = np.asarray(opened(path)[name][...])
        return values if arrange is None else arrange(values)

    def parts() -> Parts:
        axis = frame_axis(arrange)
        chunks = found.shards or found.chunks

        def read(start: int, stop: int) -> NDArray:
            root = ome_zarr.open_group(path, "r")
            values = np.asarray(root[name][(slice(None),) * axis + (slice(start, stop),)])
            return values if arrange is None else arrange(values)

        check_expansion(math.prod(shape) * dtype.itemsize, _stored_bytes(path / name))
        return Parts(read, chunks[axis])

    whole = shown if arrange is None else arrange(shown)
    return make_dataset(whole, fetch=fetch, parts=parts if len(shape) == 3 else None, **fields)


def _array_names(path: Path) -> list[str]:
    """Paths of the arrays in the folder, in order; links to other folders are not followed."""
    found = []
    for folder, folders, files in os.walk(path):
        folders.sort()
        if any(name in files for name in _METADATA) and _metadata(Path(folder)).get("node_type", "array") == "array":
            found.append(Path(folder).relative_to(path).as_posix())
            folders.clear()
    return found


def _metadata(folder: Path) -> dict[str, Any]:
    file = next(folder / name for name in _METADATA if (folder / name).is_file())
    if file.stat().st_size > _MAX_METADATA_BYTES:
        raise FormatError(f"the metadata {file.name} in it are too long: it is damaged")
    content = json.loads(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _check_codecs(folder: Path) -> None:
    """Raise an error if an array of numbers has a codec that is not known to be harmless."""
    metadata = _metadata(folder)
    codecs = [metadata.get("compressor"), *(metadata.get("filters") or []), *(metadata.get("codecs") or [])]
    for codec in codecs:
        name = "" if codec is None else str(codec.get("id") or codec.get("name")).removeprefix("numcodecs.")
        if name and name not in _CODECS and not _is_text(metadata):
            raise FormatError(f"the codec {name!r} of one of its arrays is not read: unusual codecs could execute code")


def _is_text(metadata: dict[str, Any]) -> bool:
    """Whether the array contains texts or objects, which are never decoded."""
    return str(metadata.get("dtype", metadata.get("data_type"))) in ("|O", "string")


def _stored_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
