"""Reading of images from files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.images.pixel_size import pixel_sizes, with_pixel_sizes
from stemkit.io import (
    emd,
    folders,
    hdf5,
    hyperspy_files,
    microscopes,
    mrc,
    netcdf,
    numpy_files,
    pictures,
    tiff,
    zarr_files,
)
from stemkit.io.checks import check_regular_file, damage, unknown_content
from stemkit.io.choosing import choose_dataset
from stemkit.io.file_dataset import DERIVED, DETECTOR, MAP, FileDataset
from stemkit.io.lazy import lazy_pixels, require_dask
from stemkit.parameters import check_positive

__all__ = ["READABLE", "DatasetInfo", "datasets", "read"]

T = TypeVar("T")
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

#: Functions that read a format, by suffix.
_LOADERS: dict[str, Callable[[Path], list[FileDataset]]] = {
    **dict.fromkeys((".dm3", ".dm4", ".ser"), microscopes.load),
    ".emd": emd.load,
    ".hspy": hyperspy_files.load,
    ".zspy": hyperspy_files.load_zspy,
    ".zarr": zarr_files.load,
    ".mrc": mrc.load,
    **dict.fromkeys((".tif", ".tiff"), tiff.load),
    ".nc": netcdf.load,
    **dict.fromkeys((".h5", ".hdf5"), hdf5.load),
    ".npy": numpy_files.load,
    ".npz": numpy_files.load_npz,
    ".mat": numpy_files.load_mat,
    **dict.fromkeys((".png", ".jpg", ".jpeg"), pictures.load),
}

#: Suffixes of the formats that :func:`read` supports.
READABLE = tuple(_LOADERS)
#: Largest ratio of the range of floating-point pixels to their resolution that is reported as lost (chosen: fewer
#: levels than 8 bits have).
_MIN_LEVELS = 256
#: Kinds of datasets in :class:`DatasetInfo`.
_CONTENTS = {DETECTOR: "image", DERIVED: "computed image", MAP: "map of a spectrum image"}


@dataclass(frozen=True)
class DatasetInfo:
    """Description of one dataset of a file.

    Attributes
    ----------
    index : int
        Index in the file, from 0: a value of `dataset` in :func:`~stemkit.read`.
    name : str
        Name in the file, empty if the format has none.
    shape : tuple of int
        ``(n_y, n_x)``, or ``(n_images, n_y, n_x)`` for a stack or a series; any shape if it is not an image.
    dtype : str
        Data type in the file, such as ``"uint16"``.
    pixel_sizes : tuple of float or None
        Height and width of a pixel in nm, None if the file has no pixel size.
    is_image : bool
        Whether :func:`~stemkit.read` can read it.
    content : str
        ``"image"`` (of a detector), ``"computed image"``, ``"map of a spectrum image"``, or why it can't be read, such
        as ``"an EDS spectrum stream"``.
    dims : tuple of str
        ``("y", "x")``, ``("frame", "y", "x")`` for a series of frames of one scan, ``("image", "y", "x")`` for another
        stack; empty if it is not an image.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    pixel_sizes: tuple[float, float] | None
    is_image: bool
    content: str = "image"
    dims: tuple[str, ...] = ("y", "x")


