"""NetCDF: the only format that stores maps and exact coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stemkit.images.pixel_size import mean_spacing
from stemkit.io import hdf5
from stemkit.io.attributes import PROVENANCE, attributes_of, pack, plain, unpack
from stemkit.io.calibration import pixel_sizes_of, seconds_per
from stemkit.io.checks import check_declared
from stemkit.io.file_dataset import FileDataset, make_dataset, placeholder
from stemkit.io.units import nm_per

__all__ = ["load", "save"]

#: Attribute of the file with the provenance.
_PROVENANCE = "stemkit_provenance"
#: Attribute of the file with the attributes that NetCDF has no type for, or reserves, as JSON.
_JSON_ATTRS = "stemkit_attrs"
#: Name that xarray gives to the variable of an array without a name.
_UNNAMED = "__xarray_dataarray_variable__"
#: Attribute in which xarray stores the name of an array if a coordinate has the same name.
_NAME = "__xarray_dataarray_name__"
#: Attributes with a meaning for the values in NetCDF's conventions (CF 1.11, appendix A) or for xarray.
_RESERVED = frozenset(
    (
        "scale_factor",
        "add_offset",
        "missing_value",
        "valid_min",
        "valid_max",
        "valid_range",
        "dtype",
        "units",
        "calendar",
        "coordinates",
        "bounds",
        "grid_mapping",
        "cell_measures",
        "cell_methods",
        "ancillary_variables",
        "flag_values",
        "flag_masks",
        "flag_meanings",
    )
)
#: Names of a dimension that counts the frames of one scan.
_FRAME_NAMES = ("frame", "frames", "time", "t")


def load(path: Path) -> list[FileDataset]:
    """Load the datasets of a file, one per variable."""
    with path.open("rb") as file:
        engine = "scipy" if file.read(3) == b"CDF" else "h5netcdf"
    if engine == "h5netcdf":
        hdf5.check_all(path)
    with xr.open_dataset(path, engine=engine, decode_times=False, cache=False) as dataset:
        if engine == "scipy":
            _check_size(dataset, path)
        return [_dataset(dataset[name], dataset.attrs.get(_NAME)) for name in dataset.data_vars]


def save(image: xr.DataArray, path: Path, provenance: str) -> None:
    """Write the image with its coordinates, maps and attributes."""
    image = image.drop_encoding()
    for name in image.coords:
        image.coords[name].encoding["_FillValue"] = None
    attrs = attributes_of(image)
    native = {key: value for key, value in attrs.items() if _is_native(key, value)}
    others = {key: value for key, value in attrs.items() if key not in native}
    image.attrs = {**native, **({_JSON_ATTRS: pack(others)} if others else {}), _PROVENANCE: provenance}
    image.encoding["_FillValue"] = None
    # in memory, since the HDF5 library crashes if the disk becomes full
    path.write_bytes(image.to_netcdf(None, engine="h5netcdf"))


def _is_native(key: str, value: object) -> bool:
    if not key.isidentifier() or key.startswith("_") or key in _RESERVED or isinstance(value, bool):
        return False
    return (
        isinstance(value, float)
        or (isinstance(value, int) and abs(value) < 2**63)
        or (isinstance(value, str) and value != "" and "\0" not in value)
    )


def _check_size(dataset: xr.Dataset, path: Path) -> None:
    """Raise an error if a file of the classic format declares more values than it has bytes."""
    declared = sum(math.prod(v.shape) for v in dataset.variables.values())
    check_declared(declared, path.stat().st_size)


def _dataset(array: xr.DataArray, stored_name: str | None) -> FileDataset:
    name = "" if array.name == _UNNAMED else str(array.name)
    if {"y", "x"} <= set(array.dims):
        array = array.transpose(..., "y", "x")
    if array.ndim not in (2, 3):
        return make_dataset(placeholder(array.shape, array.dtype), name=name)
    first = array.dims[0] if array.ndim == 3 else None
    seconds = seconds_per(array.coords[first].attrs.get("units")) if first in array.coords else None
    series = first is not None and (seconds is not None or str(first).casefold() in _FRAME_NAMES)
    names = ("frame" if series else "image", "y", "x")[3 - array.ndim :]
    sizes, coords, note = _coordinates(array, dict(zip(array.dims, names, strict=True)))
    times = coords.pop("time", None) if series else None
    return make_dataset(
        array.values,
        name=name,
        array_name=stored_name or name or None,
        pixel_sizes=sizes,
        coords=coords,
        attrs=_attributes(array),
        note=note,
        series=series,
        times=None if times is None else times.values,
    )


def _coordinates(
    array: xr.DataArray, names: Mapping[Any, str]
) -> tuple[tuple[float, float] | None, dict[str, xr.Variable], str]:
    """Pixel sizes if y and x have no coordinates in a unit of length, the coordinates, and the text of a warning."""
    coords: dict[str, xr.Variable] = {}
    for name, found in array.coords.items():
        variable = found.variable.load()
        dims = tuple(names[dim] for dim in variable.dims)
        if dims == ("frame",) and (seconds := seconds_per(variable.attrs.get("units"))) is not None:
            values = np.asarray(variable.values, dtype=np.float64) * seconds
            coords["time"] = xr.Variable(dims, values, {"units": "s"})
        elif dims != (names.get(name),) or dims[0] not in ("y", "x"):
            kept = str(name) if name not in names or names[name] == name else names[name]
            coords[kept] = xr.Variable(dims, variable.values, variable.attrs)
    axes = {names[d]: array.coords[d] for d in array.dims[-2:] if d in array.coords}
    sizes, lengths, note = _axes(axes)
    return sizes, {**coords, **lengths}, note


def _axes(axes: Mapping[str, xr.DataArray]) -> tuple[tuple[float, float] | None, dict[str, xr.Variable], str]:
    """Coordinates y and x in nm, with their origin, direction and unevenness."""
    if not axes:
        return None, {}, ""
    if len(axes) == 1:
        axis = next(iter(axes))
        return None, {}, f"only {axis} has a coordinate: the image is read without a pixel size, pass pixel_size= in nm"
    factors = {name: nm_per(axis.attrs.get("units")) for name, axis in axes.items()}
    if None not in factors.values():
        return None, {name: _in_nm(axis, name, factors[name] or 1.0) for name, axis in axes.items()}, ""
    ordered = [axes["y"], axes["x"]]
    sizes, note = pixel_sizes_of([mean_spacing(a) for a in ordered], [a.attrs.get("units") for a in ordered])
    if sizes is None and not note and min(a.size for a in ordered) > 1:
        note = "its coordinates have no unit: the image is read without a pixel size, pass pixel_size= in nm"
    return sizes, {}, note


def _in_nm(axis: xr.DataArray, name: str, factor: float) -> xr.Variable:
    values = axis.values if factor == 1.0 else np.asarray(axis.values, dtype=np.float64) * factor
    return xr.Variable(name, values, {**axis.attrs, "units": "nm"})


def _attributes(array: xr.DataArray) -> dict[str, Any]:
    attrs = {str(key): plain(value) for key, value in array.attrs.items()}
    provenance, others = attrs.pop(_PROVENANCE, None), unpack(attrs.pop(_JSON_ATTRS, None))
    attrs.update(others if isinstance(others, dict) else {})
    if provenance is not None:
        attrs[PROVENANCE] = provenance
    return attrs
