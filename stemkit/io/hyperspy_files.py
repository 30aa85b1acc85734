"""HSPY files, the format of HyperSpy, written by RosettaSciIO."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stemkit.images import pixel_sizes
from stemkit.io.attributes import attributes_of, pack
from stemkit.io.microscopes import plugin

__all__ = ["save"]


def save(image: xr.DataArray, path: Path, provenance: str) -> None:
    """Write pixels, pixel size, attributes and provenance; maps such as ``measured`` are omitted."""
    writer = plugin("hspy")
    signal = {
        "data": np.ascontiguousarray(image.values),
        "axes": _axes(image),
        "metadata": _metadata(image, provenance),
        "original_metadata": {},
        "learning_results": {},
        "attributes": {"_lazy": False, "ragged": False},
        "models": {},
        "package_info": {"package": "stemkit", "package_version": ""},
        "tmp_parameters": {},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        writer.file_writer(str(path), signal, show_progressbar=False)


def _axes(image: xr.DataArray) -> list[dict[str, Any]]:
    sizes = pixel_sizes(image)
    scales = dict(zip(("y", "x"), sizes or (1.0, 1.0), strict=True))
    units = None if sizes is None else "nm"
    return [
        {
            "_type": "UniformDataAxis",
            "name": str(dim),
            "units": units if dim in scales else None,
            "navigate": dim not in scales,
            "is_binned": False,
            "size": image.sizes[dim],
            "scale": float(scales.get(str(dim), 1.0)),
            "offset": 0.0,
        }
        for dim in image.dims
    ]


def _metadata(image: xr.DataArray, provenance: str) -> dict[str, Any]:
    """HyperSpy's entries for the quantities it defines, and all attributes as JSON.

    The JSON is an element of a list because HDF5 limits an attribute to 64 KiB, and a list becomes a dataset.
    """
    attrs = attributes_of(image)
    energy, dwell = attrs.get("voltage"), attrs.get("dwell_time")
    instrument = {"beam_energy": energy, "dwell_time": dwell}
    return {
        "General": {"title": str(attrs.get("title", ""))},
        "Signal": {"signal_type": ""},
        "Acquisition_instrument": {"TEM": {k: v for k, v in instrument.items() if isinstance(v, int | float)}},
        "stemkit": {"provenance": [provenance], "attrs": [pack(attrs)]},
    }
