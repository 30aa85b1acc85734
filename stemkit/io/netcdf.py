"""NetCDF (HDF5): the only format that stores maps and exact coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stemkit.io.attributes import PROVENANCE, attributes_of, pack, plain, unpack
from stemkit.io.recorded import Recorded, recorded
from stemkit.io.units import nm_per

__all__ = ["load", "save"]

#: Attribute of the file with the provenance.
_PROVENANCE = "stemkit_provenance"
#: Attribute of the file with the attributes that NetCDF has no type for, as JSON.
_JSON_ATTRS = "stemkit_attrs"
#: Name that xarray gives to the variable of an array without a name.
_UNNAMED = "__xarray_dataarray_variable__"
#: Attribute in which xarray stores the name of an array if a coordinate has the same name.
_NAME = "__xarray_dataarray_name__"


def load(path: Path) -> list[Recorded]:
    """Load the datasets of a file, one per variable."""
    with path.open("rb") as file:
        engine = "scipy" if file.read(3) == b"CDF" else "h5netcdf"
    with xr.open_dataset(path, engine=engine, decode_times=False) as dataset:
        return [_dataset(dataset[name].load(), dataset.attrs.get(_NAME)) for name in dataset.data_vars]


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
    image.to_netcdf(path, engine="h5netcdf")


def _is_native(key: str, value: object) -> bool:
    if not key.isidentifier() or isinstance(value, bool):
        return False
    return (
        isinstance(value, float)
        or (isinstance(value, int) and abs(value) < 2**63)
        or (isinstance(value, str) and value != "" and "\0" not in value)
    )


def _dataset(array: xr.DataArray, stored_name: str | None) -> Recorded:
    array = _with_image_dims(array)
    sizes, coords = _coordinates(array)
    name = "" if array.name == _UNNAMED else str(array.name)
    return recorded(
        array.values,
        name=name,
        array_name=stored_name or name or None,
        pixel_sizes=sizes,
        coords=coords,
        attrs=_attributes(array),
    )


def _with_image_dims(array: xr.DataArray) -> xr.DataArray:
    """The array with the dims of an image or a stack, y and x last."""
    if {"y", "x"} <= set(array.dims):
        array = array.transpose(..., "y", "x")
    names = ("image", "y", "x")[3 - array.ndim :] if array.ndim in (2, 3) else array.dims
    return array.rename({old: new for old, new in zip(array.dims, names, strict=True) if old != new})


def _coordinates(array: xr.DataArray) -> tuple[tuple[float, float] | None, dict[str, Any]]:
    """Pixel sizes in nm if y and x are in another unit, and the coordinates that are kept unchanged."""
    coords = {str(name): variable.variable for name, variable in array.coords.items() if name not in ("y", "x")}
    axes = [array.coords[d] for d in ("y", "x") if d in array.coords]
    if len(axes) != 2:
        return None, coords
    if all(axis.attrs.get("units") == "nm" for axis in axes):
        return None, {**coords, **{str(axis.name): axis.variable for axis in axes}}
    y, x = (_pixel_size(axis) for axis in axes)
    return (None if y is None or x is None else (y, x)), coords


def _pixel_size(axis: xr.DataArray) -> float | None:
    """Mean spacing of a coordinate in nm, None without a unit of length."""
    factor = nm_per(axis.attrs.get("units"))
    if factor is None or axis.size < 2:
        return None
    return factor * float(np.diff(axis.values.astype(float)).mean())


def _attributes(array: xr.DataArray) -> dict[str, Any]:
    attrs = {str(key): plain(value) for key, value in array.attrs.items()}
    provenance, others = attrs.pop(_PROVENANCE, None), unpack(attrs.pop(_JSON_ATTRS, None))
    attrs.update(others or {})
    if provenance is not None:
        attrs[PROVENANCE] = provenance
    return attrs
