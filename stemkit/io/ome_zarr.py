"""Zarr folders (version 3) with the metadata of OME-NGFF 0.5: axes with units, scales, and coarser levels.

The metadata are described at https://ngff.openmicroscopy.org/0.5/.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray

from stemkit.images.pixel_size import pixel_sizes
from stemkit.io.attributes import PROVENANCE, attributes_of, unpack
from stemkit.io.calibration import seconds_per
from stemkit.io.units import nm_per

__all__ = ["create", "multiscale", "open_group", "save", "write_levels", "write_rows"]

#: Version of the metadata.
VERSION = "0.5"
#: Largest edge of a chunk, px (chosen: 4 MB in single precision).
CHUNK = 1024
#: Levels are made until both edges are at most this, px (chosen: that of a thumbnail).
COARSEST = 256
#: Group of the maps that belong to an image, such as ``recorded``.
MAPS = "maps"
#: Attribute with what stemkit adds to the metadata.
OWN = "stemkit"


def save(image: xr.DataArray, path: Path, provenance: str) -> None:
    """Write the image with its maps and attributes; a lazy stack is read image by image."""
    create(image, path, provenance)
    for i in range(len(image) if image.ndim == 3 else 1):
        # pixels and maps together: those of a lazy image have a computation in common
        one = (image[i] if image.ndim == 3 else image).compute()
        write_rows(path, i, slice(0, len(one)), one)
        write_levels(path, i)


def create(image: xr.DataArray, path: Path, provenance: str) -> None:
    """Make a folder for an image or a stack like this one, without pixels."""
    root = open_group(path, "w", zarr_format=3)
    root.attrs["ome"] = {"version": VERSION, "multiscales": [_multiscales(image)]}
    root.attrs[OWN] = {PROVENANCE: provenance, "attrs": attributes_of(image), "name": image.name and str(image.name)}
    names = [axis["name"] for axis in _axes(image)]
    for level in range(_n_levels(image.shape)):
        _array(root, str(level), _level_shape(image.shape, level), image.dtype, names)
    for name in _maps(image):
        _array(root, f"{MAPS}/{name}", image.shape, image.coords[name].dtype, names)


def write_rows(path: Path, index: int, rows: slice, image: xr.DataArray) -> None:
    """Write rows of one image of a stack, or of a single image, in full size, with its maps.

    Each image is stored by itself, so that several processes can write different ones.
    """
    root = open_group(path, "r+")
    for name, values in {"0": image.values, **{f"{MAPS}/{m}": image.coords[m].values for m in _maps(image)}}.items():
        root[name][_part(root[name], index, rows)] = values


def write_levels(path: Path, index: int) -> None:
    """Write the coarser levels of an image whose rows are complete, without the whole of it in memory."""
    root = open_group(path, "r+")
    levels = [root[str(level)] for level in range(_n_levels(root["0"].shape))]
    for finer, coarser in pairwise(levels):
        for start in range(0, finer.shape[-2], 2 * CHUNK):
            pixels = finer[_part(finer, index, slice(start, start + 2 * CHUNK))]
            coarser[_part(coarser, index, slice(start // 2, start // 2 + CHUNK))] = _halved(pixels)


def multiscale(attrs: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """The image that the metadata of a group describe; None without metadata that stemkit supports.

    Parameters
    ----------
    attrs : mapping
        Attributes of the group, of version 0.4 or 0.5.
    shapes : mapping
        Shapes of its arrays by their path in it.

    Returns
    -------
    dict
        ``path`` of the array of full size, ``levels`` (paths of all levels), ``maps`` (name and path of each map), and
        fields of :class:`~stemkit.io.file_dataset.FileDataset`.
    """
    ome = attrs.get("ome") if isinstance(attrs.get("ome"), dict) else attrs
    try:
        described = ome["multiscales"][0]  # type: ignore[index]
        axes, levels = described["axes"], [level["path"] for level in described["datasets"]]
        shape = shapes[levels[0]]
        if len(axes) != len(shape) or [a["name"] for a in axes[-2:]] != ["y", "x"] or len(shape) not in (2, 3):
            return None
        scale, origin = _transformed(described, len(axes))
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    own = attrs.get(OWN) if isinstance(attrs.get(OWN), dict) else {}
    maps = {p.removeprefix(f"{MAPS}/"): p for p, s in shapes.items() if p.startswith(f"{MAPS}/") and s == shape}
    return {
        "path": levels[0],
        "levels": levels,
        "maps": maps if own else {},
        "coords": _coordinates(axes, shape, scale, origin),
        "attrs": _attributes(own or {}),
        "array_name": (own or {}).get("name"),
        **_series(axes[0], shape, scale[0], origin[0]),
    }


# --- writing -----------------------------------------------------------------------------------------------------


def _multiscales(image: xr.DataArray) -> dict[str, Any]:
    axes, scale, origin = _axes(image), _scale(image), _origin(image)
    datasets = []
    for level in range(_n_levels(image.shape)):
        factor = [1.0] * (image.ndim - 2) + [2.0**level] * 2
        # the centre of the first pixel of a level is that of the pixels it is the mean of
        first = [o + (f - 1) / 2 * s for o, f, s in zip(origin, factor, scale, strict=True)]
        transformations: list[dict[str, Any]] = [
            {"type": "scale", "scale": [f * s for f, s in zip(factor, scale, strict=True)]},
            {"type": "translation", "translation": first},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    name = str(image.attrs.get("title") or image.name or "image")
    return {"name": name, "axes": axes, "datasets": datasets, "type": "mean"}


def _axes(image: xr.DataArray) -> list[dict[str, str]]:
    unit = {} if pixel_sizes(image) is None else {"unit": "nanometer"}
    axes = [{"name": d, "type": "space", **unit} for d in ("y", "x")]
    if image.ndim == 2:
        return axes
    if image.dims[0] == "frame":
        return [{"name": "t", "type": "time"} | ({"unit": "second"} if _is_even(image) else {}), *axes]
    return [{"name": "image"}, *axes]


def _scale(image: xr.DataArray) -> list[float]:
    sizes = [float(s) for s in pixel_sizes(image) or (1.0, 1.0)]
    if image.ndim == 2:
        return sizes
    return [float(np.diff(image.coords["time"].values[:2])[0]) if _is_even(image) else 1.0, *sizes]


def _origin(image: xr.DataArray) -> list[float]:
    first = [float(image.coords[d].values[0]) if d in image.coords else 0.0 for d in ("y", "x")]
    if image.ndim == 2:
        return first
    return [float(image.coords["time"].values[0]) if _is_even(image) else 0.0, *first]


def _is_even(image: xr.DataArray) -> bool:
    """Whether frames have times that are evenly spaced."""
    if "time" not in image.coords or image.sizes.get("frame", 0) < 2:
        return False
    steps = np.diff(np.asarray(image.coords["time"].values, dtype=np.float64))
    return bool(steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-6, atol=0))


def _maps(image: xr.DataArray) -> list[str]:
    return [str(c) for c in image.coords if image.coords[c].dims == image.dims]


def _array(root: Any, name: str, shape: tuple[int, ...], dtype: DTypeLike, names: list[str]) -> None:
    chunks = (1,) * (len(shape) - 2) + tuple(min(n, CHUNK) for n in shape[-2:])
    root.create_array(name, shape=shape, dtype=dtype, chunks=chunks, dimension_names=names)


def _part(array: Any, index: int, rows: slice) -> tuple[int | slice, ...]:
    """Index of rows of one image in an array of a stack, or of a single image."""
    return (index, rows) if array.ndim == 3 else (rows,)


def _n_levels(shape: tuple[int, ...]) -> int:
    return 1 + max(0, math.ceil(math.log2(max(shape[-2:]) / COARSEST)))


def _level_shape(shape: tuple[int, ...], level: int) -> tuple[int, ...]:
    for _ in range(level):
        shape = (*shape[:-2], *(-(-n // 2) for n in shape[-2:]))
    return shape


def _halved(pixels: NDArray) -> NDArray:
    """Means over squares of 2 x 2 px in the same data type; an odd edge is continued by its last pixel."""
    edges = [(0, 0)] * (pixels.ndim - 2) + [(0, n % 2) for n in pixels.shape[-2:]]
    even: Any = np.pad(pixels, edges, mode="edge").astype(np.float64 if pixels.dtype == np.float64 else np.float32)
    mean = (even[..., ::2, ::2] + even[..., 1::2, ::2] + even[..., ::2, 1::2] + even[..., 1::2, 1::2]) / 4
    return (np.rint(mean) if pixels.dtype.kind in "iu" else mean).astype(pixels.dtype)


def open_group(path: Path, mode: Literal["r", "r+", "w"], **options: Any) -> Any:
    """The Zarr group in a folder, with the mode and the options of ``zarr.open_group``."""
    try:
        import zarr
    except ImportError:
        raise ImportError("Zarr folders need zarr: install it with pip install 'stemkit[zarr]'") from None
    return zarr.open_group(path, mode=mode, **options)


# --- reading -----------------------------------------------------------------------------------------------------


def _transformed(described: dict[str, Any], ndim: int) -> tuple[list[float], list[float]]:
    """Scale and origin along each axis of the full size, all transformations of it together."""
    scale, origin = [1.0] * ndim, [0.0] * ndim
    first = described["datasets"][0].get("coordinateTransformations", [])
    for step in [*first, *described.get("coordinateTransformations", [])]:
        if step["type"] == "scale":
            scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
            origin = [a * float(b) for a, b in zip(origin, step["scale"], strict=True)]
        elif step["type"] == "translation":
            origin = [a + float(b) for a, b in zip(origin, step["translation"], strict=True)]
    if not all(math.isfinite(v) for v in (*scale, *origin)):
        raise ValueError("scales must be finite")
    return scale, origin


def _coordinates(
    axes: list[dict[str, Any]], shape: tuple[int, ...], scale: list[float], origin: list[float]
) -> dict[str, xr.Variable]:
    """Pixel centres in nm; none unless both axes have a unit of length."""
    factors = [nm_per(axis.get("unit")) for axis in axes[-2:]]
    if None in factors or min(scale[-2:]) <= 0:
        return {}
    pairs = zip(("y", "x"), shape[-2:], scale[-2:], origin[-2:], factors, strict=True)
    return {d: xr.Variable(d, (o + np.arange(n) * s) * (f or 1.0), {"units": "nm"}) for d, n, s, o, f in pairs}


def _series(axis: dict[str, Any], shape: tuple[int, ...], scale: float, origin: float) -> dict[str, Any]:
    if len(shape) == 2 or axis.get("type") != "time":
        return {}
    seconds = seconds_per(axis.get("unit"))
    return {"series": True, "times": None if seconds is None else (origin + np.arange(shape[0]) * scale) * seconds}


def _attributes(own: Mapping[str, Any]) -> dict[str, Any]:
    attrs = own.get("attrs")
    found = dict(attrs) if isinstance(attrs, dict) else {}
    if unpack(own.get(PROVENANCE)) is not None:
        found[PROVENANCE] = own[PROVENANCE]
    return found
