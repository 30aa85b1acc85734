"""Series of files: the images of a folder in natural order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from stemkit.images.pixel_size import pixel_sizes, same_pixel_sizes
from stemkit.io.zarr_files import SUFFIXES as ZARR

__all__ = ["image_files", "is_zarr", "natural_key", "stacked_frames"]


def natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Key by which names are sorted as a person would: ``frame_2`` before ``frame_10``."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def image_files(folder: Path, suffixes: Sequence[str], recursive: bool = False) -> list[Path]:
    """The files of a folder with one of these suffixes in natural order, then those of its sub-folders.

    Folders in the Zarr format count as files. Hidden files and folders are omitted, and links to folders are not
    followed.

    Raises
    ------
    ValueError
        If there is none.
    OSError
        If a folder can't be read.
    """
    found = list(_image_files(folder, suffixes, recursive))
    if not found:
        raise ValueError(
            f"can't read {folder}: the folder contains no image file that stemkit can read ({', '.join(suffixes)}): "
            "give another folder, or the path of a file"
        )
    return found


def _image_files(folder: Path, suffixes: Sequence[str], recursive: bool) -> Iterator[Path]:
    try:
        names = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=natural_key)
    except OSError as error:
        raise type(error)(error.errno, f"can't read {folder}: {error.strerror}") from error
    yield from (p for p in names if p.suffix.lower() in suffixes and (p.is_file() or is_zarr(p)))
    if recursive:
        for inner in names:
            if inner.is_dir() and not inner.is_symlink() and not is_zarr(inner):
                yield from _image_files(inner, suffixes, recursive)


def is_zarr(path: Path) -> bool:
    """Whether a path is a folder that is read as one file."""
    return path.suffix.lower() in ZARR and path.is_dir()


def stacked_frames(images: Sequence[xr.DataArray], names: Sequence[str], dim: str) -> xr.DataArray:
    """Images of one shape, data type and pixel size as a stack with the attributes of the first.

    Scan angles that differ become the coordinate ``scan_angle``, degrees.

    Raises
    ------
    ValueError
        If they differ, or one is a stack: the message names the file.
    """
    first = images[0]
    for image, name in zip(images, names, strict=True):
        if image.ndim != 2:
            raise ValueError(f"{name} must be one image, but has dims {image.dims}: read it on its own")
        if image.shape != first.shape:
            raise ValueError(
                f"the images must have one size, but {names[0]} has {_size(first)} px and {name} has {_size(image)} px"
                ": leave the others out, or crop them to one size"
            )
        sizes, others = pixel_sizes(first), pixel_sizes(image)
        if not same_pixel_sizes(sizes, others):
            raise ValueError(
                f"the images must have one pixel size, but {names[0]} has {_nm(sizes)} and {name} has {_nm(others)}: "
                "pass pixel_size="
            )
    values = xr.Variable.concat([image.variable for image in images], dim).data  # lazy images stay lazy
    coords = {d: first.coords[d] for d in ("y", "x") if d in first.coords}
    attrs = {**first.attrs, "source": f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]}
    angles = [image.attrs.get("scan_angle") for image in images]
    if len(set(angles)) > 1:
        attrs.pop("scan_angle", None)  # that of the first image is not that of the stack
        if None not in angles:
            coords["scan_angle"] = xr.Variable(dim, np.asarray(angles, dtype=np.float64), {"units": "degrees"})
    return xr.DataArray(values, coords, (dim, "y", "x"), attrs=attrs).rename(None)


def _size(image: xr.DataArray) -> str:
    return " x ".join(map(str, image.shape))


def _nm(sizes: tuple[float, float] | None) -> str:
    return "none" if sizes is None else f"{sizes[0]:.6g} by {sizes[1]:.6g} nm"