def read(
    path: Paths,
    *,
    dataset: int | str | None = None,
    pixel_size: float | None = None,
    frames: bool | None = None,
    lazy: bool = False,
) -> xr.DataArray:
    """Read an image, a stack of images or a series of frames with its pixel size.

    Values and dtype are those of the file. Coordinates are pixel centres in nm; without a pixel size in the file there
    are none. ``attrs`` contains ``source`` (the file's name) and, as far as the file has them, ``dataset``, ``title``,
    ``detector``, ``mode`` (``"haadf"`` or ``"bf"``), ``voltage`` (kV), ``dwell_time`` (s) and ``scan_angle``, the
    rotation of the scan (degrees).

    Parameters
    ----------
    path : path-like, or a list of them
        A ``.dm3``, ``.dm4``, ``.emd`` (Velox or NCEM), ``.ser``, ``.hspy``, ``.mrc``, ``.tif``, ``.nc``, ``.h5``,
        ``.npy``, ``.npz``, ``.mat``, ``.png`` or ``.jpg`` file, or a ``.zspy`` or ``.zarr`` folder. DM3, DM4 and SER
        files and some compressions need ``pip install 'stemkit[formats]'``, Zarr folders ``'stemkit[zarr]'``. Another
        folder is read as the series of its files in natural order (``frame_2`` before ``frame_10``), a list of paths
        as a series in the order of the list; the images must have one size and one pixel size.
    dataset : int or str, optional
        Index or name of the dataset in a file with several (:func:`datasets` lists them). Default: the first image of
        a detector, else the first computed image or map, with a warning if the file has several images.
    pixel_size : float, optional
        Edge of the square pixels in nm, used instead of the file's.
    frames : bool, optional
        Whether the images of a stack are frames of one scan: the first dim is ``"frame"`` if True, ``"image"`` if
        False. Default: ``"frame"`` if the file says so (Velox series, SER series, an axis of time, ImageJ's frames,
        animations, arrays named ``frames``) and for folders and lists, otherwise ``"image"``, as for the pages of a
        TIFF file without such information and the sections of an MRC file.
    lazy : bool, default=False
        Return a dask array, whose images are read when they are needed and opened anew each time (HSPY, ZSPY, EMD,
        HDF5, Zarr, MRC). The pixels of stacks in other formats are read now. Needs ``pip install 'stemkit[dask]'``.

    Returns
    -------
    DataArray
        Dims ``("y", "x")``, ``("frame", "y", "x")`` for a series of frames of one scan, or ``("image", "y", "x")`` for
        another stack of images of equal size. Frames have the coordinate ``time`` in s if the file contains their
        times, and ``scan_angle`` in degrees if they are of several files whose scan angles differ.

    Raises
    ------
    FileNotFoundError, PermissionError, OSError
        If the file does not exist or can't be opened.
    ValueError
        If the format is not supported, the file is truncated or damaged, or contains no image (spectra, 4D-STEM,
        colour): the message gives the path, the format and the reason.
    ImportError
        If the format or the compression needs a library that is not installed.
    MemoryError
        If the image does not fit into the memory.

    Notes
    -----
    The sizes that a file declares are compared with the size of the file before memory is allocated. Nothing in a
    file is executed: pickled objects are refused. Links from an HDF5 file or OME-XML to other files are not followed.

    Examples
    --------
    >>> import stemkit
    >>> image = stemkit.read("image.dm4")  # doctest: +SKIP
    >>> image.stem.pixel_size  # doctest: +SKIP
    0.0122
    """
    check_positive("pixel_size", pixel_size, optional=True, unit="nm")
    if frames is not None and not isinstance(frames, bool):
        raise TypeError(f"frames must be True, False or None, but is {frames!r}")
    if isinstance(path, list | tuple):
        return _read_series([Path(p) for p in path], dataset, pixel_size, frames, lazy)
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be the path of a file or a folder, or a list of paths, but is {path!r}")
    path = Path(path)
    if path.is_dir() and not folders.is_zarr(path):
        return _read_series(folders.image_files(path, READABLE), dataset, pixel_size, frames, lazy)
    return _read_file(path, dataset, pixel_size, frames, lazy, 4)


def datasets(path: str | os.PathLike[str]) -> list[DatasetInfo]:
    """List the datasets of a file, images or not; pixels are not read where the format allows that.

    Parameters
    ----------
    path : path-like
        A file that :func:`~stemkit.read` can read.

    Returns
    -------
    list of DatasetInfo
        One per dataset, in the order of the file.
    """
    return [_info(i, found) for i, found in enumerate(_load(Path(path)))]


def _info(index: int, found: FileDataset) -> DatasetInfo:
    return DatasetInfo(
        index=index,
        name=found.name,
        shape=found.values.shape,
        dtype=str(found.values.dtype),
        pixel_sizes=_pixel_sizes(found),
        is_image=not found.refusal,
        content=found.refusal or _CONTENTS[found.kind],
        dims=() if found.refusal else _dims(found, None),
    )


def _read_file(
    path: Path, dataset: int | str | None, pixel_size: float | None, frames: bool | None, lazy: bool, stacklevel: int
) -> xr.DataArray:
    if lazy:
        require_dask(path)
    found = _load(path)
    index = choose_dataset(found, dataset, path)
    return _image(found[index], index, len(found), path, pixel_size, frames, lazy, stacklevel)


def _read_series(
    paths: list[Path], dataset: int | str | None, pixel_size: float | None, frames: bool | None, lazy: bool
) -> xr.DataArray:
    """The images of several files as one series, or as a stack of images."""
    if not paths:
        raise ValueError("path is an empty list: give at least one file")
    images = [_read_file(path, dataset, pixel_size, None, lazy, 5) for path in paths]
    return folders.stacked_frames(images, [str(path) for path in paths], "image" if frames is False else "frame")


