"""Reading of images from files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import xarray as xr

from stemkit.images import pixel_sizes, with_pixel_sizes
from stemkit.io import microscopes, netcdf, numpy_files, pictures, tiff
from stemkit.io.recorded import Recorded

__all__ = ["READABLE", "DatasetInfo", "datasets", "read"]

_LOADERS: dict[str, Callable[[Path], list[Recorded]]] = {
    **dict.fromkeys((".dm3", ".dm4", ".emd", ".ser", ".hspy", ".mrc"), microscopes.load),
    **dict.fromkeys((".tif", ".tiff"), tiff.load),
    ".nc": netcdf.load,
    ".npy": numpy_files.load,
    **dict.fromkeys((".png", ".jpg", ".jpeg"), pictures.load),
}

#: Suffixes of the formats that :func:`read` supports.
READABLE = tuple(_LOADERS)


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
        ``(n_y, n_x)``, or ``(n_images, n_y, n_x)`` for a stack; any shape if it is not an image.
    dtype : str
        Data type in the file, such as ``"uint16"``.
    pixel_sizes : tuple of float or None
        Height and width of a pixel in nm, None if the file has no pixel size.
    is_image : bool
        Whether :func:`~stemkit.read` can read it.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    pixel_sizes: tuple[float, float] | None
    is_image: bool


def read(
    path: str | os.PathLike[str], *, dataset: int | str | None = None, pixel_size: float | None = None
) -> xr.DataArray:
    """Read an image or a stack of images with its pixel size.

    Values and dtype are those of the file. Coordinates are pixel centres in nm; without a pixel size in the file there
    are none. ``attrs`` contains ``source`` (the file's name) and, as far as the file has them, ``dataset``, ``title``,
    ``detector``, ``mode`` (``"haadf"`` or ``"bf"``), ``voltage`` (kV) and ``dwell_time`` (s).

    Parameters
    ----------
    path : path-like
        A ``.dm3``, ``.dm4``, ``.emd`` (Velox or NCEM), ``.ser``, ``.hspy``, ``.mrc``, ``.tif``, ``.nc``, ``.npy``,
        ``.png`` or ``.jpg`` file. The microscopes' formats need ``pip install 'stemkit[formats]'``.
    dataset : int or str, optional
        Index or name of the dataset in a file with several (:func:`datasets` lists them). Default: the first image or
        stack, with a warning if the file has several.
    pixel_size : float, optional
        Edge of the square pixels in nm, used instead of the file's.

    Returns
    -------
    DataArray
        Dims ``("y", "x")``, or ``("image", "y", "x")`` for a stack of frames or pages of equal size.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the format is not supported, or the file is damaged or contains no image (spectra, 4D-STEM, colour): the
        message gives the path, the format and the reason.
    ImportError
        If the format needs RosettaSciIO and it is not installed.

    Examples
    --------
    >>> import stemkit
    >>> image = stemkit.read("image.dm4")  # doctest: +SKIP
    >>> image.stem.pixel_size  # doctest: +SKIP
    0.0122
    """
    if pixel_size is not None:
        _check_pixel_size(pixel_size)
    path = Path(path)
    found = _load(path)
    index = _choose_dataset(found, dataset, path)
    return _image(found[index], index, len(found), path, pixel_size)


def datasets(path: str | os.PathLike[str]) -> list[DatasetInfo]:
    """List the datasets of a file, images or not; the spectra of an EMD file are omitted.

    Parameters
    ----------
    path : path-like
        A file that :func:`~stemkit.read` can read.

    Returns
    -------
    list of DatasetInfo
        One per dataset, in the order of the file.
    """
    return [
        DatasetInfo(i, d.name, d.values.shape, str(d.values.dtype), _pixel_sizes(d), not d.refusal)
        for i, d in enumerate(_load(Path(path)))
    ]


def _load(path: Path) -> list[Recorded]:
    """Load all datasets of a file; errors of a format's reader are raised as ValueError."""
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"can't read {path}: there is no such file")
    if suffix not in _LOADERS:
        raise ValueError(f"can't read {path}: the suffix must be one of {', '.join(READABLE)}, but is {suffix!r}")
    if path.is_dir():
        raise IsADirectoryError(f"can't read {path}: it is a folder, give a file")
    try:
        return _LOADERS[suffix](path)
    except (ImportError, MemoryError, PermissionError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"can't read {path} as {suffix[1:].upper()}: {reason}") from error


