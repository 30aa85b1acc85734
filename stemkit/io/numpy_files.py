"""NPY files, pixels without metadata, and the arrays of NPZ and MAT files."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from stemkit.images.pixel_size import is_calibrated
from stemkit.io import hdf5
from stemkit.io.checks import FormatError, check_declared, check_expansion
from stemkit.io.file_dataset import FileDataset, make_dataset, placeholder, table_reason

__all__ = ["load", "load_mat", "load_npz", "save"]

#: Name of a number in an NPZ or MAT file that is the pixel size of the file's images in nm.
_PIXEL_SIZE = "pixel_size_nm"
#: Names of arrays that are frames of one scan.
_FRAME_NAMES = ("frame", "frames")
#: MATLAB's name of each class of numbers, and its data type.
_MATLAB_CLASSES = {
    **{name: name for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")},
    "double": "float64",
    "single": "float32",
    "logical": "uint8",
}


def load(path: Path) -> list[FileDataset]:
    """Load the array of an NPY file; pickled objects raise a ValueError."""
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            raise FormatError("the file is an NPZ archive: rename it to .npz")
        file.seek(0)
        shape, _, dtype = _npy_header(file)
        _check_not_pickled(dtype)
        check_declared(math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell())
    return [make_dataset(np.load(path, allow_pickle=False))]


def save(image: xr.DataArray, path: Path, provenance: str) -> None:
    """Write the pixels; the format can't store the provenance."""
    del provenance
    if is_calibrated(image):
        warnings.warn(
            "an NPY file contains only the pixels, so the pixel size is lost: write .tif or .nc to keep it",
            UserWarning,
            stacklevel=4,
        )
    with path.open("wb") as file:
        np.save(file, image.values, allow_pickle=False)


def load_npz(path: Path) -> list[FileDataset]:
    """Load the arrays of an NPZ file by name; a number named ``pixel_size_nm`` is their pixel size."""
    with zipfile.ZipFile(path) as archive:
        names = [entry.filename for entry in archive.infolist() if entry.filename.endswith(".npy")]
        headers = {name.removesuffix(".npy"): _npz_header(archive, name) for name in names}
    size = _npz_number(path, headers)
    found = [_named(path, name, shape, dtype, size) for name, (shape, dtype) in headers.items()]
    if not found:
        raise FormatError("it contains no array")
    return found


def load_mat(path: Path) -> list[FileDataset]:
    """Load the arrays of a MATLAB file (version 5 or 7.3) by name; frames are along the last of three axes."""
    with path.open("rb") as file:
        head = file.read(8)
    return _load_mat73(path) if head.startswith((b"MATLAB 7", b"\x89HDF")) else _load_mat5(path)


# --- NPZ ---------------------------------------------------------------------------------------------------------


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy_format.read_magic(file)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    return read(file)


def _npz_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    entry = archive.getinfo(name)
    with archive.open(name) as file:
        shape, _, dtype = _npy_header(file)
    declared = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject:
        check_declared(declared, entry.file_size)
        check_expansion(declared, entry.compress_size)
    return shape, dtype


def _npz_number(path: Path, headers: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> tuple[float, float] | None:
    shape, dtype = headers.get(_PIXEL_SIZE, ((0,), np.dtype("V")))
    if math.prod(shape) != 1 or dtype.kind not in "fiu":
        return None
    with np.load(path, allow_pickle=False) as arrays:
        size = float(arrays[_PIXEL_SIZE].reshape(-1)[0])
    return size, size


def _named(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, size: Any) -> FileDataset:
    def fetch() -> NDArray:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])

    fields = {**_fields(name, size), "refusal": table_reason(shape)}
    if dtype.hasobject:
        refusal = "pickled objects, which are not read since they could execute code"
        return make_dataset(placeholder((0,), np.uint8), refusal=refusal, name=name)
    return make_dataset(
        placeholder(shape, dtype) if dtype.kind in "fiubc" else np.empty(0, dtype), fetch=fetch, **fields
    )


def _check_not_pickled(dtype: np.dtype) -> None:
    if dtype.hasobject:
        raise FormatError(
            "it contains pickled objects, which are not read (allow_pickle) since they could execute code"
        )


# --- MATLAB ------------------------------------------------------------------------------------------------------


def _load_mat5(path: Path) -> list[FileDataset]:
    from scipy.io import loadmat, whosmat

    found = [(name, shape, kind) for name, shape, kind in whosmat(path) if kind in _MATLAB_CLASSES]
    _check_mat5(path, found)
    sizes = _matlab_size(path, found, loadmat)

    def fetch_of(name: str) -> Any:
        return lambda: _frames_first(np.asarray(loadmat(path, variable_names=[name])[name]), name)

    arrays = [(n, s, k) for n, s, k in found if math.prod(s) > 1]
    if not arrays:
        raise FormatError("it contains no array of numbers")
    return [
        make_dataset(
            _frames_first(placeholder(shape, _MATLAB_CLASSES[kind]), name),
            fetch=fetch_of(name),
            refusal=table_reason(shape),
            **_fields(name, sizes),
        )
        for name, shape, kind in arrays
    ]


def _check_mat5(path: Path, found: list[tuple[str, tuple[int, ...], str]]) -> None:
    """Raise an error if the arrays can't be in the file; MATLAB stores doubles in as little as one byte."""
    for _, shape, kind in found:
        check_expansion(math.prod(shape) * np.dtype(_MATLAB_CLASSES[kind]).itemsize, 8 * path.stat().st_size)


def _matlab_size(path: Path, found: list[tuple[str, tuple[int, ...], str]], loadmat: Any) -> Any:
    if not any(name == _PIXEL_SIZE and math.prod(shape) == 1 for name, shape, _ in found):
        return None
    size = float(np.ravel(loadmat(path, variable_names=[_PIXEL_SIZE])[_PIXEL_SIZE])[0])
    return size, size


def _load_mat73(path: Path) -> list[FileDataset]:
    with hdf5.opened(path) as file:
        arrays = [d for n in file if (d := hdf5.dataset(file, n)) is not None and d.dtype.kind in "fiu"]
        arrays = [d for d in arrays if d.shape is not None and "MATLAB_empty" not in d.attrs]
        size = next((float(d[...].reshape(-1)[0]) for d in arrays if _is_size(d)), None)
        sizes = None if size is None else (size, size)
        found = [
            hdf5.image_of(
                path, d, _from_column_major, refusal=table_reason(d.shape[::-1]), **_fields(d.name.strip("/"), sizes)
            )
            for d in arrays
            if d.size > 1
        ]
    if not found:
        raise FormatError("it contains no array of numbers")
    return found


def _is_size(found: Any) -> bool:
    return found.name.strip("/") == _PIXEL_SIZE and found.size == 1


def _fields(name: str, sizes: Any) -> dict[str, Any]:
    return {"name": name, "pixel_sizes": sizes, "series": name.casefold() in _FRAME_NAMES}


def _from_column_major(values: NDArray) -> NDArray:
    """MATLAB's ``(n_y, n_x, n)``, which HDF5 has as ``(n, n_x, n_y)``, as ``(n, n_y, n_x)``."""
    return np.swapaxes(values, -1, -2) if values.ndim > 1 else values


def _frames_first(values: NDArray, name: str) -> NDArray:
    """MATLAB's ``(n_y, n_x, n)`` as ``(n, n_y, n_x)``; three or four planes without the name of frames are colours."""
    if values.ndim != 3 or (values.shape[-1] in (3, 4) and name.casefold() not in _FRAME_NAMES):
        return values
    return np.moveaxis(values, -1, 0)