def _load(path: Path) -> list[FileDataset]:
    """Load all datasets of a file; errors of a format's reader are raised as ValueError."""
    suffix = path.suffix.lower()
    if not folders.is_zarr(path):
        check_regular_file(path)
    if suffix not in _LOADERS:
        raise ValueError(f"can't read {path}: the suffix must be one of {', '.join(READABLE)}, but is {suffix!r}")
    return _guarded(path, lambda: _LOADERS[suffix](path))


def _guarded(path: Path, work: Callable[[], T]) -> T:
    """Result of reading a file; errors get the path and the format."""
    suffix = path.suffix[1:].upper()
    try:
        return work()
    except PermissionError as error:
        raise PermissionError(error.errno, f"can't read {path}: permission denied") from error
    except ImportError as error:
        raise ImportError(f"can't read {path} as {suffix}: {error}") from error
    except MemoryError as error:
        raise MemoryError(f"can't read {path} as {suffix}: its pixels do not fit into the memory") from error
    except Exception as error:
        reason = ("" if path.is_dir() else unknown_content(path)) or damage(error)
        raise ValueError(f"can't read {path} as {suffix}: {reason}") from error


# --- the image ---------------------------------------------------------------------------------------------------


def _image(
    chosen: FileDataset,
    index: int,
    count: int,
    path: Path,
    pixel_size: float | None,
    frames: bool | None,
    lazy: bool,
    stacklevel: int,
) -> xr.DataArray:
    values = _pixels(chosen, path, lazy)
    dims = _dims(chosen, frames)
    coords = {name: _renamed(variable, dims[0]) for name, variable in chosen.coords.items()}
    coords |= {name: xr.Variable(dims, _pixels(found, path, lazy)) for name, found in chosen.maps.items()}
    image = xr.DataArray(values, coords, dims, attrs=dict(chosen.attrs)).rename(chosen.array_name)
    if dims[0] == "frame" and chosen.times is not None:
        image = image.assign_coords(time=("frame", np.asarray(chosen.times, dtype=np.float64), {"units": "s"}))
    image.attrs["source"] = path.name
    if chosen.name or count > 1:
        image.attrs["dataset"] = chosen.name or str(index)
    for note in ("" if lazy else _lost_resolution(values), chosen.note if pixel_size is None else ""):
        if note:
            warnings.warn(f"{path}: {note}", UserWarning, stacklevel=stacklevel)
    if pixel_size is not None:
        return with_pixel_sizes(image, pixel_size, pixel_size)
    return image if chosen.pixel_sizes is None else with_pixel_sizes(image, *chosen.pixel_sizes)


def _pixels(found: FileDataset, path: Path, lazy: bool) -> Any:
    if lazy:
        return lazy_pixels(found, partial(_guarded, path))
    return _guarded(path, lambda: np.ascontiguousarray(found.pixels()))


def _dims(found: FileDataset, frames: bool | None) -> tuple[str, ...]:
    first = "frame" if (found.series if frames is None else frames) else "image"
    return (first, "y", "x")[3 - found.values.ndim :]


def _renamed(variable: xr.Variable, first: str) -> xr.Variable:
    """A coordinate with the name of the stack's first dim."""
    dims = tuple(first if dim in ("frame", "image") else dim for dim in variable.dims)
    return xr.Variable(dims, variable.values, variable.attrs)


def _lost_resolution(values: NDArray) -> str:
    """Text of a warning if an offset leaves the pixels fewer levels than 8 bits have, else an empty string."""
    if values.dtype.kind != "f" or values.size == 0:
        return ""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite([low, high]).all() and high > low):
        return ""
    step = float(np.spacing(np.asarray(max(abs(low), abs(high)), values.dtype)))
    if high - low >= _MIN_LEVELS * step:
        return ""
    return (
        f"the pixels are {values.dtype} from {low:.9g} to {high:.9g}, where its numbers are {step:.3g} apart: their "
        "resolution was lost when the file was written; subtract the offset before saving"
    )


def _pixel_sizes(found: FileDataset) -> tuple[float, float] | None:
    """Height and width of a pixel in nm, None without a pixel size or for data that are not an image."""
    if found.refusal or found.pixel_sizes is not None:
        return None if found.refusal else found.pixel_sizes
    axes = {d: found.coords[d] for d in ("y", "x") if d in found.coords}
    return pixel_sizes(xr.DataArray(np.broadcast_to(0.0, found.values.shape[-2:]), axes, ("y", "x")))