# --- choice of a dataset --------------------------------------------------------------------------------------------


def _choose_dataset(found: list[Recorded], dataset: int | str | None, path: Path) -> int:
    """Index of the dataset to read."""
    if dataset is None:
        return _first_image(found, path)
    index = _index_of_name(found, dataset, path) if isinstance(dataset, str) else _checked_index(found, dataset, path)
    if found[index].refusal:
        raise ValueError(f"can't read dataset {dataset!r} of {path} as an image: it is {found[index].refusal}")
    return index


def _first_image(found: list[Recorded], path: Path) -> int:
    images = [i for i, candidate in enumerate(found) if not candidate.refusal]
    if not images:
        contents = "; ".join(dict.fromkeys(candidate.refusal for candidate in found)) or "nothing"
        raise ValueError(f"can't read {path} as an image: it contains {contents}")
    if len(images) > 1:
        first, *others = (_label(found, i) for i in images)
        warnings.warn(
            f"{path} contains {len(images)} images and {first} is read: to read another, pass its index or name as "
            f"dataset=, one of {', '.join(others)}",
            UserWarning,
            stacklevel=4,
        )
    return images[0]


def _index_of_name(found: list[Recorded], name: str, path: Path) -> int:
    hits = [i for i, candidate in enumerate(found) if candidate.name == name]
    if len(hits) > 1:
        raise ValueError(
            f"{path} has {len(hits)} datasets named {name!r}: pass the index, {' or '.join(map(str, hits))}"
        )
    if not hits and name.isdecimal():
        return _checked_index(found, int(name), path)
    if not hits:
        raise ValueError(f"{path} has no dataset {name!r}: choose one of {_labels(found)}")
    return hits[0]


def _checked_index(found: list[Recorded], index: int, path: Path) -> int:
    if isinstance(index, bool) or not isinstance(index, Integral):
        raise TypeError(f"dataset must be an index or a name, but is {index!r}")
    if not 0 <= index < len(found):
        raise ValueError(f"{path} has no dataset {index}: choose one of {_labels(found)}")
    return int(index)


def _labels(found: list[Recorded]) -> str:
    return ", ".join(_label(found, i) for i in range(len(found)))


def _label(found: list[Recorded], index: int) -> str:
    """Index, name and shape of a dataset."""
    shape = " x ".join(map(str, found[index].values.shape))
    name = f" {found[index].name!r}" if found[index].name else ""
    return f"{index}{name} ({shape})"


# --- the image ---------------------------------------------------------------------------------------------------


def _image(chosen: Recorded, index: int, count: int, path: Path, pixel_size: float | None) -> xr.DataArray:
    dims = ("image", "y", "x")[3 - chosen.values.ndim :]
    image = xr.DataArray(chosen.values, dict(chosen.coords), dims, chosen.array_name, dict(chosen.attrs))
    image.attrs["source"] = path.name
    if chosen.name or count > 1:
        image.attrs["dataset"] = chosen.name or str(index)
    if pixel_size is not None:
        return with_pixel_sizes(image, pixel_size, pixel_size)
    if chosen.note:
        warnings.warn(f"{path}: {chosen.note}", UserWarning, stacklevel=3)
    return image if chosen.pixel_sizes is None else with_pixel_sizes(image, *chosen.pixel_sizes)


def _pixel_sizes(found: Recorded) -> tuple[float, float] | None:
    """Height and width of a pixel in nm, None without a pixel size or for data that are not an image."""
    if found.refusal or found.pixel_sizes is not None:
        return None if found.refusal else found.pixel_sizes
    axes = {d: found.coords[d] for d in ("y", "x") if d in found.coords}
    return pixel_sizes(xr.DataArray(np.broadcast_to(0.0, found.values.shape[-2:]), axes, ("y", "x")))


def _check_pixel_size(pixel_size: float) -> None:
    if isinstance(pixel_size, bool) or not isinstance(pixel_size, Real):
        raise TypeError(f"pixel_size must be a number of nm, but is {pixel_size!r}")
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size must be a positive number of nm, but is {pixel_size!r}")
