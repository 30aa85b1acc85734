"""Images to files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.atomic import check_place, whole_file
from stemkit.images import split
from stemkit.io import hyperspy_files, netcdf, numpy_files, tiff
from stemkit.io.attributes import maps_of, provenance_text

__all__ = ["WRITABLE", "write"]

Saver: TypeAlias = Callable[[xr.DataArray, Path, str], None]

_SAVERS: dict[str, Saver] = {
    ".tif": tiff.save,
    ".tiff": tiff.save,
    ".nc": netcdf.save,
    ".hspy": hyperspy_files.save,
    ".npy": numpy_files.save,
}
_NAMES = {"netcdf": "nc", "hyperspy": "hspy", "numpy": "npy"}
_PICTURES = (".png", ".jpg", ".jpeg")

#: Suffixes that :func:`write` knows.
WRITABLE = tuple(_SAVERS)


def write(
    image: xr.DataArray | NDArray,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    overwrite: bool = False,
    provenance: Mapping[str, str | float] | None = None,
) -> Path:
    """Write an image or a stack, whole or not at all.

    The file is written under a temporary name in the same folder and then renamed, so that neither a crash nor a
    full disk leaves half a file behind or damages the one that was there.

    Parameters
    ----------
    image : DataArray or ndarray
        One image ``(n_y, n_x)`` or a stack ``(n_images, n_y, n_x)``.
    path : path-like
        Where to. The suffix says the format:

        - ``.tif``, ``.tiff``: pixels and pixel size as ImageJ writes them, attributes and provenance in its
          description. Any dtype is kept; ImageJ itself opens uint8, uint16 and float32, but not float64.
        - ``.nc``: NetCDF, with everything that the image carries: maps such as ``measured``, exact coordinates.
        - ``.hspy``: HyperSpy's format; needs ``pip install 'stemkit[formats]'``.
        - ``.npy``: bare pixels.

        TIFF and HSPY have no room for maps beside the pixels; their provenance names those left out.
    format : str, optional
        ``"tif"``, ``"nc"``, ``"hspy"`` or ``"npy"``, where the suffix says something else or nothing.
    overwrite : bool
        Replace an existing file.
    provenance : mapping of str to str or number, optional
        What made the image, such as ``{"stemkit": "0.1.0", "step": "enhance", "weights": "..."}``. Read back, it is
        JSON in ``attrs["stemkit"]``. What the image says there already is kept under ``"previous"``, and is written
        as it is where no new provenance is given.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    FileExistsError
        If there is a file and `overwrite` is False.
    FileNotFoundError
        If there is no such folder.
    ValueError, TypeError
        If the format is not known, or `image` is not an image.

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
    save = _saver(path, format)
    check_place(path, overwrite)
    image = _validated(image)
    left_out = [] if save is netcdf.save else maps_of(image)
    text = provenance_text(image, provenance, left_out)
    with whole_file(path) as temporary:
        save(image, temporary, text)
    return path


def _saver(path: Path, format: str | None) -> Saver:
    name = path.suffix.lower() if format is None else f".{_NAMES.get(format.lower(), format.lower().lstrip('.'))}"
    if name in _PICTURES:
        raise ValueError(
            f"can't write {path}: {name} is a picture, made by stemkit.plotting.save_picture, and holds no measured "
            f"intensities. Images are written as {', '.join(WRITABLE)}"
        )
    if name not in _SAVERS:
        what = f"format={format!r}" if format is not None else f"the suffix {path.suffix!r}"
        raise ValueError(f"can't write {path}: {what} is not known, use one of {', '.join(WRITABLE)}")
    return _SAVERS[name]


def _validated(image: xr.DataArray | NDArray) -> xr.DataArray:
    if isinstance(image, list | tuple):
        raise TypeError("image must be one image or a stack, but is a list: write its images one by one")
    parts = split(image, name="image")
    if not isinstance(image, xr.DataArray):
        image = xr.DataArray(image, dims=("image", "y", "x")[3 - np.ndim(image) :])
    return image.copy(data=parts[0].values if image.ndim == 2 else np.stack([part.values for part in parts]))
