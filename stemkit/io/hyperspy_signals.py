"""Images from signals of HyperSpy, and signals from images."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from stemkit.images.pixel_size import pixel_sizes, with_pixel_sizes
from stemkit.io.attributes import attributes_of, mode_of
from stemkit.io.units import nm_per

__all__ = ["from_hyperspy", "to_hyperspy"]

#: Entries of HyperSpy's metadata by the attributes of an image that have the same unit.
_QUANTITIES = {"voltage": "beam_energy", "dwell_time": "dwell_time"}


def from_hyperspy(signal: Any) -> xr.DataArray:
    """Convert a HyperSpy signal of an image, or of a stack of images, with its pixel size.

    Parameters
    ----------
    signal : hyperspy Signal2D
        Two signal dimensions, and at most one navigation dimension. A lazy signal is computed.

    Returns
    -------
    DataArray
        Dims ``("y", "x")`` or ``("image", "y", "x")``, ``("frame", "y", "x")`` if the navigation axis is named
        ``frame``, as that of a series; the coordinates are pixel centres in nm, the first one at 0.
        Without a length as the unit of both axes there are none, and a warning is given unless the axes are
        uncalibrated. ``attrs`` contains ``title``, ``detector``, ``mode``, ``voltage`` (kV) and ``dwell_time`` (s), as
        far as the signal has them, and what :func:`to_hyperspy` has stored.

    Raises
    ------
    TypeError
        If it is not a HyperSpy signal.
    ValueError
        If it is not an image or a stack of images.

    Examples
    --------
    >>> import hyperspy.api as hs  # doctest: +SKIP
    >>> from stemkit.io import from_hyperspy
    >>> image = from_hyperspy(hs.load("image.dm4"))  # doctest: +SKIP
    """
    if not hasattr(signal, "axes_manager"):
        raise TypeError(
            f"signal must be a HyperSpy signal, but is {type(signal).__name__}: stemkit takes arrays and DataArrays "
            "as they are"
        )
    axes = signal.axes_manager
    if axes.signal_dimension != 2 or axes.navigation_dimension > 1:
        raise ValueError(
            f"signal must have two signal dimensions and at most one navigation dimension, but has "
            f"{axes.signal_dimension} and {axes.navigation_dimension}: select images with signal.inav, or set the "
            "dimensions with signal.as_signal2D"
        )
    metadata = signal.metadata.as_dictionary()
    values = np.asarray(signal.data)
    stack = "frame" if _is_series(axes) else "image"
    image = xr.DataArray(values, dims=(stack, "y", "x")[3 - values.ndim :], attrs=_attributes(metadata))
    x, y = axes.signal_axes
    sizes = [abs(float(axis.scale)) * (nm_per(_unit(axis)) or np.nan) for axis in (y, x)]
    if np.isfinite(sizes).all() and min(sizes) > 0:
        return with_pixel_sizes(image, *sizes)
    if any(_unit(axis) or float(axis.scale) != 1.0 for axis in (y, x)):
        warnings.warn(
            f"the signal has a scale of {y.scale:g} (y) and {x.scale:g} (x) with the units {_unit(y)!r} and "
            f"{_unit(x)!r}, which are not lengths, and its pixel size is left out: set it with "
            "stemkit.calibrated(image, pixel_size=...) in nm",
            UserWarning,
            stacklevel=2,
        )
    return image


def to_hyperspy(image: xr.DataArray) -> Any:
    """Convert an image or a stack to a HyperSpy signal with its pixel size; needs ``pip install hyperspy``.

    Parameters
    ----------
    image : DataArray of shape (n_y, n_x) or (n_images, n_y, n_x)

    Returns
    -------
    hyperspy Signal2D
        With axes in nm if the image is calibrated; voltage, dwell time and title are in the entries of HyperSpy's
        metadata, all attributes in ``metadata.stemkit.attrs``, as JSON. Maps such as recorded pixels are left out.

    Raises
    ------
    ImportError
        If HyperSpy is not installed.

    Examples
    --------
    >>> from stemkit.io import to_hyperspy
    >>> signal = to_hyperspy(image)  # doctest: +SKIP
    """
    try:
        hyperspy = importlib.import_module("hyperspy.api")
    except ImportError as error:
        raise ImportError("to_hyperspy needs HyperSpy: install it with pip install hyperspy") from error
    attrs = attributes_of(image)
    metadata: dict[str, Any] = {
        "General": {"title": str(attrs.get("title", ""))},
        "stemkit": {"attrs": json.dumps(attrs)},
    }
    known = {entry: attrs[name] for name, entry in _QUANTITIES.items() if isinstance(attrs.get(name), int | float)}
    if known:
        metadata["Acquisition_instrument"] = {"TEM": known}
    return hyperspy.signals.Signal2D(image.values, axes=_axes(image), metadata=metadata)


def _axes(image: xr.DataArray) -> list[dict[str, Any]]:
    sizes = dict(zip(("y", "x"), pixel_sizes(image) or (), strict=False))
    return [
        {
            "name": str(dim),
            "size": image.sizes[dim],
            "navigate": dim not in ("y", "x"),
            **({"scale": sizes[dim], "units": "nm"} if dim in sizes else {}),
        }
        for dim in image.dims
    ]


def _is_series(axes: Any) -> bool:
    """Whether the images of a stack are the frames of a series, by the name of the navigation axis."""
    return [axis.name for axis in getattr(axes, "navigation_axes", ())] == ["frame"]


def _attributes(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of an image from the metadata of a signal."""
    title = str(_entry(metadata, "General", "title") or "").strip()
    detector = _entry(metadata, "Signal", "detector") or title
    mode = mode_of(str(detector))
    found: dict[str, Any] = {"title": title} if title else {}
    found |= {"detector": str(detector), "mode": mode} if mode else {}
    for name, entry in _QUANTITIES.items():
        value = _entry(metadata, "Acquisition_instrument", "TEM", entry)
        if isinstance(value, int | float) and value > 0:
            found[name] = float(value)
    stored = _entry(metadata, "stemkit", "attrs")
    try:
        own = json.loads(stored[0] if isinstance(stored, list) else stored)
    except (TypeError, ValueError, IndexError):
        own = None
    return found | (own if isinstance(own, dict) else {})


def _entry(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _unit(axis: Any) -> str:
    """Unit of an axis, empty if it has none."""
    unit = getattr(axis, "units", None)
    return unit if isinstance(unit, str) and unit != "<undefined>" else ""
