"""Writing of images to files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.atomic import check_place, whole_file, whole_folder
from stemkit.images import split
from stemkit.images.lazy import is_lazy, lazy_images
from stemkit.io import hyperspy_files, netcdf, numpy_files, ome_zarr, tiff
from stemkit.io.attributes import maps_of, provenance_text

__all__ = ["WRITABLE", "write"]

Saver: TypeAlias = Callable[[xr.DataArray, Path, str], None]

#: Functions that write a format, by suffix.
_SAVERS: dict[str, Saver] = {
    ".tif": tiff.save,
    ".tiff": tiff.save,
    ".nc": netcdf.save,
    ".hspy": hyperspy_files.save,
    ".npy": numpy_files.save,
    ".zarr": ome_zarr.save,
}
#: Suffixes of formats that store maps.
_WITH_MAPS = (".nc", ".zarr")
#: Suffixes of formats that are folders.
_FOLDERS = (".zarr",)
#: Other names of the formats.
_FORMAT_NAMES = {"netcdf": "nc", "hyperspy": "hspy", "numpy": "npy"}
#: Suffixes of pictures, which are not written as images.
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")

#: Suffixes of the formats that :func:`write` supports.
WRITABLE = tuple(_SAVERS)


def write(
    image: xr.DataArray | NDArray,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    overwrite: bool = False,
    provenance: Mapping[str, str | float] | None = None,
) -> Path:
    """Write an image or a stack, completely or not at all.

    The file is written under a temporary name in the same folder and then renamed: neither a crash nor a full disk
    leaves an incomplete file or damages an existing one.

    Parameters
    ----------
    image : DataArray or ndarray
        One image ``(n_y, n_x)``, a stack ``(n_images, n_y, n_x)``, or a series of frames (dims
        ``("frame", "y", "x")``).
    path : path-like
        The suffix determines the format:

        - ``.tif``, ``.tiff``: pixels and pixel size in the form of ImageJ's files, attributes and provenance in the
          description. Any dtype is kept; ImageJ itself opens uint8, uint16 and float32, but not float64.
        - ``.nc``: NetCDF, with maps such as ``recorded`` and exact coordinates.
        - ``.hspy``: HyperSpy's format; needs ``pip install 'stemkit[formats]'``.
        - ``.zarr``: a folder in version 3 of Zarr with the metadata of OME-NGFF 0.5 (axes in nm and s, coarser
          levels), which napari and others open, with maps and attributes. A lazy stack is computed and written image
          by image. Needs ``pip install 'stemkit[zarr]'``.
        - ``.npy``: pixels without metadata.

        TIFF and HSPY can't store maps; the provenance lists the names of the omitted ones.
    format : str, optional
        ``"tif"``, ``"nc"``, ``"hspy"``, ``"zarr"`` or ``"npy"``, used instead of the suffix.
    overwrite : bool
        Replace an existing file.
    provenance : mapping of str to str or number, optional
        The processing step that made the image, such as ``{"stemkit": "0.1.0", "step": "enhance", "weights": "..."}``.
        :func:`~stemkit.read` returns it as JSON in ``attrs["stemkit"]``. The provenance that the image already has
        there is kept under ``"previous"``, and written unchanged if no new provenance is given.

    Returns
    -------
    Path
        Path of the file.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is False.
    FileNotFoundError
        If the folder does not exist.
    ValueError, TypeError
        If the format is not supported, or `image` is not an image.
    OSError
        If the disk is full, or the folder can't be written to.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> import numpy as np, stemkit
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> path = stemkit.write(np.eye(4, dtype=np.float32), folder / "eye.tif", provenance={"step": "example"})
    >>> json.loads(stemkit.read(path).attrs["stemkit"])["step"]
    'example'
    """
    path = Path(path)
    suffix = _suffix(path, format)
    is_folder = suffix in _FOLDERS
    check_place(path, overwrite, folder=is_folder)
    image = _validated(image, keep_lazy=is_folder)
    left_out = [] if suffix in _WITH_MAPS else maps_of(image)
    text = provenance_text(image, provenance, left_out)
    with (whole_folder if is_folder else whole_file)(path) as temporary:
        _SAVERS[suffix](image, temporary, text)
    return path


def _suffix(path: Path, format: str | None) -> str:
    name = (
        path.suffix.lower() if format is None else f".{_FORMAT_NAMES.get(format.lower(), format.lower().lstrip('.'))}"
    )
    if name in _PICTURE_SUFFIXES:
        raise ValueError(
            f"can't write {path}: {name} is a format of pictures, which do not contain the measured intensities. Write "
            f"a picture with stemkit.plotting.save_picture, or an image as one of {', '.join(WRITABLE)}"
        )
    if name not in _SAVERS:
        given = f"format={format!r}" if format is not None else f"the suffix {path.suffix!r}"
        raise ValueError(f"can't write {path}: {given} is not supported, use one of {', '.join(WRITABLE)}")
    return name


def _validated(image: xr.DataArray | NDArray, keep_lazy: bool) -> xr.DataArray:
    if is_lazy(image) and keep_lazy:
        lazy_images(image, name="image")
        return image
    if isinstance(image, list | tuple):
        raise TypeError("image must be an image or a stack, but is a list: write its images one by one")
    dims = ("image", "y", "x")[3 - np.ndim(image) :]
    if isinstance(image, xr.DataArray) and image.dims[:1] == ("frame",):
        parts = split(image.rename(frame="image"), name="image")
    else:
        parts = split(image, name="image")
    if not isinstance(image, xr.DataArray):
        image = xr.DataArray(image, dims=dims)
    values = parts[0].values if image.ndim == 2 else np.stack([part.values for part in parts])
    return image.copy(data=_storable(values))


def _storable(values: NDArray) -> NDArray:
    """The values; those in extended precision, which no format stores, as float64 with a warning."""
    if values.dtype.kind != "f" or values.dtype.itemsize <= 8:
        return values
    warnings.warn(f"files can't store {values.dtype}: the image is written as float64", UserWarning, stacklevel=4)
    return values.astype(np.float64)
