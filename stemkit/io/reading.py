"""Files to images."""

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

#: Suffixes that :func:`read` knows.
READABLE = tuple(_LOADERS)


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset of a file.

    Attributes
    ----------
    index : int
        Its place in the file, from 0: a value of `dataset` in :func:`~stemkit.read`.
    name : str
        Its name, empty where the format has none.
    shape : tuple of int
        ``(n_y, n_x)``, or ``(n_images, n_y, n_x)`` for a stack; whatever it is where it is no image.
    dtype : str
        What the pixels are recorded as, such as ``"uint16"``.
    pixel_sizes : tuple of float or None
        Height and width of a pixel in nm, None where the file does not say.
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
    """Read an image, or a stack of them, with its pixel size.

    The values are those recorded, in their own dtype. Coordinates are pixel centres in nm, absent where the file
    has no pixel size. ``attrs`` has ``source`` (the file's name) and, where the file says so, ``dataset``, ``title``,
    ``detector``, ``mode`` (``"haadf"`` or ``"bf"``), ``voltage`` (kV) and ``dwell_time`` (s).

    Parameters
    ----------
    path : path-like
        A ``.dm3``, ``.dm4``, ``.emd`` (Velox or NCEM), ``.ser``, ``.hspy``, ``.mrc``, ``.tif``, ``.nc``, ``.npy``,
        ``.png`` or ``.jpg`` file. The microscopes' formats need ``pip install 'stemkit[formats]'``.
    dataset : int or str, optional
        Index or name of the dataset in a file with several (:func:`datasets` lists them). Default: the first that is
        an image or a stack, with a warning where there are more.
    pixel_size : float, optional
        Edge of the square pixels in nm, overriding what the file says.

    Returns
    -------
    DataArray
        Dims ``("y", "x")``, or ``("image", "y", "x")`` for a stack of frames or pages of equal size.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the format is not known, the file is damaged, or holds no image (spectra, 4D-STEM, colour): the message
        has the path, the format and the reason.
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
    index = _choose(found, dataset, path)
    return _image(found[index], index, len(found), path, pixel_size)


def datasets(path: str | os.PathLike[str]) -> list[DatasetInfo]:
    """What a file holds, images or not; of an EMD file's spectra nothing is listed.

    Parameters
    ----------
    path : path-like
        A file that :func:`~stemkit.read` can read.

    Returns
    -------
    list of DatasetInfo
        One per dataset, in the file's order.
    """
    return [
        DatasetInfo(i, d.name, d.values.shape, str(d.values.dtype), _sizes(d), not d.refusal)
        for i, d in enumerate(_load(Path(path)))
    ]


def _load(path: Path) -> list[Recorded]:
    """All datasets of a file; whatever goes wrong inside a format becomes one kind of error."""
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"can't read {path}: there is no such file")
    if suffix not in _LOADERS:
        raise ValueError(f"can't read {path}: the suffix {suffix!r} is not one of {', '.join(READABLE)}")
    if path.is_dir():
        raise IsADirectoryError(f"can't read {path}: it is a folder")
    try:
        return _LOADERS[suffix](path)
    except (ImportError, MemoryError, PermissionError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"can't read {path} as {suffix[1:].upper()}: {reason}") from error


# --- which dataset -----------------------------------------------------------------------------------------------


def _choose(found: list[Recorded], dataset: int | str | None, path: Path) -> int:
    if dataset is None:
        return _first_image(found, path)
    index = _named(found, dataset, path) if isinstance(dataset, str) else _numbered(found, dataset, path)
    if found[index].refusal:
        raise ValueError(f"can't read dataset {dataset!r} of {path} as an image: it is {found[index].refusal}")
    return index


def _first_image(found: list[Recorded], path: Path) -> int:
    images = [i for i, candidate in enumerate(found) if not candidate.refusal]
    if not images:
        what = "; ".join(dict.fromkeys(candidate.refusal for candidate in found)) or "nothing"
        raise ValueError(f"can't read {path} as an image: it holds {what}")
    if len(images) > 1:
        first, *others = (_label(found, i) for i in images)
        warnings.warn(
            f"{path} holds {len(images)} images and {first} is taken: choose another with dataset= its number or "
            f"name (--dataset on the command line): {', '.join(others)}",
            UserWarning,
            stacklevel=4,
        )
    return images[0]


def _named(found: list[Recorded], name: str, path: Path) -> int:
    hits = [i for i, candidate in enumerate(found) if candidate.name == name]
    if len(hits) > 1:
        raise ValueError(f"{path} has {len(hits)} datasets called {name!r}: choose by number, {_numbers(hits)}")
    if not hits and name.isdecimal():
        return _numbered(found, int(name), path)
    if not hits:
        raise ValueError(f"{path} has no dataset {name!r}: it has {_labels(found)}")
    return hits[0]


def _numbered(found: list[Recorded], index: int, path: Path) -> int:
    if isinstance(index, bool) or not isinstance(index, Integral):
        raise TypeError(f"dataset must be a number or a name, but is {index!r}")
    if not 0 <= index < len(found):
        raise ValueError(f"{path} has no dataset {index}: it has {_labels(found)}")
    return int(index)


def _numbers(indices: list[int]) -> str:
    return " or ".join(map(str, indices))


def _labels(found: list[Recorded]) -> str:
    return ", ".join(_label(found, i) for i in range(len(found)))


def _label(found: list[Recorded], index: int) -> str:
    shape = " x ".join(map(str, found[index].values.shape))
    name = f" {found[index].name!r}" if found[index].name else ""
    return f"{index}{name} ({shape})"


# --- the image ---------------------------------------------------------------------------------------------------


def _image(taken: Recorded, index: int, count: int, path: Path, pixel_size: float | None) -> xr.DataArray:
    dims = ("image", "y", "x")[3 - taken.values.ndim :]
    image = xr.DataArray(taken.values, dict(taken.coords), dims, taken.array_name, dict(taken.attrs))
    image.attrs["source"] = path.name
    if taken.name or count > 1:
        image.attrs["dataset"] = taken.name or str(index)
    if pixel_size is not None:
        return with_pixel_sizes(image, pixel_size, pixel_size)
    if taken.note:
        warnings.warn(f"{path}: {taken.note}", UserWarning, stacklevel=3)
    return image if taken.pixel_sizes is None else with_pixel_sizes(image, *taken.pixel_sizes)


def _sizes(found: Recorded) -> tuple[float, float] | None:
    if found.refusal or found.pixel_sizes is not None:
        return None if found.refusal else found.pixel_sizes
    axes = {d: found.coords[d] for d in ("y", "x") if d in found.coords}
    return pixel_sizes(xr.DataArray(np.broadcast_to(0.0, found.values.shape[-2:]), axes, ("y", "x")))


def _check_pixel_size(pixel_size: float) -> None:
    if isinstance(pixel_size, bool) or not isinstance(pixel_size, Real):
        raise TypeError(f"pixel_size must be a number of nm, but is {pixel_size!r}")
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size must be a positive number of nm, but is {pixel_size!r}")
