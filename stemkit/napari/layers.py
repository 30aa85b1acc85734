"""Images of stemkit as layers of napari, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from stemkit.detection.exports import to_napari
from stemkit.images.pixel_size import pixel_sizes

if TYPE_CHECKING:
    from napari.layers import Image
    from numpy.typing import NDArray

__all__ = ["IMAGE_KEY", "as_image", "columns_layer", "image_layer"]

#: Key of a layer's metadata with the image of stemkit.
IMAGE_KEY = "stemkit"
#: Pixels of nm in other units of length that layers have.
NANOMETERS = {"nm": 1.0, "nanometer": 1.0, "um": 1e3, "micrometer": 1e3, "pm": 1e-3, "picometer": 1e-3, "angstrom": 0.1}

Layer = tuple[Any, dict[str, Any], str]


def image_layer(image: xr.DataArray, name: str) -> Layer:
    """A layer with the pixels of an image or a stack, placed in nm if the image is calibrated.

    The image itself, with its noise and its recorded pixels, is in the layer's ``metadata["stemkit"]``.
    """
    keywords: dict[str, Any] = {"name": name, "metadata": {IMAGE_KEY: image}, "colormap": "gray"}
    keywords |= _placement(image)
    low, high = np.nanquantile(image.values, [0.001, 0.999])
    if high > low:
        keywords["contrast_limits"] = (float(low), float(high))
    return image.values, keywords, "image"


def columns_layer(table: pd.DataFrame, image: xr.DataArray, name: str) -> Layer:
    """A layer of points with the columns of an image; the table is in its ``features``."""
    data, keywords, kind = to_napari(table, image=image, name=name)
    keywords |= {key: value for key, value in _placement(image).items() if key in ("units", "axis_labels")}
    return data, keywords | {"metadata": {IMAGE_KEY: image}}, kind


def as_image(layer: Image) -> xr.DataArray:
    """The image of a layer: that which stemkit put there, or one made from its pixels, scale and units.

    Raises
    ------
    ValueError
        If the layer is a picture in colours, or has not two or three dimensions.
    """
    kept = layer.metadata.get(IMAGE_KEY)
    values = np.asarray(layer.data)
    if isinstance(kept, xr.DataArray) and kept.shape == values.shape and np.array_equal(kept.values, values):
        return kept
    if layer.rgb or values.ndim not in (2, 3):
        raise ValueError(
            f"the layer must be an image or a stack in grey levels, but {layer.name} has shape {values.shape}"
        )
    return _from_pixels(values, layer)


def _from_pixels(values: NDArray, layer: Image) -> xr.DataArray:
    dims = ("y", "x") if values.ndim == 2 else ("image", "y", "x")
    image = xr.DataArray(values.astype(np.float64), dims=dims, attrs={"source": layer.name})
    factors = [NANOMETERS.get(str(unit)) for unit in layer.units[-2:]]
    if None in factors:  # pixels
        return image
    sizes = [float(scale) * factor for scale, factor in zip(layer.scale[-2:], factors, strict=True) if factor]
    axes = {
        dim: (dim, np.arange(n) * size, {"units": "nm"})
        for dim, n, size in zip(("y", "x"), values.shape[-2:], sizes, strict=True)
    }
    return image.assign_coords(axes)


def _placement(image: xr.DataArray) -> dict[str, Any]:
    """Scale, translation and units of a layer."""
    labels: dict[str, Any] = {"axis_labels": tuple(map(str, image.dims))}
    sizes = pixel_sizes(image)
    if sizes is None:
        return labels
    stacked = image.ndim == 3
    origin = [float(image.coords[d][0]) for d in ("y", "x")]
    return labels | {
        "scale": (1.0,) * stacked + sizes,
        "translate": (0.0,) * stacked + tuple(origin),
        "units": ("pixel",) * stacked + ("nm", "nm"),
    }
